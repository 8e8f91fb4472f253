package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

const (
	typeSSE    = "text/event-stream"
	typeNDJSON = "application/x-ndjson"
)

// streamWriter writes an answer that has no end yet. Each write has a deadline,
// so that a client that does not read cannot hold the stream for ever.
type streamWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	buf     bytes.Buffer
}

// stream returns an answer that run writes. run's context ends with the request,
// and with the server; its error ends the connection without its proper end, so that
// the client knows that something is missing.
func (s *Server) stream(operation, contentType string, run func(ctx context.Context, w *streamWriter) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		r, rw := humago.Unwrap(hctx)
		ctx, cancel := s.streamContext(r.Context())
		defer cancel()
		rw.Header().Set("Content-Type", contentType)
		rw.Header().Set("X-Accel-Buffering", "no") // proxies must not hold it back
		rw.WriteHeader(http.StatusOK)
		w := &streamWriter{w: rw, control: http.NewResponseController(rw), timeout: s.opts.WriteTimeout}
		if err := w.flush(); err != nil || r.Method == http.MethodHead {
			cancel() // run still lets go of what it holds
		}
		err := run(ctx, w)
		if err == nil || ctx.Err() != nil {
			return
		}
		if _, ok := errors.AsType[*writeError](err); ok {
			s.log.Debug("stream broke", "operation", operation, "err", err)
		} else {
			s.log.Error("stream failed", "operation", operation, "err", err)
		}
		panic(http.ErrAbortHandler)
	}}
}

// writeError says that the client does not take the stream.
type writeError struct{ err error }

func (e *writeError) Error() string { return "write to the client: " + e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// event adds a server-sent event. An empty id or name is left out. data must
// not contain a line break.
func (w *streamWriter) event(id, name string, data []byte) {
	if id != "" {
		fmt.Fprintf(&w.buf, "id: %s\n", id)
	}
	if name != "" {
		fmt.Fprintf(&w.buf, "event: %s\n", name)
	}
	w.buf.WriteString("data: ")
	w.buf.Write(data)
	w.buf.WriteString("\n\n")
}

// position adds a message without data: it keeps the connection alive, and a
// client that comes back says the ID as Last-Event-ID.
func (w *streamWriter) position(id string) {
	fmt.Fprintf(&w.buf, ": keep-alive\nid: %s\n\n", id)
}

// line adds a line of JSON.
func (w *streamWriter) line(v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	w.buf.Write(data)
	w.buf.WriteByte('\n')
	return nil
}

// long sends a server-sent event whose data is long and shared, without a copy of it. All of it
// has to be taken within four times the time of a part: until then it is held.
func (w *streamWriter) long(id, name string, data []byte) error {
	limit := time.Now().Add(4 * w.timeout)
	fmt.Fprintf(&w.buf, "id: %s\nevent: %s\ndata: ", id, name)
	if err := w.flush(); err != nil {
		return err
	}
	for part := range slices.Chunk(data, maxPart) {
		deadline := time.Now().Add(w.timeout)
		if limit.Before(deadline) {
			deadline = limit
		}
		if err := w.write(part, deadline); err != nil {
			return err
		}
	}
	w.buf.WriteString("\n\n")
	return w.flush()
}

// maxPart is how many bytes are sent at a time.
const maxPart = 64 << 10

// flush sends what was added, in parts that even a slow client can take in time.
func (w *streamWriter) flush() error {
	for {
		if err := w.write(w.buf.Next(maxPart), time.Now().Add(w.timeout)); err != nil {
			return err
		}
		if err := w.control.Flush(); err != nil {
			return &writeError{err}
		}
		if w.buf.Len() == 0 {
			w.buf.Reset()
			return nil
		}
	}
}

// write hands a part to the connection, which may keep the end of it back until [streamWriter.flush].
func (w *streamWriter) write(part []byte, deadline time.Time) error {
	if err := w.control.SetWriteDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return &writeError{err}
	}
	if len(part) == 0 {
		return nil
	}
	if _, err := w.w.Write(part); err != nil {
		return &writeError{err}
	}
	return nil
}

// waiting calls wait with a context that ends after the keep-alive time, and
// says idle where that was why it returned.
func (s *Server) waiting(ctx context.Context, wait func(context.Context) error) (idle bool, err error) {
	wctx, cancel := context.WithTimeout(ctx, s.opts.KeepAlive)
	defer cancel()
	err = wait(wctx)
	if err != nil && ctx.Err() == nil && wctx.Err() != nil {
		return true, nil
	}
	return false, err
}

// encode writes v as one line of JSON, without a line break at its end.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func formatID(id int64) string { return strconv.FormatInt(id, 10) }
