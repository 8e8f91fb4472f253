package route_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
)

// shop is the environment of the tables of cases.
func shop() route.Spec {
	ready := func(name string) route.Version {
		return route.Version{Name: name, State: route.Ready, Instances: []route.Instance{{ID: "i", Address: "127.0.0.1:9000"}}}
	}
	long := "feature-with-a-long-name-that-no-preview-label-can-hold-whole"
	return route.Spec{
		Revision: 3, RouteHeader: "X-Route",
		Services: []route.Service{
			{Name: "cart", Versions: []route.Version{
				ready("main"), ready("feature-1"), ready("pr-88"), ready("1.2.3"), ready(long), ready("both"),
				{Name: "sleeping", State: route.Asleep},
				{Name: "broken", State: route.Failed, Reason: "exit code 1"},
				{Name: "new", State: route.Starting},
			}},
			{Name: "pricing", Hosts: []string{"pricing.test", "*.pricing.test"}, Default: "stable", Versions: []route.Version{
				ready("stable"), ready("main"), ready("feature-2"), ready("try"),
			}},
			{Name: "deep", Hosts: []string{"*.deep.pricing.test"}, Versions: []route.Version{ready("main")}},
			{Name: "empty", Versions: []route.Version{ready("only")}},
			{Name: "a.b_c", Hosts: []string{"abc.test", "[::1]", "127.0.0.1"}, Versions: []route.Version{ready("main")}},
		},
		Routes: []route.NamedRoute{
			{Name: "team-a", Picks: map[string]string{"cart": "pr-88"}, Parent: "base"},
			{Name: "base", Picks: map[string]string{"pricing": "try", "cart": "feature-1"}},
			{Name: "gone", Picks: map[string]string{"cart": "removed"}},
			{Name: "both", Picks: map[string]string{"cart": "feature-1"}},
			{Name: "r.1", Picks: map[string]string{"cart": "pr-88"}},
		},
	}
}

func compiled(t testing.TB, spec route.Spec) *route.Table {
	t.Helper()
	table, err := route.Compile(spec)
	require.NoError(t, err)
	return table
}

// TestResolve_Host is R1.
func TestResolve_Host(t *testing.T) {
	table := compiled(t, shop())
	for host, want := range map[string]string{
		"cart.localhost":                            "cart exact",
		"CART.LocalHost":                            "cart exact",
		"cart.localhost:8080":                       "cart exact",
		"cart.localhost:":                           "cart exact",
		"cart.localhost.":                           "cart exact",
		"cart.localhost.:80":                        "cart exact",
		"pricing.test":                              "pricing exact",
		"eu.pricing.test":                           "pricing suffix",
		"a.b.pricing.test":                          "pricing suffix",
		"x.deep.pricing.test":                       "deep suffix",
		"deep.pricing.test":                         "pricing suffix",
		"x--pricing.pricing.test":                   "pricing suffix", // a wildcard goes before previews
		"[::1]":                                     "a.b_c exact",
		"[::1]:8080":                                "a.b_c exact",
		"127.0.0.1:8080":                            "a.b_c exact",
		"feature-1--cart.localhost":                 "cart preview",
		"Feature-1--Cart.localhost:8080":            "cart preview",
		"feature-1.cart.localhost":                  "cart preview",
		"x--a-b-c-" + hash6("a.b_c") + ".localhost": "a.b_c preview",
		"x.abc.test":                                "a.b_c preview",
		"":                                          "none",
		".":                                         "none",
		":80":                                       "none",
		"nope.localhost":                            "none",
		"cart.localhost..":                          "none",
		"cart.localhost:x":                          "none",
		"cart.localhost:80:80":                      "none",
		"user@cart.localhost":                       "none",
		"user:pw@cart.localhost":                    "none",
		"cart.localhost/":                           "none",
		" cart.localhost":                           "none",
		"cart.localhost\x00":                        "none",
		"::1":                                       "none",
		"[::1":                                      "none",
		"[::1]x":                                    "none",
		"[::1]:x":                                   "none",
		".cart.localhost":                           "none",
		"--cart.localhost":                          "none",
		"a--b--cart.localhost":                      "none",
		"a--b.cart.localhost":                       "none",
		"x--nope.localhost":                         "none",
		"x--cart.test":                              "none",
		"a.b.cart.localhost":                        "none",
		"pricingxtest":                              "none",
		".pricing.test":                             "none",
		"cárt.localhost":                            "none",
		strings.Repeat("a.", 4000) + "cart.localhost": "none",
		strings.Repeat("a", 254):                      "none",
	} {
		t.Run(host[:min(len(host), 40)], func(t *testing.T) {
			d := table.Resolve(&route.Request{Host: host})
			got := d.HostBy.String()
			if d.Service != nil {
				got = d.Service.Name + " " + got
			}
			require.Equal(t, want, got)
			require.Equal(t, d.Service == nil, d.Outcome == route.UnknownHost)
		})
	}
}

