package receipt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

// inRun makes a call part of a run, by its own baggage.
func inRun(h api.Hop, run string) api.Hop {
	h.Run = run
	return h
}

// reached lets all be judged, and returns what a run reached, by edge.
func (c *clocked) reached(t *testing.T, run string) (api.Reached, map[string]api.ReachedEdge) {
	t.Helper()
	c.now = c.now.Add(DefaultSettle)
	r, ok := c.Reached(run)
	require.True(t, ok)
	require.Equal(t, c.now.UTC(), r.Judged)
	out := map[string]api.ReachedEdge{}
	for _, e := range r.Edges {
		out[strings.Join([]string{e.Caller, e.ID(), e.By, e.Lost}, " ")] = e
	}
	return r, out
}

func TestReached_JoinsWhatLostTheRun(t *testing.T) {
	s := newClocked(0)
	s.add(
		call(40, 5, "inventory@main", "pricing@main", "", "default"), // two hops behind the one that lost it
		call(30, 20, "pricing@main", "cart@pr-1", "", "default"),     // cart drops all baggage
		inRun(call(20, 40, "cart@pr-1", "storefront@main", "pr-1", "baggage"), "ci-1"),
		inRun(call(10, 60, "storefront@main", "", "pr-1", "baggage"), "ci-1"),
	)
	for i, h := range []api.Hop{call(20, 40, "cart@main", "storefront@main", "", "default"), call(10, 60, "storefront@main", "", "", "default")} {
		h.Trace = fmt.Sprintf("%032x", 77) // somebody else
		h.Parent = fmt.Sprintf("%016x", i+1)
		s.add(h)
	}
	before, _ := s.Reached("ci-1")
	require.Less(t, before.Judged, before.Now.Add(time.Second))
	r, edges := s.reached(t, "ci-1")
	require.Equal(t, 4, r.Requests)
	require.Equal(t, 1, r.Direct)
	require.Contains(t, edges, " storefront@main baggage ")
	require.Contains(t, edges, "storefront@main cart@pr-1 baggage ")
	require.Contains(t, edges, "cart@pr-1 pricing@main default "+api.LossBaggage)
	require.Contains(t, edges, "pricing@main inventory@main default ")
	require.Equal(t, trace1, edges["storefront@main cart@pr-1 baggage "].Example)
	hops, _, _ := s.Hops(api.HopFilter{Run: "ci-1"}, 0)
	require.Len(t, hops, 4)
	require.Equal(t, "ci-1", s.RunOf(trace1))
	require.Empty(t, s.RunOf(fmt.Sprintf("%032x", 77)))
	_, ok := s.Reached("ci-2")
	require.False(t, ok)
}

func TestReached_CountsEachRequestOnce(t *testing.T) {
	s := newClocked(0)
	for i := range 200 {
		h := inRun(call(i, 1, "cart@pr-1", "", "pr-1", "baggage"), fmt.Sprintf("ci-%d", i%2))
		h.Trace, h.Path = "", fmt.Sprintf("/items/%d", i)
		if i%20 == 0 {
			h.Status = 500
		}
		s.add(h)
	}
	for range 5 { // as often as one looks
		s.reached(t, "ci-0")
		s.now = s.now.Add(time.Minute)
	}
	r, _ := s.reached(t, "ci-0")
	require.Equal(t, 100, r.Requests)
	require.Equal(t, 10, r.Errors)
	require.Len(t, r.Endpoints, 1)
	require.Equal(t, "/items/{id}", r.Endpoints[0].Path)
	require.Equal(t, 100, r.Endpoints[0].Requests)
	require.Equal(t, 200, s.Endpoints(api.VersionFilter{Service: "cart"})[0].Requests)
}

// TestReached_OutlivesItsHops holds that a run is still known when its hops made room.
func TestReached_OutlivesItsHops(t *testing.T) {
	s := newClocked(100)
	s.add(inRun(call(0, 1, "cart@pr-1", "", "pr-1", "baggage"), "ci-1"))
	s.reached(t, "ci-1")
	for i := range 1000 {
		s.add(call(i, 1, "cart@pr-1", "", "pr-1", "baggage"))
	}
	hops, _, _ := s.Hops(api.HopFilter{Run: "ci-1"}, 0)
	require.Empty(t, hops)
	r, _ := s.reached(t, "ci-1")
	require.Equal(t, 1, r.Requests)
}

