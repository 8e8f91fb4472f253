package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/telemetry"
	"github.com/layover-dev/layover/internal/telemetry/otlp"
)

// openExporter makes what sends telemetry; nil where the file has no endpoint.
func openExporter(file *config.File, getenv func(string) string, log *slog.Logger) (*otlp.Exporter, error) {
	t := &file.Telemetry.OTLP
	if t.Endpoint == "" {
		return nil, nil //nolint:nilnil // nobody wants it
	}
	headers, err := otlpHeaders(file, getenv)
	if err != nil {
		return nil, err
	}
	exporter, err := otlp.New(otlp.Options{
		Endpoint: t.Endpoint, Protocol: t.Protocol, Headers: headers, CAFile: file.OTLPCAFile(), Logger: log,
	})
	if err != nil {
		return nil, telemetryError(err)
	}
	return exporter, nil
}

func telemetryError(err error) error {
	return &control.Error{Code: api.CodeInvalid, Message: "send telemetry: " + err.Error(), Hint: "see telemetry.otlp in layover.yaml", Err: err}
}

// otlpHeaders returns what reads the headers of telemetry, which have keys of vendors in them.
func otlpHeaders(file *config.File, getenv func(string) string) (func() (map[string]string, error), error) {
	t := &file.Telemetry.OTLP
	switch path := file.OTLPHeadersFile(); {
	case t.HeadersEnv != "":
		text := getenv(t.HeadersEnv)
		if text == "" {
			return nil, telemetryError(errors.New("the variable " + t.HeadersEnv + " has no headers"))
		}
		headers, err := parseHeaderList(text)
		if err != nil {
			return nil, telemetryError(fmt.Errorf("the variable %s: %w", t.HeadersEnv, err))
		}
		return func() (map[string]string, error) { return headers, nil }, nil
	case path != "":
		read := func() (map[string]string, error) {
			text, err := readSecret(path)
			if err != nil {
				return nil, err
			}
			headers, err := parseHeaderLines(string(text))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			return headers, nil
		}
		if _, err := read(); err != nil { // better now than with the first request
			return nil, telemetryError(err)
		}
		return read, nil
	}
	return nil, nil
}

// parseHeaderList reads headers as OTEL_EXPORTER_OTLP_HEADERS has them: name=value,name=value, with percent-encoded values
// (OpenTelemetry Protocol Exporter, "Specifying headers via environment variables"). An error does not quote them.
func parseHeaderList(text string) (map[string]string, error) {
	headers := map[string]string{}
	for i, pair := range strings.Split(text, ",") {
		name, value, found := strings.Cut(pair, "=")
		decoded, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || err != nil || !addHeader(headers, name, decoded) {
			return nil, fmt.Errorf("header %d is not name=value", i+1)
		}
	}
	return headers, nil
}

// parseHeaderLines reads headers of which each has a line, name: value. Empty lines and those with # at the beginning do not count.
func parseHeaderLines(text string) (map[string]string, error) {
	headers := map[string]string{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		if !found || !addHeader(headers, name, value) {
			return nil, fmt.Errorf("line %d is not name: value", n)
		}
	}
	return headers, nil
}

// addHeader says whether name and value are those of a header. gRPC wants names in lower case.
func addHeader(headers map[string]string, name, value string) bool {
	name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
	if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
		return false
	}
	headers[name] = value
	return true
}

// receipts finds the receipt of a trace: the store, or a server.
type receipts func(ctx context.Context, trace string) (api.Receipt, error)

// How an answer with a receipt waits for the proxies to tell of the requests that came of it.
const (
	receiptPause = 150 * time.Millisecond
	receiptCalm  = 3    // so many looks in a row find as much
	receiptBytes = 4096 // of the header field, about
)

