package telemetry

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

// sink keeps what it gets.
type sink struct {
	mu  sync.Mutex
	got []*trace.ResourceSpans
}

func (s *sink) Traces(spans []*trace.ResourceSpans) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, spans...)
	return true
}

// spanOf returns the span of a record, and its attributes.
func spanOf(t *testing.T, r proxy.Record, keys ...string) (*trace.Span, map[string]any) {
	t.Helper()
	var out sink
	s := NewSpans(SpanOptions{Source: Source{Service: "layover-proxy", Process: "p-1", Name: "edge-1", Environment: "dev", Build: "1.2.3"}, Baggage: keys}, &out)
	r.Recorded = true
	s.Record(&proxy.Record{}) // which is not to be recorded
	s.Record(&r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Run(ctx), "what is there at the end is sent")
	require.Len(t, out.got, 1)
	require.Subset(t, values(out.got[0].GetResource().GetAttributes()), map[string]any{
		"service.name": "layover-proxy", "service.version": "1.2.3", "service.instance.id": "p-1", "layover.proxy": "edge-1", "deployment.environment.name": "dev",
	})
	require.Len(t, out.got[0].GetScopeSpans()[0].GetSpans(), 1)
	span := out.got[0].GetScopeSpans()[0].GetSpans()[0]
	return span, values(span.GetAttributes())
}

func values(list []*common.KeyValue) map[string]any {
	out := map[string]any{}
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.GetKey()] = v.IntValue
		case *common.AnyValue_ArrayValue:
			var all []string
			for _, one := range v.ArrayValue.GetValues() {
				all = append(all, one.GetStringValue())
			}
			out[kv.GetKey()] = all
		}
	}
	return out
}

func TestSpan(t *testing.T) {
	began := time.Unix(1_800_000_000, 5)
	span, a := spanOf(t, proxy.Record{
		Time: began, Duration: time.Second, Method: "GET", Host: "cart.localhost:8080", Path: "/items", Scheme: "http", Protocol: 1,
		Peer: netip.MustParseAddrPort("10.0.0.7:4000"), Service: "cart", Version: "feature-1", Instance: "i-1", Upstream: "10.0.0.9:80",
		Route: "feature-1", By: route.ByBaggage, CallerOf: "web@main", Status: 502, Held: 1500 * time.Millisecond, BytesIn: 3, BytesOut: 4,
		TraceID: proxy.TraceID{1}, ParentID: proxy.SpanID{2}, SpanID: proxy.SpanID{3},
		Baggage: []string{"tenant=%C3%A9a,bad member,user=1", "dynamic_route=feature-1,user=2;p=q"},
	}, "user", "tenant", "none")
	require.Equal(t, "GET cart", span.GetName())
	require.Equal(t, trace.Span_SPAN_KIND_SERVER, span.GetKind())
	require.Equal(t, byte(1), span.GetTraceId()[0])
	require.Equal(t, []byte{2, 0, 0, 0, 0, 0, 0, 0}, span.GetParentSpanId())
	require.Equal(t, []byte{3, 0, 0, 0, 0, 0, 0, 0}, span.GetSpanId())
	require.Equal(t, uint64(began.UnixNano()), span.GetStartTimeUnixNano())
	require.Equal(t, uint64(time.Second), span.GetEndTimeUnixNano()-span.GetStartTimeUnixNano())
	require.Equal(t, trace.Status_STATUS_CODE_ERROR, span.GetStatus().GetCode())
	require.Equal(t, map[string]any{
		"http.request.method": "GET", "url.scheme": "http", "url.path": "/items", "server.address": "cart.localhost", "server.port": int64(8080),
		"network.protocol.name": "http", "network.protocol.version": "1.1", "http.response.status_code": int64(502), "error.type": "502",
		"http.request.body.size": int64(3), "http.response.body.size": int64(4),
		"layover.service": "cart", "layover.version": "feature-1", "layover.instance": "i-1", "layover.route": "feature-1", "layover.by": "baggage",
		"layover.caller": "web@main", "layover.held_ms": int64(1500), "layover.upstream.address": "10.0.0.9:80",
		"client.address": "10.0.0.7", "network.peer.address": "10.0.0.7", "network.peer.port": int64(4000),
		"baggage.user": "2", "baggage.tenant": "éa",
	}, a)
}

