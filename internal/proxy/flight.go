package proxy

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/layover-dev/layover/internal/route"
)

// flights counts the requests in flight to each instance, by the instance's ID.
//
// An entry is made by the first request to an instance and dropped by a sweep
// once the instance has left the table and is idle. A request that enters an entry just as
// it is dropped finds that its table is no longer the current one, leaves, and
// decides again; see [exchange.enter].
type flights struct {
	byID sync.Map // string -> *flight
}

// flight is a number of requests in flight, and the news when it becomes 0; for an instance
// also how it fares.
type flight struct {
	version *route.VersionEntry // whose instance it is, in the table at the time of the first request
	count   atomic.Int64
	pool    atomic.Pointer[pool] // the fast path's idle connections to it; see [flight.connections]
	outlier outlier
	routes  routesAt
	dropped atomic.Bool // from the map

	mu   sync.Mutex
	idle chan struct{} // closed when count becomes 0; nil while nobody waits
}

// of returns the entry of an instance of version.
func (f *flights) of(version *route.VersionEntry, id string) *flight {
	v, ok := f.byID.Load(id)
	if !ok {
		v, _ = f.byID.LoadOrStore(id, &flight{version: version})
	}
	return v.(*flight)
}

// ejected returns how many instances of table are out.
func (f *flights) ejected(table *route.Table, o *outliers) int {
	n := 0
	f.byID.Range(func(id, v any) bool {
		if flight := v.(*flight); o.out(&flight.outlier) && hasInstance(table, flight.version, id.(string)) {
			n++
		}
		return true
	})
	return n
}

// busy returns the versions of instances with requests in flight, each once.
func (f *flights) busy() []string {
	found := make(map[string]bool)
	f.byID.Range(func(_, v any) bool {
		if flight := v.(*flight); flight.count.Load() > 0 {
			found[flight.version.ID] = true
		}
		return true
	})
	return slices.Sorted(maps.Keys(found))
}

// inFlight returns how many requests are at the instances of each version that has had any.
func (f *flights) inFlight() map[string]int64 {
	found := make(map[string]int64)
	f.byID.Range(func(_, v any) bool {
		flight := v.(*flight)
		found[flight.version.ID] += flight.count.Load()
		return true
	})
	return found
}

func (f *flights) waitIdle(ctx context.Context, id string) error {
	v, ok := f.byID.Load(id)
	if !ok {
		return nil
	}
	return v.(*flight).waitIdle(ctx)
}

// sweep drops the idle entries of instances that table does not have.
func (f *flights) sweep(table *route.Table) {
	f.byID.Range(func(id, v any) bool {
		flight := v.(*flight)
		if flight.count.Load() == 0 && !hasInstance(table, flight.version, id.(string)) {
			f.byID.Delete(id)
			flight.dropped.Store(true)
		}
		return true
	})
}

func hasInstance(table *route.Table, of *route.VersionEntry, id string) bool {
	service := table.Service(of.Service.Name)
	if service == nil {
		return false
	}
	version := service.Version(of.Name)
	if version == nil {
		return false
	}
	for i := range version.Instances {
		if version.Instances[i].ID == id {
			return true
		}
	}
	return false
}

// connections returns the idle connections to the instance, as the table has it now.
func (f *flight) connections(all *pools, instance *route.Instance) *pool {
	if p := f.pool.Load(); p.leadsTo(instance) {
		return p
	}
	p := all.of(instance)
	f.pool.Store(p)
	return p
}

func (f *flight) enter() { f.count.Add(1) }

func (f *flight) leave() {
	if f.count.Add(-1) > 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

func (f *flight) waitIdle(ctx context.Context) error {
	for {
		idle := f.idleSignal()
		if f.count.Load() == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// idleSignal returns a channel that is closed the next time the count becomes 0.
func (f *flight) idleSignal() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	return f.idle
}
