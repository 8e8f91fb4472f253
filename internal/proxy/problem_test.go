package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

func TestProblem_UnknownHost(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "cart"))))
	a := w.get(t, "carte.localhost", "/")
	require.Equal(t, http.StatusNotFound, a.StatusCode)
	p := a.problem(t)
	require.Equal(t, CodeUnknownHost, p.Code)
	require.Empty(t, p.Similar)
	require.Empty(t, a.Header.Get(ServedByHeader))
	require.NotContains(t, a.text, "cart.localhost\"")

	w.addr = w.trusted
	require.Equal(t, []string{"cart.localhost"}, w.get(t, "carte.localhost", "/").problem(t).Similar)
}

func TestProblem_UnknownRoute(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main")), ready("feature-1", says(t, "f"))))
	a := w.get(t, "cart.localhost", "/", "Baggage", "dynamic_route=featur-1!")
	require.Equal(t, http.StatusMisdirectedRequest, a.StatusCode)
	p := a.problem(t)
	require.Equal(t, CodeUnknownRoute, p.Code)
	require.Contains(t, p.Similar, "feature-1")
	require.Contains(t, p.Detail, "featur-1!")

	a = w.get(t, "cart.localhost", "/", "Baggage", "dynamic_route=featur-1")
	require.Equal(t, "main", a.text)
	require.Contains(t, a.Header.Get(ServedByHeader), "fallback=unknown")
}

func TestProblem_NoVersion(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("pr-1", says(t, "pr-1"))))
	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Equal(t, CodeNoVersion, a.problem(t).Code)
}

func TestProblem_VersionFailedAtOnce(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main")), state("pr-1", route.Failed, "exit code 1.")))
	a := w.get(t, "cart.localhost", "/", "Baggage", toPR1)
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Contains(t, a.Header.Get(ServedByHeader), "cart@pr-1")
	p := a.problem(t)
	require.Equal(t, CodeVersionFailed, p.Code)
	require.Equal(t, "cart@pr-1 will not answer: exit code 1.", p.Detail)
	require.Contains(t, p.Hint, "layover logs cart@pr-1")
}

func TestProblem_Unreachable(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", deadAddress(t))))
	a := w.do(t, w.request(t, http.MethodPost, "cart.localhost", "/", strings.NewReader("x")))
	require.Equal(t, http.StatusBadGateway, a.StatusCode)
	require.Contains(t, a.Header.Get(ServedByHeader), "cart@main")
	p := a.problem(t)
	require.Equal(t, CodeUnreachable, p.Code)
	require.Contains(t, p.Detail, "cart@main")
	require.Contains(t, p.Detail, "main-127.0.0.1:")
	require.Contains(t, p.Hint, "layover logs cart@main")
	require.Equal(t, string(CodeUnreachable), w.records.wait(t, 1)[0].Error)
	require.Empty(t, w.Requests(), "nobody answered")
}

func TestProblem_AnotherInstanceOfTheSameVersion(t *testing.T) {
	main, pr := says(t, "main"), instance(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	w := newWorld(t, Options{}, service("cart", ready("main", main), ready("pr-1", deadAddress(t), pr)))
	for range 4 {
		a := w.do(t, w.request(t, http.MethodPost, "cart.localhost", "/a{b}?%zz", strings.NewReader("pr-1"), "Baggage", toPR1))
		require.Equal(t, "pr-1", a.text)
	}
	for _, r := range w.records.wait(t, 4) {
		require.Equal(t, "pr-1-"+pr, r.Instance)
		require.EqualValues(t, 4, r.BytesIn)
	}
	require.NoError(t, w.WaitIdle(t.Context(), "pr-1-"+pr))

	w.set(t, service("cart", ready("main", main), ready("pr-1", deadAddress(t), deadAddress(t))))
	require.Equal(t, CodeUnreachable, w.get(t, "cart.localhost", "/", "Baggage", toPR1).problem(t).Code)
}

func TestProblem_SeveralInstancesAreGone(t *testing.T) {
	alive := says(t, "pr-1")
	gone := []string{deadAddress(t), deadAddress(t), deadAddress(t), deadAddress(t)}
	eachPath(t, func(t *testing.T, path string) {
		w := newWorld(t, Options{Health: Health{ConnectFailures: -1}, NoFastPath: path == "net/http"},
			service("cart", ready("main", alive), ready("pr-1", append(gone[:maxMoves:maxMoves], alive)...)))
		ask := func() answer {
			return w.do(t, w.request(t, http.MethodPost, "cart.localhost", "/", strings.NewReader("x"), "Baggage", toPR1))
		}
		for range 2 { // more would be over the budget
			require.Equal(t, "pr-1", ask().text)
		}
		w.set(t, service("cart", ready("main", alive), ready("pr-1", gone...)))
		require.Equal(t, CodeUnreachable, ask().problem(t).Code)
	})
}

// TestRecord_Moves counts the instances that a request was sent to beside the first, and no try that found none.
func TestRecord_Moves(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		w := newWorld(t, Options{Health: Health{ConnectFailures: -1}, NoFastPath: path == "net/http"},
			service("cart", ready("main", deadAddress(t), deadAddress(t))), service("pricing", ready("main", deadAddress(t))))
		w.get(t, "cart.localhost", "/")
		w.get(t, "pricing.localhost", "/")
		records := w.records.wait(t, 2)
		require.Equal(t, 1, records[0].Moves)
		require.Equal(t, 0, records[1].Moves, "there is no other")
	})
}

