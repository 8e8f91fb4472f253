package store_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/store"
)

func TestOpenSQLite_RefusesWhatCannotBeWritten(t *testing.T) {
	tests := map[string]struct{ file, folder os.FileMode }{
		"a read-only file":   {0o400, 0o700},
		"a read-only folder": {0o600, 0o500},
		"an unreadable file": {0o000, 0o700},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "data")
			path := filepath.Join(folder, "layover.db")
			require.NoError(t, open(t, path).Close())
			require.NoError(t, os.Remove(path+".lock"))
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.Chmod(path, test.file))
			require.NoError(t, os.Chmod(folder, test.folder))
			t.Cleanup(func() { require.NoError(t, os.Chmod(folder, 0o700)) })

			asOwner(t, folder, func() { _, err = store.OpenSQLite(t.Context(), path) })
			e := requireError(t, err, api.CodeUnavailable)
			require.Contains(t, e.Message, path+" cannot be written")
			require.Contains(t, e.Hint, "--data")
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
	}
}

func TestOpenSQLite_RefusesFolderThatCannotBeMade(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.Chmod(folder, 0o500))
	t.Cleanup(func() { require.NoError(t, os.Chmod(folder, 0o700)) })
	var err error
	asOwner(t, folder, func() { _, err = store.OpenSQLite(t.Context(), filepath.Join(folder, "new", "layover.db")) })
	require.Contains(t, requireError(t, err, api.CodeUnavailable).Message, "cannot be written")
}

// asOwner calls work as the owner of folder without the powers of root, which may
// write everything: where the tests run as root, as the user "nobody". Only this thread changes its user.
func asOwner(t *testing.T, folder string, work func()) {
	t.Helper()
	if os.Getuid() != 0 {
		work()
		return
	}
	const nobody = 65534
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.Chown(filepath.Join(folder, e.Name()), nobody, nobody))
	}
	require.NoError(t, os.Chown(folder, nobody, nobody))

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, err = unix.SetfsuidRetUid(nobody)
	require.NoError(t, err)
	defer func() {
		_, err := unix.SetfsuidRetUid(0)
		require.NoError(t, err)
	}()
	work()
}
