package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
	"github.com/layover-dev/layover/internal/route"
)

// The fast path serves HTTP/1.1 to instances that speak it, with one goroutine for a
// connection and no allocation for a request. What it does not do (HTTP/2 on either
// side) it hands to net/http, the connection and all. Decision, fields, errors and
// records are those of the exchange, which both share.

const (
	// patienceForAnswer is how long the fast path waits for the beginning of an answer
	// before it looks whether the client is still there.
	patienceForAnswer = 100 * time.Millisecond

	// halfCloseGrace is how long a client that has closed its side is thought to wait for
	// the answer.
	halfCloseGrace = 5 * time.Second

	// lingerTime and lingerBytes bound how much of what a client still sends is read before its
	// connection is closed, so that it gets to read the answer.
	lingerTime  = time.Second
	lingerBytes = 4 << 20
)

// fastConn is one client's connection on the fast path, with the request that is on it.
type fastConn struct {
	*exchange       // of the present request, borrowed; nil between two
	body      *body // the same
	source

	proxy *Proxy
	door  *door
	from  sender // who is at the other end

	head     http1.Head
	used     input   // the buffer of the present request's head, where the input has moved on
	out      *[]byte // what is written next, borrowed for the time of a request
	up       atomic.Pointer[upstream]
	watcher  watcher
	room     int    // taken of the proxy's headroom
	parkedAs uint64 // guarded by the mutex of the parking

	now          time.Time // when the present request was read, else when the last one ended
	deadline     time.Time // for reading; zero where there is none
	until        time.Time // when the client has taken too long with the head, or was idle for too long
	headSince    time.Time // when the first byte of the present head came; zero before
	writeLimited time.Time // when the limit for writing was set

	state  atomic.Int32
	cut    atomic.Bool // the proxy ends the request, as its time to drain is over
	halted atomic.Bool // a read that another goroutine is in is to end; see halt

	trusted   bool // what the client's address says of other clients is believed
	inHead    bool // the head of a request is being read
	kept      bool // used is set
	headMoved bool // the head has moved to a place of its own
	served    bool // a request was answered
	settled   bool // it keeps its goroutine
	wasParked bool
	failed    bool // writing to the client failed
	last      bool // nothing can be served on the connection after this request
	upgraded  bool // it was a tunnel
}

// The states of a connection, so that a proxy that stops knows which it may close.
const (
	connIdle   int32 = iota // it may be closed
	connActive              // a request is on it
	connClosed              // it is being closed
)

// outcome says what becomes of a connection after a request.
type outcome uint8

const (
	goOn   outcome = iota // read another
	hangUp                // close it
	passOn                // net/http serves it from here on
	wait                  // for the client, without a goroutine
)

func newFastConn(d *door, conn net.Conn, encrypted bool) *fastConn {
	c := &fastConn{door: d, proxy: d.proxy, now: time.Now()}
	c.onWait, c.little = c.beforeWait, true
	c.open(conn)
	c.from = senderOf(conn.RemoteAddr().String(), encrypted, d.Trusted)
	c.trusted = d.proxy.trusted.contains(c.from.peer)
	c.watcher.c = c
	c.proxy.clients.add(c)
	return c
}

// drive serves what the client sends: to the end of the connection, or until it is parked.
func (c *fastConn) drive() {
	defer c.surviveRequest()
	for {
		switch what := c.next(); what {
		case goOn:
		case wait:
			if c.proxy.parking.park(c) {
				return // and c is another goroutine's, from now on
			}
			c.settled = true
		default:
			c.finish(what)
			return
		}
	}
}

// survive ends the connection, instead of the program, where something here is at fault. It is
// for the goroutines beside the one that carries the request, which learns of it by that.
func (c *fastConn) survive() {
	if fault := recover(); fault != nil {
		c.dropFor(fault)
	}
}

// surviveRequest is survive for the goroutine that carries the request: it gives back its place.
func (c *fastConn) surviveRequest() {
	if fault := recover(); fault != nil {
		c.dropFor(fault)
		if c.exchange != nil {
			c.vacate()
		}
		c.proxy.headroom.give(c.room)
	}
}

