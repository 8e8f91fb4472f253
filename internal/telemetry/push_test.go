package telemetry

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/layover-dev/layover/internal/telemetry/otlp"
)

type metricSink struct {
	mu  sync.Mutex
	got []*metrics.ResourceMetrics
}

func (s *metricSink) Metrics(m []*metrics.ResourceMetrics) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, m...)
	return true
}

// pushed returns what is pushed of the collectors at once.
func pushed(t *testing.T, all ...prometheus.Collector) (*metricSink, map[string]*metrics.Metric) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(all...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var sink metricSink
	require.NoError(t, PushMetrics(ctx, registry, Source{Service: "layover-proxy", Process: "p-1", Name: "edge-1", Environment: "dev", Build: "1"}, &sink, time.Hour))
	byName := map[string]*metrics.Metric{}
	for _, r := range sink.got {
		for _, m := range r.GetScopeMetrics()[0].GetMetrics() {
			byName[m.GetName()] = m
		}
	}
	return &sink, byName
}

func TestPushMetrics(t *testing.T) {
	c := newCounted(0)
	r := request("cart@pr-1", 200)
	r.Recorded, r.TraceID, r.BytesIn = true, [16]byte{0xab}, 0
	c.Record(r)
	sink, byName := pushed(t, c.Requests)
	require.Subset(t, values(sink.got[0].GetResource().GetAttributes()), map[string]any{"service.name": "layover-proxy", "service.instance.id": "p-1", "layover.proxy": "edge-1", "layover.environment": "dev"})

	sum := byName["layover_requests_total"].GetSum()
	require.True(t, sum.GetIsMonotonic())
	point := sum.GetDataPoints()[0]
	require.InDelta(t, 1, point.GetAsDouble(), 0)
	require.Equal(t, map[string]any{"service": "cart", "version": "pr-1", "by": "baggage", "status": "2xx"}, values(point.GetAttributes()))
	require.Equal(t, r.TraceID[:], point.GetExemplars()[0].GetTraceId())
	require.NotZero(t, point.GetStartTimeUnixNano())

	duration := byName["layover_request_duration_seconds"].GetExponentialHistogram().GetDataPoints()[0]
	require.Equal(t, uint64(1), duration.GetCount(), "native histograms are exponential ones")
	require.InDelta(t, 0.03, duration.GetSum(), 1e-9)
	base := math.Exp2(math.Exp2(-float64(duration.GetScale())))
	require.Len(t, duration.GetPositive().GetBucketCounts(), 1)
	low := math.Pow(base, float64(duration.GetPositive().GetOffset()))
	require.Less(t, low, 0.03)
	require.Greater(t, low*base, 0.03)
	require.Equal(t, r.TraceID[:], duration.GetExemplars()[0].GetTraceId())

	empty := byName["layover_request_size_bytes"].GetExponentialHistogram().GetDataPoints()[0]
	require.Equal(t, uint64(1), empty.GetZeroCount())
	require.Nil(t, empty.GetPositive())
}

// TestPushMetrics_Kinds: each kind of metric arrives as what it is.
func TestPushMetrics_Kinds(t *testing.T) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "a_gauge"})
	gauge.Set(2.5)
	classic := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "a_classic", Buckets: []float64{1, 10}})
	native := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "a_native", NativeHistogramBucketFactor: 2})
	for _, value := range []float64{0.5, 5, 5, 50} {
		classic.Observe(value)
		native.Observe(value)
	}
	summary := prometheus.NewSummary(prometheus.SummaryOpts{Name: "a_summary", Objectives: map[float64]float64{0.5: 0.01}})
	summary.Observe(3)
	_, byName := pushed(t, gauge, classic, native, summary)
	require.InDelta(t, 2.5, byName["a_gauge"].GetGauge().GetDataPoints()[0].GetAsDouble(), 0)

	buckets := byName["a_classic"].GetHistogram().GetDataPoints()[0]
	require.Equal(t, []float64{1, 10}, buckets.GetExplicitBounds())
	require.Equal(t, []uint64{1, 2, 1}, buckets.GetBucketCounts())
	require.Equal(t, uint64(4), buckets.GetCount())

	exponential := byName["a_native"].GetExponentialHistogram().GetDataPoints()[0]
	require.Zero(t, exponential.GetScale())
	require.Equal(t, int32(-2), exponential.GetPositive().GetOffset(), "(0.25, 0.5]")
	require.Equal(t, []uint64{1, 0, 0, 0, 2, 0, 0, 1}, exponential.GetPositive().GetBucketCounts(), "with what lies between")

	quantile := byName["a_summary"].GetSummary().GetDataPoints()[0].GetQuantileValues()[0]
	require.InDelta(t, 3, quantile.GetValue(), 0)
}

