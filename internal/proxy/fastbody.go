package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
)

// body is the body of a request on the fast path, as far as it was read.
type body struct {
	kind    http1.Body
	left    int64 // of one with a length
	chunked http1.Chunked
	bytes   int64 // of data so far
	done    bool  // all of it was read

	pumping   chan struct{} // closed when the pump has ended; nil where there is none
	patience  bodyPatience  // with a client that has to keep a pace
	deadline  time.Time     // of that patience; zero where there is none
	paced     bool          // it has to
	unspliced bool          // the kernel does not copy the rest: the pace has to be looked at

	failed  error // why the client's side broke, once the pump has ended
	unsent  bool  // the instance did not take all that was read of it
	slow    bool  // the client did not keep the pace
	refused bool  // the body is malformed
}

// bodies lends them for the time of a request.
var bodies = sync.Pool{New: func() any { return new(body) }}

func (b *body) begin(h *http1.Head) {
	*b = body{kind: h.Body, left: h.Length}
	b.done = b.kind == http1.BodyNone || b.kind == http1.BodyLength && b.left == 0
}

// take reads the body at the beginning of rest: n bytes, of which the first asIs are to be
// passed on as they are, and tail behind them: the end of a body that is complete.
func (b *body) take(rest []byte) (n, asIs int, tail []byte, err error) {
	switch {
	case b.done:
	case b.kind == http1.BodyLength:
		n = int(min(int64(len(rest)), b.left))
		b.bytes += int64(n)
		b.left -= int64(n)
		b.done = b.left == 0
		asIs = n
	default:
		for n < len(rest) && !b.chunked.Done() {
			trailing := b.chunked.InTrailers()
			used, data, err := b.chunked.Next(rest[n:])
			if err != nil {
				return n, asIs, nil, err
			}
			n += used
			b.bytes += int64(len(data))
			if !trailing {
				asIs = n
			}
		}
		if b.done = b.chunked.Done(); b.done {
			tail = b.chunked.Trailers()
		}
	}
	return n, asIs, tail, nil
}

// skip skips what there is of a body that nobody wants, and says whether that is all of it.
func (b *body) skip(in *input) bool {
	if b.pumping != nil {
		return false
	}
	n, _, _, err := b.take(in.unread())
	in.skip(n)
	return b.done && err == nil
}

// startPump sends the rest of the request's body in the background, while the answer is read.
func (c *fastConn) startPump(u *upstream) {
	c.keepHead()
	if rate := &c.proxy.options.BodyRate; c.body.kind == http1.BodyLength && rate.applies(c.body.left, c.rq.contentType) {
		c.body.paced, c.body.patience = true, newPatience(rate)
	}
	c.body.pumping = make(chan struct{})
	c.watcher.inUse = true
	go c.pump(u, c.body.pumping)
}

// pump sends the rest of the body. Where the client's side breaks, it ends the connection
// to the instance, which must not take a part for the whole.
func (c *fastConn) pump(u *upstream, ended chan<- struct{}) {
	defer close(ended)
	defer c.survive()
	for plenty := c.isFull(); ; plenty = c.isFull() {
		rest := c.unread()
		n, asIs, tail, err := c.body.take(rest)
		if err != nil {
			c.body.refused = true
			c.breakOff(u, err)
			return
		}
		c.skip(n) // first of all: what the instance does not take is no request that follows
		for _, part := range [2][]byte{rest[:asIs], tail} {
			if len(part) == 0 {
				continue
			}
			if _, err := u.conn.Write(part); err != nil {
				c.body.unsent = true
				return // the answer says why, if there is one
			}
		}
		sent, err := int64(0), error(nil)
		if !c.body.done && plenty {
			sent, err = c.splice(u)
		}
		if c.body.done {
			c.watcher.armBehindBody() // the answer may take long
			return
		}
		if err != nil {
			return
		}
		if sent > 0 {
			continue
		}
		if err := c.fillBody(); err != nil {
			if !c.halted.Load() { // else it is not the client's doing
				c.breakOff(u, err)
			}
			return
		}
	}
}