// list waits until proxies have told of a trace, and returns its requests as the answer has them.
func (find receipts) list(ctx context.Context, id proxy.TraceID) string {
	var last api.Receipt
	for same := 0; same < receiptCalm; {
		select {
		case <-time.After(receiptPause):
		case <-ctx.Done():
			return listReceipt(last)
		}
		now, err := find(ctx, id.String())
		if same++; err == nil && now.Hops != last.Hops {
			same, last = 0, now
		}
	}
	return listReceipt(last)
}

// listReceipt writes the requests of a receipt below the one whose answer has it.
func listReceipt(r api.Receipt) string {
	var b strings.Builder
	left := r.Hops
	var write func(nodes []api.ReceiptNode, depth int)
	write = func(nodes []api.ReceiptNode, depth int) {
		for _, n := range nodes {
			if b.Len() > receiptBytes {
				return
			}
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			b.WriteString(n.ID())
			if n.Route != "" {
				b.WriteString("; route=" + url.PathEscape(n.Route))
			}
			b.WriteString("; by=" + n.By)
			if n.Fallback != "" {
				b.WriteString("; fallback=" + n.Fallback)
			}
			if n.Lost != "" {
				b.WriteString("; lost=" + url.PathEscape(n.Lost))
			}
			fmt.Fprintf(&b, "; depth=%d; status=%d", depth, n.Status)
			left--
			write(n.Calls, depth+1)
		}
	}
	write(r.Roots, 1)
	if left > 0 && b.Len() > 0 {
		fmt.Fprintf(&b, ", more=%d", left)
	}
	return b.String()
}

// openSpans makes what tells of requests as spans, and has the proxy sample them; nil where nobody wants them.
func openSpans(file *config.File, exporter *otlp.Exporter, source telemetry.Source, options *proxy.Options) *telemetry.Spans {
	if exporter == nil || !file.Telemetry.Sends(config.SignalTraces) {
		return nil
	}
	t := &file.Telemetry.Traces
	sampler := &telemetry.Sampler{Plain: t.Sample, Routed: t.SampleRouted}
	for _, r := range t.Routes {
		sampler.Routes = append(sampler.Routes, telemetry.RouteShare{Route: r.Route, Share: r.Sample})
	}
	options.Sample, options.FollowUntrusted = sampler.Share, t.Untrusted
	return telemetry.NewSpans(telemetry.SpanOptions{Source: source, Baggage: t.Baggage}, exporter)
}

// tellerOf is who tells of itself in this process: each process is another one, also where it takes the place of one with the same name.
func tellerOf(file *config.File, service, name string) telemetry.Source {
	return telemetry.Source{Service: service, Process: uuid.NewString(), Name: name, Environment: file.Environment, Build: build().Version}
}

// pushed is the part that sends what a registry has, where that is wanted; else none.
func pushed(file *config.File, exporter *otlp.Exporter, registry prometheus.Gatherer, source telemetry.Source) []func(context.Context) error {
	if exporter == nil || !file.Telemetry.Sends(config.SignalMetrics) {
		return nil
	}
	return []func(context.Context) error{func(ctx context.Context) error {
		return telemetry.PushMetrics(ctx, registry, source, exporter, time.Duration(file.Telemetry.Metrics.Every))
	}}
}

// runTelemetry runs the exporter, for as long as one of the parts has something to send, until ctx ends or one of all fails.
func runTelemetry(ctx context.Context, exporter func(context.Context) error, parts ...func(context.Context) error) error {
	making, ctx := errgroup.WithContext(ctx)
	sending, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	sent := make(chan error, 1)
	making.Go(func() error {
		go func() { sent <- exporter(sending) }()
		select {
		case err := <-sent:
			sent <- nil // it has ended
			return cmp.Or(err, errors.New("send telemetry: the exporter has ended"))
		case <-ctx.Done():
			return nil
		}
	})
	for _, part := range parts {
		making.Go(func() error { return part(ctx) })
	}
	err := making.Wait()
	end()
	return errors.Join(err, <-sent)
}
