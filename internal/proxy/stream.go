package proxy

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// answerWriter passes an answer on, and notes what went by.
type answerWriter struct {
	http.ResponseWriter
	request *http.Request
	status  int
	bytes   int64
	first   time.Time  // when the header was written
	failed  bool       // writing to the client failed
	kept    int        // bytes that may not have been sent yet
	empty   bool       // there is no body
	limit   *sendLimit // of HTTP/2; nil for what has no such limit
	tunnel  *tunnel    // set where the connection was upgraded
}

// WriteHeader passes on a status. An informational one (1xx) is not the answer,
// and HTTP/1.0 does not know it. The server itself says 100 Continue when the body is first
// read, which is when the instance has said so.
func (w *answerWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		if status != http.StatusContinue && w.request.ProtoAtLeast(1, 1) {
			w.ResponseWriter.WriteHeader(status)
		}
		return
	}
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

// Write passes on a part of the body.
func (w *answerWriter) Write(b []byte) (int, error) {
	if w.limit != nil {
		w.limit.wait()
		defer w.limit.done()
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	w.kept += n
	w.failed = w.failed || err != nil
	return n, err
}

// FlushError sends what was kept back. An answer without a body is its header, and goes out at its end: flushed before, one of gRPC
// that is trailers alone would have a body that is empty, and no trailers (gRPC over HTTP/2, "Trailers-Only").
func (w *answerWriter) FlushError() error {
	if w.empty {
		return nil
	}
	if w.limit != nil {
		w.limit.wait()
		defer w.limit.done()
	}
	w.kept = 0
	err := http.NewResponseController(w.ResponseWriter).Flush()
	w.failed = w.failed || err != nil && !errors.Is(err, errors.ErrUnsupported) // by a writer of a test, or a middleware's
	return err
}

// finish sends what is left of an answer, where the server would wait for the client without end. It says
// whether the answer went out, as far as it is known.
func (w *answerWriter) finish() (sent bool) {
	if w.limit != nil && w.kept > 0 && w.limit.isAlone() {
		_ = w.FlushError()
	}
	return !w.failed
}

// Unwrap is for [http.ResponseController].
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack takes over the connection for an upgrade. What the client sent behind its
// request is read first.
func (w *answerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if strict, ok := conn.(*strictConn); ok {
		strict.grant()
	}
	w.tunnel = &tunnel{Conn: conn, buffered: buffered.Reader}
	return w.tunnel, buffered, nil
}

func (w *answerWriter) begin(status int) {
	if w.status == 0 {
		w.status, w.first = status, time.Now()
	}
}

// tunnel is a client's connection after an upgrade.
type tunnel struct {
	net.Conn
	buffered *bufio.Reader
	in, out  atomic.Int64
}

// Read reads what the client sends.
func (t *tunnel) Read(b []byte) (int, error) {
	n, err := t.buffered.Read(b)
	t.in.Add(int64(n))
	return n, err
}

// Write writes to the client.
func (t *tunnel) Write(b []byte) (int, error) {
	n, err := t.Conn.Write(b)
	t.out.Add(int64(n))
	return n, err
}

// CloseWrite tells the client that nothing more comes.
func (t *tunnel) CloseWrite() error {
	return closeWrite(t.Conn)
}
