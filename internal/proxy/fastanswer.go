package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
)

// relay passes the answer on, and says whether it is complete.
func (c *fastConn) relay(u *upstream) (complete bool) {
	h := &u.head
	if h.Status == http.StatusSwitchingProtocols {
		c.tunnel(u)
		return false
	}
	if c.pumpHasEnded() {
		c.watcher.arm()
	}
	switch h.Body {
	case http1.BodyNone:
		b := c.appendAnswer(c.blank(), u, false)
		*c.out = b
		c.startAnswer(h.Status)
		return c.write(b)
	case http1.BodyLength:
		return c.relayLength(u, h.Length)
	case http1.BodyChunked:
		return c.relayChunked(u)
	default:
		return c.relayUntilClose(u)
	}
}

func (c *fastConn) relayLength(u *upstream, left int64) bool {
	b := c.appendAnswer(c.blank(), u, false)
	n := int(min(int64(len(u.unread())), left))
	b = append(b, u.unread()[:n]...)
	*c.out = b
	u.skip(n)
	left -= int64(n)
	c.startAnswer(u.head.Status)
	c.record.BytesOut = int64(n)
	if !c.writePart(b) {
		return false
	}
	for left > 0 {
		if left >= spliceFrom && c.raw != nil && u.raw != nil {
			c.giveBackOut()
			u.shrink()
			c.limitWrite()
			n, err := io.CopyN(c.tcp, u.tcp, min(left, spliceAnswer))
			left -= n
			c.record.BytesOut += n
			if err != nil {
				c.failed = c.failed || c.tookNone(err)
				return false
			}
			continue
		}
		if u.fill() != nil {
			return false
		}
		rest := u.unread()
		rest = rest[:min(int64(len(rest)), left)]
		if !c.writePart(rest) {
			return false
		}
		u.skip(len(rest))
		left -= int64(len(rest))
		c.record.BytesOut += int64(len(rest))
	}
	return true
}

// relayChunked passes a chunked body on as it is, or to a client of HTTP/1.0 its data.
func (c *fastConn) relayChunked(u *upstream) bool {
	plain := c.head.Minor == 0
	if plain {
		c.last = true
	}
	b := c.appendAnswer(c.blank(), u, !plain)
	c.startAnswer(u.head.Status)
	var chunked http1.Chunked
	for {
		rest := u.unread()
		n, asIs := 0, 0
		for n < len(rest) && !chunked.Done() {
			trailing := chunked.InTrailers()
			used, data, err := chunked.Next(rest[n:])
			if err != nil {
				_ = len(b) > 0 && c.writePart(b)
				return false
			}
			if plain {
				b = append(b, data...)
			}
			n += used
			c.record.BytesOut += int64(len(data))
			if !trailing && !plain {
				asIs = n
			}
		}
		if len(b) == 0 && !chunked.Done() {
			if !c.writePart(rest[:asIs]) {
				return false
			}
		} else {
			b = append(b, rest[:asIs]...)
			if chunked.Done() && !plain {
				b = append(b, chunked.Trailers()...)
			}
			*c.out = b[:0]
			if !c.writePart(b) {
				return false
			}
			b = b[:0]
		}
		u.skip(n)
		if chunked.Done() {
			return true
		}
		if u.fill() != nil {
			return false
		}
	}
}

// relayUntilClose passes on a body that ends with the connection: chunked, or to a
// client of HTTP/1.0 as it is.
func (c *fastConn) relayUntilClose(u *upstream) bool {
	plain := c.head.Minor == 0
	if plain {
		c.last = true
	}
	b := c.appendAnswer(c.blank(), u, !plain)
	c.startAnswer(u.head.Status)
	for {
		if rest := u.unread(); len(rest) > 0 {
			if !plain {
				b = strconv.AppendInt(b, int64(len(rest)), 16)
				b = append(b, crlf...)
			}
			b = append(b, rest...)
			if !plain {
				b = append(b, crlf...)
			}
			c.record.BytesOut += int64(len(rest))
			u.skip(len(rest))
		}
		if len(b) > 0 && !c.writePart(b) {
			return false
		}
		*c.out, b = b[:0], b[:0]
		switch err := u.fill(); {
		case errors.Is(err, io.EOF):
			return plain || c.writePart([]byte("0\r\n\r\n"))
		case err != nil:
			return false
		}
	}
}

// writePart writes a part of an answer.
func (c *fastConn) writePart(b []byte) bool { return len(b) == 0 || c.write(b) }

