package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/require"
)

// proxyHeader is the header of a load balancer for a client.
func proxyHeader(t testing.TB, version byte, client string) string {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", client)
	require.NoError(t, err)
	own := &net.TCPAddr{IP: net.ParseIP("192.0.2.100"), Port: 80}
	if addr.IP.To4() == nil {
		own.IP = net.ParseIP("2001:db8::100")
	}
	text, err := proxyproto.HeaderProxyFromAddrs(version, addr, own).Format()
	require.NoError(t, err)
	return string(text)
}

const plainRequest = "GET / HTTP/1.1\r\nHost: cart.localhost\r\n\r\n"

func TestProxyProtocol_ClientsAddress(t *testing.T) {
	clients := make(chan string, 1)
	cart := instance(t, func(_ http.ResponseWriter, r *http.Request) { clients <- r.Header.Get("X-Forwarded-For") })
	w := newWorld(t, Options{ProxyProtocolFrom: prefixes("127.0.0.0/8")}, service("cart", ready("main", cart)))
	local, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	require.NoError(t, err)
	seen := 0
	for name, c := range map[string]struct{ header, client string }{
		"version 1":         {proxyHeader(t, 1, "198.51.100.7:4711"), "198.51.100.7"},
		"version 1, IPv6":   {proxyHeader(t, 1, "[2001:db8::7]:4711"), "2001:db8::7"},
		"version 2":         {proxyHeader(t, 2, "198.51.100.7:4711"), "198.51.100.7"},
		"version 2, IPv6":   {proxyHeader(t, 2, "[2001:db8::7]:4711"), "2001:db8::7"},
		"version 1 unknown": {"PROXY UNKNOWN\r\n", "127.0.0.1"},
		"version 2 local":   {string(local), "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, w.addr)
			for range 2 { // the address is the connection's, not the first request's
				_, err := io.WriteString(conn, c.header+plainRequest)
				require.NoError(t, err)
				c.header = ""
				require.Equal(t, http.StatusOK, conn.answer(t, http.MethodGet).StatusCode)
				require.Equal(t, c.client, <-clients)
				seen++
				peer := w.records.wait(t, seen)[seen-1].Peer
				require.Contains(t, peer.String(), c.client)
				if c.client != "127.0.0.1" {
					require.True(t, strings.HasSuffix(peer.String(), ":4711"), peer.String())
				}
			}
		})
	}
}

func TestProxyProtocol_HeaderAndRequestApart(t *testing.T) {
	w := newWorld(t, Options{ProxyProtocolFrom: prefixes("127.0.0.0/8")}, service("cart", ready("main", says(t, "main"))))
	conn := dial(t, w.addr)
	for _, part := range []string{proxyHeader(t, 2, "198.51.100.7:4711"), plainRequest[:7], plainRequest[7:]} {
		_, err := io.WriteString(conn, part)
		require.NoError(t, err)
	}
	require.Equal(t, "main", conn.answer(t, http.MethodGet).text)
}

// TestProxyProtocol_Refused holds that a connection of a load balancer does nothing without
// its header, and one of somebody else nothing with it.
func TestProxyProtocol_Refused(t *testing.T) {
	v1, v2 := proxyHeader(t, 1, "198.51.100.7:4711"), proxyHeader(t, 2, "198.51.100.7:4711")
	for name, c := range map[string]struct{ from, sent string }{
		"none from the load balancer":         {"127.0.0.0/8", plainRequest},
		"malformed":                           {"127.0.0.0/8", "PROXY TCP4 nonsense\r\n" + plainRequest},
		"longer than any":                     {"127.0.0.0/8", v2[:14] + "\xff\xff" + strings.Repeat("x", 1<<16)},
		"version 1 from elsewhere":            {"10.0.0.0/8", v1 + plainRequest},
		"version 2 from elsewhere":            {"10.0.0.0/8", v2 + plainRequest},
		"version 1 where there is no network": {"", v1 + plainRequest},
		"version 2 where there is no network": {"", v2 + plainRequest},
	} {
		t.Run(name, func(t *testing.T) {
			options := Options{}
			if c.from != "" {
				options.ProxyProtocolFrom = prefixes(c.from)
			}
			w := newWorld(t, options, service("cart", ready("main", says(t, "main"))))
			conn := dial(t, w.addr)
			_, _ = io.WriteString(conn, c.sent)                   // it may be closed before all is sent
			got, _ := io.ReadAll(io.LimitReader(conn.in, 16<<10)) // to its end: the connection is closed
			require.NotContains(t, string(got), "HTTP/1.1 200")
			if c.from != "127.0.0.0/8" {
				require.Contains(t, string(got), "HTTP/1.1 400")
			}
			w.stop()
			for _, r := range w.records.list() {
				require.Equal(t, string(CodeMalformed), r.Error)
			}
		})
	}
}

func TestProxyProtocol_SlowHeaderEndsWithTheProxy(t *testing.T) {
	w := newWorld(t, Options{ProxyProtocolFrom: prefixes("127.0.0.0/8")}, service("cart", ready("main", says(t, "main"))))
	conn := dial(t, w.addr)
	_, err := io.WriteString(conn, "PROXY")
	require.NoError(t, err)
	w.stop()
	_, err = conn.in.ReadByte()
	require.Error(t, err)
	require.False(t, isTimeout(err), "the connection is still open")
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

func FuzzUnwrapProxied(f *testing.F) {
	f.Add([]byte(proxyHeader(f, 1, "198.51.100.7:4711") + plainRequest))
	f.Add([]byte(proxyHeader(f, 2, "[2001:db8::7]:4711") + plainRequest))
	f.Add([]byte("PROXY UNKNOWN\r\n" + plainRequest))
	f.Add([]byte(plainRequest))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00rest"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &scriptedConn{in: bytes.NewReader(sent)}
		client, err := unwrapProxied(conn, newNetworks(prefixes("127.0.0.0/8")))
		if err != nil {
			return
		}
		require.NotEmpty(t, client.RemoteAddr().String())
		rest, err := io.ReadAll(client)
		require.NoError(t, err)
		require.True(t, bytes.HasSuffix(sent, rest), "what is behind the header goes on as it came")
		require.Less(t, len(rest), len(sent), "a header was there")
		require.LessOrEqual(t, len(sent)-len(rest), maxProxyHeader)
	})
}

// scriptedConn is a connection from loopback on which all has been sent.
type scriptedConn struct {
	net.Conn
	in *bytes.Reader
}

// Read reads what was sent.
func (c *scriptedConn) Read(b []byte) (int, error) { return c.in.Read(b) }

// RemoteAddr is on loopback.
func (c *scriptedConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
}

// SetReadDeadline does nothing.
func (c *scriptedConn) SetReadDeadline(time.Time) error { return nil }