func TestSpan_Fallback(t *testing.T) {
	span, a := spanOf(t, proxy.Record{Method: "BREW", Service: "cart", Version: "main", Route: "feature-1", By: route.ByBaggage, Fallback: route.FallbackUnknown, Lost: "x", Status: 404})
	require.Equal(t, "_OTHER cart", span.GetName())
	require.Nil(t, span.GetParentSpanId(), "it begins the trace")
	require.Nil(t, span.GetStatus(), "what the client did wrong is no error of the server (semantic conventions)")
	require.Subset(t, a, map[string]any{"layover.fallback": route.FallbackUnknown.String(), "layover.lost": "x", "http.request.method": "_OTHER", "http.request.method_original": "BREW"})
	require.NotContains(t, a, "layover.held_ms")
}

// TestSpan_Cut: a span says which of its attributes are not whole, and has no half of a member.
func TestSpan_Cut(t *testing.T) {
	long := strings.Repeat("x", 1000)
	_, a := spanOf(t, proxy.Record{Method: "GET", Host: "cart.localhost", Path: "/" + long, Baggage: []string{"tenant=acme,user=" + long[:998] + ",team=web"}, GRPCStatus: "0"}, "tenant", "user", "team")
	require.Equal(t, []string{"url.path", "rpc.method"}, a["layover.cut"], "1024 bytes of baggage are whole")
	require.Len(t, a["url.path"], 128)
	require.Equal(t, "web", a["baggage.team"])

	_, a = spanOf(t, proxy.Record{Method: "GET", Path: "/" + long[:127], Baggage: []string{"tenant=acme,user=" + long, "team=webfrontend"}}, "tenant", "user", "team")
	require.Equal(t, []string{"baggage"}, a["layover.cut"])
	require.Equal(t, "acme", a["baggage.tenant"])
	require.Equal(t, long, a["baggage.user"])
	require.NotContains(t, a, "baggage.team")

	_, a = spanOf(t, proxy.Record{Method: long, Host: long, Route: long, Baggage: []string{long + long}}, "tenant")
	require.Equal(t, []string{"http.request.method_original", "server.address", "layover.route", "baggage"}, a["layover.cut"])
	_, a = spanOf(t, proxy.Record{Method: "GET", Baggage: []string{long + long}})
	require.NotContains(t, a, "layover.cut", "nobody asked for baggage")
}

func TestSpan_GRPC(t *testing.T) {
	for status, want := range map[string]struct {
		name string
		code trace.Status_StatusCode
	}{
		"0": {"OK", trace.Status_STATUS_CODE_UNSET}, "5": {"NOT_FOUND", trace.Status_STATUS_CODE_UNSET},
		"14": {"UNAVAILABLE", trace.Status_STATUS_CODE_ERROR}, "77": {"77", trace.Status_STATUS_CODE_UNSET},
	} {
		span, a := spanOf(t, proxy.Record{Method: "POST", Path: "/shop.Inventory/Get", Service: "inventory", Version: "main", Status: 200, Protocol: 2, GRPCStatus: status})
		require.Equal(t, "shop.Inventory/Get", span.GetName())
		require.Equal(t, want.code, span.GetStatus().GetCode(), status)
		require.Subset(t, a, map[string]any{
			"rpc.system.name": "grpc", "rpc.method": "shop.Inventory/Get", "rpc.response.status_code": want.name, "network.protocol.version": "2",
		})
	}
}

// TestSpan_TextsAreValid: OTLP carries UTF-8 alone, and one bad text would lose the whole batch.
func TestSpan_TextsAreValid(t *testing.T) {
	span, a := spanOf(t, proxy.Record{Method: "POST", Path: "/\xff", Host: "[::1]:80", Version: "main", GRPCStatus: "0"})
	_, err := proto.Marshal(span)
	require.NoError(t, err)
	refused, _ := spanOf(t, proxy.Record{Method: "POST", Path: "/made.Up/Name", GRPCStatus: "12"})
	require.Equal(t, "POST", refused.GetName(), "names are few: nobody outside makes them up")
	require.Equal(t, "/\uFFFD", a["url.path"])
	require.Equal(t, "::1", a["server.address"])
	require.Equal(t, int64(80), a["server.port"])
}

func TestSampler(t *testing.T) {
	s := Sampler{Plain: 0.01, Routed: 1, Routes: []RouteShare{{"load-*", 0.001}, {"noisy", 0}, {"*", 0.5}}}
	require.InDelta(t, 0.01, s.Share(""), 0)
	require.InDelta(t, 0.001, s.Share("load-7"), 0)
	require.InDelta(t, 0.0, s.Share("noisy"), 0)
	require.InDelta(t, 0.5, s.Share("noisy-2"), 0)
	s.Routes = s.Routes[:2]
	require.InDelta(t, 1.0, s.Share("feature-1"), 0)
}
