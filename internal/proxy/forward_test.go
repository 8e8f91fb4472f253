package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// echo is an instance that hands out the requests it gets.
func echo(t *testing.T) (address string, requests <-chan *http.Request) {
	t.Helper()
	got := make(chan *http.Request, 64)
	return instance(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got <- r
	}), got
}

func TestForward_TargetIsUnchanged(t *testing.T) {
	address, got := echo(t)
	w := newWorld(t, Options{}, service("cart", ready("main", address)))
	for name, target := range map[string]string{
		"plain":               "/a/b",
		"root":                "/",
		"escaped slash":       "/a%2Fb%2fc",
		"double slash":        "//a//b/",
		"dots":                "/a/../b/./c",
		"semicolon":           "/a;v=1?x=1;y=2",
		"bad escape in query": "/a?x=%zz&y=%",
		"empty query":         "/a?",
		"question marks":      "/a??b=?",
		"braces":              "/a{b}|c",
		"braces and escapes":  "/a%2Fb{c}",
		"double slash braces": "//a%2Fb{c}?q",
		"raw UTF-8":           "/é?é",
		"plus and percent":    "/a+b%20c%25?d+e",
		"quotes":              `/a"b'c`,
		"hash":                "/a#b",
		"many parameters":     "/?" + strings.Repeat("a&", 11_000) + "%zz",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, w.addr)
			c.send(t, "GET "+target+" HTTP/1.1", "Host: cart.localhost", "")
			require.Equal(t, http.StatusOK, c.answer(t, http.MethodGet).StatusCode)
			r := <-got
			require.Equal(t, target, r.RequestURI)
		})
	}
}

func TestForward_RequestIsUnchanged(t *testing.T) {
	address, got := echo(t)
	w := newWorld(t, Options{}, service("cart", ready("main", address)))
	c := dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: Cart.LocalHost:8080",
		"Connection: keep-alive, X-Private", "X-Private: 1", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive",
		"Proxy-Authorization: Basic eA==", "TE: trailers, deflate", "Upgrade: ignored",
		"X-Twice: a", "X-Twice: b", "X-Empty:", "Cookie: a=b", "Cookie: c=d", "Authorization: Bearer x",
		"Content-Length: 2", "", "hi")
	require.Equal(t, http.StatusOK, c.answer(t, http.MethodPost).StatusCode)
	r := <-got
	require.Equal(t, "Cart.LocalHost:8080", r.Host)
	require.Equal(t, http.Header{
		"X-Twice":           {"a", "b"},
		"X-Empty":           {""},
		"Cookie":            {"a=b", "c=d"},
		"Authorization":     {"Bearer x"},
		"Content-Length":    {"2"},
		"Te":                {"trailers"},
		"X-Forwarded-For":   {"127.0.0.1"},
		"X-Forwarded-Host":  {"Cart.LocalHost:8080"},
		"X-Forwarded-Proto": {"http"},
		HopsHeader:          {"1"},
	}, r.Header)
}

func TestForward_HostOfInstance(t *testing.T) {
	address, got := echo(t)
	version := ready("main", address)
	version.Instances[0].Host = "cart.internal"
	w := newWorld(t, Options{}, service("cart", version))
	w.get(t, "cart.localhost", "/")
	r := <-got
	require.Equal(t, "cart.internal", r.Host)
	require.Equal(t, "cart.localhost", r.Header.Get("X-Forwarded-Host"))
}

func TestForward_AnswerIsUnchanged(t *testing.T) {
	address := instance(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Content-Type"] = nil
		h["X-Twice"] = []string{"a", "b"}
		h["Set-Cookie"] = []string{"a=b", "c=d"}
		h.Set("Connection", "X-Private")
		h.Set("X-Private", "1")
		h.Set(ServedByHeader, "pricing@main; route=x; by=baggage")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "<html>")
	})
	w := newWorld(t, Options{}, service("cart", ready("main", address)))
	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusTeapot, a.StatusCode)
	require.Equal(t, "<html>", a.text)
	require.NotContains(t, a.Header, "Content-Type")
	require.NotContains(t, a.Header, "X-Private")
	require.Equal(t, []string{"a", "b"}, a.Header["X-Twice"])
	require.Equal(t, []string{"a=b", "c=d"}, a.Header["Set-Cookie"])
	require.Len(t, a.Header[ServedByHeader], 1)
	require.Contains(t, a.Header.Get(ServedByHeader), "cart@main")
}

