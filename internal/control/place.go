package control

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
)

// place is where one instance of the serving generation runs, one after the other where
// they end. Its fields are guarded by Control.mu.
type place struct {
	failure   string                  // why it has no instance that answers; "" where it has or will have
	retries   bool                    // it is started again at nextStart
	restarts  int                     // in a row
	nextStart time.Time               // not before
	cancel    context.CancelCauseFunc // of the start in progress; nil where there is none
}

func (p *place) forget() { p.failure, p.restarts, p.nextStart = "", 0, time.Time{} }

// placeLocked returns the place of an instance, and makes it where there is none.
func (k *keeper) placeLocked(id string) *place {
	p := k.places[id]
	if p == nil {
		p = &place{}
		k.places[id] = p
	}
	return p
}

func (k *keeper) revivingLocked() bool {
	for _, p := range k.places {
		if p.cancel != nil {
			return true
		}
	}
	return false
}

// withdrawLocked cuts short the starts of instances that rec does not want, forgets their
// places, and returns how many of those starts have not ended yet.
func (k *keeper) withdrawLocked(rec *VersionRecord) int {
	serving, left := map[string]bool{}, 0
	if g := rec.serving(); g != nil && rec.Desired == DesiredRunning {
		for _, id := range g.instanceIDs(k.key) {
			serving[id] = true
		}
	}
	for id, p := range k.places {
		switch {
		case serving[id]:
		case p.cancel != nil:
			p.cancel(errSuperseded)
			left++
		default:
			delete(k.places, id)
		}
	}
	return left
}

// keep makes sure that the serving generation has its instances, each for itself, and returns
// after which time to look again.
func (k *keeper) keep(ctx context.Context, g *Generation) time.Duration {
	// What a runtime has must be known before anything is started again.
	if w := k.c.watchers[g.Run.Runtime()]; w != nil && !w.waitListed(ctx) {
		return 0
	}
	ids := g.instanceIDs(k.key)
	again := make([]time.Duration, len(ids))
	found := make([]bool, len(ids))
	var group errgroup.Group
	group.SetLimit(checksAtOnce)
	for i, id := range ids {
		group.Go(func() error {
			again[i], found[i] = k.keepOne(ctx, g, id)
			return nil
		})
	}
	_ = group.Wait() // nothing is returned
	soonest, all := time.Duration(0), ctx.Err() == nil
	for i := range ids {
		all = all && found[i]
		if again[i] > 0 && (soonest == 0 || again[i] < soonest) {
			soonest = again[i]
		}
	}
	if all {
		k.seen()
	}
	return soonest
}

// keepOne makes sure that one place has an instance. One that ended is started again at once,
// and then less and less often, in the background. found says whether it is known
// what became of the instance that an earlier server started.
func (k *keeper) keepOne(ctx context.Context, g *Generation, id string) (again time.Duration, found bool) {
	k.c.mu.Lock()
	inst, p := k.instances[id], k.placeLocked(id)
	switch {
	case p.cancel != nil:
		k.c.mu.Unlock()
		return 0, !g.Run.Adopted() // woken when the start has ended
	case inst != nil && inst.leaving: // for a sleep that is over: it stays, or makes room for another
		if inst.recall != nil && !inst.ending {
			inst.recall()
		}
		k.c.mu.Unlock()
		return 0, true // woken when that is decided
	case inst != nil && inst.Running:
		waking := k.waking
		if len(inst.routed()) == 0 {
			waking = nil
		}
		k.c.mu.Unlock()
		if waking != nil {
			k.awake(ctx, g, waking)
		}
		again = k.attend(ctx, inst)
		k.giveUp(ctx, g, inst)
		return again, true
	}
	if inst != nil && inst.EndedAt.Sub(inst.StartedAt) > stableAfter {
		p.restarts, p.nextStart = 0, time.Time{}
	}
	wait := time.Until(p.nextStart)
	k.c.mu.Unlock()
	if wait > 0 {
		if inst != nil {
			k.fail(ctx, id, exitReason(inst.Status))
		}
		return wait, true
	}
	k.revive(g, id)
	k.c.changed(ctx)           // requests are held while it starts
	return 0, !g.Run.Adopted() // what ran, runs no more; what somebody else runs is found by starting it
}

