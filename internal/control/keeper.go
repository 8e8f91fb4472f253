package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layover-dev/layover/api"
)

// keeper keeps one version as it is wanted. Its goroutine is the only one that
// starts and stops instances of that version.
type keeper struct {
	c    *Control
	key  Key
	wake chan struct{} // something changed: look again

	// Guarded by c.mu.
	instances map[string]*instance
	starting  string                  // ID of the instance that is being started
	cancel    context.CancelCauseFunc // of the attempt in progress
	failure   string                  // why the serving generation has no instance; "" where it has or will have
	restarts  int                     // of the serving generation in a row
	nextStart time.Time               // not before
	halting   string                  // who asked to stop, while instances are still there
}

// errSuperseded is why an attempt ends when something else is wanted now.
var errSuperseded = errors.New("something else is wanted now")

const (
	restartDelay    = time.Second      // before the second restart in a row; doubles
	maxRestartDelay = time.Minute      // where the doubling ends
	stableAfter     = 30 * time.Second // an instance that ran so long starts the count anew
)

func newKeeper(c *Control, key Key) *keeper {
	return &keeper{c: c, key: key, wake: make(chan struct{}, 1), instances: map[string]*instance{}}
}

// run takes one step after another until ctx ends or the version is removed.
func (k *keeper) run(ctx context.Context) error {
	for {
		again := k.step(ctx)
		if k.retired() {
			return nil
		}
		var timer <-chan time.Time
		if again > 0 {
			t := time.NewTimer(again)
			timer = t.C
			defer t.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-timer:
		}
	}
}

// look wakes the keeper to look at the facts again.
func (k *keeper) look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// supersede ends the attempt in progress, if any, because what is wanted has changed.
func (k *keeper) supersede() {
	k.c.mu.Lock()
	if k.cancel != nil {
		k.cancel(errSuperseded)
	}
	k.c.mu.Unlock()
	k.look()
}

// step brings the version one step closer to what is wanted, and returns after
// which time to look again; 0 means when woken.
func (k *keeper) step(ctx context.Context) time.Duration {
	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k.c.mu.Lock()
	k.cancel = cancel // before the record is read, so that no change is missed
	rec := k.c.records[k.key]
	k.c.mu.Unlock()
	defer func() {
		k.c.mu.Lock()
		k.cancel = nil
		k.c.mu.Unlock()
	}()

	switch {
	case rec == nil:
		return 0
	case rec.Desired != DesiredRunning:
		return k.halt(ctx, rec)
	}
	newest := rec.newest()
	if newest == nil {
		return 0
	}
	// What a runtime has must be known before anything is started again. A new
	// deployment only waits for the first look: where that failed, it says why.
	if w := k.c.watchers[newest.Run.Runtime()]; w != nil && !w.wait(attempt, newest.State == GenerationPending) {
		return 0
	}
	if newest.State == GenerationPending {
		return k.deploy(attempt, newest)
	}
	k.release(func(i *instance) bool { return !rec.wants(i.Generation) })
	if serving := rec.serving(); serving != nil {
		return k.keep(attempt, serving)
	}
	return 0
}

// deploy brings up generation g beside what serves, swaps it in, and lets go of
// the rest. Where g does not become healthy, what served before goes on.
func (k *keeper) deploy(ctx context.Context, g *Generation) time.Duration {
	began := time.Now()
	d := &deployment{k: k, generation: g, stepBegan: began}
	inst, err := d.bringUp(ctx)
	if err != nil {
		return k.deployFailed(ctx, g, inst, err)
	}
	d.stepBegan = time.Now()
	err = k.c.update(context.WithoutCancel(ctx), k.key, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil || r.Desired != DesiredRunning || r.newest().Number != g.Number {
			return nil, errSuperseded
		}
		for i := range r.Generations {
			if r.Generations[i].State == GenerationServing {
				r.Generations[i].State = GenerationSuperseded
			}
		}
		r.newest().State = GenerationServing
		return r, nil
	})
	if err != nil {
		return k.deployFailed(ctx, g, inst, err)
	}
	k.settled()
	if err := k.c.publish(ctx); err != nil {
		k.c.log.Error("routing table not published", "service", k.key.Service, "version", k.key.Version, "err", err)
		return time.Second // it is healthy and recorded: only the table is behind
	}
	d.done(ctx, api.StepRouted)
	k.event(ctx, api.Event{
		Type: api.EventDeployDone, Generation: g.Number, Took: api.Duration(time.Since(began)),
		Message: fmt.Sprintf("%s is up (generation %d)", k.key, g.Number),
	})
	k.release(func(i *instance) bool { return i.Generation != g.Number })
	return k.attend(ctx, inst)
}

