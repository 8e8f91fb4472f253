package route_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

func TestVersionEntry_Next(t *testing.T) {
	spec := route.Spec{Services: []route.Service{{Name: "cart", Versions: []route.Version{
		{Name: "none", State: route.Asleep},
		{Name: "one", State: route.Ready, Instances: []route.Instance{{ID: "a", Address: "h:1"}}},
		{Name: "three", State: route.Ready, Instances: []route.Instance{{ID: "a", Address: "h:1"}, {ID: "b", Address: "h:2"}, {ID: "c", Address: "h:3"}}},
	}}}}
	cart := compiled(t, spec).Service("cart")
	require.Nil(t, cart.Version("none").Next())
	for range 3 {
		require.Equal(t, "a", cart.Version("one").Next().ID)
	}
	var order string
	for range 7 {
		order += cart.Version("three").Next().ID
	}
	require.Equal(t, "abcabca", order)

	var mu sync.Mutex
	counts := make(map[string]int)
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			for range 100 {
				id := cart.Version("three").Next().ID
				mu.Lock()
				counts[id]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	require.Equal(t, map[string]int{"a": 1000, "b": 1000, "c": 1000}, counts)
}

func TestEmptyTable(t *testing.T) {
	table := route.EmptyTable()
	require.Zero(t, table.Revision())
	require.Equal(t, route.DefaultHold, table.Hold())
	require.Equal(t, route.UnknownHost, table.Resolve(&route.Request{Host: "cart.localhost"}).Outcome)
	require.Empty(t, table.Similar("cart.localhost", 3))
	require.Empty(t, table.DidYouMean("feature-1", 3))
}

func TestDecision_ServedBy(t *testing.T) {
	require.Empty(t, route.Decision{}.ServedBy())
	v := compiled(t, shop()).Service("cart").Version("main")
	for name, tt := range map[string]struct {
		d    route.Decision
		want string
	}{
		"no route": {route.Decision{Version: v}, "cart@main; by=default"},
		"healed":   {route.Decision{Version: v, By: route.ByHealedOrigin, Route: "x"}, "cart@main; route=x; by=healed-origin"},
		"traced":   {route.Decision{Version: v, By: route.ByHealedTrace, Route: "x"}, "cart@main; route=x; by=healed-trace"},
		"encoded":  {route.Decision{Version: v, By: route.ByCookie, Route: "cart%40x"}, "cart@main; route=cart%40x; by=cookie"},
		"long":     {route.Decision{Version: v, By: route.ByHeader, Route: strings.Repeat("x", 500)}, "cart@main; route=" + strings.Repeat("x", 200) + "...; by=header"},
		"cut at an escape": {
			route.Decision{Version: v, By: route.ByHeader, Route: strings.Repeat("x", 198) + "%41%41"},
			"cart@main; route=" + strings.Repeat("x", 198) + "...; by=header",
		},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, tt.d.ServedBy()) })
	}
}

func TestWords(t *testing.T) {
	require.Equal(t, "found unknown-host unknown-route no-version invalid(4)", words[route.Outcome](5))
	require.Equal(t, "none exact suffix preview invalid(4)", words[route.HostBy](5))
	require.Equal(t, "default preview baggage header cookie healed-origin healed-trace invalid(7)", words[route.By](8))
	require.Equal(t, "none scoped named name invalid(4)", words[route.Match](5))
	require.Equal(t, " default unknown invalid(3)", words[route.Fallback](4))
}

func words[T interface {
	~uint8
	fmt.Stringer
}](n uint8) string {
	var all []string
	for i := range n {
		all = append(all, T(i).String())
	}
	return strings.Join(all, " ")
}

func TestTable_Similar(t *testing.T) {
	table := compiled(t, shop())
	for host, want := range map[string][]string{
		"crat.localhost:8080": {"cart.localhost"},
		"CART.localhos":       {"cart.localhost"},
		"cart":                {"cart.localhost"},
		"pricing.tset":        {"pricing.test"},
		"a.pricing.tset":      {"a.pricing.test"},
		"quite.another":       nil,
		"":                    nil,
		"a b":                 nil,
	} {
		t.Run(host, func(t *testing.T) {
			got := table.Similar(host, 2)
			if want == nil {
				require.Empty(t, got)
				return
			}
			require.Equal(t, want[0], got[0])
			require.LessOrEqual(t, len(got), 2)
		})
	}
}

