package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"
)

// Listener is a place where a proxy accepts connections: HTTP/1.1, and HTTP/2
// without TLS by prior knowledge, or with it.
type Listener struct {
	net.Listener

	// Trusted says that only people who may see the whole environment reach
	// it: an unknown host is answered with the hosts that it resembles.
	Trusted bool

	// TLS is what connections are encrypted with; see [Certificates.TLSConfig]. Nil
	// means not at all.
	TLS *tls.Config
}

// door is a listener that is being served: it accepts connections, looks how each begins, and
// has it served by the fast path, or by net/http behind the listener that it is.
type door struct {
	Listener

	proxy  *Proxy
	handed chan net.Conn   // to net/http
	closed context.Context // ends when nothing more is accepted
	end    context.CancelFunc
}

func newDoor(p *Proxy, l Listener) *door {
	d := &door{Listener: l, proxy: p, handed: make(chan net.Conn)}
	d.closed, d.end = context.WithCancel(context.Background())
	if l.TLS != nil {
		d.TLS = batchHTTP2(l.TLS)
	}
	return d
}

// run accepts connections until the door is closed.
func (d *door) run() error {
	pause := time.Duration(0)
	for {
		conn, err := d.Listener.Listener.Accept() //nolint:staticcheck // not the door's own
		switch {
		case err == nil:
			pause = 0
			go d.greet(conn)
		case d.closed.Err() != nil:
			return nil
		case isShortage(err):
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			d.proxy.options.Logger.Warn("connections wait: none can be accepted", "listener", d.Addr().String(), "err", err)
			select {
			case <-time.After(pause):
			case <-d.closed.Done():
			}
		default:
			return err
		}
	}
}

// isShortage says whether Accept may work again once others have given something back.
func isShortage(err error) bool {
	for _, shortage := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, shortage) {
			return true
		}
	}
	return false
}

// greet finds out whose a new connection is and what it speaks, and serves it.
func (d *door) greet(conn net.Conn) {
	client, encrypted, err := d.open(conn)
	switch {
	case err != nil:
		d.turnAway(conn, err)
	case client == nil: // it is served elsewhere, or refused
	case d.proxy.options.NoFastPath:
		d.hand(newStrictConn(d.proxy, client, encrypted))
	default:
		newFastConn(d, client, encrypted).drive()
	}
}

func (d *door) turnAway(conn net.Conn, err error) {
	d.proxy.options.Logger.Debug("connection refused", "peer", conn.RemoteAddr().String(), "err", err)
	_ = conn.Close()
}

// open reads what comes before HTTP: the header of the PROXY protocol, and the handshake of TLS.
// A client that goes on in HTTP/2 is handed to net/http.
func (d *door) open(conn net.Conn) (client net.Conn, encrypted bool, err error) {
	// A peer that is slow with its header must not outlast the proxy.
	stop := context.AfterFunc(d.closed, func() { _ = conn.Close() })
	defer stop()
	client, err = unwrapProxied(conn, d.proxy.proxied)
	if err != nil {
		return nil, false, err
	}
	peer := addrOf(client.RemoteAddr()).Unmap()
	if !d.proxy.conns.admit(peer, d.Trusted) {
		refuse(client, d.TLS == nil)
		return nil, false, nil
	}
	client = &limitedConn{Conn: client, limit: d.proxy.conns, peer: peer, trusted: d.Trusted}
	if d.TLS == nil {
		return client, false, nil
	}
	secure := tls.Server(newBatchConn(client, d.proxy.sendTimeout), d.TLS)
	ctx, cancel := context.WithTimeout(d.closed, d.proxy.options.HeaderTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		defer func(limited net.Conn) { _ = limited.Close() }(client)
		if record, ok := errors.AsType[tls.RecordHeaderError](err); ok && record.Conn != nil && isHTTP(record.RecordHeader[:]) {
			d.proxy.refusePlain(record.Conn)
		}
		return nil, true, err
	}
	if secure.ConnectionState().NegotiatedProtocol == "h2" {
		d.hand(secure)
		return nil, true, nil
	}
	return secure, true, nil
}

// isHTTP says whether a client begins with HTTP where TLS ought to be.
func isHTTP(b []byte) bool {
	return slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH", "PRI *"}, string(b))
}

// refusePlain tells a client that it has to speak TLS.
func (p *Proxy) refusePlain(conn net.Conn) {
	answer := plainHTTP().reply(&request{}, p.page, "")
	b := appendStatusLine(nil, 1, answer.status, http.StatusText(answer.status))
	for _, f := range answer.fields {
		b = appendField(b, f.name, f.value)
	}
	b = append(b, "Connection: close\r\n\r\n"...)
	_ = conn.SetDeadline(time.Now().Add(lingerTime))
	if _, err := conn.Write(append(b, answer.body...)); err == nil && closeWrite(conn) == nil {
		_, _ = io.CopyN(io.Discard, conn, lingerBytes) // or what is unread would take the answer away
	}
}

// hand gives a connection to net/http.
func (d *door) hand(conn net.Conn) {
	select {
	case d.handed <- conn:
	case <-d.closed.Done():
		_ = conn.Close()
	}
}

// Accept gives net/http the connections that it is to serve.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.handed:
		return conn, nil
	case <-d.closed.Done():
		return nil, net.ErrClosed
	}
}

// Close ends accepting, from the listener and for net/http.
func (d *door) Close() error {
	d.end()
	if err := d.Listener.Listener.Close(); !errors.Is(err, net.ErrClosed) { //nolint:staticcheck // not the door's own
		return err
	}
	return nil
}
