package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/negotiation"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func (s *Server) registerLogs() {
	register(s, operation{
		id: "get-version-logs", tag: tagVersions, method: http.MethodGet, path: versionPath + "/logs",
		summary: "Read the log of a version",
		description: "Returns what the version's newest instance wrote, oldest line first: one JSON object a line (application/x-ndjson), " +
			"or server-sent events named `log` where the client accepts text/event-stream. With `follow` it goes on until the instance has ended; empty lines keep it alive.",
		errors:   []int{http.StatusNotFound, http.StatusServiceUnavailable},
		response: streamed[api.LogLine](s, "Lines of the log", typeNDJSON, typeSSE),
	}, s.logs)
}

type logsInput struct {
	VersionPath
	Follow bool   `query:"follow" doc:"Go on with what the instance writes from now on"`
	Since  string `query:"since" maxLength:"64" doc:"Only lines since then: an RFC 3339 time, or how long ago" example:"10m"`
	Tail   int    `query:"tail" minimum:"0" maximum:"1000000" doc:"Only the last lines; 0 means all" example:"100"`
	accept string
}

// Resolve is the huma.Resolver: it keeps what the client accepts, which the
// OpenAPI document says by the types of the answer.
func (in *logsInput) Resolve(ctx huma.Context) []error {
	in.accept = ctx.Header("Accept")
	return nil
}

func (s *Server) logs(ctx context.Context, in *logsInput) (*huma.StreamResponse, error) {
	since, err := parseSince(in.Since, time.Now())
	if err != nil {
		return nil, err
	}
	// The reader must live longer than this call, and end with the stream.
	logCtx, cancel := s.streamContext(ctx)
	reader, err := s.control.Logs(logCtx, in.key(), control.LogOptions{Follow: in.Follow, Since: since, Tail: in.Tail})
	if err != nil {
		cancel()
		return nil, err
	}
	sse := wantsSSE(in.accept)
	contentType := typeNDJSON
	if sse {
		contentType = typeSSE
	}
	return s.stream("get-version-logs", contentType, func(ctx context.Context, w *streamWriter) error {
		defer cancel()
		return s.copyLog(ctx, w, reader, cancel, sse)
	}), nil
}

// logItem is a line, or the error that ended the log.
type logItem struct {
	line api.LogLine
	err  error
}

// copyLog writes the lines of reader until its end. It closes reader, after
// cancel has ended a Next that still waits.
func (s *Server) copyLog(ctx context.Context, w *streamWriter, reader control.LogReader, cancel func(), sse bool) error {
	items := make(chan logItem, 256)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		pump(reader, items, stop)
	}()
	defer func() {
		cancel()
		close(stop)
		<-done
		if err := reader.Close(); err != nil {
			s.log.Debug("log not closed", "err", err)
		}
	}()
	alive := time.NewTicker(s.opts.KeepAlive)
	defer alive.Stop()
	for {
		select {
		case item := <-items:
			if err := addItem(w, item, sse); err != nil {
				if errors.Is(err, io.EOF) {
					return w.flush()
				}
				return err
			}
			if len(items) > 0 && w.buf.Len() < 32<<10 {
				continue
			}
		case <-alive.C:
			w.buf.WriteByte('\n')
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// pump reads until the end of the log, which it sends as an error, or until stop.
func pump(reader control.LogReader, items chan<- logItem, stop <-chan struct{}) {
	for {
		line, err := reader.Next()
		select {
		case items <- logItem{line, err}:
		case <-stop:
			return
		}
		if err != nil {
			return
		}
	}
}

func addItem(w *streamWriter, item logItem, sse bool) error {
	if item.err != nil {
		return item.err
	}
	if !sse {
		return w.line(item.line)
	}
	data, err := encode(item.line)
	if err != nil {
		return err
	}
	w.event("", "log", data)
	return nil
}

// parseSince reads a time, or a duration before now.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, invalidf("write 10m, or 2026-01-31T12:00:00Z", "since: %q is neither how long ago nor an RFC 3339 time", text)
}

func wantsSSE(accept string) bool {
	if !strings.Contains(accept, typeSSE) {
		return false
	}
	return negotiation.SelectQValue(accept, []string{typeNDJSON, typeSSE}) == typeSSE
}
