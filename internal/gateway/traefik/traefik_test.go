package traefik_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
)

const proxy = "http://127.0.0.1:8080"

func compiled(t testing.TB, spec route.Spec) *route.Table {
	t.Helper()
	table, err := route.Compile(spec)
	require.NoError(t, err)
	return table
}

func built(t testing.TB, table *route.Table, s traefik.Settings) *traefik.Config {
	t.Helper()
	if s.Proxies == nil {
		s.Proxies = []string{proxy}
	}
	c, err := traefik.Build(table, s)
	require.NoError(t, err)
	return c
}

func evaluator(t testing.TB, table *route.Table, s traefik.Settings) *traefik.Evaluator {
	t.Helper()
	e, err := traefik.Compile(built(t, table, s))
	require.NoError(t, err)
	return e
}

// sent is the request as Traefik gets it.
func sent(r *route.Request) *traefik.Request {
	h := http.Header{"Baggage": r.Baggage, "X-Route": r.Header, "Cookie": r.Cookie}
	return &traefik.Request{Host: r.Host, Path: "/", Header: h}
}

// The cases of package route: Traefik answers as the table decides, or leaves it to Layover's proxy.
func TestAgreesWithTheCasesOfRoute(t *testing.T) {
	with, without := routetest.Shop(), routetest.Shop()
	without.RouteHeader = ""
	for _, mode := range []traefik.Mode{traefik.Hybrid, traefik.Full} {
		direct := 0
		for _, tt := range routetest.Cases("") {
			spec := with
			if tt.NoHeader {
				spec = without
			}
			table := compiled(t, spec)
			a := evaluator(t, table, traefik.Settings{Mode: mode}).Decide(sent(&tt.Request))
			if traefik.Limit(sent(&tt.Request), table) != "" {
				continue
			}
			require.Empty(t, traefik.Compare(table.Resolve(&tt.Request), a), "%s %s: %+v", mode, tt.Name, a)
			if !a.Proxy && a.Router != "" {
				direct++
			}
		}
		require.Greater(t, direct, 15, "most of the cases are about routes: not all may go to the proxy")
	}
}

// What one name asks for is answered without the proxy, in all the ways that a header can say it.
func TestFullAnswersItself(t *testing.T) {
	table := compiled(t, routetest.Shop())
	e := evaluator(t, table, traefik.Settings{Mode: traefik.Full, Leased: map[string]bool{"cart@1.2.3": true}})
	for baggage, want := range map[string]string{
		"dynamic_route=feature-1":                                  "cart@feature-1; route=feature-1; by=baggage",
		"a=b, dynamic_route =\tfeature-1 ;p;q = 1%41; , c=d":       "cart@feature-1; route=feature-1; by=baggage",
		"sentry-trace_id=1|dynamic_route=feature-1":                "cart@feature-1; route=feature-1; by=baggage",
		"bad,=,dynamic_route=feature-1,dynamic_route":              "cart@feature-1; route=feature-1; by=baggage",
		"dynamic_route=feature-1,dynamic_route=feature-1;bad prop": "cart@feature-1; route=feature-1; by=baggage",
		"dynamic_route=" + routetest.LongName:                      "cart@" + routetest.LongName + "; route=" + routetest.LongName + "; by=baggage",
		"dynamic_route=team-a":                                     "cart@pr-88; route=team-a; by=baggage",
		"dynamic_route=both":                                       "cart@feature-1; route=both; by=baggage",
		"dynamic_route=main":                                       "cart@main; route=main; by=baggage",
		"Dynamic_Route=feature-1":                                  "cart@main; by=default",
		"":                                                         "cart@main; by=default",
		"dynamic_route=feature-10":                                 "",
		"dynamic_route=feature-1,dynamic_route=pr-88":              "",
		"dynamic_route=pr-88,dynamic_route=feature-1":              "",
		"dynamic_route=feature-1,dynamic_route=":                   "",
		"dynamic_route=feature%2D1":                                "",
		"dynamic_route=feature-1!":                                 "",
		"dynamic_route=feature-1~pr-88":                            "",
		"dynamic_route=cart@feature-1":                             "",
		"dynamic_route=feature-1;bad prop":                         "",
		"dynamic_route=sleeping":                                   "", // held and woken by the proxy
		"dynamic_route=broken":                                     "",
		"dynamic_route=feature-2":                                  "", // it falls back, and says so
		"dynamic_route=1.2.3":                                      "", // its activity has to be seen
	} {
		t.Run(baggage, func(t *testing.T) {
			a := e.Decide(sent(&route.Request{Host: "Cart.localhost:80", Baggage: strings.Split(baggage, "|")}))
			require.Equal(t, want, a.ServedBy)
			require.Equal(t, want == "", a.Proxy)
		})
	}
	a := e.Decide(&traefik.Request{Host: "cart.localhost", Path: traefik.WaitPath, Header: http.Header{"Baggage": {"dynamic_route=feature-1"}}})
	require.True(t, a.Proxy, "the proxy answers there on every host")
}

