package control_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func TestRollback(t *testing.T) {
	b := newBench(t)
	_, err := b.Rollback(t.Context(), key("main"), 0, control.By{Actor: "ben"})
	require.Equal(t, api.CodeNotFound, control.CodeOf(err))
	b.up("main", map[string]string{"COLOUR": "red"})
	_, err = b.Rollback(t.Context(), key("main"), 0, control.By{Actor: "ben"})
	require.Equal(t, api.CodeConflict, control.CodeOf(err), "there is nothing before it")

	b.up("main", map[string]string{"COLOUR": "blue"})
	b.deploy("main", map[string]string{"APP_EXIT": "3"})
	b.wait("main", "to fail", func(v api.Version) bool { return v.Reason != "" })

	_, err = b.Rollback(t.Context(), key("main"), 3, control.By{Actor: "ben"})
	require.Equal(t, api.CodeConflict, control.CodeOf(err))
	require.ErrorContains(t, err, "never came up")
	_, err = b.Rollback(t.Context(), key("main"), 9, control.By{Actor: "ben"})
	require.Equal(t, api.CodeNotFound, control.CodeOf(err))

	v, err := b.Rollback(t.Context(), key("main"), 0, control.By{Actor: "ben"})
	require.NoError(t, err)
	require.Equal(t, int64(4), v.Generation, "it is a generation of its own")
	b.wait("main", "to be rolled back", func(v api.Version) bool { return v.Serving == 4 && len(v.Instances) == 1 })
	require.Equal(t, "red", b.answer("main").Env["COLOUR"], "the one that served before, not the one that failed")

	v, err = b.Rollback(t.Context(), key("main"), 2, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("main", "to be rolled back", func(now api.Version) bool { return now.Serving == v.Generation && len(now.Instances) == 1 })
	require.Equal(t, "blue", b.answer("main").Env["COLOUR"])

	history, err := b.History(t.Context(), key("main"))
	require.NoError(t, err)
	type line struct {
		number, again int64
		state         api.GenerationState
		served        bool
	}
	var got []line
	for _, g := range history {
		require.NotContains(t, g.EnvNames, "red", "values are not told")
		got = append(got, line{g.Number, g.Again, g.State, g.Served})
	}
	require.Equal(t, []line{
		{5, 2, api.GenerationServing, true},
		{4, 1, api.GenerationSuperseded, true},
		{3, 0, api.GenerationFailed, false},
		{2, 0, api.GenerationSuperseded, true},
		{1, 0, api.GenerationSuperseded, true},
	}, got)
	require.Contains(t, history[2].Reason, "code 3")
}

func TestRollbackOfAStoppedVersionStartsIt(t *testing.T) {
	b := newBench(t)
	b.up("main", map[string]string{"COLOUR": "red"})
	b.up("main", map[string]string{"COLOUR": "blue"})
	_, err := b.Stop(t.Context(), key("main"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("main", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
	_, err = b.Rollback(t.Context(), key("main"), 1, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("main", "to run", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Equal(t, "red", b.answer("main").Env["COLOUR"])
}

func TestWhatARollbackGoesBackToIsKept(t *testing.T) {
	b := newBench(t)
	b.up("main", map[string]string{"COLOUR": "red"})
	b.up("main", map[string]string{"COLOUR": "blue"})
	for range 25 {
		b.deploy("main", map[string]string{"APP_EXIT": "3"})
	}
	b.wait("main", "to fail", func(v api.Version) bool { return v.Generation == 27 && v.Reason != "" })
	history, err := b.History(t.Context(), key("main"))
	require.NoError(t, err)
	require.Len(t, history, 20)
	_, err = b.Rollback(t.Context(), key("main"), 0, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("main", "to be rolled back", func(v api.Version) bool { return v.Serving == 28 })
	require.Equal(t, "red", b.answer("main").Env["COLOUR"])
}
