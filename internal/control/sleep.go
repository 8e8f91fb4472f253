package control

import (
	"context"
	"fmt"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
)

// Sleep ends the instance of a version and keeps its route: the next request starts it
// again. Requests in progress have all the time they need.
func (c *Control) Sleep(ctx context.Context, key Key, by By) (api.Version, error) {
	return c.sleep(ctx, key, by, func(*VersionRecord) error { return nil })
}

// sleep records that a version is to sleep, unless it cannot, or unless returns an error.
func (c *Control) sleep(ctx context.Context, key Key, by By, unless func(*VersionRecord) error) (api.Version, error) {
	s, _ := c.service(key.Service)
	changed := false
	err := c.update(ctx, key, func(r *VersionRecord) (*VersionRecord, error) {
		switch {
		case r == nil || r.Desired == DesiredRemoved:
			return nil, c.unknownVersion(key)
		case r.meant(by.Branch) != nil:
			return nil, r.meant(by.Branch)
		case r.Desired == DesiredAsleep:
			return r, nil
		}
		if err := sleepProblem(s, r); err != nil {
			return nil, err
		}
		if err := unless(r); err != nil {
			return nil, err
		}
		c.mu.Lock()
		if k := c.keepers[key]; k != nil {
			k.halting, k.waking, k.crowded = &halt{actor: by.Actor, why: by.why}, nil, "" // before the keeper can see the wish
		}
		c.mu.Unlock()
		r.Desired, changed = DesiredAsleep, true
		return r, nil
	})
	if err != nil {
		return api.Version{}, err
	}
	if changed {
		failpoint.Pass(failpoint.SleepRecorded)
		c.changed(ctx) // no new requests from here on
		failpoint.Pass(failpoint.SleepPublished)
		c.setToWork(key, 0)
	}
	return c.versionOrGone(ctx, key), nil
}

// sleepProblem says why a version cannot sleep, or returns nil.
func sleepProblem(s api.Service, r *VersionRecord) error {
	g := r.serving()
	switch {
	case isDefault(s, r.Version):
		return conflictf("stop it, where nobody needs it: layover stop "+r.String(),
			"%s is the default version of its service, and does not sleep", r.Key)
	case r.Desired != DesiredRunning:
		return conflictf("layover start "+r.String()+" brings it back", "%s is stopped, and has no instance", r.Key)
	case r.pending():
		return conflictf("wait until that is done: layover status "+r.String(), "%s is being deployed", r.Key)
	case g == nil:
		return conflictf("see why: layover status "+r.String(), "%s never came up, so that no request could wake it", r.Key)
	case g.Run.Adopted():
		return conflictf("", "%s is run by somebody else: %s", r.Key, adopted(g.Run))
	}
	return nil
}

// Wake starts the instance of a version that sleeps; of all callers, one starts it. A version
// that is not asleep is left alone.
func (c *Control) Wake(ctx context.Context, key Key, by By) (api.Version, error) {
	if rec := c.record(key); rec != nil && rec.Desired == DesiredRunning && rec.meant(by.Branch) == nil {
		return c.versionOrGone(ctx, key), nil
	}
	woken := false
	err := c.update(ctx, key, func(r *VersionRecord) (*VersionRecord, error) {
		switch {
		case r == nil || r.Desired == DesiredRemoved:
			return nil, c.unknownVersion(key)
		case r.meant(by.Branch) != nil:
			return nil, r.meant(by.Branch)
		case r.Desired == DesiredStopped:
			return nil, conflictf("layover start "+key.String()+" brings it back", "%s is stopped, not asleep", key)
		case r.Desired == DesiredRunning:
			return r, nil
		}
		before := r.clone()
		r.Desired = DesiredRunning
		if err := c.checkQuota(before, r); err != nil {
			return nil, c.waitsForQuota(key, err)
		}
		woken = true
		r.Lease.ActiveAt = time.Now().UTC()
		c.mu.Lock()
		if k := c.keepers[key]; k != nil {
			k.waking, k.halting, k.crowded = &halt{actor: by.Actor, at: time.Now()}, nil, ""
		}
		c.mu.Unlock()
		return r, nil
	})
	if err != nil {
		return api.Version{}, err
	}
	if woken {
		failpoint.Pass(failpoint.WakeRecorded)
		c.setToWork(key, 0) // at once: requests wait
		c.changed(ctx)
		message := key.String() + " wakes up"
		if by.Actor == "" {
			message += ": a request came"
		}
		c.note(ctx, api.Event{Type: api.EventVersionWaking, Service: key.Service, Version: key.Version, Actor: by.Actor, Message: message})
		failpoint.Pass(failpoint.WakeBegun)
	}
	return c.versionOrGone(ctx, key), nil
}

// asleep tells that the version sleeps: no instance of it is left.
func (k *keeper) asleep(ctx context.Context) {
	by := k.takeHalting()
	if by == nil {
		return
	}
	message := k.key.String() + " is asleep"
	if by.why != "" {
		message += ": " + by.why
	}
	k.conclude(ctx, api.Event{Type: api.EventVersionAsleep, Actor: by.actor, Message: message + ". The next request wakes it"})
	failpoint.Pass(failpoint.SleepTold)
}

// awake tells that the version answers again.
func (k *keeper) awake(ctx context.Context, g *Generation, by *halt) {
	if !k.woken(by) {
		return
	}
	failpoint.Pass(failpoint.WakeRouted)
	k.conclude(ctx, api.Event{
		Type: api.EventVersionAwake, Generation: g.Number, Actor: by.actor,
		Took: api.Duration(max(time.Since(by.at), time.Microsecond)), Message: k.key.String() + " is awake",
	})
	failpoint.Pass(failpoint.WakeTold)
}

// notAwake tells why the version did not wake up. It is tried again like one that keeps ending.
func (k *keeper) notAwake(ctx context.Context, g *Generation, by *halt, err error) {
	k.c.mu.Lock()
	_, all := k.troubleLocked(g)
	k.c.mu.Unlock()
	if !all || !k.woken(by) { // another instance may come up yet
		return
	}
	k.conclude(ctx, api.Event{
		Type: api.EventVersionNotAwake, Generation: g.Number, Actor: by.actor,
		Message: fmt.Sprintf("%s did not wake up: %s", k.key, bounded(err.Error(), maxReason)),
	})
}

// woken forgets a wish to wake up, and says whether it was still the present one.
func (k *keeper) woken(by *halt) bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if k.waking != by {
		return false
	}
	k.waking = nil
	return true
}
