package receiver

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	sdkresource "go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/telemetry/otlp"
)

// known is what a proxy knows: one instance by its address, and one trace.
type known struct {
	table   *route.Table
	from    string // address of instance i-7 of cart@pr-1
	trace   atomic.Pointer[proxy.TraceID]
	ofTrace string
	noTable atomic.Bool
}

func (k *known) Table() *route.Table { return k.table }

func (k *known) HasTable() bool { return !k.noTable.Load() }

func (k *known) Caller(from netip.Addr) (instance, version string, ok bool) {
	return "i-7", "cart@pr-1", from.String() == k.from
}

func (k *known) TraceRoute(id proxy.TraceID) string {
	if want := k.trace.Load(); want != nil && *want == id {
		return k.ofTrace
	}
	return ""
}

// kept is a sink that keeps what it gets, or has no room.
type kept struct {
	mu      sync.Mutex
	full    bool
	spans   []*trace.ResourceSpans
	metrics []*metrics.ResourceMetrics
	logs    []*logs.ResourceLogs
}

func (k *kept) Traces(all []*trace.ResourceSpans) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spans = append(k.spans, all...)
	return !k.full
}

func (k *kept) Metrics(all []*metrics.ResourceMetrics) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.metrics = append(k.metrics, all...)
	return !k.full
}

func (k *kept) Logs(all []*logs.ResourceLogs) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.logs = append(k.logs, all...)
	return !k.full
}

func (k *kept) resources() (all []*resource.Resource) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.spans {
		all = append(all, r.GetResource())
	}
	for _, r := range k.metrics {
		all = append(all, r.GetResource())
	}
	for _, r := range k.logs {
		all = append(all, r.GetResource())
	}
	return all
}

func texts(list []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		if v, ok := kv.GetValue().GetValue().(*common.AnyValue_StringValue); ok {
			out[kv.GetKey()] = v.StringValue
		}
	}
	return out
}

// scene is a receiver on a real socket.
type scene struct {
	*Receiver
	proxy *known
	sink  *kept
	addr  string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	table, err := route.Compile(route.Spec{Services: []route.Service{{Name: "cart", Versions: []route.Version{{Name: "main", State: route.Starting}}}}})
	require.NoError(t, err)
	s := &scene{proxy: &known{table: table, ofTrace: "pr-1"}, sink: &kept{}}
	s.Receiver = New(Options{Environment: "dev", Proxy: s.proxy, Sink: s.sink, Logger: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return s
}

// TestSDKs: what the SDK of OpenTelemetry sends with the environment of an instance names its version, over both protocols.
func TestSDKs(t *testing.T) {
	s := newScene(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+s.addr)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", InstanceHeader+"="+InstanceValue("cart", "pr-1", "i-9"))
	byHTTP, err := otlptracehttp.New(t.Context(), otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	require.NoError(t, err)
	byGRPC, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithCompressor("gzip"))
	require.NoError(t, err)
	for name, exporter := range map[string]sdktrace.SpanExporter{"http": byHTTP, "grpc": byGRPC} {
		t.Run(name, func(t *testing.T) {
			provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithResource(sdkresource.NewSchemaless(
				attribute.String("service.name", "cart"), attribute.String("layover.version", "main"), attribute.String("layover.service", "payment"))))
			_, span := provider.Tracer("test").Start(t.Context(), "work")
			id := proxy.TraceID(span.SpanContext().TraceID())
			s.proxy.trace.Store(&id)
			span.End()
			_, other := provider.Tracer("test").Start(t.Context(), "of no route")
			other.End()
			require.NoError(t, provider.Shutdown(t.Context()))

			s.sink.mu.Lock()
			defer s.sink.mu.Unlock()
			require.Len(t, s.sink.spans, 2)
			require.Equal(t, map[string]string{
				"service.name": "cart", "layover.environment": "dev", "layover.service": "cart", "layover.version": "pr-1", "layover.instance": "i-9",
			}, texts(s.sink.spans[0].GetResource().GetAttributes()), "what is false is replaced")
			require.Equal(t, "pr-1", texts(s.sink.spans[0].GetScopeSpans()[0].GetSpans()[0].GetAttributes())["layover.route"])
			require.NotContains(t, texts(s.sink.spans[1].GetScopeSpans()[0].GetSpans()[0].GetAttributes()), "layover.route")
			s.sink.spans = nil
		})
	}
	t.Run("metrics", func(t *testing.T) {
		exporter, err := otlpmetrichttp.New(t.Context())
		require.NoError(t, err)
		provider := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(exporter)))
		counter, err := provider.Meter("test").Int64Counter("orders")
		require.NoError(t, err)
		counter.Add(t.Context(), 3)
		require.NoError(t, provider.Shutdown(t.Context()))
		require.Equal(t, "pr-1", texts(s.sink.metrics[0].GetResource().GetAttributes())["layover.version"])
	})
	require.Equal(t, map[string]Stats{"traces": {Stamped: 4}, "metrics": {Stamped: 1}, "logs": {}}, s.Stats())
}

