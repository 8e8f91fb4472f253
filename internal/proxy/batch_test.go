package proxy

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l := listen(t)
	defer func() { _ = l.Close() }()
	near, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	require.NoError(t, far.SetDeadline(time.Now().Add(patience)))
	return near, far
}

// countedConn counts writes.
type countedConn struct {
	net.Conn
	writes atomic.Int64
}

// Write writes.
func (c *countedConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestBatchConn_OrderAndCompleteness(t *testing.T) {
	near, far := pair(t)
	counted := &countedConn{Conn: near}
	c := newBatchConn(counted, 0)
	c.start()
	var want bytes.Buffer
	var group sync.WaitGroup
	group.Go(func() {
		for i := range 2000 { // a good deal more than may wait
			part := bytes.Repeat([]byte{byte(i)}, i%300+1)
			want.Write(part)
			if _, err := c.Write(part); err != nil {
				t.Error(err)
			}
		}
		_ = c.Close() // at once: nothing may be lost
	})
	got, err := io.ReadAll(far)
	group.Wait()
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.Bytes(), got))
	require.Less(t, counted.writes.Load(), int64(2000))
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
}

// TestBatchConn_Bounded holds that who writes to a client that does not read waits, that
// nothing waits for a close, and that a close ends it.
func TestBatchConn_Bounded(t *testing.T) {
	near, _ := pair(t)
	c := newBatchConn(near, 0)
	c.start()
	ended := make(chan error, 1)
	var written atomic.Int64
	go func() {
		part := make([]byte, 10<<10)
		for {
			n, err := c.Write(part)
			written.Add(int64(n))
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	last := int64(-1)
	eventually(t, func() bool { // it stands still once the system's buffers are full
		now := written.Load()
		still := now == last && now > 0
		last = now
		return still
	})
	c.mu.Lock()
	require.LessOrEqual(t, len(c.waiting), maxBatch)
	c.mu.Unlock()
	begin := time.Now()
	require.NoError(t, c.Close())
	require.Less(t, time.Since(begin), lastBatchTimeout)
	require.ErrorIs(t, <-ended, net.ErrClosed)
	eventually(t, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.sending })
	require.ErrorIs(t, near.Close(), net.ErrClosed, "it is closed when nothing is sent any more")
}

func TestBatchConn_CloseEndsRead(t *testing.T) {
	near, _ := pair(t)
	c := newBatchConn(near, 0)
	c.start()
	ended := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); ended <- err }()
	_, err := c.Write(make([]byte, 32<<20)) // more than the system takes
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Error(t, <-ended)
}

func TestBatchConn_ErrorIsTold(t *testing.T) {
	near, far := pair(t)
	c := newBatchConn(near, 0)
	c.start()
	require.NoError(t, far.Close())
	eventually(t, func() bool { _, err := c.Write([]byte("x")); return err != nil })
}

func TestBatchConn_OnlyForHTTP2(t *testing.T) {
	for sent, want := range map[string]bool{"PRI * HTTP/2.0\r\n": true, "GET / HTTP/1.1\r\n": false, "PROPFIND / HTTP/1.1\r\n": false} {
		near, far := pair(t)
		c := newBatchConn(near, 0)
		_, err := io.WriteString(far, sent)
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 100))
		require.NoError(t, err)
		require.Equal(t, want, c.on.Load(), sent)
	}
}