// deployFailed records why generation g did not come up, unless something else
// is wanted by now or the server is ending: then nothing failed.
func (k *keeper) deployFailed(ctx context.Context, g *Generation, inst *instance, err error) time.Duration {
	switch {
	case errors.Is(err, errSuperseded) || errors.Is(context.Cause(ctx), errSuperseded):
		k.release(func(i *instance) bool { return i.Generation == g.Number })
		k.look()
		return 0
	case ctx.Err() != nil:
		return 0 // the next server goes on here
	}
	tail := k.logTail(ctx, g, inst)
	reason := err.Error()
	k.release(func(i *instance) bool { return i.Generation == g.Number })
	stored := k.c.update(context.WithoutCancel(ctx), k.key, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil {
			return nil, errSuperseded
		}
		if own := r.generation(g.Number); own != nil && own.State == GenerationPending {
			own.State, own.Reason, own.LogTail = GenerationFailed, reason, tail
		}
		return r, nil
	})
	if stored != nil && !errors.Is(stored, errSuperseded) {
		k.c.log.Error("failed deployment not stored", "service", k.key.Service, "version", k.key.Version, "err", stored)
		return time.Second
	}
	k.c.changed(ctx)
	if hint := hintOf(err); hint != "" {
		reason += " (" + hint + ")"
	}
	k.event(ctx, api.Event{
		Type: api.EventDeployFailed, Generation: g.Number, LogTail: tail,
		Message: fmt.Sprintf("%s did not come up: %s", k.key, reason),
	})
	k.look() // what served before still needs care
	return 0
}

// keep makes sure that the serving generation has an instance. One that ended
// is started again at once, and then less and less often.
func (k *keeper) keep(ctx context.Context, g *Generation) time.Duration {
	k.c.mu.Lock()
	inst := k.instances[instanceID(k.key, g.Number)]
	dead := inst == nil || !inst.Running
	if inst != nil && dead && inst.EndedAt.Sub(inst.StartedAt) > stableAfter {
		k.restarts, k.nextStart = 0, time.Time{}
	}
	wait := time.Until(k.nextStart)
	k.c.mu.Unlock()
	if !dead {
		return k.attend(ctx, inst)
	}
	if wait > 0 {
		if inst != nil {
			k.fail(ctx, exitReason(inst.Status), wait)
		}
		return wait
	}
	delay := k.countRestart()
	k.c.changed(ctx) // requests are held while it starts

	inst, err := (&deployment{k: k, generation: g, quiet: true}).bringUp(ctx)
	switch {
	case err == nil:
		k.c.changed(ctx)
		k.event(ctx, api.Event{
			Type: api.EventInstanceHealth, Generation: g.Number,
			Message: fmt.Sprintf("%s was started again and is healthy", k.key),
		})
		return k.attend(ctx, inst)
	case ctx.Err() != nil:
		return 0
	}
	k.fail(ctx, err.Error(), delay)
	return delay
}

