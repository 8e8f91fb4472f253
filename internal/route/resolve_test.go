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
func shop() route.Spec { return routetest.Shop() }

func compiled(t testing.TB, spec route.Spec) *route.Table {
	t.Helper()
	table, err := route.Compile(spec)
	require.NoError(t, err)
	return table
}

// TestResolve_Host is R1.
func TestResolve_Host(t *testing.T) {
	table := compiled(t, shop())
	for _, tt := range routetest.Cases("host") {
		t.Run(tt.Name, func(t *testing.T) {
			d := table.Resolve(&tt.Request)
			got := d.HostBy.String()
			if d.Service != nil {
				got = d.Service.Name + " " + got
			}
			require.Equal(t, tt.Want, got)
			require.Equal(t, d.Service == nil, d.Outcome == route.UnknownHost)
		})
	}
}

// TestResolve_Preview is R2.1.
func TestResolve_Preview(t *testing.T) {
	table := compiled(t, shop())
	for _, tt := range routetest.Cases("preview") {
		t.Run(tt.Name, func(t *testing.T) {
			require.Equal(t, tt.Want, table.Resolve(&tt.Request).ServedBy())
		})
	}
	for _, name := range []string{"main", "feature-1", "1.2.3", routetest.LongName} {
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
	for _, tt := range routetest.Cases("source") {
		t.Run(tt.Name, func(t *testing.T) {
			table := with
			if tt.NoHeader {
				table = compiled(t, without)
			}
			require.Equal(t, tt.Want, table.Resolve(&tt.Request).ServedBy())
		})
	}
}

// TestResolve_Value is R4, and the fall-backs of R5.
func TestResolve_Value(t *testing.T) {
	table := compiled(t, shop())
	for _, tt := range routetest.Cases("value") {
		t.Run(tt.Name, func(t *testing.T) {
			d := table.Resolve(&tt.Request)
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
			require.Equal(t, tt.Want, got)
			require.Equal(t, strings.TrimPrefix(tt.Request.Baggage[0], "dynamic_route="), d.Route)
		})
	}
}

// TestResolve_State is R5: a version that exists is never fallen back from.
func TestResolve_State(t *testing.T) {
	table := compiled(t, shop())
	for _, tt := range routetest.Cases("state") {
		t.Run(tt.Name, func(t *testing.T) {
			d := table.Resolve(&tt.Request)
			require.Equal(t, route.Found, d.Outcome)
			require.Equal(t, tt.Want, d.Version.ID+" "+string(d.Version.State))
			require.Equal(t, route.FallbackNone, d.Fallback)
		})
	}
}

func TestResolve_DefaultVersion(t *testing.T) {
	table := compiled(t, shop())
	for _, tt := range routetest.Cases("default") {
		t.Run(tt.Name, func(t *testing.T) {
			d := table.Resolve(&tt.Request)
			got := d.ServedBy()
			if d.Version == nil {
				got = d.Outcome.String()
			}
			require.Equal(t, tt.Want, got)
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
