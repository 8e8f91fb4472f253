package control

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTraceIn(t *testing.T) {
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for text, want := range map[string][2]string{
		"":               {},
		"GET /cart 200":  {},
		"trace_id=" + id: {id, ""},
		"level=info trace_id=" + id + " span_id=" + span + " msg=x":         {id, span},
		`{"msg":"x","traceId":"` + id + `","spanId":"` + span + `"}`:        {id, span},
		`{"msg":"x", "trace.id" : "` + id + `", "transaction.id": "1"}`:     {id, ""},
		`{"trace_id":"` + strings.ToUpper(id) + `"}`:                        {id, ""},
		`INFO [otelTraceID=` + id + ` otelSpanID=` + span + `] x`:           {id, span},
		`TraceId: ` + id + `, SpanId: ` + span:                              {id, span},
		`dd.trace_id=11803532876627986230 dd.span_id=67667974448284343 x`:   {"0000000000000000a3ce929d0e0e4736", span},
		`{"dd.trace_id":"` + id + `","dd.span_id":"67667974448284343"}`:     {id, span},
		`{"dd":{"x":1},"msg":"traceparent: 00-` + id + `-` + span + `-01"}`: {id, span},
		`traceparent=00-` + id + `-` + span + `-01`:                         {id, span},
		`{"a":"{\"trace_id\":\"` + id + `\"}"}`:                             {id, ""},
		"tracing is on, trace=false, trace_id=" + id:                        {id, ""},
		"trace_id=" + id + "ff":                                             {},
		"trace_id=" + strings.Repeat("0", 32):                               {},
		"trace_id=1234567890123456":                                         {},
		"stack trace: at line 5":                                            {},
		"trace_id=":                                                         {},
		"trace_identification=" + id:                                        {},
	} {
		trace, gotSpan := traceIn(text)
		require.Equal(t, want, [2]string{trace, gotSpan}, text)
	}
}

func FuzzTraceIn(f *testing.F) {
	f.Add(`{"dd.trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"} traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`)
	f.Fuzz(func(t *testing.T, text string) {
		trace, span := traceIn(text)
		require.True(t, trace == "" || len(trace) == 32 && isHex(trace) && strings.ToLower(trace) == trace)
		require.True(t, span == "" || trace != "" && len(span) == 16 && isHex(span))
	})
}

func BenchmarkTraceIn(b *testing.B) {
	for name, text := range map[string]string{
		"none": `2026-11-27T12:00:00Z INFO request handled method=GET path=/api/products status=200 duration=12ms bytes=5120 user_agent="Mozilla/5.0 (X11; Linux x86_64)"`,
		"last": `{"time":"2026-11-27T12:00:00Z","level":"INFO","msg":"request handled","status":200,"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				traceIn(text)
			}
		})
	}
}
