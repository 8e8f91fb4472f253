package store

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// heldBy returns the path of a store whose lock is held, and said to be of a process, until release is called.
func heldBy(t *testing.T, pid int, mark string) (path string, release func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "layover.db")
	f, err := os.Create(path + ".lock")
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	require.NoError(t, json.NewEncoder(f).Encode(holder{PID: pid, Mark: mark, Since: time.Now()}))
	free, err := tryLock(f)
	require.NoError(t, err)
	require.True(t, free)
	return path, func() { _ = f.Close() }
}

// ended returns the number and the mark of a process that has ended.
func ended(t *testing.T) (pid int, mark string) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	mark = markOf(cmd.Process.Pid)
	require.NotEmpty(t, mark)
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	return cmd.Process.Pid, mark
}

// A server that is killed while it forks leaves its lock to the child for a moment.
func TestLockFile_WaitsForWhatAKilledServerLeft(t *testing.T) {
	pid, mark := ended(t)
	path, release := heldBy(t, pid, mark)
	time.AfterFunc(100*time.Millisecond, release)
	lock, err := lockFile(t.Context(), path)
	require.NoError(t, err)
	require.NoError(t, lock.release())
}

func TestLockFile_WaitsNoLongerThanItsContext(t *testing.T) {
	pid, mark := ended(t)
	path, _ := heldBy(t, pid, mark)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := lockFile(ctx, path)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A server that runs is not waited for.
func TestLockFile_RefusesAtOnce(t *testing.T) {
	path, _ := heldBy(t, os.Getpid(), markOf(os.Getpid()))
	ctx, cancel := context.WithTimeout(t.Context(), lockLingers/2)
	defer cancel()
	_, err := lockFile(ctx, path)
	require.ErrorContains(t, err, "is in use by another layover server")
}