// A host that was just refused is never suggested.
func TestTable_SimilarToWildcard(t *testing.T) {
	table := compiled(t, route.Spec{Services: []route.Service{{Name: "cart", Hosts: []string{"*.cart.test"}}}})
	require.Empty(t, table.Similar("cart.test", 3))
	require.Equal(t, []string{"a.cart.test"}, table.Similar("a.crat.test", 3))
}

func TestTable_DidYouMean(t *testing.T) {
	table := compiled(t, shop())
	for selector, want := range map[string][]string{
		"featrue-1":               {"feature-1", "feature-2"},
		"feature-3":               {"feature-1", "feature-2"},
		"Feature/1":               {"feature-1", "feature-2"},
		"featu":                   {"feature-1", "feature-2", "feature-with-a-long-name-that-no-preview-label-can-hold-whole"},
		"taem-a":                  {"team-a"},
		"team-a!":                 {"team-a"},
		"cart@feature-2":          {"cart@feature-1"},
		"cart%40pr-99":            {"cart@pr-88"},
		"cart@PR/88":              {"cart@pr-88"},
		"crat@pr-88":              {"cart@pr-88"},
		"nope@pr-88":              nil,
		"something-other":         nil,
		"":                        nil,
		strings.Repeat("x", 9000): nil,
	} {
		t.Run(selector[:min(len(selector), 20)], func(t *testing.T) {
			require.Equal(t, want, table.DidYouMean(selector, 3))
		})
	}
}

