// Package shop is a small real shop of five services, each of which may run in
// several versions at once:
//
//	storefront -> cart -> pricing -> inventory (gRPC)
//	storefront -> recommendations -> inventory (gRPC)
//
// The services know each other by host name only and reach each other through
// Layover's proxy. What selects a version is the W3C baggage of the request,
// which OpenTelemetry carries from hop to hop; no service knows about routes.
// Every answer tells which services and versions took part in it.
package shop

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// The names of the services; each is also its label in the environment's domain.
const (
	Storefront      = "storefront"
	Cart            = "cart"
	Pricing         = "pricing"
	Inventory       = "inventory"
	Recommendations = "recommendations"
)

// Services returns the names of all services, in the order a request meets them.
func Services() []string {
	return []string{Storefront, Cart, Pricing, Inventory, Recommendations}
}

// Exit codes of [Main].
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
	exitCrash = 3 // SHOP_CRASH was set
)

// Main runs the service that args names, `shop SERVICE`, until SIGTERM or an
// interrupt, and returns the exit code: 0 after a graceful end, 1 where the
// service could not run, 2 for wrong usage or settings, 3 where SHOP_CRASH told
// it to crash. Settings come from the environment (see the README); the log goes
// to stdout, and what a person did wrong to stderr.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) != 1 || !slices.Contains(Services(), args[0]) {
		say(stderr, "usage: shop SERVICE, where SERVICE is one of %s", strings.Join(Services(), ", "))
		return exitUsage
	}
	cfg, err := readConfig(args[0], os.Getenv)
	if err != nil {
		say(stderr, "shop %s: %v", args[0], err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	log := newLogger(stdout, cfg)
	if cfg.crash {
		log.ErrorContext(ctx, "crashing because SHOP_CRASH is set")
		return exitCrash
	}
	if err := run(ctx, cfg, log); err != nil {
		log.ErrorContext(ctx, "service ended", "err", err)
		return exitError
	}
	return exitOK
}

// run waits for the start delay, listens, and serves until ctx ends.
func run(ctx context.Context, cfg config, log *slog.Logger) error {
	if cfg.startDelay > 0 {
		log.InfoContext(ctx, "waiting because SHOP_START_DELAY is set", "delay", cfg.startDelay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(cfg.startDelay):
		}
	}
	ln, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	return serve(ctx, ln, cfg, log)
}

// newLogger returns a logger whose lines name the service, the version and,
// inside a request, the trace.
func newLogger(w io.Writer, cfg config) *slog.Logger {
	return slog.New(traceHandler{slog.NewTextHandler(w, nil)}).With("service", cfg.service, "version", cfg.version)
}

// traceHandler adds the id of the current trace to every line.
type traceHandler struct{ slog.Handler }

// Handle adds the trace id and passes the record on.
func (h traceHandler) Handle(ctx context.Context, record slog.Record) error {
	if id := traceID(ctx); id != "" {
		record.AddAttrs(slog.String("trace_id", id))
	}
	return h.Handler.Handle(ctx, record)
}

// WithAttrs keeps the trace id on derived loggers.
func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the trace id on derived loggers.
func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}

// traceID returns the id of the trace that ctx belongs to, or "".
func traceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		return span.TraceID().String()
	}
	return ""
}

// say writes one line for a person. An error is ignored: there is nowhere left to report it.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}
