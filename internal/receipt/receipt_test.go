package receipt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

const trace1 = "4bf92f3577b34da6a3ce929d0e0e4736"

// clocked is a store whose clock is moved by hand.
type clocked struct {
	*Store
	now time.Time
}

func newClocked(hops int) *clocked {
	c := &clocked{now: time.Unix(1_800_000_000, 0)}
	c.Store = New(Options{Hops: hops})
	c.clock = func() time.Time { return c.now }
	return c
}

// call is a hop that began at a millisecond and took some.
func call(at, took int, id, caller, route, by string) api.Hop {
	service, version, _ := strings.Cut(id, "@")
	h := api.Hop{
		Trace: trace1, Parent: "00f067aa0ba902b7", Time: time.Unix(1_800_000_000, int64(at)*1e6), Duration: api.Duration(time.Duration(took) * time.Millisecond),
		Service: service, Version: version, Instance: service + "--" + version, Method: "GET", Host: service + ".localhost", Path: "/", Route: route, By: by, Status: 200,
	}
	if caller != "" {
		callerService, callerVersion, _ := strings.Cut(caller, "@")
		h.Caller, h.CallerOf = callerService+"--"+callerVersion, caller
	}
	return h
}

func (c *clocked) add(hops ...api.Hop) { c.Add(api.HopBatch{Proxy: "edge-1", Hops: hops}) }

// xrayed lets all come to its verdict, and returns the edges by caller and callee.
func (c *clocked) xrayed() map[string]api.XRayEdge {
	c.now = c.now.Add(time.Minute)
	c.XRay() // what has no caller yet waits once more
	out := map[string]api.XRayEdge{}
	for _, e := range c.XRay().Edges {
		out[e.Caller+" "+e.Callee] = e
	}
	return out
}

func TestReceipt_IsATree(t *testing.T) {
	s := newClocked(0)
	s.add( // as they end
		call(30, 5, "inventory@main", "pricing@pr-1", "pr-1", "baggage"),
		call(20, 20, "pricing@pr-1", "cart@main", "pr-1", "baggage"),
		call(50, 5, "recommendations@main", "storefront@main", "", "default"),
		call(10, 35, "cart@main", "storefront@main", "pr-1", "baggage"),
		call(0, 60, "storefront@main", "", "pr-1", "baggage"),
	)
	r, ok := s.Receipt(trace1)
	require.True(t, ok)
	require.Equal(t, 5, r.Hops)
	require.Len(t, r.Roots, 1)
	root := r.Roots[0]
	require.Equal(t, "storefront@main", root.ID())
	require.Len(t, root.Calls, 2)
	require.Equal(t, "cart@main", root.Calls[0].ID())
	require.Equal(t, "recommendations@main", root.Calls[1].ID())
	require.Equal(t, "pricing@pr-1", root.Calls[0].Calls[0].ID())
	require.Equal(t, "inventory@main", root.Calls[0].Calls[0].Calls[0].ID())

	_, ok = s.Receipt("00000000000000000000000000000001")
	require.False(t, ok)
	for _, bad := range []string{"", "x", strings.Repeat("z", 32)} {
		_, ok = s.Receipt(bad)
		require.False(t, ok)
	}
}