func TestTable_Explain(t *testing.T) {
	table := compiled(t, shop())
	for name, tt := range map[string]struct {
		r    route.Request
		want []string
	}{
		"unknown host": {
			route.Request{Host: "crat.localhost"},
			[]string{`R1 unknown host: No service has the host "crat.localhost", no wildcard host covers it, and it is no preview host. Did you mean "cart.localhost"?`},
		},
		"no host": {
			route.Request{Host: "a b"},
			[]string{`R1 unknown host: The request's host "a b" is empty or cannot be a host name.`},
		},
		"nothing": {
			route.Request{Host: "eu.pricing.test"},
			[]string{
				`R1 pricing: Host "eu.pricing.test" is under the wildcard host of service "pricing".`,
				"R2 no route: The host is no preview host.",
				"R3 no route: There is no baggage header.",
				"R2 no route: The header X-Route is not there.",
				"R2 no route: The cookie layover_route is not there.",
				"R2 default: No source has a route: the default version answers.",
				`R5 ready: Version "pricing@stable" is ready, with 1 healthy instance.`,
			},
		},
		"baggage": {
			route.Request{Host: "cart.localhost", Baggage: []string{"bad,Dynamic_Route=x", "dynamic_route=a b,dynamic_route=feature-2~gone~cart@sleeping~main"}},
			[]string{
				`R1 cart: Host "cart.localhost" is a host of service "cart".`,
				"R2 no route: The host is no preview host.",
				`R3 skipped: The baggage member "bad" is malformed: it has no "=".`,
				`R3 ignored: The baggage member "Dynamic_Route" is not "dynamic_route": keys are case-sensitive.`,
				`R3 skipped: The baggage member "dynamic_route=a b" is malformed: its value has a character that is not allowed, or a "%" without two hex digits.`,
				`R3 read: Baggage has one member "dynamic_route".`,
				`R2 baggage: The route comes from baggage: "feature-2~gone~cart@sleeping~main".`,
				`R4 skipped: Selector "feature-2" is no version of service "cart", and no named route with a pick for it.`,
				`R4 missing: Selector "gone" is a named route that picks for service "cart" version "removed", which does not exist.`,
				`R4 scoped: Selector "cart@sleeping" is scoped to service "cart" and asks for version "sleeping".`,
				`R5 asleep: Version "cart@sleeping" is asleep: the request is held until it is ready, never answered by another version.`,
			},
		},
		"failed, by cookie": {
			route.Request{Host: "cart.localhost", Baggage: []string{"dynamic_route="}, Cookie: []string{"layover_route=broken~pr-88"}},
			[]string{
				`R1 cart: Host "cart.localhost" is a host of service "cart".`,
				"R2 no route: The host is no preview host.",
				`R3 no route: The last baggage member "dynamic_route" is empty.`,
				"R2 no route: The header X-Route is not there.",
				`R2 cookie: The route comes from the cookie "layover_route": "broken~pr-88".`,
				`R4 name: Selector "broken" names, for service "cart", its version "broken".`,
				`R4 skipped: Selector "pr-88" comes after the one that decides.`,
				`R5 failed: Version "cart@broken" has failed (exit code 1): the request is answered 503 at once, never by another version.`,
			},
		},
		"strict, unknown, by header": {
			route.Request{Host: "cart.localhost", Baggage: []string{"a=b"}, Header: []string{"featrue-1!"}},
			[]string{
				`R1 cart: Host "cart.localhost" is a host of service "cart".`,
				"R2 no route: The host is no preview host.",
				`R3 no route: Baggage has no well-formed member "dynamic_route" among the 1 member read.`,
				`R2 header: The route comes from the header "X-Route": "featrue-1!".`,
				`R4 skipped: Selector "featrue-1" is no version of service "cart", and no named route with a pick for it.`,
				`R5 unknown: Selector "featrue-1" names nothing that exists anywhere in the environment.`,
				`R5 unknown route: The route is strict and selector "featrue-1" matches nothing: the request is refused. Did you mean "feature-1" or "feature-2"?`,
			},
		},
		"fallback, by preview": {
			route.Request{Host: "feature-2--cart.localhost"},
			[]string{
				`R1 cart: Host "feature-2--cart.localhost" is a preview host of service "cart", for "feature-2".`,
				`R2 preview: The preview host names the route "feature-2", which goes before all other sources.`,
				`R4 skipped: Selector "feature-2" is no version of service "cart", and no named route with a pick for it.`,
				`R5 known: Selector "feature-2" exists in the environment.`,
				`R5 fallback: Service "cart" has nothing the route names, which exists elsewhere: its default version "main" answers.`,
				`R5 ready: Version "cart@main" is ready, with 1 healthy instance.`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, step := range table.Explain(&tt.r).Steps {
				got = append(got, step.Rule+" "+step.Outcome+": "+step.Text)
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestParseRoute(t *testing.T) {
	for value, want := range map[string]route.Route{
		"feature-1":                {Selectors: []route.Selector{{Version: "feature-1"}}},
		"cart@pr-88~team-a!":       {Selectors: []route.Selector{{Service: "cart", Version: "pr-88"}, {Version: "team-a"}}, Strict: true},
		"cart%40pr-88%7Eteam-a%21": {Selectors: []route.Selector{{Service: "cart", Version: "pr-88"}, {Version: "team-a"}}, Strict: true},
	} {
		t.Run(value, func(t *testing.T) {
			got, err := route.ParseRoute(value)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Equal(t, route.DecodeValue(value), got.String())
		})
	}
	for value, want := range map[string]string{
		"":          "the route is empty",
		"!":         "the route is empty",
		"a~~b":      "there is an empty selector",
		"~":         "there is an empty selector",
		"a b":       `version name "a b" has " "`,
		"Cart@x":    `service name "Cart" has upper-case letters`,
		"cart@":     `version name "" is empty`,
		"@x":        `service name "" is empty`,
		"a@b@c":     `version name "b@c"`,
		"a!b":       `has "!"`,
		"A~B":       `version name "B" has upper-case letters`,
		"a%":        `has "%"`,
		"../../etc": `version name "../../etc"`,
	} {
		t.Run("bad "+value, func(t *testing.T) {
			_, err := route.ParseRoute(value)
			require.ErrorContains(t, err, want)
		})
	}
}

// FuzzParseRoute holds that a route which ParseRoute accepts is read by Resolve in
// the same way, encoded or not.
func FuzzParseRoute(f *testing.F) {
	f.Add("cart@pr-88~team-a!")
	f.Add("feature-1%7E%63art%40main")
	f.Add("a%!")
	table := compiled(f, shop())
	f.Fuzz(func(t *testing.T, value string) {
		r, err := route.ParseRoute(value)
		if err != nil {
			return
		}
		again, err := route.ParseRoute(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
		plain := table.Resolve(&route.Request{Host: "cart.localhost", Header: []string{r.String()}})
		encoded := table.Resolve(&route.Request{Host: "cart.localhost", Header: []string{value}})
		require.Equal(t, r.Strict, encoded.Strict)
		encoded.Route = plain.Route
		require.Equal(t, plain, encoded)
	})
}
