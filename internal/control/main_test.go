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
	"github.com/layover-dev/layover/internal/runtime/external"
	"github.com/layover-dev/layover/internal/runtime/logfile"
	"github.com/layover-dev/layover/internal/runtime/process"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
	"github.com/layover-dev/layover/internal/store"
)

// appVariable names the test app to the tests.
const appVariable = "LAYOVER_TEST_APP"

// logFileSize is how many bytes one of the two files holds that the log of an instance has.
const logFileSize = 64 << 10

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
	mu      sync.Mutex
	tables  []*route.Table
	routed  map[string]bool          // instances that were in a table
	busy    map[string]chan struct{} // closed when the instance has no request left
	waited  []string
	limited bool // the last of them was waited for until some time
}

func (d *dataPlane) SetTable(t *route.Table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tables = append(d.tables, t)
	if d.routed == nil {
		d.routed = map[string]bool{}
	}
	for id := range routedIDs(t) {
		d.routed[id] = true
	}
}

func routedIDs(t *route.Table) map[string]bool {
	ids := map[string]bool{}
	for _, s := range t.Spec().Services {
		for _, v := range s.Versions {
			for _, i := range v.Instances {
				ids[i.ID] = true
			}
		}
	}
	return ids
}

// mayStop says what is wrong with stopping an instance now; "" where nothing is.
func (d *dataPlane) mayStop(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case len(d.tables) > 0 && routedIDs(d.tables[len(d.tables)-1])[id]:
		return id + " is stopped while requests go to it"
	case d.routed[id] && !slices.Contains(d.waited, id):
		return id + " is stopped before it was asked whether it is idle"
	}
	return ""
}

