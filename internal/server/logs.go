package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/negotiation"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// maxFollowers bounds how many logs are followed at a time.
const maxFollowers = 256

func (s *Server) registerLogs() {
	const about = "Returns what instances wrote, oldest line first: one JSON object a line (application/x-ndjson), " +
		"or server-sent events named `log` where the client accepts text/event-stream. Without `since`, `until` and `previous` that is what the newest instances wrote. " +
		"With `follow` it goes on over restarts, new generations, sleep and a restart of the server, until the version is removed; empty lines and comments keep it alive. " +
		"Server-sent events have IDs: who comes back with the last one as Last-Event-ID goes on there, with nothing lost. They end with an event named `end`. " +
		"At most 256 logs are followed at a time."
	register(s, operation{
		id: "get-version-logs", tag: tagVersions, method: http.MethodGet, path: versionPath + "/logs",
		summary:     "Read the log of a version",
		description: about,
		errors:      []int{http.StatusNotFound, http.StatusServiceUnavailable},
		response:    streamed[api.LogLine](s, "Lines of the log", typeNDJSON, typeSSE),
	}, func(ctx context.Context, in *versionLogsInput) (*huma.StreamResponse, error) {
		return s.logs(ctx, []control.LogTarget{control.LogTarget(in.key())}, in.LogsQuery)
	})

	register(s, operation{
		id: "get-logs", tag: tagVersions, method: http.MethodGet, path: "/api/v1/logs",
		summary:     "Read the logs of several versions",
		description: "As the log of a version, for several at once, in the order of the lines' times. A follower of `@feature-2981` also gets versions of that name that are deployed later, and does not end. " + about,
		errors:      []int{http.StatusNotFound, http.StatusServiceUnavailable},
		response:    streamed[api.LogLine](s, "Lines of the logs", typeNDJSON, typeSSE),
	}, func(ctx context.Context, in *logsInput) (*huma.StreamResponse, error) {
		var targets []control.LogTarget
		for _, text := range in.Target {
			service, version, ok := strings.Cut(text, "@")
			if !ok || version == "" {
				return nil, invalidf("write cart@feature-2981 or @feature-2981", "target: %q names no version", text)
			}
			targets = append(targets, control.LogTarget{Service: service, Version: version})
		}
		return s.logs(ctx, targets, in.LogsQuery)
	})
}

type versionLogsInput struct {
	VersionPath
	LogsQuery
}

type logsInput struct {
	Target []string `query:"target,explode" required:"true" minItems:"1" maxItems:"50" doc:"Whose log: SERVICE@VERSION, or @VERSION for all services that have it; several times for several" example:"[\"cart@feature-2981\"]"`
	LogsQuery
}

// LogsQuery says which part of a log is wanted.
type LogsQuery struct {
	Follow      bool   `query:"follow" doc:"Go on with what instances write from now on"`
	Since       string `query:"since" maxLength:"64" doc:"Only lines since then, of all instances that are kept: an RFC 3339 time, or how long ago" example:"10m"`
	Until       string `query:"until" maxLength:"64" doc:"Only lines before then, of all instances that are kept: an RFC 3339 time, or how long ago" example:"5m"`
	Tail        int    `query:"tail" minimum:"0" maximum:"100000" doc:"Only the last lines; 0 means all" example:"100"`
	Trace       string `query:"trace" pattern:"^[0-9a-f]{32}$" doc:"Only lines that name this trace" example:"4bf92f3577b34da6a3ce929d0e0e4736"`
	Previous    bool   `query:"previous" doc:"What ended last, besides what is returned without it: the run before a restart, the generation before, or one that did not come up"`
	LastEventID string `header:"Last-Event-ID" maxLength:"49152" doc:"Where to go on; stands for since and tail then"`
	accept      string
}

// Resolve is the huma.Resolver: it keeps what the client accepts, which the
// OpenAPI document says by the types of the answer.
func (in *LogsQuery) Resolve(ctx huma.Context) []error {
	in.accept = ctx.Header("Accept")
	return nil
}

func (s *Server) logs(ctx context.Context, targets []control.LogTarget, in LogsQuery) (*huma.StreamResponse, error) {
	q := control.LogQuery{Targets: targets, Follow: in.Follow, Tail: in.Tail, Previous: in.Previous, Trace: in.Trace, After: in.LastEventID}
	var err error
	if q.Since, err = parseTime("since", in.Since, time.Now()); err != nil {
		return nil, err
	}
	if q.Until, err = parseTime("until", in.Until, time.Now()); err != nil {
		return nil, err
	}
	if in.Follow && s.followers.Add(1) > maxFollowers {
		s.followers.Add(-1)
		return nil, &control.Error{
			Code: api.CodeUnavailable, Message: fmt.Sprintf("%d logs are being followed, as many as may be at a time", maxFollowers),
			Hint: "end another `layover logs -f`, or read without following",
		}
	}
	// The log must live longer than this call, and end with the stream.
	logCtx, cancel := s.streamContext(ctx)
	end := func() {
		cancel()
		if in.Follow {
			s.followers.Add(-1)
		}
	}
	log, err := s.control.Logs(logCtx, q)
	if err != nil {
		end()
		return nil, err
	}
	sse := wantsSSE(in.accept)
	contentType := typeNDJSON
	if sse {
		contentType = typeSSE
	}
	return s.stream("get-logs", contentType, func(ctx context.Context, w *streamWriter) error {
		defer end()
		return s.copyLog(ctx, &logWriter{streamWriter: w, sse: sse}, log)
	}), nil
}

// positionInterval is how long a line waits for those that come with it before its position is sent.
const positionInterval = 300 * time.Millisecond

// copyLog writes the lines of a log until its end, and closes it.
func (s *Server) copyLog(ctx context.Context, w *logWriter, log control.Log) error {
	defer func() {
		if err := log.Close(); err != nil {
			s.log.Debug("log not closed", "err", err)
		}
	}()
	said := time.Now()
	for {
		wait, cancel := context.WithTimeout(ctx, min(positionInterval, s.opts.KeepAlive))
		line, err := log.Next(wait)
		cancel()
		switch {
		case errors.Is(err, io.EOF):
			return w.end()
		case err == nil:
			if err := w.add(line); err != nil {
				return err
			}
			if log.Ready() && w.buf.Len() < 32<<10 {
				continue
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		case time.Since(said) >= s.opts.KeepAlive:
			w.buf.WriteByte('\n')
		}
		w.place(log.Position())
		if w.buf.Len() == 0 {
			continue
		}
		said = time.Now()
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// logWriter writes lines in one of two forms. As server-sent events they have positions: behind those that
// are sent together.
type logWriter struct {
	*streamWriter
	sse  bool
	last string // the position that was sent last
}

func (w *logWriter) add(line api.LogLine) error {
	if !w.sse {
		return w.line(line)
	}
	data, err := encode(line)
	if err != nil {
		return err
	}
	w.event("", "log", data)
	return nil
}

func (w *logWriter) place(position string) {
	if w.sse && position != "" && position != w.last {
		w.position(position)
		w.last = position
	}
}

// end says that nothing is left to come: a connection that breaks does not say so.
func (w *logWriter) end() error {
	if w.sse {
		w.event("", "end", []byte("{}"))
	}
	return w.flush()
}

// parseSince reads a time, or a duration before now.
func parseSince(text string, now time.Time) (time.Time, error) { return parseTime("since", text, now) }

func parseTime(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, invalidf("write 10m, or 2026-01-31T12:00:00Z", "%s: %q is neither how long ago nor an RFC 3339 time", name, text)
}

func wantsSSE(accept string) bool {
	if !strings.Contains(accept, typeSSE) {
		return false
	}
	return negotiation.SelectQValue(accept, []string{typeNDJSON, typeSSE}) == typeSSE
}
