package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
)

// strictConn is a client's connection that net/http serves. It reads along, and lets only
// those requests through whose framing is beyond doubt: net/http's server itself
// takes bare LF, folded lines, and more. Of a request that is refused, the server gets
// none of its bytes, but one that says so, and the handler answers it in its turn.
//
// It also hides the end of the client's side while a request is answered, for a while:
// a client that has sent its request may close its half of the connection, which the
// server would take for a client that left.
type strictConn struct {
	net.Conn
	source    source
	limits    http1.Limits
	headroom  *headroom
	grace     time.Duration // see halfCloseGrace
	headTime  time.Duration // how long a head may take from its first byte on
	sendTime  time.Duration // how long the client may take nothing of an answer
	encrypted bool

	head    http1.Head
	chunked http1.Chunked
	state   strictState
	begun   bool  // it is known that this is not HTTP/2
	passed  int   // bytes at the beginning of what is unread that may be read
	left    int64 // of a body with a length
	refused *problem
	badBody atomic.Bool // the body of a request is malformed

	upgrade bool // the request that is being read asks for another protocol

	mu      sync.Mutex
	busy    int           // requests that were let through, and are not yet answered
	verdict verdict       // on the wish to upgrade
	until   time.Time     // the deadline that the server has set for reading
	expired bool          // it is over
	headDue time.Time     // when the head that has begun is to be complete; zero where none has
	room    int           // taken of the headroom
	givenUp bool          // nothing more is read
	closing bool          // Close was called
	quiet   chan struct{} // closed when busy becomes 0, or a read is to end; nil while nobody waits
}

type verdict uint8

const (
	undecided verdict = iota
	granted
	denied
)

type strictState uint8

const (
	strictHead    strictState = iota
	strictLength              // a body with a length
	strictChunked             // a chunked body
	strictVerdict             // nothing, until it is known whether the connection is upgraded
	strictOpen                // anything: HTTP/2, or another protocol
	strictEnd                 // nothing more
)

// newStrictConn takes over a new connection.
func newStrictConn(p *Proxy, conn net.Conn, encrypted bool) *strictConn {
	c := &strictConn{Conn: conn, limits: p.limits, headroom: &p.headroom, grace: p.halfCloseGrace, headTime: p.options.HeaderTimeout, sendTime: p.sendTimeout, encrypted: encrypted}
	c.source.open(conn)
	c.source.onWait = c.beforeWait
	return c
}

// startHTTP2 says that the client speaks HTTP/2 from here on, which needs no such care.
func (c *strictConn) startHTTP2() {
	c.begun, c.state = true, strictOpen
	c.mu.Lock()
	c.busy = 0 // the server of HTTP/2 has its own books
	c.endHeadLocked()
	c.verdict = granted
	c.mu.Unlock()
	_ = c.Conn.SetWriteDeadline(time.Time{})
	batch := newBatchConn(c.Conn, c.sendTime)
	batch.start()
	c.Conn = batch
}

// preface is what a client of HTTP/2 sends first (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

type answerYet uint8

const (
	no answerYet = iota
	yes
	unclear // too little was read
)

// speaksHTTP2 says whether a connection that begins with b speaks HTTP/2.
func speaksHTTP2(b []byte) answerYet {
	n := min(len(b), len(preface))
	switch {
	case string(b[:n]) != preface[:n]:
		return no
	case n < len(preface):
		return unclear
	}
	return yes
}

// Read reads what may be read. Only the server's goroutines call it, one at a time.
func (c *strictConn) Read(p []byte) (int, error) {
	for c.passed == 0 {
		if err := c.pass(); err != nil {
			switch {
			case c.isGivenUp():
				return 0, errGivenUp
			case errors.Is(err, io.EOF):
				return 0, c.endOfClient()
			}
			return 0, err
		}
	}
	n := copy(p, c.source.unread()[:c.passed])
	c.source.skip(n)
	if c.passed -= n; c.passed == 0 && c.source.excess() > 0 {
		c.source.trim()
		c.settle(c.source.excess())
	}
	return n, nil
}

// takeRoom takes headroom for what is to be read next, where there is enough.
func (c *strictConn) takeRoom() bool {
	more := c.source.growth()
	if more == 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || !c.headroom.take(more) {
		return false
	}
	c.room += more
	return true
}

// settle gives back all headroom but so much.
func (c *strictConn) settle(needed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room > needed {
		c.headroom.give(c.room - needed)
		c.room = needed
	}
}

