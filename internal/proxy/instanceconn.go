package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
)

// instanceConn is a connection of HTTP/1.1 to an instance. It tells the request that is on it
// when it is closed, from either side.
type instanceConn struct {
	net.Conn

	mu     sync.Mutex
	closed bool
	told   func() // nil where nobody wants to know
}

// dialTelling connects for HTTP/1.1.
func (t *transports) dialTelling(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := t.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &instanceConn{Conn: conn}, nil
}

// instanceConnOf returns the connection under what a transport got; nil where it is none of HTTP/1.1.
func instanceConnOf(conn net.Conn) *instanceConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	c, _ := conn.(*instanceConn)
	return c
}

// tell has f called when the connection is closed, or now where it is. Nil takes that back. Without a
// connection nothing is told.
func (c *instanceConn) tell(f func()) {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.told = f
	closed := c.closed
	c.mu.Unlock()
	if closed && f != nil {
		f()
	}
}

// Close closes the connection.
func (c *instanceConn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	c.closed = true
	told := c.told
	c.mu.Unlock()
	if told != nil {
		told()
	}
	return err
}

// CloseWrite tells the instance that nothing more comes.
func (c *instanceConn) CloseWrite() error { return closeWrite(c.Conn) }
