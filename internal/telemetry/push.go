package telemetry

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"
)

// MetricSink takes metrics to send, and says whether it had room for them.
type MetricSink interface {
	Metrics(m []*metrics.ResourceMetrics) bool
}

// Source names who sends metrics: the attributes of the resource.
type Source struct {
	Service     string // "layover-proxy" or "layover-server"
	Instance    string
	Environment string
	Build       string
}

// PushMetrics hands what a registry has to a sink, at an interval, and once more when ctx ends. The exporter of the SDK turns
// Prometheus's metrics into those of OTLP, native histograms into exponential ones; the sink's way of sending is that of traces
// and logs.
func PushMetrics(ctx context.Context, from prometheus.Gatherer, source Source, sink MetricSink, every time.Duration) error {
	exporter, err := otlpmetrichttp.New(ctx,
		otlpmetrichttp.WithEndpointURL("http://sink.invalid/"), otlpmetrichttp.WithHTTPClient(&http.Client{Transport: toSink{sink}}),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{}), otlpmetrichttp.WithCompression(otlpmetrichttp.NoCompression))
	if err != nil {
		return fmt.Errorf("push metrics: %w", err)
	}
	provider := metric.NewMeterProvider(
		metric.WithReader(metric.NewPeriodicReader(exporter, metric.WithInterval(every), metric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(from))))),
		metric.WithResource(resource.NewSchemaless(
			attribute.String("service.name", source.Service), attribute.String("service.instance.id", source.Instance),
			attribute.String("service.version", source.Build), attribute.String("deployment.environment.name", source.Environment),
			attribute.String("layover.environment", source.Environment),
		)))
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return provider.Shutdown(last)
}

// toSink is where the SDK's exporter sends its requests.
type toSink struct{ sink MetricSink }

// RoundTrip implements [http.RoundTripper].
func (t toSink) RoundTrip(r *http.Request) (*http.Response, error) {
	defer func() { _ = r.Body.Close() }()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var m colmetrics.ExportMetricsServiceRequest
	if err := proto.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	for _, r := range m.GetResourceMetrics() {
		for _, s := range r.GetScopeMetrics() {
			for _, one := range s.GetMetrics() {
				for _, p := range one.GetSum().GetDataPoints() {
					mendExemplars(p.GetExemplars())
				}
				for _, p := range one.GetHistogram().GetDataPoints() {
					mendExemplars(p.GetExemplars())
				}
			}
		}
	}
	if !t.sink.Metrics(m.GetResourceMetrics()) {
		return nil, errors.New("the queue of metrics is full")
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: io.NopCloser(&bytes.Buffer{}), Request: r}, nil
}

// mendExemplars turns trace ids from the digits that the bridge takes over into the bytes that they stand for: receivers refuse
// those that are not 16.
func mendExemplars(all []*metrics.Exemplar) {
	for _, e := range all {
		if id, err := hex.DecodeString(string(e.GetTraceId())); err == nil && len(id) == 16 {
			e.TraceId = id
		}
	}
}
