package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/layover-dev/layover/internal/route"
)

// webSocketInstance is an HTTP/1.1 server that grants WebSockets, and answers lines with
// its name. When the client has ended its side, it says bye and ends its own.
func webSocketInstance(t *testing.T, name string) string {
	t.Helper()
	return instance(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" ||
			len(r.Header.Get("Sec-Websocket-Key")) != 24 || r.Header.Get("Sec-Websocket-Version") != "13" || r.Header.Get(protocolField) != "" {
			http.Error(w, fmt.Sprint(r.Method, r.Header), http.StatusBadRequest)
			return
		}
		switch r.URL.Path {
		case "/forbidden":
			http.Error(w, "not you", http.StatusForbidden)
			return
		case "/plain":
			_, _ = io.WriteString(w, "no WebSocket here")
			return
		}
		accept := webSocketAccept(r.Header.Get("Sec-Websocket-Key"))
		if r.URL.Path == "/wrong" {
			accept = "x"
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept +
			"\r\nSec-WebSocket-Protocol: chat\r\n\r\nwelcome\n")
		_ = rw.Flush()
		lines := bufio.NewScanner(rw)
		for lines.Scan() {
			if lines.Text() == "crash" {
				return
			}
			_, _ = io.WriteString(conn, name+" "+lines.Text()+"\n")
		}
		_, _ = io.WriteString(conn, "bye\n")
	})
}

// webSocketH2CInstance is the same over HTTP/2.
func webSocketH2CInstance(t *testing.T, name string) string {
	t.Helper()
	return h2cInstance(t, func(w http.ResponseWriter, r *http.Request) {
		if tunnelProtocol(r) != "websocket" {
			http.Error(w, fmt.Sprint(r.Method, r.Header), http.StatusBadRequest)
			return
		}
		if r.URL.Path == "/forbidden" {
			http.Error(w, "not you", http.StatusForbidden)
			return
		}
		control := http.NewResponseController(w)
		w.Header().Set("Sec-WebSocket-Protocol", "chat")
		_, _ = io.WriteString(w, "welcome\n")
		_ = control.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			if lines.Text() == "crash" {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, name+" "+lines.Text()+"\n")
			_ = control.Flush()
		}
		_, _ = io.WriteString(w, "bye\n")
	})
}

// tunnelClient is a client of HTTP/2 without TLS that may open tunnels, which
// that of net/http may not.
func tunnelClient(t *testing.T) *http2.Transport { //nolint:staticcheck // the one in net/http refuses :protocol
	t.Helper()
	transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) { //nolint:staticcheck // the one in net/http refuses :protocol
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections) //nolint:staticcheck // the one in net/http refuses :protocol
	return transport
}

// openTunnel asks for a tunnel; what is written to the pipe goes through it.
func openTunnel(ctx context.Context, t *testing.T, w *world, protocol, path string, headers ...string) (*http.Response, *io.PipeWriter) {
	t.Helper()
	reader, writer := io.Pipe()
	req := w.request(t, http.MethodConnect, "cart.localhost", path, reader, append(headers, "Sec-WebSocket-Version", "13", "Origin", "http://shop.test")...).WithContext(ctx)
	req.Header[protocolField] = []string{protocol}
	res, err := tunnelClient(t).RoundTrip(req) //nolint:staticcheck // the one in net/http refuses :protocol
	require.NoError(t, err)
	t.Cleanup(func() { _ = writer.Close(); _ = res.Body.Close() })
	return res, writer
}

// webSocketWorlds runs a test with instances of both kinds.
func webSocketWorlds(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	for protocol, start := range map[route.Protocol]func(*testing.T, string) string{route.HTTP1: webSocketInstance, route.H2C: webSocketH2CInstance} {
		t.Run("to "+string(protocol), func(t *testing.T) {
			cart := service("cart", ready("main", start(t, "main")), ready("pr-1", start(t, "pr-1")))
			cart.Protocol = protocol
			test(t, newWorld(t, Options{}, cart))
		})
	}
}

