package control

import (
	"context"
	"errors"
	"maps"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
)

// setUpAndStart runs the setup of the generation, where it has one that has not run yet, and
// brings the generation up.
func (d *deployment) setUpAndStart(ctx context.Context, serving *Generation) (*instance, error) {
	if err := d.setUp(ctx); err != nil {
		return nil, err
	}
	return d.bringUp(ctx, d.k.enough(d.generation, serving))
}

// setUp runs the setup of the generation once, and keeps what it gave. Without one it does nothing.
func (d *deployment) setUp(ctx context.Context) error {
	k, number := d.k, d.generation.Number
	rec := k.c.record(k.key)
	if rec == nil || rec.newest().Number != number {
		return errSuperseded
	}
	if d.generation = rec.newest(); d.generation.Setup == nil || d.generation.SetUp {
		return nil
	}
	h, err := k.newHookRun(rec, hookSetup, *d.generation.Setup, d.generation.Env)
	if err != nil {
		return err
	}
	h.told = func(line string) { d.detail(ctx, api.StepSetup, line) }
	d.enter(ctx, api.StepSetup, "")
	defer d.progress("")
	failure := h.run(ctx)
	if failure != nil && (errors.Is(failure, errSuperseded) || ctx.Err() != nil) {
		return failure
	}
	if err := d.keepSetup(ctx, h, &failure); err != nil {
		return err
	}
	failpoint.Pass(failpoint.SetupRecorded)
	if err := h.clear(ctx); err != nil { // it is found again as one that nobody wants
		k.c.log.Error("setup not removed", "service", k.key.Service, "version", k.key.Version, "err", err)
	}
	failpoint.Pass(failpoint.SetupCleared)
	if failure != nil {
		return failure
	}
	d.done(ctx, api.StepSetup)
	return nil
}

// keepSetup notes how the setup ended, and what it gave: also one that failed may have made what
// only its outputs name, and the teardown is to find.
func (d *deployment) keepSetup(ctx context.Context, h *hookRun, failure *error) error {
	number := d.generation.Number
	given, _ := h.output.given()
	err := d.k.store(ctx, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil || r.Desired != DesiredRunning || r.newest().Number != number {
			return nil, errSuperseded
		}
		all, tooMuch := withOutputs(r.Hooks.Outputs, given)
		if tooMuch != nil && *failure == nil {
			*failure = h.failed(tooMuch)
		}
		r.Hooks.Outputs, r.Hooks.Log = all, h.kept()
		g := r.newest()
		g.Outputs = maps.Clone(all)
		if *failure == nil {
			g.SetUp, r.Hooks.SetUp = true, true
		}
		return r, nil
	})
	if err != nil {
		return err
	}
	rec := d.k.c.record(d.k.key)
	if rec == nil || rec.newest().Number != number {
		return errSuperseded
	}
	d.generation = rec.newest()
	return nil
}
