package suite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func reachedBy(edges ...api.ReachedEdge) api.Reached {
	r := api.Reached{Edges: edges}
	for _, e := range edges {
		r.Requests += e.Requests
	}
	return r
}

func TestProve(t *testing.T) {
	claim := Claim{Route: "pr-1", Under: []string{"cart@pr-1"}, Versions: []string{"cart@pr-1", "orders@pr-1"}}
	front := api.ReachedEdge{Service: "front", Version: "main", By: "baggage", Fallback: "default", Requests: 5}
	good := api.ReachedEdge{Caller: "front@main", Service: "cart", Version: "pr-1", By: "baggage", Requests: 5}
	dropped := api.ReachedEdge{Caller: "front@main", Service: "cart", Version: "main", By: "default", Lost: api.LossBaggage, Requests: 5, Example: "abc"}
	tests := map[string]struct {
		claim   Claim
		reached api.Reached
		xray    api.XRay
		kinds   []string
		says    string
	}{
		"it holds":               {claim, reachedBy(front, good), api.XRay{}, nil, ""},
		"nothing at all":         {claim, reachedBy(), api.XRay{}, []string{NotExercised}, "none came to the environment"},
		"past the proxy":         {Claim{Route: "pr-1", Under: claim.Under, Strays: []api.ReachedEdge{{Service: "cart", Version: "main", By: "default", Requests: 4}}}, reachedBy(), api.XRay{}, []string{NotExercised}, "while the tests ran, cart@main answered 4 requests"},
		"a service drops it":     {claim, reachedBy(front, dropped), api.XRay{}, []string{NotExercised}, "front@main loses the route: 5 of its calls to cart"},
		"the suite asks main":    {claim, reachedBy(api.ReachedEdge{Service: "cart", Version: "main", By: "default", Requests: 3}), api.XRay{}, []string{NotExercised}, "the tests themselves called cart@main 3 times without the route"},
		"nobody asks it":         {claim, reachedBy(front), api.XRay{}, []string{NotExercised}, "which reached front@main"},
		"only the X-ray knows":   {claim, reachedBy(front), api.XRay{Edges: []api.XRayEdge{{Caller: "front@main", Callee: "cart", Verdict: api.VerdictDrops, Routed: 9}}}, []string{NotExercised}, "front@main loses the route on its calls to cart: 0 of 9"},
		"lost two hops before":   {claim, reachedBy(api.ReachedEdge{Caller: "front@main", Service: "mid", Version: "main", By: "default", Lost: api.LossBaggage, Requests: 2}, api.ReachedEdge{Caller: "mid@main", Service: "cart", Version: "main", By: "default", Requests: 2}), api.XRay{}, []string{NotExercised}, "which was lost before: front@main loses the route"},
		"half of the calls":      {claim, reachedBy(front, good, dropped), api.XRay{}, []string{UnexpectedFallback}, "front@main loses the route"},
		"another of the route":   {claim, reachedBy(front, good, api.ReachedEdge{Caller: "cart@pr-1", Service: "orders", Version: "main", By: "default", Lost: api.LossBoth, Requests: 1}), api.XRay{}, []string{UnexpectedFallback}, "cart@pr-1 loses the route"},
		"which may fall back":    {Claim{Route: "pr-1", Under: claim.Under, Versions: claim.Versions, Fallback: []string{"orders"}}, reachedBy(front, good, api.ReachedEdge{Caller: "cart@pr-1", Service: "orders", Version: "main", By: "default", Lost: api.LossBoth, Requests: 1}), api.XRay{}, nil, ""},
		"on purpose":             {claim, reachedBy(front, good, api.ReachedEdge{Service: "cart", Version: "main", By: "preview", Requests: 1}), api.XRay{}, nil, ""},
		"what else is to be met": {Claim{Route: "pr-1", Under: claim.Under, Reach: []string{"cart@pr-1", "stock@main"}, Versions: claim.Versions}, reachedBy(front, good), api.XRay{}, []string{NotReached}, "stock@main got no request"},
		"not ready":              {claim, reachedBy(api.ReachedEdge{Service: "cart", Version: "main", By: "baggage", Fallback: "unknown", Requests: 1}), api.XRay{}, []string{NotExercised}, "was the version there"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := Prove(test.claim, test.reached, test.xray)
			var kinds []string
			for _, f := range got {
				kinds = append(kinds, f.Kind)
				require.Contains(t, f.Text+" "+f.Hint, test.says)
				require.NotEmpty(t, f.Hint)
			}
			require.Equal(t, test.kinds, kinds)
		})
	}
}

func TestGap(t *testing.T) {
	began := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	absent := api.RunFinding{Kind: NotExercised, Version: "cart@pr-1"}
	fallback := api.RunFinding{Kind: UnexpectedFallback, Version: "orders@pr-1"}
	same, other := api.Reached{Since: began, Dropped: 3}, api.Reached{Since: began.Add(time.Hour)}
	tests := map[string]struct {
		end      api.Reached
		findings []api.RunFinding
		hold     []api.RunFinding
		says     string
	}{
		"all is known":                        {same, []api.RunFinding{absent}, []api.RunFinding{absent}, ""},
		"nothing against it":                  {same, nil, nil, ""},
		"another server, and nothing is":      {other, nil, nil, "receipts are kept since 2031-05-01T13:00:00Z"},
		"another server, and it was absent":   {other, []api.RunFinding{absent}, nil, "the server changed during the run"},
		"another server, and a fallback":      {other, []api.RunFinding{absent, fallback}, []api.RunFinding{fallback}, "the server changed during the run"},
		"requests are missing, and a finding": {api.Reached{Since: began, Dropped: 5}, []api.RunFinding{absent}, nil, "proxies could not tell of 2 requests during the run, and none to cart@pr-1"},
		"requests are missing, and reached":   {api.Reached{Since: began, Dropped: 5}, nil, nil, ""},
		"requests are missing, and fallback":  {api.Reached{Since: began, Dropped: 5}, []api.RunFinding{absent, fallback}, []api.RunFinding{absent, fallback}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			hold, why := GapBetween(same, test.end).Doubt(test.findings)
			require.ElementsMatch(t, test.hold, hold)
			if test.says == "" {
				require.Empty(t, why)
				return
			}
			require.Contains(t, why, test.says)
		})
	}
}

func TestUnexercised(t *testing.T) {
	known := []api.Endpoint{
		{Service: "cart", Version: "main", Method: "GET", Path: "/items/{id}"},
		{Service: "cart", Version: "main", Method: "POST", Path: "/items"},
		{Service: "cart", Version: "pr-9", Method: "POST", Path: "/items"},
		{Service: "orders", Version: "main", Method: "GET", Path: "/"},
	}
	run := []api.Endpoint{{Service: "cart", Version: "pr-1", Method: "GET", Path: "/items/{id}"}, {Service: "cart", Version: "main", Method: "POST", Path: "/items"}}
	got := Unexercised(known, run, []string{"cart@pr-1"})
	require.Len(t, got, 1)
	require.Equal(t, "/items", got[0].Path)
}
