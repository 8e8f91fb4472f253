package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server"
)

// edge is a stand-alone proxy: it follows the table as one does over HTTP, and reports.
type edge struct {
	id string
	c  *control.Control

	mu       sync.Mutex
	table    *route.Table
	wholes   int
	draining []string
}

// follow takes up one table after another until ctx ends.
func (e *edge) follow(ctx context.Context) error {
	for {
		e.mu.Lock()
		after := e.table.Position()
		e.mu.Unlock()
		if _, err := e.c.WaitTable(ctx, after); err != nil {
			return nil //nolint:nilerr // the end of ctx
		}
		if err := e.take(after); err != nil {
			return err
		}
		if err := e.report(ctx); err != nil {
			return err
		}
	}
}

func (e *edge) take(after route.Position) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	changes, ok := e.c.TableChanges(after)
	if !ok {
		e.table, e.wholes = e.c.Table(), e.wholes+1
		return nil
	}
	for _, one := range changes {
		var change route.Change
		if err := json.Unmarshal(one.JSON, &change); err != nil {
			return err
		}
		next, err := e.table.Apply(change)
		if err != nil {
			return err
		}
		e.table = next
	}
	return nil
}

func (e *edge) report(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.c.ReportProxy(ctx, e.says())
}

func (e *edge) says() api.ProxyReport {
	at := e.table.Position()
	return api.ProxyReport{ID: e.id, Epoch: at.Epoch, Revision: at.Revision, Draining: e.draining}
}

// newEdge returns a proxy that follows b until the test, or b, ends.
func (b *bench) newEdge(id string) *edge {
	b.t.Helper()
	e := &edge{id: id, c: b.Control, table: route.EmptyTable()}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- e.follow(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		require.NoError(b.t, <-done)
	})
	return e
}

// caughtUp waits until a proxy has the table in force, and returns that, as it is here and there.
func (b *bench) caughtUp(e *edge) (here, there *route.Table) {
	b.t.Helper()
	b.until(func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		here, there = b.Table(), e.table
		return here.Position() == there.Position()
	}, func() string { return "the proxy does not follow" })
	return here, there
}

