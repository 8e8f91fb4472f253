package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// Listener is a place where a proxy accepts connections: HTTP/1.1, and HTTP/2
// without TLS by prior knowledge, or with it.
type Listener struct {
	net.Listener

	// Trusted says that only people who may see the whole environment reach
	// it: an unknown host is answered with the hosts that it resembles.
	Trusted bool

	// TLS makes the listener speak TLS. Nil means that it does not.
	TLS *tls.Config
}

// door is a listener that is being served: it accepts connections, looks how each begins, and
// has it served by the fast path, or by net/http behind the listener that it is.
type door struct {
	Listener

	proxy  *Proxy
	handed chan net.Conn // to net/http
	closed chan struct{}
	once   sync.Once
}

func newDoor(p *Proxy, l Listener) *door {
	return &door{Listener: l, proxy: p, handed: make(chan net.Conn), closed: make(chan struct{})}
}

// run accepts connections until the listener is closed.
func (d *door) run() error {
	delay := time.Duration(0)
	for {
		conn, err := d.Listener.Listener.Accept()
		if err == nil {
			delay = 0
			go d.greet(conn)
			continue
		}
		select {
		case <-d.closed:
			return nil
		default:
		}
		if temporary, ok := errors.AsType[net.Error](err); !ok || !temporary.Temporary() { //nolint:staticcheck // too many open files is
			return err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		d.proxy.options.Logger.Error("connection not accepted", "err", err)
		select {
		case <-time.After(delay):
		case <-d.closed:
			return nil
		}
	}
}

// greet finds out what a new connection speaks, and serves it.
func (d *door) greet(conn net.Conn) {
	encrypted := false
	if d.TLS != nil {
		secure := tls.Server(conn, d.TLS)
		ctx, cancel := context.WithTimeout(context.Background(), d.proxy.options.ReadHeaderTimeout)
		err := secure.HandshakeContext(ctx)
		cancel()
		if err != nil {
			_ = conn.Close()
			return
		}
		if secure.ConnectionState().NegotiatedProtocol == "h2" {
			d.hand(secure)
			return
		}
		conn, encrypted = secure, true
	}
	if d.proxy.options.NoFastPath {
		strict := newStrictConn(d.proxy, conn, input{}, false)
		strict.encrypted = encrypted
		d.hand(strict)
		return
	}
	newFastConn(d, conn, encrypted).serve()
}

// hand gives a connection to net/http.
func (d *door) hand(conn net.Conn) {
	select {
	case d.handed <- conn:
	case <-d.closed:
		_ = conn.Close()
	}
}

// Accept gives net/http the connections that it is to serve.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.handed:
		return conn, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close ends accepting, from the listener and for net/http.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Listener.Listener.Close()
}
