// Package otlp sends telemetry to one receiver of OTLP: a Collector, Jaeger, or the intake of a vendor
// (OpenTelemetry Protocol 1.x, https://opentelemetry.io/docs/specs/otlp/).
//
// What is to be sent waits in bounded memory, and nobody waits for it: what finds no room is dropped and counted,
// and so is what the receiver does not take.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// The protocols of [Options].
const (
	GRPC = "grpc"
	HTTP = "http" // with protobuf
)

// Options says where telemetry goes.
type Options struct {
	Endpoint string // http:// or https:// with host and port; with HTTP, /v1/traces and the like is put behind its path
	Protocol string // GRPC, or HTTP; "" means GRPC

	// Headers are sent with each request, such as the key of a vendor. It is called for each, so that one that is replaced
	// counts. Nil means none.
	Headers func() (map[string]string, error)

	CAFile string // PEM file with the certificates of authorities to trust; "" means those of the system
	Logger *slog.Logger
}

// Exporter sends telemetry. It is safe for concurrent use.
type Exporter struct {
	traces  *pipe[*trace.ResourceSpans]
	metrics *pipe[*metrics.ResourceMetrics]
	logs    *pipe[*logs.ResourceLogs]
	by      transport
}

// Stats counts spans, data points or lines since the start.
type Stats struct {
	Sent    int64 // the receiver took them
	Dropped int64 // they found no room, as the receiver was slow or away
	Refused int64 // the receiver did not take them, or could not be reached for five minutes
}

// Bounds of what waits, for each kind of telemetry.
const (
	maxWaiting  = 32 << 20        // bytes
	maxItems    = 4000            // in a request, about; a batch that is larger by itself is sent whole
	maxRequest  = 3 << 20         // bytes of a request, about: receivers take 4 MiB
	giveUpAfter = 5 * time.Minute // for one request, however often it is tried
	flushFor    = 5 * time.Second // at the end
	timeout     = 10 * time.Second
)

// New returns an exporter. Nothing is sent, and nobody connected to, before [Exporter.Run]. It fails where the endpoint is no
// URL, or the file of authorities cannot be used.
func New(o Options) (*Exporter, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	at, err := CheckEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	var by transport
	switch o.Protocol {
	case GRPC, "":
		by, err = newGRPC(at, &o)
	case HTTP:
		by, err = newHTTP(at, &o)
	default:
		err = fmt.Errorf("%q is no protocol of OTLP: it is grpc or http", o.Protocol)
	}
	if err != nil {
		return nil, err
	}
	told := &teller{log: o.Logger, endpoint: at.Redacted()}
	return &Exporter{
		traces: newPipe(by, told, kind[*trace.ResourceSpans]{
			name: "traces", method: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
			count: countSpans,
			request: func(all []*trace.ResourceSpans) proto.Message {
				return &coltrace.ExportTraceServiceRequest{ResourceSpans: all}
			},
			answer: func() answer {
				m := &coltrace.ExportTraceServiceResponse{}
				return answer{m, func() (int64, string) {
					return m.GetPartialSuccess().GetRejectedSpans(), m.GetPartialSuccess().GetErrorMessage()
				}}
			},
		}),
		metrics: newPipe(by, told, kind[*metrics.ResourceMetrics]{
			name: "metrics", method: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
			count: countPoints,
			request: func(all []*metrics.ResourceMetrics) proto.Message {
				return &colmetrics.ExportMetricsServiceRequest{ResourceMetrics: all}
			},
			answer: func() answer {
				m := &colmetrics.ExportMetricsServiceResponse{}
				return answer{m, func() (int64, string) {
					return m.GetPartialSuccess().GetRejectedDataPoints(), m.GetPartialSuccess().GetErrorMessage()
				}}
			},
		}),
		logs: newPipe(by, told, kind[*logs.ResourceLogs]{
			name: "logs", method: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
			count: countLines,
			request: func(all []*logs.ResourceLogs) proto.Message {
				return &collogs.ExportLogsServiceRequest{ResourceLogs: all}
			},
			answer: func() answer {
				m := &collogs.ExportLogsServiceResponse{}
				return answer{m, func() (int64, string) {
					return m.GetPartialSuccess().GetRejectedLogRecords(), m.GetPartialSuccess().GetErrorMessage()
				}}
			},
		}),
		by: by,
	}, nil
}

// CheckEndpoint parses the URL of a receiver.
func CheckEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil: // it quotes the text, which may have a password
		return nil, errors.New("the endpoint is no URL: write one such as http://127.0.0.1:4317")
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, errors.New("the endpoint has to begin with http:// or https://, and name a host")
	case u.User != nil:
		return nil, errors.New("the endpoint has a user in it: send Authorization as a header instead")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the endpoint has a query or fragment, which nobody would read")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// Traces sends spans, some time. It returns false where they were dropped: nobody is to come back with them. None is kept by it.
func (e *Exporter) Traces(spans []*trace.ResourceSpans) bool { return e.traces.add(spans) }

// Metrics does so with metrics.
func (e *Exporter) Metrics(m []*metrics.ResourceMetrics) bool { return e.metrics.add(m) }

// Logs does so with logs.
func (e *Exporter) Logs(l []*logs.ResourceLogs) bool { return e.logs.add(l) }

// Offer is the exporter for those who come back with what it has no room for: that is not lost, and not counted.
func (e *Exporter) Offer() Offer { return Offer{e} }

// Offer takes all that it is given, or nothing of it.
type Offer struct{ e *Exporter }

// Traces sends spans, some time. It returns false where there was no room for them.
func (o Offer) Traces(spans []*trace.ResourceSpans) bool { return o.e.traces.offer(spans) }

// Metrics does so with metrics.
func (o Offer) Metrics(m []*metrics.ResourceMetrics) bool { return o.e.metrics.offer(m) }

// Logs does so with logs.
func (o Offer) Logs(l []*logs.ResourceLogs) bool { return o.e.logs.offer(l) }

// Stats returns what became of telemetry, by its kind: traces, metrics, logs.
func (e *Exporter) Stats() map[string]Stats {
	return map[string]Stats{"traces": e.traces.stats(), "metrics": e.metrics.stats(), "logs": e.logs.stats()}
}

// Run sends until ctx ends, and then for a few seconds what is left.
func (e *Exporter) Run(ctx context.Context) error {
	if err := e.by.open(); err != nil {
		return err
	}
	var all errgroup.Group
	all.Go(func() error { return e.traces.run(ctx) })
	all.Go(func() error { return e.metrics.run(ctx) })
	all.Go(func() error { return e.logs.run(ctx) })
	return errors.Join(all.Wait(), e.by.close())
}

func countSpans(r *trace.ResourceSpans) (n int) {
	for _, s := range r.GetScopeSpans() {
		n += len(s.GetSpans())
	}
	return n
}

func countLines(r *logs.ResourceLogs) (n int) {
	for _, s := range r.GetScopeLogs() {
		n += len(s.GetLogRecords())
	}
	return n
}

func countPoints(r *metrics.ResourceMetrics) (n int) {
	for _, s := range r.GetScopeMetrics() {
		for _, m := range s.GetMetrics() {
			n += len(m.GetGauge().GetDataPoints()) + len(m.GetSum().GetDataPoints()) + len(m.GetHistogram().GetDataPoints()) +
				len(m.GetExponentialHistogram().GetDataPoints()) + len(m.GetSummary().GetDataPoints())
		}
	}
	return n
}
