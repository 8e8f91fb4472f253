package receipt

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

const (
	settled   = 10             // times [Options].Settle a call waits where what it belongs to goes on for longer
	forget    = 24 * time.Hour // edges that nothing calls over any more
	maxEdges  = 20_000
	mostOfAll = 64 // members that a header may have (W3C Baggage)
)

// waiting is a hop that waits for its verdict.
type waiting struct {
	place  int32
	number uint64
	came   time.Time // by our clock: those of proxies may differ
}

// xray counts, for every version that calls a service, what becomes of the route.
type xray struct {
	edges   map[edgeKey]*edge
	unknown int
	since   time.Time
	looked  time.Time // for edges to forget
}

type edgeKey struct {
	caller text // service@version
	callee text
}

type edge struct {
	calls   int
	carried int
	byTrace losses
	// byOrigin counts if the route is never carried, and the instance does not make such calls by itself as well, as for
	// a cron job: alone is how many of those there were.
	byOrigin losses
	alone    int
	last     int64
}

// losses are calls that should have carried the route, and did not.
type losses struct {
	calls, healed int
	reasons       map[string]int
	example       *api.Hop
}

// What the losses that only their origin proves must be: several, and of all calls that the instance made by itself may be a
// tenth at most.
const (
	originLosses = 3
	aloneShare   = 10
)

// judgeLocked looks at the hops of which all that has to do with them should have come by now.
func (s *Store) judgeLocked() {
	now := s.clock()
	s.waiting = s.judgeThoseLocked(s.waiting, now, s.settle, false, func(w waiting) { s.late = append(s.late, w) })
	s.late = s.judgeThoseLocked(s.late, now, settled*s.settle, true, func(waiting) {})
	if now.Sub(s.xray.looked) > time.Minute {
		s.xray.looked = now
		s.xray.forget(now)
		s.runs.forget(now)
	}
}

// judgeThoseLocked judges those that have waited long enough, and returns the others. Of those that nothing is known to have
// called it tells later.
func (s *Store) judgeThoseLocked(all []waiting, now time.Time, wait time.Duration, last bool, later func(waiting)) []waiting {
	n := 0
	for _, w := range all {
		h := &s.hops[w.place]
		if now.Sub(w.came) < wait {
			break
		}
		if h.used && h.number == w.number {
			if !s.judgeOneLocked(w.place, last) {
				later(w)
			}
		}
		n++
	}
	if n == len(all) {
		return all[:0]
	}
	return all[n:]
}

// judgeOneLocked counts a call for its edge, and says whether it was known what it belongs to.
func (s *Store) judgeOneLocked(place int32, last bool) bool {
	h := &s.hops[place]
	caller, by := s.callerLocked(h)
	s.countRunLocked(h, caller, by)
	switch {
	case caller != nil && by != unproven:
		s.xray.count(caller, h, by)
	case !last: // what it belongs to may go on
		return false
	case caller != nil:
		s.xray.unknown++
	case h.callerOf.Value() != "":
		if e := s.xray.edge(h.callerOf, h); e != nil {
			e.alone++
		}
	}
	return true
}

// edge returns the edge of a call, and counts it; nil where there are too many.
func (x *xray) edge(caller text, h *hop) *edge {
	if caller.Value() == "" || h.service.Value() == "" {
		return nil
	}
	key := edgeKey{caller: caller, callee: h.service}
	e := x.edges[key]
	if e == nil {
		if len(x.edges) >= maxEdges {
			return nil
		}
		e = &edge{}
		x.edges[key] = e
	}
	if x.since.IsZero() {
		x.since = time.Unix(0, h.at).UTC()
	}
	e.calls++
	e.last = max(e.last, h.at)
	return e
}

