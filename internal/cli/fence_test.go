package cli

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// A server whose store another one has taken starts and stops nothing, not even what it had begun to start.
func TestFencedRuntime(t *testing.T) {
	address := postgrestest.URL(t)
	db, err := store.OpenPostgres(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	inner := &countingRuntime{}
	r := fencedRuntime{Runtime: inner, store: db}
	ctx := t.Context()
	_, err = r.Start(ctx, control.Workload{ID: "a"}, nil)
	require.NoError(t, err)
	require.NoError(t, r.Stop(ctx, "a", time.Second))
	require.Equal(t, countingRuntime{started: 1, stopped: 1}, *inner)

	inner.pulling = func() {
		postgrestest.Exec(t, address, `UPDATE layover_holder SET number = number + 1`) // as one that takes it
		require.ErrorIs(t, db.Hold(ctx), store.ErrTaken)
	}
	_, err = r.Start(ctx, control.Workload{ID: "b"}, nil)
	require.ErrorIs(t, err, store.ErrTaken)
	inner.pulling = nil
	_, err = r.Start(ctx, control.Workload{ID: "c"}, nil)
	require.ErrorIs(t, err, store.ErrTaken)
	require.ErrorIs(t, r.Stop(ctx, "a", time.Second), store.ErrTaken)
	require.Equal(t, 1, inner.started)
	require.Equal(t, 1, inner.stopped)
}

// countingRuntime starts nothing, in two steps.
type countingRuntime struct {
	control.Runtime
	started, stopped int
	pulling          func()
}

func (r *countingRuntime) Start(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	if r.pulling != nil {
		step("pull", "")
		r.pulling()
		step("start", "")
	}
	if ctx.Err() != nil {
		return control.Status{}, ctx.Err()
	}
	r.started++
	return control.Status{ID: w.ID, Running: true}, nil
}

func (r *countingRuntime) Stop(context.Context, string, time.Duration) error {
	r.stopped++
	return nil
}
