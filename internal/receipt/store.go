// Package receipt keeps what proxies saw of recent requests, joins it into the receipt of each, and finds out which
// services lose the route on the way: the propagation X-ray.
package receipt

import (
	"cmp"
	"encoding/hex"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/layover-dev/layover/api"
)

// DefaultHops is how many hops a [Store] keeps where nothing is said: about 400 bytes each.
const DefaultHops = 200_000

// Options say what a [Store] keeps. The zero value is ready to use.
type Options struct {
	Hops   int           // how many; 0 means DefaultHops
	Settle time.Duration // how long a call waits until what it belongs to is known as well; 0 means DefaultSettle
}

// DefaultSettle is the default of [Options].Settle.
const DefaultSettle = 2 * time.Second

// Store keeps hops, the newest of each version, in bounded memory. It is safe for concurrent use.
type Store struct {
	most   int
	settle time.Duration
	clock  func() time.Time
	since  time.Time // when it was made

	mu       sync.Mutex
	hops     []hop // all places; those in free are empty
	free     []int32
	byTrace  map[traceID]chain
	versions map[string]*queue // by service@version of what answered
	instance map[string]*queue // the last hops that an instance answered, for calls that have no trace
	waiting  []waiting         // for their verdict, in the order they came
	late     []waiting         // those that had no caller then
	added    uint64
	dropped  map[string]uint64 // by proxy
	news     chan struct{}
	xray     xray
	runs     runs
}

type traceID [16]byte

// chain are the hops of one trace: the newest one, from which the others follow, and how many there are.
type chain struct{ newest, hops int32 }

// maxChain bounds a chain: a client that uses one trace id for all that it sends would have every look at it take for ever.
const maxChain = 1000

// hop is a Hop as the store has it.
type hop struct {
	trace    traceID
	span     [8]byte // of the caller
	own      [8]byte // of the proxy; zero where it has none
	at       int64   // nanoseconds since 1970
	took     int64
	held     int64
	caller   text
	callerOf text
	service  text
	version  text
	instance text
	method   text
	host     text
	route    text
	by       text
	fallback text
	lost     text
	run      text // of its baggage, or of the request that it belongs to
	problem  text
	path     string
	baggage  *api.Baggage
	status   int32
	next     int32 // the hop of the same trace that came before; -1 for none
	number   uint64
	used     bool
	counted  bool // for its run
	chained  bool // it is in the chain of its trace
	named    bool // that trace is made of the request's name
}

// text is one of few texts, which are kept once.
type text = unique.Handle[string]

// queue has places in the order they were filled.
type queue struct {
	places []int32
	first  int
}

func (q *queue) push(place int32) { q.places = append(q.places, place) }
func (q *queue) len() int         { return len(q.places) - q.first }

func (q *queue) pop() int32 {
	place := q.places[q.first]
	q.first++
	if q.first > 64 && q.first > len(q.places)/2 {
		q.places = append([]int32(nil), q.places[q.first:]...)
		q.first = 0
	}
	return place
}

// New returns a store.
func New(options Options) *Store {
	return &Store{
		most: cmp.Or(options.Hops, DefaultHops), settle: cmp.Or(options.Settle, DefaultSettle), clock: time.Now, since: time.Now(),
		byTrace: map[traceID]chain{}, versions: map[string]*queue{}, instance: map[string]*queue{}, dropped: map[string]uint64{},
		news: make(chan struct{}), xray: xray{edges: map[edgeKey]*edge{}}, runs: newRuns(),
	}
}

// Add takes in what a proxy saw.
func (s *Store) Add(batch api.HopBatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range batch.Hops {
		s.addLocked(&batch.Hops[i])
	}
	if batch.Dropped > s.dropped[batch.Proxy] || batch.Dropped == 0 {
		s.dropped[batch.Proxy] = batch.Dropped
	}
	s.judgeLocked()
	close(s.news)
	s.news = make(chan struct{})
}

// maxProxies bounds how many proxies are told apart by what they dropped.
const maxProxies = 1000

// Counts returns how many requests proxies told of, and how many they could not tell of.
func (s *Store) Counts() (told, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.added, s.droppedLocked()
}

func (s *Store) droppedLocked() uint64 {
	var all uint64
	for proxy, n := range s.dropped {
		all += n
		if len(s.dropped) > maxProxies {
			delete(s.dropped, proxy)
		}
	}
	return all
}