// inOrder is what a table holds, in one order.
func inOrder(t *route.Table) route.Spec {
	spec := *t.Spec()
	spec.Services, spec.Routes = slices.Clone(spec.Services), slices.Clone(spec.Routes)
	for i := range spec.Services {
		s := &spec.Services[i]
		s.Versions = slices.Clone(s.Versions)
		slices.SortFunc(s.Versions, func(a, b route.Version) int { return strings.Compare(a.Name, b.Name) })
		if len(s.Versions) == 0 {
			s.Versions = nil
		}
	}
	slices.SortFunc(spec.Services, func(a, b route.Service) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(spec.Routes, func(a, b route.NamedRoute) int { return strings.Compare(a.Name, b.Name) })
	if len(spec.Routes) == 0 {
		spec.Routes = nil
	}
	return spec
}

// Whatever changes, and however changes fall together: who applies one change after another
// has the table that the server has, and that is the one of a server that starts anew.
func TestChangesLeadToTheTable(t *testing.T) {
	b := newBench(t)
	edge := b.newEdge("edge")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var group sync.WaitGroup
	for side := range 4 {
		random := rand.New(rand.NewPCG(seed, uint64(side)))
		group.Go(func() {
			for range 25 {
				b.change(random)
			}
		})
	}
	group.Wait()
	require.NoError(t, b.PutRoute(t.Context(), api.NamedRoute{Name: "last", Picks: map[string]string{"cart": "v1"}}, ""))
	table, followed := b.caughtUp(edge)
	require.Greater(t, table.Revision(), uint64(10))
	require.Equal(t, inOrder(table), inOrder(followed))

	b.end()
	_, followed = b.caughtUp(edge)
	require.Equal(t, 1, edge.wholes, "the first is a whole table, and no other")
	b.open()
	want, got := inOrder(followed), inOrder(b.Table())
	for _, spec := range []*route.Spec{&want, &got} { // the next server has not looked for instances yet
		spec.Epoch, spec.Revision = "", 0
		for i := range spec.Services {
			for j := range spec.Services[i].Versions {
				v := &spec.Services[i].Versions[j]
				*v = route.Version{Name: v.Name}
			}
		}
	}
	require.Equal(t, want, got)
}

// addRoutes adds named routes, each in a revision of its own.
func (b *bench) addRoutes(names ...string) {
	b.t.Helper()
	for _, name := range names {
		require.NoError(b.t, b.PutRoute(b.t.Context(), api.NamedRoute{Name: name, Picks: map[string]string{"cart": name}}, ""))
	}
}

// A store that was put back to an older state, and has gone past the revision that a proxy has:
// what leads on from there leads on from another table.
func TestChangesOfAnEarlierServerLeadNowhere(t *testing.T) {
	b := newBench(t)
	b.end()
	path := filepath.Join(b.dir, "layover.db")
	backup, err := os.ReadFile(path)
	require.NoError(t, err)
	b.open()
	b.addRoutes("a", "b", "c")
	had := b.Table().Position()
	b.end()

	require.NoError(t, os.WriteFile(path, backup, 0o600))
	b.open()
	b.addRoutes("d", "e", "f", "g")
	now := b.Table().Position()
	require.Greater(t, now.Revision, had.Revision)
	_, ok := b.TableChanges(route.Position{Epoch: now.Epoch, Revision: had.Revision})
	require.True(t, ok, "there are changes from that revision on")
	_, ok = b.TableChanges(had)
	require.False(t, ok, "but not from that table")
}

// A store may also be put back while the server runs, as a database that fails over to a
// replica that lags.
func TestStoreThatGoesBackUnderTheServer(t *testing.T) {
	b := newBench(t)
	edge := b.newEdge("edge")
	b.addRoutes("a", "b", "c")
	b.caughtUp(edge)
	had := b.Table().Position()
	b.store.goBack(3)
	b.addRoutes("d")
	back := b.Table().Position()
	require.Equal(t, had.Revision-2, back.Revision)
	require.NotEqual(t, had.Epoch, back.Epoch)
	b.caughtUp(edge)
	b.addRoutes("e", "f", "g") // past what the proxy had
	require.Equal(t, back.Epoch, b.Table().Position().Epoch, "once is enough")
	table, followed := b.caughtUp(edge)
	require.Equal(t, inOrder(table), inOrder(followed))
	b.end()
	b.caughtUp(edge)
	require.Equal(t, 2, edge.wholes)
}

// change makes a random change of the environment; some are refused.
func (b *bench) change(random *rand.Rand) {
	ctx := b.t.Context()
	version := control.Key{Service: "cart", Version: fmt.Sprintf("v%d", random.IntN(3))}
	service := fmt.Sprintf("s%d", random.IntN(3))
	name := fmt.Sprintf("r%d", random.IntN(3))
	switch random.IntN(7) {
	case 0, 1:
		_, _ = b.Deploy(ctx, version, api.Deployment{Overrides: api.Overrides{URL: "http://127.0.0.1:1"}, Timeout: api.Duration(time.Millisecond)})
	case 2:
		_, _ = b.Remove(ctx, version, control.By{})
	case 3:
		_ = b.PutService(ctx, api.Service{Name: service, Default: version.Version})
	case 4:
		_ = b.RemoveService(ctx, service, "")
	case 5:
		_ = b.PutRoute(ctx, api.NamedRoute{Name: name, Picks: map[string]string{service: version.Version, "cart": "x"}}, "")
	case 6:
		_ = b.RemoveRoute(ctx, name, "")
	}
}

func TestNoTableWhereNothingChanged(t *testing.T) {
	b := newBench(t)
	before := b.Table()
	s := cart()
	s.Env["MORE"] = "x"
	require.NoError(t, b.PutService(t.Context(), s), "the template is nothing that a proxy needs")
	require.Same(t, before, b.Table())
	_, err := b.NewRevision()
	require.NoError(t, err)
	require.NoError(t, b.PutService(t.Context(), api.Service{Name: "pricing"}))
	require.Equal(t, before.Revision()+2, b.Table().Revision(), "no number was spent on it")
}

// NewRevision takes a number from the store.
func (b *bench) NewRevision() (uint64, error) { return b.store.NextRevision(b.t.Context()) }

func TestRefusedChangeIsNotPublished(t *testing.T) {
	b := newBench(t)
	before := b.Table()
	err := b.PutServices(t.Context(), []api.Service{{Name: "a", Hosts: []string{"one.test"}}, {Name: "b", Hosts: []string{"one.test"}}})
	require.Equal(t, api.CodeInvalid, control.CodeOf(err))
	require.ErrorContains(t, err, "one.test")
	err = b.PutRoute(t.Context(), api.NamedRoute{Name: "r", Picks: map[string]string{"a": "main"}}, "")
	require.Equal(t, api.CodeInvalid, control.CodeOf(err), "neither of the two was taken")
	require.Same(t, before, b.Table())
}

// The first table that a server gives to other proxies has what an earlier one left running.
func TestOtherProxiesGetATableOnceWhatRunsIsFound(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	b.end()
	b.listFails = errNoDocker
	b.open()
	require.Equal(t, route.Starting, b.routed("feature-1").State, "as far as this server knows")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := b.WaitTable(ctx, route.Position{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	b.runtime.breakList(nil)
	table, err := b.WaitTable(t.Context(), route.Position{})
	require.NoError(t, err)
	require.Equal(t, route.Ready, table.Service("cart").Version("feature-1").State)
}

// An instance that was replaced is not ended before every proxy has come to the next
// server, also where the server ended in between.
func TestReplacedInstanceOutlivesTheServer(t *testing.T) {
	b := newBench(t)
	b.grace = 300 * time.Millisecond
	b.up("feature-1", nil)
	old := "cart--feature-1--1"
	edge := &edge{id: "edge", table: b.Table()}
	require.NoError(t, b.ReportProxy(t.Context(), edge.says()))
	idle := b.plane.makeBusy(old)
	b.deploy("feature-1", nil)
	b.wait("feature-1", "to be replaced", func(v api.Version) bool { return v.Serving == 2 && v.State == api.StateRunning })
	require.True(t, b.runs(old))
	b.end()
	idle()

	began := time.Now()
	b.open()
	require.NoError(t, b.ReportProxy(t.Context(), edge.says()))
	b.until(func() bool {
		b.plane.mu.Lock()
		defer b.plane.mu.Unlock()
		return slices.Contains(b.plane.waited, old)
	}, func() string { return "nobody lets go of the old instance" })
	require.GreaterOrEqual(t, time.Since(began), b.grace, "proxies have that long to come back")
	require.True(t, b.runs(old), "the proxy has the old table")
	edge.table, edge.draining = b.Table(), []string{old}
	require.NoError(t, b.ReportProxy(t.Context(), edge.says()))
	require.True(t, b.runs(old), "a request is in flight")
	edge.draining = nil
	require.NoError(t, b.ReportProxy(t.Context(), edge.says()))
	b.until(func() bool { return !b.runs(old) }, func() string { return "the old instance is still there" })
}

func (b *bench) runs(id string) bool {
	statuses, err := b.runtime.Runtime.List(b.t.Context())
	require.NoError(b.t, err)
	return slices.ContainsFunc(statuses, func(s control.Status) bool { return s.ID == id })
}

func TestDeploymentIsRoutedAtEveryProxy(t *testing.T) {
	b := newBench(t)
	edge := b.newEdge("edge")
	b.until(func() bool { all, _ := b.Proxies(t.Context()); return len(all) == 1 }, func() string { return "no proxy reports" })
	b.up("feature-1", nil)
	b.until(func() bool { return b.hasEvent("feature-1", api.EventDeployDone) }, func() string { return "it does not end" })
	edge.mu.Lock()
	require.Equal(t, route.Ready, edge.table.Service("cart").Version("feature-1").State, "no deployment is done before")
	edge.mu.Unlock()
	require.Equal(t, "cart@feature-1: routed", b.routedStep("feature-1").Message)

	require.NoError(t, b.ReportProxy(t.Context(), api.ProxyReport{ID: "lame", Revision: 1}))
	b.up("feature-2", nil)
	b.until(func() bool { return b.hasEvent("feature-2", api.EventDeployDone) }, func() string { return "a proxy that lags fails it" })
	require.Equal(t, "cart@feature-2: routed, but after 2s not yet by lame", b.routedStep("feature-2").Message)
}

func (b *bench) routedStep(version string) api.Event {
	b.t.Helper()
	events := b.eventsOf(version)
	i := slices.IndexFunc(events, func(e api.Event) bool { return e.Step == api.StepRouted })
	require.GreaterOrEqual(b.t, i, 0)
	return events[i]
}

// many is a store in memory with many versions of one service, to measure with.
type many struct {
	control.Store
	records  map[control.Key]control.VersionRecord
	revision uint64
	event    int64
}

func newMany(n int) *many {
	m := &many{records: map[control.Key]control.VersionRecord{}}
	for i := range n {
		key := control.Key{Service: "cart", Version: fmt.Sprintf("feature-%d", i)}
		m.records[key] = control.VersionRecord{Key: key, Desired: control.DesiredRunning, Generations: []control.Generation{{
			Number: 1, State: control.GenerationPending, Run: api.Run{External: &api.External{URL: "http://127.0.0.1:1"}},
		}}}
	}
	return m
}

func (m *many) Services(context.Context) ([]api.Service, error) {
	return []api.Service{{Name: "cart", Hosts: []string{"cart.localhost"}}}, nil
}
func (m *many) Routes(context.Context) ([]api.NamedRoute, error) { return nil, nil }
func (m *many) Versions(context.Context) (all []control.VersionRecord, err error) {
	for _, r := range m.records {
		all = append(all, r)
	}
	return all, nil
}

func (m *many) UpdateVersion(_ context.Context, key control.Key, edit func(*control.VersionRecord) (*control.VersionRecord, error)) error {
	r := m.records[key]
	next, err := edit(&r)
	if err == nil {
		m.records[key] = *next
	}
	return err
}
func (m *many) LastEvent(context.Context) (int64, error) { return m.event, nil }
func (m *many) AppendEvent(context.Context, api.Event) (int64, error) {
	m.event++
	return m.event, nil
}

func (m *many) NextRevision(context.Context) (uint64, error) {
	m.revision++
	return m.revision, nil
}

// blind is a data plane that looks at nothing.
type blind struct{}

func (blind) SetTable(*route.Table)                  {}
func (blind) WaitIdle(context.Context, string) error { return nil }
func (blind) Requests() map[string]uint64            { return nil }

func newManyControl(tb testing.TB, n int) *control.Control {
	tb.Helper()
	c, err := control.New(tb.Context(), control.Options{Environment: "test", Store: newMany(n), DataPlane: blind{}})
	require.NoError(tb, err)
	return c
}

// wave takes a version out of the table, and puts it back.
func wave(tb testing.TB, c *control.Control, i int) {
	tb.Helper()
	key := control.Key{Service: "cart", Version: fmt.Sprintf("feature-%d", i%1000)}
	before := c.Table().Revision()
	_, err := c.Stop(tb.Context(), key, control.By{})
	require.NoError(tb, err)
	_, err = c.Deploy(tb.Context(), key, api.Deployment{Overrides: api.Overrides{URL: "http://127.0.0.1:1"}})
	require.NoError(tb, err)
	require.Equal(tb, before+2, c.Table().Revision())
}

// A change costs the same in an environment of any size.
func TestChangeCostsWhatItTouches(t *testing.T) {
	const rounds = 50
	bytes := map[int]uint64{}
	for _, n := range []int{1000, 100_000} {
		c := newManyControl(t, n)
		wave(t, c, 0)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range rounds {
			wave(t, c, i)
		}
		runtime.ReadMemStats(&after)
		bytes[n] = (after.TotalAlloc - before.TotalAlloc) / (2 * rounds)
	}
	t.Logf("bytes for each change, by versions: %v", bytes)
	require.Less(t, bytes[100_000], 4*bytes[1000])
	require.Less(t, bytes[100_000], uint64(128<<10))
}

func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("versions=%d", n), func(b *testing.B) {
			c := newManyControl(b, n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				wave(b, c, i)
			}
		})
	}
}

