package control_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

// timeToErr gives the control plane time to do what it must not do.
func timeToErr() {
	pause := time.NewTimer(300 * time.Millisecond)
	<-pause.C
}

func TestTableThatCannotBeNumberedIsPublishedLater(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	before := b.answer("feature-1").PID
	b.store.refuse("NextRevision")
	_, err := b.Stop(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err, "the wish is recorded")
	timeToErr()
	require.NotNil(t, b.routed("feature-1"))
	require.Equal(t, before, b.answer("feature-1").PID, "what the table has runs on")

	require.NoError(t, b.PutRoute(t.Context(), api.NamedRoute{Name: "late", Picks: map[string]string{"cart": "main"}}, ""))
	b.store.refuse()
	b.wait("feature-1", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
	require.NotEmpty(t, b.plane.table().Spec().Routes, "nothing is lost")
}

func TestDirtyTableIsPublishedWithoutAnotherChange(t *testing.T) {
	b := newBench(t)
	b.store.refuse("NextRevision")
	require.NoError(t, b.PutRoute(t.Context(), api.NamedRoute{Name: "late", Picks: map[string]string{"cart": "main"}}, ""))
	require.Empty(t, b.plane.table().Spec().Routes)
	b.store.refuse()
	b.until(func() bool { return len(b.plane.table().Spec().Routes) == 1 }, func() string { return "the route is not in the table" })
}

func TestStoreThatRefusesWhileDeploying(t *testing.T) {
	tests := map[string]struct {
		refuses []string
		env     map[string]string
		state   api.State
		event   api.EventType
	}{
		"the new state":        {[]string{"UpdateVersion"}, nil, api.StateRunning, api.EventDeployDone},
		"the table":            {[]string{"NextRevision"}, nil, api.StateRunning, api.EventDeployDone},
		"the event":            {[]string{"AppendEvent"}, nil, api.StateRunning, api.EventDeployDone},
		"all":                  {[]string{"UpdateVersion", "NextRevision", "AppendEvent"}, nil, api.StateRunning, api.EventDeployDone},
		"all, and it had fail": {[]string{"UpdateVersion", "NextRevision", "AppendEvent"}, map[string]string{"APP_EXIT": "3"}, api.StateFailed, api.EventDeployFailed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.deploy("feature-1", tt.env)
			b.store.refuse(tt.refuses...)
			b.until(func() bool { return b.runtime.started() == 1 }, func() string { return "it was not started" })
			timeToErr()
			b.store.refuse()
			b.wait("feature-1", "to settle", func(v api.Version) bool { return v.State == tt.state })
			b.until(func() bool { return b.hasEvent("feature-1", tt.event) }, func() string { return "nobody is told" })
			require.Equal(t, 1, b.runtime.started(), "it is not started twice")
		})
	}
}

func TestBeginningIsToldFirst(t *testing.T) {
	b := newBench(t)
	b.store.mu.Lock()
	b.store.slow = api.EventDeployStarted
	b.store.mu.Unlock()
	_, err := b.Deploy(t.Context(), key("typo"), api.Deployment{Overrides: api.Overrides{Command: []string{"layover-no-such-command"}}})
	require.NoError(t, err)
	b.until(func() bool { return b.hasEvent("typo", api.EventDeployFailed) }, func() string { return "no end is told" })
	require.Equal(t, api.EventDeployStarted, b.eventsOf("typo")[0].Type, "who waits for the deployment reads on from there")

	b.up("fine", nil)
	require.Equal(t, 2, b.runtime.started(), "a deployment does not give way to itself")
}

func TestWhatServesIsKeptWhileANewerOneHangs(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", map[string]string{"COLOUR": "red"})
	pid := b.answer("feature-1").PID
	b.deploy("feature-1", map[string]string{"APP_LISTEN": "no"})
	b.wait("feature-1", "to have both", func(v api.Version) bool { return len(v.Instances) == 2 })
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	b.until(func() bool { return b.hasEvent("feature-1", api.EventInstanceExited) }, func() string { return "nobody told of the end" })
	b.wait("feature-1", "to serve again", func(v api.Version) bool {
		return v.State == api.StateRunning && v.Generation == 2 && v.Serving == 1 && v.Reason == ""
	})
	require.NotEqual(t, pid, b.answer("feature-1").PID)
	require.Equal(t, "red", b.answer("feature-1").Env["COLOUR"])
}