// Write writes to the client. One that takes nothing of an answer for long is thought to have left. What
// is no longer HTTP/1.1 has its own limits, or none.
func (c *strictConn) Write(p []byte) (int, error) {
	if c.isLimited() {
		return sendWithin(c.Conn, p, c.sendTime)
	}
	return c.Conn.Write(p)
}

func (c *strictConn) isLimited() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.verdict != granted
}

// pass lets more of what is unread through, or reads more.
func (c *strictConn) pass() error {
	rest := c.source.unread()
	switch c.state {
	case strictHead:
		if !c.begun {
			switch speaksHTTP2(rest) {
			case yes:
				c.startHTTP2()
				return nil
			case unclear:
				return c.source.fill()
			}
			c.begun = true
		}
		n, err := c.head.ReadRequest(rest, c.limits)
		if err == nil && n > 0 {
			err = checkForm(&c.head)
		}
		if refused, ok := errors.AsType[*http1.Error](err); ok {
			c.refuse(malformed(refused))
			return nil
		}
		if n == 0 && !c.takeRoom() {
			c.refuse(tooManyLargeHeaders(c.headroom.most))
			return nil
		}
		if n == 0 {
			return c.source.fill()
		}
		c.passed = n
		c.behindHead()
	case strictVerdict:
		return c.awaitVerdict()
	case strictEnd:
		return io.EOF
	default:
		if len(rest) == 0 {
			return c.source.fill()
		}
		return c.passBody(rest)
	}
	return nil
}

// beforeWait has the time for a head begin with its first byte. The server gives an idle connection
// its time until the whole head is there, as it gets no byte of it before.
func (c *strictConn) beforeWait() {
	if c.state != strictHead || len(c.source.unread()) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy == 0 && c.headDue.IsZero() {
		c.headDue = time.Now().Add(c.headTime)
		_ = c.limitReadLocked()
	}
}

// endHeadLocked is for a head that is complete.
func (c *strictConn) endHeadLocked() {
	if !c.headDue.IsZero() {
		c.headDue = time.Time{}
		_ = c.limitReadLocked()
	}
}

// limitReadLocked sets the deadline that is nearer: the server's, or that of the head.
func (c *strictConn) limitReadLocked() error {
	t := c.until
	switch {
	case c.givenUp:
		t = longAgo
	case t.IsZero(), !c.headDue.IsZero() && c.headDue.Before(t):
		t = c.headDue
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *strictConn) behindHead() {
	c.mu.Lock()
	c.endHeadLocked()
	c.busy++ // from now on: the client may close its side before the server has begun
	if c.upgrade = c.head.Upgrade; c.upgrade {
		c.verdict = undecided
	}
	c.mu.Unlock()
	switch {
	case c.head.Body == http1.BodyChunked:
		c.state, c.chunked = strictChunked, http1.Chunked{}
	case c.head.Body == http1.BodyLength && c.head.Length > 0:
		c.state, c.left = strictLength, c.head.Length
	default:
		c.behindMessage()
	}
	c.head.Reset()
}

func (c *strictConn) behindMessage() {
	c.state = strictHead
	if c.upgrade {
		c.state = strictVerdict
	}
}

func (c *strictConn) passBody(rest []byte) error {
	switch c.state {
	case strictLength:
		c.passed = int(min(int64(len(rest)), c.left))
		if c.left -= int64(c.passed); c.left == 0 {
			c.behindMessage()
		}
	case strictChunked:
		for len(rest) > 0 && !c.chunked.Done() {
			n, _, err := c.chunked.Next(rest)
			if err != nil {
				c.state = strictEnd
				c.badBody.Store(true)
				return err
			}
			c.passed += n
			rest = rest[n:]
		}
		if c.chunked.Done() {
			c.behindMessage()
		}
	default:
		c.passed = len(rest)
	}
	return nil
}

// refuse puts a request in the place of what is refused, and ends the connection behind it.
func (c *strictConn) refuse(pr *problem) {
	c.refused, c.state = pr, strictEnd
	c.source.release()
	c.settle(0)
	c.source.buf = []byte("GET / HTTP/1.1\r\nHost: refused\r\n" + refusedHeader + ": " + refusedToken() + "\r\nConnection: close\r\n\r\n")
	c.source.w = len(c.source.buf)
	c.passed = c.source.w
}

// refusedHeader marks a request that stands for one that is refused. Its value is a
// secret of this process, so that no client can send it.
const refusedHeader = "Layover-Refused"

var refusedToken = sync.OnceValue(rand.Text)

// refusalOf returns the problem of a request that stands for one that is refused, else nil.
func refusalOf(r *http.Request) *problem {
	if r.Header.Get(refusedHeader) != refusedToken() {
		return nil
	}
	if c := strictConnOf(r.Context()); c != nil && c.refused != nil {
		return c.refused
	}
	return nil
}

// checkForm refuses a target that has no form (RFC 9112, section 3.2), and the absolute form
// of one that disagrees with Host: one parser goes by the one, and another by the other.
func checkForm(h *http1.Head) error {
	rq := request{target: view(h.Target)}
	rq.splitTarget()
	switch {
	case rq.scheme == "" && rq.target[0] != '/' && rq.target != "*" && string(h.Method) != http.MethodConnect:
		return &http1.Error{Status: http.StatusBadRequest, What: "it asks for neither a path nor a URL"}
	case rq.scheme == "":
		return nil
	}
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Name == http1.Host && !sameAuthority(rq.authority, view(f.Value)) {
			return &http1.Error{Status: http.StatusBadRequest, What: "the URL it asks for and its Host name different hosts"}
		}
	}
	return nil
}

