package receiver

import (
	"context"
	"strings"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // what clients may compress with
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// newGRPC returns the services of OTLP/gRPC.
func (r *Receiver) newGRPC() *grpc.Server {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxBody))
	coltrace.RegisterTraceServiceServer(s, traceService{r: r})
	colmetrics.RegisterMetricsServiceServer(s, metricsService{r: r})
	collogs.RegisterLogsServiceServer(s, logsService{r: r})
	return s
}

// takeCall takes in what a call brought.
func (r *Receiver) takeCall(ctx context.Context, k *kind, m proto.Message) error {
	address := ""
	if p, ok := peer.FromContext(ctx); ok {
		address = p.Addr.String()
	}
	said, _ := metadata.FromIncomingContext(ctx)
	p := r.accept(k, m, address, strings.Join(said.Get(InstanceHeader), ","))
	if p == nil {
		return nil
	}
	k.refused.Add(1)
	s := status.New(p.code, p.text)
	if p.code == codes.Unavailable {
		if detailed, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}); err == nil {
			s = detailed
		}
	}
	return s.Err()
}

type traceService struct {
	coltrace.UnimplementedTraceServiceServer
	r *Receiver
}

// Export takes in spans.
func (s traceService) Export(ctx context.Context, m *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	return &coltrace.ExportTraceServiceResponse{}, s.r.takeCall(ctx, &s.r.kinds[0], m)
}

type metricsService struct {
	colmetrics.UnimplementedMetricsServiceServer
	r *Receiver
}

// Export takes in metrics.
func (s metricsService) Export(ctx context.Context, m *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	return &colmetrics.ExportMetricsServiceResponse{}, s.r.takeCall(ctx, &s.r.kinds[1], m)
}

type logsService struct {
	collogs.UnimplementedLogsServiceServer
	r *Receiver
}

// Export takes in logs.
func (s logsService) Export(ctx context.Context, m *collogs.ExportLogsServiceRequest) (*collogs.ExportLogsServiceResponse, error) {
	return &collogs.ExportLogsServiceResponse{}, s.r.takeCall(ctx, &s.r.kinds[2], m)
}
