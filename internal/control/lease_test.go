package control_test

import (
	"context"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/store"
)

func touch(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, nil, 0o600))
}

// clockwork is a control plane over a real store and a runtime in memory, in a bubble
// whose clock leaps to whatever happens next.
type clockwork struct {
	*control.Control
	t       *testing.T
	runtime *inMemory
	plane   *traffic
	change  func(*control.Options) // nil for none
	end     func()
}

// inMemory is a runtime whose instances are healthy at once.
type inMemory struct {
	mu      sync.Mutex
	running map[string]control.Status
	starts  int
}

func (r *inMemory) Start(_ context.Context, w control.Workload, _ func(api.Step, string)) (control.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starts++
	s := control.Status{
		ID: w.ID, Service: w.Service, Version: w.Version, Generation: w.Generation, Running: true,
		Addresses: []control.Address{{HostPort: "127.0.0.1:1"}}, StartedAt: time.Now(),
	}
	r.running[w.ID] = s
	return s, nil
}

func (r *inMemory) Stop(_ context.Context, id string, _ time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, id)
	return nil
}

func (r *inMemory) List(context.Context) ([]control.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []control.Status
	for _, s := range r.running {
		out = append(out, s)
	}
	return out, nil
}

func (r *inMemory) Watch(ctx context.Context, _ func(control.Status)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (r *inMemory) Logs(context.Context, string, control.LogOptions) (control.LogReader, error) {
	return nil, control.ErrNoInstance
}

func (r *inMemory) instances() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.running)
}

func (r *inMemory) started() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts
}

// traffic is a data plane that had as many requests as a test says, and has some in progress.
type traffic struct {
	mu       sync.Mutex
	requests map[string]uint64
	busy     []string
}

func (c *traffic) SetTable(*route.Table)                  {}
func (c *traffic) WaitIdle(context.Context, string) error { return nil }

func (c *traffic) Requests() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.requests)
}

func (c *traffic) Busy() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.busy)
}

func (c *traffic) request(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[id]++
}

func (c *traffic) setBusy(ids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = ids
}

// inBubble runs a test with a control plane that has the service cart.
func inBubble(t *testing.T, s api.Service, test func(*testing.T, *clockwork)) {
	inBubbleWith(t, s, nil, test)
}

func inBubbleWith(t *testing.T, s api.Service, change func(*control.Options), test func(*testing.T, *clockwork)) {
	t.Parallel()
	path := t.TempDir() + "/layover.db"
	synctest.Test(t, func(t *testing.T) {
		w := &clockwork{t: t, change: change, runtime: &inMemory{running: map[string]control.Status{}}, plane: &traffic{requests: map[string]uint64{}}}
		w.open(path)
		s.Name, s.Run, s.Health = "cart", api.Run{Process: &api.Process{Command: []string{"cart"}}}, api.Health{Kind: api.HealthProcess}
		require.NoError(t, w.PutService(t.Context(), s))
		defer func() { w.end() }()
		test(t, w)
	})
}

func (w *clockwork) open(path string) {
	db, err := store.OpenSQLite(w.t.Context(), path)
	require.NoError(w.t, err)
	opts := control.Options{
		Environment: "test", Store: db, DataPlane: w.plane,
		Runtimes: map[string]control.Runtime{api.RuntimeProcess: w.runtime}, LeaseWarning: time.Minute,
	}
	if w.change != nil {
		w.change(&opts)
	}
	w.Control, err = control.New(w.t.Context(), opts)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c := w.Control
	go func() { done <- c.Run(ctx) }()
	w.end = func() {
		cancel()
		require.NoError(w.t, <-done)
		require.NoError(w.t, db.Close())
	}
}

// pass lets time pass.
func (w *clockwork) pass(d time.Duration) {
	time.Sleep(d) // the clock of the bubble
	synctest.Wait()
}

func (w *clockwork) deploy(version string, d api.Deployment) {
	w.t.Helper()
	_, err := w.Deploy(w.t.Context(), key(version), d)
	require.NoError(w.t, err)
	w.pass(time.Second)
	require.Equal(w.t, api.StateRunning, w.state(version))
}

