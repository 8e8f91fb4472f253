package server_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/server/servertest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The document in the repository is the one the server serves: whoever changes the API sees
// what he changes.
func TestOpenAPIGolden(t *testing.T) {
	s, err := server.New(server.Options{Control: servertest.New()})
	require.NoError(t, err)
	golden := filepath.Join("..", "..", "api", "openapi.json")
	if *update {
		require.NoError(t, os.WriteFile(golden, s.OpenAPI(), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(s.OpenAPI()), "\n")),
		"run: go test ./internal/server -run OpenAPIGolden -update")
}
