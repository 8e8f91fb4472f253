package route_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
)

// changed is what a change makes of an environment, with no thought for speed.
func changed(spec route.Spec, c route.Change) route.Spec {
	spec.Revision = c.Revision
	spec.Services = slices.Clone(spec.Services)
	spec.Routes = slices.Clone(spec.Routes)
	for _, one := range c.Services {
		var versions []route.Version
		i := slices.IndexFunc(spec.Services, func(s route.Service) bool { return s.Name == one.Name })
		if i >= 0 {
			versions = spec.Services[i].Versions
		}
		if one.Service == nil {
			spec.Services = edited(spec.Services, i, nil)
			continue
		}
		s := *one.Service
		s.Versions = versions
		spec.Services = edited(spec.Services, i, &s)
	}
	for _, one := range c.Versions {
		i := slices.IndexFunc(spec.Services, func(s route.Service) bool { return s.Name == one.Service })
		versions := slices.Clone(spec.Services[i].Versions)
		j := slices.IndexFunc(versions, func(v route.Version) bool { return v.Name == one.Name })
		spec.Services[i].Versions = edited(versions, j, one.Version)
	}
	for _, one := range c.Routes {
		i := slices.IndexFunc(spec.Routes, func(r route.NamedRoute) bool { return r.Name == one.Name })
		spec.Routes = edited(spec.Routes, i, one.Route)
	}
	return spec
}

// edited replaces the item at i, or appends where i is negative; nil removes it.
func edited[T any](list []T, i int, item *T) []T {
	switch {
	case item == nil && i >= 0:
		return slices.Delete(list, i, i+1)
	case item == nil:
		return list
	case i >= 0:
		list[i] = *item
		return list
	default:
		return append(list, *item)
	}
}

// drawChange draws a change of spec that is well-formed; what it leads to may not be
// valid.
func drawChange(t *rapid.T, spec route.Spec) route.Change {
	c := route.Change{Epoch: spec.Epoch, Base: spec.Revision, Revision: spec.Revision + 1 + rapid.Uint64Range(0, 2).Draw(t, "revisions")}
	there := make(map[string]bool)
	for _, s := range spec.Services {
		there[s.Name] = true
	}
	services := slices.Concat(someServices, []string{"a-b", "Bad"})
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(services), 0, 2, rapid.ID[string]).Draw(t, "changed services") {
		one := route.ServiceChange{Name: name}
		if there[name] = rapid.IntRange(0, 2).Draw(t, "is kept") > 0; there[name] {
			one.Service = &route.Service{
				Name: name, Default: rapid.SampledFrom([]string{"", "main", "pr-88", "no/name"}).Draw(t, "default"),
				Hosts:    rapid.SliceOfN(rapid.SampledFrom(someHosts), 0, 2).Draw(t, "hosts"),
				Protocol: rapid.SampledFrom([]route.Protocol{"", route.H2C}).Draw(t, "protocol"),
			}
		}
		c.Services = append(c.Services, one)
	}
	maps.DeleteFunc(there, func(_ string, is bool) bool { return !is })
	if len(there) > 0 {
		pair := rapid.Custom(func(t *rapid.T) [2]string {
			return [2]string{
				rapid.SampledFrom(slices.Sorted(maps.Keys(there))).Draw(t, "service"),
				rapid.SampledFrom(someVersions).Draw(t, "version"),
			}
		})
		for _, id := range rapid.SliceOfNDistinct(pair, 0, 4, rapid.ID[[2]string]).Draw(t, "changed versions") {
			one := route.VersionChange{Service: id[0], Name: id[1]}
			if rapid.Bool().Draw(t, "is there") {
				one.Version = &route.Version{Name: id[1], State: rapid.SampledFrom([]route.State{route.Starting, route.Asleep, route.Failed, route.Ready}).Draw(t, "state")}
				if one.Version.State == route.Ready || rapid.Bool().Draw(t, "has an instance") {
					one.Version.Instances = []route.Instance{{ID: "i", Address: rapid.SampledFrom([]string{"h:1", "h:2", "h:3", "h:4", "h"}).Draw(t, "address")}}
				}
			}
			c.Versions = append(c.Versions, one)
		}
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(someRoutes), 0, 2, rapid.ID[string]).Draw(t, "changed routes") {
		one := route.RouteChange{Name: name}
		if rapid.Bool().Draw(t, "is there") {
			one.Route = &route.NamedRoute{Name: name, Parent: rapid.SampledFrom(slices.Concat(someRoutes, []string{"", "", ""})).Draw(t, "parent"), Picks: make(map[string]string)}
			for _, service := range slices.Sorted(maps.Keys(there)) {
				if rapid.Bool().Draw(t, "picks") {
					one.Route.Picks[service] = rapid.SampledFrom(someVersions).Draw(t, "pick")
				}
			}
		}
		c.Routes = append(c.Routes, one)
	}
	return c
}

