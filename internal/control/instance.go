package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
	"github.com/layover-dev/layover/internal/route"
)

// logRun is the present run of the instance.
func (i *instance) logRun(key Key, id string) logRun {
	return logRun{
		LogRun: LogRun{
			Instance: id, Service: key.Service, Version: key.Version, Generation: i.Generation, StartedAt: i.StartedAt, EndedAt: i.EndedAt,
		},
		runtime: i.runtime, running: i.Running,
	}
}

// instance is what the keeper knows of one running copy. Its fields are guarded by Control.mu,
// except for those that say which instance it is: they never change.
type instance struct {
	Status
	EndedAt   time.Time            // when it was seen to have ended
	since     time.Time            // when this server saw it run first, or come back
	runtime   string               // name of its runtime
	healthy   map[string]bool      // addresses that passed their last check
	health    string               // the last check, in words
	failures  map[string]failure   // addresses that did not pass their last check
	nextCheck time.Time            // of all addresses
	coming    map[string]time.Time // addresses that never were healthy, and since when they are known
	nextLook  time.Time            // next check of those that come
	ready     bool                 // was healthy once since it was started
	leaving   bool                 // gets no new requests, will be stopped
	dozing    bool                 // while leaving: its requests have all the time they need
	ending    bool                 // it is being stopped: it cannot stay
	recall    func()               // while leaving: has it looked again whether it is to end
	ended     chan struct{}        // closed when it has ended
}

// failure is what an address failed with, and how often in a row.
type failure struct {
	err   error
	times int
}

func newInstance(runtime string, s Status) *instance {
	i := &instance{Status: s, since: time.Now(), runtime: runtime, healthy: map[string]bool{}, ended: make(chan struct{})}
	i.meet(nil)
	if !s.Running {
		i.EndedAt = time.Now()
		close(i.ended)
	}
	return i
}

// updateLocked takes over what a runtime says, and says whether anything changed. A
// status of an earlier run under the same ID is ignored.
func (i *instance) updateLocked(s Status) bool {
	switch {
	case s.StartedAt.Before(i.StartedAt):
		return false
	case i.Running && !s.Running:
		i.EndedAt = time.Now()
		close(i.ended)
		i.take(s)
		i.healthy = map[string]bool{}
		return true
	case !i.Running && s.Running && s.StartedAt.After(i.StartedAt):
		i.take(s)
		i.since, i.healthy, i.ended = time.Now(), map[string]bool{}, make(chan struct{})
		i.failures, i.health, i.nextCheck, i.ready = nil, "", time.Time{}, false
		return true
	case i.Running && s.Running && slices.Equal(i.Addresses, s.Addresses):
		i.Images, i.Base = s.Images, s.Base // for people: no route depends on them
	case i.Running && s.Running:
		i.take(s)
		i.nextCheck = time.Time{}
		return true
	}
	return false
}

// take takes over all of a status but what says which instance it is of: that is
// read without the lock.
func (i *instance) take(s Status) {
	before := i.Addresses
	if !i.StartedAt.Equal(s.StartedAt) {
		before = nil // another run, whatever its addresses
	}
	i.Addresses, i.StartedAt = s.Addresses, s.StartedAt
	i.Running, i.ExitCode, i.Reason = s.Running, s.ExitCode, s.Reason
	i.Images, i.Base = s.Images, s.Base
	i.meet(before)
}

// meet notes the addresses that were not among those before: they come up, and are checked more often until they are healthy.
func (i *instance) meet(before []Address) {
	known, coming := i.coming, map[string]time.Time{}
	for _, a := range i.Addresses {
		if since, ok := known[a.HostPort]; ok && len(before) > 0 {
			coming[a.HostPort] = since
		} else if !slices.ContainsFunc(before, func(b Address) bool { return b.HostPort == a.HostPort }) {
			coming[a.HostPort] = time.Now()
		}
	}
	i.coming, i.nextLook = coming, time.Time{}
}

// comingLocked returns the addresses that come up, and when to check them next: 0 is now. An address that takes longer than
// limit is checked as often as all others.
func (i *instance) comingLocked(limit time.Duration) (some []Address, in time.Duration) {
	for _, a := range i.Addresses {
		since, ok := i.coming[a.HostPort]
		if ok && time.Since(since) > limit {
			delete(i.coming, a.HostPort)
		} else if ok {
			some = append(some, a)
		}
	}
	return some, max(time.Until(i.nextLook), 0)
}

