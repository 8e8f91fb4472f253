package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/layover-dev/layover/internal/route"
)

// dialH2 makes a bare connection of HTTP/2.
func dialH2(t *testing.T, conn net.Conn, settings ...http2.Setting) *h2cConn {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	wire := &wire{conn, bufio.NewReader(conn)}
	c := &h2cConn{wire: wire, framer: http2.NewFramer(conn, wire.in)}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.start(t, settings...)
	return c
}

// await reads frames, and answers those that want an answer, until one is what is looked for.
func (c *h2cConn) await(t *testing.T, found func(http2.Frame) bool) {
	t.Helper()
	for {
		frame, err := c.framer.ReadFrame()
		require.NoError(t, err)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				require.NoError(t, c.framer.WriteSettingsAck())
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				require.NoError(t, c.framer.WritePing(true, f.Data))
			}
		}
		if found(frame) {
			return
		}
	}
}

// awaitEnd waits for the last of a stream, or for its reset.
func (c *h2cConn) awaitEnd(t *testing.T, stream uint32) (reset bool) {
	t.Helper()
	c.await(t, func(frame http2.Frame) bool {
		_, reset = frame.(*http2.RSTStreamFrame)
		return frame.Header().StreamID == stream && (reset || frame.Header().Flags.Has(http2.FlagDataEndStream))
	})
	return reset
}

// TestSendLimit_StreamThatIsNotTaken holds that a client which takes nothing of an answer loses it, and
// nothing else: its connection, and the other answers on that, go on.
func TestSendLimit_StreamThatIsNotTaken(t *testing.T) {
	const most = 200 * time.Millisecond
	large := bytes.Repeat([]byte("x"), 1<<20)
	answers := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			w.Header().Set("Content-Length", strconv.Itoa(len(large)))
			_, _ = w.Write(large)
		case "/stream":
			for range 3 {
				_, _ = w.Write([]byte("event"))
				_ = http.NewResponseController(w).Flush()
			}
		case "/late":
			letPass(2 * most)
			fallthrough
		default:
			_, _ = w.Write([]byte("ok"))
		}
	}
	for name, c := range map[string]struct {
		path string
		host string
		code Code // of the record; what the server keeps back is over for the proxy before
	}{
		"large":     {"/large", "cart.localhost", CodeClientGone},
		"stream":    {"/stream", "cart.localhost", CodeClientGone},
		"small":     {"/small", "cart.localhost", ""},
		"late":      {"/late", "cart.localhost", CodeClientGone},
		"a problem": {"/", "unknown", CodeUnknownHost},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{sendTimeout: most}, service("cart", ready("main", instance(t, answers))))
			c2 := dialH2(t, dial(t, w.addr).Conn, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			c2.ask(t, 1, ":path", c.path, ":authority", c.host)
			start := time.Now()
			require.True(t, c2.awaitEnd(t, 1), "the stream is reset")
			require.GreaterOrEqual(t, time.Since(start), most)
			require.Less(t, time.Since(start), patience/2)
			require.Equal(t, string(c.code), w.records.wait(t, 1)[0].Error)
			c2.ask(t, 3)
			require.NoError(t, c2.framer.WriteWindowUpdate(3, 1<<20))
			require.False(t, c2.awaitEnd(t, 3))
			require.Empty(t, w.records.wait(t, 2)[1].Error)
		})
	}
}