// TestApply_AgreesWithCompile holds that changes, one after the other, lead to what
// compiling the outcome leads to, or are refused in the same words; and that no
// table ever becomes another one.
func TestApply_AgreesWithCompile(t *testing.T) {
	var applied, refused int
	rapid.Check(t, func(t *rapid.T) {
		spec := drawSpec(t)
		table, err := route.Compile(spec)
		if err != nil {
			t.Skip("the services drawn have a host in common")
		}
		first, before := table, table.Spec()
		for range rapid.IntRange(1, 12).Draw(t, "number of changes") {
			change := drawChange(t, spec)
			want, wantErr := route.Compile(changed(spec, change))
			got, err := table.Apply(change)
			if wantErr != nil {
				refused++
				require.Nil(t, got)
				require.ElementsMatch(t, problemsOf(t, wantErr), problemsOf(t, err))
				continue
			}
			applied++
			require.NoError(t, err)
			table, spec = got, changed(spec, change)
			require.Equal(t, want.Spec(), table.Spec())
			for range 10 {
				r := drawRequest(t, spec)
				require.Equal(t, verdictOf(want.Resolve(r)), verdictOf(table.Resolve(r)), "%+v", r)
				require.Equal(t, model{spec}.resolve(r), verdictOf(table.Resolve(r)), "%+v", r)
			}
			for _, host := range []string{"crat.localhost", "cart.tset"} {
				require.Equal(t, want.Similar(host, 3), table.Similar(host, 3))
			}
			for _, selector := range []string{"feature-2", "cart@pr-8", "team-b", "crat@main"} {
				require.Equal(t, want.DidYouMean(selector, 3), table.DidYouMean(selector, 3))
			}
		}
		require.Equal(t, before, first.Spec(), "the first table stays as it is")
	})
	t.Logf("%d changes applied, %d refused", applied, refused)
	require.Positive(t, applied)
	require.Positive(t, refused)
}

func problemsOf(t require.TestingT, err error) []string {
	var problems *route.CompileError
	require.ErrorAs(t, err, &problems)
	return problems.Problems
}

// TestApply_ManyVersions grows and shrinks one service through all sizes that its
// index has shards for, in an order that has nothing to do with the names.
func TestApply_ManyVersions(t *testing.T) {
	const most = 6000
	table := compiled(t, route.Spec{Services: []route.Service{{Name: "cart"}, {Name: "other", Versions: []route.Version{{Name: "main", State: route.Asleep}}}}})
	name := func(i int) string {
		if i%3 == 0 {
			return fmt.Sprint("feature_with-a-beginning-that-is-long-", i*7919%most) // hashed, and too long for a slot
		}
		return fmt.Sprint("f", i*7919%most)
	}
	change := func(i int, version *route.Version) {
		var err error
		table, err = table.Apply(route.Change{
			Base: table.Revision(), Revision: table.Revision() + 1,
			Versions: []route.VersionChange{{Service: "cart", Name: name(i), Version: version}},
		})
		require.NoError(t, err)
	}
	check := func(n int) {
		spec := table.Spec()
		require.Len(t, spec.Services[0].Versions, n)
		for i := range most {
			v := table.Service("cart").Version(name(i))
			require.Equal(t, i < n, v != nil, name(i))
			elsewhere := table.Resolve(&route.Request{Host: "other.localhost", Baggage: []string{"dynamic_route=" + name(i)}})
			host := route.PreviewLabel(name(i), 57) + "--cart.localhost"
			preview := table.Resolve(&route.Request{Host: host})
			if i < n {
				require.Equal(t, name(i), v.Name)
				require.Equal(t, route.FallbackDefault, elsewhere.Fallback)
				require.Equal(t, host, v.PreviewHost())
				require.Same(t, v, preview.Version)
			} else {
				require.Equal(t, route.FallbackUnknown, elsewhere.Fallback)
				require.Nil(t, preview.Version)
			}
		}
	}
	for i := range most {
		change(i, &route.Version{Name: name(i), State: route.Asleep})
		if i+1 == 100 || i+1 == 1000 || i+1 == most {
			check(i + 1)
		}
	}
	for i := most - 1; i >= 0; i-- {
		change(i, nil)
		if i == 0 || i == 1 || i == 100 || i == 2500 {
			check(i)
		}
	}
}

