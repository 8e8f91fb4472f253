package receipt

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// Bounds of what is kept of test runs.
const (
	maxRuns         = 2_000 // that were announced
	maxStrangers    = 500   // that were not
	maxRunEdges     = 1_000
	maxRunEndpoints = 1_000
	maxKnown        = 50_000 // endpoints of all versions
	maxKnownOfOne   = 500    // of one version
	maxCallers      = 32     // hops between a call and the request that names its run
)

// runs count what the requests of each test run reached. That stays when their hops are forgotten. Who reaches a proxy may name any
// run: those that nobody announced have a room of their own, and push out each other alone.
type runs struct {
	announced map[string]*run
	strangers map[string]*run
	known     map[text]map[endpointKey]*count // by service@version: all that was asked of it, by whomever
	size      int                             // of known
}

func newRuns() runs {
	return runs{announced: map[string]*run{}, strangers: map[string]*run{}, known: map[text]map[endpointKey]*count{}}
}

type run struct {
	edges           map[runEdge]*runCount
	endpoints       map[runEndpoint]*count
	cut             int // requests that are in none of these, for want of room
	requests        int
	errors          int
	took            int64
	first, last     int64
	requestsOutside int    // of the suite itself
	after           uint64 // number of the last hop that came before it was announced
}

type runEdge struct {
	caller, service, version, by, fallback text
	lost                                   string
}

type runEndpoint struct {
	id text
	endpointKey
}

type endpointKey struct{ method, path string }

// kept is a key that holds on to nothing else: the path of a hop is a part of all of its text.
func (k endpointKey) kept() endpointKey {
	return endpointKey{strings.Clone(k.method), strings.Clone(k.path)}
}

type count struct {
	requests, errors int
	last             int64
}

type runCount struct {
	count
	example traceID
}

func (c *count) add(h *hop) {
	c.requests++
	if failed(h) {
		c.errors++
	}
	c.last = max(c.last, h.at)
}

// failed says whether a request failed: by the server's fault, or as nobody waited for the answer.
func failed(h *hop) bool { return h.status >= 500 || h.status == 0 }

// see notes which endpoint of a version was asked.
func (r *runs) see(h *hop) {
	id := h.id()
	of := r.known[id]
	if of == nil {
		of = map[endpointKey]*count{}
		r.known[id] = of
	}
	key := endpointOf(h)
	c := of[key]
	if c == nil {
		if len(of) >= maxKnownOfOne || r.size >= maxKnown {
			return
		}
		c = &count{}
		of[key.kept()] = c
		r.size++
	}
	c.add(h)
}

// endpointOf is the endpoint that was asked. Methods that are no common ones are taken together.
func endpointOf(h *hop) endpointKey {
	method := h.method.Value()
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE":
	default:
		method = "OTHER"
	}
	return endpointKey{method, PathTemplate(h.path)}
}

// countRunLocked counts a hop for the run that it is part of, by its own baggage or by the request that it belongs to.
func (s *Store) countRunLocked(h *hop, caller *hop, by proof) {
	if h.counted {
		return
	}
	if h.run == nobody() {
		if caller == nil || by == unproven {
			return
		}
		h.run = s.runOfLocked(caller, maxCallers)
		if h.run == nobody() {
			return
		}
	}
	h.counted = true
	s.runs.count(h, caller, by)
}

// runOfLocked is the run of a hop, or of the request that it belongs to.
func (s *Store) runOfLocked(h *hop, callers int) text {
	for ; callers > 0 && h != nil; callers-- {
		if h.run != nobody() || h.trace == (traceID{}) && h.caller == nobody() {
			return h.run
		}
		caller, by := s.callerLocked(h)
		if by == unproven {
			return nobody()
		}
		h = caller
	}
	return nobody()
}

func (r *runs) count(h, caller *hop, by proof) {
	of := r.find(h.run.Value())
	if of == nil {
		makeRoom(r.strangers, maxStrangers)
		of = newRun(h.at)
		r.strangers[strings.Clone(h.run.Value())] = of
	}
	if h.number <= of.after {
		return
	}
	if of.requests == 0 {
		of.first, of.last = h.at, h.at
	}
	of.requests++
	if failed(h) {
		of.errors++
	}
	of.took += h.took
	of.first, of.last = min(of.first, h.at), max(of.last, h.at)
	key := runEdge{caller: h.callerOf, service: h.service, version: h.version, by: h.by, fallback: h.fallback}
	if caller != nil && by != unproven {
		if key.caller == nobody() {
			key.caller = caller.id()
		}
		if want := caller.route.Value(); hadToCarry(want, h.by.Value()) && !carries(h, want) {
			key.lost = loss(caller, h, want)
		}
	}
	if key.caller == nobody() {
		of.requestsOutside++
	}
	e := of.edges[key]
	if e == nil && len(of.edges) < maxRunEdges {
		e = &runCount{}
		of.edges[key] = e
	}
	if e != nil {
		e.add(h)
		if h.trace != (traceID{}) && !h.named {
			e.example = h.trace
		}
	} else {
		of.cut++
	}
	point := runEndpoint{h.id(), endpointOf(h)}
	p := of.endpoints[point]
	if p == nil && len(of.endpoints) < maxRunEndpoints {
		p = &count{}
		point.endpointKey = point.kept()
		of.endpoints[point] = p
	}
	if p != nil {
		p.add(h)
	}
}

