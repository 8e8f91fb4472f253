package telemetry

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layover-dev/layover/api"
)

type logSink struct {
	mu  sync.Mutex
	got []*logs.ResourceLogs
}

func (s *logSink) Logs(l []*logs.ResourceLogs) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, l...)
	return true
}

func TestLogs(t *testing.T) {
	var out logSink
	l := NewLogs(LogOptions{Environment: "dev", RouteOf: func(trace string) string {
		require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", trace)
		return "pr-1"
	}}, &out)
	at := time.Unix(1_800_000_000, 7)
	line := api.LogLine{Time: at, Service: "cart", Version: "main", Generation: 3, Instance: "cart--main--3", Stream: "stderr", Text: "level=error msg=x\xff", Trace: "4bf92f3577b34da6a3ce929d0e0e4736", Span: "00f067aa0ba902b7"}
	l.Add(line)
	line.Route = "pr-2" // which the server knew when the line was read
	l.Add(line)
	l.Add(api.LogLine{Service: "pricing", Version: "pr-1", Instance: "pricing--pr-1--1", Text: strings.Repeat("x", maxLine+5)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, l.Run(ctx), "what is there at the end is sent")
	require.Len(t, out.got, 2)
	require.Equal(t, map[string]any{
		"service.name": "cart", "service.version": "main", "service.instance.id": "cart--main--3", "deployment.environment.name": "dev",
		"layover.environment": "dev", "layover.service": "cart", "layover.version": "main", "layover.instance": "cart--main--3", "layover.generation": int64(3),
	}, values(out.got[0].GetResource().GetAttributes()))
	records := out.got[0].GetScopeLogs()[0].GetLogRecords()
	require.Len(t, records, 2)
	r := records[0]
	require.Equal(t, uint64(at.UnixNano()), r.GetTimeUnixNano())
	require.Equal(t, "level=error msg=x\uFFFD", r.GetBody().GetStringValue())
	require.Equal(t, logs.SeverityNumber_SEVERITY_NUMBER_ERROR, r.GetSeverityNumber())
	require.Equal(t, byte(0x4b), r.GetTraceId()[0])
	require.Len(t, r.GetSpanId(), 8)
	require.Equal(t, map[string]any{"log.iostream": "stderr", "layover.route": "pr-1"}, values(r.GetAttributes()))
	require.Equal(t, "pr-2", values(records[1].GetAttributes())["layover.route"])
	require.Len(t, out.got[1].GetScopeLogs()[0].GetLogRecords()[0].GetBody().GetStringValue(), maxLine)
}

func TestLogs_AreBounded(t *testing.T) {
	var out logSink
	l := NewLogs(LogOptions{}, &out)
	for i := range logQueue + 10 {
		l.Add(api.LogLine{Instance: "i", Text: fmt.Sprint(i)})
	}
	require.Equal(t, uint64(10), l.Dropped())
	l.flush()
	require.Len(t, out.got, logQueue/logMost)
	require.Equal(t, "0", out.got[0].GetScopeLogs()[0].GetLogRecords()[0].GetBody().GetStringValue(), "in their order")
}

// TestLogs_AreBoundedInBytes: long lines take no more memory, and no more of a request than receivers take.
func TestLogs_AreBoundedInBytes(t *testing.T) {
	var out logSink
	l := NewLogs(LogOptions{}, &out)
	long := strings.Repeat("x", maxLine)
	for range logBytes/maxLine + 5 {
		l.Add(api.LogLine{Instance: "i", Text: long})
	}
	require.Equal(t, uint64(5), l.Dropped())
	l.flush()
	for _, r := range out.got {
		require.Less(t, proto.Size(r), 2<<20)
	}
	l.Add(api.LogLine{Instance: "i", Text: long})
	require.Equal(t, uint64(5), l.Dropped(), "there is room again")
}

func TestSeverity(t *testing.T) {
	for line, want := range map[string]string{
		`level=warn msg=x`: "warn", `{"level":"ERROR"}`: "ERROR", `{"severity": "WARNING"}`: "WARNING", `2026-11-27 12:00:00 INFO started`: "INFO",
		`[debug] x`: "debug", `2026-11-27T12:00:00Z [FATAL] x`: "FATAL", `ts=1 lvl=info x`: "info",
		`the level of noise`: "", `hello`: "", ``: "", `sea level errors`: "", `{"level":30}`: "",
	} {
		n, word := severity(line)
		require.Equal(t, want, word, line)
		require.Equal(t, want != "", n != 0)
	}
}
