package cli

import (
	"context"
	"errors"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
)

// fencedRuntime starts and stops instances only while it is certain that the store is this server's: one
// that was paused, or cut off from its database, must not act beside the server that took over.
type fencedRuntime struct {
	control.Runtime
	store *store.DB
}

func (r fencedRuntime) Start(ctx context.Context, w control.Workload, step func(step api.Step, detail string)) (control.Status, error) {
	if err := r.store.WaitProof(ctx); err != nil {
		return control.Status{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A pull can take minutes: the proof is asked for again before what comes behind it.
	status, err := r.Runtime.Start(ctx, w, func(s api.Step, detail string) {
		if err := r.store.WaitProof(ctx); err != nil {
			cancel(err)
		}
		if step != nil {
			step(s, detail)
		}
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return status, err
}

func (r fencedRuntime) Stop(ctx context.Context, id string, grace time.Duration) error {
	if err := r.store.WaitProof(ctx); err != nil {
		return err
	}
	return r.Runtime.Stop(ctx, id, grace)
}

// Diagnose asks the runtime, where it can tell. See [control.Diagnoser].
func (r fencedRuntime) Diagnose(ctx context.Context, id string) (control.Facts, error) {
	if looker, ok := r.Runtime.(control.Diagnoser); ok {
		return looker.Diagnose(ctx, id)
	}
	return control.Facts{}, errors.ErrUnsupported
}
