package proxy

import (
	"errors"
	"hash/maphash"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of [Connections].
const (
	DefaultConnections          = 10_240
	DefaultConnectionsPerClient = 2048
)

// Connections bounds how many connections clients have open. The bound per client is for
// strangers: it does not hold on trusted listeners and for loopback addresses, behind
// which all services of a machine stand. Of IPv6 the first 64 bits are one client.
type Connections struct {
	All       int // 0 means DefaultConnections, below 0 no limit
	PerClient int // 0 means DefaultConnectionsPerClient, below 0 no limit
}

// withDefaults returns c with what is 0 filled in.
func (c Connections) withDefaults() Connections {
	c.All = orDefault(c.All, DefaultConnections)
	c.PerClient = orDefault(c.PerClient, DefaultConnectionsPerClient)
	return c
}

// connLimit counts the connections that are open.
type connLimit struct {
	limits  Connections
	open    atomic.Int64
	refused atomic.Uint64
	seed    maphash.Seed
	shards  [32]clientShard
}

type clientShard struct {
	mu   sync.Mutex
	open map[netip.Addr]int
}

func newConnLimit(limits Connections) *connLimit {
	l := &connLimit{limits: limits.withDefaults(), seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].open = make(map[netip.Addr]int)
	}
	return l
}

// admit says whether a connection from addr may stay. Each that may has to be released
// with the same arguments; one that may not is counted as refused.
func (l *connLimit) admit(addr netip.Addr, trusted bool) bool {
	if n := l.open.Add(1); l.limits.All > 0 && n > int64(l.limits.All) {
		l.open.Add(-1)
		l.refused.Add(1)
		return false
	}
	if l.limits.PerClient < 0 || trusted || addr.IsLoopback() {
		return true
	}
	addr = clientOf(addr)
	shard := l.shard(addr)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.open[addr] >= l.limits.PerClient {
		l.open.Add(-1)
		l.refused.Add(1)
		return false
	}
	shard.open[addr]++
	return true
}

// release is for a connection that was admitted and is closed.
func (l *connLimit) release(addr netip.Addr, trusted bool) {
	l.open.Add(-1)
	if l.limits.PerClient < 0 || trusted || addr.IsLoopback() {
		return
	}
	addr = clientOf(addr)
	shard := l.shard(addr)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.open[addr]--; shard.open[addr] <= 0 {
		delete(shard.open, addr)
	}
}

func (l *connLimit) shard(addr netip.Addr) *clientShard {
	return &l.shards[maphash.Comparable(l.seed, addr)%uint64(len(l.shards))]
}

// clientOf returns what stands for all addresses of one client.
func clientOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return addr
	}
	prefix, _ := addr.Prefix(64) // fails for none that has 128 bits
	return prefix.Addr()
}

const fullProblem = `{"type":"` + documentation + `#` + string(CodeTooManyConnections) + `",` +
	`"title":"Too many connections","status":503,"detail":"As many connections as the proxy allows are open.",` +
	`"code":"` + string(CodeTooManyConnections) + `","hint":"Use connections again, or raise proxy.limits.connections."}` + "\n"

// fullAnswer is what a plain connection gets that is one too many. Nothing of it is read, so
// nothing of it decides on the form.
func fullAnswer() string {
	return "HTTP/1.1 503 Service Unavailable\r\n" +
		"Connection: close\r\n" +
		"Content-Type: application/problem+json\r\n" +
		"Content-Length: " + strconv.Itoa(len(fullProblem)) + "\r\n" +
		"Cache-Control: no-store\r\n" +
		"Retry-After: 1\r\n" +
		ErrorHeader + ": " + string(CodeTooManyConnections) + "\r\n\r\n" + fullProblem
}

// refuseTimeout is more than enough for an answer that fits an empty buffer.
const refuseTimeout = 100 * time.Millisecond

// refuse closes a connection that is one too many. plain says that it does not begin with a
// TLS handshake, so that the reason can be told.
func refuse(conn net.Conn, plain bool) {
	if plain {
		_ = conn.SetWriteDeadline(time.Now().Add(refuseTimeout))
		_, _ = io.WriteString(conn, fullAnswer()) // it is gone in any case
	}
	_ = conn.Close()
}

// limitedConn is a connection that is counted until it is closed.
type limitedConn struct {
	net.Conn
	limit   *connLimit
	peer    netip.Addr
	trusted bool
	closed  atomic.Bool
}

// Close closes the connection. From the second time on it does nothing.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	if !c.closed.Swap(true) {
		c.limit.release(c.peer, c.trusted)
	}
	return err
}

// CloseWrite tells the other end that nothing more comes.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the connection that is counted.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }
