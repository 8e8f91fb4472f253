package handover

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const patience = 20 * time.Second // for things that happen at once on an idle machine

// pair returns the two ends of a connection between an old and a new process.
func pair(t *testing.T) (old, successor *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	door, err := Listen(t.Context(), path)
	require.NoError(t, err)
	defer func() { require.NoError(t, door.Close()) }()
	successor, err = Dial(t.Context(), path)
	require.NoError(t, err)
	old, err = door.AcceptUnix()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = old.Close(), successor.Close() })
	return old, successor
}

func listening(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

// greets accepts a connection and says a word on it.
func greets(t *testing.T, l net.Listener, word string) {
	t.Helper()
	dialed, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = dialed.Close() }()
	accepted, err := l.Accept()
	require.NoError(t, err)
	_, err = accepted.Write([]byte(word))
	require.NoError(t, errors.Join(err, accepted.Close()))
	got, err := io.ReadAll(dialed)
	require.NoError(t, err)
	require.Equal(t, word, string(got))
}

func TestHandOver(t *testing.T) {
	old, successor := pair(t)
	a, b, c := listening(t), listening(t), listening(t)
	given := make(chan error, 1)
	go func() {
		given <- Give(t.Context(), old, 4711, []Socket{{"proxy", a}, {"admin", b}, {"unused", c}})
	}()
	offer, err := Take(t.Context(), successor)
	require.NoError(t, err)
	require.Equal(t, 4711, offer.PID)
	require.Nil(t, offer.Socket("unknown"))
	taken := offer.Socket("admin")
	require.Equal(t, b.Addr().String(), taken.Addr().String())
	require.Nil(t, offer.Socket("admin"), "it is given once")
	select {
	case err := <-given:
		require.Fail(t, "the old one does not wait until the new one is ready", "%v", err)
	default:
	}
	require.NoError(t, offer.Accept(t.Context()))
	require.NoError(t, <-given)
	require.NoError(t, b.Close(), "the old one lets go")
	greets(t, taken, "new")
	require.NoError(t, taken.Close())
	_, err = net.Dial("tcp", taken.Addr().String())
	require.Error(t, err, "nobody holds it any more")
}

// TestOldListenerStaysNonBlocking holds that handing a socket over does not change it: a
// listener in blocking mode could not be closed.
func TestOldListenerStaysNonBlocking(t *testing.T) {
	old, successor := pair(t)
	l := listening(t)
	go func() { _ = Give(t.Context(), old, 1, []Socket{{"proxy", l}}) }()
	offer, err := Take(t.Context(), successor)
	require.NoError(t, err)
	offer.Refuse(errors.New("no"))
	require.NoError(t, l.SetDeadline(time.Now().Add(time.Millisecond)))
	_, err = l.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestOldGoesOn(t *testing.T) {
	for name, test := range map[string]struct {
		successor func(t *testing.T, conn *net.UnixConn)
		want      string
	}{
		"refused": {func(t *testing.T, conn *net.UnixConn) {
			offer, err := Take(t.Context(), conn)
			require.NoError(t, err)
			offer.Refuse(errors.New("no table\nafter 30s"))
		}, "did not get ready: no table; after 30s"},
		"crashed": {func(t *testing.T, conn *net.UnixConn) {
			require.NoError(t, conn.Close())
		}, ""}, // it depends on when
		"crashed with the sockets": {func(t *testing.T, conn *net.UnixConn) {
			_, err := Take(t.Context(), conn)
			require.NoError(t, err)
			require.NoError(t, conn.Close())
		}, "ended before it was ready"},
		"something else": {func(t *testing.T, conn *net.UnixConn) {
			_, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			require.NoError(t, err)
		}, "none of the words"},
		"endless": {func(_ *testing.T, conn *net.UnixConn) {
			_, _ = conn.Write(make([]byte, 2*maxWords)) // it may break off
		}, "before it was ready"},
	} {
		t.Run(name, func(t *testing.T) {
			old, successor := pair(t)
			l := listening(t)
			go test.successor(t, successor)
			require.ErrorContains(t, Give(t.Context(), old, 1, []Socket{{"proxy", l}}), test.want)
			greets(t, l, "old")
		})
	}
}

func TestOldGivesUp(t *testing.T) {
	old, successor := pair(t)
	l := listening(t)
	late := errors.New("not ready in time")
	ctx, cancel := context.WithCancelCause(t.Context())
	given := make(chan error, 1)
	go func() { given <- Give(ctx, old, 1, []Socket{{"proxy", l}}) }()
	offer, err := Take(t.Context(), successor)
	require.NoError(t, err)
	cancel(late)
	require.ErrorIs(t, <-given, late)
	greets(t, l, "old")
	require.ErrorContains(t, offer.Accept(t.Context()), "goes on", "the new one may not serve")
}

func TestTakeRefusesWhatIsNoHandOver(t *testing.T) {
	for name, line := range map[string]string{
		"nothing":      "",
		"no JSON":      "hello\n",
		"other format": `{"format":2,"names":[]}` + "\n",
		"no sockets":   `{"format":1,"names":["proxy"]}` + "\n",
		"no end":       `{"format":1`,
		"endless":      string(make([]byte, 2*maxLine)),
	} {
		t.Run(name, func(t *testing.T) {
			old, successor := pair(t)
			go func() {
				_, _ = old.Write([]byte(line)) // it may break off
				_ = old.Close()
			}()
			_, err := Take(t.Context(), successor)
			require.ErrorContains(t, err, "take over the sockets")
		})
	}
}

func TestListenReplacesTheOneBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	conn, err := Dial(t.Context(), path)
	require.NoError(t, err)
	require.Nil(t, conn, "there is nobody")
	first, err := Listen(t.Context(), path)
	require.NoError(t, err)
	second, err := Listen(t.Context(), path)
	require.NoError(t, err)
	require.NoError(t, first.Close())
	conn, err = Dial(t.Context(), path)
	require.NoError(t, err)
	accepted, err := second.Accept()
	require.NoError(t, err)
	require.NoError(t, errors.Join(accepted.Close(), conn.Close(), second.Close()))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	conn, err = Dial(t.Context(), path)
	require.NoError(t, err)
	require.Nil(t, conn, "who listened there has ended")
}

func TestGate(t *testing.T) {
	gate := NewGate(listening(t))
	greets(t, gate, "open")
	accepted := make(chan error, 1)
	late := atomic.Int32{} // connections that were accepted in the moment of shutting
	go func() {
		for {
			conn, err := gate.Accept()
			if err != nil {
				accepted <- err
				return
			}
			late.Add(1)
			_ = conn.Close()
		}
	}()
	require.NoError(t, gate.Shut())
	for range 5 {
		waiting, err := net.Dial("tcp", gate.Addr().String())
		require.NoError(t, err, "the kernel still takes connections, for whoever shares the socket")
		defer waiting.Close() //nolint:errcheck // nothing was sent
	}
	select {
	case err := <-accepted:
		require.Fail(t, "a gate that is shut returns from Accept", "%v", err)
	case <-time.After(20 * time.Millisecond): // nothing to wait for: it must not happen
	}
	require.LessOrEqual(t, late.Load(), int32(1))
	require.NoError(t, gate.Close())
	select {
	case err := <-accepted:
		require.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(patience):
		require.Fail(t, "Accept does not end with the gate")
	}
	require.ErrorIs(t, gate.Close(), net.ErrClosed)
}