// endOfClient waits with the news that the client's side has ended until the request in
// progress is answered, or nobody can be expected to wait for it any more.
func (c *strictConn) endOfClient() error {
	c.mu.Lock()
	switch {
	case c.expired:
		c.mu.Unlock()
		return os.ErrDeadlineExceeded
	case c.busy == 0:
		c.mu.Unlock()
		return io.EOF
	}
	quiet := c.quietLocked()
	c.mu.Unlock()
	timer := time.NewTimer(c.grace)
	defer timer.Stop()
	select {
	case <-quiet:
		return os.ErrDeadlineExceeded
	case <-timer.C:
		return io.EOF
	}
}

// awaitVerdict waits until it is known whether the connection goes on in another protocol.
func (c *strictConn) awaitVerdict() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verdict == undecided && !c.expired {
		quiet := c.quietLocked()
		c.mu.Unlock()
		<-quiet
		c.mu.Lock()
	}
	switch c.verdict {
	case granted:
		c.state = strictOpen
	case denied:
		c.state = strictHead
	default:
		return os.ErrDeadlineExceeded // as the server asked
	}
	return nil
}

// grant says that the connection goes on in another protocol.
func (c *strictConn) grant() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verdict = granted
	_ = c.Conn.SetWriteDeadline(time.Time{})
	c.wakeLocked()
}

func (c *strictConn) quietLocked() chan struct{} {
	if c.quiet == nil {
		c.quiet = make(chan struct{})
	}
	return c.quiet
}

// end says that a request was answered.
func (c *strictConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = max(0, c.busy-1); c.busy == 0 {
		if c.verdict == undecided {
			c.verdict = denied
		}
		c.wakeLocked()
	}
}

func (c *strictConn) wakeLocked() {
	if c.quiet != nil {
		close(c.quiet)
		c.quiet = nil
	}
}

// errGivenUp is that of reading what nobody wants.
var errGivenUp = errors.New("what the client still sends is not wanted")

// giveUp ends reading, for good: the rest of the request that is being read has nowhere to go. The client
// can still be answered.
func (c *strictConn) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.givenUp, c.expired = true, true
	c.wakeLocked()
	_ = c.limitReadLocked()
}

func (c *strictConn) isGivenUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.givenUp
}

// Close closes the connection. A client that was given up gets to read its answer first.
func (c *strictConn) Close() error {
	c.mu.Lock()
	lingers := c.givenUp && !c.closing
	c.closing = true
	c.mu.Unlock()
	c.settle(0)
	if lingers && c.CloseWrite() == nil {
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
	}
	return c.Conn.Close()
}

// SetReadDeadline also ends a wait for the end of the request, where the time is over.
func (c *strictConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expired = c.givenUp || !t.IsZero() && !t.After(time.Now()); c.expired {
		c.wakeLocked()
	}
	c.until = t
	return c.limitReadLocked()
}

// SetWriteDeadline does nothing: the server's limit is for a whole answer, and meant for HTTP/2.
func (c *strictConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline, and the same for writing.
func (c *strictConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite tells the client that nothing more comes.
func (c *strictConn) CloseWrite() error { return closeWrite(c.Conn) }

type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// strictConnOf returns the connection that a request came on; nil where it is HTTP/2
// over TLS.
func strictConnOf(ctx context.Context) *strictConn {
	c, _ := ctx.Value(connKey{}).(*strictConn)
	return c
}