func TestConnect_WebSocket(t *testing.T) {
	webSocketWorlds(t, func(t *testing.T, w *world) {
		res, tunnel := openTunnel(t.Context(), t, w, "websocket", "/socket?x=1", "Baggage", toPR1)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, "cart@pr-1; route=pr-1; by=baggage", res.Header.Get(ServedByHeader))
		require.Equal(t, "chat", res.Header.Get("Sec-WebSocket-Protocol"))
		for _, absent := range []string{"Connection", "Upgrade", "Sec-WebSocket-Accept"} {
			require.Empty(t, res.Header.Values(absent))
		}
		in := bufio.NewScanner(res.Body)
		require.True(t, in.Scan())
		require.Equal(t, "welcome", in.Text()) // it speaks first
		for _, word := range []string{"one", "two"} {
			_, err := io.WriteString(tunnel, word+"\n")
			require.NoError(t, err)
			require.True(t, in.Scan())
			require.Equal(t, "pr-1 "+word, in.Text())
		}
		require.NoError(t, tunnel.Close()) // half: the other side goes on
		require.True(t, in.Scan())
		require.Equal(t, "bye", in.Text())
		require.False(t, in.Scan())
		require.NoError(t, in.Err())

		r := w.records.wait(t, 1)[0]
		require.Equal(t, http.MethodConnect, r.Method)
		require.Equal(t, "/socket", r.Path)
		require.Equal(t, "pr-1", r.Version)
		require.NotEmpty(t, r.Instance)
		require.Equal(t, http.StatusOK, r.Status)
		require.EqualValues(t, len("one\ntwo\n"), r.BytesIn)
		require.EqualValues(t, len("welcome\npr-1 one\npr-1 two\nbye\n"), r.BytesOut)
		require.Empty(t, r.Error)
		require.Equal(t, uint64(1), w.Requests()["cart@pr-1"])
		require.NoError(t, w.WaitIdle(t.Context(), r.Instance))
	})
}

func TestConnect_InstanceEndsFirst(t *testing.T) {
	webSocketWorlds(t, func(t *testing.T, w *world) {
		res, tunnel := openTunnel(t.Context(), t, w, "websocket", "/")
		_, err := io.WriteString(tunnel, "crash\n")
		require.NoError(t, err)
		_, _ = io.ReadAll(res.Body) // it ends
		r := w.records.wait(t, 1)[0]
		require.NoError(t, w.WaitIdle(t.Context(), r.Instance))
	})
}

func TestConnect_ClientLeaves(t *testing.T) {
	webSocketWorlds(t, func(t *testing.T, w *world) {
		_, tunnel := openTunnel(t.Context(), t, w, "websocket", "/")
		require.NoError(t, tunnel.CloseWithError(errors.New("gone"))) // resets the stream
		r := w.records.wait(t, 1)[0]
		require.Equal(t, string(CodeClientGone), r.Error)
		require.NoError(t, w.WaitIdle(t.Context(), r.Instance))
	})
}

func TestConnect_CutAtTheEndOfTheDrain(t *testing.T) {
	cart := service("cart", ready("main", webSocketInstance(t, "main")))
	w := newWorld(t, Options{DrainTimeout: 50 * time.Millisecond}, cart)
	res, _ := openTunnel(t.Context(), t, w, "websocket", "/")
	w.stop()
	_, _ = io.ReadAll(res.Body) // it ends
	require.Equal(t, string(CodeStopping), w.records.wait(t, 1)[0].Error)
}

func TestConnect_Refused(t *testing.T) {
	webSocketWorlds(t, func(t *testing.T, w *world) {
		res, _ := openTunnel(t.Context(), t, w, "websocket", "/forbidden")
		require.Equal(t, http.StatusForbidden, res.StatusCode)
		require.Equal(t, "not you\n", read(t, res).text)
		require.Empty(t, res.Header.Get(ErrorHeader))
		require.Equal(t, http.StatusForbidden, w.records.wait(t, 1)[0].Status)
	})
}