// attend checks the health of the instance that serves, where it is time to.
func (k *keeper) attend(ctx context.Context, inst *instance) time.Duration {
	s, _ := k.c.service(k.key.Service)
	k.c.mu.Lock()
	wait := time.Until(inst.nextCheck)
	k.c.mu.Unlock()
	if wait > 0 {
		return wait
	}
	before, after := k.probe(ctx, s, inst)
	if ctx.Err() != nil {
		return 0
	}
	interval := s.Health.Interval.Or(defaultInterval)
	if after == 0 {
		interval = min(interval, time.Second)
	}
	k.c.mu.Lock()
	inst.nextCheck = time.Now().Add(interval)
	known, health := inst.ready, inst.health
	if after > 0 {
		inst.ready, k.failure = true, ""
	}
	k.c.mu.Unlock()
	if before == after {
		return interval
	}
	k.c.changed(ctx)
	if known && (before == 0 || after == 0) {
		k.event(ctx, api.Event{
			Type: api.EventInstanceHealth, Generation: inst.Generation,
			Message: fmt.Sprintf("%s: %s", k.key, health),
		})
	}
	return interval
}

// countRestart counts a start of the serving generation, and returns for how long none may follow.
func (k *keeper) countRestart() time.Duration {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	delay := min(restartDelay<<min(k.restarts, 10), maxRestartDelay)
	k.restarts++
	k.nextStart = time.Now().Add(delay)
	k.failure = ""
	return delay
}

// fail says why the serving generation has no instance, and when the next is tried.
func (k *keeper) fail(ctx context.Context, reason string, wait time.Duration) {
	k.c.mu.Lock()
	k.failure = fmt.Sprintf("%s; next try in %s", reason, max(wait, 0).Round(time.Second))
	k.c.mu.Unlock()
	k.c.changed(ctx)
}

// halt lets go of every instance, then says that the version is stopped, or
// deletes its record where it is to be removed.
func (k *keeper) halt(ctx context.Context, rec *VersionRecord) time.Duration {
	if k.release(func(*instance) bool { return true }) > 0 {
		k.c.changed(ctx)
		return 0 // woken when they are gone
	}
	k.settled()
	if rec.Desired == DesiredStopped {
		k.c.changed(ctx)
		if k.takeHalting() {
			k.event(ctx, api.Event{Type: api.EventVersionStopped, Message: k.key.String() + " is stopped"})
		}
		return 0
	}
	err := k.c.update(ctx, k.key, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil || r.Desired == DesiredRemoved {
			return nil, nil
		}
		return r, nil // wanted again
	})
	if err != nil {
		k.c.log.Error("version not removed", "service", k.key.Service, "version", k.key.Version, "err", err)
		return time.Second
	}
	if k.c.record(k.key) == nil {
		k.c.changed(ctx)
		k.event(ctx, api.Event{Type: api.EventVersionRemoved, Message: k.key.String() + " is removed"})
	}
	return 0
}

// retired says whether the version is gone for good, and forgets the keeper then.
func (k *keeper) retired() bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if _, ok := k.c.records[k.key]; ok || len(k.instances) > 0 {
		return false
	}
	delete(k.c.keepers, k.key)
	return true
}

// settled forgets earlier failures: something else runs now.
func (k *keeper) settled() {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	k.failure, k.restarts, k.nextStart = "", 0, time.Time{}
}

func (k *keeper) takeHalting() bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	was := k.halting != ""
	k.halting = ""
	return was
}

func (k *keeper) event(ctx context.Context, e api.Event) {
	e.Service, e.Version = k.key.Service, k.key.Version
	k.c.note(ctx, e)
}

// logTail returns the last lines of generation g's instance.
func (k *keeper) logTail(ctx context.Context, g *Generation, inst *instance) []string {
	rt := k.c.opts.Runtimes[g.Run.Runtime()]
	if inst == nil || rt == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	logs, err := rt.Logs(ctx, inst.ID, LogOptions{Tail: tailLines})
	if err != nil {
		return nil
	}
	defer func() { _ = logs.Close() }()
	var tail []string
	for {
		line, err := logs.Next()
		if err != nil {
			break
		}
		tail = append(tail, line.Text)
	}
	return tail[max(0, len(tail)-tailLines):]
}

// tailLines is how much of its log a failed deployment shows.
const tailLines = 20

func hintOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}