func TestXRay_NamesWhoLosesTheRoute(t *testing.T) {
	tests := map[string]struct {
		change func(h *api.Hop) // of the call that should carry the route
		reason string
	}{
		"carried":          {func(*api.Hop) {}, ""},
		"traceparent kept": {func(h *api.Hop) { h.Route, h.By = "", "default" }, api.LossBaggage},
		"both":             {func(h *api.Hop) { h.Route, h.By, h.Trace, h.Parent = "", "default", "", "" }, api.LossBoth},
		"a trace of its own": {func(h *api.Hop) {
			h.Route, h.By, h.Trace = "", "default", "00000000000000000000000000000009"
		}, api.LossBoth},
		"replaced": {func(h *api.Hop) {
			h.Route, h.By, h.Baggage = "", "default", &api.Baggage{Text: "sentry-release=1,sentry-environment=x", Members: 2, Bytes: 40}
		}, api.LossReplaced},
		"renamed": {func(h *api.Hop) {
			h.Route, h.By, h.Baggage = "", "default", &api.Baggage{Text: "a=b, dynamic-route = pr-1;p=1", Members: 2, Bytes: 40}
		}, api.LossRenamed},
		"too many": {func(h *api.Hop) {
			h.Route, h.By, h.Baggage = "", "default", &api.Baggage{Text: "a=b", Members: 64, Bytes: 400}
		}, api.LossTooLarge},
		"too long": {func(h *api.Hop) {
			h.Route, h.By, h.Baggage = "", "default", &api.Baggage{Text: "a=b", Members: 2, Bytes: 9000}
		}, api.LossTooLarge},
		"another value": {func(h *api.Hop) { h.Route = "pr-10" }, api.LossMangled},
		"encoded":       {func(h *api.Hop) { h.Route = "pr%2D1" }, ""},
		"healed":        {func(h *api.Hop) { h.By, h.Lost = "healed-trace", "pr-1" }, api.LossBaggage},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			s := newClocked(0)
			for n := range originLosses {
				inner := call(1000*n+10, 10, "pricing@main", "cart@pr-1", "pr-1", "baggage")
				c.change(&inner)
				s.add(inner, call(1000*n, 50, "cart@pr-1", "", "pr-1", "baggage"))
			}
			e := s.xrayed()["cart@pr-1 pricing"]
			require.Equal(t, 3, e.Routed)
			if c.reason == "" {
				require.Equal(t, api.VerdictCarries, e.Verdict)
				return
			}
			require.Equal(t, api.VerdictDrops, e.Verdict)
			require.Equal(t, map[string]int{c.reason: 3}, e.Reasons)
			require.Equal(t, "pricing", e.Example.Service)
			if name == "healed" {
				require.Equal(t, 3, e.Healed)
			}
		})
	}
}

func TestXRay_RaisesNoFalseAlarm(t *testing.T) {
	s := newClocked(0)
	for n := range 20 {
		at := 1000 * n
		unrouted := call(at, 50, "cart@main", "", "", "default")
		unrouted.Trace = fmt.Sprintf("%032x", n+1)
		inner := call(at+10, 5, "pricing@main", "cart@main", "", "default")
		inner.Trace = unrouted.Trace
		preview := call(at+10, 5, "inventory@pr-1", "cart@pr-2", "pr-1", "preview")
		s.add(inner, unrouted, // a request without a route
			preview, call(at, 50, "cart@pr-2", "", "pr-2", "baggage")) // a call that says itself what it wants
		// A cron job of an instance that is at a request now and then.
		cron := call(at+500, 5, "billing@main", "cart@pr-2", "", "default")
		cron.Trace = ""
		s.add(cron)
		if n%10 == 0 {
			cron := call(at+20, 5, "billing@main", "cart@pr-2", "", "default")
			cron.Trace = ""
			s.add(cron)
		}
	}
	for name, e := range s.xrayed() {
		require.Equal(t, api.VerdictUnknown, e.Verdict, name)
	}
	require.Contains(t, s.xrayed(), "cart@pr-2 billing", "the edge is there all the same")
}

func TestXRay_DoesNotGuess(t *testing.T) {
	s := newClocked(0)
	for n := range 5 { // two calls at once of one trace, from addresses that nobody knows
		at := 1000 * n
		s.add(call(at+10, 5, "pricing@main", "", "", "default"), call(at+1, 40, "cart@main", "", "pr-1", "baggage"), call(at, 50, "storefront@main", "", "pr-1", "baggage"))
	}
	for name, e := range s.xrayed() {
		require.NotEqual(t, "cart@main pricing", name)
		require.NotEqual(t, "storefront@main pricing", name)
		require.NotEqual(t, api.VerdictDrops, e.Verdict, name)
	}
	require.NotZero(t, s.XRay().Unknown)
}