// What a client declares to be for one hop, Traefik does not route by. That is a limit, which is listed.
func TestFieldsThatConnectionNames(t *testing.T) {
	table := compiled(t, routetest.Shop())
	e := evaluator(t, table, traefik.Settings{Mode: traefik.Full})
	for connection, limited := range map[string]bool{"close": false, "keep-alive, x-other": false, "close, BAGGAGE": true, "x-route": false, "Upgrade , baggage\t,": true} {
		r := sent(&route.Request{Host: "cart.localhost", Baggage: []string{"dynamic_route=feature-1"}})
		r.Header.Set("Connection", connection)
		require.Equal(t, limited, traefik.Limit(r, table) == traefik.LimitConnection, connection)
		differs := traefik.Compare(table.Resolve(r.RouteRequest("X-Route")), e.Decide(r))
		require.Equal(t, limited, differs != "", "%s: %s", connection, differs)
		require.Equal(t, []string{"dynamic_route=feature-1"}, r.Header["Baggage"], "the request is not changed")
	}
}

// A wish for another HTTP is for the proxy, which takes it from the request: Java's clients have it in their first one.
func TestUpgradesToHTTP(t *testing.T) {
	table := compiled(t, routetest.Shop())
	for _, mode := range []traefik.Mode{traefik.Hybrid, traefik.Full} {
		e := evaluator(t, table, traefik.Settings{Mode: mode})
		for _, baggage := range []string{"", "dynamic_route=feature-1"} {
			for upgrade, proxied := range map[string]bool{
				"h2c": true, "H2C": true, "websocket, h2c": true, "TLS/1.2": true, "HTTP/2.0 , x": true, "\th2": true,
				"websocket": false, "h2cx": false, "my-http": false, "": false,
			} {
				r := sent(&route.Request{Host: "cart.localhost", Baggage: []string{baggage}})
				r.Header.Set("Connection", "Upgrade, HTTP2-Settings")
				r.Header.Set("Upgrade", upgrade)
				require.Equal(t, proxied || mode == traefik.Hybrid && baggage != "", e.Decide(r).Proxy, "%s %q %q", mode, baggage, upgrade)
			}
		}
	}
}

func TestHybridHasTwoRoutersForAService(t *testing.T) {
	for _, versions := range []int{2, 500} {
		c := built(t, compiled(t, routetest.Spec(10, versions)), traefik.Settings{Mode: traefik.Hybrid})
		require.Len(t, c.HTTP.Routers, 2*10+1, "and one for all previews")
	}
	c := built(t, compiled(t, routetest.Spec(10, 50)), traefik.Settings{Mode: traefik.Full})
	require.Len(t, c.HTTP.Routers, 2*10+1+10*50)
	c = built(t, compiled(t, routetest.Shop()), traefik.Settings{Mode: traefik.Full})
	require.Contains(t, c.HTTP.Routers, traefik.Prefix("")+"cart--route--both", "a named route goes before the version of that name")
	require.NotContains(t, c.HTTP.Routers, traefik.Prefix("")+"cart--version--both")
}

func TestConfig(t *testing.T) {
	spec := route.Spec{Environment: "shop", Services: []route.Service{
		{Name: "api", Protocol: route.H2C, Versions: []route.Version{{Name: "main", State: route.Ready, Instances: []route.Instance{
			{ID: "b", Address: "10.0.0.2:80"}, {ID: "a", Address: "10.0.0.1:80"},
		}}}},
		{Name: "far", Versions: []route.Version{{Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "a", Address: "far.test:443", TLS: true}}}}},
	}}
	settings := traefik.Settings{Mode: traefik.Hybrid, EntryPoints: []string{"web"}, Priority: 7, TLS: true, CertResolver: "le", Proxies: []string{proxy}}
	c := built(t, compiled(t, spec), settings)
	r := c.HTTP.Routers["layover--shop--api--default"]
	require.Equal(t, []string{"web"}, r.EntryPoints)
	require.Equal(t, &traefik.RouterTLS{CertResolver: "le"}, r.TLS)
	require.Equal(t, "layover--shop--api--instances--main", r.Service)
	require.Equal(t, []traefik.Server{{URL: "h2c://10.0.0.1:80"}, {URL: "h2c://10.0.0.2:80"}}, c.HTTP.Services[r.Service].LoadBalancer.Servers)
	require.Equal(t, "api@main; by=default", c.HTTP.Middlewares[r.Middlewares[0]].Headers.Response["Layover-Served-By"])
	require.Equal(t, []traefik.Server{{URL: "h2c://127.0.0.1:8080"}}, c.HTTP.Services[c.HTTP.Routers["layover--shop--api--routed"].Service].LoadBalancer.Servers)
	require.Equal(t, []traefik.Server{{URL: proxy}}, c.HTTP.Services[c.HTTP.Routers["layover--shop--far--default"].Service].LoadBalancer.Servers,
		"TLS to instances is the proxy's")
	for name, r := range c.HTTP.Routers {
		require.True(t, strings.HasPrefix(name, traefik.Prefix("shop")), name)
		require.Greater(t, r.Priority, 7, name)
		require.Less(t, r.Priority, 7+traefik.Taken, name)
		require.NotNil(t, c.HTTP.Services[r.Service], name)
	}
	one, err := c.JSON()
	require.NoError(t, err)
	two, err := built(t, compiled(t, spec), settings).JSON()
	require.NoError(t, err)
	require.Equal(t, string(one), string(two))
	again, err := traefik.Parse(one)
	require.NoError(t, err)
	require.Equal(t, c, again)

	// Traefik refuses an element that is there and empty.
	for _, empty := range []route.Spec{{}, {Services: []route.Service{{Name: "cart"}}}} {
		text, err := built(t, compiled(t, empty), settings).JSON()
		require.NoError(t, err)
		require.NotContains(t, strings.TrimSuffix(string(text), "\n")[1:], "{}")
	}
	_, err = traefik.Build(compiled(t, spec), traefik.Settings{Mode: traefik.Hybrid})
	require.ErrorIs(t, err, traefik.ErrNoProxy)
}

