package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
	"github.com/layover-dev/layover/internal/route"
)

const crlf = "\r\n"

// forward sends the request to the instance, and its answer to the client.
func (c *fastConn) forward() {
	start, tail, ok := c.takeBody()
	if !ok {
		return
	}
	u, err := c.send(start, tail)
	if u == nil || err != nil {
		c.giveUp(u, err)
		return
	}
	c.passAnswer(u)
}

// takeBody takes what is there of the body: start is to be sent as it is, and tail behind it.
func (c *fastConn) takeBody() (start, tail []byte, ok bool) {
	rest := c.unread()
	n, asIs, tail, err := c.body.take(rest)
	if err != nil {
		c.last = true
		c.answer(badBody())
		return nil, nil, false
	}
	c.skip(n)
	return rest[:asIs], tail, true
}

// passAnswer passes on the answer of which the head was read, and keeps the connection that it
// came over, or ends it.
func (c *fastConn) passAnswer(u *upstream) {
	c.answered(u.head.Status)
	c.endsWithProxy()
	complete := c.relay(u)
	sent := c.stopPump(u)
	c.watcher.stop()
	c.record.BytesIn = max(c.record.BytesIn, c.body.bytes)
	c.up.Store(nil)
	if !sent {
		c.last = true
	}
	if complete && sent && u.canServeMore() {
		u.release()
		c.flight.connections(&c.proxy.pools, c.instance).put(u, time.Now(), idleLimit(c.instance))
		return
	}
	_ = u.conn.Close()
	u.release()
	if !complete && !c.upgraded {
		c.record.Error = string(c.left())
		c.failed = true // the client must not take a part for the whole
	}
}

// send sends the request with what is there of its body, and reads the head of the answer.
// It tries again where nothing can have been acted on: where no connection could be
// made, another instance; where a kept connection turns out to be closed, a new one.
func (c *fastConn) send(start, tail []byte) (u *upstream, err error) {
	fresh := false
	for {
		u, err = c.connect(fresh)
		if err != nil {
			if !c.isUnwanted() && c.unreachable(err) && c.moveOn() {
				continue
			}
			return nil, err
		}
		b := append(append(c.appendRequest(c.blank()), start...), tail...)
		*c.out = b
		wrote, err := u.conn.Write(b)
		if err != nil && wrote == 0 && u.reused {
			c.drop(u)
			fresh = true
			continue
		}
		if err == nil && c.body.done {
			c.watcher.arm()
		} else if err == nil {
			c.giveBackOut() // both may take long
			c.startPump(u)
		}
		answerErr := c.readAnswer(u)
		if c.proxy.options.AnswerTimeout > 0 {
			_ = u.conn.SetReadDeadline(time.Time{})
		}
		if answerErr == nil {
			return u, nil
		}
		if c.body.pumping == nil {
			c.watcher.stop()
		}
		if err == nil {
			err = answerErr
		}
		if u.reused && len(u.unread()) == 0 && c.body.pumping == nil && isSafe(c.rq.method) && len(start)+len(tail) == 0 &&
			isBrokenConnection(err) && !errors.Is(err, os.ErrDeadlineExceeded) && c.left() == CodeAborted {
			c.drop(u)
			fresh = true
			continue
		}
		return u, err
	}
}

// isSafe says whether a request with this method asks for nothing to be changed (RFC 9110,
// section 9.2.1), so that it may be sent again where the first was lost.
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// connect takes or makes a connection to the instance.
func (c *fastConn) connect(fresh bool) (*upstream, error) {
	var u *upstream
	if !fresh {
		u = c.flight.connections(&c.proxy.pools, c.instance).take(time.Now())
	}
	if u == nil {
		var err error
		if u, err = c.dial(); err != nil {
			return nil, err
		}
	}
	c.up.Store(u)
	if c.cut.Load() || !u.reused && c.watcher.isGone() {
		_ = u.conn.Close() // what comes next fails
	}
	return u, nil
}

// dialing stands for a connection that is being made: closing it ends the attempt.
type dialing struct {
	net.Conn
	cancel context.CancelFunc
}

// Close ends the attempt.
func (d dialing) Close() error {
	d.cancel()
	return nil
}

// dial makes a connection to the instance, as long as somebody waits for the answer.
func (c *fastConn) dial() (*upstream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.up.Store(&upstream{source: source{conn: dialing{cancel: cancel}}})
	defer c.up.Store(nil)
	if c.cut.Load() {
		cancel()
	}
	c.watcher.arm()
	defer c.watcher.stop()
	return c.proxy.connect(ctx, c.instance)
}

// isUnwanted says whether nobody waits for the answer any more.
func (c *fastConn) isUnwanted() bool { return c.cut.Load() || c.watcher.isGone() }

func (c *fastConn) drop(u *upstream) {
	c.up.Store(nil)
	_ = u.conn.Close()
	u.release()
}

// giveUp answers a request that got no answer.
func (c *fastConn) giveUp(u *upstream, err error) {
	if u != nil {
		c.drop(u)
		c.stopPump(u)
		c.watcher.stop()
	}
	c.record.BytesIn = c.body.bytes
	if !c.body.done {
		c.last = true
	}
	switch {
	case c.isUnwanted():
		c.answer(c.unwanted())
	case c.body.slow:
		c.answer(slowBody(&c.proxy.options.BodyRate))
	case c.body.refused:
		c.answer(badBody())
	case c.body.failed != nil && errors.Is(c.body.failed, io.EOF):
		c.answer(badBody())
	case c.body.failed != nil:
		c.failed = true
		c.record.Error = string(CodeClientGone)
	default:
		c.answer(c.explain(err))
	}
}