// state returns the state of a version, "" where it is gone.
func (w *clockwork) state(version string) api.State {
	v, err := w.Version(w.t.Context(), key(version))
	if control.CodeOf(err) == api.CodeNotFound && err != nil {
		return ""
	}
	require.NoError(w.t, err)
	return v.State
}

func (w *clockwork) events(kind api.EventType) []api.Event {
	all, err := w.Events(w.t.Context(), 0, 10_000)
	require.NoError(w.t, err)
	return slices.DeleteFunc(all, func(e api.Event) bool { return e.Type != kind })
}

func minutes(n int) api.Duration { return api.Duration(time.Duration(n) * time.Minute) }

func TestAnIdleVersionFallsAsleep(t *testing.T) {
	inBubble(t, api.Service{IdleSleep: minutes(30)}, func(t *testing.T, w *clockwork) {
		w.deploy("main", api.Deployment{})
		w.deploy("x", api.Deployment{})
		w.deploy("own", api.Deployment{IdleSleep: minutes(90)})
		w.deploy("awake", api.Deployment{IdleSleep: api.Never})

		w.pass(20 * time.Minute)
		w.plane.request("cart@x")
		w.pass(29 * time.Minute)
		require.Equal(t, api.StateRunning, w.state("x"), "its request was 29 minutes ago")
		w.pass(2 * time.Minute)
		require.Equal(t, api.StateAsleep, w.state("x"))
		require.Contains(t, w.events(api.EventVersionAsleep)[0].Message, "no request for 30m0s")
		require.Equal(t, api.StateRunning, w.state("own"))
		w.pass(time.Hour)
		require.Equal(t, api.StateAsleep, w.state("own"))
		require.Equal(t, api.StateRunning, w.state("main"))
		require.Equal(t, api.StateRunning, w.state("awake"))

		starts := w.runtime.started()
		_, err := w.Wake(t.Context(), key("x"), control.By{})
		require.NoError(t, err)
		w.pass(time.Second)
		require.Equal(t, api.StateRunning, w.state("x"))
		require.Equal(t, starts+1, w.runtime.started())
		w.pass(31 * time.Minute)
		require.Equal(t, api.StateAsleep, w.state("x"), "being woken is activity, once")
	})
}

func TestAStreamInProgressKeepsAwake(t *testing.T) {
	inBubble(t, api.Service{IdleSleep: minutes(10)}, func(t *testing.T, w *clockwork) {
		w.deploy("x", api.Deployment{})
		w.plane.setBusy("cart@x")
		w.pass(2 * time.Hour)
		require.Equal(t, api.StateRunning, w.state("x"))
		w.plane.setBusy()
		w.pass(9 * time.Minute)
		require.Equal(t, api.StateRunning, w.state("x"))
		w.pass(2 * time.Minute)
		require.Equal(t, api.StateAsleep, w.state("x"))
	})
}

func TestProxiesThatReportKeepAwake(t *testing.T) {
	inBubble(t, api.Service{IdleSleep: minutes(10)}, func(t *testing.T, w *clockwork) {
		w.deploy("x", api.Deployment{})
		w.deploy("y", api.Deployment{})
		report := api.ProxyReport{ID: "edge-1", StartedAt: time.Now(), Requests: map[string]uint64{"cart@y": 1}}
		for range 60 {
			w.pass(20 * time.Second)
			report.Busy = []string{"cart@x", "cart@unknown"}
			report.Requests["cart@y"]++
			report.Revision = w.Table().Revision()
			require.NoError(t, w.ReportProxy(t.Context(), report))
		}
		require.Equal(t, api.StateRunning, w.state("x"))
		require.Equal(t, api.StateRunning, w.state("y"))
		report.Busy = nil
		for range 31 {
			w.pass(20 * time.Second)
			require.NoError(t, w.ReportProxy(t.Context(), report), "the same number is no request")
		}
		require.Equal(t, api.StateAsleep, w.state("x"))
		require.Equal(t, api.StateAsleep, w.state("y"))
	})
}