// count counts a call that belongs to the hop caller.
func (x *xray) count(caller, h *hop, known proof) {
	e := x.edge(caller.id(), h)
	want, by := caller.route.Value(), h.by.Value()
	if e == nil || !hadToCarry(want, by) {
		return
	}
	if carries(h, want) {
		e.carried++
		return
	}
	lost := &e.byTrace
	if known == byOrigin {
		lost = &e.byOrigin
	}
	lost.calls++
	if by == route.ByHealedOrigin.String() || by == route.ByHealedTrace.String() {
		lost.healed++
	}
	if lost.reasons == nil {
		lost.reasons = map[string]int{}
	}
	lost.reasons[loss(caller, h, want)]++
	example := h.api()
	lost.example = &example
}

// hadToCarry says whether a call that belongs to a request with the route want had to carry it: not where there was nothing
// to carry, or where the call says for itself what it wants.
func hadToCarry(want, by string) bool {
	return want != "" && by != route.ByPreview.String() && by != route.ByCookie.String()
}

func carries(h *hop, want string) bool {
	by := h.by.Value()
	return (by == route.ByBaggage.String() || by == route.ByHeader.String()) && sameRoute(h.route.Value(), want)
}

func (h *hop) id() text { return makeText(h.service.Value() + "@" + h.version.Value()) }

func sameRoute(a, b string) bool {
	if a == b {
		return true
	}
	plainA, errA := url.PathUnescape(a)
	plainB, errB := url.PathUnescape(b)
	return errA == nil && errB == nil && plainA == plainB
}

// loss says what became of the route want on the way from caller to h.
func loss(caller, h *hop, want string) string {
	switch {
	case h.by.Value() == route.ByBaggage.String():
		return api.LossMangled
	case h.baggage == nil && h.trace != (traceID{}) && h.trace == caller.trace && !h.named:
		return api.LossBaggage
	case h.baggage == nil:
		return api.LossBoth
	case h.baggage.Members >= mostOfAll || h.baggage.Bytes > route.MaxBaggage:
		return api.LossTooLarge
	}
	for member := range strings.SplitSeq(h.baggage.Text, ",") {
		member, _, _ = strings.Cut(member, ";")
		if _, value, ok := strings.Cut(member, "="); ok && sameRoute(strings.TrimSpace(value), want) {
			return api.LossRenamed
		}
	}
	return api.LossReplaced
}

func (x *xray) forget(now time.Time) {
	for key, e := range x.edges {
		if now.Sub(time.Unix(0, e.last)) > forget {
			delete(x.edges, key)
		}
	}
}

// XRay returns what is known of all edges, in the order of their names.
func (s *Store) XRay() api.XRay {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judgeLocked()
	out := api.XRay{Since: s.xray.since, Dropped: s.droppedLocked(), Unknown: s.xray.unknown, Edges: []api.XRayEdge{}}
	for key, e := range s.xray.edges {
		out.Edges = append(out.Edges, e.api(key))
	}
	slices.SortFunc(out.Edges, func(a, b api.XRayEdge) int {
		return cmp.Or(strings.Compare(a.Caller, b.Caller), strings.Compare(a.Callee, b.Callee))
	})
	return out
}

func (e *edge) api(key edgeKey) api.XRayEdge {
	out := api.XRayEdge{
		Caller: key.caller.Value(), Callee: key.callee.Value(), Calls: e.calls, Routed: e.carried, Carried: e.carried, Last: time.Unix(0, e.last).UTC(),
	}
	add := func(l losses) {
		out.Routed += l.calls
		out.Healed += l.healed
		for reason, n := range l.reasons {
			if out.Reasons == nil {
				out.Reasons = map[string]int{}
			}
			out.Reasons[reason] += n
		}
		if out.Example == nil {
			out.Example = l.example
		}
	}
	add(e.byTrace)
	if e.carried == 0 && e.byOrigin.calls >= originLosses && e.alone*aloneShare <= e.byOrigin.calls {
		add(e.byOrigin)
	}
	switch {
	case out.Routed == 0:
		out.Verdict = api.VerdictUnknown
	case out.Carried == out.Routed:
		out.Verdict = api.VerdictCarries
	case out.Carried == 0:
		out.Verdict = api.VerdictDrops
	default:
		out.Verdict = api.VerdictSometimes
	}
	return out
}
