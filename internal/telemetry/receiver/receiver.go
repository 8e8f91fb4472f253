// Package receiver takes in the telemetry that applications send, says of it which version it is from and which route its traces
// are on, and passes it on.
//
// It speaks OTLP over HTTP (protobuf and JSON) and over gRPC, on one listener (OpenTelemetry Protocol 1.x). For metrics, which
// have no baggage in any SDK, it is the only way to learn of a version.
package receiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

// InstanceHeader names the instance that sends, as service@version/ID: [InstanceValue]. Instances get it with their environment,
// in OTEL_EXPORTER_OTLP_HEADERS; those of one machine share an address.
const InstanceHeader = "layover-instance"

// InstanceValue is the value of [InstanceHeader].
func InstanceValue(service, version, id string) string { return service + "@" + version + "/" + id }

// Sink takes telemetry to send: all that it is given, or nothing where it has no room for all, as senders come back with it.
type Sink interface {
	Traces(spans []*trace.ResourceSpans) bool
	Metrics(m []*metrics.ResourceMetrics) bool
	Logs(l []*logs.ResourceLogs) bool
}

// Proxy is what the proxy knows of instances and traces.
type Proxy interface {
	// Caller returns the instance whose calls come from an address, and its version: cart@feature-1.
	Caller(from netip.Addr) (instance, version string, ok bool)
	// TraceRoute returns the only route that a trace was seen with lately; "" where there is none.
	TraceRoute(id proxy.TraceID) string
	// Table is what is in force.
	Table() *route.Table
	// HasTable says whether there has been one yet: before that nobody is known.
	HasTable() bool
}

// Options is what a receiver needs; Logger may be nil.
type Options struct {
	Environment string
	Proxy       Proxy
	Sink        Sink
	Memory      int64 // bytes that all requests together may take while they are read and decoded, at least MinMemory; 0 means DefaultMemory
	Logger      *slog.Logger
}

// With DefaultMemory there is room for a few of the largest requests, and for many of those that SDKs send.
const (
	DefaultMemory = 160 << 20
	MinMemory     = 32 << 20
)

// Receiver takes in telemetry.
type Receiver struct {
	options Options
	grpc    *grpc.Server
	handler http.Handler
	memory  *memory
	kinds   [3]kind
	retired atomic.Bool
}

// Bounds.
const (
	maxBody    = 4 << 20 // bytes of a request as it is sent, of both protocols
	maxPlain   = 4 << 20 // the same, decompressed
	maxStreams = 16      // calls of gRPC at a time, on a connection
)

// kind is one of traces, metrics and logs.
type kind struct {
	name     string
	service  string // of gRPC
	empty    func() proto.Message
	shape    *shape                            // of such a message
	fromJSON func(text []byte) ([]byte, error) // to protobuf
	answer   func() proto.Message
	take     func(r *Receiver, m proto.Message, from sender) bool

	stamped, unknown, refused atomic.Uint64
}

// Stats counts requests with telemetry, by its kind.
type Stats struct {
	Stamped uint64 // it is known from which version they are
	Unknown uint64 // it is not, and they were passed on as they were
	Refused uint64 // they could not be read, or there was no room for them
}