// Of requests that the rule of a version is true of, it is the route; so it is of all that say so plainly.
func TestBaggageRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SampledFrom([]string{"dynamic_route", "k", "a.b*c`d", "x-y^|"}).Draw(t, "key")
		name := rapid.SampledFrom([]string{"feature-1", "a", "aa", "a.b_c-d", "1.2.3"}).Draw(t, "name")
		part := rapid.SampledFrom([]string{
			key, key, key, "=", "=", name, name, name, name[:1], name[1:], ",", ",", ";", " ", "\t", "p", "%41", "%", "\"", "é", "\xff", "!", "x", key + "=" + name,
		})
		var lines []string
		for range rapid.IntRange(0, 3).Draw(t, "lines") {
			lines = append(lines, strings.Join(rapid.SliceOfN(part, 0, 12).Draw(t, "parts"), ""))
		}
		matches, exact := traefik.BaggageIs(lines, key, name)
		value, found := route.Member(lines, key)
		if matches {
			require.Equal(t, name, value, "%q", lines)
		}
		if found {
			require.True(t, traefik.BaggageHas(lines, key), "%q", lines)
		}
		if exact && found {
			require.Equal(t, value == name, matches, "%q", lines)
		}
	})
}

func FuzzBaggageRules(f *testing.F) {
	for _, line := range []string{
		"k=v", "k=v,k=v;p", "k=vv", "k= v ;p=1;;q ,k=", "a=b;k=v", "k=v\x00", "k=v;\"", " k\t= v", "k=v,k", "k=v;p=%4", "é,k=v", "k=v;=",
	} {
		f.Add(line, "")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		lines := []string{one, two}
		if len(one)+len(two) >= route.MaxBaggage {
			return
		}
		value, found := route.Member(lines, "k")
		matches, _ := traefik.BaggageIs(lines, "k", "v")
		if matches {
			require.Equal(t, "v", value)
		}
		if found {
			require.True(t, traefik.BaggageHas(lines, "k"))
		}
	})
}

// Hosts are told apart as R1 does, of all those that HTTP libraries let pass.
func FuzzHosts(f *testing.F) {
	for _, tt := range routetest.Cases("host") {
		f.Add(tt.Request.Host)
	}
	table := compiled(f, routetest.Shop())
	e := evaluator(f, table, traefik.Settings{Mode: traefik.Full})
	f.Fuzz(func(t *testing.T, host string) {
		r := &route.Request{Host: host}
		if len(host) > 250 || traefik.Limit(sent(r), table) != "" || !regexp.MustCompile(`^[ -~]*$`).MatchString(host) {
			return
		}
		a, d := e.Decide(sent(r)), table.Resolve(r)
		require.Empty(t, traefik.Compare(d, a), "%q: %+v", host, a)
		require.Equal(t, d.Outcome == route.UnknownHost, a.Router == "", "%q: hosts that are not ours are not touched", host)
	})
}

// Rules of one host exclude each other: a reader that has all routers but one never sends a request to a version
// that the table would not choose. Traefik's Redis provider may be such a reader while a change is written.
func TestAMissingRouterIsNoWrongVersion(t *testing.T) {
	spec := routetest.Shop()
	for i := range spec.Services {
		for j := range spec.Services[i].Versions {
			for k := range spec.Services[i].Versions[j].Instances { // each version has an address of its own
				spec.Services[i].Versions[j].Instances = []route.Instance{{ID: "i", Address: fmt.Sprintf("10.0.%d.%d:%d", i, j, 80+k)}}
			}
		}
	}
	table := compiled(t, spec)
	config := built(t, table, traefik.Settings{Mode: traefik.Full})
	whole, err := traefik.Compile(config)
	require.NoError(t, err)
	for missing := range config.HTTP.Routers {
		e := whole.Without(missing)
		for _, tt := range routetest.Cases("") {
			if tt.NoHeader || strings.Contains(missing, "--deep--") || traefik.Limit(sent(&tt.Request), table) != "" {
				continue // the hosts of deep are under those of pricing, which has them where deep is not there
			}
			if a := e.Decide(sent(&tt.Request)); a.Router != "" {
				require.Empty(t, traefik.Compare(table.Resolve(&tt.Request), a), "%s without %s: %+v", tt.Name, missing, a)
			}
		}
	}
}
