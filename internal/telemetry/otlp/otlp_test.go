package otlp

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// receiver is a real server of OTLP over one of its protocols.
type receiver struct {
	coltrace.UnimplementedTraceServiceServer
	collogs.UnimplementedLogsServiceServer
	colmetrics.UnimplementedMetricsServiceServer

	mu       sync.Mutex
	spans    []string
	lines    int
	points   int
	requests int
	key      string
	reject   int64
	fails    atomic.Int32 // so many requests, in a way that is worth another try
	forbids  atomic.Bool
	hangs    chan struct{}
}

func (r *receiver) take(key string, m proto.Message) (int64, error) {
	if r.hangs != nil {
		<-r.hangs
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	r.key = key
	if r.fails.Add(-1) >= 0 {
		return 0, errAway
	}
	if r.forbids.Load() {
		return 0, errForbidden
	}
	switch m := m.(type) {
	case *coltrace.ExportTraceServiceRequest:
		for _, rs := range m.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				for _, s := range ss.GetSpans() {
					r.spans = append(r.spans, s.GetName())
				}
			}
		}
	case *collogs.ExportLogsServiceRequest:
		for _, rl := range m.GetResourceLogs() {
			r.lines += countLines(rl)
		}
	case *colmetrics.ExportMetricsServiceRequest:
		for _, rm := range m.GetResourceMetrics() {
			r.points += countPoints(rm)
		}
	}
	return r.reject, nil
}

func (r *receiver) spanNames() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.spans...)
}

var (
	errAway      = errors.New("away")
	errForbidden = errors.New("forbidden")
)

func keyOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("api-key"), ",")
}

func asStatus(err error) error {
	switch {
	case errors.Is(err, errAway):
		return status.Error(codes.Unavailable, "away")
	case errors.Is(err, errForbidden):
		return status.Error(codes.PermissionDenied, "who are you")
	}
	return nil
}

type traceServer struct {
	coltrace.UnimplementedTraceServiceServer
	*receiver
}

func (s traceServer) Export(ctx context.Context, m *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	rejected, err := s.take(keyOf(ctx), m)
	return &coltrace.ExportTraceServiceResponse{PartialSuccess: &coltrace.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: "too old"}}, asStatus(err)
}

type logServer struct {
	collogs.UnimplementedLogsServiceServer
	*receiver
}

func (s logServer) Export(ctx context.Context, m *collogs.ExportLogsServiceRequest) (*collogs.ExportLogsServiceResponse, error) {
	_, err := s.take(keyOf(ctx), m)
	return &collogs.ExportLogsServiceResponse{}, asStatus(err)
}

type metricServer struct {
	colmetrics.UnimplementedMetricsServiceServer
	*receiver
}

func (s metricServer) Export(ctx context.Context, m *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	_, err := s.take(keyOf(ctx), m)
	return &colmetrics.ExportMetricsServiceResponse{}, asStatus(err)
}

// ServeHTTP is OTLP/HTTP.
func (r *receiver) ServeHTTP(w http.ResponseWriter, rq *http.Request) {
	var m proto.Message
	switch rq.URL.Path {
	case "/otlp/v1/traces":
		m = &coltrace.ExportTraceServiceRequest{}
	case "/otlp/v1/logs":
		m = &collogs.ExportLogsServiceRequest{}
	case "/otlp/v1/metrics":
		m = &colmetrics.ExportMetricsServiceRequest{}
	default:
		http.NotFound(w, rq)
		return
	}
	body, err := gzip.NewReader(rq.Body)
	if err != nil || rq.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "what is that", http.StatusBadRequest)
		return
	}
	text, _ := io.ReadAll(body)
	if proto.Unmarshal(text, m) != nil {
		http.Error(w, "what is that", http.StatusBadRequest)
		return
	}
	rejected, err := r.take(rq.Header.Get("Api-Key"), m)
	switch {
	case errors.Is(err, errAway):
		w.Header().Set("Retry-After", "1")
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	case errors.Is(err, errForbidden):
		http.Error(w, "who are you", http.StatusForbidden)
		return
	}
	if _, ok := m.(*coltrace.ExportTraceServiceRequest); ok {
		text, _ = proto.Marshal(&coltrace.ExportTraceServiceResponse{PartialSuccess: &coltrace.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: "too old"}})
		_, _ = w.Write(text)
	}
}