// New returns a receiver.
func New(o Options) *Receiver {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	r := &Receiver{options: o, memory: newMemory(cmp.Or(o.Memory, DefaultMemory))}
	r.kinds = [3]kind{
		{
			name: "traces", service: coltrace.TraceService_ServiceDesc.ServiceName,
			empty: func() proto.Message { return &coltrace.ExportTraceServiceRequest{} }, answer: func() proto.Message { return &coltrace.ExportTraceServiceResponse{} },
			fromJSON: func(text []byte) ([]byte, error) {
				m := ptraceotlp.NewExportRequest()
				return throughPdata(text, m.UnmarshalJSON, m.MarshalProto)
			},
			take: func(r *Receiver, m proto.Message, from sender) bool {
				return r.takeTraces(m.(*coltrace.ExportTraceServiceRequest).GetResourceSpans(), from) //nolint:forcetypeassert // empty makes it
			},
		},
		{
			name: "metrics", service: colmetrics.MetricsService_ServiceDesc.ServiceName,
			empty: func() proto.Message { return &colmetrics.ExportMetricsServiceRequest{} }, answer: func() proto.Message { return &colmetrics.ExportMetricsServiceResponse{} },
			fromJSON: func(text []byte) ([]byte, error) {
				m := pmetricotlp.NewExportRequest()
				return throughPdata(text, m.UnmarshalJSON, m.MarshalProto)
			},
			take: func(r *Receiver, m proto.Message, from sender) bool {
				return r.takeMetrics(m.(*colmetrics.ExportMetricsServiceRequest).GetResourceMetrics(), from) //nolint:forcetypeassert // likewise
			},
		},
		{
			name: "logs", service: collogs.LogsService_ServiceDesc.ServiceName,
			empty: func() proto.Message { return &collogs.ExportLogsServiceRequest{} }, answer: func() proto.Message { return &collogs.ExportLogsServiceResponse{} },
			fromJSON: func(text []byte) ([]byte, error) {
				m := plogotlp.NewExportRequest()
				return throughPdata(text, m.UnmarshalJSON, m.MarshalProto)
			},
			take: func(r *Receiver, m proto.Message, from sender) bool {
				return r.takeLogs(m.(*collogs.ExportLogsServiceRequest).GetResourceLogs(), from) //nolint:forcetypeassert // likewise
			},
		},
	}
	r.grpc = r.newGRPC()
	mux := http.NewServeMux()
	shapes := map[protoreflect.FullName]*shape{}
	for i := range r.kinds {
		r.kinds[i].shape = shapeOf(r.kinds[i].empty().ProtoReflect(), shapes)
		mux.HandleFunc("/v1/"+r.kinds[i].name, func(w http.ResponseWriter, rq *http.Request) { r.serve(w, rq, &r.kinds[i]) })
	}
	r.handler = http.HandlerFunc(func(w http.ResponseWriter, rq *http.Request) {
		if r.retired.Load() {
			w.Header().Set("Connection", "close") // in HTTP/2 it is GOAWAY
		}
		if rq.ProtoMajor == 2 && strings.HasPrefix(rq.Header.Get("Content-Type"), "application/grpc") {
			r.serveGRPC(w, rq)
			return
		}
		mux.ServeHTTP(w, rq)
	})
	return r
}

// Stats returns what came so far, by its kind.
func (r *Receiver) Stats() map[string]Stats {
	all := map[string]Stats{}
	for i := range r.kinds {
		k := &r.kinds[i]
		all[k.name] = Stats{Stamped: k.stamped.Load(), Unknown: k.unknown.Load(), Refused: k.refused.Load()}
	}
	return all
}

// Retire has senders come back over a new connection, which is accepted by who takes the place of this process: what still comes
// over the connections that they have is taken in, and answered with the request to close them.
func (r *Receiver) Retire() { r.retired.Store(true) }

// Memory returns how many bytes the requests take that are taken in now, at most.
func (r *Receiver) Memory() int64 { return r.memory.held.Load() }

// Run serves until ctx ends, and closes the listeners.
func (r *Receiver) Run(ctx context.Context, listeners ...net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: r.handler, Protocols: &protocols, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 64 << 10, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams}, ErrorLog: slog.NewLogLogger(r.options.Logger.Handler(), slog.LevelDebug),
	}
	var group errgroup.Group
	for _, l := range listeners {
		group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serve OTLP at %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	shut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(shut)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = server.Shutdown(last)
		_ = server.Close()
	})
	err := group.Wait()
	if !stop() {
		<-shut // what is being taken in still counts
	}
	r.grpc.Stop()
	return err
}

// sender is who sent telemetry; version is "" where that is not known.
type sender struct{ service, version, instance string }

// senderOf finds out who sends: by the address, where that is one instance's alone, else by what the instance says of itself. Nothing
// but telemetry depends on it, and no version is believed of a service that is not there.
func (r *Receiver) senderOf(address, header string) sender {
	if at, err := netip.ParseAddrPort(address); err == nil {
		if instance, id, ok := r.options.Proxy.Caller(at.Addr()); ok {
			service, version, _ := strings.Cut(id, "@")
			return sender{service, version, instance}
		}
	}
	id, instance, _ := strings.Cut(header, "/")
	service, version, _ := strings.Cut(id, "@")
	if route.CheckName("service", service) != nil || route.CheckName("version", version) != nil || len(instance) > 256 || r.options.Proxy.Table().Service(service) == nil {
		return sender{}
	}
	return sender{service, version, instance}
}
