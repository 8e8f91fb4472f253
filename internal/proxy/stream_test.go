package proxy

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// kinds are the ways that a client and an instance may speak.
var kinds = map[string]struct{ client, instance route.Protocol }{
	"http1 to http1": {route.HTTP1, route.HTTP1},
	"http1 to h2c":   {route.HTTP1, route.H2C},
	"h2c to http1":   {route.H2C, route.HTTP1},
	"h2c to h2c":     {route.H2C, route.H2C},
}

// eachKind runs a test with a service "cart" whose instances run handler.
func eachKind(t *testing.T, handler http.HandlerFunc, test func(*testing.T, *world, *http.Client)) {
	t.Helper()
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			start := instance
			if kind.instance == route.H2C {
				start = h2cInstance
			}
			cart := service("cart", ready("main", start(t, handler)))
			cart.Protocol = kind.instance
			w := newWorld(t, Options{}, cart)
			client := w.client
			if kind.client == route.H2C {
				client = h2cClient(t)
			}
			test(t, w, client)
		})
	}
}

func TestStream_BothWaysAtOnce(t *testing.T) {
	pingPong := func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = control.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = io.WriteString(w, "re: "+lines.Text()+"\n")
			_ = control.Flush()
		}
	}
	eachKind(t, pingPong, func(t *testing.T, w *world, client *http.Client) {
		reader, writer := io.Pipe()
		res, err := client.Do(w.request(t, http.MethodPost, "cart.localhost", "/", reader))
		require.NoError(t, err)
		lines := bufio.NewScanner(res.Body)
		for _, word := range []string{"one", "two", "three"} { // each is answered before the next is sent
			_, err := io.WriteString(writer, word+"\n")
			require.NoError(t, err)
			require.True(t, lines.Scan())
			require.Equal(t, "re: "+word, lines.Text())
		}
		require.NoError(t, writer.Close())
		require.False(t, lines.Scan())
		require.NoError(t, lines.Err())
		require.NoError(t, res.Body.Close())

		r := w.records.wait(t, 1)[0]
		require.EqualValues(t, len("one\ntwo\nthree\n"), r.BytesIn)
		require.EqualValues(t, len("re: one\nre: two\nre: three\n"), r.BytesOut)
	})
}

func TestStream_FirstBytesBeforeTheLast(t *testing.T) {
	for name, length := range map[string]string{"known length": "8", "unknown length": "", "events": ""} {
		t.Run(name, func(t *testing.T) {
			proceed := make(chan struct{})
			handler := func(w http.ResponseWriter, r *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				if name == "events" {
					w.Header().Set("Content-Type", "text/event-stream")
				}
				control := http.NewResponseController(w)
				_ = control.Flush() // the header alone
				<-proceed
				_, _ = io.WriteString(w, "1st\n")
				_ = control.Flush()
				<-proceed
				_, _ = io.WriteString(w, "2nd\n")
			}
			eachKind(t, handler, func(t *testing.T, w *world, client *http.Client) {
				res, err := client.Do(w.request(t, http.MethodGet, "cart.localhost", "/", nil))
				require.NoError(t, err)
				defer func() { _ = res.Body.Close() }()
				in := bufio.NewReader(res.Body)
				for _, want := range []string{"1st\n", "2nd\n"} {
					proceed <- struct{}{}
					line, err := in.ReadString('\n')
					require.NoError(t, err)
					require.Equal(t, want, line)
				}
			})
		})
	}
}

func TestStream_AnswerBeforeTheBodyIsRead(t *testing.T) {
	refuse := func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // or net/http reads the body first
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_ = http.NewResponseController(w).Flush()
	}
	eachKind(t, refuse, func(t *testing.T, w *world, client *http.Client) {
		reader, writer := io.Pipe()
		defer func() { _ = writer.Close() }()
		res, err := client.Do(w.request(t, http.MethodPost, "cart.localhost", "/", reader))
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
		require.NoError(t, res.Body.Close())
	})
}

func TestStream_Trailers(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Announced")
		_, _ = w.Write(body)
		w.Header().Set("X-Announced", r.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Surprise", "yes")
	}
	eachKind(t, handler, func(t *testing.T, w *world, client *http.Client) {
		req := w.request(t, http.MethodPost, "cart.localhost", "/", io.MultiReader(strings.NewReader("hello")))
		req.Trailer = http.Header{"X-Sum": {"42"}}
		res, err := client.Do(req)
		require.NoError(t, err)
		require.Equal(t, "hello", read(t, res).text)
		require.Equal(t, "42", res.Trailer.Get("X-Announced"))
		require.Equal(t, "yes", res.Trailer.Get("X-Surprise"))
	})
}