func TestForward_ForwardedFields(t *testing.T) {
	cases := map[string]struct {
		trust bool
		host  string
		peer  string
		in    http.Header
		want  http.Header
	}{
		"nothing came": {
			want: http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"cart.localhost"}, "X-Forwarded-Proto": {"http"}},
		},
		"not trusted": {
			in: http.Header{
				"X-Forwarded-For": {"10.0.0.1"}, "X-Forwarded-Host": {"evil"}, "X-Forwarded-Proto": {"https"},
				"Forwarded": {"for=10.0.0.1"},
			},
			want: http.Header{
				"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"cart.localhost"}, "X-Forwarded-Proto": {"http"},
				"Forwarded": {"for=192.0.2.1;host=cart.localhost;proto=http"},
			},
		},
		"trusted": {
			trust: true,
			in: http.Header{
				"X-Forwarded-For": {"10.0.0.1, 10.0.0.2", "10.0.0.3"}, "X-Forwarded-Host": {"shop.example"}, "X-Forwarded-Proto": {"https"},
				"Forwarded": {"for=10.0.0.1", "for=10.0.0.2"},
			},
			want: http.Header{
				"X-Forwarded-For": {"10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1"}, "X-Forwarded-Host": {"shop.example"}, "X-Forwarded-Proto": {"https"},
				"Forwarded": {"for=10.0.0.1, for=10.0.0.2, for=192.0.2.1;host=cart.localhost;proto=http"},
			},
		},
		"IPv6 and a port": {
			host: "cart.localhost:8080",
			peer: "[2001:db8::1]:5",
			in:   http.Header{"Forwarded": {"x"}},
			want: http.Header{
				"X-Forwarded-For": {"2001:db8::1"}, "X-Forwarded-Host": {"cart.localhost:8080"}, "X-Forwarded-Proto": {"http"},
				"Forwarded": {`for="[2001:db8::1]";host="cart.localhost:8080";proto=http`},
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Host, r.RemoteAddr, r.Header = "cart.localhost", "192.0.2.1:1234", c.in
			if c.host != "" {
				r.Host = c.host
			}
			if c.peer != "" {
				r.RemoteAddr = c.peer
			}
			out := make(http.Header)
			var options Options
			if c.trust {
				options.TrustForwarded = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
			}
			x := relay{exchange: exchange{proxy: New(options), rq: readRequest(r, false)}}
			x.setForwarded(out)
			require.Equal(t, c.want, out)
		})
	}
}

