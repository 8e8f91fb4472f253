package telemetry

import (
	"context"
	"encoding/hex"
	"strings"
	"sync/atomic"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/layover-dev/layover/api"
)

// LogSink takes lines of logs to send, and says whether it had room for them.
type LogSink interface {
	Logs(l []*logs.ResourceLogs) bool
}

// LogOptions says of what lines tell.
type LogOptions struct {
	Environment string
	RouteOf     func(trace string) string // route of a trace; "" where none is known. Nil where nobody knows any
}

// Logs sends the lines that instances write, by OTLP. Nobody who writes waits for it: what is too much is dropped, and counted.
type Logs struct {
	options LogOptions
	sink    LogSink
	lines   chan api.LogLine
	waiting atomic.Int64 // bytes
	dropped atomic.Uint64
}

const (
	logQueue = 20_000      // lines
	logEvery = time.Second // batches: by then the proxies have told of most requests
	logMost  = 2000        // lines in a batch
	maxLine  = 64 << 10    // bytes of a line; the rest is cut off
	logBytes = 32 << 20    // that wait, about
	logBatch = 1 << 20     // bytes in a batch, about: receivers take 4 MiB
)

// NewLogs returns a sender, which sends nothing before [Logs.Run].
func NewLogs(o LogOptions, sink LogSink) *Logs {
	return &Logs{options: o, sink: sink, lines: make(chan api.LogLine, logQueue)}
}

// Add takes a line to send. It never blocks.
func (l *Logs) Add(line api.LogLine) {
	line.Text = line.Text[:min(len(line.Text), maxLine)]
	size := int64(len(line.Text))
	if l.waiting.Add(size) <= logBytes {
		select {
		case l.lines <- line:
			return
		default:
		}
	}
	l.waiting.Add(-size)
	l.dropped.Add(1)
}

// Dropped returns for how many lines there was no room.
func (l *Logs) Dropped() uint64 { return l.dropped.Load() }

// Run sends until ctx ends, and then what is left.
func (l *Logs) Run(ctx context.Context) error {
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.flush()
		case <-ctx.Done():
			l.flush()
			return nil
		}
	}
}

func (l *Logs) flush() {
	for n := len(l.lines); n > 0; {
		byInstance := map[string]*logs.ResourceLogs{}
		var all []*logs.ResourceLogs
		for lines, size := 0, 0; n > 0 && lines < logMost && size < logBatch; lines++ {
			line := <-l.lines
			n--
			size += len(line.Text)
			l.waiting.Add(-int64(len(line.Text)))
			r := byInstance[line.Instance]
			if r == nil {
				r = l.resource(&line)
				byInstance[line.Instance] = r
				all = append(all, r)
			}
			r.ScopeLogs[0].LogRecords = append(r.ScopeLogs[0].LogRecords, l.record(&line))
		}
		l.sink.Logs(all)
	}
}

// resource describes the instance that wrote a line.
func (l *Logs) resource(line *api.LogLine) *logs.ResourceLogs {
	attributes := []*common.KeyValue{
		text("service.name", line.Service), text("service.version", line.Version), text("service.instance.id", line.Instance),
		text("deployment.environment.name", l.options.Environment), text("layover.environment", l.options.Environment),
		text("layover.service", line.Service), text("layover.version", line.Version), text("layover.instance", line.Instance),
		{Key: "layover.generation", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: line.Generation}}},
	}
	return &logs.ResourceLogs{
		Resource:  &resource.Resource{Attributes: attributes},
		ScopeLogs: []*logs.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "github.com/layover-dev/layover/internal/control"}}},
	}
}

// record is a line (OpenTelemetry Logs Data Model).
func (l *Logs) record(line *api.LogLine) *logs.LogRecord {
	body := strings.ToValidUTF8(line.Text, "\uFFFD")
	r := &logs.LogRecord{
		TimeUnixNano: nano(line.Time), ObservedTimeUnixNano: nano(time.Now()),
		Body: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: body}},
	}
	r.SeverityNumber, r.SeverityText = severity(line.Text)
	if line.Stream != "" {
		r.Attributes = append(r.Attributes, text("log.iostream", line.Stream))
	}
	if line.Trace == "" {
		return r
	}
	r.TraceId, _ = hex.DecodeString(line.Trace) // it was read as hex
	r.SpanId, _ = hex.DecodeString(line.Span)
	route := line.Route
	if route == "" && l.options.RouteOf != nil {
		route = l.options.RouteOf(line.Trace)
	}
	if route != "" {
		r.Attributes = append(r.Attributes, text("layover.route", route))
	}
	return r
}

func nano(t time.Time) uint64 {
	return uint64(max(t.UnixNano(), 0))
}

// severities are the words for them, with the number of the data model.
var severities = map[string]logs.SeverityNumber{
	"trace": logs.SeverityNumber_SEVERITY_NUMBER_TRACE, "debug": logs.SeverityNumber_SEVERITY_NUMBER_DEBUG,
	"info": logs.SeverityNumber_SEVERITY_NUMBER_INFO, "notice": logs.SeverityNumber_SEVERITY_NUMBER_INFO2,
	"warn": logs.SeverityNumber_SEVERITY_NUMBER_WARN, "warning": logs.SeverityNumber_SEVERITY_NUMBER_WARN,
	"error": logs.SeverityNumber_SEVERITY_NUMBER_ERROR, "err": logs.SeverityNumber_SEVERITY_NUMBER_ERROR,
	"critical": logs.SeverityNumber_SEVERITY_NUMBER_FATAL, "fatal": logs.SeverityNumber_SEVERITY_NUMBER_FATAL, "panic": logs.SeverityNumber_SEVERITY_NUMBER_FATAL,
}

// severity is what a line says of itself: level=warn, "level":"warn", "severity": "WARNING", or WARN as its first or second word.
func severity(line string) (logs.SeverityNumber, string) {
	line = line[:min(len(line), 512)]
	for _, key := range []string{"level", "severity", "lvl"} {
		at := strings.Index(line, key)
		if at < 0 {
			continue
		}
		rest := strings.TrimLeft(line[at+len(key):], `"':= `)
		if n, word := levelAt(rest); n != 0 && len(rest) < len(line)-at-len(key) {
			return n, word
		}
	}
	rest := line
	for range 4 { // a date and a time may be before it
		rest = strings.TrimLeft(rest, " \t[(<")
		if n, word := levelAt(rest); n != 0 {
			return n, word
		}
		_, after, more := strings.Cut(rest, " ")
		if !more {
			break
		}
		rest = after
	}
	return 0, ""
}

// levelAt is the severity that the word at the beginning of a text is.
func levelAt(line string) (logs.SeverityNumber, string) {
	end := 0
	for end < len(line) && end < 10 && ('a' <= line[end]|0x20 && line[end]|0x20 <= 'z') {
		end++
	}
	n := severities[strings.ToLower(line[:end])]
	if n == 0 || end < len(line) && (line[end] == '-' || line[end] == '_' || '0' <= line[end] && line[end] <= '9') {
		return 0, ""
	}
	return n, line[:end]
}
