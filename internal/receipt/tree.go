package receipt

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/layover-dev/layover/api"
)

// end is when the last byte of the answer was sent.
func (h *hop) end() int64 { return h.at + h.took }

// goesOnAt says whether the hop had begun and had not ended at a time.
func (h *hop) goesOnAt(at int64) bool { return h.used && h.at <= at && at <= h.end() }

// proof says how it is known what a call belongs to.
type proof int

const (
	unproven proof = iota // it is not known, or a guess
	byTrace               // to nothing else of its trace
	byOrigin              // the instance that called was at nothing else; but it may have called by itself
)

// callerLocked finds the hop that a hop belongs to: what the instance that made the call was at. Where several could be
// it, the one that began last is returned, and that is a guess.
func (s *Store) callerLocked(h *hop) (found *hop, by proof) {
	if h.trace != (traceID{}) {
		n := 0
		for at := s.firstLocked(h.trace); at >= 0; at = s.hops[at].next {
			other := &s.hops[at]
			if other != h && h.span != ([8]byte{}) && other.own == h.span {
				return other, byTrace // it passed the proxy's span on as it came
			}
			if other == h || !other.goesOnAt(h.at) || other.at == h.at && other.number > h.number {
				continue
			}
			if h.caller.Value() != "" && other.instance != h.caller {
				continue
			}
			n++
			if found == nil || other.at > found.at {
				found = other
			}
		}
		if found != nil && h.named {
			if caller, by := s.byOriginLocked(h); by != unproven {
				return caller, by
			}
			return found, unproven
		}
		if found != nil {
			if n > 1 && h.caller.Value() == "" {
				return found, unproven
			}
			return found, byTrace
		}
	}
	return s.byOriginLocked(h)
}

// firstLocked is the newest hop of a trace, -1 where none is known.
func (s *Store) firstLocked(trace traceID) int32 {
	if of, ok := s.byTrace[trace]; ok {
		return of.newest
	}
	return -1
}

// byOriginLocked finds what the calling instance was at where the trace does not say it: something of one route alone.
func (s *Store) byOriginLocked(h *hop) (found *hop, by proof) {
	q := s.instance[h.caller.Value()]
	if q == nil || h.caller.Value() == "" {
		return nil, unproven
	}
	for _, at := range q.places[q.first:] {
		other := &s.hops[at]
		if other == h || other.instance != h.caller || !other.goesOnAt(h.at) {
			continue
		}
		if found != nil && found.route != other.route {
			return nil, unproven
		}
		if found == nil || other.at > found.at {
			found = other
		}
	}
	return found, byOrigin
}

// Receipt returns the receipt of a trace, and false where no hop of it is known.
func (s *Store) Receipt(trace string) (api.Receipt, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var id traceID
	if n, err := hex.Decode(id[:], []byte(trace[:min(len(trace), 32)])); err != nil || n != len(id) {
		return api.Receipt{}, false
	}
	first := s.firstLocked(id)
	if first < 0 {
		return api.Receipt{}, false
	}
	var places []int32
	for at := first; at >= 0; at = s.hops[at].next {
		places = append(places, at)
	}
	slices.SortFunc(places, func(a, b int32) int { return int(s.hops[a].at - s.hops[b].at) })
	calls := map[*hop][]int32{}
	var roots []int32
	for _, at := range places {
		caller, _ := s.callerLocked(&s.hops[at])
		if caller == nil || caller.trace != id {
			roots = append(roots, at)
			continue
		}
		calls[caller] = append(calls[caller], at)
	}
	out := api.Receipt{Trace: trace, Hops: len(places), Dropped: s.droppedLocked()}
	var node func(at int32) api.ReceiptNode
	node = func(at int32) api.ReceiptNode {
		n := api.ReceiptNode{Hop: s.hops[at].api()}
		for _, call := range calls[&s.hops[at]] {
			n.Calls = append(n.Calls, node(call))
		}
		return n
	}
	for _, at := range roots {
		out.Roots = append(out.Roots, node(at))
	}
	return out, true
}

// RouteOf returns the route that the requests of a trace came with; "" where none is known, or more than one.
func (s *Store) RouteOf(trace string) string {
	var id traceID
	if n, err := hex.Decode(id[:], []byte(trace[:min(len(trace), 32)])); err != nil || n != len(id) {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	route := ""
	for at := s.firstLocked(id); at >= 0; at = s.hops[at].next {
		switch name := s.hops[at].route.Value(); {
		case name == "" || name == route:
		case route != "":
			return ""
		default:
			route = name
		}
	}
	return route
}

// DefaultLimit is how many hops a list has where nothing is said.
const DefaultLimit = 100

// Hops returns the newest hops that a filter selects, the newest last, behind the one with the number after, and the number
// of the last hop there is.
func (s *Store) Hops(f api.HopFilter, after uint64) (out []api.Hop, last uint64, news <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := f.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	var found []*hop
	for _, q := range s.selectedLocked(f) {
		for _, place := range slices.Backward(q.places[q.first:]) {
			h := &s.hops[place]
			if h.number <= after {
				break
			}
			if h.fits(f) {
				found = append(found, h)
			}
		}
	}
	slices.SortFunc(found, func(a, b *hop) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	for _, h := range found[max(0, len(found)-limit):] {
		out = append(out, h.api())
	}
	return out, s.added, s.news
}

func (s *Store) selectedLocked(f api.HopFilter) []*queue {
	var out []*queue
	for id, q := range s.versions {
		service, version, _ := strings.Cut(id, "@")
		if (f.Service == "" || f.Service == service) && (f.Version == "" || f.Version == version) {
			out = append(out, q)
		}
	}
	return out
}

func (h *hop) fits(f api.HopFilter) bool {
	if f.Run != "" && h.run.Value() != f.Run {
		return false
	}
	if f.Lost && h.lost.Value() == "" {
		return false
	}
	status := strconv.Itoa(int(h.status))
	class, isClass := strings.CutSuffix(f.Status, "xx")
	return f.Status == "" || f.Status == status || isClass && strings.HasPrefix(status, class)
}
