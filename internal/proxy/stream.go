package proxy

import (
	"bufio"
	"errors"
	"io"
	"maps"
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
	first   time.Time // when the header was written
	failed  bool      // writing to the client failed
	tunnel  *tunnel   // set where the connection was upgraded
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
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	w.failed = w.failed || err != nil
	return n, err
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

// requestBody is the client's body on its way to an instance. The transport
// may still read it when the answer is complete, so it outlives its exchange.
type requestBody struct {
	io.ReadCloser
	in, out *http.Request // trailers are taken over from in to out
	bytes   atomic.Int64
	begun   atomic.Bool // some of it was asked for
	closed  atomic.Bool // the transport wants no more of it
	ended   atomic.Bool // all of it was read
	failed  atomic.Bool // the client's side broke, or was not HTTP
}

// Read reads from the client. The trailers that the client had not announced are known
// at the end only.
func (b *requestBody) Read(p []byte) (int, error) {
	b.begun.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	switch {
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
		if b.out.Trailer != nil {
			maps.Copy(b.out.Trailer, b.in.Trailer)
			dropFields(b.out.Trailer)
		}
	case err != nil && !b.closed.Load():
		b.failed.Store(true)
	}
	return n, err
}

// Close ends a read that goes on: HTTP/2's transport waits for that before it tells of an
// instance that broke off, and the client may send nothing until it has got an answer.
// Of HTTP/1.1 the server's body has no such Close; there the read ends with the connection.
//
// A body of which nothing was read stays open, so that it can be sent to another instance.
// Whoever made the body it wraps closes that one.
func (b *requestBody) Close() error {
	if !b.begun.Load() || b.in.ProtoMajor < 2 {
		return nil
	}
	b.closed.Store(true)
	return b.in.Body.Close()
}

// answerBody is the body of an answer that may be complete before its request is.
type answerBody struct {
	io.ReadCloser
	request *requestBody
}

// Close does not wait while the request is incomplete. HTTP/2's transport would: until its
// last read of the request's body returns, which the client may end only once it has got
// the whole answer.
func (b answerBody) Close() error {
	if b.request.ended.Load() {
		return b.ReadCloser.Close()
	}
	go func() { _ = b.ReadCloser.Close() }() // ends with the client's body or connection
	return nil
}