// fillBody reads more of the body, as long as there is patience with the client.
func (c *fastConn) fillBody() error {
	if !c.body.paced {
		return c.fillBehindHead()
	}
	start, before := time.Now(), len(c.unread())
	c.body.deadline = c.body.patience.deadline(start)
	err := c.fillBehindHead()
	c.body.patience.got(len(c.unread())-before, time.Since(start))
	c.body.deadline = time.Time{}
	c.body.slow = errors.Is(err, os.ErrDeadlineExceeded) && !c.halted.Load()
	return err
}

// fillBehindHead reads more behind the head of the present request. The deadline that a wait sets stays for
// the next read, which it ends at once where it has passed meanwhile: the wait for the head was
// short, or the instance took nothing for long. That is not the client's doing.
func (c *fastConn) fillBehindHead() error {
	err := c.fill()
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.halted.Load() && !c.deadline.Equal(c.body.deadline) {
		c.setDeadline(c.body.deadline)
		err = c.fill()
	}
	return err
}

func (c *fastConn) breakOff(u *upstream, err error) {
	c.body.failed = err
	_ = u.conn.Close()
}

// spliceFrom is how much there has to be left of a body for the kernel to copy it. A part of an
// answer is small enough for a slow client to take within sendTimeout: what it has taken by then is not known.
const (
	spliceFrom   = 64 << 10
	spliceSize   = 1 << 20
	spliceAnswer = 256 << 10
)

// splice has the kernel copy a part of a large body with a length. It sends nothing where
// that is not possible.
func (c *fastConn) splice(u *upstream) (sent int64, err error) {
	if c.body.kind != http1.BodyLength || c.body.left < spliceFrom || c.raw == nil || u.raw == nil || c.body.unspliced {
		return 0, nil
	}
	if c.body.paced {
		c.body.deadline = c.body.patience.deadline(time.Now())
	}
	c.beforeWait()
	c.body.deadline = time.Time{}
	c.shrink()
	sent, err = io.CopyN(u.tcp, c.tcp, min(c.body.left, spliceSize))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.body.unspliced, err = true, nil // who was slow, the client or the instance?
	}
	c.body.left -= sent
	c.body.bytes += sent
	c.body.done = c.body.left == 0
	switch {
	case errors.Is(err, io.EOF):
		c.breakOff(u, io.ErrUnexpectedEOF)
	case err != nil:
		// The error does not tell whose it is. Where it is the instance's, its answer ends the wait
		// for the client; and where that says more, what was copied in part is lost anyway.
		c.body.unsent = true
		if broken := c.fillBehindHead(); broken != nil && !c.halted.Load() {
			c.breakOff(u, broken)
		}
	}
	return sent, err
}

// isPumping says whether the rest of the body is being sent.
func (c *fastConn) isPumping() bool {
	if c.body.pumping == nil {
		return false
	}
	select {
	case <-c.body.pumping:
		return false
	default:
		return true
	}
}

// pumpHasEnded says whether there was a pump, and it has sent the whole body.
func (c *fastConn) pumpHasEnded() bool {
	if c.body.pumping == nil || c.isPumping() || !c.body.done || c.body.failed != nil || c.body.unsent {
		return false
	}
	c.body.pumping = nil
	return true
}

// stopPump ends the pump, where it still runs, and says whether all of the body was sent.
func (c *fastConn) stopPump(u *upstream) (complete bool) {
	if c.body.pumping == nil {
		return c.body.done
	}
	select {
	case <-c.body.pumping:
	default:
		_ = u.conn.Close()
		c.halt()
		<-c.body.pumping
		c.resume()
	}
	c.body.pumping = nil
	return c.body.done && c.body.failed == nil && !c.body.unsent
}