func newRun(at int64) *run {
	return &run{edges: map[runEdge]*runCount{}, endpoints: map[runEndpoint]*count{}, first: at, last: at}
}

// find returns what is counted of a run, nil where nothing is known of it.
func (r *runs) find(id string) *run {
	if of := r.announced[id]; of != nil {
		return of
	}
	return r.strangers[id]
}

// makeRoom forgets the run that nothing was heard of for the longest time, where there are most of them.
func makeRoom(all map[string]*run, most int) {
	if len(all) < most {
		return
	}
	oldest, at := "", int64(0)
	for id, of := range all {
		if oldest == "" || of.last < at {
			oldest, at = id, of.last
		}
	}
	delete(all, oldest)
}

// Announce says that a test run begins, or goes on. What was counted under its ID before that is of somebody else, and forgotten. From
// now on requests of runs that nobody announced do not push it out.
func (s *Store) Announce(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs.announced[id] != nil {
		return
	}
	makeRoom(s.runs.announced, maxRuns)
	delete(s.runs.strangers, id)
	of := newRun(s.clock().UnixNano())
	of.after = s.added
	s.runs.announced[strings.Clone(id)] = of
}

// Reached returns what the requests of a test run reached, and false where none is known. Of a request is known a moment after
// its end what it belongs to: the answer says up to when that holds, and since when this store keeps anything.
func (s *Store) Reached(id string) (api.Reached, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judgeLocked()
	now := s.clock()
	out := api.Reached{Run: id, Now: now.UTC(), Judged: now.UTC(), Since: s.since.UTC(), Edges: []api.ReachedEdge{}, Endpoints: []api.Endpoint{}, Dropped: s.droppedLocked()}
	if len(s.waiting) > 0 {
		out.Judged = s.waiting[0].came.UTC()
	}
	of := s.runs.find(id)
	if of == nil || of.requests == 0 {
		return out, false
	}
	out.Requests, out.Errors, out.Direct, out.Cut = of.requests, of.errors, of.requestsOutside, of.cut
	out.Took = api.Duration(of.took)
	out.First, out.Last = time.Unix(0, of.first).UTC(), time.Unix(0, of.last).UTC()
	for key, c := range of.edges {
		e := api.ReachedEdge{
			Caller: key.caller.Value(), Service: key.service.Value(), Version: key.version.Value(), By: key.by.Value(), Fallback: key.fallback.Value(),
			Lost: key.lost, Requests: c.requests, Errors: c.errors,
		}
		if c.example != (traceID{}) {
			e.Example = hex.EncodeToString(c.example[:])
		}
		out.Edges = append(out.Edges, e)
	}
	slices.SortFunc(out.Edges, func(a, b api.ReachedEdge) int {
		return cmp.Or(strings.Compare(a.Caller, b.Caller), strings.Compare(a.Service, b.Service), strings.Compare(a.Version, b.Version),
			strings.Compare(a.By, b.By), strings.Compare(a.Fallback, b.Fallback), strings.Compare(a.Lost, b.Lost))
	})
	for key, c := range of.endpoints {
		out.Endpoints = append(out.Endpoints, endpoint(key.id, key.endpointKey, c))
	}
	sortEndpoints(out.Endpoints)
	return out, true
}

// Endpoints returns what was asked of the versions that a filter selects, by whomever.
func (s *Store) Endpoints(f api.VersionFilter) []api.Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Endpoint{}
	for id, of := range s.runs.known {
		service, version, _ := strings.Cut(id.Value(), "@")
		if f.Service != "" && f.Service != service || f.Version != "" && f.Version != version {
			continue
		}
		for key, c := range of {
			out = append(out, endpoint(id, key, c))
		}
	}
	sortEndpoints(out)
	return out
}

// RunOf returns the test run that a trace belongs to; "" where it belongs to none, or to several.
func (s *Store) RunOf(trace string) string {
	var id traceID
	if n, err := hex.Decode(id[:], []byte(trace[:min(len(trace), 32)])); err != nil || n != len(id) {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := ""
	for at := s.firstLocked(id); at >= 0; at = s.hops[at].next {
		switch name := s.hops[at].run.Value(); {
		case name == "" || name == found:
		case found != "":
			return ""
		default:
			found = name
		}
	}
	return found
}

func endpoint(id text, key endpointKey, c *count) api.Endpoint {
	service, version, _ := strings.Cut(id.Value(), "@")
	return api.Endpoint{Service: service, Version: version, Method: key.method, Path: key.path, Requests: c.requests, Errors: c.errors, Last: time.Unix(0, c.last).UTC()}
}

func sortEndpoints(all []api.Endpoint) {
	slices.SortFunc(all, func(a, b api.Endpoint) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Version, b.Version), strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
	})
}

// forget forgets endpoints that nobody asks any more.
func (r *runs) forget(now time.Time) {
	for id, of := range r.known {
		for key, c := range of {
			if now.Sub(time.Unix(0, c.last)) > forget {
				delete(of, key)
				r.size--
			}
		}
		if len(of) == 0 {
			delete(r.known, id)
		}
	}
}