// appendRequest writes the head that the instance gets (R7).
func (c *fastConn) appendRequest(b []byte) []byte {
	b = append(b, c.head.Method...)
	b = append(b, ' ')
	slash, target := c.rq.originForm()
	b = append(b, slash...)
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", c.host())
	member := c.needsMember()
	traced, trailers := c.passesTrace(), false
	for i := range c.head.Fields {
		f := &c.head.Fields[i]
		switch f.Name {
		case http1.Host, http1.ForwardedName, http1.XForwardedFor, http1.XForwardedHost, http1.XForwardedProto, http1.LayoverHops, http1.LayoverReceipt:
			continue
		case http1.Traceparent:
			if traced || c.head.IsHopByHop(f) {
				continue
			}
		case http1.Tracestate:
			if c.begun || c.head.IsHopByHop(f) { // it is of another trace
				continue
			}
		case http1.Baggage:
			if member {
				continue
			}
		case http1.TE:
			trailers = trailers || http1.HasElement(f.Value, "trailers")
			continue
		default:
			if c.head.IsHopByHop(f) {
				continue
			}
		}
		b = append(b, f.Line...)
	}
	if member {
		for _, line := range route.PrependMember(c.rq.baggage, c.table.BaggageKey(), c.decision.Route) {
			b = appendField(b, "Baggage", line)
		}
	}
	if traced {
		b = append(b, "Traceparent: "...)
		b = append(c.appendTraceparent(b), crlf...)
	}
	via := c.rq.via(c.trusted)
	b = appendField(b, "X-Forwarded-For", via.chain)
	b = appendField(b, "X-Forwarded-Host", via.host)
	b = appendField(b, "X-Forwarded-Proto", via.proto)
	if via.elements != "" {
		b = appendField(b, "Forwarded", via.elements)
	}
	b = append(b, HopsHeader+": "...)
	b = strconv.AppendInt(b, int64(c.rq.timesForwarded()+1), 10)
	b = append(b, crlf...)
	if trailers {
		b = append(b, "TE: trailers\r\n"...)
	}
	if c.body.kind == http1.BodyChunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if c.head.Upgrade {
		b = appendUpgrade(b, &c.head)
	}
	return append(b, crlf...)
}

// appendUpgrade passes on the wish for another protocol, or that it is granted.
func appendUpgrade(b []byte, h *http1.Head) []byte {
	if to := upgradeOf(h); to != "" {
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", to)
	}
	return b
}

// upgradeOf is the protocol that a head wants to go on in, or "". One that is another
// HTTP does not count: it would tie all that follows to the version of this request.
func upgradeOf(h *http1.Head) string {
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Name == http1.UpgradeName && !isHTTPUpgrade(view(f.Value)) {
			return view(f.Value)
		}
	}
	return ""
}

var errUnaskedUpgrade = errors.New("it switches to a protocol that was not asked for")

// readAnswer reads the head of the answer. Interim ones (1xx) go to the client.
func (c *fastConn) readAnswer(u *upstream) error {
	limit := c.proxy.options.AnswerTimeout
	if limit > 0 {
		_ = u.conn.SetReadDeadline(time.Now().Add(limit))
	}
	for {
		sending := c.isPumping()
		n, err := u.readHead(c.proxy.limits)
		if sending && limit > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			_ = u.conn.SetReadDeadline(time.Now().Add(limit)) // the time of the answer begins behind the body
			continue
		}
		if err != nil {
			return err
		}
		if u.head.Status >= 200 || u.head.Status == http.StatusSwitchingProtocols {
			err := u.head.FrameAnswer(c.head.Method)
			if u.head.Status == http.StatusSwitchingProtocols && !c.wantsUpgrade(u) {
				err = errUnaskedUpgrade
			}
			u.skip(n)
			return err
		}
		if c.head.Minor > 0 {
			c.passInterim(u)
		}
		u.skip(n)
	}
}

// wantsUpgrade says whether the client asked for the protocol that the instance switches to.
func (c *fastConn) wantsUpgrade(u *upstream) bool {
	to := upgradeOf(&u.head)
	return to != "" && c.head.Upgrade && strings.EqualFold(upgradeOf(&c.head), to)
}

// passInterim passes an answer on behind which the real one comes.
func (c *fastConn) passInterim(u *upstream) {
	b := appendStatusLine(nil, 1, u.head.Status, view(u.head.Reason))
	for i := range u.head.Fields {
		if f := &u.head.Fields[i]; f.Name != http1.ContentLength && !u.head.IsHopByHop(f) {
			b = append(b, f.Line...)
		}
	}
	c.write(append(b, crlf...))
}

// readHead reads the head of an answer, and returns its length.
func (u *upstream) readHead(limits http1.Limits) (n int, err error) {
	u.head.Reset()
	for {
		if rest := u.unread(); len(rest) > 0 {
			if n, err = u.head.ReadAnswer(rest, limits); n > 0 || err != nil {
				return n, err
			}
		}
		if err := u.fill(); err != nil {
			if errors.Is(err, io.EOF) && len(u.unread()) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
}

// canServeMore says whether another request can be sent once the answer is complete.
func (u *upstream) canServeMore() bool {
	return !u.head.Close && (u.head.Minor > 0 || u.head.KeepAlive) && u.head.Body != http1.BodyClose && len(u.unread()) == 0
}
