package proxy

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConnLimit_PerClient(t *testing.T) {
	l := newConnLimit(Connections{All: -1, PerClient: 2})
	one, mapped, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	require.True(t, l.admit(one, false))
	require.True(t, l.admit(mapped, false))
	require.False(t, l.admit(one, false))
	require.True(t, l.admit(other, false))
	require.True(t, l.admit(one, true), "a trusted listener")
	l.release(one, true)
	l.release(mapped, false)
	require.True(t, l.admit(one, false))
	require.EqualValues(t, 3, l.open.Load())
	require.EqualValues(t, 1, l.refused.Load())

	for _, addr := range []string{"2001:db8:0:1::1", "2001:db8:0:1:ffff::2"} {
		require.True(t, l.admit(netip.MustParseAddr(addr), false))
	}
	require.False(t, l.admit(netip.MustParseAddr("2001:db8:0:1::3"), false), "one client has 2^64 addresses")
	require.True(t, l.admit(netip.MustParseAddr("2001:db8:0:2::3"), false))

	for range 5 {
		require.True(t, l.admit(netip.MustParseAddr("127.0.0.1"), false))
		require.True(t, l.admit(netip.MustParseAddr("::1"), false))
		require.True(t, l.admit(netip.Addr{}, true))
	}
	for _, addr := range []netip.Addr{one, one, other} {
		l.release(addr, false)
	}
	require.Empty(t, l.shard(one).open[one])
}

func TestConnLimit_All(t *testing.T) {
	l := newConnLimit(Connections{All: 3, PerClient: -1})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if l.admit(netip.Addr{}, false) {
					l.release(netip.Addr{}, false)
				}
			}
		})
	}
	all.Wait()
	require.Zero(t, l.open.Load())
	for range 3 {
		require.True(t, l.admit(netip.Addr{}, true))
	}
	require.False(t, l.admit(netip.Addr{}, true), "trusted ones too")
}

func TestProxy_RefusesConnectionsOverTheLimit(t *testing.T) {
	w := newWorld(t, Options{Connections: Connections{All: 2}}, service("cart", ready("main", says(t, "main")), ready("pr-1", upgrading(t))))
	kept, upgraded := dial(t, w.addr), dial(t, w.trusted)
	kept.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "")
	require.Equal(t, "main", kept.answer(t, http.MethodGet).text)
	upgraded.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "Baggage: "+toPR1, "Connection: Upgrade", "Upgrade: websocket", "")
	require.Equal(t, http.StatusSwitchingProtocols, upgraded.response(t, http.MethodGet).StatusCode)

	refused := dial(t, w.addr)
	a := refused.answer(t, http.MethodGet)
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Equal(t, CodeTooManyConnections, a.problem(t).Code)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	_, err := refused.in.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	open, count := w.Connections()
	require.EqualValues(t, 2, open)
	require.EqualValues(t, 1, count)

	kept.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "")
	require.Equal(t, "main", kept.answer(t, http.MethodGet).text, "who is in stays in")
	require.NoError(t, upgraded.Close()) // it is no longer the server's, and counted all the same
	eventually(t, func() bool { open, _ := w.Connections(); return open == 1 })
	next := dial(t, w.addr)
	next.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "")
	require.Equal(t, "main", next.answer(t, http.MethodGet).text)
}

func TestLimitedConn_IsReleasedOnce(t *testing.T) {
	l := newConnLimit(Connections{})
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	require.True(t, l.admit(netip.Addr{}, false))
	c := &limitedConn{Conn: server, limit: l}
	require.Error(t, c.CloseWrite(), "a pipe has no half")
	require.Equal(t, server, c.NetConn())
	require.NoError(t, c.Close())
	_ = c.Close()
	require.Zero(t, l.open.Load())
}
