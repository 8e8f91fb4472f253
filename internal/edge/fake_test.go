package edge

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

const patience = 20 * time.Second // for things that happen at once on an idle machine

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Connections that a client keeps for the next request end with the program.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

// fake is a server of an environment, as far as proxies see it, over real HTTP.
type fake struct {
	t       *testing.T
	address string

	mu      sync.Mutex
	table   *route.Table
	kept    []route.Change // the changes that lead to table
	skip    bool           // leave out the next change
	blind   bool           // to the epochs of others
	deaf    bool           // reports get no answer
	changed chan struct{}
	whole   int // tables sent
	reports []api.ProxyReport
	woken   []string
	server  *http.Server
}

// newFake returns a server that does not run yet. Each has an epoch of its own, as servers do.
func newFake(t *testing.T, spec route.Spec) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	spec.Epoch = cmp.Or(spec.Epoch, rand.Text())
	s := &fake{t: t, address: l.Addr().String(), table: compiled(t, spec), changed: make(chan struct{})}
	t.Cleanup(s.stop)
	return s
}

func (s *fake) start() *fake {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	require.NoError(s.t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/environment", s.environment)
	mux.HandleFunc("GET /api/v1/table/watch", s.watch)
	mux.HandleFunc("POST /api/v1/proxies/{id}", s.report)
	mux.HandleFunc("POST /api/v1/services/{service}/versions/{version}/wake", s.wake)
	server := &http.Server{Handler: mux}
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	go func() { _ = server.Serve(l) }()
	return s
}

// stop is a crash: every connection breaks.
func (s *fake) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		_ = s.server.Close()
		s.server = nil
	}
}

func (s *fake) environment(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(api.Environment{Name: s.table.Spec().Environment})
}

func (s *fake) watch(w http.ResponseWriter, r *http.Request) {
	after, err := route.ParsePosition(r.URL.Query().Get("after"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		_ = http.NewResponseController(w).Flush()
		s.mu.Lock()
		next := s.changed
		send := func(event string, v any) {
			data, _ := json.Marshal(v)
			_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data)
		}
		lead := s.leadLocked(after)
		switch {
		case after == s.table.Position():
		case lead == nil:
			s.whole++
			send("table", s.table.Spec())
		case s.skip && len(lead) > 1:
			s.skip = false
			lead = lead[1:]
			fallthrough
		default:
			for _, change := range lead {
				send("change", change)
			}
		}
		after = s.table.Position()
		s.mu.Unlock()
		_ = http.NewResponseController(w).Flush()
		select {
		case <-next:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *fake) leadLocked(after route.Position) []route.Change {
	for i, change := range s.kept {
		if change.Base == after.Revision && (change.Epoch == after.Epoch || s.blind && after.Epoch != "") {
			return s.kept[i:]
		}
	}
	return nil
}

func (s *fake) report(w http.ResponseWriter, r *http.Request) {
	var report api.ProxyReport
	err := json.NewDecoder(r.Body).Decode(&report)
	s.mu.Lock()
	deaf := s.deaf
	if !deaf {
		s.reports = append(s.reports, report)
	}
	s.mu.Unlock()
	if deaf || err != nil {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *fake) wake(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = append(s.woken, r.PathValue("service")+"@"+r.PathValue("version"))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(api.Version{})
}

func (s *fake) wakes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.woken)
}

// deploy adds or replaces versions of cart, each in a revision of its own; they are sent together.
func (s *fake) deploy(versions ...route.Version) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, version := range versions {
		change := route.Change{
			Epoch: s.table.Position().Epoch, Base: s.table.Revision(), Revision: s.table.Revision() + 1,
			Versions: []route.VersionChange{{Service: "cart", Name: version.Name, Version: &version}},
		}
		next, err := s.table.Apply(change)
		require.NoError(s.t, err)
		s.table, s.kept = next, append(s.kept, change)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fake) wholes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole
}

// reported returns the newest report, and the sum of what all said about requests.
func (s *fake) reported() (api.ProxyReport, map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last api.ProxyReport
	counts := map[string]uint64{}
	for _, last = range s.reports {
		maps.Copy(counts, last.Requests)
	}
	return last, counts
}

// ready is a version with one instance.
func ready(name, instance string) route.Version {
	return route.Version{Name: name, State: route.Ready, Instances: []route.Instance{{ID: instance, Address: "127.0.0.1:4711"}}}
}

// followed is a follower with the proxy that it brings tables to.
type followed struct {
	*Follower
	t     *testing.T
	proxy *proxy.Proxy
	stop  func() // ends Run and waits for it
}

// follow starts a follower of the servers. change may change the options.
func follow(t *testing.T, change func(*Options), servers ...*fake) *followed {
	t.Helper()
	f := &followed{t: t, proxy: proxy.New(proxy.Options{})}
	opts := Options{
		DataPlane: f.proxy, ID: "edge-1", Logger: slog.New(slog.DiscardHandler),
		Backoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, ReportEvery: 10 * time.Millisecond,
	}
	for _, s := range servers {
		client, err := api.NewClient(s.address)
		require.NoError(t, err)
		t.Cleanup(client.Close)
		opts.Servers = append(opts.Servers, client)
	}
	if change != nil {
		change(&opts)
	}
	f.Follower = New(opts)
	require.NoError(t, f.LoadCache())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(f.stop)
	return f
}

// until waits for a state of the follower.
func (f *followed) until(ok func(Status) bool) Status {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return ok(f.Status()) }, patience, time.Millisecond, "%+v", f.Status())
	return f.Status()
}

func (f *followed) untilRevision(revision uint64) Status {
	f.t.Helper()
	return f.until(func(s Status) bool { return s.Revision == revision })
}
