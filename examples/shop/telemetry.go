package shop

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// telemetry is the OpenTelemetry set-up of one instance. It is handed to the
// instrumentation as a value, where most programs would set the global one: several
// services can so share a process, as they do in the tests.
type telemetry struct {
	provider *sdktrace.TracerProvider
	incoming propagation.TextMapPropagator // reads the context of requests
	outgoing propagation.TextMapPropagator // writes it into calls
}

// newTelemetry sets up tracing. Without a collector no span leaves the process,
// and trace context and baggage are propagated all the same.
func newTelemetry(ctx context.Context, cfg config) (*telemetry, error) {
	// WithFromEnv comes last: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", cfg.service),
			attribute.String("service.version", cfg.version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("read OpenTelemetry resource from the environment: %w", err)
	}
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if cfg.export {
		// HTTP_PROXY leads to Layover, which knows services and no collector: spans go directly.
		direct := func(*http.Request) (*url.URL, error) { return nil, nil } //nolint:nilnil // "no proxy" in the words of net/http
		exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithProxy(direct))
		if err != nil {
			return nil, fmt.Errorf("set up trace export: %w", err)
		}
		opts = append(opts, sdktrace.WithBatcher(exporter))
	}
	t := &telemetry{
		provider: sdktrace.NewTracerProvider(opts...),
		incoming: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
	t.outgoing = t.incoming
	if cfg.dropBaggage { // the common mistake: only the trace context is passed on
		t.outgoing = propagation.TraceContext{}
	}
	return t, nil
}

// close sends the spans that are left.
func (t *telemetry) close(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		log.WarnContext(ctx, "send last spans", "err", err)
	}
}
