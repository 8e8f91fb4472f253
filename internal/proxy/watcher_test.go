package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lateConn sets a deadline of none only when it has got another one meanwhile.
type lateConn struct {
	net.Conn
	begun, other chan struct{}
}

// SetReadDeadline sets the deadline.
func (c *lateConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		select {
		case <-c.begun: // that is long past
		default:
			close(c.begun)
			<-c.other
		}
		return c.Conn.SetReadDeadline(t)
	}
	err := c.Conn.SetReadDeadline(t)
	select {
	case <-c.other:
	default:
		close(c.other)
	}
	return err
}

// TestWatcher_StopsWhileItBegins holds that the end of watching is not lost where the watcher
// sets a deadline of its own at the same time: it would take the client's next request for itself.
func TestWatcher_StopsWhileItBegins(t *testing.T) {
	l := listen(t)
	client := dial(t, l.Addr().String())
	conn, err := l.Accept()
	require.NoError(t, err)
	late := &lateConn{Conn: conn, begun: make(chan struct{}), other: make(chan struct{})}
	c := newFastConn(&door{proxy: New(Options{})}, late, false)
	c.served, c.body, c.deadline = true, new(body), time.Now().Add(time.Hour) // as between two requests
	c.watcher.start()
	<-late.begun
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.watcher.stop()
	}()
	select {
	case <-stopped:
	case <-time.After(2 * time.Second):
		t.Error("the watcher goes on")
	}
	_ = client.Close()
	<-stopped
	_ = conn.Close()
}