func TestForward_BaggageMember(t *testing.T) {
	address, got := echo(t)
	services := []route.Service{service("cart", ready("main", address), ready("pr-1", address), ready("pr-2", address))}
	w := newWorld(t, Options{})
	w.SetTable(compile(t, route.Spec{RouteHeader: "X-Route", Services: services}))
	cases := map[string]struct {
		host    string
		headers []string
		want    []string
		by      string
	}{
		"none":                       {headers: []string{"Baggage", "a=1"}, want: []string{"a=1"}, by: "default"},
		"from baggage, as it came":   {headers: []string{"Baggage", "a=1 , dynamic_route=pr%2D1;p=q"}, want: []string{"a=1 , dynamic_route=pr%2D1;p=q"}, by: "baggage"},
		"from the header":            {headers: []string{"X-Route", "pr-1", "Baggage", "a=1", "Baggage", "b=2"}, want: []string{"dynamic_route=pr-1", "a=1", "b=2"}, by: "header"},
		"from the cookie":            {headers: []string{"Cookie", "x=y; layover_route=pr-1"}, want: []string{"dynamic_route=pr-1"}, by: "cookie"},
		"from the preview host":      {host: "pr-1--cart.localhost", want: []string{"dynamic_route=pr-1"}, by: "preview"},
		"preview host over baggage":  {host: "pr-1.cart.localhost", headers: []string{"Baggage", "dynamic_route=pr-2,a=1"}, want: []string{"dynamic_route=pr-1", "a=1"}, by: "preview"},
		"malformed neighbours":       {headers: []string{"Baggage", ",,=;é,dynamic_route=pr-1"}, want: []string{",,=;é,dynamic_route=pr-1"}, by: "baggage"},
		"the last of duplicates":     {headers: []string{"Baggage", "dynamic_route=pr-2,dynamic_route=pr-1"}, want: []string{"dynamic_route=pr-2,dynamic_route=pr-1"}, by: "baggage"},
		"over 8,192 bytes":           {headers: []string{"Baggage", "dynamic_route=pr-1,a=" + strings.Repeat("x", 20_000)}, want: []string{"dynamic_route=pr-1,a=" + strings.Repeat("x", 20_000)}, by: "baggage"},
		"behind 8,192 bytes, unread": {headers: []string{"Baggage", "a=" + strings.Repeat("x", 20_000) + ",dynamic_route=pr-1"}, want: []string{"a=" + strings.Repeat("x", 20_000) + ",dynamic_route=pr-1"}, by: "default"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			host := c.host
			if host == "" {
				host = "cart.localhost"
			}
			a := w.get(t, host, "/", c.headers...)
			r := <-got
			lines := r.Header["Baggage"]
			require.Equal(t, strings.Join(c.want, ","), strings.Join(lines, ","))
			require.Contains(t, a.Header.Get(ServedByHeader), "by="+c.by)
			if c.by != "default" {
				require.Contains(t, a.Header.Get(ServedByHeader), "cart@pr-1;")
			}
		})
	}
}

func TestForward_HeaderOfHundredKilobytes(t *testing.T) {
	address, got := echo(t)
	w := newWorld(t, Options{}, service("cart", ready("main", address)))
	w.get(t, "cart.localhost", "/", "Baggage", "a="+strings.Repeat("x", 100_000))
	require.Len(t, (<-got).Header.Get("Baggage"), 100_002)

	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge,
		w.get(t, "cart.localhost", "/", "Baggage", "a="+strings.Repeat("x", 2<<20)).StatusCode)
}

func TestForward_TLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.TLS.ServerName)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()

	secure := func(name, serverName string) route.Version {
		return route.Version{Name: name, State: route.Ready, Instances: []route.Instance{
			{ID: name, Address: address, TLS: true, ServerName: serverName},
		}}
	}
	grpc := service("grpc", secure("main", "example.com"))
	grpc.Protocol = route.H2C
	w := newWorld(t, Options{}, service("cart", secure("main", "example.com"), secure("wrong", "wrong.test"), secure("by-address", "")), grpc)

	require.Equal(t, "HTTP/1.1 example.com", w.get(t, "cart.localhost", "/").text)
	require.Equal(t, "HTTP/2.0 example.com", w.get(t, "grpc.localhost", "/").text)
	require.Equal(t, "HTTP/1.1 ", w.get(t, "cart.localhost", "/", "Baggage", "dynamic_route=by-address").text)

	p := w.get(t, "cart.localhost", "/", "Baggage", "dynamic_route=wrong").problem(t)
	require.Equal(t, CodeBadAnswer, p.Code)
	require.Contains(t, p.Detail, "wrong.test")
}

func TestForward_PoolsThatNobodyUsesAreClosed(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	secure := func(name, serverName string) route.Version {
		return route.Version{Name: name, State: route.Ready, Instances: []route.Instance{
			{ID: name, Address: server.Listener.Addr().String(), TLS: true, ServerName: serverName},
		}}
	}
	w := newWorld(t, Options{NoFastPath: true}, service("cart", secure("main", "example.com"), secure("by-address", "")))
	w.get(t, "cart.localhost", "/")
	w.get(t, "cart.localhost", "/", "Baggage", "dynamic_route=by-address")
	require.Len(t, w.transports.byTLS, 2)
	w.transports.sweep(time.Now())
	require.Len(t, w.transports.byTLS, 2)
	w.transports.sweep(time.Now().Add(time.Hour))
	require.Empty(t, w.transports.byTLS)
}