func TestConnect_Problems(t *testing.T) {
	cart := service("cart", ready("main", webSocketInstance(t, "main")), ready("dead", deadAddress(t)), state("pr-1", route.Failed, "broken"))
	modern := service("modern", ready("main", grpcOnly(t)))
	modern.Protocol = route.H2C
	w := newWorld(t, Options{}, cart, modern)
	for name, c := range map[string]struct {
		protocol, path, host, baggage string
		status                        int
		code                          Code
		detail                        string
	}{
		"another protocol":   {"connect-udp", "/", "cart.localhost", "", http.StatusNotImplemented, CodeConnect, "connect-udp"},
		"wrong accept":       {"websocket", "/wrong", "cart.localhost", "", http.StatusBadGateway, CodeBadAnswer, "Sec-WebSocket-Accept"},
		"no upgrade":         {"websocket", "/plain", "cart.localhost", "", http.StatusBadGateway, CodeBadAnswer, "200"},
		"unreachable":        {"websocket", "/", "cart.localhost", "dynamic_route=dead", http.StatusBadGateway, CodeUnreachable, "dead"},
		"failed version":     {"websocket", "/", "cart.localhost", toPR1, http.StatusServiceUnavailable, CodeVersionFailed, "broken"},
		"unknown host":       {"websocket", "/", "nowhere.test", "", http.StatusNotFound, CodeUnknownHost, "nowhere.test"},
		"unknown route":      {"websocket", "/", "cart.localhost", "dynamic_route=no!", http.StatusMisdirectedRequest, CodeUnknownRoute, "no!"},
		"not of an instance": {"websocket", "/", "modern.localhost", "", http.StatusBadGateway, CodeBadAnswer, "RFC 8441"},
	} {
		t.Run(name, func(t *testing.T) {
			req := w.request(t, http.MethodConnect, c.host, c.path, strings.NewReader(""), "Baggage", c.baggage)
			req.Header[protocolField] = []string{c.protocol}
			res, err := tunnelClient(t).RoundTrip(req) //nolint:staticcheck // the one in net/http refuses :protocol
			require.NoError(t, err)
			pr := read(t, res).problem(t)
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, c.code, pr.Code)
			require.Contains(t, pr.Detail, c.detail)
		})
	}
}

// grpcOnly is a server of HTTP/2 that does not know extended CONNECT.
func grpcOnly(t *testing.T) string {
	t.Helper()
	return greeter(t, "main")
}

func TestConnect_HeldUntilReady(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", state("main", route.Starting, "")))
	done := make(chan string, 1)
	go func() {
		res, _ := openTunnel(t.Context(), t, w, "websocket", "/") //nolint:testifylint // it fails by not answering
		line, _ := bufio.NewReader(res.Body).ReadString('\n')
		done <- line
	}()
	w.waitHeld(t, 1)
	w.set(t, service("cart", ready("main", webSocketInstance(t, "main"))))
	require.Equal(t, "welcome\n", <-done)
}

// TestConnect_SwitchIsOn holds that net/http read the switch of package xconnect, and that
// nothing of it is left for the instances that the program starts.
func TestConnect_SwitchIsOn(t *testing.T) {
	require.NotContains(t, os.Getenv("GODEBUG"), "http2xconnect")
	w := newWorld(t, Options{})
	conn := dial(t, w.addr)
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn.in)
	require.NoError(t, framer.WriteSettings())
	frame, err := framer.ReadFrame()
	require.NoError(t, err)
	value, _ := frame.(*http2.SettingsFrame).Value(http2.SettingEnableConnectProtocol)
	require.EqualValues(t, 1, value, "net/http does not offer extended CONNECT: has its switch changed?")
}