// log collects lines.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// each runs a test over both protocols.
func each(t *testing.T, test func(t *testing.T, r *receiver, o Options, out *log)) {
	for _, protocol := range []string{GRPC, HTTP} {
		t.Run(protocol, func(t *testing.T) {
			r, out := &receiver{}, &log{}
			o := Options{Protocol: protocol, Logger: slog.New(slog.NewTextHandler(out, nil))}
			if protocol == HTTP {
				s := httptest.NewServer(r)
				t.Cleanup(s.Close)
				o.Endpoint = s.URL + "/otlp/"
			} else {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				s := grpc.NewServer()
				coltrace.RegisterTraceServiceServer(s, traceServer{receiver: r})
				collogs.RegisterLogsServiceServer(s, logServer{receiver: r})
				colmetrics.RegisterMetricsServiceServer(s, metricServer{receiver: r})
				go func() { _ = s.Serve(l) }()
				t.Cleanup(s.Stop)
				o.Endpoint = "http://" + l.Addr().String()
			}
			test(t, r, o, out)
		})
	}
}

func start(t *testing.T, o Options) (e *Exporter, stop func()) {
	t.Helper()
	e, err := New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-ended)
		})
	}
	t.Cleanup(stop)
	return e, stop
}

func spans(names ...string) []*trace.ResourceSpans {
	var all []*trace.Span
	for _, name := range names {
		all = append(all, &trace.Span{Name: name})
	}
	return []*trace.ResourceSpans{{ScopeSpans: []*trace.ScopeSpans{{Spans: all}}}}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, 20*time.Second, 5*time.Millisecond, what)
}

func TestSends(t *testing.T) {
	each(t, func(t *testing.T, r *receiver, o Options, _ *log) {
		o.Headers = func() (map[string]string, error) { return map[string]string{"api-key": "s3cret"}, nil }
		e, stop := start(t, o)
		require.True(t, e.Traces(spans("a", "b")))
		require.True(t, e.Logs([]*logs.ResourceLogs{{ScopeLogs: []*logs.ScopeLogs{{LogRecords: []*logs.LogRecord{{}, {}, {}}}}}}))
		require.True(t, e.Metrics([]*metrics.ResourceMetrics{{ScopeMetrics: []*metrics.ScopeMetrics{{Metrics: []*metrics.Metric{
			{Data: &metrics.Metric_Gauge{Gauge: &metrics.Gauge{DataPoints: []*metrics.NumberDataPoint{{}}}}},
		}}}}}))
		require.True(t, e.Traces(nil), "nothing to send is nothing lost")
		stop()
		require.Equal(t, []string{"a", "b"}, r.spanNames(), "what is there at the end is sent")
		require.Equal(t, 3, r.lines)
		require.Equal(t, 1, r.points)
		require.Equal(t, "s3cret", r.key)
		require.Equal(t, map[string]Stats{"traces": {Sent: 2}, "logs": {Sent: 3}, "metrics": {Sent: 1}}, e.Stats())
	})
}

// TestReceiverIsAway: what can be sent later is.
func TestReceiverIsAway(t *testing.T) {
	each(t, func(t *testing.T, r *receiver, o Options, out *log) {
		r.fails.Store(1)
		e, _ := start(t, o)
		e.Traces(spans("a"))
		eventually(t, "it is sent again", func() bool { return e.Stats()["traces"].Sent == 1 })
		require.Equal(t, []string{"a"}, r.spanNames())
		require.Contains(t, out.String(), "telemetry does not arrive")
		require.NotContains(t, out.String(), "level=ERROR")
	})
}

func TestReceiverRefuses(t *testing.T) {
	each(t, func(t *testing.T, r *receiver, o Options, out *log) {
		r.forbids.Store(true)
		e, _ := start(t, o)
		e.Traces(spans("a"))
		eventually(t, "it is counted", func() bool { return e.Stats()["traces"].Refused == 1 })
		require.Contains(t, out.String(), "who are you")
		require.Equal(t, 1, r.requests, "another try is of no use")

		r.forbids.Store(false)
		r.mu.Lock()
		r.reject = 1
		r.mu.Unlock()
		e.Traces(spans("b", "c"))
		eventually(t, "the rest arrives", func() bool { return e.Stats()["traces"] == Stats{Sent: 1, Refused: 2} })
	})
}

// TestKeyIsReadAgain: one whose file is away for a moment loses nothing.
func TestKeyIsReadAgain(t *testing.T) {
	each(t, func(t *testing.T, r *receiver, o Options, _ *log) {
		var asked atomic.Int32
		o.Headers = func() (map[string]string, error) {
			if asked.Add(1) == 1 {
				return nil, errors.New("no such file")
			}
			return map[string]string{"api-key": "new"}, nil
		}
		e, _ := start(t, o)
		e.Traces(spans("a"))
		eventually(t, "it is sent", func() bool { return len(r.spanNames()) == 1 })
		require.Equal(t, "new", r.key)
	})
}

