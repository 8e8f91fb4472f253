package shop

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc/filters"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/layover-dev/layover/examples/shop/inventorypb"
)

// inventory knows what is in stock. It speaks gRPC, over HTTP/2 without TLS.
type inventory struct {
	inventorypb.UnimplementedInventoryServer
	id string
}

// GetStock implements [inventorypb.InventoryServer].
func (i *inventory) GetStock(ctx context.Context, req *inventorypb.GetStockRequest) (*inventorypb.GetStockResponse, error) {
	shelf := map[string]int32{"espresso": 120, "pillow": 14, "postcard": 36, "suitcase": 3}
	resp := &inventorypb.GetStockResponse{ServedBy: i.id, TraceId: traceID(ctx)}
	for _, id := range req.GetProductIds() {
		resp.Levels = append(resp.Levels, &inventorypb.StockLevel{ProductId: id, Quantity: shelf[id]})
	}
	return resp, nil
}

// inventoryServer is the server of the inventory.
type inventoryServer struct {
	grpc   *grpc.Server
	health *health.Server
}

// newInventoryServer returns a gRPC server with the inventory and gRPC's health service.
func newInventoryServer(cfg config, otel *telemetry, log *slog.Logger) *inventoryServer {
	s := &inventoryServer{health: health.NewServer()}
	s.grpc = grpc.NewServer(
		grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(otel.provider),
			otelgrpc.WithPropagators(otel.incoming),
			otelgrpc.WithFilter(filters.Not(filters.HealthCheck())))),
		grpc.UnaryInterceptor(loggingCalls(log)))
	inventorypb.RegisterInventoryServer(s.grpc, &inventory{id: cfg.id()})
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	return s
}

func (s *inventoryServer) serve(ln net.Listener) error {
	if err := s.grpc.Serve(ln); !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
		return err
	}
	return nil
}

func (s *inventoryServer) shutdown(ctx context.Context) error {
	s.health.Shutdown() // says "not serving" to those who watch
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	s.grpc.GracefulStop()
	return nil
}

// loggingCalls writes one line for each call but health checks.
func loggingCalls(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		start := time.Now()
		resp, err := next(ctx, req)
		if info.FullMethod != grpc_health_v1.Health_Check_FullMethodName {
			log.InfoContext(ctx, "request",
				"method", info.FullMethod, "status", status.Code(err).String(), "duration", time.Since(start))
		}
		return resp, err
	}
}