// TestResolve_Preview is R2.1.
func TestResolve_Preview(t *testing.T) {
	table := compiled(t, shop())
	long := "feature-with-a-long-name-that-no-preview-label-can-hold-whole"
	for host, want := range map[string]string{
		"feature-1--cart.localhost":                       "cart@feature-1; route=feature-1; by=preview",
		"feature-1.cart.localhost":                        "cart@feature-1; route=feature-1; by=preview",
		"FEATURE-1.cart.localhost":                        "cart@feature-1; route=feature-1; by=preview",
		"feature-2--cart.localhost":                       "cart@main; route=feature-2; by=preview; fallback=default",
		"team-a--cart.localhost":                          "cart@pr-88; route=team-a; by=preview",
		"base--pricing.localhost":                         "pricing@try; route=base; by=preview",
		"nope--cart.localhost":                            "cart@main; route=nope; by=preview; fallback=unknown",
		"1-2-3-" + hash6("1.2.3") + "--cart.localhost":    "cart@1.2.3; route=1.2.3; by=preview",
		"1-2-3-" + hash6("1.2.3") + "--pricing.localhost": "pricing@stable; route=1.2.3; by=preview; fallback=default",
		"1-2-4-" + hash6("1.2.3") + "--cart.localhost":    "cart@main; route=1-2-4-" + hash6("1.2.3") + "; by=preview; fallback=unknown",
		"r-1-" + hash6("r.1") + ".cart.localhost":         "cart@pr-88; route=r.1; by=preview",
		route.PreviewLabel(long, 57) + "--cart.localhost": "cart@" + long + "; route=" + long + "; by=preview",
		long + ".cart.localhost":                          "cart@" + long + "; route=" + long + "; by=preview",
		"a_b--cart.localhost":                             "cart@main; route=a_b; by=preview; fallback=unknown",
	} {
		t.Run(host, func(t *testing.T) {
			d := table.Resolve(&route.Request{Host: host, Baggage: []string{"dynamic_route=pr-88"}})
			require.Equal(t, want, d.ServedBy())
		})
	}
	for _, name := range []string{"main", "feature-1", "1.2.3", long} {
		v := table.Service("cart").Version(name)
		d := table.Resolve(&route.Request{Host: v.PreviewHost()})
		require.Same(t, v, d.Version, "a version answers at its own preview host")
		require.Equal(t, v.Label()+"--cart.localhost", v.PreviewHost())
	}
}