func TestReached_IsBounded(t *testing.T) {
	s := newClocked(0)
	for i := range maxRuns + 10 {
		h := inRun(call(i, 1, "cart@main", "", "", "default"), fmt.Sprintf("ci-%d", i))
		h.Trace = ""
		s.add(h)
		s.now = s.now.Add(DefaultSettle)
		s.add()
	}
	require.Len(t, s.runs.strangers, maxStrangers)
	_, ok := s.Reached("ci-0")
	require.False(t, ok)
	for i := range 2 * maxKnownOfOne {
		h := inRun(call(i, 1, "cart@main", "", "", "default"), "ci-1000000")
		h.Trace, h.Path = "", "/"+strings.Repeat("x", i%100+1)+fmt.Sprintf("/y%dz", i)
		s.add(h)
	}
	s.reached(t, "ci-1000000")
	require.LessOrEqual(t, len(s.Endpoints(api.VersionFilter{})), maxKnownOfOne)
	s.now = s.now.Add(forget + time.Hour)
	s.add()
	require.Empty(t, s.Endpoints(api.VersionFilter{}))
	require.Zero(t, s.runs.size)
}

// TestAnnounce_KeepsARun holds that whoever may send requests neither pushes out a run that was announced, nor proves anything in
// its name before it begins.
func TestAnnounce_KeepsARun(t *testing.T) {
	s := newClocked(0)
	s.add(inRun(call(0, 1, "cart@pr-1", "", "pr-1", "baggage"), "ci-1")) // somebody guesses what the next run is called
	s.Announce("ci-1")
	s.now = s.now.Add(DefaultSettle)
	_, ok := s.Reached("ci-1")
	require.False(t, ok, "it has no request yet")
	s.add(inRun(call(10, 1, "front@main", "", "pr-1", "baggage"), "ci-1"))
	s.Announce("ci-1") // once more changes nothing
	for i := range maxRuns + maxStrangers {
		h := inRun(call(1000+i, 1, "cart@main", "", "", "default"), fmt.Sprintf("flood-%d", i))
		h.Trace = ""
		s.add(h)
	}
	r, edges := s.reached(t, "ci-1")
	require.Equal(t, 1, r.Requests)
	require.Contains(t, edges, " front@main baggage ")
	require.Equal(t, int64(1_800_000_000_010), r.First.UnixMilli())
	require.Len(t, s.runs.strangers, maxStrangers)
	for i := range maxRuns {
		s.now = s.now.Add(time.Hour)
		s.Announce(fmt.Sprintf("later-%d", i))
	}
	require.Len(t, s.runs.announced, maxRuns, "announced runs are bounded as well")
	_, ok = s.Reached("ci-1")
	require.False(t, ok)
}

func TestReached_SaysSinceWhenReceiptsAreKept(t *testing.T) {
	before := time.Now().UTC()
	s := newClocked(0)
	first, _ := s.Reached("ci-1")
	require.False(t, first.Since.Before(before))
	s.now = s.now.Add(time.Hour)
	again, _ := s.Reached("ci-2")
	require.Equal(t, first.Since, again.Since)
	other, _ := newClocked(0).Reached("ci-1")
	require.NotEqual(t, first.Since, other.Since, "another server keeps others")
}

func TestPathTemplate(t *testing.T) {
	for path, want := range map[string]string{
		"/":                   "/",
		"":                    "",
		"/items/17":           "/items/{id}",
		"/items/17/parts/4.5": "/items/{id}/parts/{id}",
		"/v1/items":           "/v1/items",
		"/api/v2beta1/x":      "/api/v2beta1/x",
		"/o/7b1f2c9e-0d5a-4b8e-9a3f-6f1f0f0c2d11": "/o/{id}",
		"/o/deadbeef":                  "/o/deadbeef",
		"/o/4bf92f3577b3":              "/o/{id}",
		"/users/usr_01HZX4J9K2M":       "/users/{id}",
		"*":                            "*",
		"/" + strings.Repeat("a/", 40): "/" + strings.TrimSuffix(strings.Repeat("a/", maxSegments), "/") + "/…",
	} {
		require.Equal(t, want, PathTemplate(path), path)
	}
}

func FuzzPathTemplate(f *testing.F) {
	f.Add("/items/17")
	f.Fuzz(func(t *testing.T, path string) {
		got := PathTemplate(path)
		require.LessOrEqual(t, len(got), max(len(path)*4, 2*maxTemplate+maxSegments*5))
		require.Equal(t, got, PathTemplate(got), "a template is its own")
	})
}
