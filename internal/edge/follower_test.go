package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

func TestFollowsChanges(t *testing.T) {
	server := newFake(t, shopSpec(7)).start()
	f := follow(t, nil, server)
	<-f.Ready()
	f.untilRevision(7)
	server.deploy(ready("pr-1", "a"), ready("pr-2", "b"))
	status := f.untilRevision(9)
	require.NotNil(t, f.proxy.Table().Service("cart").Version("pr-2"))
	require.Equal(t, 1, server.wholes(), "the rest came as changes")
	require.Equal(t, "http://"+server.address, status.Server)
	require.Equal(t, SourceServer, status.Source)
	require.False(t, status.Stale())
	require.EqualValues(t, 3, status.Applied)
	require.Eventually(t, func() bool { r, _ := server.reported(); return r.Revision == 9 && r.ID == "edge-1" }, patience, 1e6)
}

func TestGoesOnWhileTheServerIsAway(t *testing.T) {
	server := newFake(t, shopSpec(7)).start()
	f := follow(t, nil, server)
	f.untilRevision(7)
	server.stop()
	status := f.until(Status.Stale)
	require.EqualValues(t, 7, status.Revision)
	require.NotEmpty(t, status.Problem)
	require.NotNil(t, f.proxy.Table().Service("cart"), "the last table stays")
	server.deploy(ready("pr-1", "a"))
	server.start()
	f.untilRevision(8)
	require.False(t, f.Status().Stale())
	require.Equal(t, 1, server.wholes(), "it went on where it was")
}

func TestGapIsFilledByTheWholeTable(t *testing.T) {
	server := newFake(t, shopSpec(7)).start()
	f := follow(t, nil, server)
	f.untilRevision(7)
	server.mu.Lock()
	server.skip = true
	server.mu.Unlock()
	server.deploy(ready("pr-1", "a"), ready("pr-2", "b"))
	f.untilRevision(9)
	require.NotNil(t, f.proxy.Table().Service("cart").Version("pr-1"))
	require.Equal(t, 2, server.wholes())
	require.NotEmpty(t, f.Status().Server, "on the same connection to the server")
}

func TestGoesToTheNextServer(t *testing.T) {
	a, b := newFake(t, shopSpec(7)), newFake(t, shopSpec(7)).start()
	f := follow(t, nil, a, b)
	require.Equal(t, "http://"+b.address, f.untilRevision(7).Server)
	b.stop()
	a.start()
	f.until(func(s Status) bool { return s.Server == "http://"+a.address })
	a.deploy(ready("pr-1", "a"))
	f.untilRevision(8)
}

func TestLeavesAServerThatTakesNoReports(t *testing.T) {
	a, b := newFake(t, shopSpec(7)).start(), newFake(t, shopSpec(7)).start()
	f := follow(t, nil, a, b)
	f.until(func(s Status) bool { return s.Server == "http://"+a.address })
	a.mu.Lock()
	a.deaf = true // and its stream stays open
	a.mu.Unlock()
	f.until(func(s Status) bool { return s.Server == "http://"+b.address })
}

func TestStartsFromTheTableOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	cached := func(o *Options) { o.CacheFile = path }
	server := newFake(t, shopSpec(7)).start()
	first := follow(t, cached, server)
	first.until(func(s Status) bool { return s.CacheRevision == 7 })
	whole, err := os.Stat(path)
	require.NoError(t, err)
	server.deploy(ready("pr-1", "a"))
	first.untilRevision(8)
	server.stop()
	first.stop() // which writes the newest
	added, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(whole, added), "the change was added")

	second := follow(t, cached, server)
	<-second.Ready()
	status := second.Status()
	require.EqualValues(t, 8, status.Revision)
	require.EqualValues(t, 8, status.CacheRevision)
	require.Equal(t, SourceCache, status.Source)
	require.True(t, status.Stale())
	require.NotNil(t, second.proxy.Table().Service("cart").Version("pr-1"))

	server.deploy(ready("pr-2", "b"))
	server.start()
	second.untilRevision(9)
	require.Equal(t, 1, server.wholes(), "what is on disk needs only the changes")
}

func TestDamagedTableOnDiskIsSetAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "table")
	for name, data := range map[string][]byte{
		"cut":     written(t, shopSpec(7))[:200],
		"newer":   bytes.Replace(written(t, shopSpec(7)), []byte("table 2"), []byte("table 9"), 1),
		"invalid": block(tableBlock, 7, `{"environment":{"revision":7}}`, `{"service":{"name":"No Name"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, data, 0o600))
			var log lockedBuffer
			server := newFake(t, shopSpec(9))
			f := follow(t, func(o *Options) {
				o.CacheFile = path
				o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			}, server)
			require.False(t, f.Status().Table)
			require.Contains(t, log.String(), path+".bad")
			aside, err := os.ReadFile(path + ".bad")
			require.NoError(t, err)
			require.Equal(t, data, aside)
			server.start()
			f.untilRevision(9)
			f.stop()
			require.EqualValues(t, 9, readFile(t, path).Revision())
		})
	}
}

func TestNeverGoesBack(t *testing.T) {
	for name, spec := range map[string]route.Spec{
		"empty store":       {Revision: 1, Environment: "shop"},
		"older store":       shopSpec(6),
		"other environment": {Revision: 99, Environment: "elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			writeFile(t, path, shopSpec(7))
			server := newFake(t, spec).start()
			var log lockedBuffer
			f := follow(t, func(o *Options) {
				o.CacheFile = path
				o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			}, server)
			f.until(func(s Status) bool { return s.Problem != "" })
			require.Contains(t, f.Status().Problem, "--accept-reset")
			require.Eventually(t, func() bool { return bytes.Contains([]byte(log.String()), []byte("level=ERROR")) }, patience, 1e6)
			before := server.wholes()
			require.Eventually(t, func() bool { return server.wholes() > before+2 || name == "other environment" }, patience, 1e6, "it is asked again")
			require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "and spoken of once: %s", &log)
			require.EqualValues(t, 7, f.proxy.Table().Revision())
			require.NotNil(t, f.proxy.Table().Service("cart"))
			require.True(t, f.Status().Stale())
			f.stop()

			f = follow(t, func(o *Options) { o.CacheFile, o.AcceptReset = path, true }, server)
			f.untilRevision(spec.Revision)
			require.Equal(t, SourceServer, f.Status().Source)
		})
	}
}

// TestServerThatWasOlderIsAskedForAllOfIt holds that changes of a table that has our revision
// and is another one are not applied to ours.
func TestServerThatWasOlderIsAskedForAllOfIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	writeFile(t, path, shopSpec(7, "lost"))
	server := newFake(t, shopSpec(6)).start()
	f := follow(t, func(o *Options) { o.CacheFile = path }, server)
	f.until(func(s Status) bool { return s.Problem != "" })
	server.deploy(ready("pr-1", "a"), ready("pr-2", "b"))
	f.untilRevision(8)
	require.Nil(t, f.proxy.Table().Service("cart").Version("lost"))
	require.NotNil(t, f.proxy.Table().Service("cart").Version("pr-1"))
	f.until(func(s Status) bool { return !s.Stale() })
}

// A store that was put back to an older state, and has gone past the revision that the proxy
// has, before the proxy saw any of it: what leads on from there is for another table.
func TestChangesOfAnotherEpochAreNotTakenUp(t *testing.T) {
	for name, blind := range map[string]bool{"asked": false, "sent all the same": true} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			before := newFake(t, shopSpec(7, "lost")).start()
			f := follow(t, func(o *Options) { o.CacheFile = path }, before)
			f.untilRevision(7)
			before.stop()
			f.stop()

			after := newFake(t, shopSpec(6))
			after.blind = blind
			after.deploy(ready("pr-1", "a"), ready("pr-2", "b"))
			f = follow(t, func(o *Options) { o.CacheFile = path }, after.start())
			f.untilRevision(8)
			for version, want := range map[string]bool{"lost": false, "pr-1": true, "pr-2": true} {
				require.Equal(t, want, f.proxy.Table().Service("cart").Version(version) != nil, version)
			}
			require.Equal(t, 1, after.wholes())
			require.Eventually(t, func() bool {
				r, _ := after.reported()
				return r.Epoch == after.table.Position().Epoch && r.Revision == 8
			}, patience, 1e6)
			f.stop()
			require.Equal(t, after.table.Position(), readFile(t, path).Position(), "what is on disk leads on from there")
		})
	}
}

// No report says that a table is in force without what still drains because of it.
func TestReportsNeverForgetWhatDrains(t *testing.T) {
	server := newFake(t, shopSpec(7)).start()
	plane := &plane{idle: make(chan struct{})}
	f := follow(t, func(o *Options) { o.DataPlane = plane }, server)
	f.untilRevision(7)
	asked := make(chan api.ProxyReport, 2)
	plane.asked = func() {
		select {
		case asked <- f.compose():
		default:
		}
	}
	server.deploy(ready("main", "cart-main-2"))
	f.untilRevision(8)
	require.EqualValues(t, 7, (<-asked).Revision, "it is not yet known whether the instance is idle")
	require.Equal(t, []string{"cart-main-1"}, f.compose().Draining)
}

func TestReportsWhatDrains(t *testing.T) {
	server := newFake(t, shopSpec(7)).start()
	plane := &plane{idle: make(chan struct{}), counts: map[string]uint64{"cart@main": 3}}
	f := follow(t, func(o *Options) { o.DataPlane = plane }, server)
	f.untilRevision(7)
	server.deploy(ready("main", "cart-main-2"))
	require.Eventually(t, func() bool {
		r, _ := server.reported()
		return r.Revision == 8 && len(r.Draining) == 1 && r.Draining[0] == "cart-main-1"
	}, patience, 1e6)
	close(plane.idle)
	require.Eventually(t, func() bool { r, _ := server.reported(); return r.Revision == 8 && len(r.Draining) == 0 }, patience, 1e6)
}

func TestReportsRequestsThatAreNew(t *testing.T) {
	server := newFake(t, shopSpec(7)).start()
	plane := &plane{counts: map[string]uint64{"cart@main": 3}}
	f := follow(t, func(o *Options) { o.DataPlane = plane }, server)
	reported := func(n int) func() bool {
		return func() bool { _, counts := server.reported(); return counts["cart@main"] == uint64(n) }
	}
	require.Eventually(t, reported(3), patience, 1e6)
	require.Eventually(t, func() bool { r, _ := server.reported(); return len(r.Requests) == 0 }, patience, 1e6, "nothing is said twice")
	plane.count("cart@main", 4)
	require.Eventually(t, reported(4), patience, 1e6)

	server.stop()
	f.until(Status.Stale)
	server.mu.Lock()
	server.reports = nil // it began anew, and knows nothing
	server.mu.Unlock()
	server.start()
	require.Eventually(t, reported(4), patience, 1e6)
}

func TestLeftBySnapshot(t *testing.T) {
	before := compiled(t, shopSpec(7, "pr-1"))
	after := compiled(t, shopSpec(8, "pr-2"))
	require.Equal(t, []string{"cart-pr-1-1"}, leftBySnapshot(before, after))
	require.Empty(t, leftBySnapshot(nil, after))

	change := route.Change{
		Base: 7, Revision: 8,
		Services: []route.ServiceChange{{Name: "cart"}, {Name: "unknown"}},
		Routes:   []route.RouteChange{{Name: "team-a"}},
	}
	without, err := before.Apply(change)
	require.NoError(t, err)
	require.Equal(t, []string{"cart-main-1", "cart-pr-1-1"}, leftByChange(before, without, &change))
}

func TestAdmin(t *testing.T) {
	server := newFake(t, shopSpec(7))
	f := follow(t, nil, server)
	stopping := false
	admin := f.Admin(http.NotFoundHandler(), func() bool { return stopping })
	readyz := func() (int, Readiness) {
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		var got Readiness
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		return w.Code, got
	}
	code, got := readyz()
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.NotEmpty(t, got.Reason)
	require.Nil(t, got.AgeSeconds)

	server.start()
	f.untilRevision(7)
	code, got = readyz()
	require.Equal(t, http.StatusOK, code)
	require.True(t, got.Ready)
	require.False(t, got.Stale)
	require.Equal(t, "shop", got.Environment)
	require.NotNil(t, got.ConnectedSince)

	server.stop()
	f.until(Status.Stale)
	code, got = readyz()
	require.Equal(t, http.StatusOK, code, "an old table is better than none")
	require.True(t, got.Stale)
	require.NotNil(t, got.AgeSeconds)
	require.Contains(t, got.Problem, server.address)

	stopping = true
	code, got = readyz()
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, got.Reason, "stopped")
}

// plane is a data plane with one request in flight to every instance until idle is closed.
type plane struct {
	busy  []string
	idle  chan struct{} // nil: nothing is in flight
	asked func()        // called when it is asked; nil for nothing

	mu     sync.Mutex
	counts map[string]uint64
}

func (p *plane) SetTable(*route.Table) {}

func (p *plane) WaitIdle(ctx context.Context, _ string) error {
	if p.idle == nil {
		return nil
	}
	if p.asked != nil {
		p.asked()
	}
	select {
	case <-p.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *plane) Busy() []string { return p.busy }

func (p *plane) Requests() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

func (p *plane) count(id string, n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[id] = n
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestWakesByTheServerThatIsFollowed(t *testing.T) {
	s := newFake(t, route.Spec{Revision: 1, Environment: "shop", Services: []route.Service{{Name: "cart"}}})
	f := follow(t, nil, s)
	require.ErrorContains(t, f.Wake(t.Context(), "cart@pr-1"), "no server answers")
	s.start()
	f.until(func(s Status) bool { return s.Server != "" })
	require.NoError(t, f.Wake(t.Context(), "cart@pr-1"))
	require.Equal(t, []string{"cart@pr-1"}, s.wakes())
}

func TestReportsWhatIsBusy(t *testing.T) {
	s := newFake(t, route.Spec{Revision: 1, Environment: "shop", Services: []route.Service{{Name: "cart"}}}).start()
	follow(t, func(o *Options) { o.DataPlane = &plane{busy: []string{"cart@main"}} }, s)
	require.Eventually(t, func() bool {
		report, _ := s.reported()
		return slices.Equal(report.Busy, []string{"cart@main"})
	}, patience, time.Millisecond)
}

// Behind one address another server may make the tables now, of another epoch: it is told every number.
func TestTold_AnotherEpoch(t *testing.T) {
	var known told
	counts := map[string]uint64{"cart@main": 3}
	known.add(known.news(counts, 1, "a"))
	require.Empty(t, known.news(counts, 1, "a"))
	require.Equal(t, counts, known.news(counts, 1, "b"))
	require.Equal(t, counts, known.news(counts, 2, "b"))
}