// TestResolve_Source is the order of R2.
func TestResolve_Source(t *testing.T) {
	with, without := compiled(t, shop()), shop()
	without.RouteHeader = ""
	for name, tt := range map[string]struct {
		baggage, header, cookie string
		noHeader                bool
		want                    string
	}{
		"none":                        {want: "cart@main; by=default"},
		"baggage":                     {baggage: "dynamic_route=feature-1", header: "pr-88", cookie: "layover_route=both", want: "cart@feature-1; route=feature-1; by=baggage"},
		"header":                      {baggage: "a=b", header: " pr-88 ", cookie: "layover_route=both", want: "cart@pr-88; route=pr-88; by=header"},
		"header is not configured":    {noHeader: true, header: "pr-88", want: "cart@main; by=default"},
		"cookie":                      {header: " ", cookie: "a=b; layover_route=pr-88; c=d", want: "cart@pr-88; route=pr-88; by=cookie"},
		"quoted cookie":               {cookie: `layover_route="pr-88"`, want: "cart@pr-88; route=pr-88; by=cookie"},
		"first cookie":                {cookie: "layover_route=pr-88; layover_route=feature-1", want: "cart@pr-88; route=pr-88; by=cookie"},
		"first cookie is empty":       {cookie: "layover_route=; layover_route=feature-1", want: "cart@main; by=default"},
		"cookie of another name":      {cookie: "xlayover_route=pr-88; layover_route2=pr-88; layover_route", want: "cart@main; by=default"},
		"encoded cookie":              {cookie: "layover_route=cart%40pr-88", want: "cart@pr-88; route=cart%40pr-88; by=cookie"},
		"empty baggage":               {baggage: "dynamic_route=", cookie: "layover_route=pr-88", want: "cart@pr-88; route=pr-88; by=cookie"},
		"malformed baggage":           {baggage: "dynamic_route=a b", cookie: "layover_route=pr-88", want: "cart@pr-88; route=pr-88; by=cookie"},
		"baggage that makes no sense": {baggage: "dynamic_route=***", cookie: "layover_route=pr-88", want: "cart@main; route=***; by=baggage; fallback=unknown"},
		"header that is too long":     {header: strings.Repeat("x", 9000), cookie: "layover_route=pr-88", want: "cart@pr-88; route=pr-88; by=cookie"},
		"cookie that is too long":     {cookie: "layover_route=" + strings.Repeat("x", 9000), want: "cart@main; by=default"},
		"header that breaks headers":  {header: "a;b, c\r\n\"é=", want: "cart@main; route=a%3Bb%2C%20c%0D%0A%22%C3%A9%3D; by=header; fallback=unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			table := with
			if tt.noHeader {
				table = compiled(t, without)
			}
			d := table.Resolve(&route.Request{
				Host: "cart.localhost", Baggage: []string{tt.baggage}, Header: []string{"", tt.header}, Cookie: []string{tt.cookie},
			})
			require.Equal(t, tt.want, d.ServedBy())
		})
	}
}

// TestResolve_Value is R4, and the fall-backs of R5.
func TestResolve_Value(t *testing.T) {
	table := compiled(t, shop())
	long := "feature-with-a-long-name-that-no-preview-label-can-hold-whole"
	for value, want := range map[string]string{
		"feature-1":                         "cart@feature-1 name",
		"main":                              "cart@main name",
		long:                                "cart@" + long + " name",
		"cart@pr-88":                        "cart@pr-88 scoped",
		"cart%40pr-88":                      "cart@pr-88 scoped",
		"%63art%40pr%2D88":                  "cart@pr-88 scoped",
		"feature-1~cart@pr-88":              "cart@pr-88 scoped",
		"cart@pr-88~cart@feature-1":         "cart@pr-88 scoped",
		"feature-1~pr-88":                   "cart@feature-1 name",
		"feature-2~pr-88":                   "cart@pr-88 name",
		"feature-2%7Epr-88":                 "cart@pr-88 name",
		"nope~pr-88":                        "cart@pr-88 name",
		"~~pr-88":                           "cart@pr-88 name",
		"pricing@try~feature-1":             "cart@feature-1 name",
		"team-a":                            "cart@pr-88 named",
		"base":                              "cart@feature-1 named",
		"both":                              "cart@feature-1 named",
		"feature-2~team-a":                  "cart@pr-88 named",
		"feature-1~team-a":                  "cart@feature-1 name",
		"team-a~feature-1":                  "cart@pr-88 named",
		"cart@team-a":                       "cart@main none fallback=unknown",
		"feature-2":                         "cart@main none fallback=default",
		"nope~feature-2":                    "cart@main none fallback=default",
		"pricing@try":                       "cart@main none fallback=default",
		"stable":                            "cart@main none fallback=default",
		"pricing@nope":                      "cart@main none fallback=unknown",
		"nope@main":                         "cart@main none fallback=unknown",
		"nope":                              "cart@main none fallback=unknown",
		"Feature-1":                         "cart@main none fallback=unknown",
		"cart@nope":                         "cart@main none fallback=unknown",
		"cart@feature-2~feature-1":          "cart@main none fallback=unknown",
		"feature-1~cart@nope":               "cart@main none fallback=unknown",
		"cart@":                             "cart@main none fallback=unknown",
		"@feature-1":                        "cart@main none fallback=unknown",
		"cart@pr@88":                        "cart@main none fallback=unknown",
		"cart@" + strings.Repeat("x", 200):  "cart@main none fallback=unknown",
		strings.Repeat("x", 300):            "cart@main none fallback=unknown",
		strings.Repeat("x", 300) + "~pr-88": "cart@pr-88 name",
		"gone":                              "cart@main none fallback=unknown",
		"gone~feature-1":                    "cart@main none fallback=unknown",
		"~":                                 "cart@main none fallback=unknown",
		"@":                                 "cart@main none fallback=unknown",
		"feature-1!":                        "cart@feature-1 name strict",
		"feature-1%21":                      "cart@feature-1 name strict",
		"cart@pr-88~feature-2!":             "cart@pr-88 scoped strict",
		"feature-2!":                        "cart@main none fallback=default strict",
		"team-a!":                           "cart@pr-88 named strict",
		"pricing@try!":                      "cart@main none fallback=default strict",
		"nope!":                             "unknown-route strict",
		"feature-1~nope!":                   "unknown-route strict",
		"cart@pr-88~nope!":                  "unknown-route strict",
		"feature-1~cart@nope!":              "unknown-route strict",
		"gone!":                             "unknown-route strict",
		"!":                                 "unknown-route strict",
		"feature-1~!":                       "unknown-route strict",
		"feature-1!!":                       "unknown-route strict",
		"feature-1!~pr-88":                  "cart@pr-88 name", // "!" is strict at the end only
	} {
		t.Run(value[:min(len(value), 40)], func(t *testing.T) {
			d := table.Resolve(&route.Request{Host: "cart.localhost", Baggage: []string{"dynamic_route=" + value}})
			got := d.Outcome.String()
			if d.Version != nil {
				got = d.Version.ID + " " + d.Match.String()
			}
			if d.Fallback != route.FallbackNone {
				got += " fallback=" + d.Fallback.String()
			}
			if d.Strict {
				got += " strict"
			}
			require.Equal(t, want, got)
			require.Equal(t, value, d.Route)
		})
	}
}

