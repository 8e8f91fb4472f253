package edge

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
		put := func(revision uint64) uint64 { // each whole, as where a server sends no changes
			k.put(compiled(t, shopSpec(revision)), nil)
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
	require.EqualValues(t, 4, readFile(t, path).Revision())
}

// What changes costs its own size on disk, and the table is written whole only when much has come
// together.
func TestKeeperAddsChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	k := newKeeper(path, slog.New(slog.DiscardHandler))
	file := func() os.FileInfo {
		t.Helper()
		require.NoError(t, k.save())
		info, err := os.Stat(path)
		require.NoError(t, err)
		return info
	}
	table := compiled(t, shopSpec(7))
	k.put(table, nil)
	first := file()
	require.True(t, os.SameFile(first, file()), "there is nothing to write")
	last := first
	change := func() {
		list, _ := changes(t, table, 1)
		list[0].Versions[0].Version.Reason = strings.Repeat("x", 10_000)
		next, err := table.Apply(list[0])
		require.NoError(t, err)
		table = next
		k.put(table, &list[0])
	}
	for range addedBytes / 22_000 {
		change()
		change()
		next := file()
		require.True(t, os.SameFile(first, next), "%d bytes", next.Size())
		require.InDelta(t, 21_000, next.Size()-last.Size(), 1000)
		require.Equal(t, table.Spec(), readFile(t, path).Spec())
		last = next
	}
	for range 5 {
		change()
	}
	require.False(t, os.SameFile(first, file()))
	require.Equal(t, table.Spec(), readFile(t, path).Spec())
	written, _ := k.figures()
	require.Equal(t, table.Revision(), written)
}

// Nothing is added where a change is missing in between, and more does not wait than is bounded.
func TestKeeperWritesWholeWhatChangesDoNotLeadTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	k := newKeeper(path, slog.New(slog.DiscardHandler))
	table := compiled(t, shopSpec(7))
	k.put(table, nil)
	require.NoError(t, k.save())
	list, tables := changes(t, table, 4)
	k.put(tables[0], &list[0])
	other := compiled(t, shopSpec(20, "other"))
	k.put(other, nil) // as one that a server sent whole
	more, moreTables := changes(t, other, 1)
	k.put(moreTables[0], &more[0])
	require.NoError(t, k.save())
	require.Equal(t, moreTables[0].Spec(), readFile(t, path).Spec())

	for range keepChanges + 1 {
		k.put(tables[3], &list[3])
	}
	require.Empty(t, k.changes)
	require.NoError(t, k.save())
	require.Equal(t, tables[3].Spec(), readFile(t, path).Spec())
}

// After a write that did not work out, the whole table is written.
func TestKeeperAfterAFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "away")
	k := newKeeper(filepath.Join(dir, "table"), slog.New(slog.DiscardHandler))
	table := compiled(t, shopSpec(7))
	list, tables := changes(t, table, 2)
	k.put(table, nil)
	require.Error(t, k.save())
	k.put(tables[0], &list[0])
	require.Error(t, k.save())
	require.NoError(t, os.Mkdir(dir, 0o700))
	k.put(tables[1], &list[1])
	require.NoError(t, k.save())
	require.Equal(t, tables[1].Spec(), readFile(t, filepath.Join(dir, "table")).Spec())
}

// What was added is synced when the keeper is asked to, and at its end.
func TestKeeperSyncsWhenAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	k := newKeeper(path, slog.New(slog.DiscardHandler))
	table := compiled(t, shopSpec(7))
	list, tables := changes(t, table, 1)
	k.put(table, nil)
	require.NoError(t, k.save())
	require.False(t, k.file.loose)
	k.put(tables[0], &list[0])
	require.NoError(t, k.write(nil))
	require.True(t, k.file.loose)
	require.NoError(t, os.Rename(path, path+".away"))
	require.ErrorIs(t, k.save(), os.ErrNotExist)
	require.NoError(t, os.Rename(path+".away", path))
	require.NoError(t, k.save())
	require.False(t, k.file.loose)
}

func TestKeeperTriesAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(filepath.Join(dir, "table"), slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.run(ctx) }()
		k.put(compiled(t, shopSpec(1)), nil)
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
	k.put(compiled(t, shopSpec(1)), nil)
	require.NoError(t, k.save())
	_, err := os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}