func (d *dataPlane) WaitIdle(ctx context.Context, id string) error {
	d.mu.Lock()
	d.waited = append(d.waited, id)
	_, d.limited = ctx.Deadline()
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

// waitsWithoutLimit says whether an instance is waited for, whatever time that takes.
func (d *dataPlane) waitsWithoutLimit(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.waited, id) && !d.limited
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

// twoAddresses is a resolver that knows two addresses of this machine for every name.
type twoAddresses struct{}

func (twoAddresses) LookupHost(context.Context, string) ([]string, error) {
	return []string{"127.0.0.1", "127.0.0.2"}, nil
}

// bench is a control plane over a real store and real processes.
type bench struct {
	*control.Control
	t       *testing.T
	dir     string
	plane   *dataPlane
	runtime *flaky
	store   *refusing
	end     func() // lets Run return, as a server that ends does, without stopping instances

	listFails error // the next runtime's List does
	listHangs bool
	grace     time.Duration // for proxies to come back to the next server
	quotas    control.Quotas
	orphans   time.Duration // before the next server removes what is unknown
}

// flaky is a runtime whose List fails or hangs when told to. It notes what is
// stopped that should not be.
type flaky struct {
	control.Runtime
	plane  *dataPlane
	mu     sync.Mutex
	broken error
	refuse error // what Start returns; nil where it works
	hangs  bool
	over   bool // the test is: everything may be stopped
	starts int
	came   int // starts that worked
	faults []string
	passed *control.Status // is in the next list, though it is gone by then
	hides  string          // ID of an instance that no list has
	lists  int
	tears  chan struct{} // what breaks off a log that is followed, once; nil where nothing does
}

// Logs is of [control.Runtime].
func (f *flaky) Logs(ctx context.Context, id string, opts control.LogOptions) (control.LogReader, error) {
	reader, err := f.Runtime.Logs(ctx, id, opts)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || f.tears == nil || !opts.Follow {
		return reader, err
	}
	torn := &tornLog{LogReader: reader, tears: f.tears}
	f.tears = nil
	return torn, nil
}

// tornLog is a log whose connection breaks off, behind the line that comes next.
type tornLog struct {
	control.LogReader
	tears chan struct{}
}

// Next is of [control.LogReader].
func (l *tornLog) Next() (api.LogLine, error) {
	select {
	case <-l.tears:
		return api.LogLine{}, errors.New("the connection broke off")
	default:
		return l.LogReader.Next()
	}
}

func (f *flaky) List(ctx context.Context) ([]control.Status, error) {
	f.mu.Lock()
	err, hangs := f.broken, f.hangs
	f.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	statuses, err := f.Runtime.List(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists++
	statuses = slices.DeleteFunc(statuses, func(s control.Status) bool { return s.ID == f.hides })
	if f.passed != nil {
		statuses, f.passed = append(statuses, *f.passed), nil
	}
	return statuses, err
}

func (f *flaky) Stop(ctx context.Context, id string, grace time.Duration) error {
	f.mu.Lock()
	if fault := f.plane.mayStop(id); fault != "" && !f.over {
		f.faults = append(f.faults, fault)
	}
	f.mu.Unlock()
	return f.Runtime.Stop(ctx, id, grace)
}

// end lets everything be stopped from here on, and returns what was wrong before.
func (f *flaky) end() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over, f.broken, f.hangs, f.hides = true, nil, false, ""
	return f.faults
}

// noDocker is a machine without Docker.
type noDocker struct{ control.Runtime }

var errNoDocker = &control.Error{Code: api.CodeUnavailable, Message: "Docker does not answer here", Hint: "start it"}

func (noDocker) Start(context.Context, control.Workload, func(api.Step, string)) (control.Status, error) {
	return control.Status{}, errNoDocker
}
func (noDocker) Stop(context.Context, string, time.Duration) error { return errNoDocker }
func (noDocker) List(context.Context) ([]control.Status, error)    { return nil, errNoDocker }
func (noDocker) Watch(context.Context, func(control.Status)) error { return errNoDocker }
func (noDocker) Logs(context.Context, string, control.LogOptions) (control.LogReader, error) {
	return nil, errNoDocker
}

// refusing is a store that refuses some calls, or takes its time over them, when told to.
type refusing struct {
	control.Store
	mu      sync.Mutex
	refuses map[string]bool // names of methods
	slow    api.EventType   // an event that takes long to store
	back    uint64          // how far it was put back
}

// goBack puts the count of revisions back by n.
func (s *refusing) goBack(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back = n
}

var errDiskFull = errors.New("disk full")

func (s *refusing) refuse(methods ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses = map[string]bool{}
	for _, name := range methods {
		s.refuses[name] = true
	}
}

func (s *refusing) ask(method string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuses[method] {
		return errDiskFull
	}
	return nil
}

func (s *refusing) NextRevision(ctx context.Context) (uint64, error) {
	if err := s.ask("NextRevision"); err != nil {
		return 0, err
	}
	revision, err := s.Store.NextRevision(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	return revision - s.back, err
}

func (s *refusing) UpdateVersion(ctx context.Context, key control.Key, edit func(*control.VersionRecord) (*control.VersionRecord, error)) error {
	if err := s.ask("UpdateVersion"); err != nil {
		return err
	}
	return s.Store.UpdateVersion(ctx, key, edit)
}

func (s *refusing) AppendEvent(ctx context.Context, e api.Event) (int64, error) {
	if err := s.ask("AppendEvent"); err != nil {
		return 0, err
	}
	s.mu.Lock()
	slow := e.Type == s.slow
	s.mu.Unlock()
	if slow {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return s.Store.AppendEvent(ctx, e)
}

func (f *flaky) Start(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	f.mu.Lock()
	f.starts++
	err := f.refuse
	f.mu.Unlock()
	if err != nil {
		return control.Status{}, err
	}
	s, err := f.Runtime.Start(ctx, w, step)
	if err == nil {
		f.mu.Lock()
		f.came++
		f.mu.Unlock()
	}
	return s, err
}

// listOnce makes the next list have one more instance, and returns whether it had.
func (f *flaky) listOnce(s control.Status) (listed func() bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed = &s
	return func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.passed == nil
	}
}

// hide makes the runtime lie: its lists are without one instance. listed counts the lists since.
func (f *flaky) hide(id string) (listed func() int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hides = id
	before := f.lists
	return func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.lists - before
	}
}

func (f *flaky) breakStart(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

func (f *flaky) breakList(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

func (f *flaky) cameUp() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.came
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
	b := &bench{t: t, dir: t.TempDir(), grace: time.Millisecond, orphans: time.Millisecond}
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
	archive, err := logfile.NewArchive(filepath.Join(b.dir, "logs"), 1<<20)
	require.NoError(b.t, err)
	processes, err := process.New(process.Options{
		Dir: filepath.Join(b.dir, "instances"), Environment: "test", Archive: archive,
		LogFileSize: logFileSize, LogFiles: 2,
	})
	require.NoError(b.t, err)
	b.plane, b.store = &dataPlane{}, &refusing{Store: db}
	b.runtime = &flaky{Runtime: processes, plane: b.plane}
	b.runtime.hangs, b.runtime.broken = b.listHangs, b.listFails
	b.Control, err = control.New(b.t.Context(), control.Options{
		Environment: "test", Store: b.store, DataPlane: b.plane,
		Runtimes: map[string]control.Runtime{
			api.RuntimeProcess: b.runtime, api.RuntimeDocker: noDocker{},
			api.RuntimeExternal: external.New(external.Options{Resolver: twoAddresses{}}),
		},
		ProxyAddress: map[string]string{api.RuntimeProcess: "127.0.0.1:1"},
		ProxyGrace:   b.grace,
		Quotas:       b.quotas,
		OrphanGrace:  b.orphans,
		LogArchive:   archive,
	})
	require.NoError(b.t, err)

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c, rt := b.Control, b.runtime
	go func() { done <- c.Run(ctx) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		require.NoError(b.t, <-done)
		require.NoError(b.t, db.Close())
	})
	b.t.Cleanup(func() {
		b.end()
		require.Empty(b.t, rt.end())
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
	case api.StateAsleep:
		return entry != nil && entry.State == route.Asleep
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
	all, err := b.Events(b.t.Context(), 0, 100_000)
	require.NoError(b.t, err)
	return slices.DeleteFunc(all, func(e api.Event) bool { return e.Version != version })
}

func (b *bench) hasEvent(version string, kind api.EventType) bool {
	return slices.ContainsFunc(b.eventsOf(version), func(e api.Event) bool { return e.Type == kind })
}