// TestBounded: a receiver that takes nothing costs bounded memory, and what is lost is counted.
func TestBounded(t *testing.T) {
	each(t, func(t *testing.T, r *receiver, o Options, _ *log) {
		r.hangs = make(chan struct{})
		defer close(r.hangs)
		e, err := New(o)
		require.NoError(t, err)
		long := strings.Repeat("x", 1<<20)
		taken := 0
		for range 100 {
			if e.Traces(spans(long)) {
				taken++
			}
		}
		require.Less(t, taken, 33)
		require.Greater(t, taken, 25)
		require.Equal(t, int64(100-taken), e.Stats()["traces"].Dropped)
		require.True(t, e.Logs([]*logs.ResourceLogs{{ScopeLogs: []*logs.ScopeLogs{{LogRecords: []*logs.LogRecord{{}}}}}}), "each kind has a room of its own")
	})
}

// TestOffer: what there is no room for is its sender's still, and all of it: it is neither counted nor sent in part.
func TestOffer(t *testing.T) {
	e, err := New(Options{Endpoint: "http://127.0.0.1:1"})
	require.NoError(t, err)
	large := func(name string) *trace.ResourceSpans { return spans(name, strings.Repeat("x", maxRequest/2))[0] }
	taken := 0
	for e.Offer().Traces([]*trace.ResourceSpans{large("a")}) {
		taken += 2
	}
	require.Zero(t, e.Stats()["traces"].Dropped, "who offers comes back with it")
	require.False(t, e.Offer().Traces([]*trace.ResourceSpans{spans("first half")[0], large("b"), large("c")}), "the small part alone would fit")
	require.True(t, e.Offer().Traces(spans("fits")))
	require.False(t, e.Traces([]*trace.ResourceSpans{large("lost")}))
	require.Equal(t, Stats{Dropped: 2}, e.Stats()["traces"], "who sends does not come back")
	waiting := 0
	for b := e.traces.take(); b.items > 0; b = e.traces.take() {
		waiting += b.items
		require.NotContains(t, string(b.text), "first half")
	}
	require.Equal(t, taken+1, waiting)
}

// TestWaitsEncoded: what waits takes as much memory as it is counted with. A span without anything has 2 bytes, and over a hundred decoded.
func TestWaitsEncoded(t *testing.T) {
	e, err := New(Options{Endpoint: "http://127.0.0.1:1"})
	require.NoError(t, err)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 5 {
		require.True(t, e.Offer().Traces(spans(make([]string, 20_000)...)))
	}
	require.Less(t, heap(), before+4<<20)
	require.Equal(t, 100_000, e.traces.waiting[0].items*len(e.traces.waiting))
}

// TestNoText: a batch with what is no text spoils no other, and is counted.
func TestNoText(t *testing.T) {
	each(t, func(t *testing.T, r *receiver, o Options, _ *log) {
		e, stop := start(t, o)
		e.Traces(spans("\xff"))
		e.Traces(spans("a"))
		stop()
		require.Equal(t, []string{"a"}, r.spanNames())
		require.Equal(t, Stats{Sent: 1, Refused: 1}, e.Stats()["traces"])
	})
}

// TestFewRequests: what waits goes together, within what receivers take.
func TestFewRequests(t *testing.T) {
	each(t, func(t *testing.T, r *receiver, o Options, _ *log) {
		e, err := New(o)
		require.NoError(t, err)
		for n := range 3 * maxItems {
			e.Traces(spans(fmt.Sprint(n)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, e.Run(ctx))
		require.Len(t, r.spanNames(), 3*maxItems)
		require.Equal(t, 3, r.requests)
		require.Equal(t, "0", r.spans[0])
		require.Equal(t, fmt.Sprint(3*maxItems-1), r.spans[3*maxItems-1])
	})
}

func TestBadOptions(t *testing.T) {
	for endpoint, says := range map[string]string{
		"127.0.0.1:4317":               "no URL",
		"collector:4317":               "begin with http",
		"http://user:s3cret@collector": "Authorization",
		"http://collector/?key=s3cret": "query",
		"http://collector/path":        "path",
		"http://%zz":                   "no URL",
	} {
		_, err := New(Options{Endpoint: endpoint})
		require.ErrorContains(t, err, says, endpoint)
		require.NotContains(t, err.Error(), "s3cret")
	}
	_, err := New(Options{Endpoint: "http://collector", Protocol: "udp"})
	require.ErrorContains(t, err, "udp")
	_, err = New(Options{Endpoint: "https://collector", CAFile: t.TempDir() + "/none.pem"})
	require.ErrorContains(t, err, "none.pem")
}