// BenchmarkChangeToWatcher measures how long a change takes from the wish to a proxy that
// follows the table over HTTP and has it applied.
func BenchmarkChangeToWatcher(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("versions=%d", n), func(b *testing.B) {
			c := newManyControl(b, n)
			s, err := server.New(server.Options{Control: c})
			require.NoError(b, err)
			srv := httptest.NewServer(s.Handler())
			defer srv.Close()
			defer s.CloseStreams()
			client, err := api.NewClient(srv.URL)
			require.NoError(b, err)
			next, stop := iter.Pull2(client.FollowTableOnce(b.Context(), api.TablePosition{}))
			defer stop()
			first, err, _ := next()
			require.NoError(b, err)
			table, err := route.Compile(*first.Table)
			require.NoError(b, err)
			for i := 0; b.Loop(); i++ {
				key := control.Key{Service: "cart", Version: fmt.Sprintf("feature-%d", i%n)}
				_, err := c.Stop(b.Context(), key, control.By{})
				require.NoError(b, err)
				u, err, _ := next()
				require.NoError(b, err)
				require.NotNil(b, u.Change)
				table, err = table.Apply(*u.Change)
				require.NoError(b, err)
				require.Nil(b, table.Service("cart").Version(key.Version))
				b.StopTimer()
				_, err = c.Deploy(b.Context(), key, api.Deployment{Overrides: api.Overrides{URL: "http://127.0.0.1:1"}})
				require.NoError(b, err)
				u, err, _ = next()
				require.NoError(b, err)
				table, err = table.Apply(*u.Change)
				require.NoError(b, err)
				b.StartTimer()
			}
		})
	}
}
