package handover

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Gate is a listener that can stop accepting and stay open: what serves on it goes on
// with the connections that it has.
type Gate struct {
	*net.TCPListener

	shut   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

// NewGate returns an open gate.
func NewGate(l *net.TCPListener) *Gate {
	return &Gate{TCPListener: l, closed: make(chan struct{})}
}

// Accept returns the next connection. At a gate that is shut it waits for Close.
func (g *Gate) Accept() (net.Conn, error) {
	conn, err := g.TCPListener.Accept()
	if err != nil && g.shut.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		<-g.closed
		return nil, net.ErrClosed
	}
	return conn, err
}

// Shut ends accepting.
func (g *Gate) Shut() error {
	g.shut.Store(true)
	return g.SetDeadline(time.Unix(1, 0))
}

// Close closes the listener.
func (g *Gate) Close() error {
	err := net.ErrClosed
	g.once.Do(func() {
		close(g.closed)
		err = g.TCPListener.Close()
	})
	return err
}