// TestResolve_State is R5: a version that exists is never fallen back from.
func TestResolve_State(t *testing.T) {
	table := compiled(t, shop())
	for name, state := range map[string]route.State{"sleeping": route.Asleep, "broken": route.Failed, "new": route.Starting, "feature-1": route.Ready} {
		t.Run(name, func(t *testing.T) {
			d := table.Resolve(&route.Request{Host: "cart.localhost", Baggage: []string{"dynamic_route=" + name + "~main"}})
			require.Equal(t, route.Found, d.Outcome)
			require.Equal(t, "cart@"+name, d.Version.ID)
			require.Equal(t, state, d.Version.State)
			require.Equal(t, route.FallbackNone, d.Fallback)
		})
	}
}

func TestResolve_DefaultVersion(t *testing.T) {
	table := compiled(t, shop())
	for name, tt := range map[string]struct {
		host, value string
		want        string
	}{
		"of the service":           {"pricing.test", "", "pricing@stable; by=default"},
		"named, though another":    {"pricing.test", "main", "pricing@main; route=main; by=baggage"},
		"fallen back to":           {"pricing.test", "feature-1", "pricing@stable; route=feature-1; by=baggage; fallback=default"},
		"missing":                  {"empty.localhost", "", "no-version"},
		"missing, fallen back to":  {"empty.localhost", "feature-1", "no-version"},
		"missing, and not wanted":  {"empty.localhost", "only", "empty@only; route=only; by=baggage"},
		"missing, asked for alone": {"empty.localhost", "empty@main", "no-version"},
	} {
		t.Run(name, func(t *testing.T) {
			d := table.Resolve(&route.Request{Host: tt.host, Baggage: []string{"dynamic_route=" + tt.value}})
			got := d.ServedBy()
			if d.Version == nil {
				got = d.Outcome.String()
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestResolve_LongNamesWithOneBeginning(t *testing.T) {
	spec := route.Spec{Services: []route.Service{{Name: "cart"}}}
	const beginning = "feature-with-one-beginning-"
	for i := range 2000 {
		spec.Services[0].Versions = append(spec.Services[0].Versions, route.Version{Name: fmt.Sprint(beginning, 1000+i), State: route.Asleep})
	}
	table := compiled(t, spec)
	for i := range 3000 {
		v := table.Service("cart").Version(fmt.Sprint(beginning, 1000+i))
		require.Equal(t, i < 2000, v != nil)
		if v != nil {
			require.Equal(t, fmt.Sprint("cart@", beginning, 1000+i), v.ID)
		}
	}
}

func TestResolve_DoesNotAllocate(t *testing.T) {
	table := compiled(t, shop())
	long := route.PreviewLabel("feature-with-a-long-name-that-no-preview-label-can-hold-whole", 57)
	for name, r := range map[string]route.Request{
		"default":           {Host: "cart.localhost"},
		"upper-case host":   {Host: "CART.localhost.:8080"},
		"suffix host":       {Host: "a.b.c.pricing.test"},
		"unknown host":      {Host: strings.Repeat("a.", 120) + "test"},
		"huge host":         {Host: strings.Repeat("a", 1<<20)},
		"IPv6 host":         {Host: "[::1]:80"},
		"preview":           {Host: "feature-1--cart.localhost"},
		"long preview":      {Host: long + "--cart.localhost"},
		"unknown preview":   {Host: "NOPE--cart.localhost"},
		"baggage":           {Host: "cart.localhost", Baggage: []string{"a=b;p=1", "bad,dynamic_route=feature-1;q"}},
		"encoded":           {Host: "cart.localhost", Baggage: []string{"dynamic_route=cart%40pr-88%7Efeature-2%21"}},
		"named":             {Host: "pricing.test", Baggage: []string{"dynamic_route=team-a"}},
		"chain":             {Host: "cart.localhost", Baggage: []string{"dynamic_route=pricing@try~nope~feature-2~pr-88"}},
		"unknown":           {Host: "cart.localhost", Baggage: []string{"dynamic_route=nope"}},
		"unknown, strict":   {Host: "cart.localhost", Baggage: []string{"dynamic_route=nope@x~" + strings.Repeat("x", 500) + "!"}},
		"huge baggage":      {Host: "cart.localhost", Baggage: []string{strings.Repeat("a=b,", 5000)}},
		"huge chain":        {Host: "cart.localhost", Baggage: []string{"dynamic_route=" + strings.Repeat("a~", 4000)}},
		"header":            {Host: "cart.localhost", Header: []string{"", " pr-88 "}},
		"cookie":            {Host: "cart.localhost", Cookie: []string{"a=b", `c=d; layover_route="cart%40pr-88"`}},
		"malformed baggage": {Host: "cart.localhost", Baggage: []string{"dynamic_route=%4"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Zero(t, testing.AllocsPerRun(100, func() { table.Resolve(&r) }))
		})
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { table.Service("cart").Version("feature-1").Next() }))
}

func FuzzResolve(f *testing.F) {
	f.Add("cart.localhost", "dynamic_route=feature-1", "", "")
	f.Add("1-2-3-"+hash6("1.2.3")+"--cart.localhost:80", "", "x", "layover_route=\"a\"")
	f.Add("[::1]:80", "dynamic_route=cart%40pr-88~team-a!", "a;b", "; ;layover_route")
	table := compiled(f, shop())
	m := model{shop()}
	f.Fuzz(func(t *testing.T, host, baggage, header, cookie string) {
		r := &route.Request{Host: host, Baggage: []string{baggage}, Header: []string{header}, Cookie: []string{cookie}}
		d := table.Resolve(r)
		require.Equal(t, verdictOf(d), explained(table.Explain(r)))
		for _, c := range []byte(d.ServedBy()) {
			require.True(t, 0x20 <= c && c <= 0x7e, "%q", d.ServedBy())
		}
		require.Less(t, len(d.ServedBy()), 1000)
		if !strings.HasPrefix(host, "[") && len(header)+len(cookie) < route.MaxBaggage {
			require.Equal(t, m.resolve(r), verdictOf(d))
		}
	})
}

func TestResolve_EveryVersionOfALargeTable(t *testing.T) {
	spec := routetest.Spec(30, 40)
	table := compiled(t, spec)
	for i := range spec.Services {
		s := &spec.Services[i]
		other := spec.Services[(i+1)%len(spec.Services)].Name
		for _, v := range s.Versions {
			r := &route.Request{Host: s.Name + ".localhost", Baggage: []string{"dynamic_route=" + v.Name}}
			require.Equal(t, s.Name+"@"+v.Name, table.Resolve(r).Version.ID)

			r.Host = other + ".localhost"
			d := table.Resolve(r)
			if table.Service(other).Version(v.Name) == nil {
				require.Equal(t, route.FallbackDefault, d.Fallback, "%s exists elsewhere", v.Name)
			} else {
				require.Equal(t, other+"@"+v.Name, d.Version.ID)
			}
		}
	}
	cost, err := routetest.Cost(table, 0, 1000)
	require.NoError(t, err)
	require.Positive(t, cost)
}
