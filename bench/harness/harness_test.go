package harness

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

func TestMain(m *testing.M) {
	if code, ok := Role(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func startBackend(t *testing.T) *Backend {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	b, err := StartBackend(t.Context())
	require.NoError(t, err)
	t.Cleanup(b.Stop)
	return b
}

func TestCompare(t *testing.T) {
	startBackend(t) // or it is left out
	peers, err := PeersNamed("layover", "reverseproxy")
	require.NoError(t, err)
	peers, leftOut := Install(t.Context(), peers)
	require.Empty(t, leftOut)
	rows, err := Compare(t.Context(), Comparison{
		Peers: peers, Routes: []int{20}, Protocol: route.HTTP1, Rounds: 1, Connections: 4,
		Duration: 300 * time.Millisecond, Progress: t.Logf,
	})
	require.NoError(t, err)
	require.Len(t, rows, 2)
	for _, row := range rows {
		require.Empty(t, row.Failure)
		require.Positive(t, row.CPUPerRequest)
		require.Positive(t, row.PerSecond)
		require.Positive(t, row.P99)
		require.NotNil(t, row.AddedP99)
		require.Positive(t, row.RSS)
	}
	require.NotNil(t, rows[0].Routed)
	require.Positive(t, rows[0].Changes)
	require.NotNil(t, rows[0].ChangesP99)
	require.Nil(t, rows[1].Routed) // it has no means
}

func TestHTTP2AndGRPC(t *testing.T) {
	startBackend(t)
	require.NoError(t, Layover{}.Install(t.Context()))
	for _, protocol := range []route.Protocol{route.H2C, GRPC} {
		rows, err := Comparison{Protocol: protocol, Rounds: 1, Connections: 4, Duration: 300 * time.Millisecond, Progress: t.Logf}.
			CPU(t.Context(), Entry{Layover{}, 20})
		require.NoError(t, err)
		require.Positive(t, rows[0].PerSecond)
	}
}

// crooked is a proxy that confuses two versions.
type crooked struct{ reverseProxy }

// Start gives one version the address of another.
func (crooked) Start(ctx context.Context, s Setup) (*Running, error) {
	text := bareTable(s)
	right := fmt.Sprintf("%s|%s\t%s\n", s.Routes.Host(1), s.Routes.Version(1), s.Backend.Address(s.Routes.Protocol, s.Routes.Backend(1, 1)))
	wrong := strings.ReplaceAll(right, s.Backend.Address(s.Routes.Protocol, s.Routes.Backend(1, 1)), s.Backend.Address(s.Routes.Protocol, s.Routes.Backend(1, 0)))
	if !strings.Contains(text, right) {
		return nil, fmt.Errorf("there is no line %q", right)
	}
	table, err := s.writeFile("table", strings.Replace(text, right, wrong, 1))
	if err != nil {
		return nil, err
	}
	p, err := startRole("reverseproxy", ProxyCPU, table)
	if err != nil {
		return nil, err
	}
	return bareRunning(ctx, p)
}

func TestWrongRoutingIsAFailure(t *testing.T) {
	backend := startBackend(t)
	routes := NewRoutes(20, route.HTTP1)
	_, err := StartPeer(t.Context(), crooked{}, routes, backend)
	require.ErrorContains(t, err, "should have answered")

	// And where only the load meets it.
	s := Setup{Dir: t.TempDir(), Routes: routes, Backend: backend}
	running, err := crooked{}.Start(t.Context(), s)
	require.NoError(t, err)
	defer running.Stop()
	_, err = Load{Address: running.Address, Routes: routes, Connections: 2, Duration: 200 * time.Millisecond}.Run(t.Context())
	require.ErrorContains(t, err, "routed wrongly")
}

// A server that stands still for a second makes wait whatever is due in that second. A
// generator that waits too, and counts from when it sent, would see one slow request.
func TestLatencyCountsFromWhenARequestIsDue(t *testing.T) {
	startBackend(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		in := bufio.NewReader(conn)
		for n := 0; ; n++ {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if n == 50 {
				time.Sleep(time.Second) // it is this that is measured
			}
			text := body(Routes{}.Backend(0, 0))
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			_ = req.Body.Close()
		}
	}()
	r, err := Load{
		Address: l.Addr().String(), Routes: Routes{Services: 1, Versions: 1, Protocol: route.HTTP1},
		Connections: 1, Rate: 100, Duration: 2 * time.Second,
	}.Run(t.Context())
	require.NoError(t, err)
	require.InDelta(t, 200, r.Requests, 5)
	require.Greater(t, r.P99, 800*time.Millisecond)
	require.Less(t, r.P50, r.P99)
}

func TestLoadSaysWhenTheProxyIsGone(t *testing.T) {
	backend := startBackend(t)
	running, err := StartPeer(t.Context(), reverseProxy{}, NewRoutes(20, route.HTTP1), backend)
	require.NoError(t, err)
	time.AfterFunc(200*time.Millisecond, running.Stop)
	_, err = Load{Address: running.Address, Routes: running.Setup.Routes, Connections: 2, Duration: time.Second}.Run(t.Context())
	require.Error(t, err)
}

func TestPeersNamed(t *testing.T) {
	_, err := PeersNamed("nginx", "netscape")
	require.ErrorContains(t, err, `there is no peer "netscape"; there are layover, nginx,`)
}

func TestMedian(t *testing.T) {
	require.InDelta(t, 2, Median([]float64{3, 1, 2}), 0)
	require.InDelta(t, 2.5, Median([]float64{4, 1, 2, 3}), 0)
	require.Zero(t, Median(nil))
}