func (s *scene) post(t *testing.T, kind, contentType string, body []byte, fields ...string) (*http.Response, []byte) {
	t.Helper()
	rq, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.addr+"/v1/"+kind, bytes.NewReader(body))
	require.NoError(t, err)
	rq.Header.Set("Content-Type", contentType)
	for i := 0; i < len(fields); i += 2 {
		rq.Header.Set(fields[i], fields[i+1])
	}
	res, err := http.DefaultClient.Do(rq)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, text
}

// TestJSON: as browsers send it, with ids in hex.
func TestJSON(t *testing.T) {
	s := newScene(t)
	id := proxy.TraceID{0x4b, 0xf9}
	s.proxy.trace.Store(&id)
	res, text := s.post(t, "logs", "application/json; charset=utf-8", []byte(`{"resourceLogs":[{"resource":{},"scopeLogs":[{"logRecords":[
		{"traceId":"4bf90000000000000000000000000000","body":{"stringValue":"hello"}}]}]}]}`), InstanceHeader, "cart@pr-1/i-9")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "application/json", res.Header.Get("Content-Type"))
	require.JSONEq(t, "{}", string(text))
	line := s.sink.logs[0].GetScopeLogs()[0].GetLogRecords()[0]
	require.Equal(t, id[:], line.GetTraceId())
	require.Equal(t, "pr-1", texts(line.GetAttributes())["layover.route"])

	res, text = s.post(t, "logs", "application/json", []byte(`{"resourceLogs":7}`))
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	require.Contains(t, string(text), "not OTLP as JSON")
}

// TestWhoSends: the address says it best, then the instance itself, of a service that is there. Else nothing is made up.
func TestWhoSends(t *testing.T) {
	for name, c := range map[string]struct {
		from, header, want string
	}{
		"address":               {"127.0.0.1", "", "pr-1 i-7"},
		"address before header": {"127.0.0.1", "cart@main/i-1", "pr-1 i-7"},
		"header":                {"10.0.0.1", "cart@main/i-1", "main i-1"},
		"a service that is not": {"10.0.0.1", "payment@main/i-1", "said "},
		"no version":            {"10.0.0.1", "cart", "said "},
		"no name":               {"10.0.0.1", "cart@../i", "said "},
		"nothing":               {"10.0.0.1", "", "said "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.proxy.from = c.from
			body, err := proto.Marshal(&coltrace.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
				Resource:   &resource.Resource{Attributes: []*common.KeyValue{stringOf("layover.version", "said")}},
				ScopeSpans: []*trace.ScopeSpans{{Spans: []*trace.Span{{Name: "x"}}}},
			}}})
			require.NoError(t, err)
			res, _ := s.post(t, "traces", "application/x-protobuf", body, InstanceHeader, c.header)
			require.Equal(t, http.StatusOK, res.StatusCode)
			got := texts(s.sink.resources()[0].GetAttributes())
			require.Equal(t, c.want, got["layover.version"]+" "+got["layover.instance"])
			require.Equal(t, strings.HasPrefix(c.want, "said"), s.Stats()["traces"].Unknown == 1)
		})
	}
}

func TestRefused(t *testing.T) {
	s := newScene(t)
	large := make([]byte, maxBody+1)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, maxPlain+1))
	require.NoError(t, z.Close())
	for name, c := range map[string]struct {
		kind, contentType string
		body              []byte
		encoding          string
		status            int
		says              string
	}{
		"another form":      {"traces", "text/plain", nil, "", http.StatusUnsupportedMediaType, "application/x-protobuf"},
		"another packing":   {"traces", protobuf, nil, "br", http.StatusUnsupportedMediaType, "gzip"},
		"not protobuf":      {"traces", protobuf, []byte("hello"), "", http.StatusBadRequest, "not OTLP as protobuf"},
		"not gzip":          {"metrics", protobuf, []byte("hello"), "gzip", http.StatusBadRequest, "not gzip"},
		"too large":         {"logs", protobuf, large, "", http.StatusRequestEntityTooLarge, "smaller batches"},
		"too large, packed": {"logs", protobuf, bomb.Bytes(), "gzip", http.StatusRequestEntityTooLarge, "smaller batches"},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.Stats()[c.kind].Refused
			res, text := s.post(t, c.kind, c.contentType, c.body, "Content-Encoding", c.encoding)
			require.Equal(t, c.status, res.StatusCode)
			var status rpcstatus.Status
			require.NoError(t, proto.Unmarshal(text, &status))
			require.Contains(t, status.GetMessage(), c.says)
			require.Equal(t, before+1, s.Stats()[c.kind].Refused)
		})
	}
	require.Empty(t, s.sink.resources())
	res, err := http.Get("http://" + s.addr + "/v1/traces")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusUnsupportedMediaType, res.StatusCode)
}

