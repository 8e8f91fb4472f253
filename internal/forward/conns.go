package forward

import (
	"net"
	"sync"
)

// conns is a listener that bounds how many connections there are at once, and knows them all, so that none outlives the proxy:
// servers forget those that were upgraded or made a tunnel.
type conns struct {
	net.Listener
	room chan struct{}

	mu    sync.Mutex
	open  map[*kept]bool
	ended bool
}

func newConns(ln net.Listener, most int) *conns {
	return &conns{Listener: ln, room: make(chan struct{}, most), open: map[*kept]bool{}}
}

// Accept waits for a connection, and for room for it.
func (c *conns) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.room <- struct{}{}
	return c.keep(conn, func() { <-c.room }), nil
}

// keep returns conn as one that ends with the proxy. Done, which may be nil, is called once when it is closed.
func (c *conns) keep(conn net.Conn, done func()) net.Conn {
	k := &kept{Conn: conn, of: c, done: done}
	c.mu.Lock()
	ended := c.ended
	if !ended {
		c.open[k] = true
	}
	c.mu.Unlock()
	if ended {
		_ = k.Close()
	}
	return k
}

// end closes all connections, and those that are still to come.
func (c *conns) end() {
	c.mu.Lock()
	c.ended = true
	var all []*kept
	for k := range c.open {
		all = append(all, k)
	}
	c.mu.Unlock()
	for _, k := range all {
		_ = k.Close()
	}
}

// kept is a connection that ends with the proxy.
type kept struct {
	net.Conn
	of   *conns
	done func()
	once sync.Once
}

func (k *kept) Close() error {
	k.once.Do(func() {
		k.of.mu.Lock()
		delete(k.of.open, k)
		k.of.mu.Unlock()
		if k.done != nil {
			k.done()
		}
	})
	return k.Conn.Close()
}

// CloseWrite says that no more is written, where the connection can say so.
func (k *kept) CloseWrite() error {
	if half, ok := k.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return k.Close()
}