func TestStream_TrailersOfARequestNotAnnounced(t *testing.T) {
	address, got := echo(t)
	w := newWorld(t, Options{}, service("cart", ready("main", address)))
	c := dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", "Transfer-Encoding: chunked", "",
		"5", "hello", "0", "X-Sum: 42", "")
	require.Equal(t, http.StatusOK, c.answer(t, http.MethodPost).StatusCode)
	require.Equal(t, "42", (<-got).Trailer.Get("X-Sum"))
}

func TestStream_EarlyHints(t *testing.T) {
	handler := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "page")
	}
	eachKind(t, handler, func(t *testing.T, w *world, client *http.Client) {
		var hints []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			require.Equal(t, http.StatusEarlyHints, code)
			require.Empty(t, header.Get(ServedByHeader))
			hints = append(hints, header.Get("Link"))
			return nil
		}}
		req := w.request(t, http.MethodGet, "cart.localhost", "/", nil)
		res, err := client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		require.NoError(t, err)
		a := read(t, res)
		require.Equal(t, "page", a.text)
		require.Equal(t, []string{"</style.css>; rel=preload"}, hints)
		require.Empty(t, a.Header.Get("Link"))
		require.NotEmpty(t, a.Header.Get(ServedByHeader))
		require.Equal(t, http.StatusOK, w.records.wait(t, 1)[0].Status)
	})
}

func TestStream_ExpectContinue(t *testing.T) {
	w := newWorld(t, Options{},
		service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body) // this makes the server ask for the body
			_, _ = w.Write(body)
		}))),
		service("strict", ready("main", instance(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusExpectationFailed)
		}))))

	c := dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", "Content-Length: 5", "Expect: 100-continue", "")
	require.Equal(t, http.StatusContinue, c.response(t, http.MethodPost).StatusCode)
	_, err := io.WriteString(c, "hello")
	require.NoError(t, err)
	require.Equal(t, "hello", c.answer(t, http.MethodPost).text)

	c = dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: strict.localhost", "Content-Length: 5", "Expect: 100-continue", "")
	require.Equal(t, http.StatusExpectationFailed, c.answer(t, http.MethodPost).StatusCode)
}

// upgrading is an instance that grants any upgrade, greets, and then echoes.
func upgrading(t *testing.T) string {
	t.Helper()
	return instance(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " +
			r.Header.Get("Upgrade") + "\r\nSec-WebSocket-Accept: x\r\n\r\nwelcome\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	})
}

func TestStream_Upgrades(t *testing.T) {
	for _, protocol := range []string{"websocket", "tcp", "my-protocol/2"} {
		t.Run(protocol, func(t *testing.T) {
			w := newWorld(t, Options{}, service("cart", ready("main", upgrading(t))))
			c := dial(t, w.addr)
			c.send(t, "GET /socket HTTP/1.1", "Host: cart.localhost", "Connection: keep-alive, Upgrade", "Upgrade: "+protocol,
				"Sec-WebSocket-Key: k", "", "early") // sent before the upgrade is granted
			res := c.response(t, http.MethodGet)
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			require.Equal(t, protocol, res.Header.Get("Upgrade"))
			require.Equal(t, "x", res.Header.Get("Sec-WebSocket-Accept"))
			require.Len(t, res.Header[ServedByHeader], 1)
			for _, want := range []string{"welcome\n", "early\r\n"} {
				line, err := c.in.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, want, line)
			}
			c.send(t, "more")
			line, err := c.in.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "more\r\n", line)
			require.Empty(t, w.records.list(), "the request goes on as long as the connection does")
			require.NoError(t, c.Close())

			r := w.records.wait(t, 1)[0]
			require.Equal(t, http.StatusSwitchingProtocols, r.Status)
			require.EqualValues(t, len("early\r\nmore\r\n"), r.BytesIn)
			require.GreaterOrEqual(t, r.BytesOut, int64(len("welcome\nearly\r\nmore\r\n")))
		})
	}
}

