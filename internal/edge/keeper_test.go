package edge

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKeeperWritesSeldomAndAtTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(path, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.run(ctx) }()
		put := func(revision uint64) uint64 {
			k.put(compiled(t, shopSpec(revision)))
			synctest.Wait()
			written, _ := k.figures()
			return written
		}
		require.EqualValues(t, 1, put(1), "the first at once")
		require.EqualValues(t, 1, put(2))
		time.Sleep(keepEvery / 2)
		require.EqualValues(t, 1, put(3))
		time.Sleep(keepEvery)
		synctest.Wait()
		written, _ := k.figures()
		require.EqualValues(t, 3, written, "the newest, and 2 never")
		require.EqualValues(t, 3, put(4))
		cancel()
		require.NoError(t, <-done)
	})
	spec, err := ReadCache(path)
	require.NoError(t, err)
	require.EqualValues(t, 4, spec.Revision)
}

func TestKeeperTriesAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(filepath.Join(dir, "table"), slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.run(ctx) }()
		k.put(compiled(t, shopSpec(1)))
		synctest.Wait()
		written, failed := k.figures()
		require.Zero(t, written)
		require.NotZero(t, failed)
		require.NoError(t, os.Mkdir(dir, 0o700))
		time.Sleep(2 * keepEvery)
		synctest.Wait()
		written, _ = k.figures()
		require.EqualValues(t, 1, written)
		cancel()
		require.NoError(t, <-done)
	})
}

func TestKeeperThatStoppedWritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	k := newKeeper(path, slog.New(slog.DiscardHandler))
	k.stop()
	k.put(compiled(t, shopSpec(1)))
	require.NoError(t, k.save())
	_, err := ReadCache(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}
