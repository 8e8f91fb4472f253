package proxy

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTarget_AbsoluteForm(t *testing.T) {
	address, got := echo(t)
	w := newWorld(t, Options{}, service("cart", ready("main", address)))

	c := dial(t, w.addr)
	c.send(t, "GET http://cart.localhost/a%2Fb?c=;d HTTP/1.1", "Host: CART.localhost:80", "")
	require.Equal(t, http.StatusOK, c.answer(t, http.MethodGet).StatusCode)
	r := <-got
	require.Equal(t, "/a%2Fb?c=;d", r.RequestURI)
	require.Equal(t, "CART.localhost:80", r.Host)

	for _, authority := range []string{"other.test", "user:pw@cart.localhost", "cart.localhost:81", ""} {
		refused := dial(t, w.addr)
		refused.send(t, "GET http://"+authority+"/ HTTP/1.1", "Host: cart.localhost", "")
		require.Equal(t, http.StatusBadRequest, refused.answer(t, http.MethodGet).StatusCode, authority)
	}

	c.send(t, "GET http://cart.localhost HTTP/1.1", "Host: cart.localhost", "")
	require.Equal(t, http.StatusOK, c.answer(t, http.MethodGet).StatusCode)
	require.Equal(t, "/", (<-got).RequestURI)

	c.send(t, "GET HTTP://cart.localhost:80//x HTTP/1.1", "Host: cart.localhost", "")
	require.Equal(t, http.StatusOK, c.answer(t, http.MethodGet).StatusCode)
	require.Equal(t, "//x", (<-got).RequestURI)
}

func TestTarget_HTTPProxyOfAClient(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "cart"))))
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: w.addr})}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://cart.localhost/", nil)
	require.NoError(t, err)
	res, err := client.Do(req)
	require.NoError(t, err)
	require.Equal(t, "cart", read(t, res).text)

	req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, "https://cart.localhost/", nil)
	require.NoError(t, err)
	_, err = client.Do(req)
	require.ErrorContains(t, err, "Not Implemented")
}

func TestTarget_NeverAnOpenProxy(t *testing.T) {
	var reached atomic.Int64
	outside := instance(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "cart"))))
	for name, lines := range map[string][]string{
		"absolute form":           {"GET http://" + outside + "/ HTTP/1.1", "Host: cart.localhost"},
		"absolute form, no host":  {"GET http://" + outside + "/ HTTP/1.0"},
		"host":                    {"GET / HTTP/1.1", "Host: " + outside},
		"user info":               {"GET http://cart.localhost@" + outside + "/ HTTP/1.1", "Host: cart.localhost"},
		"CONNECT":                 {"CONNECT " + outside + " HTTP/1.1", "Host: " + outside},
		"https":                   {"GET https://" + outside + "/ HTTP/1.1", "Host: cart.localhost"},
		"another scheme":          {"GET ftp://" + outside + "/ HTTP/1.1", "Host: cart.localhost"},
		"a scheme without slants": {"GET http:" + outside + " HTTP/1.1", "Host: cart.localhost"},
		"X-Forwarded-Host":        {"GET / HTTP/1.1", "Host: nowhere.test", "X-Forwarded-Host: " + outside},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, w.addr)
			c.send(t, append(lines, "")...)
			a := c.answer(t, http.MethodGet)
			require.GreaterOrEqual(t, a.StatusCode, http.StatusBadRequest)
			require.NotEmpty(t, a.Header.Get(ErrorHeader))
		})
	}
	require.Zero(t, reached.Load())
}

func TestTarget_Refused(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "cart"))))
	cases := map[string]struct {
		line   string
		status int
		code   Code
	}{
		"CONNECT":             {"CONNECT cart.localhost:443 HTTP/1.1", http.StatusNotImplemented, CodeConnect},
		"https":               {"GET https://cart.localhost/ HTTP/1.1", http.StatusBadRequest, CodeHTTPSTarget},
		"another scheme":      {"GET ftp://cart.localhost/ HTTP/1.1", http.StatusBadRequest, CodeBadTarget},
		"no authority":        {"GET http:/// HTTP/1.1", http.StatusBadRequest, CodeBadTarget},
		"opaque":              {"GET cart.localhost:80 HTTP/1.1", http.StatusBadRequest, CodeBadTarget},
		"star without OPTION": {"GET * HTTP/1.1", http.StatusBadRequest, CodeBadTarget},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, w.addr)
			conn.send(t, c.line, "Host: cart.localhost", "")
			a := conn.answer(t, http.MethodGet)
			require.Equal(t, c.status, a.StatusCode)
			require.Equal(t, c.code, a.problem(t).Code)
		})
	}
}