// pauseLocked is the time between two checks of the addresses that come up: that of the newest.
func (i *instance) pauseLocked() time.Duration {
	pause := maxPause
	for _, since := range i.coming {
		pause = min(pause, startPause(since))
	}
	return pause
}

// routed returns the addresses that may get requests, as the table has them.
func (i *instance) routed() []route.Instance {
	if !i.Running || i.leaving {
		return nil
	}
	var out []route.Instance
	for _, a := range i.Addresses {
		if i.healthy[a.HostPort] {
			out = append(out, route.Instance{
				ID: i.routeID(a), Address: a.HostPort, TLS: a.TLS, ServerName: a.ServerName, Host: a.Host, From: a.From,
			})
		}
	}
	return out
}

// routeID names one address of the instance to the data plane.
func (s *Status) routeID(a Address) string {
	if len(s.Addresses) == 1 {
		return s.ID
	}
	return s.ID + "/" + a.HostPort
}

// drain returns when no proxy needs an instance any more that is out of the table, or
// the time for that is over. It returns false where ctx ends before.
//
// Requests to a version that goes to sleep have no limit: no stream ends for that.
func (c *Control) drain(ctx context.Context, s Status, unlimited bool) bool {
	if s.StartedAt.Before(c.began) && !c.proxiesBack(ctx) {
		return false
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if !unlimited {
		service, _ := c.service(s.Service)
		limited, cancel = context.WithTimeout(ctx, service.Drain.Or(defaultDrain))
	}
	defer cancel()
	if c.opts.WholeDrain && !unlimited {
		<-limited.Done()
		return ctx.Err() == nil
	}
	version := Key{Service: s.Service, Version: s.Version}.String()
	for again := true; again && ctx.Err() == nil; {
		for _, a := range s.Addresses {
			_ = c.fleet.WaitIdle(limited, s.routeID(a)) // the time-out is the answer
		}
		again = unlimited && c.fleet.waitSilent(ctx, version)
	}
	return ctx.Err() == nil
}

// checkup is the result of a probe.
type checkup struct {
	before, after int    // healthy addresses
	changed       bool   // which ones they are
	health        string // in words
}

// probe checks some addresses once, nil is every one.
func (k *keeper) probe(ctx context.Context, s api.Service, inst *instance, some []Address) checkup {
	k.c.mu.Lock()
	all, run := inst.Addresses, inst.StartedAt
	k.c.mu.Unlock()
	addresses := some
	if some == nil {
		addresses = all
	}
	errs := make([]error, len(addresses))
	var group errgroup.Group
	group.SetLimit(checksAtOnce)
	for i, a := range addresses {
		group.Go(func() error {
			errs[i] = checkHealth(ctx, s, a)
			return nil
		})
	}
	_ = group.Wait() // every error is in errs

	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	seen := checkup{before: len(inst.healthy), after: len(inst.healthy), health: inst.health}
	if ctx.Err() != nil || !inst.Running || !inst.StartedAt.Equal(run) {
		return seen // it proves nothing any more
	}
	limit := cmp.Or(s.Health.Failures, defaultFailures)
	healthy, failures := map[string]bool{}, map[string]failure{}
	var now []error // of all addresses
	for _, a := range all {
		failed, fine := inst.failures[a.HostPort], inst.healthy[a.HostPort]
		switch i := slices.Index(addresses, a); {
		case i >= 0 && errs[i] == nil:
			failed, fine = failure{}, true
			delete(inst.coming, a.HostPort)
		case i >= 0:
			failed = failure{err: errs[i], times: failed.times + 1}
			fine = fine && failed.times < limit
		}
		if failed.err != nil {
			failures[a.HostPort] = failed
		}
		if fine {
			healthy[a.HostPort] = true
		}
		now = append(now, failed.err)
	}
	seen.after, seen.changed = len(healthy), !maps.Equal(healthy, inst.healthy)
	seen.health = describeHealth(now)
	inst.healthy, inst.failures, inst.health = healthy, failures, seen.health
	if seen.after > 0 {
		inst.ready = true
		k.recoveredLocked(inst)
	}
	if seen.changed {
		k.c.touchLocked(k.key)
	}
	return seen
}

// recoveredLocked forgets why an instance did not answer.
func (k *keeper) recoveredLocked(inst *instance) {
	if p := k.places[inst.ID]; p != nil {
		p.failure = ""
	}
}

// describeHealth says in words what the checks of an instance's addresses gave.
func describeHealth(errs []error) string {
	bad := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	switch {
	case len(errs) == 0:
		return "unhealthy: it has no address"
	case len(bad) == 0:
		return "healthy"
	case len(bad) == len(errs):
		return "unhealthy: " + bounded(bad[0].Error(), maxReason)
	}
	return fmt.Sprintf("healthy at %d of %d addresses: %s", len(errs)-len(bad), len(errs), bounded(bad[0].Error(), maxReason))
}

// release lets go of the instances that rec does not want: they leave the table,
// finish what is in flight, and are stopped, all in the background. None is wanted
// again (a later deployment has another ID, and so has an instance that is added), unless
// it leaves for its version to sleep. It returns how many are still there, or are just being started.
func (k *keeper) release(rec *VersionRecord) int {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	ctx := k.c.ctx // the step that lets go ends before
	left := k.withdrawLocked(rec)
	for _, inst := range k.instances {
		if rec.wants(inst.Generation, inst.ID) {
			continue
		}
		left++
		if inst.leaving && inst.dozing && rec.Desired != DesiredAsleep {
			inst.dozing = false
			inst.recall() // its requests have less time from now on
		}
		if !inst.leaving && k.c.group != nil {
			inst.leaving = true
			k.c.touchLocked(k.key)
			k.c.group.Go(func() error {
				k.retire(ctx, inst)
				return nil
			})
		}
	}
	return left
}

// retire stops an instance that is leaving, once it is out of the table, and its
// requests have ended or its time to drain is over. Where the server ends
// meanwhile, the next one does it.
func (k *keeper) retire(ctx context.Context, inst *instance) {
	if k.c.publishAtLast(ctx) != nil {
		return
	}
	failpoint.Pass(failpoint.RetirePublished)
	if !k.unused(ctx, inst) {
		return
	}
	failpoint.Pass(failpoint.RetireDrained)
	rt := k.c.opts.Runtimes[inst.runtime]
	for delay := retryDelay; ; delay = min(2*delay, maxRestartDelay) {
		if ctx.Err() != nil {
			return
		}
		err := rt.Stop(ctx, inst.ID, k.c.grace(k.key.Service))
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			k.c.log.Error("instance not stopped", "service", k.key.Service, "version", k.key.Version, "err", err)
		}
		if !pause(ctx, delay) {
			return
		}
	}
	failpoint.Pass(failpoint.RetireStopped)
	k.c.mu.Lock()
	delete(k.instances, inst.ID)
	k.c.mu.Unlock()
	k.look()
}

// unused waits until an instance that leaves may be stopped. It returns false where it
// may not: the server ends, or the version woke up, and the instance stays.
func (k *keeper) unused(ctx context.Context, inst *instance) bool {
	for ctx.Err() == nil {
		k.c.mu.Lock()
		rec := k.c.records[k.key]
		if inst.Running && rec != nil && rec.wants(inst.Generation, inst.ID) {
			inst.leaving, inst.dozing, inst.recall = false, false, nil
			k.c.touchLocked(k.key)
			k.c.mu.Unlock()
			k.c.changed(ctx)
			k.look()
			return false
		}
		waiting, recall := context.WithCancel(ctx)
		inst.recall, inst.dozing = recall, rec != nil && rec.Desired == DesiredAsleep
		status, dozing := inst.Status, inst.dozing
		k.c.mu.Unlock()

		over := k.c.drain(waiting, status, dozing)
		recall()
		k.c.mu.Lock()
		rec = k.c.records[k.key]
		inst.ending = over && (rec == nil || !rec.wants(inst.Generation, inst.ID) || !inst.Running)
		ending := inst.ending
		k.c.mu.Unlock()
		if ending {
			return true
		}
	}
	return false
}
