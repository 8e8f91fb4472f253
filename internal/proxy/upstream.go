package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
	"github.com/layover-dev/layover/internal/route"
)

const (
	// maxUpstreamAge ends even a busy connection to an instance now and then, so that
	// what balances behind its address gets its turn.
	maxUpstreamAge = 5 * time.Minute

	// quietAfter is how long a connection may have been idle before it is looked at
	// before it is used: the instance may have closed it meanwhile.
	quietAfter = time.Millisecond
)

// upstream is a connection of the fast path to an instance.
type upstream struct {
	source
	head   http1.Head // of the answer
	born   time.Time
	idle   time.Time // since when it has been
	stale  time.Time // when it has been so for too long
	reused bool      // a request was answered on it before
}

// pool keeps the idle connections to one instance, the newest on top.
type pool struct {
	mu   sync.Mutex
	list []*upstream
}

// take returns an idle connection that is good to use, nil where there is none.
func (p *pool) take(now time.Time) *upstream {
	for {
		p.mu.Lock()
		n := len(p.list)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		u := p.list[n-1]
		p.list[n-1] = nil
		p.list = p.list[:n-1]
		p.mu.Unlock()
		if now.Sub(u.idle) < quietAfter || now.Before(u.stale) && u.isQuiet() {
			return u
		}
		_ = u.conn.Close()
	}
}

// put keeps a connection for another request, for so long.
func (p *pool) put(u *upstream, now time.Time, limit time.Duration) {
	u.reused, u.idle, u.stale = true, now, now.Add(limit)
	p.mu.Lock()
	if len(p.list) < maxIdlePerInstance && now.Sub(u.born) < maxUpstreamAge {
		p.list = append(p.list, u)
		u = nil
	}
	p.mu.Unlock()
	if u != nil {
		_ = u.conn.Close()
	}
}

// sweep closes connections that have been idle for too long.
func (p *pool) sweep(now time.Time) {
	p.mu.Lock()
	n := 0
	for n < len(p.list) && !now.Before(p.list[n].stale) { // the oldest lie at the bottom
		n++
	}
	old := append([]*upstream(nil), p.list[:n]...)
	rest := copy(p.list, p.list[n:])
	clear(p.list[rest:])
	p.list = p.list[:rest]
	p.mu.Unlock()
	for _, u := range old {
		_ = u.conn.Close()
	}
}

// isQuiet says whether nothing came over the idle connection, its end above all.
func (u *upstream) isQuiet() bool {
	if u.raw == nil {
		return true // TLS: what comes may be about the connection itself
	}
	quiet := false
	err := u.raw.Control(func(fd uintptr) { quiet = isQuiet(fd) })
	return err == nil && quiet
}

// connect makes a connection to an instance.
func (p *Proxy) connect(ctx context.Context, instance *route.Instance) (*upstream, error) {
	conn, err := p.transports.dialer.DialContext(ctx, "tcp", instance.Address)
	if err != nil {
		return nil, err
	}
	if instance.TLS {
		name := instance.ServerName
		if name == "" {
			name, _, _ = net.SplitHostPort(instance.Address) // checked when the table was compiled
		}
		secure := tls.Client(conn, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12})
		ctx, cancel := context.WithTimeout(ctx, tlsHandshakeTimeout)
		err := secure.HandshakeContext(ctx)
		cancel()
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn = secure
	}
	u := &upstream{born: time.Now()}
	u.open(conn)
	return u, nil
}

// idleLimit is how long a connection to the instance is kept without use.
func idleLimit(instance *route.Instance) time.Duration {
	if instance.TLS {
		return idleTLSTimeout
	}
	return idleTimeout
}