// A proxy that cannot reach the server may serve a stream all the same.
func TestASilentProxyKeepsAwakeForAWhile(t *testing.T) {
	inBubble(t, api.Service{IdleSleep: minutes(1)}, func(t *testing.T, w *clockwork) {
		w.deploy("x", api.Deployment{})
		w.deploy("y", api.Deployment{})
		report := api.ProxyReport{ID: "edge-1", StartedAt: time.Now(), Busy: []string{"cart@x", "cart@y"}, Revision: w.Table().Revision()}
		require.NoError(t, w.ReportProxy(t.Context(), report))
		w.pass(20 * time.Second)
		_, err := w.Sleep(t.Context(), key("y"), control.By{})
		require.NoError(t, err)
		w.pass(4 * time.Minute)
		require.Equal(t, api.StateRunning, w.state("x"), "it may have a stream in progress")
		require.Equal(t, 2, w.runtime.instances(), "and so may y, which is to sleep")
		proxies, err := w.Proxies(t.Context())
		require.NoError(t, err)
		require.Empty(t, proxies, "it is not listed all the while")
		w.pass(3 * time.Minute)
		require.Equal(t, api.StateAsleep, w.state("x"))
		require.Equal(t, api.StateAsleep, w.state("y"))
		require.Zero(t, w.runtime.instances())
	})
}

// One that was started again has nothing in progress from before.
func TestAProxyThatIsBackIsNotSilent(t *testing.T) {
	inBubble(t, api.Service{IdleSleep: minutes(1)}, func(t *testing.T, w *clockwork) {
		w.deploy("x", api.Deployment{})
		report := api.ProxyReport{ID: "edge-1", StartedAt: time.Now(), Busy: []string{"cart@x"}, Revision: w.Table().Revision()}
		require.NoError(t, w.ReportProxy(t.Context(), report))
		w.pass(20 * time.Second)
		report.StartedAt, report.Busy = time.Now(), nil
		require.NoError(t, w.ReportProxy(t.Context(), report))
		w.pass(2 * time.Minute)
		require.Equal(t, api.StateAsleep, w.state("x"))
	})
}

func TestALeaseEnds(t *testing.T) {
	inBubble(t, api.Service{TTL: api.Duration(72 * time.Minute)}, func(t *testing.T, w *clockwork) {
		w.deploy("main", api.Deployment{})
		w.deploy("x", api.Deployment{})
		w.deploy("used", api.Deployment{})
		w.deploy("kept", api.Deployment{TTL: api.Never})
		w.deploy("protected", api.Deployment{ProtectUntil: time.Now().Add(100 * time.Minute)})
		w.deploy("stopped", api.Deployment{})
		_, err := w.Stop(t.Context(), key("stopped"), control.By{Actor: "ana"})
		require.NoError(t, err)

		w.pass(70 * time.Minute)
		require.Empty(t, w.events(api.EventLeaseEnding))
		w.plane.request("cart@used")
		w.pass(time.Minute + 2*time.Second)
		warned := w.events(api.EventLeaseEnding)
		require.Len(t, warned, 2, "x and stopped, once each: %v", warned)
		require.Contains(t, warned[0].Message, " is removed in ")
		require.Contains(t, warned[0].Message, "layover extend cart@")
		require.Equal(t, api.StateRunning, w.state("x"))

		w.pass(time.Minute)
		require.Empty(t, w.state("x"))
		require.Empty(t, w.state("stopped"))
		for _, version := range []string{"main", "used", "kept", "protected"} {
			require.Equal(t, api.StateRunning, w.state(version), version)
		}
		over := w.events(api.EventLeaseEnded)
		require.Len(t, over, 2)
		require.Contains(t, over[0].Message, "its lease of 1h12m is over: no activity since ")
		require.Contains(t, w.events(api.EventVersionRemoved)[0].Message, "its lease of 1h12m is over")

		w.pass(30 * time.Minute)
		require.Empty(t, w.state("protected"))
		w.pass(42 * time.Minute)
		require.Empty(t, w.state("used"))
		require.Equal(t, api.StateRunning, w.state("kept"))
		require.Equal(t, api.StateRunning, w.state("main"))
	})
}

func TestExtend(t *testing.T) {
	inBubble(t, api.Service{}, func(t *testing.T, w *clockwork) {
		w.deploy("x", api.Deployment{TTL: api.Duration(10 * time.Minute)})
		w.deploy("endless", api.Deployment{})
		w.pass(8 * time.Minute)
		v, err := w.Extend(t.Context(), key("x"), api.Extension{By: api.Duration(5 * time.Minute)}, control.By{Actor: "ana"})
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(7*time.Minute), v.Lease.EndsAt, 2*time.Second)
		require.Equal(t, "ana", w.events(api.EventLeaseExtended)[0].Actor)
		w.pass(6 * time.Minute)
		require.Equal(t, api.StateRunning, w.state("x"))

		until := time.Now().Add(20 * time.Minute)
		v, err = w.Extend(t.Context(), key("x"), api.Extension{Until: until}, control.By{Actor: "ana"})
		require.NoError(t, err)
		require.WithinDuration(t, until, v.Lease.EndsAt, time.Second)
		_, err = w.Extend(t.Context(), key("x"), api.Extension{Until: until.Add(-time.Minute)}, control.By{Actor: "ana"})
		require.ErrorContains(t, err, "ends at")
		_, err = w.Extend(t.Context(), key("x"), api.Extension{Until: until, By: 1}, control.By{Actor: "ana"})
		require.Equal(t, api.CodeInvalid, control.CodeOf(err))
		_, err = w.Extend(t.Context(), key("endless"), api.Extension{}, control.By{Actor: "ana"})
		require.ErrorContains(t, err, "no lease")
		_, err = w.Extend(t.Context(), key("nothing"), api.Extension{}, control.By{Actor: "ana"})
		require.Equal(t, api.CodeNotFound, control.CodeOf(err))

		w.pass(19 * time.Minute)
		_, err = w.Extend(t.Context(), key("x"), api.Extension{}, control.By{Actor: "ana"})
		require.NoError(t, err)
		w.pass(9 * time.Minute)
		require.Equal(t, api.StateRunning, w.state("x"), "without a time it begins anew")
		w.pass(2 * time.Minute)
		require.Empty(t, w.state("x"))
	})
}

// TestALeaseOutlivesTheServer restarts it: what was active before stays so, near enough,
// and nothing ends before proxies had time to tell what went on meanwhile.
func TestALeaseOutlivesTheServer(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/layover.db"
	synctest.Test(t, func(t *testing.T) {
		w := &clockwork{t: t, runtime: &inMemory{running: map[string]control.Status{}}, plane: &traffic{requests: map[string]uint64{}}}
		w.open(path)
		require.NoError(t, w.PutService(t.Context(), api.Service{
			Name: "cart", Run: api.Run{Process: &api.Process{Command: []string{"cart"}}}, Health: api.Health{Kind: api.HealthProcess},
		}))
		w.deploy("x", api.Deployment{TTL: api.Duration(10 * time.Minute)})
		for range 8 {
			w.pass(time.Minute)
			w.plane.request("cart@x")
		}
		w.pass(time.Second)
		w.end()
		time.Sleep(9 * time.Minute)
		w.plane = &traffic{requests: map[string]uint64{}}
		w.open(path)
		w.pass(20 * time.Second) // no lease ends in the first ten
		require.Equal(t, api.StateRunning, w.state("x"), "its last request was 9 minutes ago, its deployment 17")
		w.end()
		time.Sleep(3 * time.Minute)
		w.open(path)
		w.pass(5 * time.Second)
		require.Equal(t, api.StateRunning, w.state("x"))
		w.pass(10 * time.Second)
		require.Empty(t, w.state("x"))
		w.end()
	})
}
