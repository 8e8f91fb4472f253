package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"golang.org/x/sync/errgroup"
)

// graceTime is how long calls in flight may go on after SIGTERM.
const graceTime = 5 * time.Second

// server is what the HTTP and the gRPC servers have in common.
type server interface {
	serve(ln net.Listener) error        // returns nil after a shutdown
	shutdown(ctx context.Context) error // lets calls in flight end, or cuts them off when ctx ends
}

// listen takes the port of an instance.
func listen(ctx context.Context, cfg config) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(cfg.host, cfg.port))
	if err != nil {
		return nil, fmt.Errorf("listen: %w (set PORT to a free port)", err)
	}
	return ln, nil
}

// serve runs the service on ln until ctx ends, and then ends it gracefully.
func serve(ctx context.Context, ln net.Listener, cfg config, log *slog.Logger) error {
	otel, err := newTelemetry(ctx, cfg)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	defer otel.close(log)
	others, err := newCaller(cfg, otel)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	defer others.close()

	srv := newServer(cfg, otel, others, log)
	log.InfoContext(ctx, "listening", "addr", ln.Addr().String())

	told := ctx.Done()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return srv.serve(ln) })
	group.Go(func() error {
		<-ctx.Done()
		select {
		case <-told:
			linger(ctx, cfg, log)
		default: // it cannot serve
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
		defer cancel()
		return srv.shutdown(grace)
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	log.InfoContext(ctx, "ended")
	return nil
}

// linger goes on serving for a while after SIGTERM: where nobody takes a service out of
// the load balancer before it is told to end, as with ECS on its own, requests still come.
func linger(ctx context.Context, cfg config, log *slog.Logger) {
	if cfg.stopDelay > 0 {
		log.InfoContext(ctx, "serving on because SHOP_STOP_DELAY is set", "delay", cfg.stopDelay)
		<-time.After(cfg.stopDelay)
	}
}

// newServer returns the server of the service that cfg names.
func newServer(cfg config, otel *telemetry, others *caller, log *slog.Logger) server {
	mux := http.NewServeMux()
	switch cfg.kind {
	case Inventory:
		return newInventoryServer(cfg, otel, log)
	case Storefront:
		front := &storefront{cfg: cfg, others: others}
		mux.Handle("GET /{$}", front.page(log))
		mux.Handle("GET /api/products", answering(front.answer, log))
	case Cart:
		mux.Handle("GET /cart", answering((&cart{cfg: cfg, others: others}).answer, log))
	case Pricing:
		mux.Handle("GET /prices", answering((&pricing{cfg: cfg, others: others}).answer, log))
	case Recommendations:
		mux.Handle("GET /recommendations", answering((&recommendations{cfg: cfg, others: others}).answer, log))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	traced := otelhttp.NewHandler(logging(mux, log), cfg.service,
		otelhttp.WithTracerProvider(otel.provider),
		otelhttp.WithPropagators(otel.incoming),
		otelhttp.WithFilter(func(r *http.Request) bool { return r.URL.Path != "/healthz" }))
	return &httpServer{&http.Server{Handler: traced, ReadHeaderTimeout: 10 * time.Second}}
}

// httpServer is the server of all services but the inventory.
type httpServer struct{ http *http.Server }

func (s *httpServer) serve(ln net.Listener) error {
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *httpServer) shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

// answering serves what answer returns as JSON, with status 502 where a call to
// another service failed.
func answering(answer func(context.Context) (Answer, error), log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, status := settle(r.Context(), answer, log)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(a); err != nil {
			log.WarnContext(r.Context(), "write answer", "err", err)
		}
	})
}

// settle calls answer, and turns an error into a part of the answer and a status.
func settle(ctx context.Context, answer func(context.Context) (Answer, error), log *slog.Logger) (Answer, int) {
	a, err := answer(ctx)
	a.TraceID = traceID(ctx)
	if err != nil {
		log.ErrorContext(ctx, "answer is not complete", "err", err)
		a.Error = err.Error()
		return a, http.StatusBadGateway
	}
	return a, http.StatusOK
}

// logging writes one line for each request but health checks.
func logging(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		start := time.Now()
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		log.InfoContext(r.Context(), "request",
			"method", r.Method, "path", r.URL.Path, "status", seen.status, "duration", time.Since(start))
	})
}

// statusWriter remembers the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader remembers status and passes it on.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap gives [http.ResponseController] the writer beneath.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