// revive starts an instance of the serving generation in the background, unless the server is ending.
func (k *keeper) revive(g *Generation, id string) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	rec := k.c.records[k.key]
	if k.c.group == nil || rec == nil || !rec.wants(g.Number, id) {
		return
	}
	p := k.placeLocked(id)
	delay := min(restartDelay<<min(p.restarts, 10), maxRestartDelay)
	p.restarts++
	p.nextStart = time.Now().Add(delay)
	p.failure = ""
	k.c.touchLocked(k.key)
	ctx, cancel := context.WithCancelCause(k.c.ctx)
	p.cancel = cancel
	waking := k.waking
	steps := waking != nil && id == g.instanceIDs(k.key)[0] // those of one are told
	k.c.group.Go(func() error {
		defer k.look()
		defer cancel(nil)
		err := (&deployment{k: k, generation: g}).bringUpOne(ctx, id, steps)
		k.c.mu.Lock()
		p.cancel = nil
		name := instanceName(k.key, k.c.records[k.key], g.Number, id)
		k.c.mu.Unlock()
		switch {
		case ctx.Err() != nil: // something else is wanted, or the next server goes on here
		case err != nil:
			k.fail(ctx, id, explained(err))
			if waking != nil {
				k.notAwake(ctx, g, waking, err)
			}
		case waking != nil:
			k.c.changed(ctx)
			k.awake(ctx, g, waking)
		default:
			k.c.changed(ctx)
			k.event(ctx, api.Event{
				Type: api.EventInstanceHealth, Generation: g.Number,
				Message: name + " was started again and is healthy",
			})
		}
		return nil
	})
}

// attend checks the health of an instance that serves, where it is time to.
func (k *keeper) attend(ctx context.Context, inst *instance) time.Duration {
	s, _ := k.c.service(k.key.Service)
	interval := interval(s)
	k.c.mu.Lock()
	if wait := inst.untilCheckLocked(s); wait > 0 {
		k.c.mu.Unlock()
		return wait
	}
	// Both before the check: an address that changes meanwhile asks for another.
	some, _ := inst.comingLocked(startTimeout(s))
	if time.Until(inst.nextCheck) <= 0 {
		some, inst.nextCheck = nil, time.Now().Add(interval)
	}
	inst.nextLook = time.Now().Add(inst.pauseLocked())
	known := inst.ready
	k.c.mu.Unlock()
	seen := k.probe(ctx, s, inst, some)
	k.c.mu.Lock()
	limit := time.Second
	if !known {
		limit = 250 * time.Millisecond // it may still be coming up
	}
	if some == nil && seen.after == 0 && interval > limit {
		inst.nextCheck = time.Now().Add(limit)
	}
	again := max(inst.untilCheckLocked(s), time.Millisecond)
	k.c.mu.Unlock()
	if !seen.changed || ctx.Err() != nil {
		return again
	}
	k.c.changed(ctx)
	if known && (seen.before == 0 || seen.after == 0) {
		k.c.mu.Lock()
		name := instanceName(k.key, k.c.records[k.key], inst.Generation, inst.ID)
		k.c.mu.Unlock()
		k.event(ctx, api.Event{
			Type: api.EventInstanceHealth, Generation: inst.Generation,
			Message: fmt.Sprintf("%s: %s", name, seen.health),
		})
	}
	return again
}

// untilCheckLocked is the time until some of the addresses are to be checked, 0 where that is now.
func (i *instance) untilCheckLocked(s api.Service) time.Duration {
	wait := max(time.Until(i.nextCheck), 0)
	if some, in := i.comingLocked(startTimeout(s)); len(some) > 0 {
		wait = min(wait, in)
	}
	return wait
}

// startTimeout is how long an instance of the service may take until it is healthy, unless its deployment says otherwise.
func startTimeout(s api.Service) time.Duration { return s.Timeout.Or(defaultTimeout) }

// giveUp says that an instance of several did not become healthy in time. It is checked on:
// where it comes up after all, it answers.
func (k *keeper) giveUp(ctx context.Context, g *Generation, inst *instance) {
	_, timeout, err := (&deployment{k: k, generation: g}).service()
	k.c.mu.Lock()
	late := err == nil && len(g.slots()) > 1 && inst.Running && !inst.ready && !inst.leaving && time.Since(inst.since) > timeout &&
		k.placeLocked(inst.ID).failure == ""
	reason := fmt.Sprintf("not healthy after %s: %s", timeout, inst.health)
	k.c.mu.Unlock()
	if late {
		k.fail(ctx, inst.ID, reason)
	}
}

// fail says why an instance of the serving generation does not answer and, where it does not
// run, when the next start is tried.
func (k *keeper) fail(ctx context.Context, id, reason string) {
	k.c.mu.Lock()
	p := k.placeLocked(id)
	p.failure = bounded(reason, maxReason)
	inst := k.instances[id]
	p.retries = inst == nil || !inst.Running
	k.c.touchLocked(k.key)
	k.c.mu.Unlock()
	k.c.changed(ctx)
}
