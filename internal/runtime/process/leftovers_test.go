//go:build unix

package process

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/control"
)

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	open := func(environment string) *Runtime {
		r, err := New(Options{Dir: dir, Environment: environment})
		require.NoError(t, err)
		return r
	}
	mine, other := open("mine"), open("other")
	open("dead")
	gone := filepath.Join(dir, "mine", ".gone-ABCDEFGH-cart--main--1")
	require.NoError(t, os.Mkdir(gone, 0o700))
	w := appWorkload("cart--main--1", nil)
	_, err := other.Start(t.Context(), w, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Stop(context.Background(), "cart--main--1", time.Second)) })
	w.ID = "cart--main--2"
	_, err = mine.Start(t.Context(), w, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mine.Stop(context.Background(), w.ID, time.Second)) })

	paths := func(left []control.Leftover) map[string]bool {
		out := map[string]bool{}
		for _, l := range left {
			require.NotEmpty(t, l.Why)
			out[l.Path] = l.Kept
		}
		return out
	}
	want := map[string]bool{gone: false, filepath.Join(dir, "dead"): false, filepath.Join(dir, "other"): true}
	left, err := mine.Leftovers(t.Context(), false)
	require.NoError(t, err)
	require.Equal(t, want, paths(left))
	require.DirExists(t, gone, "nothing is removed yet")

	left, err = mine.Leftovers(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, want, paths(left))
	require.NoDirExists(t, gone)
	require.NoDirExists(t, filepath.Join(dir, "dead"))
	for _, r := range []*Runtime{mine, other} {
		statuses, err := r.List(t.Context())
		require.NoError(t, err)
		require.Len(t, statuses, 1)
		require.True(t, statuses[0].Running, "what runs is left alone")
	}
	left, err = mine.Leftovers(t.Context(), false)
	require.NoError(t, err)
	require.Len(t, left, 1)
}
