package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/runtime/process"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
	"github.com/layover-dev/layover/internal/store"
)

// appVariable names the test app to the tests.
const appVariable = "LAYOVER_TEST_APP"

func TestMain(m *testing.M) {
	if code, ok := process.Supervise(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "layover-control-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder of this test
	app := filepath.Join(dir, "app")
	if err := errors.Join(runtimetest.BuildAppTo(app), os.Setenv(appVariable, app)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left:", err)
		return 1
	}
	return code
}

// dataPlane stands for the proxy: it keeps the tables, and is busy where a test says so.
type dataPlane struct {
	mu     sync.Mutex
	tables []*route.Table
	busy   map[string]chan struct{} // closed when the instance has no request left
	waited []string
}

func (d *dataPlane) SetTable(t *route.Table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tables = append(d.tables, t)
}

func (d *dataPlane) WaitIdle(ctx context.Context, id string) error {
	d.mu.Lock()
	d.waited = append(d.waited, id)
	busy := d.busy[id]
	d.mu.Unlock()
	if busy == nil {
		return nil
	}
	select {
	case <-busy:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *dataPlane) Requests() map[string]uint64 { return map[string]uint64{"cart@main": 7} }

func (d *dataPlane) table() *route.Table {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tables[len(d.tables)-1]
}

// makeBusy keeps an instance from becoming idle until the returned function is called.
func (d *dataPlane) makeBusy(id string) (idle func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy == nil {
		d.busy = map[string]chan struct{}{}
	}
	done := make(chan struct{})
	d.busy[id] = done
	return sync.OnceFunc(func() { close(done) })
}

// bench is a control plane over a real store and real processes.
type bench struct {
	*control.Control
	t       *testing.T
	dir     string
	plane   *dataPlane
	runtime *flaky
	end     func() // lets Run return, as a server that ends does, without stopping instances
}

// flaky is a runtime whose List fails when told to.
type flaky struct {
	control.Runtime
	mu     sync.Mutex
	broken error
	starts int
}

func (f *flaky) List(ctx context.Context) ([]control.Status, error) {
	f.mu.Lock()
	err := f.broken
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Runtime.List(ctx)
}

func (f *flaky) Start(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	f.mu.Lock()
	f.starts++
	f.mu.Unlock()
	return f.Runtime.Start(ctx, w, step)
}

func (f *flaky) breakList(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

func (f *flaky) started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts
}

// newBench starts a control plane with a service cart, whose template is the test app.
func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	b := &bench{t: t, dir: t.TempDir()}
	b.open()
	require.NoError(t, b.PutService(t.Context(), cart()))
	return b
}

func cart() api.Service {
	return api.Service{
		Name:    "cart",
		Run:     api.Run{Process: &api.Process{Command: []string{os.Getenv(appVariable)}}},
		Env:     map[string]string{"APP_HOST": "127.0.0.1", "ROUTE": "{service}/{version}/{route}/{port}"},
		Timeout: api.Duration(20 * time.Second),
		Grace:   api.Duration(5 * time.Second),
		Drain:   api.Duration(5 * time.Second),
		Health:  api.Health{Path: "/", Interval: api.Duration(50 * time.Millisecond), Failures: 2},
	}
}

// open opens the store and runs a control plane over it, as a server that starts does.
func (b *bench) open() {
	b.t.Helper()
	db, err := store.OpenSQLite(b.t.Context(), filepath.Join(b.dir, "layover.db"))
	require.NoError(b.t, err)
	processes, err := process.New(process.Options{Dir: filepath.Join(b.dir, "instances"), Environment: "test"})
	require.NoError(b.t, err)
	b.plane, b.runtime = &dataPlane{}, &flaky{Runtime: processes}
	b.Control, err = control.New(b.t.Context(), control.Options{
		Environment: "test", Store: db, DataPlane: b.plane,
		Runtimes:     map[string]control.Runtime{api.RuntimeProcess: b.runtime},
		ProxyAddress: map[string]string{api.RuntimeProcess: "127.0.0.1:1"},
	})
	require.NoError(b.t, err)

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c := b.Control
	go func() { done <- c.Run(ctx) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		require.NoError(b.t, <-done)
		require.NoError(b.t, db.Close())
	})
	b.t.Cleanup(func() {
		b.end()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(b.t, c.StopInstances(ctx))
	})
}

// deploy asks for a version with these variables over the template's.
func (b *bench) deploy(version string, env map[string]string) api.Version {
	b.t.Helper()
	v, err := b.Deploy(b.t.Context(), control.Key{Service: "cart", Version: version}, api.Deployment{
		Overrides: api.Overrides{Env: env}, Owner: "ana", Source: "cli",
	})
	require.NoError(b.t, err)
	return v
}

// up deploys a version and waits until that generation serves.
func (b *bench) up(version string, env map[string]string) api.Version {
	b.t.Helper()
	v := b.deploy(version, env)
	return b.wait(version, "to serve", func(now api.Version) bool {
		return now.State == api.StateRunning && now.Serving == v.Generation && len(now.Instances) == 1
	})
}

// wait polls a version until it is as wanted, and the table in force says so too: the
// one follows the other within a moment.
func (b *bench) wait(version, what string, ok func(api.Version) bool) api.Version {
	b.t.Helper()
	var v api.Version
	b.until(func() bool {
		var err error
		v, err = b.Version(b.t.Context(), control.Key{Service: "cart", Version: version})
		return err == nil && ok(v) && b.agrees(v)
	}, func() string { return fmt.Sprintf("waited in vain for cart@%s %s; it is %+v", version, what, v) })
	return v
}

// agrees says whether the table in force has the version as v is.
func (b *bench) agrees(v api.Version) bool {
	entry := b.routed(v.Name)
	switch v.State {
	case api.StateRunning:
		return entry != nil && entry.State == route.Ready &&
			entry.Instances[0].ID == fmt.Sprintf("cart--%s--%d", v.Name, v.Serving)
	case api.StateStarting:
		return entry != nil && entry.State == route.Starting
	case api.StateFailed:
		return entry != nil && entry.State == route.Failed
	default:
		return entry == nil
	}
}

func (b *bench) until(ok func() bool, why func() string) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(b.t, why())
		}
		<-tick.C
	}
}

// routed returns what the table in force has of a version.
func (b *bench) routed(version string) *route.VersionEntry {
	b.t.Helper()
	s := b.plane.table().Service("cart")
	require.NotNil(b.t, s)
	return s.Version(version)
}

// answer asks the routed instance of a version who it is.
func (b *bench) answer(version string) runtimetest.Answer {
	b.t.Helper()
	entry := b.routed(version)
	require.NotNil(b.t, entry)
	require.Equal(b.t, route.Ready, entry.State)
	return runtimetest.Ask(b.t, control.Address{HostPort: entry.Next().Address})
}

// eventsOf returns the events of a version so far.
func (b *bench) eventsOf(version string) []api.Event {
	b.t.Helper()
	all, err := b.Events(b.t.Context(), 0, 1000)
	require.NoError(b.t, err)
	return slices.DeleteFunc(all, func(e api.Event) bool { return e.Version != version })
}

func (b *bench) hasEvent(version string, kind api.EventType) bool {
	return slices.ContainsFunc(b.eventsOf(version), func(e api.Event) bool { return e.Type == kind })
}
