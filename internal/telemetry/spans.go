package telemetry

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/baggage"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/layover-dev/layover/internal/proxy"
)

// TraceSink takes spans to send, and says whether it had room for them.
type TraceSink interface {
	Traces(spans []*trace.ResourceSpans) bool
}

// SpanOptions says of what spans tell.
type SpanOptions struct {
	Source  Source
	Baggage []string // keys of members that become attributes
}

// Spans makes spans of the records of requests that are to have one: of kind server, one for each hop, with the semantic
// conventions of OpenTelemetry for HTTP and RPC, and what was decided as layover.*. No request waits for it.
type Spans struct {
	options  SpanOptions
	resource *resource.Resource
	ring     *proxy.Ring
	sink     TraceSink
}

const (
	spanRing  = 8192
	spansEach = 500 * time.Millisecond // batches
	spansMost = 1000                   // in a batch
)

// NewSpans returns a recorder, which makes nothing before [Spans.Run].
func NewSpans(o SpanOptions, sink TraceSink) *Spans {
	return &Spans{
		options: o, ring: proxy.NewRing(spanRing), sink: sink, resource: o.Source.resource(),
	}
}

// Record is a [proxy.Options.Recorder].
func (s *Spans) Record(r *proxy.Record) {
	if r.Recorded {
		s.ring.Add(r)
	}
}

// Dropped returns how many spans were not made, as there were too many.
func (s *Spans) Dropped() uint64 { return s.ring.Dropped() }

// Run makes spans until ctx ends.
func (s *Spans) Run(ctx context.Context) error {
	tick := time.NewTicker(spansEach)
	defer tick.Stop()
	for s.ring.Wait(ctx) == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		s.flush()
	}
	s.flush()
	return nil
}

func (s *Spans) flush() {
	var spans []*trace.Span
	send := func() {
		if len(spans) > 0 {
			s.sink.Traces([]*trace.ResourceSpans{{
				Resource:   s.resource,
				ScopeSpans: []*trace.ScopeSpans{{Scope: &common.InstrumentationScope{Name: "github.com/layover-dev/layover/internal/proxy", Version: s.options.Source.Build}, Spans: spans}},
			}})
		}
		spans = nil
	}
	s.ring.Drain(func(r *proxy.Record) {
		spans = append(spans, s.span(r.Clone()))
		if len(spans) == spansMost {
			send()
		}
	})
	send()
}

// span makes the span of a record, which is its own from then on.
func (s *Spans) span(r *proxy.Record) *trace.Span {
	began := r.Time.UnixNano()
	span := &trace.Span{
		TraceId: r.TraceID[:], SpanId: r.SpanID[:], Kind: trace.Span_SPAN_KIND_SERVER, Flags: 1, // sampled
		StartTimeUnixNano: uint64(began), EndTimeUnixNano: uint64(began + int64(r.Duration)), //nolint:gosec // they are after 1970
	}
	if r.ParentID != (proxy.SpanID{}) {
		span.ParentSpanId = r.ParentID[:]
	}
	a := attributes{}
	span.Name = strings.ToValidUTF8(a.call(r), "\uFFFD")
	a.decision(r)
	a.peers(r)
	a.baggage(r, s.options.Baggage)
	a.cut(r, len(s.options.Baggage) > 0)
	span.Attributes = a.list
	if r.Status >= http.StatusInternalServerError || r.Error != "" || isServerError(r.GRPCStatus) {
		span.Status = &trace.Status{Code: trace.Status_STATUS_CODE_ERROR, Message: r.Error}
	}
	return span
}

// statusName returns the name of a status of gRPC, or the number where it has none.
func statusName(status string) string {
	n, err := strconv.ParseInt(status, 10, 32)
	if name, known := code.Code_name[int32(n)]; err == nil && known {
		return name
	}
	return status
}

// isServerError says whether a status of gRPC is an error of the server (semantic conventions for gRPC).
func isServerError(status string) bool {
	switch statusName(status) {
	case "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS":
		return true
	}
	return false
}

// attributes are those of a span.
type attributes struct{ list []*common.KeyValue }

func (a *attributes) text(key, value string) {
	if value != "" {
		a.list = append(a.list, text(key, value))
	}
}

func (a *attributes) number(key string, value int64) {
	a.list = append(a.list, &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: value}}})
}

func text(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\uFFFD")}}}
}