func TestTarget_OptionsStar(t *testing.T) {
	address, got := echo(t)
	w := newWorld(t, Options{}, service("cart", ready("main", address)))
	for name, target := range map[string]string{"origin": "*", "absolute": "http://cart.localhost"} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, w.addr)
			c.send(t, "OPTIONS "+target+" HTTP/1.1", "Host: cart.localhost", "")
			a := c.answer(t, http.MethodOptions)
			require.Equal(t, http.StatusOK, a.StatusCode)
			require.NotContains(t, a.Header, ErrorHeader)
		})
	}
	// net/http's server answers "*" itself, so it is not among what the instance got.
	require.Empty(t, got)

	c := dial(t, w.addr)
	c.send(t, "OPTIONS http://cart.localhost/ HTTP/1.1", "Host: cart.localhost", "")
	require.Equal(t, http.StatusOK, c.answer(t, http.MethodOptions).StatusCode)
	require.Equal(t, "/", (<-got).RequestURI)
}

func TestTarget_Pipelining(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main")), ready("pr-1", says(t, "pr-1"))))
	c := dial(t, w.addr)
	c.send(t,
		"GET /1 HTTP/1.1", "Host: cart.localhost", "",
		"GET /2 HTTP/1.1", "Host: cart.localhost", "Baggage: dynamic_route=pr-1", "",
		"POST /3 HTTP/1.1", "Host: cart.localhost", "Content-Length: 3", "", "abcGET /4 HTTP/1.1", "Host: nowhere.test", "",
		"GET /5 HTTP/1.1", "Host: cart.localhost", "Baggage: dynamic_route=pr-1", "")
	for _, want := range []string{"main", "pr-1", "main"} {
		require.Equal(t, want, c.answer(t, http.MethodGet).text)
	}
	require.Equal(t, http.StatusNotFound, c.answer(t, http.MethodGet).StatusCode)
	require.Equal(t, "pr-1", c.answer(t, http.MethodGet).text)
}

func TestTarget_HTTP10(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", instance(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints) // which HTTP/1.0 does not know
		_, _ = io.WriteString(w, "one")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "two")
	}))))
	c := dial(t, w.addr)
	c.send(t, "GET / HTTP/1.0", "Host: cart.localhost", "")
	all, err := io.ReadAll(c.in)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(all), "HTTP/1.0 200 OK\r\n"), string(all))
	require.True(t, strings.HasSuffix(string(all), "\r\n\r\nonetwo"), string(all))

	c = dial(t, w.addr)
	c.send(t, "GET / HTTP/1.0", "")
	require.Equal(t, CodeUnknownHost, c.answer(t, http.MethodGet).problem(t).Code)
}

func TestTarget_HTTP2(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "cart"))))
	client := h2cClient(t)
	req := w.request(t, http.MethodGet, "cart.localhost", "/", nil)
	res, err := client.Do(req)
	require.NoError(t, err)
	require.Equal(t, 2, res.ProtoMajor)
	require.Equal(t, "cart", read(t, res).text)
}

func TestTarget_Loop(t *testing.T) {
	w := newWorld(t, Options{})
	w.set(t, service("cart", ready("main", w.addr)), service("shop", ready("main", says(t, "shop"))))
	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusLoopDetected, a.StatusCode)
	require.Equal(t, CodeLoop, a.problem(t).Code)
	require.Len(t, w.records.wait(t, maxHops+1), maxHops+1)

	// A service that copies all fields of the request that it answers is no loop.
	require.Equal(t, "shop", w.get(t, "shop.localhost", "/", HopsHeader, "8").text)
	require.Equal(t, "shop", w.get(t, "shop.localhost", "/", HopsHeader, "many").text)
	require.Equal(t, "shop", w.get(t, "shop.localhost", "/", HopsHeader, "-5").text)
}
