package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
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

// pools are the idle connections of the fast path, by where they lead. Instances that have
// one address share them, and an instance that is started again at another gets others.
type pools struct {
	mu  sync.Mutex
	all map[poolKey]*pool
}

type poolKey struct {
	address    string
	tls        bool
	serverName string
}

// of returns the pool for an instance.
func (p *pools) of(instance *route.Instance) *pool {
	key := poolKey{instance.Address, instance.TLS, instance.ServerName}
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.all[key]
	if one == nil {
		if p.all == nil {
			p.all = make(map[poolKey]*pool)
		}
		one = &pool{key: key}
		p.all[key] = one
	}
	return one
}

// sweep closes connections that have been idle for too long, and lets go of the pools that
// have none.
func (p *pools) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, one := range p.all {
		if one.sweep(now); one.gone.Load() {
			delete(p.all, key)
		}
	}
}

// closeIdle closes all idle connections.
func (p *pools) closeIdle() { p.sweep(time.Now().Add(time.Hour)) }

// pool keeps the idle connections to one address, the newest on top.
type pool struct {
	key  poolKey
	gone atomic.Bool // it was let go of: another one is in its place

	mu   sync.Mutex
	list []*upstream
	used time.Time // when one was last put here
}

// leadsTo says whether the connections are those of the instance.
func (p *pool) leadsTo(instance *route.Instance) bool {
	return p != nil && p.key.address == instance.Address && p.key.tls == instance.TLS && p.key.serverName == instance.ServerName && !p.gone.Load()
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
	p.used = now
	if !p.gone.Load() && len(p.list) < maxIdlePerInstance && now.Sub(u.born) < maxUpstreamAge {
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
	defer p.mu.Unlock()
	old := 0
	for old < len(p.list) && !now.Before(p.list[old].stale) { // the oldest lie at the bottom
		_ = p.list[old].conn.Close()
		old++
	}
	left := copy(p.list, p.list[old:])
	clear(p.list[left:])
	p.list = p.list[:left]
	if left == 0 && now.Sub(p.used) > idleTLSTimeout { // while it is busy, all may be taken
		p.gone.Store(true)
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