func TestRuntimeThatIsDown(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", map[string]string{"COLOUR": "red"})
	began := time.Now()
	_, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: api.Overrides{Image: "cart:1"}})
	require.NoError(t, err)
	v := b.wait("feature-1", "to fail", func(v api.Version) bool { return v.Reason != "" })
	require.Less(t, time.Since(began), 4*time.Second)
	require.Contains(t, v.Reason, errNoDocker.Message)
	b.until(func() bool { return b.hasEvent("feature-1", api.EventDeployFailed) }, func() string { return "nobody is told" })
	events := b.eventsOf("feature-1")
	require.Contains(t, events[len(events)-1].Message, errNoDocker.Hint)

	b.end()
	b.open()
	b.wait("feature-1", "to be adopted, whatever became of the other runtime", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Zero(t, b.runtime.started())
}

func TestRuntimeThatHangs(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	pid := b.answer("feature-1").PID
	b.end()
	b.listHangs = true
	b.open()
	b.up("feature-2", nil) // whatever runs already is not known
	v, err := b.Version(t.Context(), key("feature-1"))
	require.NoError(t, err)
	require.Equal(t, api.StateStarting, v.State, "what is not known is not started twice, and not given up")

	b.end()
	b.listHangs = false
	b.open()
	b.wait("feature-1", "to be adopted", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Equal(t, pid, b.answer("feature-1").PID)
}

func TestRemoveOfWhatCannotBeSeen(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", map[string]string{"COLOUR": "red"})
	b.end()
	b.listFails = errors.New("throttled")
	b.open()
	_, err := b.Remove(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	timeToErr()
	b.deploy("feature-1", map[string]string{"COLOUR": "blue"})
	b.wait("feature-1", "to serve", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Equal(t, "blue", b.answer("feature-1").Env["COLOUR"], "the instance that was removed answers for nobody")
	b.runtime.breakList(nil)
	b.until(func() bool {
		statuses, err := b.runtime.List(t.Context())
		return err == nil && len(statuses) == 1
	}, func() string { return "the one that was removed is still there" })
	require.Equal(t, "blue", b.answer("feature-1").Env["COLOUR"])
}

func TestServerThatEndsAtAnyMoment(t *testing.T) {
	b := newBench(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 8 {
		for i := range 3 {
			b.deploy(fmt.Sprintf("v%d", i), map[string]string{"ROUND": fmt.Sprint(round)})
		}
		pause := time.NewTimer(time.Duration(random.IntN(60)) * time.Millisecond)
		<-pause.C
		b.end()
		b.open()
		for i := range 3 {
			version := fmt.Sprintf("v%d", i)
			b.wait(version, "to run", func(v api.Version) bool {
				require.NotEqual(t, api.StateFailed, v.State, v.Reason)
				return v.State == api.StateRunning && v.Serving == v.Generation && len(v.Instances) == 1
			})
			require.Equal(t, fmt.Sprint(round), b.answer(version).Env["ROUND"])
		}
		var statuses []control.Status // what the server before left behind takes a moment to end
		b.until(func() bool {
			var err error
			statuses, err = b.runtime.List(t.Context())
			require.NoError(t, err)
			return len(statuses) == 3
		}, func() string { return fmt.Sprintf("want 3 instances, there are %+v", statuses) })
	}
}

func TestStartRunsWhatServedLast(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", map[string]string{"COLOUR": "red"})
	b.deploy("feature-1", map[string]string{"APP_EXIT": "3"})
	b.wait("feature-1", "to fail", func(v api.Version) bool { return v.Reason != "" })
	_, err := b.Stop(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("feature-1", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
	_, err = b.Start(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("feature-1", "to serve", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Equal(t, "red", b.answer("feature-1").Env["COLOUR"], "not what never came up")
}

// twins are the two addresses of a version that runs elsewhere. The second one is down.
type twins struct {
	b     *bench
	port  string
	down  [2]atomic.Bool
	asked [2]atomic.Int64
}

func newTwins(b *bench, health func(*api.Health)) *twins {
	w := &twins{b: b}
	w.port = w.serve(0, "127.0.0.1:0")
	w.serve(1, "127.0.0.2:"+w.port)
	w.down[1].Store(true)
	s := cart()
	health(&s.Health)
	require.NoError(b.t, b.PutService(b.t.Context(), s))
	_, err := b.Deploy(b.t.Context(), key("main"), api.Deployment{Overrides: api.Overrides{URL: "http://shop.internal:" + w.port}})
	require.NoError(b.t, err)
	return w
}

func (w *twins) serve(i int, address string) string {
	l, err := net.Listen("tcp", address)
	require.NoError(w.b.t, err)
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		w.asked[i].Add(1)
		if w.down[i].Load() {
			rw.WriteHeader(http.StatusInternalServerError)
		}
	})}
	go func() { _ = s.Serve(l) }()
	w.b.t.Cleanup(func() { _ = s.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(w.b.t, err)
	return port
}

// getRequests waits until requests go to these addresses and no other.
func (w *twins) getRequests(hosts ...string) {
	w.b.t.Helper()
	routed := func() []string {
		var all []string
		for _, i := range w.b.routed("main").Instances {
			all = append(all, strings.TrimSuffix(i.Address, ":"+w.port))
		}
		return all
	}
	w.b.until(func() bool { return w.b.routed("main").State == route.Ready && slices.Equal(routed(), hosts) }, func() string {
		return fmt.Sprintf("%s are healthy, and requests go to %s", hosts, routed())
	})
}

func TestEachAddressHasItsOwnHealth(t *testing.T) {
	w := newTwins(newBench(t), func(h *api.Health) { h.Failures = 1 })
	for _, healthy := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.1"} {
		w.down[0].Store(healthy != "127.0.0.1")
		w.down[1].Store(healthy != "127.0.0.2")
		w.getRequests(healthy)
	}
}

// TestNewAddressIsCheckedUntilItIsHealthy has a version with one address that is healthy, and one that comes up later.
func TestNewAddressIsCheckedUntilItIsHealthy(t *testing.T) {
	w := newTwins(newBench(t), func(h *api.Health) { h.Interval = api.Duration(time.Hour) })
	w.getRequests("127.0.0.1")
	w.b.until(func() bool { return w.asked[1].Load() > 10 }, func() string { return "the new address is not asked again" })
	require.Less(t, w.asked[0].Load(), int64(5), "the other one is left in peace")
	w.down[1].Store(false)
	w.getRequests("127.0.0.1", "127.0.0.2")
	after := w.asked[1].Load()
	timeToErr()
	require.Equal(t, after, w.asked[1].Load(), "it is healthy")
}

func TestServiceThatARoutePicksStays(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.PutService(t.Context(), api.Service{Name: "pricing"}))
	require.NoError(t, b.PutRoute(t.Context(), api.NamedRoute{Name: "team", Picks: map[string]string{"pricing": "main"}}, ""))
	err := b.RemoveService(t.Context(), "pricing", "")
	require.Equal(t, api.CodeConflict, control.CodeOf(err))
	require.ErrorContains(t, err, "team")
	before := b.Table().Revision()
	require.NoError(t, b.PutRoute(t.Context(), api.NamedRoute{Name: "other", Parent: "team"}, ""))
	require.Greater(t, b.Table().Revision(), before, "tables are still made")
}

func TestApplySeesWhatChanged(t *testing.T) {
	b := newBench(t)
	routes := []api.NamedRoute{{Name: "a-child", Parent: "parent"}, {Name: "parent", Picks: map[string]string{"cart": "main"}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	wanted := []control.Wanted{{Key: key("main")}}
	require.NoError(t, b.Apply(t.Context(), []api.Service{cart()}, routes, wanted), "parents may come after their children")
	b.wait("main", "to serve", func(v api.Version) bool { return v.State == api.StateRunning })
	wanted[0].Deployment.Port = port
	require.NoError(t, b.Apply(t.Context(), []api.Service{cart()}, routes, wanted))
	b.wait("main", "to serve at the new port", func(v api.Version) bool { return v.Serving == 2 })
	require.Equal(t, fmt.Sprint(port), b.answer("main").Env["PORT"])
}

func TestWhatIsKeptOfAFailureIsBounded(t *testing.T) {
	b := newBench(t)
	_, err := b.Deploy(t.Context(), key("chatty"), api.Deployment{
		Overrides: api.Overrides{Env: map[string]string{"APP_LISTEN": "no", "APP_LONG_LINE": "100000", "APP_LOG_LINES": "1000"}},
		Timeout:   api.Duration(time.Second),
	})
	require.NoError(t, err)
	v := b.wait("chatty", "to fail", func(v api.Version) bool { return v.State == api.StateFailed })
	require.NotEmpty(t, v.LogTail)
	require.LessOrEqual(t, len(v.LogTail), 20)
	for _, line := range v.LogTail {
		require.LessOrEqual(t, len(line), 1024)
	}
	require.True(t, slices.Contains(v.LogTail, "not listening"), "the last line")
}