func TestStore_IsFairAndBounded(t *testing.T) {
	s := newClocked(1000)
	for n := range 20_000 {
		busy := call(n, 1, "cart@main", "", "", "default")
		busy.Trace = fmt.Sprintf("%032x", n+1)
		s.add(busy)
		if n%1000 == 0 {
			rare := call(n, 1, "cart@pr-1", "", "pr-1", "baggage")
			rare.Trace = fmt.Sprintf("%032x", 1_000_000+n)
			s.add(rare)
		}
	}
	rare, _, _ := s.Hops(api.HopFilter{Version: "pr-1", Limit: 1000}, 0)
	require.Len(t, rare, 20, "a busy version does not push out a rare one")
	all, last, _ := s.Hops(api.HopFilter{Limit: 5000}, 0)
	require.LessOrEqual(t, len(all), 1000)
	require.Greater(t, len(all), 900)
	require.EqualValues(t, 20_020, last)
	require.LessOrEqual(t, len(s.byTrace), 1000)
	r, ok := s.Receipt(fmt.Sprintf("%032x", 1_000_000))
	require.True(t, ok)
	require.Len(t, r.Roots, 1)
	_, ok = s.Receipt(fmt.Sprintf("%032x", 1))
	require.False(t, ok)
	newer, _, _ := s.Hops(api.HopFilter{}, last-5)
	require.Len(t, newer, 5)
}

func TestStore_OneTraceForAll(t *testing.T) {
	s := newClocked(5000)
	for n := range 15_000 {
		s.add(call(n, 50, "cart@main", "", "", "default"))
	}
	s.xrayed()
	require.LessOrEqual(t, int(s.byTrace[s.hops[0].trace].hops), maxChain, "each look at the trace is bounded")
	r, ok := s.Receipt(trace1)
	require.True(t, ok)
	require.LessOrEqual(t, r.Hops, maxChain)
}

func TestStore_CountsWhatProxiesCouldNotTell(t *testing.T) {
	s := newClocked(0)
	s.Add(api.HopBatch{Proxy: "edge-1", Dropped: 5})
	s.Add(api.HopBatch{Proxy: "edge-2", Dropped: 2, Hops: []api.Hop{call(0, 1, "cart@main", "", "", "default")}})
	s.Add(api.HopBatch{Proxy: "edge-1", Dropped: 7})
	require.EqualValues(t, 9, s.XRay().Dropped)
	r, _ := s.Receipt(trace1)
	require.EqualValues(t, 9, r.Dropped)
}

func TestHops_Filter(t *testing.T) {
	s := newClocked(0)
	bad := call(0, 1, "cart@main", "", "", "default")
	bad.Status = 503
	lost := call(1, 1, "pricing@main", "", "", "default")
	lost.Lost = "pr-1"
	s.add(bad, lost)
	for want, f := range map[string]api.HopFilter{"cart": {Status: "5xx"}, "pricing": {Lost: true}} {
		hops, _, _ := s.Hops(f, 0)
		require.Len(t, hops, 1)
		require.Equal(t, want, hops[0].Service)
	}
	hops, _, _ := s.Hops(api.HopFilter{Status: "503", Service: "pricing"}, 0)
	require.Empty(t, hops)
}

func TestDraw(t *testing.T) {
	var b strings.Builder
	Draw(&b, api.XRay{Edges: []api.XRayEdge{
		{Caller: "storefront@main", Callee: "cart", Routed: 3, Carried: 3, Calls: 9},
		{Caller: "cart@pr-1", Callee: "pricing", Routed: 4, Carried: 0, Reasons: map[string]int{api.LossBoth: 4}},
		{Caller: "pricing@main", Callee: "cart", Calls: 1}, // in a circle
		{Caller: `<script>alert("x")</script>@v`, Callee: "a-service-with-a-name-that-is-too-long-for-its-box", Routed: 2, Carried: 1},
	}})
	text := b.String()
	require.Contains(t, text, "4 of 4 lost")
	require.Contains(t, text, "#dc2626")
	require.Contains(t, text, "stroke-dasharray")
	require.NotContains(t, text, "<script>")
	Draw(&b, api.XRay{}) // of nothing
}
