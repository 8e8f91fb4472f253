//go:build unix && !linux

package process

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// leftovers lists the folders of an environment. Only Linux shows what processes there are.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	return left
}
