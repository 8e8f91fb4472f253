package control

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// instance is what the keeper knows of one running copy. Its fields are guarded by Control.mu.
type instance struct {
	Status
	EndedAt   time.Time       // when it was seen to have ended
	runtime   string          // name of its runtime
	healthy   map[string]bool // addresses that passed their last check
	health    string          // the last check, in words
	failures  int             // failed checks in a row
	nextCheck time.Time
	ready     bool          // was healthy once
	leaving   bool          // gets no new requests, will be stopped
	ended     chan struct{} // closed when it has ended
}

func newInstance(runtime string, s Status) *instance {
	i := &instance{Status: s, runtime: runtime, healthy: map[string]bool{}, ended: make(chan struct{})}
	if !s.Running {
		i.EndedAt = time.Now()
		close(i.ended)
	}
	return i
}

// instanceID names the instance of one generation. Names have no "--", so it is unambiguous.
func instanceID(key Key, generation int64) string {
	return key.Service + "--" + key.Version + "--" + strconv.FormatInt(generation, 10)
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
		i.Status, i.healthy = s, map[string]bool{}
		return true
	case !i.Running && s.Running && s.StartedAt.After(i.StartedAt):
		i.Status, i.healthy, i.ended = s, map[string]bool{}, make(chan struct{})
		i.failures, i.nextCheck, i.leaving = 0, time.Time{}, false
		return true
	case i.Running && s.Running && !sameAddresses(i.Addresses, s.Addresses):
		i.Status, i.nextCheck = s, time.Time{}
		return true
	}
	return false
}

func sameAddresses(a, b []Address) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
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
				ID: i.routeID(a), Address: a.HostPort, TLS: a.TLS, ServerName: a.ServerName, Host: a.Host,
			})
		}
	}
	return out
}

// routeID names one address of the instance to the data plane.
func (i *instance) routeID(a Address) string {
	if len(i.Addresses) == 1 {
		return i.ID
	}
	return i.ID + "/" + a.HostPort
}

// routeIDs names every address of the instance to the data plane.
func (k *keeper) routeIDs(inst *instance) []string {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	var ids []string
	for _, a := range inst.Addresses {
		ids = append(ids, inst.routeID(a))
	}
	return ids
}

// probe checks every address once. It returns how many were healthy before and are now.
func (k *keeper) probe(ctx context.Context, s api.Service, inst *instance) (before, after int) {
	k.c.mu.Lock()
	addresses := inst.Addresses
	k.c.mu.Unlock()

	passed := map[string]bool{}
	var last error
	for _, a := range addresses {
		if err := checkHealth(ctx, s, a); err != nil {
			last = err
		} else {
			passed[a.HostPort] = true
		}
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	before = len(inst.healthy)
	switch {
	case ctx.Err() != nil || !inst.Running:
		return before, before
	case len(passed) > 0 || len(addresses) == 0:
		inst.failures, inst.healthy, inst.health = 0, passed, "healthy"
	default:
		inst.failures++
		inst.health = fmt.Sprintf("unhealthy: %s", last)
		limit := s.Health.Failures
		if limit == 0 {
			limit = defaultFailures
		}
		if inst.failures >= limit || !inst.ready {
			inst.healthy = passed
		}
	}
	return before, len(inst.healthy)
}

// release lets go of the instances that match: they leave the table, finish
// what is in flight, and are stopped, all in the background. It returns how many
// matching ones are still there.
func (k *keeper) release(match func(*instance) bool) int {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	ctx := k.c.ctx // the step that lets go ends before
	left := 0
	for _, inst := range k.instances {
		if !match(inst) {
			continue
		}
		left++
		if !inst.leaving && k.c.group != nil {
			inst.leaving = true
			k.c.dirty++
			k.c.group.Go(func() error {
				k.retire(ctx, inst)
				return nil
			})
		}
	}
	return left
}

// retire stops an instance that is leaving, once its requests have ended or its
// time to drain is over. Where the server ends meanwhile, the next one does it.
func (k *keeper) retire(ctx context.Context, inst *instance) {
	if err := k.c.publish(ctx); err != nil {
		k.c.log.Error("routing table not published", "service", k.key.Service, "version", k.key.Version, "err", err)
	}
	s, _ := k.c.service(k.key.Service)
	drain, cancel := context.WithTimeout(ctx, s.Drain.Or(defaultDrain))
	for _, id := range k.routeIDs(inst) {
		_ = k.c.opts.DataPlane.WaitIdle(drain, id) // the time-out is the answer
	}
	cancel()
	rt := k.c.opts.Runtimes[inst.runtime]
	for delay := time.Second; ; delay = min(2*delay, maxRestartDelay) {
		err := rt.Stop(ctx, inst.ID, k.c.grace(k.key.Service))
		if err == nil {
			break
		}
		k.c.log.Error("instance not stopped", "service", k.key.Service, "version", k.key.Version, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
	k.c.mu.Lock()
	if k.instances[inst.ID] == inst {
		delete(k.instances, inst.ID)
	}
	k.c.mu.Unlock()
	k.look()
}

// exitReason says in words how an instance ended.
func exitReason(s Status) string {
	switch {
	case s.Reason != "":
		return s.Reason
	case s.ExitCode < 0:
		return "it ended; its exit code is not known"
	default:
		return fmt.Sprintf("exited with code %d", s.ExitCode)
	}
}
