package route_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

func TestCompile_Defaults(t *testing.T) {
	given := route.Spec{Services: []route.Service{{Name: "cart"}, {Name: "pricing", Hosts: []string{"Pricing.TEST", "*.Pricing.test"}}}}
	table := compiled(t, given)
	spec := table.Spec()
	require.Equal(t, "localhost", spec.Domain)
	require.Equal(t, "dynamic_route", table.BaggageKey())
	require.Equal(t, 30*time.Second, table.Hold())
	require.Empty(t, table.RouteHeader())
	require.Equal(t, []string{"cart.localhost"}, spec.Services[0].Hosts)
	require.Equal(t, "main", spec.Services[0].Default)
	require.Equal(t, route.HTTP1, spec.Services[0].Protocol)
	require.Equal(t, []string{"pricing.test", "*.pricing.test"}, table.Service("pricing").Hosts)
	require.Empty(t, given.Services[0].Default, "what was given stays as it is")
	require.Nil(t, table.Service("cart").Default)
	require.Nil(t, table.Service("nope"))
	require.Nil(t, table.Service("cart").Version("main"))
}

func TestCompile_Problems(t *testing.T) {
	cart := func(change func(*route.Service)) route.Spec {
		s := route.Service{Name: "cart"}
		change(&s)
		return route.Spec{Services: []route.Service{s}}
	}
	version := func(v route.Version) route.Spec {
		return cart(func(s *route.Service) { s.Versions = []route.Version{v} })
	}
	host := func(hosts ...string) route.Spec { return cart(func(s *route.Service) { s.Hosts = hosts }) }
	instance := func(list ...route.Instance) route.Spec {
		return version(route.Version{Name: "main", State: route.Ready, Instances: list})
	}
	routes := func(list ...route.NamedRoute) route.Spec {
		spec := cart(func(*route.Service) {})
		spec.Routes = list
		return spec
	}
	chain := make([]route.NamedRoute, 40)
	for i := range chain {
		chain[i] = route.NamedRoute{Name: fmt.Sprint("r", i), Parent: fmt.Sprint("r", i+1)}
	}
	chain[39].Parent = ""
	for name, tt := range map[string]struct {
		spec route.Spec
		want string
	}{
		"domain":                   {route.Spec{Domain: "a b"}, `domain: host "a b" has " "`},
		"domain is a wildcard":     {route.Spec{Domain: "*.test"}, `host "*.test" cannot have hosts below it`},
		"baggage key":              {route.Spec{BaggageKey: "a=b"}, `baggage key "a=b"`},
		"route header":             {route.Spec{RouteHeader: "X Route"}, `route header "X Route"`},
		"route header is baggage":  {route.Spec{RouteHeader: "Baggage"}, `route header "Baggage" has a meaning of its own`},
		"hold":                     {route.Spec{Hold: -1}, "hold is -1ns"},
		"service name":             {route.Spec{Services: []route.Service{{Name: "Cart"}}}, `service name "Cart" has upper-case letters`},
		"service name is empty":    {route.Spec{Services: []route.Service{{}}}, `service name "" is empty`},
		"service twice":            {route.Spec{Services: []route.Service{{Name: "cart"}, {Name: "cart"}}}, `service "cart" is there twice`},
		"protocol":                 {cart(func(s *route.Service) { s.Protocol = "ftp" }), `service "cart" has the protocol "ftp": it can be "http1" or "h2c"`},
		"default version":          {cart(func(s *route.Service) { s.Default = "a/b" }), `service "cart": the default version: version name "a/b"`},
		"empty host":               {host(""), `service "cart": host "" is empty`},
		"host is a URL":            {host("http://cart.test"), "is a URL"},
		"host has a port":          {host("cart.test:80"), "has a port"},
		"host ends in a dot":       {host("cart.test."), "ends in a dot"},
		"wildcard in the middle":   {host("cart.*.test"), `"*" can only be the whole first label`},
		"wildcard in a label":      {host("c*.test"), `"*" can only be the whole first label`},
		"wildcard alone":           {host("*"), `"*" can only be the whole first label`},
		"wildcard of nothing":      {host("*."), "ends in a dot"},
		"empty label":              {host("a..b"), "has an empty label"},
		"host is not ASCII":        {host("bücher.test"), `has "ü": write an international name in its xn-- form`},
		"host has a bad character": {host("a b.test"), `has " "`},
		"long label":               {host(strings.Repeat("a", 64) + ".test"), "has a label of 64 bytes"},
		"long host":                {host(strings.Repeat("a.", 127)), "ends in a dot"},
		"longer host":              {host(strings.Repeat("a.", 127) + "a"), "has 255 bytes"},
		"IPv6 without brackets":    {host("::1"), "has a port"},
		"bad IPv6":                 {host("[::zz]"), "is no IPv6 address"},
		"IPv6 with a port":         {host("[::1]:80"), "is no IPv6 address"},
		"host twice":               {host("cart.test", "CART.test"), `service "cart" has the host "cart.test" twice`},
		"two services of one host": {route.Spec{Services: []route.Service{{Name: "a", Hosts: []string{"b.localhost"}}, {Name: "b"}}}, `services "a" and "b" both have the host "b.localhost"`},
		"two of one wildcard":      {route.Spec{Services: []route.Service{{Name: "a", Hosts: []string{"*.x"}}, {Name: "b", Hosts: []string{"*.X"}}}}, `services "a" and "b" both have the host "*.x"`},
		"one preview label":        {route.Spec{Services: []route.Service{{Name: "a.b"}, {Name: "a-b-" + hash6("a.b")}}}, "would both be"},
		"version name":             {version(route.Version{Name: "a b", State: route.Asleep}), `service "cart": version name "a b"`},
		"version name is empty":    {version(route.Version{State: route.Asleep}), `version name "" is empty`},
		"version twice": {cart(func(s *route.Service) {
			s.Versions = []route.Version{{Name: "x", State: route.Asleep}, {Name: "x", State: route.Failed}}
		}), `version "cart@x" is there twice`},
		"no state":                  {version(route.Version{Name: "x"}), `version "cart@x" has the state "": it can be`},
		"state":                     {version(route.Version{Name: "x", State: "stopped"}), `has the state "stopped"`},
		"ready without an instance": {version(route.Version{Name: "x", State: route.Ready}), `version "cart@x" is ready and has no instance`},
		"instance without an id":    {instance(route.Instance{Address: "a:1"}), `version "cart@main": instance 1 has no id`},
		"instance twice":            {instance(route.Instance{ID: "i", Address: "a:1"}, route.Instance{ID: "i", Address: "a:2"}), `version "cart@main" has the instance "i" twice`},
		"no address":                {instance(route.Instance{ID: "i"}), `instance "i" has no address`},
		"address without a port":    {instance(route.Instance{ID: "i", Address: "127.0.0.1"}), `has the address "127.0.0.1": write host:port`},
		"address without a host":    {instance(route.Instance{ID: "i", Address: ":80"}), `has the address ":80"`},
		"address with a bad port":   {instance(route.Instance{ID: "i", Address: "a:http"}), `has the port "http"`},
		"address with port zero":    {instance(route.Instance{ID: "i", Address: "a:0"}), `has the port "0"`},
		"address with a high port":  {instance(route.Instance{ID: "i", Address: "a:65536"}), `has the port "65536"`},
		"route name":                {routes(route.NamedRoute{Name: "A"}), `route name "A"`},
		"route twice":               {routes(route.NamedRoute{Name: "a"}, route.NamedRoute{Name: "a"}), `route "a" is there twice`},
		"unknown parent":            {routes(route.NamedRoute{Name: "a", Parent: "b"}), `route "a" has the parent "b", and no route has that name`},
		"own parent":                {routes(route.NamedRoute{Name: "a", Parent: "a"}), "routes are their own parents: a -> a"},
		"parents in a circle":       {routes(route.NamedRoute{Name: "x", Parent: "a"}, route.NamedRoute{Name: "a", Parent: "b"}, route.NamedRoute{Name: "b", Parent: "a"}), "routes are their own parents: a -> b -> a"},
		"many parents":              {routes(chain...), `route "r0" has more than 32 parents above it`},
		"pick of no service":        {routes(route.NamedRoute{Name: "a", Picks: map[string]string{"nope": "x"}}), `route "a" picks a version of "nope", and no service has that name`},
		"pick of no name":           {routes(route.NamedRoute{Name: "a", Picks: map[string]string{"cart": ""}}), `route "a": the pick for "cart": version name "" is empty`},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := route.Compile(tt.spec)
			require.Nil(t, table)
			var problems *route.CompileError
			require.ErrorAs(t, err, &problems)
			require.ErrorContains(t, err, tt.want)
			if name != "many parents" {
				require.Len(t, problems.Problems, 1)
			}
		})
	}
}

