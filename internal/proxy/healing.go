package proxy

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/layover-dev/layover/internal/route"
)

// Defaults of [Healing].
const (
	DefaultTraces = 100_000
	DefaultTTL    = 10 * time.Minute
)

// Healing bounds what the proxy remembers in order to know a route again that a service lost (R6). Whether it is used
// at all, the table says for each service.
type Healing struct {
	Traces int           // traces whose route is remembered; 0 means DefaultTraces, below 0 none
	TTL    time.Duration // for how long; 0 means DefaultTTL
}

// heal looks for the route of a request that came without one. It never guesses: where two things are known that do not
// agree, nothing is.
func (x *exchange) heal(table *route.Table) {
	modes := x.decision.Service.Healing
	var byTrace, byOrigin string
	if isOn(modes.Trace) && x.joins() {
		byTrace = x.proxy.traces.route(x.record.TraceID, x.record.Time)
	}
	if isOn(modes.Origin) && x.caller != nil {
		byOrigin = x.caller.flight.routes.sole(x.record.Time)
	}
	lost, by, mode := byTrace, route.ByHealedTrace, modes.Trace
	switch {
	case byTrace != "" && byOrigin != "" && byTrace != byOrigin:
		return
	case byTrace == "" || byOrigin != "" && mode != route.HealOn: // where one heals and the other does not, that one counts
		if byOrigin != "" {
			lost, by, mode = byOrigin, route.ByHealedOrigin, modes.Origin
		}
	}
	if lost == "" {
		return
	}
	x.record.Lost = lost
	if mode == route.HealOn {
		x.ask.Healed, x.ask.HealedBy = lost, by
		x.decision = table.Resolve(&x.ask)
	}
}

func isOn(mode route.HealMode) bool { return mode == route.HealWarn || mode == route.HealOn }

// remember notes the route of a request for its trace.
func (x *exchange) remember() {
	if (x.table.HealsByTrace() || x.proxy.options.RememberTraces) && x.decision.Route != "" && x.joins() {
		x.proxy.traces.note(x.record.TraceID, x.decision.Route, x.record.Time)
	}
}

// traces remembers the routes of traces: the newest, in bounded memory.
type traces struct {
	most   int // of one shard
	ttl    time.Duration
	epoch  time.Time
	shards [traceShards]traceShard
}

const (
	traceBits   = 6
	traceShards = 1 << traceBits
)

type traceShard struct {
	mu   sync.Mutex
	byID map[TraceID]traceRoute
	ring []TraceID // in the order they came; the oldest makes room
	next int
}

// traceRoute is what is known of a trace. The zero route says that it was seen with several.
type traceRoute struct {
	route unique.Handle[string]
	seen  time.Duration // after the epoch, last
}

func (t *traces) init(options Healing) {
	t.most = max(orDefault(options.Traces, DefaultTraces), 0)
	t.most = (t.most + traceShards - 1) / traceShards
	t.ttl = orDefault(options.TTL, DefaultTTL)
	t.epoch = time.Now()
}

func (t *traces) shard(id TraceID) *traceShard {
	const golden = 0x9e3779b97f4a7c15 // Fibonacci hashing: some tracers have zeros, the time or a counter in a part of it
	x := binary.LittleEndian.Uint64(id[:8]) ^ binary.LittleEndian.Uint64(id[8:])
	return &t.shards[x*golden>>(64-traceBits)]
}

// note remembers that a trace was seen with a route.
func (t *traces) note(id TraceID, name string, at time.Time) {
	if t.most == 0 {
		return
	}
	seen, s := at.Sub(t.epoch), t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.byID[id]
	switch {
	case !ok || seen-known.seen > t.ttl:
		known.route = unique.Make(name) // which clones it
	case known.route != unique.Handle[string]{} && known.route.Value() != name:
		known.route = unique.Handle[string]{}
	}
	known.seen = max(known.seen, seen)
	if !ok {
		s.makeRoom(id, t.most)
	}
	s.byID[id] = known
}

func (s *traceShard) makeRoom(id TraceID, most int) {
	if s.byID == nil {
		s.byID = make(map[TraceID]traceRoute)
	}
	if len(s.ring) < most {
		s.ring = append(s.ring, id)
		return
	}
	delete(s.byID, s.ring[s.next])
	s.ring[s.next] = id
	s.next = (s.next + 1) % most
}

// route returns the only route that a trace was seen with lately; "" where there is none.
func (t *traces) route(id TraceID, at time.Time) string {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.byID[id]
	if !ok || known.route == (unique.Handle[string]{}) || at.Sub(t.epoch)-known.seen > t.ttl {
		return ""
	}
	return known.route.Value()
}

// routesAt counts the requests that are at an instance, by their route. One that has none counts as well: then nobody knows
// whether a call without a route is of that.
type routesAt struct {
	mu    sync.Mutex
	known []routeAt
}

type routeAt struct {
	route string
	count int
	ended time.Time // the last one
}

// lingers is for how long a request that has ended may have calls that go on.
const lingers = 2 * time.Second

// enter counts a request in.
func (r *routesAt) enter(name string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = slices.DeleteFunc(r.known, func(k routeAt) bool { return k.count == 0 && now.Sub(k.ended) > lingers })
	for i := range r.known {
		if r.known[i].route == name {
			r.known[i].count++
			return
		}
	}
	r.known = append(r.known, routeAt{route: strings.Clone(name), count: 1})
}

// leave counts a request out.
func (r *routesAt) leave(name string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.known {
		if k := &r.known[i]; k.route == name {
			k.count--
			k.ended = now
			return
		}
	}
}

// sole returns the route of all requests that are at the instance, or were a moment ago; "" where there is none, or more than one.
func (r *routesAt) sole(now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	only, goesOn := "", false
	for i, n := 0, 0; i < len(r.known); i++ {
		k := &r.known[i]
		if k.count == 0 && now.Sub(k.ended) > lingers {
			continue
		}
		if n++; n > 1 {
			return ""
		}
		only, goesOn = k.route, k.count > 0
	}
	if !goesOn {
		return ""
	}
	return only
}

// callers finds the instance that makes a call by the address it comes from.
type callers struct {
	count  atomic.Int64
	mu     sync.RWMutex
	byAddr map[netip.Addr]*caller
}

// caller is an instance that calls.
type caller struct {
	instance string
	version  *route.VersionEntry
	flight   *flight
}

// note remembers where the calls of an instance come from. The newest with an address has it: one that
// is gone may have had it before.
func (c *callers) note(version *route.VersionEntry, instance *route.Instance, flight *flight) {
	from, err := netip.ParseAddr(instance.From)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byAddr == nil {
		c.byAddr = map[netip.Addr]*caller{}
	}
	c.byAddr[from.Unmap()] = &caller{instance: instance.ID, version: version, flight: flight}
	c.count.Store(int64(len(c.byAddr)))
}

// find returns the instance whose calls come from an address, nil where there is none that is known.
func (c *callers) find(from netip.Addr) *caller {
	if c.count.Load() == 0 {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	found := c.byAddr[from.Unmap()]
	if found == nil || found.flight.dropped.Load() {
		return nil
	}
	return found
}

// sweep forgets the instances that were dropped.
func (c *callers) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for from, found := range c.byAddr {
		if found.flight.dropped.Load() {
			delete(c.byAddr, from)
		}
	}
	c.count.Store(int64(len(c.byAddr)))
}