// rawInstance answers each connection with the bytes of reply once it got a
// request, and closes it.
func rawInstance(t *testing.T, reply string) string {
	t.Helper()
	l := listen(t)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, reply)
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}

func TestProblem_BrokenInstances(t *testing.T) {
	h2c := service("h2c", ready("main", says(t, "HTTP/1.1")))
	h2c.Protocol = route.H2C
	w := newWorld(t, Options{}, h2c,
		service("closes", ready("main", rawInstance(t, ""))),
		service("half", ready("main", rawInstance(t, "HTTP/1.1 200 OK\r\nContent-"))),
		service("garbage", ready("main", rawInstance(t, "SSH-2.0-OpenSSH\r\n\r\n"))),
		service("upgrades", ready("main", rawInstance(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"))),
	)
	for host, code := range map[string]Code{
		"closes": CodeUnreachable, "half": CodeUnreachable, "garbage": CodeBadAnswer, "h2c": CodeBadAnswer, "upgrades": CodeBadAnswer,
	} {
		t.Run(host, func(t *testing.T) {
			w.client.CloseIdleConnections() // each on a connection of its own
			a := w.get(t, host+".localhost", "/")
			require.Equal(t, http.StatusBadGateway, a.StatusCode)
			p := a.problem(t)
			require.Equal(t, code, p.Code, p.Detail)
			require.Contains(t, p.Detail, host+"@main")
		})
	}
}

func TestProblem_Timeouts(t *testing.T) {
	w := newWorld(t, Options{AnswerTimeout: 20 * time.Millisecond}, service("cart", ready("main", instance(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	}))))
	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusGatewayTimeout, a.StatusCode)
	require.Equal(t, CodeTimeout, a.problem(t).Code)
}

func TestProblem_BadBody(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(io.Discard, r.Body)
	}))))
	c := dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", "Transfer-Encoding: chunked", "", "zz", "hello")
	a := c.answer(t, http.MethodPost)
	require.Equal(t, http.StatusBadRequest, a.StatusCode)
	require.Equal(t, CodeBadBody, a.problem(t).Code)
}

func TestProblem_Page(t *testing.T) {
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main")), state("pr-1", route.Failed, "<script>alert(1)</script>")))
	a := w.get(t, "cart.localhost", "/", "Accept", browser, "Baggage", toPR1)
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", a.Header.Get("Content-Type"))
	require.Equal(t, string(CodeVersionFailed), a.Header.Get(ErrorHeader))
	require.Contains(t, a.text, "cart@pr-1 has failed")
	require.Contains(t, a.text, "layover logs cart@pr-1")
	require.Contains(t, a.text, "viewport")
	require.NotContains(t, a.text, "<script")
	require.NotContains(t, a.text, "src=")
	require.True(t, strings.HasSuffix(a.text, "</html>\n"), a.text)

	w.addr = w.trusted
	a = w.get(t, "carte.localhost:8080", "/", "Accept", browser)
	require.Contains(t, a.text, `<a href="http://cart.localhost:8080/">cart.localhost</a>`)

	head := w.do(t, w.request(t, http.MethodHead, "nowhere.test", "/", nil, "Accept", browser))
	require.Empty(t, head.text)
	require.Equal(t, http.StatusNotFound, head.StatusCode)
}

func TestPrefersHTML(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                    false,
		"*/*":                                 false,
		"text/html":                           true,
		"TEXT/HTML;Q=0.5":                     true,
		"text/html;q=0":                       false,
		"text/html;q=x":                       false,
		"application/json, text/html":         false,
		"application/json;q=0.5, text/html":   true,
		"application/problem+json":            false,
		"application/xhtml+xml;level=1;q=0.2": true,
	} {
		t.Run(accept, func(t *testing.T) {
			require.Equal(t, want, prefersHTML([]string{accept}))
		})
	}
}

func TestRun_ReportsAListenerThatFails(t *testing.T) {
	l := listen(t)
	require.NoError(t, l.Close())
	err := New(Options{}).Run(t.Context(), Listener{Listener: l})
	require.ErrorIs(t, err, net.ErrClosed)
	require.NotErrorIs(t, err, context.Canceled)
}