// TestApply_ManyAtOnce holds that a change of many versions leads where one at a time does.
func TestApply_ManyAtOnce(t *testing.T) {
	spec := routetest.Spec(4, 300)
	table := compiled(t, spec)
	change := route.Change{Base: 1, Revision: 2, Services: []route.ServiceChange{{Name: "service-1"}}}
	for i := range 400 {
		name := fmt.Sprint("all.new_", i)
		change.Versions = append(change.Versions, route.VersionChange{Service: "service-2", Name: name, Version: &route.Version{Name: name, State: route.Asleep}})
	}
	got, err := table.Apply(change)
	require.NoError(t, err)
	spec = changed(spec, change)
	require.Equal(t, compiled(t, spec).Spec(), got.Spec())
	for value, want := range map[string]route.Fallback{"pr-1-1": route.FallbackUnknown, "feature-2": route.FallbackNone, "all.new_399": route.FallbackDefault} {
		d := got.Resolve(&route.Request{Host: "service-0.localhost", Baggage: []string{"dynamic_route=" + value}})
		require.Equal(t, want, d.Fallback, value)
	}
	host := route.PreviewLabel("all.new_7", 57) + "--service-2.localhost"
	require.Equal(t, "service-2@all.new_7", got.Resolve(&route.Request{Host: host}).Version.ID)
}