// call tells what was asked and answered, and returns the name of the span: few names in all, so that they can be grouped.
func (a *attributes) call(r *proxy.Record) (name string) {
	method := r.Method
	if !isKnownMethod(method) {
		a.text("http.request.method_original", method)
		method = "_OTHER"
	}
	a.text("http.request.method", method)
	a.text("url.scheme", r.Scheme)
	a.text("url.path", r.Path)
	host, port := splitHost(r.Host)
	a.text("server.address", host)
	if port > 0 {
		a.number("server.port", port)
	}
	a.text("network.protocol.name", "http")
	if r.Protocol > 0 {
		a.text("network.protocol.version", [...]string{"", "1.1", "2", "3"}[min(r.Protocol, 3)])
	}
	if r.Status > 0 {
		a.number("http.response.status_code", int64(r.Status))
	}
	a.number("http.request.body.size", r.BytesIn)
	a.number("http.response.body.size", r.BytesOut)
	switch {
	case r.Error != "":
		a.text("error.type", r.Error)
	case r.Status >= http.StatusInternalServerError:
		a.text("error.type", strconv.Itoa(r.Status))
	}
	if r.GRPCStatus != "" {
		call := strings.TrimPrefix(r.Path, "/")
		a.text("rpc.system.name", "grpc")
		a.text("rpc.method", call)
		a.text("rpc.response.status_code", statusName(r.GRPCStatus))
		if r.Version == "" {
			return method // the path is what a client made up
		}
		return call
	}
	if r.Service == "" {
		return method
	}
	return method + " " + r.Service
}

// isKnownMethod says whether a method is one of RFC 9110 or RFC 5789.
func isKnownMethod(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// decision tells which version answered, and why.
func (a *attributes) decision(r *proxy.Record) {
	a.text("layover.service", r.Service)
	a.text("layover.version", r.Version)
	a.text("layover.instance", r.Instance)
	a.text("layover.route", r.Route)
	a.text("layover.by", r.By.String())
	if r.Fallback != 0 {
		a.text("layover.fallback", r.Fallback.String())
	}
	a.text("layover.lost", r.Lost)
	a.text("layover.caller", r.CallerOf)
	if r.Held > 0 {
		a.number("layover.held_ms", r.Held.Milliseconds())
	}
}

func (a *attributes) peers(r *proxy.Record) {
	if r.Peer.IsValid() {
		a.text("client.address", r.Peer.Addr().Unmap().String())
		a.text("network.peer.address", r.Peer.Addr().Unmap().String())
		a.number("network.peer.port", int64(r.Peer.Port()))
	}
	if up, err := netip.ParseAddrPort(r.Upstream); err == nil {
		a.text("layover.upstream.address", up.String())
	}
}

// baggage tells the members that are asked for. Of each key the last member counts.
func (a *attributes) baggage(r *proxy.Record, keys []string) {
	if len(keys) == 0 || len(r.Baggage) == 0 {
		return
	}
	values := map[string]string{}
	for member := range strings.SplitSeq(strings.Join(r.Baggage, ","), ",") {
		if parsed, err := baggage.Parse(strings.TrimSpace(member)); err == nil { // each on its own: a bad one spoils no other
			for _, m := range parsed.Members() {
				values[m.Key()] = m.Value()
			}
		}
	}
	for _, key := range keys {
		a.text("baggage."+key, values[key])
	}
}

// cut tells which attributes are not whole, so that nobody takes what is missing for something else.
func (a *attributes) cut(r *proxy.Record, hasBaggage bool) {
	if r.Cut == 0 {
		return
	}
	list := &common.ArrayValue{}
	for _, one := range []struct {
		what proxy.Cut
		is   bool
		key  string
	}{
		{proxy.CutMethod, true, "http.request.method_original"},
		{proxy.CutHost, true, "server.address"},
		{proxy.CutPath, true, "url.path"},
		{proxy.CutPath, r.GRPCStatus != "", "rpc.method"},
		{proxy.CutRoute, true, "layover.route"},
		{proxy.CutBaggage, hasBaggage, "baggage"},
	} {
		if one.is && r.Cut&one.what != 0 {
			list.Values = append(list.Values, &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: one.key}})
		}
	}
	if len(list.GetValues()) > 0 {
		a.list = append(a.list, &common.KeyValue{Key: "layover.cut", Value: &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: list}}})
	}
}

func splitHost(text string) (host string, port int64) {
	at := strings.LastIndexByte(text, ':')
	if at < 0 || strings.HasSuffix(text, "]") {
		return strings.Trim(text, "[]"), 0
	}
	n, err := strconv.ParseUint(text[at+1:], 10, 16)
	if err != nil {
		return text, 0
	}
	return strings.Trim(text[:at], "[]"), int64(n)
}