func (c *fastConn) dropFor(fault any) {
	c.proxy.options.Logger.Error("connection dropped: a fault of the proxy itself, please report it", "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
	_ = c.conn.Close()
	if u := c.up.Load(); u != nil {
		_ = u.conn.Close()
	}
	c.proxy.clients.remove(c)
}

// finish ends the connection, or what is left of it here.
func (c *fastConn) finish(what outcome) {
	c.proxy.clients.remove(c)
	if what == hangUp {
		_ = c.conn.Close()
		c.release()
	}
	c.used.release()
	c.settle()
}

// settle gives back the headroom that is not needed any more.
func (c *fastConn) settle() {
	if now := c.excess() + c.used.excess(); now < c.room {
		c.proxy.headroom.give(c.room - now)
		c.room = now
	}
}

// close closes the connection from outside.
func (c *fastConn) close() {
	_ = c.conn.Close()
	if c.proxy.parking.take(c) {
		c.finish(hangUp)
	}
}

// next reads a request and answers it.
func (c *fastConn) next() outcome {
	n, err := c.readHead()
	if err != nil {
		if c.mayWait(err) {
			return wait
		}
		return c.noHead(err)
	}
	c.proxy.active.enter()
	defer c.proxy.active.leave()
	c.now = time.Now()
	size := n
	if c.isToCome(n) {
		c.moveHead(n)
		n = 0
	}
	c.beginExchange()
	c.last = c.head.Close || c.head.Minor == 0 && !c.head.KeepAlive
	if c.head.Upgrade && c.wantsHTTP2() {
		return c.handOver(false)
	}
	problem := c.find()
	c.watcher.stop()
	if problem == nil && c.decision.Service.Protocol == route.H2C {
		c.vacate()
		return c.handOver(false)
	}
	c.skip(n)
	if problem != nil {
		c.answer(problem)
	} else {
		c.forward()
	}
	c.end()
	c.now = c.record.Time.Add(c.record.Duration)
	if size > inputSize {
		c.forget()
	}
	what := c.leave()
	if size > inputSize {
		c.trim()
	}
	c.settle()
	return what
}

// forget lets go of a head that has a large buffer of its own, which views of it would keep.
func (c *fastConn) forget() {
	c.head = http1.Head{}
	c.exchange = nil
}

// beginExchange borrows what a request needs, and reads the head.
func (c *fastConn) beginExchange() {
	c.exchange = c.proxy.exchanges.Get().(*exchange)
	c.exchange.proxy, c.client = c.proxy, c
	c.body = bodies.Get().(*body)
	c.body.begin(&c.head)
	c.rq.sender = c.from
	c.rq.take(&c.head)
	c.begin(c.now)
}

// leave ends a request, and says what becomes of the connection.
func (c *fastConn) leave() outcome {
	c.served = true
	open := !c.body.done
	c.giveBack()
	switch {
	case c.failed || c.upgraded || c.cut.Load():
		return hangUp
	case c.last || open:
		c.linger()
		return hangUp
	}
	c.state.Store(connIdle)
	if c.proxy.clients.drained.Load() {
		return hangUp
	}
	return goOn
}

// endsWithProxy makes the request the connection's last where the proxy ends. It is called
// before the head of an answer is written, which says so.
func (c *fastConn) endsWithProxy() {
	c.last = c.last || c.proxy.isStopping() || c.proxy.retired.Load() && !c.head.Upgrade
}

// giveBack gives back what was borrowed for a request.
func (c *fastConn) giveBack() {
	if c.kept {
		c.used.release()
		c.kept, c.headMoved = false, false
	}
	c.giveBackOut()
	if c.exchange != nil {
		c.client = nil
		c.proxy.exchanges.Put(c.exchange)
		c.exchange = nil
		*c.body = body{}
		bodies.Put(c.body)
		c.body = nil
	}
}

// blank returns an empty buffer to write in. What is written is left in c.out.
func (c *fastConn) blank() []byte {
	if c.out == nil {
		c.out = outs.Get().(*[]byte)
	}
	return (*c.out)[:0]
}

func (c *fastConn) giveBackOut() {
	if c.out != nil && cap(*c.out) <= maxOut {
		outs.Put(c.out)
	}
	c.out = nil
}

// isToCome says whether part of the body may be still to come behind a head of n bytes.
func (c *fastConn) isToCome(n int) bool {
	rest := c.unread()[n:]
	switch c.head.Body {
	case http1.BodyLength:
		return int64(len(rest)) < c.head.Length
	case http1.BodyChunked:
		return !bytes.HasSuffix(rest, []byte("0\r\n\r\n"))
	}
	return false
}

// moveHead moves the head to where it takes no more room than it needs: a body may be long in coming.
func (c *fastConn) moveHead(n int) {
	own := bytes.Clone(c.unread()[:n])
	c.head.Reset()
	_, _ = c.head.ReadRequest(own, c.proxy.limits) // as it was read before
	c.skip(n)
	c.used, c.kept, c.headMoved = input{buf: own, w: len(own)}, true, true
}

// outs lends the buffers that heads are written in.
var outs = sync.Pool{New: func() any {
	b := make([]byte, 0, 4<<10)
	return &b
}}

const maxOut = 64 << 10 // a buffer that has grown larger is not kept

var errStopped = errors.New("the connection is being closed")

// readHead reads the head of the next request, and returns its length.
func (c *fastConn) readHead() (n int, err error) {
	if !c.inHead {
		c.head.Reset()
		c.inHead, c.headSince = true, time.Time{}
	}
	for {
		rest := c.unread()
		if len(rest) > 0 && c.state.Load() == connIdle && !c.state.CompareAndSwap(connIdle, connActive) {
			return 0, errStopped
		}
		if len(rest) > 0 {
			speaks := no
			if !c.served {
				speaks = speaksHTTP2(rest)
			}
			switch speaks {
			case yes:
				return 0, errHTTP2
			case no:
				n, err = c.head.ReadRequest(rest, c.proxy.limits)
				if n > 0 || err != nil {
					c.inHead, c.hurried = false, false
					return n, err
				}
			}
		}
		// Most clients send a head at once, and at once after they have connected. One that does
		// not gets no goroutine to wait for it; one that is idle between two requests keeps it for a while.
		c.hurried = c.canPark() && (!c.served || len(rest) > 0)
		if more := c.growth(); more > 0 {
			if !c.proxy.headroom.take(more) {
				c.inHead, c.hurried = false, false
				return 0, errNoRoom
			}
			c.room += more
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
}

// mayWait says whether an error of reading a head means only that the client takes its time:
// then the connection can be parked.
func (c *fastConn) mayWait(err error) bool {
	if !errors.Is(err, errWouldWait) && !errors.Is(err, os.ErrDeadlineExceeded) || !c.canPark() || !time.Now().Before(c.until) {
		return false
	}
	c.setDeadline(time.Time{})
	return true
}

func (c *fastConn) canPark() bool { return !c.settled && c.raw != nil && c.proxy.parking != nil }

var (
	errHTTP2  = errors.New("the client speaks HTTP/2")
	errNoRoom = errors.New("large heads take as much memory as they may")
)

// noHead ends or hands on a connection on which there is no request to serve.
func (c *fastConn) noHead(err error) outcome {
	var problem *problem
	switch refused, ok := errors.AsType[*http1.Error](err); {
	case ok:
		problem = malformed(refused)
	case errors.Is(err, errHTTP2):
		return c.handOver(true)
	case errors.Is(err, errNoRoom):
		problem = tooManyLargeHeaders(c.proxy.headroom.most)
	default:
		return hangUp // the client left, or took too long
	}
	c.proxy.active.enter()
	defer c.proxy.active.leave()
	c.now, c.last = time.Now(), true
	c.head.Reset()
	c.head.Minor = 1
	c.beginExchange() // of a request without a body
	c.answer(problem)
	c.end()
	c.giveBack()
	c.linger()
	return hangUp
}

// handOver gives the connection to net/http, which reads the present request anew.
func (c *fastConn) handOver(http2 bool) outcome {
	if !c.deadline.IsZero() {
		_ = c.conn.SetReadDeadline(time.Time{})
	}
	c.unlimitWrite()
	strict := newStrictConn(c.proxy, c.conn, c.from.encrypted)
	if c.headMoved { // net/http reads it, too
		c.prepend(c.used.buf)
	}
	strict.source.input, c.input = c.input, input{}
	strict.room, c.room = c.room, 0
	strict.begun = true
	if http2 {
		strict.startHTTP2()
	}
	c.giveBack()
	c.door.hand(strict)
	return passOn
}

// wantsHTTP2 says whether the request asks to go on in HTTP/2.
func (c *fastConn) wantsHTTP2() bool {
	for i := range c.head.Fields {
		if f := &c.head.Fields[i]; f.Name == http1.UpgradeName && http1.HasElement(f.Value, "h2c") {
			return true
		}
	}
	return false
}

// keepHead lets the input be read further while what was read of the request stays.
func (c *fastConn) keepHead() {
	if !c.kept {
		c.used = c.split()
		c.kept = true
	}
}

// beforeWait sets how long the client may take for what is waited for.
func (c *fastConn) beforeWait() {
	o := &c.proxy.options
	if !c.inHead {
		c.setDeadline(c.body.deadline)
		return
	}
	switch {
	case len(c.unread()) > 0 && c.headSince.IsZero():
		c.headSince = time.Now()
		if !c.served {
			c.headSince = c.now // from when the connection was made
		}
		c.until = c.headSince.Add(o.HeaderTimeout)
	case len(c.unread()) > 0:
	case !c.served:
		c.until = c.now.Add(o.HeaderTimeout)
	default:
		c.until = c.now.Add(o.IdleTimeout)
	}
	if c.hurried {
		return
	}
	if !c.canPark() {
		c.setDeadline(c.until)
		return
	}
	// Near enough is good enough: setting a deadline costs more than keeping the books of a request.
	now := time.Now()
	if left := c.deadline.Sub(now); left < parkAfter/2 || left > parkAfter || c.deadline.After(c.until) {
		c.setDeadline(minTime(now.Add(parkAfter), c.until))
	}
}

func (c *fastConn) setDeadline(t time.Time) {
	if !t.Equal(c.deadline) {
		c.deadline = t
		_ = c.conn.SetReadDeadline(t)
		if c.halted.Load() { // just now, and the deadline for that is lost
			_ = c.conn.SetReadDeadline(longAgo)
		}
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// halt ends the read that another goroutine is in, or is about to begin. When that has
// returned, resume makes reading possible again.
func (c *fastConn) halt() {
	c.halted.Store(true)
	_ = c.conn.SetReadDeadline(longAgo)
}

// resume takes back halt.
func (c *fastConn) resume() {
	c.halted.Store(false)
	_ = c.conn.SetReadDeadline(time.Time{})
	c.deadline = time.Time{}
}

// answer answers with a problem.
func (c *fastConn) answer(pr *problem) {
	answer := c.refuse(pr)
	if pr.code == CodeClientGone {
		c.failed = true
		return
	}
	if !c.body.skip(&c.input) || pr.distrusts() {
		c.last = true
	}
	c.endsWithProxy()
	b := appendStatusLine(c.blank(), c.head.Minor, answer.status, http.StatusText(answer.status))
	for _, f := range answer.fields {
		b = appendField(b, f.name, f.value)
	}
	if answer.body == nil {
		b = append(b, "Content-Length: 0\r\n"...)
	}
	b = c.appendEnd(b, false)
	if c.rq.method != http.MethodHead {
		b = append(b, answer.body...)
		c.record.BytesOut = int64(len(answer.body))
	}
	*c.out = b
	c.startAnswer(answer.status)
	c.write(b)
}

// startAnswer notes that the answer begins.
func (c *fastConn) startAnswer(status int) {
	c.record.Status = status
	c.record.FirstByte = time.Since(c.record.Time)
}

// write writes to the client. One that takes nothing of it for long is thought to have left.
func (c *fastConn) write(b []byte) bool {
	c.limitWrite()
	if _, err := c.conn.Write(b); err != nil {
		c.failed = true
	}
	return !c.failed
}

// linger reads what the client still sends, for a while: closing with something
// unread would take the answer away from it.
func (c *fastConn) linger() {
	if closeWrite(c.conn) != nil {
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(lingerTime))
	c.onWait = nil
	for n := 0; n < lingerBytes; {
		c.skip(len(c.unread()))
		if c.fill() != nil {
			return
		}
		n += len(c.unread())
	}
}

// gone is for [client].
func (c *fastConn) gone() <-chan struct{} { return c.watcher.start() }

// left is for [client].
func (c *fastConn) left() Code {
	switch {
	case c.cut.Load():
		return CodeStopping
	case c.failed || c.watcher.isGone():
		return CodeClientGone
	}
	return CodeAborted
}

// values is for [client].
func (c *fastConn) values(name string) []string {
	var values []string
	for i := range c.head.Fields {
		if f := &c.head.Fields[i]; f.Name == http1.Other && http1.IsName(f, name) {
			values = append(values, view(f.Value))
		}
	}
	return values
}

// cutOff ends the request on the proxy's command: its time to drain is over.
func (c *fastConn) cutOff() {
	c.cut.Store(true)
	c.close()
	if u := c.up.Load(); u != nil {
		_ = u.conn.Close()
	}
}
