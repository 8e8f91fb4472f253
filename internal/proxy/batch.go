package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

const (
	// maxBatch is how much may wait on a connection before those who write have to wait too, in bytes.
	maxBatch = 64 << 10

	// lastBatchTimeout is how long a connection that is closed may still take for what waits.
	lastBatchTimeout = time.Second
)

// batchConn is a connection that sends what is written to it at one time by one call of
// the system. net/http's HTTP/2 writes every frame by itself, so that a small answer is
// three calls (header, message, trailers), of which each costs more than what the proxy itself
// does for a request; and the frames of other requests come on top.
//
// What is written waits until every goroutine that is ready to run has run, and no longer:
// on a quiet machine that is at once.
//
// A connection of HTTP/1.1 writes its answers whole, and is left alone: batches begin with
// [batchConn.start].
type batchConn struct {
	net.Conn
	limit time.Duration // how long the other side may take nothing; 0 for as long as it likes
	sniff bool          // the first bytes that are read are yet to come
	on    atomic.Bool

	mu      sync.Mutex
	room    sync.Cond // told when there is less to send, or nobody sends any more
	waiting []byte
	spare   []byte // to become waiting
	sending bool   // a goroutine is in send
	closed  bool
	limited time.Time // when the limit for writing was set
	err     error     // of a write that was said to be well
}

// newBatchConn returns conn with batches off. They begin by themselves when the other
// side begins with HTTP/2's preface. One that takes nothing of them for as long as limit has left; 0
// is no limit.
func newBatchConn(conn net.Conn, limit time.Duration) *batchConn {
	c := &batchConn{Conn: conn, limit: limit, sniff: true}
	c.room.L = &c.mu
	return c
}

// batchHTTP2 returns a configuration with which connections that are *batchConn
// begin with batches where the client is going to speak HTTP/2.
func batchHTTP2(config *tls.Config) *tls.Config {
	config = config.Clone()
	choose := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if batch, ok := hello.Conn.(*batchConn); ok && slices.Contains(hello.SupportedProtos, "h2") {
			batch.start()
		}
		if choose == nil {
			return nil, nil
		}
		return choose(hello)
	}
	return config
}

// start begins to send in batches.
func (c *batchConn) start() { c.on.Store(true) }

// Read reads what the other side sends.
func (c *batchConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.sniff && n > 0 {
		c.sniff = false
		const sign = 3 // bytes: no method of HTTP/1.1 begins like this
		if bytes.HasPrefix(b[:n], []byte(http2.ClientPreface[:min(n, sign)])) {
			c.start()
		}
	}
	return n, err
}

// Write takes over b. Its error may be that of an earlier part.
func (c *batchConn) Write(b []byte) (int, error) {
	if !c.on.Load() {
		return c.Conn.Write(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) > 0 && len(c.waiting)+len(b) > maxBatch && c.err == nil && !c.closed {
		c.room.Wait()
	}
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.err != nil:
		return 0, c.err
	}
	c.waiting = append(c.waiting, b...)
	if !c.sending {
		c.sending = true
		go c.send()
	}
	return len(b), nil
}

// send sends batches until nothing waits. Where the connection was closed meanwhile, it
// does what is left of that.
func (c *batchConn) send() {
	runtime.Gosched()
	c.mu.Lock()
	for len(c.waiting) > 0 && c.err == nil {
		batch := c.waiting
		c.waiting, c.spare = c.spare[:0], nil
		c.room.Broadcast()
		c.mu.Unlock()
		err := c.deliver(batch)
		c.mu.Lock()
		c.err = err
		if cap(batch) <= maxBatch {
			c.spare = batch[:0]
		}
	}
	c.sending = false
	closed := c.closed
	c.room.Broadcast()
	c.mu.Unlock()
	if closed {
		_ = c.Conn.Close()
	}
}

// deliver sends a batch, as long as the other side takes something of it now and then. Where it does not, the
// connection is of no use any more, and who reads from it is told.
func (c *batchConn) deliver(batch []byte) error {
	for {
		if c.limit > 0 {
			c.limitWrite()
		}
		n, err := c.Conn.Write(batch)
		if err == nil {
			return nil
		}
		if batch = batch[n:]; n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = c.Conn.Close()
			return err
		}
	}
}

// limitWrite sets how long the next write may take, unless a close has done so.
func (c *batchConn) limitWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); !c.closed && now.Sub(c.limited) > c.limit/4 {
		c.limited = now
		_ = c.Conn.SetWriteDeadline(now.Add(c.limit))
	}
}

// SetWriteDeadline does nothing where batches have a limit of their own: who writes to them does not wait
// for the connection, and would take that back.
func (c *batchConn) SetWriteDeadline(t time.Time) error {
	if c.limit > 0 && c.on.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close closes the connection. It does not wait for what has not been sent, which
// gets a moment to go out.
func (c *batchConn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	c.room.Broadcast()
	sending := c.sending
	if sending {
		now := time.Now()
		_ = c.SetReadDeadline(now) // who reads is told at once
		_ = c.Conn.SetWriteDeadline(now.Add(lastBatchTimeout))
	}
	c.mu.Unlock()
	if sending {
		return nil // send closes it
	}
	return c.Conn.Close()
}

// CloseWrite sends what waits, and tells the other side that nothing more comes.
func (c *batchConn) CloseWrite() error {
	c.mu.Lock()
	for c.sending {
		c.room.Wait()
	}
	c.mu.Unlock()
	return closeWrite(c.Conn)
}
