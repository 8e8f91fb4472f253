package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

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
	awaited atomic.Bool // its answer has not begun
	lost    atomic.Bool // the instance broke off before that
}

// errLost ends reading a body whose instance broke off.
var errLost = fmt.Errorf("the request's body was not complete: %w", io.ErrUnexpectedEOF)

// roundTrip sends the request that the body is of, once or, where no byte of it was read, again.
//
// Where the instance breaks off, the transport of HTTP/1.1 says so only when the read of the body that
// it is in returns, and the client may send nothing until it has got an answer. So that read is ended.
func (b *requestBody) roundTrip(transport http.RoundTripper, out *http.Request) (*http.Response, error) {
	var on *instanceConn
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		on.tell(nil)
		b.lost.Store(false)
		on = instanceConnOf(info.Conn)
		on.tell(b.lose)
	}}
	out = out.WithContext(httptrace.WithClientTrace(out.Context(), trace))
	out.Body = &sending{requestBody: b}
	b.awaited.Store(true)
	res, err := transport.RoundTrip(out)
	b.awaited.Store(false)
	on.tell(nil)
	if b.lost.Load() && errors.Is(err, context.Canceled) { // as the server ends a request when reading it fails
		err = errLost
	}
	return res, err
}

// lose notes that the instance broke off, unless the client did.
func (b *requestBody) lose() {
	if b.ended.Load() || b.failed.Load() || !b.awaited.Load() || b.in.Context().Err() != nil {
		return
	}
	b.lost.Store(true)
	if b.begun.Load() {
		b.giveUp()
	}
}

// giveUp ends the read that the transport is in.
func (b *requestBody) giveUp() {
	if b.in.ProtoMajor >= 2 {
		_ = b.in.Body.Close()
	} else if conn := strictConnOf(b.in.Context()); conn != nil {
		conn.giveUp()
	}
}

// Read reads from the client. The trailers that the client had not announced are known
// at the end only.
func (b *requestBody) Read(p []byte) (int, error) {
	b.begun.Store(true)
	if b.lost.Load() {
		return 0, errLost
	}
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	switch {
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
		if b.out.Trailer != nil {
			maps.Copy(b.out.Trailer, b.in.Trailer)
			dropFields(b.out.Trailer)
		}
	case err != nil && b.lost.Load():
		err = errLost
	case err != nil && !b.closed.Load():
		b.failed.Store(true)
	}
	return n, err
}

// Close ends a read that goes on: HTTP/2's transport waits for that before it tells of an
// instance that broke off, and the client may send nothing until it has got an answer.
// Of HTTP/1.1 the server's body has no such Close; there the read ends with the connection. As an
// answer may be on its way then, it gets a moment.
//
// A body of which nothing was read stays open, so that it can be sent to another instance.
// Whoever made the body it wraps closes that one.
func (b *requestBody) Close() error {
	if !b.begun.Load() {
		return nil
	}
	if b.in.ProtoMajor < 2 {
		if b.awaited.Load() && !b.ended.Load() {
			time.AfterFunc(patienceForAnswer, b.lose)
		}
		return nil
	}
	b.closed.Store(true)
	return b.in.Body.Close()
}

// sending is the body for one attempt to send it. HTTP/2's transport may close it before the first
// read, where the instance breaks off just then, and read it nonetheless; that read must not wait for the client.
type sending struct {
	*requestBody
	state atomic.Int32
}

// What an attempt did first with its body.
const (
	sendingRead int32 = iota + 1
	sendingClosed
)

func (s *sending) Read(p []byte) (int, error) {
	if !s.state.CompareAndSwap(0, sendingRead) && s.state.Load() == sendingClosed {
		return 0, errLost
	}
	return s.requestBody.Read(p)
}

func (s *sending) Close() error {
	s.state.CompareAndSwap(0, sendingClosed)
	return s.requestBody.Close()
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