// TestNoRoom: who sends learns that it has to try again, over both protocols.
func TestNoRoom(t *testing.T) {
	s := newScene(t)
	s.sink.full = true
	res, _ := s.post(t, "traces", protobuf, nil)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))

	exporter, err := otlp.New(otlp.Options{Endpoint: "http://" + s.addr, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	exporter.Logs([]*logs.ResourceLogs{{ScopeLogs: []*logs.ScopeLogs{{LogRecords: []*logs.LogRecord{{}}}}}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- exporter.Run(ctx) }()
	require.Eventually(t, func() bool { return s.Stats()["logs"].Refused == 1 }, 10*time.Second, time.Millisecond)
	s.sink.mu.Lock()
	s.sink.full, s.sink.logs = false, nil
	s.sink.mu.Unlock()
	require.Eventually(t, func() bool { return exporter.Stats()["logs"].Sent == 1 }, 10*time.Second, time.Millisecond, "it is sent again after a second, as was asked for")
	cancel()
	require.NoError(t, <-done)
	require.Len(t, s.sink.logs, 1)
}

// TestNoTable: who is not known yet is told to try again, and what it sends does not go on without its version.
func TestNoTable(t *testing.T) {
	s := newScene(t)
	s.proxy.noTable.Store(true)
	one := []*trace.ResourceSpans{{ScopeSpans: []*trace.ScopeSpans{{Spans: []*trace.Span{{Name: "x"}}}}}}
	body, err := proto.Marshal(&coltrace.ExportTraceServiceRequest{ResourceSpans: one})
	require.NoError(t, err)
	res, text := s.post(t, "traces", protobuf, body, InstanceHeader, "cart@pr-1/i-9")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
	require.Contains(t, string(text), "no table")

	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	client := coltrace.NewTraceServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), InstanceHeader, "cart@pr-1/i-9")
	_, err = client.Export(ctx, &coltrace.ExportTraceServiceRequest{ResourceSpans: one})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Equal(t, time.Second, status.Convert(err).Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration())
	require.Empty(t, s.sink.resources())

	s.proxy.noTable.Store(false)
	_, err = client.Export(ctx, &coltrace.ExportTraceServiceRequest{ResourceSpans: one})
	require.NoError(t, err)
	require.Equal(t, "pr-1", texts(s.sink.resources()[0].GetAttributes())["layover.version"])
}

// TestRetire: what comes over connections that are there is taken in, and senders come back over new ones.
func TestRetire(t *testing.T) {
	s := newScene(t)
	var dialed atomic.Int32
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	byHTTP := &http.Client{Transport: &http.Transport{DialContext: dial}}
	t.Cleanup(byHTTP.CloseIdleConnections)
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	for name, send := range map[string]func(){
		"http": func() {
			res, err := byHTTP.Post("http://"+s.addr+"/v1/traces", protobuf, http.NoBody)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusOK, res.StatusCode)
		},
		"grpc": func() {
			_, err := coltrace.NewTraceServiceClient(conn).Export(t.Context(), &coltrace.ExportTraceServiceRequest{}, grpc.WaitForReady(true))
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.retired.Store(false)
			dialed.Store(0)
			send()
			send()
			require.EqualValues(t, 1, dialed.Load())
			s.Retire()
			send()
			require.EqualValues(t, 1, dialed.Load(), "what comes over the connection that is there is taken in")
			require.Eventually(t, func() bool { send(); return dialed.Load() > 1 }, 10*time.Second, time.Millisecond, "then another is made")
		})
	}
}

func FuzzReceiver(f *testing.F) {
	body, _ := proto.Marshal(&coltrace.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{ScopeSpans: []*trace.ScopeSpans{{Spans: []*trace.Span{{TraceId: make([]byte, 16)}}}}}}})
	f.Add(body, "cart@pr-1/i", false)
	f.Add([]byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"4bf90000000000000000000000000000"}]}]}]}`), "x", true)
	table, err := route.Compile(route.Spec{Services: []route.Service{{Name: "cart"}}})
	require.NoError(f, err)
	r := New(Options{Proxy: &known{table: table, ofTrace: "pr-1"}, Sink: &kept{}, Logger: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, body []byte, instance string, isJSON bool) {
		for i := range r.kinds {
			k := &r.kinds[i]
			text := body
			if isJSON {
				var err error
				if text, err = k.fromJSON(body); err != nil {
					continue
				}
			}
			m := k.empty()
			if proto.Unmarshal(text, m) != nil {
				continue
			}
			require.Nil(t, r.accept(k, m, "10.0.0.1:1", instance))
			_, err := proto.Marshal(m)
			require.NoError(t, err)
		}
	})
}
