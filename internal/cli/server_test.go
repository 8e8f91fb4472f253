package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// lockedBuffer may be read while a command writes to it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// runningServer is layover server over a file, with a client.
type runningServer struct {
	*api.Client
	said *lockedBuffer
	end  func() int // as SIGTERM does; returns the exit code
}

// startServer runs layover server in dir and waits until it answers.
func startServer(t *testing.T, dir string, environ ...string) *runningServer {
	t.Helper()
	s := &runningServer{said: &lockedBuffer{}}
	app := newApp(nil, &lockedBuffer{}, s.said, append(environ, "LAYOVER_SERVER_LISTEN=127.0.0.1:0"))
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() { code <- execute(ctx, app, []string{"server", "-f", filepath.Join(dir, "layover.yaml")}) }()
	s.end = sync.OnceValue(func() int {
		cancel()
		return <-code
	})
	t.Cleanup(func() { s.end() })
	address := regexp.MustCompile(`server  (http://\S+)\n`)
	require.Eventually(t, func() bool { return address.MatchString(s.said.String()) }, 20*time.Second, time.Millisecond)
	var err error
	s.Client, err = api.NewClient(address.FindStringSubmatch(s.said.String())[1])
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// table follows the table until it has cart@main as ready, or whatever ok wants.
func (s *runningServer) table(t *testing.T, ok func(*route.Table) bool) *route.Table {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	table := route.EmptyTable()
	for u, err := range s.FollowTable(ctx, api.TablePosition{}) {
		require.NoError(t, err)
		if u.Table != nil {
			table, err = route.Compile(*u.Table)
		} else {
			table, err = table.Apply(*u.Change)
		}
		require.NoError(t, err)
		if ok(table) {
			break
		}
	}
	return table
}

func ready(t *route.Table) bool {
	s := t.Service("cart")
	return s != nil && s.Default != nil && s.Default.State == route.Ready
}

const serverFile = `
environment: apart
services:
  cart:
    health: {kind: tcp, interval: 1h}
    run:
      external: {url: "http://%s"}
`

// A server without a proxy: who follows it has a table at once, and after its restart one
// with a higher revision, in which what ran still runs.
func TestServerApart(t *testing.T) {
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	s := startServer(t, dir, "LAYOVER_PROXY_ADDRESS=127.0.0.1:4711")
	first := s.table(t, ready)
	require.Equal(t, backend, first.Service("cart").Default.Instances[0].Address)
	env, err := s.Environment(t.Context())
	require.NoError(t, err)
	require.Equal(t, "http://127.0.0.1:4711", env.ProxyURL)
	v, err := s.Version(t.Context(), "cart", "main")
	require.NoError(t, err)
	require.Equal(t, "http://main--cart.localhost:4711", v.PreviewURL)

	require.NoError(t, s.ReportProxy(t.Context(), api.ProxyReport{ID: "edge", StartedAt: time.Now(), Revision: first.Revision(), Requests: map[string]uint64{"cart@main": 3}}))
	v, err = s.Version(t.Context(), "cart", "main")
	require.NoError(t, err)
	require.Equal(t, uint64(3), v.Requests)
	require.Equal(t, exitOK, s.end())
	require.Contains(t, s.said.String(), "what it started goes on")

	s = startServer(t, dir)
	again := s.table(t, func(*route.Table) bool { return true })
	require.True(t, ready(again), "the first table has what was found again")
	require.Greater(t, again.Revision(), first.Revision())
	env, err = s.Environment(t.Context())
	require.NoError(t, err)
	require.Empty(t, env.ProxyURL, "nobody said where the proxies are")
	require.Equal(t, exitOK, s.end())
}

// TestServerMetrics: what Prometheus gets of a server.
func TestServerMetrics(t *testing.T) {
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	s := startServer(t, dir, "LAYOVER_PROXY_ADDRESS=127.0.0.1:4711")
	table := s.table(t, ready)
	require.NoError(t, s.ReportProxy(t.Context(), api.ProxyReport{ID: "edge", StartedAt: time.Now(), Epoch: table.Position().Epoch, Revision: table.Revision()}))
	var text string
	scrape := func() string {
		res, err := http.Get(s.URL() + "/metrics")
		require.NoError(t, err)
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		return string(body)
	}
	require.Eventually(t, func() bool {
		text = scrape()
		return strings.Contains(text, `layover_events_total{type="deploy.done"} 1`)
	}, 20*time.Second, 10*time.Millisecond)
	for _, line := range []string{
		"layover_server_leader 1", `layover_versions{state="ready"} 1`, "layover_services 1", "layover_proxies 1", `layover_proxy_behind_revisions{proxy="edge"} 0`,
		`layover_proxy_lag_seconds{proxy="edge"} 0`, "layover_deploy_duration_seconds_count 1", "layover_receipt_requests_dropped_total 0", `layover_events_total{type="deploy.failed"} 0`,
	} {
		require.Contains(t, text, line+"\n")
	}
	require.NotContains(t, text, "layover_requests_total", "it has no proxy")
}

func TestServerWantsToKnowWhereTheProxyIs(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, `
services:
  cart:
    run: {process: {command: [cart, "-proxy={proxy}"]}}
`)
	var out, said bytes.Buffer
	app := newApp(nil, &out, &said, []string{"LAYOVER_SERVER_LISTEN=127.0.0.1:0"})
	require.Equal(t, exitUsage, execute(t.Context(), app, []string{"server", "-f", filepath.Join(dir, "layover.yaml")}))
	require.Contains(t, said.String(), "cart@main uses {proxy}")
	require.Contains(t, said.String(), "LAYOVER_PROXY_ADDRESS")
	for _, bad := range []string{"nowhere", "0.0.0.0:80", "a b:80", ":80", "a:0"} {
		said.Reset()
		app := newApp(nil, &out, &said, []string{"LAYOVER_PROXY_ADDRESS=" + bad})
		require.Equal(t, exitUsage, execute(t.Context(), app, []string{"server", "-f", filepath.Join(dir, "layover.yaml")}), bad)
		require.Contains(t, said.String(), "LAYOVER_PROXY_ADDRESS: proxy.address")
	}
}

func writeFile(t *testing.T, dir, text string, values ...any) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "layover.yaml"), fmt.Appendf(nil, text, values...), 0o600))
}

// listenTCP accepts connections until the test ends, and returns the address.
func listenTCP(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var open []net.Conn
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, conn)
		}
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-done
	})
	return l.Addr().String()
}