func (s *Store) addLocked(h *api.Hop) {
	place := s.placeLocked()
	id := h.ID()
	n := hop{
		at: h.Time.UnixNano(), took: int64(h.Duration), held: int64(h.Held),
		caller: makeText(h.Caller), callerOf: makeText(h.CallerOf), service: makeText(h.Service), version: makeText(h.Version),
		instance: makeText(h.Instance), method: makeText(h.Method), host: makeText(h.Host), route: makeText(h.Route),
		by: makeText(h.By), fallback: makeText(h.Fallback), lost: makeText(h.Lost), run: makeText(h.Run), problem: makeText(h.Error),
		path: h.Path, baggage: h.Baggage, status: int32(h.Status), next: -1, used: true, named: h.Named, //nolint:gosec // a status
	}
	_, _ = hex.Decode(n.trace[:], []byte(h.Trace[:min(len(h.Trace), 32)])) // zero where it is none
	_, _ = hex.Decode(n.span[:], []byte(h.Parent[:min(len(h.Parent), 16)]))
	_, _ = hex.Decode(n.own[:], []byte(h.Span[:min(len(h.Span), 16)]))
	s.runs.see(&n)
	s.added++
	n.number = s.added
	if of, ok := s.byTrace[n.trace]; n.trace != (traceID{}) && of.hops < maxChain {
		if ok {
			n.next = of.newest
		}
		n.chained = true
		s.byTrace[n.trace] = chain{place, of.hops + 1}
	}
	s.hops[place] = n
	s.pushLocked(s.versions, id, place)
	if h.Instance != "" {
		q := s.pushLocked(s.instance, h.Instance, place)
		for q.len() > instanceHops {
			q.pop()
		}
	}
	s.waiting = append(s.waiting, waiting{place, n.number, s.clock()})
}

// instanceHops is how many of the last hops of an instance are looked at for what it was at.
const instanceHops = 512

func (s *Store) pushLocked(to map[string]*queue, name string, place int32) *queue {
	q := to[name]
	if q == nil {
		q = &queue{}
		to[name] = q
	}
	q.push(place)
	return q
}

// placeLocked returns an empty place. Where there is none, the versions with the most hops make room: a busy one does not
// push out a rare one.
func (s *Store) placeLocked() int32 {
	if len(s.hops) < s.most {
		s.hops = append(s.hops, hop{})
		return int32(len(s.hops) - 1) //nolint:gosec // bounded by most
	}
	if len(s.free) == 0 {
		s.makeRoomLocked()
	}
	place := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	return place
}

// roomShare is which part of all places is made free at once.
const roomShare = 64

func (s *Store) makeRoomLocked() {
	all := make([]*queue, 0, len(s.versions))
	for id, q := range s.versions {
		if q.len() == 0 {
			delete(s.versions, id)
			continue
		}
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b *queue) int { return b.len() - a.len() })
	want := max(s.most/roomShare, 1)
	// All that are longer than the level give what is above it.
	level, above := 0, 0
	for i, q := range all {
		level = 0
		if i+1 < len(all) {
			level = all[i+1].len()
		}
		if above += (q.len() - level) * (i + 1); above >= want {
			level += (above - want) / (i + 1)
			break
		}
	}
	for _, q := range all {
		for q.len() > level && len(s.free) < want {
			s.forgetLocked(q.pop())
		}
	}
	for name, q := range s.instance { // what it was at is long over
		for q.len() > 0 && s.hops[q.places[q.first]].instance.Value() != name {
			q.pop()
		}
		if q.len() == 0 {
			delete(s.instance, name)
		}
	}
}

func (s *Store) forgetLocked(place int32) {
	h := &s.hops[place]
	if h.chained {
		s.unlinkLocked(h, place)
	}
	*h = hop{next: -1, instance: nobody(), run: nobody()}
	s.free = append(s.free, place)
}

// unlinkLocked takes a hop out of its trace.
func (s *Store) unlinkLocked(h *hop, place int32) {
	of := s.byTrace[h.trace]
	if of.hops == 1 {
		delete(s.byTrace, h.trace)
		return
	}
	at := of.newest
	if at == place {
		of.newest = h.next
	}
	of.hops--
	s.byTrace[h.trace] = of
	for at != place && at >= 0 {
		other := &s.hops[at]
		if other.next == place {
			other.next = h.next
			return
		}
		at = other.next
	}
}

// nobody is the instance of no hop.
func nobody() text { return makeText("") }

// api returns a hop as the API has it.
func (h *hop) api() api.Hop {
	out := api.Hop{
		Time: time.Unix(0, h.at).UTC(), Duration: api.Duration(h.took), Held: api.Duration(h.held), Caller: h.caller.Value(), CallerOf: h.callerOf.Value(),
		Service: h.service.Value(), Version: h.version.Value(), Instance: h.instance.Value(), Method: h.method.Value(), Host: h.host.Value(),
		Path: h.path, Route: h.route.Value(), By: h.by.Value(), Fallback: h.fallback.Value(), Lost: h.lost.Value(), Run: h.run.Value(),
		Status: int(h.status), Error: h.problem.Value(), Baggage: h.baggage,
	}
	if h.trace != (traceID{}) {
		out.Trace = hex.EncodeToString(h.trace[:])
		out.Parent, out.Named = hex.EncodeToString(h.span[:]), h.named
		if h.own != ([8]byte{}) {
			out.Span = hex.EncodeToString(h.own[:])
		}
	}
	return out
}

func makeText(s string) text { return unique.Make(s) }
