package cli

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// A server whose store is PostgreSQL: what was deployed is there after its restart, another server is
// refused meanwhile, and nothing that is written has the password.
func TestServer_OverPostgres(t *testing.T) {
	address := postgrestest.URL(t)
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	s := startServer(t, dir, "LAYOVER_STORE="+address)
	s.table(t, ready)
	_, err := s.Deploy(t.Context(), "cart", "feature-1", api.Deployment{})
	require.NoError(t, err)

	other := t.TempDir()
	writeFile(t, other, serverFile, backend)
	var said lockedBuffer
	app := newApp(nil, &lockedBuffer{}, &said, []string{"LAYOVER_SERVER_LISTEN=127.0.0.1:0", "LAYOVER_STORE=" + address})
	require.Equal(t, exitFailed, execute(t.Context(), app, []string{"server", "--debug", "-f", filepath.Join(other, "layover.yaml")}))
	require.Contains(t, said.String(), "is in use by another layover server")
	require.NotContains(t, said.String(), postgrestest.Password)

	require.Zero(t, s.end(), s.said)
	require.NotContains(t, s.said.String(), postgrestest.Password)
	require.NoFileExists(t, filepath.Join(dir, ".layover", "layover.db"))
	s = startServer(t, dir, "LAYOVER_STORE="+address)
	versions, err := s.Versions(t.Context(), api.VersionFilter{Service: "cart"})
	require.NoError(t, err)
	require.Len(t, versions, 2)
}

// A server that lost its store to another ends by itself, and says why.
func TestServer_LosesItsStore(t *testing.T) {
	address := postgrestest.URL(t)
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	s := startServer(t, dir, "LAYOVER_STORE="+address)
	s.table(t, ready)
	postgrestest.Exec(t, address, `UPDATE layover_holder SET number = number + 1`) // as one that takes it
	postgrestest.Exec(t, address, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'layover'
		AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')`)
	require.Eventually(t, func() bool { return strings.Contains(s.said.String(), "was taken over by another layover server") }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, exitFailed, s.end())
}

func TestStoreFlag_RefusesPassword(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, serverFile, "127.0.0.1:1")
	for _, address := range []string{
		"postgres://ana:s3cret@db/shop", "postgres://ana:s3c/ret@db/shop", "postgresql://db/shop?password=s3cret", "postgres://ana:s3cret%@db",
	} {
		var out, said lockedBuffer
		app := newApp(nil, &out, &said, nil)
		require.Equal(t, exitUsage, execute(t.Context(), app, []string{"server", "--store", address, "-f", filepath.Join(dir, "layover.yaml")}))
		require.Contains(t, said.String(), "a password on the command line can be read")
		require.Contains(t, said.String(), "PGPASSWORD")
		require.NotContains(t, said.String()+out.String(), "ret")
	}
}