func TestApply_Refuses(t *testing.T) {
	table := compiled(t, shop())
	asleep := func(name string) *route.Version { return &route.Version{Name: name, State: route.Asleep} }
	for name, tt := range map[string]struct {
		change route.Change
		want   []string
	}{
		"another epoch":   {route.Change{Epoch: "later", Base: 3, Revision: 4}, []string{"from revision 3 to 4: it is of another epoch than the table"}},
		"another base":    {route.Change{Base: 2, Revision: 4}, []string{"from revision 2 to 4: the table is at revision 3"}},
		"no new revision": {route.Change{Base: 3, Revision: 3}, []string{"from revision 3 to 3: the table is at revision 3"}},
		"things named twice": {
			route.Change{
				Services: []route.ServiceChange{{Name: "cart"}, {Name: "cart", Service: &route.Service{Name: "cart"}}},
				Versions: []route.VersionChange{{Service: "deep", Name: "x"}, {Service: "deep", Name: "x", Version: asleep("x")}},
				Routes:   []route.RouteChange{{Name: "base"}, {Name: "base"}},
			},
			[]string{`service "cart" is named twice`, `version "deep@x" is named twice`, `route "base" is named twice`},
		},
		"no such service": {
			route.Change{
				Services: []route.ServiceChange{{Name: "cart"}},
				Versions: []route.VersionChange{{Service: "nope", Name: "x", Version: asleep("x")}, {Service: "cart", Name: "x"}},
			},
			[]string{`version "nope@x" is changed, and there is no service "nope"`, `version "cart@x" is changed, and there is no service "cart"`},
		},
		"another name": {
			route.Change{
				Services: []route.ServiceChange{{Name: "cart", Service: &route.Service{Name: "crat"}}},
				Versions: []route.VersionChange{{Service: "cart", Name: "x", Version: asleep("y")}},
				Routes:   []route.RouteChange{{Name: "r", Route: &route.NamedRoute{Name: "s"}}},
			},
			[]string{`service "cart" is replaced by one with another name, "crat"`, `version "cart@x" is replaced by one with another name, "y"`, `route "r" is replaced by one with another name, "s"`},
		},
		"a service with versions": {
			route.Change{Services: []route.ServiceChange{{Name: "cart", Service: &route.Service{Name: "cart", Versions: []route.Version{*asleep("x")}}}}},
			[]string{`service "cart" comes with versions`},
		},
		"a service that routes pick": {route.Change{Services: []route.ServiceChange{{Name: "cart"}}}, []string{`route "r.1" picks a version of "cart"`}},
		"a route that is a parent":   {route.Change{Routes: []route.RouteChange{{Name: "base"}}}, []string{`route "team-a" has the parent "base"`}},
		"everything at once": {
			route.Change{
				Services: []route.ServiceChange{{Name: "Bad", Service: &route.Service{Name: "Bad"}}, {Name: "deep", Service: &route.Service{Name: "deep", Hosts: []string{"pricing.test"}}}},
				Versions: []route.VersionChange{{Service: "Bad", Name: "x", Version: asleep("x")}, {Service: "cart", Name: "x", Version: &route.Version{Name: "x", State: route.Ready}}},
				Routes:   []route.RouteChange{{Name: "A", Route: &route.NamedRoute{Name: "A"}}},
			},
			[]string{"the environment has 4 problems", `service name "Bad"`, `both have the host "pricing.test"`, `version "cart@x" is ready and has no instance`, `route name "A"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.change.Revision == 0 {
				tt.change.Base, tt.change.Revision = 3, 4
			}
			got, err := table.Apply(tt.change)
			require.Nil(t, got)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			require.Equal(t, compiled(t, shop()).Spec(), table.Spec())
		})
	}
}

func TestApply_RemovesWhatIsNot(t *testing.T) {
	table, err := compiled(t, shop()).Apply(route.Change{
		Base: 3, Revision: 9,
		Services: []route.ServiceChange{{Name: "nope"}},
		Versions: []route.VersionChange{{Service: "cart", Name: "nope"}},
		Routes:   []route.RouteChange{{Name: "nope"}},
	})
	require.NoError(t, err)
	want := shop()
	want.Revision = 9
	require.Equal(t, compiled(t, want).Spec(), table.Spec())
}

// TestApply_KeepsEntries holds that what is not changed stays what it is, with the
// turn of its instances; and that a version whose instances change goes on with it.
func TestApply_KeepsEntries(t *testing.T) {
	three := []route.Instance{{ID: "a", Address: "h:1"}, {ID: "b", Address: "h:2"}, {ID: "c", Address: "h:3"}}
	table := compiled(t, route.Spec{Services: []route.Service{
		{Name: "cart", Versions: []route.Version{{Name: "main", State: route.Ready, Instances: three}, {Name: "x", State: route.Asleep}}},
		{Name: "pricing"},
	}})
	version := table.Service("cart").Version("main")
	require.Equal(t, "a", version.Next().ID)

	next, err := table.Apply(route.Change{
		Revision: 1,
		Services: []route.ServiceChange{{Name: "cart", Service: &route.Service{Name: "cart", Hosts: []string{"cart.test"}, Protocol: route.H2C}}, {Name: "pricing"}},
		Versions: []route.VersionChange{
			{Service: "cart", Name: "x"},
			{Service: "cart", Name: "main", Version: &route.Version{Name: "main", State: route.Ready, Instances: slices.Clone(three)}},
		},
		Routes: []route.RouteChange{{Name: "r", Route: &route.NamedRoute{Name: "r", Picks: map[string]string{"cart": "main"}}}},
	})
	require.NoError(t, err)
	require.Same(t, version, next.Service("cart").Version("main"))
	require.Equal(t, "b", version.Next().ID)
	require.Equal(t, route.H2C, next.Service("cart").Protocol)
	require.Equal(t, route.HTTP1, table.Service("cart").Protocol)
	require.Equal(t, route.Found, table.Resolve(&route.Request{Host: "cart.localhost"}).Outcome)
	require.Equal(t, route.UnknownHost, next.Resolve(&route.Request{Host: "cart.localhost"}).Outcome)

	last, err := next.Apply(route.Change{Base: 1, Revision: 2, Versions: []route.VersionChange{
		{Service: "cart", Name: "main", Version: &route.Version{Name: "main", State: route.Ready, Instances: append(slices.Clone(three), route.Instance{ID: "d", Address: "h:4"})}},
	}})
	require.NoError(t, err)
	require.Same(t, last.Service("cart").Version("main"), last.Service("cart").Default)
	require.Equal(t, "c", last.Service("cart").Default.Next().ID)
	require.Equal(t, "c", next.Service("cart").Default.Next().ID)
}

// TestApply_OldTablesAreGarbage holds that no table keeps an earlier one, or what only
// an earlier one has.
func TestApply_OldTablesAreGarbage(t *testing.T) {
	changes := 100_000
	if raceDetector {
		changes /= 10
	}
	services, each := routetest.Shape(1000)
	table := compiled(t, routetest.Spec(services, each))
	var collected atomic.Int64
	old := weak.Make(table)
	gone := weak.Make(table.Service("service-0").Version("feature-2"))
	kept := weak.Make(table.Service("service-0").Version("pr-0-1"))
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	begin := heap()
	for n := range changes {
		next, err := table.Apply(routetest.Change(table, services, each, n))
		require.NoError(t, err)
		if n%100 == 0 {
			runtime.AddCleanup(table, func(int) { collected.Add(1) }, 0)
		}
		table = next
	}
	table, err := table.Apply(route.Change{
		Base: table.Revision(), Revision: table.Revision() + 1,
		Versions: []route.VersionChange{{Service: "service-0", Name: "feature-2"}},
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		runtime.GC()
		return collected.Load() == int64(changes/100)
	}, 20*time.Second, time.Millisecond)
	require.Nil(t, old.Value())
	require.Nil(t, gone.Value())
	require.NotNil(t, kept.Value())
	end := heap()
	t.Logf("%d KiB at first, %d KiB after %d changes", begin>>10, end>>10, changes)
	require.Less(t, end, begin*3/2)
	runtime.KeepAlive(table)
}

// TestApply_WhileOldTablesDecide is for the race detector.
func TestApply_WhileOldTablesDecide(t *testing.T) {
	services, each := 10, 100
	first := compiled(t, routetest.Spec(services, each))
	spec := first.Spec()
	var current atomic.Pointer[route.Table]
	current.Store(first)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				table := current.Load()
				for i := range services {
					r := &route.Request{Host: "service-" + strconv.Itoa(i) + ".localhost", Baggage: []string{"dynamic_route=pr-" + strconv.Itoa(i) + "-1"}}
					for _, one := range []*route.Table{first, table} {
						if d := one.Resolve(r); d.Version == nil || d.Version.Next() == nil || d.Version.Service.Name != d.Service.Name {
							t.Errorf("%s has no answer", r.Host)
							return
						}
					}
				}
			}
		})
	}
	for n := range 2000 {
		table := current.Load()
		next, err := table.Apply(routetest.Change(table, services, each, n))
		require.NoError(t, err)
		current.Store(next)
	}
	close(done)
	readers.Wait()
	require.Equal(t, spec, first.Spec())
}

// FuzzApply holds that whatever a server sends is applied or refused, that what is
// refused is refused by Compile too, and that the table stays as it is.
func FuzzApply(f *testing.F) {
	for _, c := range []route.Change{
		{Base: 3, Revision: 4, Versions: []route.VersionChange{{Service: "cart", Name: "x", Version: &route.Version{Name: "x", State: route.Asleep}}, {Service: "cart", Name: "main"}}},
		{Base: 3, Revision: 4, Services: []route.ServiceChange{{Name: "a.b_c"}, {Name: "new", Service: &route.Service{Name: "new", Hosts: []string{"*.x"}}}}},
		{Base: 3, Revision: 4, Routes: []route.RouteChange{{Name: "base", Route: &route.NamedRoute{Name: "base", Parent: "team-a"}}, {Name: "gone"}}},
	} {
		data, err := json.Marshal(c)
		require.NoError(f, err)
		f.Add(data)
	}
	table := compiled(f, shop())
	spec := table.Spec()
	f.Fuzz(func(t *testing.T, data []byte) {
		var c route.Change
		if json.Unmarshal(data, &c) != nil {
			return
		}
		next, err := table.Apply(c)
		require.Equal(t, spec, table.Spec())
		if err != nil {
			if _, ok := errors.AsType[*route.CompileError](err); ok {
				_, err := route.Compile(changed(*spec, c))
				require.Error(t, err)
			}
			return
		}
		want := changed(*spec, c)
		again, err := route.Compile(want)
		require.NoError(t, err)
		require.Equal(t, again.Spec(), next.Spec())
		for _, s := range next.Spec().Services {
			host := strings.Replace(s.Hosts[0], "*", "x", 1)
			for _, v := range s.Versions {
				d := next.Resolve(&route.Request{Host: host, Baggage: []string{"dynamic_route=" + s.Name + "@" + v.Name}})
				require.Equal(t, s.Name+"@"+v.Name, d.Version.ID)
			}
		}
	})
}

// BenchmarkApply shows what the change of one version takes.
func BenchmarkApply(b *testing.B) {
	for _, versions := range []int{1_000, 10_000, 100_000, 1_000_000} {
		services, each := routetest.Shape(versions)
		table, err := route.Compile(routetest.Spec(services, each))
		require.NoError(b, err)
		b.Run(fmt.Sprintf("versions=%d", versions), func(b *testing.B) {
			b.ReportAllocs()
			next := table
			for n := 0; b.Loop(); n++ {
				if next, err = next.Apply(routetest.Change(next, services, each, n)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