// TestSendLimit_ConnectionThatIsNotRead holds the same for a connection of which the client reads nothing at
// all, though it says that it is there.
func TestSendLimit_ConnectionThatIsNotRead(t *testing.T) {
	const most = 200 * time.Millisecond
	large := bytes.Repeat([]byte("x"), 32<<20) // more than the system takes
	cart := service("cart", ready("main", instance(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(large) })))
	try := func(t *testing.T, w *world, conn net.Conn) {
		t.Helper()
		const window = 1 << 30
		c := dialH2(t, conn, http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
		require.NoError(t, c.framer.WriteWindowUpdate(0, window))
		c.ask(t, 1)
		start := time.Now()
		for c.framer.WriteWindowUpdate(0, 1) == nil { // a sign of life that needs no answer
			require.Less(t, time.Since(start), patience, "the proxy waits for it without end")
			letPass(10 * time.Millisecond)
		}
		w.failed(t, CodeClientGone, 1)
	}
	t.Run("plain", func(t *testing.T) {
		w := newWorld(t, Options{sendTimeout: most}, cart)
		try(t, w, dial(t, w.addr).Conn)
	})
	t.Run("TLS", func(t *testing.T) {
		certificates, err := LoadCertificates([]KeyPair{makePair(t, t.TempDir(), "cart", "cart.localhost")}, nil)
		require.NoError(t, err)
		w, addr := tlsWorld(t, Options{sendTimeout: most}, certificates)
		w.set(t, cart)
		conn := tls.Client(dial(t, addr).Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		require.NoError(t, conn.HandshakeContext(t.Context()))
		require.Equal(t, "h2", conn.ConnectionState().NegotiatedProtocol)
		try(t, w, conn)
	})
}

// TestSendLimit_PausesAreNoMatter holds that only a client is hurried: an instance may pause for as long as it
// likes, also in an answer of which the client has taken all so far.
func TestSendLimit_PausesAreNoMatter(t *testing.T) {
	const most = 100 * time.Millisecond
	for name, length := range map[string]string{"length": "10", "stream": ""} {
		t.Run(name, func(t *testing.T) {
			address := instance(t, func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(w, "event")
				_ = http.NewResponseController(w).Flush()
				letPass(4 * most)
				_, _ = io.WriteString(w, "event")
			})
			for _, noFastPath := range []bool{false, true} {
				w := newWorld(t, Options{sendTimeout: most, NoFastPath: noFastPath}, service("cart", ready("main", address)))
				for _, client := range []*http.Client{w.client, h2cClient(t)} {
					res, err := client.Do(w.request(t, http.MethodGet, "cart.localhost", "/", nil))
					require.NoError(t, err)
					require.Equal(t, "eventevent", read(t, res).text)
				}
			}
		})
	}
}

// TestSendLimit_NotForTunnels holds that both ends of a tunnel may pause, and that a client may take its time.
func TestSendLimit_NotForTunnels(t *testing.T) {
	const most = 100 * time.Millisecond
	for protocol, start := range map[route.Protocol]func(*testing.T, string) string{route.HTTP1: webSocketInstance, route.H2C: webSocketH2CInstance} {
		t.Run("to "+string(protocol), func(t *testing.T) {
			cart := service("cart", ready("main", start(t, "main")))
			cart.Protocol = protocol
			w := newWorld(t, Options{sendTimeout: most}, cart)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			res, tunnel := openTunnel(ctx, t, w, "websocket", "/socket")
			in := bufio.NewScanner(res.Body)
			require.True(t, in.Scan())
			letPass(5 * most)
			_, err := io.WriteString(tunnel, "one\n")
			require.NoError(t, err)
			require.True(t, in.Scan())
			require.Equal(t, "main one", in.Text())
		})
	}
	t.Run("that the client does not take", func(t *testing.T) {
		w := newWorld(t, Options{sendTimeout: most}, service("cart", ready("main", webSocketInstance(t, "main"))))
		c := dialH2(t, dial(t, w.addr).Conn, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.open(t, 1, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "cart.localhost", ":path", "/", "sec-websocket-version", "13")
		c.await(t, func(frame http2.Frame) bool { _, is := frame.(*http2.MetaHeadersFrame); return is })
		letPass(5 * most)
		require.NoError(t, c.framer.WriteWindowUpdate(1, 100))
		c.await(t, func(frame http2.Frame) bool {
			data, is := frame.(*http2.DataFrame)
			return is && string(data.Data()) == "welcome\n"
		})
	})
}

// open sends the head of a request that goes on.
func (c *h2cConn) open(t *testing.T, stream uint32, fields ...string) {
	t.Helper()
	require.NoError(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: encodeFields(t, fields...), EndHeaders: true}))
}