func TestCompile_ReportsEveryProblem(t *testing.T) {
	_, err := route.Compile(route.Spec{
		Domain: "a b", BaggageKey: ",",
		Services: []route.Service{
			{Name: "Cart"},
			{Name: "a", Hosts: []string{"x.test", "y:80"}, Versions: []route.Version{{Name: "v", State: "odd"}, {Name: "-"}}},
			{Name: "b", Hosts: []string{"x.test"}},
		},
		Routes: []route.NamedRoute{{Name: "r", Parent: "s", Picks: map[string]string{"t": "u"}}},
	})
	var problems *route.CompileError
	require.ErrorAs(t, err, &problems)
	require.Len(t, problems.Problems, 9)
	require.True(t, strings.HasPrefix(err.Error(), "the environment has 9 problems:\n- domain: "), err)
}

func TestCompile_LetsPass(t *testing.T) {
	for name, spec := range map[string]route.Spec{
		"nothing":                         {},
		"a pick of a version that is not": {Services: []route.Service{{Name: "a"}}, Routes: []route.NamedRoute{{Name: "r", Picks: map[string]string{"a": "gone"}}}},
		"a route named like a version":    {Services: []route.Service{{Name: "a", Versions: []route.Version{{Name: "r", State: route.Asleep}}}}, Routes: []route.NamedRoute{{Name: "r"}}},
		"a route without picks":           {Routes: []route.NamedRoute{{Name: "r"}}},
		"a starting version that serves":  {Services: []route.Service{{Name: "a", Versions: []route.Version{{Name: "v", State: route.Starting, Instances: []route.Instance{{ID: "i", Address: "[::1]:80"}}}}}}},
		"an exact host under a wildcard":  {Services: []route.Service{{Name: "a", Hosts: []string{"*.test"}}, {Name: "b", Hosts: []string{"b.test"}}}},
		"an underscore in a host":         {Services: []route.Service{{Name: "a_b"}}},
		"an international host":           {Services: []route.Service{{Name: "a", Hosts: []string{"xn--bcher-kva.test"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := route.Compile(spec)
			require.NoError(t, err)
		})
	}
}
