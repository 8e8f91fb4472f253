package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
)

// A teardown that fails is tried again after a pause that doubles.
const (
	teardownDelay    = 5 * time.Second
	maxTeardownDelay = 10 * time.Minute
)

// tearDown runs the teardown that a version owes which has no instance any more, and says
// whether it is done: its record may be deleted then. Else it returns after which time to look
// again; 0 means when woken.
//
// It runs at least once: a server that is killed between its end and the note of that leaves it
// to the next one, which takes the end that it finds.
func (k *keeper) tearDown(ctx context.Context, rec *VersionRecord) (again time.Duration, done bool) {
	t := rec.Hooks.Teardown
	if t == nil || t.Done || t.Skipped {
		return k.withoutTeardown(ctx, rec)
	}
	k.c.mu.Lock()
	if t.Failure == "" {
		k.tearsAt = time.Time{}
	}
	wait := time.Until(k.tearsAt)
	k.c.mu.Unlock()
	if wait > 0 {
		return wait, false
	}
	failure := k.tearDownOnce(ctx, rec)
	switch {
	case failure == nil:
		failpoint.Pass(failpoint.TeardownCleared)
		k.conclude(ctx, api.Event{Type: api.EventTeardownDone, Message: k.key.String() + ": its teardown is done"})
		return 0, ctx.Err() == nil
	case errors.Is(failure, errSuperseded) || ctx.Err() != nil:
		return 0, false
	}
	return k.teardownFailed(ctx, t, failure), false
}

// tearDownOnce runs the teardown, and notes its success.
func (k *keeper) tearDownOnce(ctx context.Context, rec *VersionRecord) error {
	t := rec.Hooks.Teardown
	h, err := k.newHookRun(rec, hookTeardown, t.Hook, t.InstanceEnv)
	if err != nil {
		return err
	}
	failure := h.run(ctx)
	if failure != nil && (errors.Is(failure, errSuperseded) || ctx.Err() != nil) {
		return failure
	}
	err = k.store(ctx, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil || r.Desired != DesiredRemoved || r.Hooks.Teardown == nil {
			return nil, errSuperseded
		}
		r.Hooks.Log = h.kept()
		r.Hooks.Teardown.Done = failure == nil
		return r, nil
	})
	if err != nil {
		return err
	}
	failpoint.Pass(failpoint.TeardownRecorded)
	return errors.Join(failure, h.clear(ctx))
}

// withoutTeardown sees to it that nothing of a hook is left of a version whose teardown is not
// owed any more, and says whether that is so.
func (k *keeper) withoutTeardown(ctx context.Context, rec *VersionRecord) (again time.Duration, done bool) {
	runtimes := rec.hookRuntimes()
	if len(runtimes) == 0 {
		return 0, true
	}
	if _, err := k.clearHooks(ctx, runtimes, ""); err != nil && !rec.skipsTeardown() {
		k.c.log.Error("hooks not removed", "service", k.key.Service, "version", k.key.Version, "err", err)
		return retryDelay, false
	}
	if rec.skipsTeardown() {
		actor := ""
		k.c.mu.Lock()
		if k.halting != nil {
			actor = k.halting.actor
		}
		k.c.mu.Unlock()
		k.conclude(ctx, api.Event{
			Type: api.EventTeardownSkipped, Actor: actor,
			Message: k.key.String() + ": its teardown is given up; what its setup made may still be there",
		})
	}
	return 0, ctx.Err() == nil
}

// teardownFailed notes why a teardown failed, and returns when it is tried again. An event tells
// of the first failure, and of each that differs from the one before.
func (k *keeper) teardownFailed(ctx context.Context, before *Teardown, failure error) time.Duration {
	reason := bounded(failure.Error(), maxReason)
	tries := before.Tries + 1
	delay := min(teardownDelay<<min(before.Tries, 10), maxTeardownDelay)
	err := k.store(ctx, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil || r.Desired != DesiredRemoved || r.Hooks.Teardown == nil {
			return nil, errSuperseded
		}
		r.Hooks.Teardown.Failure, r.Hooks.Teardown.Tries = reason, tries
		return r, nil
	})
	if err != nil {
		return 0
	}
	k.c.mu.Lock()
	k.tearsAt = time.Now().Add(delay)
	k.c.mu.Unlock()
	if before.Failure == reason {
		return delay
	}
	var tail []string
	if failed, ok := errors.AsType[*hookError](failure); ok {
		tail = failed.tail
	}
	if hint := hintOf(failure); hint != "" {
		reason += " (" + hint + ")"
	}
	k.conclude(ctx, api.Event{
		Type: api.EventTeardownFailed, LogTail: tail,
		Message: fmt.Sprintf("%s is not removed yet: %s; next try in %s, or give it up: layover rm --skip-teardown %[1]s", k.key, reason, delay),
	})
	return delay
}

// teardownWordsLocked says how the teardown of a version goes.
func (k *keeper) teardownWordsLocked(rec *VersionRecord) string {
	why := rec.Hooks.Teardown.Failure
	switch {
	case k.hook != nil || why == "":
		return "its teardown runs"
	default:
		return fmt.Sprintf("%s; next try in %s", why, max(time.Until(k.tearsAt), 0).Round(time.Second))
	}
}

func (k *keeper) viewTeardownLocked(rec *VersionRecord) *api.Teardown {
	if !rec.owesTeardown() {
		return nil
	}
	t := rec.Hooks.Teardown
	out := &api.Teardown{Tries: t.Tries, Failure: t.Failure}
	if t.Failure != "" && k.hook == nil {
		out.NextTry = k.tearsAt.UTC()
	}
	return out
}

// deployLater says whether a version of the file has to wait until its removal is done. It is
// deployed then.
func (c *Control) deployLater(w Wanted) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.records[w.Key]
	if rec == nil || !rec.owesTeardown() {
		return false
	}
	c.later[w.Key] = w
	return true
}

// deployNext deploys the version of the file that waited for the removal of this one.
func (k *keeper) deployNext(ctx context.Context) {
	k.c.mu.Lock()
	w, ok := k.c.later[k.key]
	delete(k.c.later, k.key)
	k.c.mu.Unlock()
	if !ok || ctx.Err() != nil {
		return
	}
	if _, err := k.c.deploy(ctx, w.Key, w.Deployment, func(_, _ *VersionRecord) error { return nil }); err != nil {
		k.c.log.Error("version of the file not deployed", "service", k.key.Service, "version", k.key.Version, "err", err)
	}
}
