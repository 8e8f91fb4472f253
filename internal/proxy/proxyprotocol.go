package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// Bounds of the header of the PROXY protocol. Version 1 has at most 107 bytes; version 2
// has room for more than any load balancer sends.
const (
	maxProxyHeader     = 4 << 10
	proxyHeaderTimeout = 5 * time.Second
)

// unwrapProxied returns conn as its client's, where a load balancer in one of the
// networks handed it on with the PROXY protocol (version 1 or 2). A connection from there must begin with
// the header, or nobody could tell whether what it says of itself is the client's doing.
// A connection from elsewhere is returned as it is: a header on it is no HTTP, and is refused as that.
//
// It reads from conn, for at most proxyHeaderTimeout. On an error the caller closes conn.
func unwrapProxied(conn net.Conn, from networks) (net.Conn, error) {
	if len(from) == 0 || !from.containsAddr(addrOf(conn.RemoteAddr())) {
		return conn, nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(proxyHeaderTimeout)); err != nil {
		return nil, err
	}
	in := bufio.NewReader(io.LimitReader(conn, maxProxyHeader))
	header, err := proxyproto.Read(in)
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return nil, errors.New("the connection does not begin with the header of the PROXY protocol; switch it on in the load balancer, or take its network out of proxy.proxy_protocol_from")
	case err != nil:
		return nil, fmt.Errorf("read the header of the PROXY protocol: %w", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	rest, _ := in.Peek(in.Buffered()) // of what is buffered
	proxied := &proxiedConn{Conn: conn, rest: rest, remote: conn.RemoteAddr()}
	// The load balancer's own connections (LOCAL: health checks), and those of other kinds
	// than TCP, have no client's address.
	if header.Command.IsProxy() {
		if client, ok := header.SourceAddr.(*net.TCPAddr); ok {
			proxied.remote = client
		}
	}
	return proxied, nil
}

// proxiedConn is a connection that a load balancer made for a client.
type proxiedConn struct {
	net.Conn
	rest   []byte   // read behind the header, and not yet handed out
	remote net.Addr // the client's
}

// RemoteAddr returns the client's address.
func (c *proxiedConn) RemoteAddr() net.Addr { return c.remote }

// Read reads what the client sends.
func (c *proxiedConn) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return n, nil
}

// takeRest takes what was read behind the header, so that the socket itself can be read on.
func (c *proxiedConn) takeRest() []byte {
	rest := c.rest
	c.rest = nil
	return rest
}

// CloseWrite tells the client that nothing more comes.
func (c *proxiedConn) CloseWrite() error { return closeWrite(c.Conn) }

// closeWrite ends one direction of a connection, and both where it has no halves.
func closeWrite(conn io.Closer) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}

// addrOf returns the IP address of a TCP address, the zero value for another kind.
func addrOf(addr net.Addr) netip.Addr {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}