func TestStream_NoUpgradeToAnotherHTTP(t *testing.T) {
	address, got := echo(t)
	w := newWorld(t, Options{}, service("cart", ready("main", address)))
	for _, protocol := range []string{"h2c", "H2C", "HTTP/2.0", "TLS/1.2", "websocket, h2c"} {
		t.Run(protocol, func(t *testing.T) {
			a := w.get(t, "cart.localhost", "/", "Connection", "Upgrade, HTTP2-Settings", "Upgrade", protocol, "HTTP2-Settings", "!") // or the proxy itself would grant h2c
			require.Equal(t, http.StatusOK, a.StatusCode)
			r := <-got
			require.NotContains(t, r.Header, "Upgrade")
			require.NotContains(t, r.Header, "Connection")
			require.NotContains(t, r.Header, "Http2-Settings")
		})
	}
}

func TestStream_UpgradeIsNotAskedOfHTTP2(t *testing.T) {
	cart := service("cart", ready("main", h2cInstance(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "plain") })))
	cart.Protocol = route.H2C
	w := newWorld(t, Options{}, cart)
	a := w.get(t, "cart.localhost", "/", "Connection", "Upgrade", "Upgrade", "websocket")
	require.Equal(t, "plain", a.text)
}

func TestStream_AbortedAnswerIsNotShortened(t *testing.T) {
	for name, length := range map[string]string{"known length": "100", "chunked": ""} {
		t.Run(name, func(t *testing.T) {
			handler := func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(w, "part")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			eachKind(t, handler, func(t *testing.T, w *world, client *http.Client) {
				res, err := client.Do(w.request(t, http.MethodGet, "cart.localhost", "/", nil))
				if err == nil { // the header may be lost with the connection
					_, err = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
				require.Error(t, err)
				require.Equal(t, string(CodeAborted), w.records.wait(t, 1)[0].Error)
			})
		})
	}
}

// TestStream_InstanceThatBreaksOffWithinTheBody holds that a client is told at once, though it has more of its
// body to send.
func TestStream_InstanceThatBreaksOffWithinTheBody(t *testing.T) {
	for name, begins := range map[string]bool{"before it answers": false, "within its answer": true} {
		t.Run(name, func(t *testing.T) {
			handler := func(w http.ResponseWriter, r *http.Request) {
				control := http.NewResponseController(w)
				_ = control.EnableFullDuplex()
				_, _ = io.ReadFull(r.Body, make([]byte, 5))
				if begins {
					w.WriteHeader(http.StatusOK)
					_ = control.Flush()
				}
				if conn, _, err := control.Hijack(); err == nil { // or the server would read the rest of the body first
					_ = conn.Close()
				}
				panic(http.ErrAbortHandler)
			}
			eachKind(t, handler, func(t *testing.T, w *world, client *http.Client) {
				for _, framing := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
					start := time.Now()
					status, err := w.sendPart(t, client, framing)
					if begins {
						require.Error(t, err)
					} else {
						require.NoError(t, err)
						require.Equal(t, http.StatusBadGateway, status)
					}
					require.Less(t, time.Since(start), patience/2)
				}
				for _, r := range w.records.wait(t, 2) {
					require.Contains(t, []string{string(CodeAborted), string(CodeUnreachable), string(CodeBadAnswer)}, r.Error)
				}
			})
		})
	}
}

// sendPart sends a request with the beginning of a body, and reads what comes back. A client of
// HTTP/1.1 is a bare connection: that of net/http does not look at the answer before it has sent all.
func (w *world) sendPart(t *testing.T, client *http.Client, framing string) (status int, err error) {
	t.Helper()
	var res *http.Response
	if client == w.client {
		conn := dial(t, w.addr)
		begin := map[string]string{"Content-Length: 1000": "hello", "Transfer-Encoding: chunked": "5\r\nhello\r\n"}[framing]
		conn.raw(t, post(framing)+begin)
		res, err = http.ReadResponse(conn.in, nil)
	} else {
		body, more := io.Pipe()
		defer func() { _ = more.Close() }()
		go func() { _, _ = io.WriteString(more, "hello") }()
		req := w.request(t, http.MethodPost, "cart.localhost", "/", body)
		if framing == "Content-Length: 1000" {
			req.ContentLength = 1000
		}
		res, err = client.Do(req)
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

func TestStream_ClientThatLeavesEndsTheRequest(t *testing.T) {
	ended := make(chan struct{})
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended <- struct{}{}
	}
	eachKind(t, handler, func(t *testing.T, w *world, client *http.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		res, err := client.Do(w.request(t, http.MethodGet, "cart.localhost", "/", nil).WithContext(ctx))
		require.NoError(t, err)
		cancel()
		_ = res.Body.Close()
		<-ended
		require.Equal(t, string(CodeClientGone), w.records.wait(t, 1)[0].Error)
	})
}