// TestPushMetrics_InParts: as many series as there are, receivers take each request.
func TestPushMetrics_InParts(t *testing.T) {
	many := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "many"}, []string{"n"})
	for n := range 2*pushPoints + 1 {
		many.WithLabelValues(fmt.Sprint(n)).Set(1)
	}
	sink, _ := pushed(t, many)
	seen := map[any]bool{}
	require.Len(t, sink.got, 3)
	for _, r := range sink.got {
		points := r.GetScopeMetrics()[0].GetMetrics()[0].GetGauge().GetDataPoints()
		require.LessOrEqual(t, len(points), pushPoints)
		for _, p := range points {
			seen[values(p.GetAttributes())["n"]] = true
		}
	}
	require.Len(t, seen, 2*pushPoints+1)
}

func TestPushMetrics_AtAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "a_gauge"}))
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
		defer cancel()
		var sink metricSink
		require.NoError(t, PushMetrics(ctx, registry, Source{}, &sink, 10*time.Second))
		require.Len(t, sink.got, 4, "three times, and at the end")
	})
}

// metricReceiver is a real server of OTLP.
type metricReceiver struct {
	colmetrics.UnimplementedMetricsServiceServer
	got chan *colmetrics.ExportMetricsServiceRequest
}

func (r *metricReceiver) Export(_ context.Context, m *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	r.got <- m
	return &colmetrics.ExportMetricsServiceResponse{}, nil
}

// ServeHTTP is OTLP/HTTP.
func (r *metricReceiver) ServeHTTP(_ http.ResponseWriter, rq *http.Request) {
	m := &colmetrics.ExportMetricsServiceRequest{}
	body, err := gzip.NewReader(rq.Body)
	if err != nil {
		return
	}
	if text, err := io.ReadAll(body); err == nil && rq.URL.Path == "/v1/metrics" && proto.Unmarshal(text, m) == nil {
		r.got <- m
	}
}

// TestPushMetrics_Arrive: over both protocols, what is pushed is what a receiver reads.
func TestPushMetrics_Arrive(t *testing.T) {
	for _, protocol := range []string{otlp.GRPC, otlp.HTTP} {
		t.Run(protocol, func(t *testing.T) {
			receiver := &metricReceiver{got: make(chan *colmetrics.ExportMetricsServiceRequest, 1)}
			address := ""
			if protocol == otlp.HTTP {
				s := httptest.NewServer(receiver)
				t.Cleanup(s.Close)
				address = s.URL
			} else {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				s := grpc.NewServer()
				colmetrics.RegisterMetricsServiceServer(s, receiver)
				go func() { _ = s.Serve(l) }()
				t.Cleanup(s.Stop)
				address = "http://" + l.Addr().String()
			}
			exporter, err := otlp.New(otlp.Options{Endpoint: address, Protocol: protocol, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			c := newCounted(0)
			r := request("cart@pr-1", 200)
			r.Recorded, r.TraceID = true, [16]byte{0xab}
			c.Record(r)
			registry := prometheus.NewRegistry()
			registry.MustRegister(c.Requests)
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // what is there at the end is sent
			require.NoError(t, PushMetrics(ctx, registry, Source{Service: "layover-proxy"}, exporter, time.Hour))
			require.NoError(t, exporter.Run(ctx))
			select {
			case m := <-receiver.got:
				for _, one := range m.GetResourceMetrics()[0].GetScopeMetrics()[0].GetMetrics() {
					if one.GetName() == "layover_request_duration_seconds" {
						require.Equal(t, r.TraceID[:], one.GetExponentialHistogram().GetDataPoints()[0].GetExemplars()[0].GetTraceId())
						return
					}
				}
				t.Fatal("the histogram is missing")
			case <-time.After(20 * time.Second):
				t.Fatal("nothing arrives")
			}
		})
	}
}