// limitWrite sets how long the next write may take, now and then.
func (c *fastConn) limitWrite() {
	now := time.Now()
	if most := c.proxy.sendTimeout; now.Sub(c.writeLimited) > most/4 {
		c.writeLimited = now
		_ = c.conn.SetWriteDeadline(now.Add(most))
	}
}

// unlimitWrite takes the limit back, for what has no such limit.
func (c *fastConn) unlimitWrite() {
	if !c.writeLimited.IsZero() {
		_ = c.conn.SetWriteDeadline(time.Time{})
	}
}

// appendAnswer writes the head of the instance's answer as the client gets it.
func (c *fastConn) appendAnswer(b []byte, u *upstream, chunked bool) []byte {
	h := &u.head
	b = appendStatusLine(b, c.head.Minor, h.Status, view(h.Reason))
	dated := false
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.Name {
		case http1.LayoverServedBy, http1.LayoverReceipt:
			continue
		case http1.ContentLength:
			if h.Body == http1.BodyChunked || h.Status == http.StatusNoContent || h.Status < http.StatusOK {
				continue
			}
		case http1.Date:
			dated = true
		case http1.Other:
			if h.Options && h.IsHopByHop(f) {
				continue
			}
		default:
			if h.IsHopByHop(f) {
				continue
			}
		}
		b = append(b, f.Line...)
	}
	b = append(b, ServedByHeader+": "...)
	b = c.decision.AppendServedBy(b)
	b = append(b, crlf...)
	if c.rq.receipt && c.wantsReceipt() {
		b = appendField(b, TraceHeader, c.record.TraceID.String())
		b = appendField(b, ReceiptHeader, c.receipt(h.Status))
	}
	if !dated {
		b = append(b, dateLine(c.now)...)
	}
	if h.Status == http.StatusSwitchingProtocols {
		b = appendUpgrade(b, h)
		return append(b, crlf...)
	}
	return c.appendEnd(b, chunked)
}

// appendEnd writes the fields for this connection, and the empty line.
func (c *fastConn) appendEnd(b []byte, chunked bool) []byte {
	if chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case c.head.Minor > 0 && (c.last || c.body.pumping == nil && !c.body.done):
		b = append(b, "Connection: close\r\n"...)
	case c.head.Minor == 0 && !c.last:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, crlf...)
}

// tunnel passes bytes on in both directions once the instance has agreed to another protocol.
func (c *fastConn) tunnel(u *upstream) {
	c.upgraded = true
	c.stopPump(u)
	c.watcher.stop()
	b := c.appendAnswer(c.blank(), u, false)
	b = append(b, u.unread()...)
	c.record.BytesOut = int64(len(u.unread()))
	u.skip(len(u.unread()))
	c.startAnswer(u.head.Status)
	if !c.write(b) {
		return
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	c.unlimitWrite()
	up := make(chan int64, 1)
	go func() {
		n, err := u.conn.Write(c.unread())
		sent := int64(n)
		if err == nil {
			sent += passBytes(u.conn, c.conn)
		}
		up <- sent
	}()
	c.record.BytesOut += passBytes(c.conn, u.conn)
	c.record.BytesIn = <-up
	if c.cut.Load() {
		c.record.Error = string(CodeStopping)
	}
}

// passBytes passes on what comes from one connection until it ends, and tells the other.
func passBytes(to, from net.Conn) int64 {
	n, err := io.Copy(to, from)
	if err != nil || closeWrite(to) != nil {
		_ = to.Close()
		_ = from.Close()
	}
	return n
}

// tookNone says whether an error of copying an answer is the client's doing. Where the kernel copies,
// the error is the same for both ends; only the client has a time to keep, and one that has left takes not
// even nothing.
func (c *fastConn) tookNone(err error) bool {
	switch {
	case errors.Is(err, io.EOF):
		return false
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true
	}
	_, err = c.conn.Write(nil)
	return err != nil
}

func appendStatusLine(b []byte, minor, status int, reason string) []byte {
	b = append(b, "HTTP/1."...)
	b = strconv.AppendInt(b, int64(minor), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, reason...)
	return append(b, crlf...)
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, crlf...)
}

// dateLine returns the Date field for an answer that has none (RFC 9110, section 6.6.1).
// It is written once a second.
func dateLine(now time.Time) []byte {
	second := now.Unix()
	if d := lastDate.Load(); d != nil && d.second == second {
		return d.line
	}
	d := &date{second: second, line: []byte("Date: " + now.UTC().Format(http.TimeFormat) + crlf)}
	lastDate.Store(d)
	return d.line
}

type date struct {
	second int64
	line   []byte
}

var lastDate atomic.Pointer[date]
