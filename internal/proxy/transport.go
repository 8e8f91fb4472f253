package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

const (
	// idleTimeout ends idle connections before the servers of common stacks do
	// (Node and uvicorn after 5 s): a request that is sent at the moment the other side
	// closes is lost. A new connection within one network costs little.
	idleTimeout = 4 * time.Second

	// idleTLSTimeout is longer, as connecting with TLS costs more, and what speaks TLS is
	// most often a load balancer (which keeps connections for a minute).
	idleTLSTimeout = 45 * time.Second

	tlsHandshakeTimeout = 10 * time.Second
	continueTimeout     = time.Second // then the body is sent though no 100 Continue came
	maxIdlePerInstance  = 256
	copyBufferSize      = 32 << 10

	// A connection over which nothing came for pingAfter is asked for a sign of life.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
)

// transports has the connections to instances: one pool per protocol, and with
// TLS one per name that the certificate must carry.
type transports struct {
	dialer        *net.Dialer
	answerTimeout time.Duration
	http1         *http.Transport
	h2c           *http.Transport

	mu    sync.RWMutex
	byTLS map[tlsKey]*tlsPool
}

// tlsPool is the connections whose certificates must carry one name.
type tlsPool struct {
	*http.Transport
	used atomic.Int64 // when it was last asked for, in Unix seconds
}

type tlsKey struct {
	serverName string
	http2      bool
}

func newTransports(dialTimeout, answerTimeout time.Duration) *transports {
	t := &transports{
		dialer:        &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second},
		answerTimeout: answerTimeout,
		byTLS:         make(map[tlsKey]*tlsPool),
	}
	var http1, h2c http.Protocols
	http1.SetHTTP1(true)
	h2c.SetUnencryptedHTTP2(true)
	t.http1 = t.build(http1, nil)
	t.h2c = t.build(h2c, nil)
	return t
}

// to returns the transport for an instance of a service that speaks protocol.
func (t *transports) to(protocol route.Protocol, instance *route.Instance) *http.Transport {
	if instance.TLS {
		return t.toTLS(tlsKey{instance.ServerName, protocol == route.H2C})
	}
	if protocol == route.H2C {
		return t.h2c
	}
	return t.http1
}

func (t *transports) toTLS(key tlsKey) *http.Transport {
	now := time.Now().Unix()
	t.mu.RLock()
	found := t.byTLS[key]
	t.mu.RUnlock()
	if found != nil {
		found.used.Store(now)
		return found.Transport
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if found := t.byTLS[key]; found != nil {
		return found.Transport
	}
	var protocols http.Protocols
	protocols.SetHTTP1(!key.http2)
	protocols.SetHTTP2(key.http2)
	made := &tlsPool{Transport: t.build(protocols, &tls.Config{ServerName: key.serverName, MinVersion: tls.VersionTLS12})}
	made.used.Store(now)
	t.byTLS[key] = made
	return made.Transport
}

// sweep lets go of the pools that nobody has asked for while their connections could be idle.
func (t *transports) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, pool := range t.byTLS {
		if now.Sub(time.Unix(pool.used.Load(), 0)) > 2*idleTLSTimeout {
			delete(t.byTLS, key)
			pool.CloseIdleConnections()
		}
	}
}

func (t *transports) closeIdle() {
	t.http1.CloseIdleConnections()
	t.h2c.CloseIdleConnections()
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, transport := range t.byTLS {
		transport.CloseIdleConnections()
	}
}

func (t *transports) build(protocols http.Protocols, config *tls.Config) *http.Transport {
	idle := idleTimeout
	if config != nil {
		idle = idleTLSTimeout
	}
	dial := t.dialTelling
	if !protocols.HTTP1() {
		dial = t.dialBatched
	}
	return &http.Transport{
		Proxy:                 nil, // an instance is reached directly, whatever HTTP_PROXY says
		DialContext:           dial,
		Protocols:             &protocols,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   tlsHandshakeTimeout,
		DisableCompression:    true, // or it would ask for gzip in the client's name
		MaxIdleConns:          0,
		MaxIdleConnsPerHost:   maxIdlePerInstance,
		IdleConnTimeout:       idle,
		ExpectContinueTimeout: continueTimeout,
		ResponseHeaderTimeout: t.answerTimeout,
		WriteBufferSize:       4 << 10,
		ReadBufferSize:        4 << 10,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

// dialBatched connects for HTTP/2.
func (t *transports) dialBatched(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := t.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	batch := newBatchConn(conn, 0)
	batch.start()
	return batch, nil
}

// bufferPool lends the buffers that bodies are copied through.
type bufferPool struct{ pool sync.Pool }

func newBufferPool() *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { return new([copyBufferSize]byte) }}}
}

// Get returns a buffer; see [net/http/httputil.BufferPool].
func (b *bufferPool) Get() []byte { return b.pool.Get().(*[copyBufferSize]byte)[:] }

// Put takes back a buffer that Get returned.
func (b *bufferPool) Put(buf []byte) { b.pool.Put((*[copyBufferSize]byte)(buf)) }
