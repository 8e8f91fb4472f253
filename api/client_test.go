package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/server/servertest"
)

// env is the real server over an environment in memory, with a client. Its
// connections can be cut.
type env struct {
	*servertest.Control
	*api.Client
	http *httptest.Server
}

var shop = api.Environment{Name: "shop", Domain: "localhost", BaggageKey: "dynamic_route", ProxyURL: "http://127.0.0.1:8080"}

func newEnv(t *testing.T, opts ...api.ClientOption) *env {
	t.Helper()
	c := servertest.New()
	s, err := server.New(server.Options{Control: c, Build: api.Build{Version: "1.2.3"}, Environment: shop})
	require.NoError(t, err)
	srv := httptest.NewServer(s.Handler())
	client, err := api.NewClient(srv.URL, opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		s.CloseStreams()
		client.Close()
		srv.Close()
	})
	return &env{c, client, srv}
}

func TestClientServices(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	cart := api.Service{
		Name: "cart", Hosts: []string{"cart.localhost"}, Timeout: api.Duration(time.Minute),
		Run: api.Run{Process: &api.Process{Command: []string{"./cart", "-p", "{port}"}}},
		Env: map[string]string{"A": "b"},
	}
	kept, err := e.Client.PutService(ctx, cart)
	require.NoError(t, err)
	require.Equal(t, cart, kept)

	services, err := e.Client.Services(ctx)
	require.NoError(t, err)
	require.Equal(t, []api.Service{cart}, services)
	got, err := e.Service(ctx, "cart")
	require.NoError(t, err)
	require.Equal(t, cart, got)

	require.NoError(t, e.Client.RemoveService(ctx, "cart"))
	_, err = e.Service(ctx, "cart")
	requireProblem(t, err, 404, api.CodeNotFound)
	requireProblem(t, e.Client.RemoveService(ctx, "cart"), 404, api.CodeNotFound)
}

func TestClientVersions(t *testing.T) {
	e := newEnv(t, api.WithActor("ada"))
	ctx := t.Context()
	require.NoError(t, e.Control.PutService(ctx, api.Service{Name: "cart"}))
	d := api.Deployment{Overrides: api.Overrides{Image: "cart:1", Port: 80}, Branch: "feature/x"}
	v, err := e.Client.Deploy(ctx, "cart", "x", d)
	require.NoError(t, err)
	require.Equal(t, int64(1), v.Generation)
	require.Equal(t, "cart@x", v.ID())
	d.Owner, d.Source = "ada", "api"
	require.Equal(t, d, e.Deployment(control.Key{Service: "cart", Version: "x"}))

	for i, act := range []func(context.Context, string, string, string) (api.Version, error){e.Client.Start, e.Client.Restart} {
		v, err := act(ctx, "cart", "x", "feature/x")
		require.NoError(t, err)
		require.Equal(t, int64(i+2), v.Generation)
	}
	for _, act := range []func(context.Context, string, string, string) (api.Version, error){
		e.Client.Start, e.Client.Restart, e.Client.Stop, e.Client.Remove,
	} {
		_, err := act(ctx, "cart", "x", "Feature/X")
		requireProblem(t, err, 409, api.CodeConflict)
	}
	v, err = e.Client.Stop(ctx, "cart", "x", "")
	require.NoError(t, err)
	require.Equal(t, api.StateStopped, v.State)
	_, err = e.Client.Deploy(ctx, "cart", "y", api.Deployment{})
	require.NoError(t, err)

	for name, tt := range map[string]struct {
		filter api.VersionFilter
		want   []string
	}{
		"all":        {api.VersionFilter{}, []string{"cart@x", "cart@y"}},
		"by version": {api.VersionFilter{Version: "y"}, []string{"cart@y"}},
		"by service": {api.VersionFilter{Service: "pricing"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			versions, err := e.Versions(ctx, tt.filter)
			require.NoError(t, err)
			var ids []string
			for _, v := range versions {
				ids = append(ids, v.ID())
			}
			require.Equal(t, tt.want, ids)
		})
	}
	_, err = e.Client.Remove(ctx, "cart", "x", "")
	require.NoError(t, err)
	_, err = e.Client.Version(ctx, "cart", "x")
	requireProblem(t, err, 404, api.CodeNotFound)
}

func TestClientRoutesTableExplain(t *testing.T) {
	e := newEnv(t, api.WithActor("ada"))
	ctx := t.Context()
	r := api.NamedRoute{Name: "team-a", Picks: map[string]string{"cart": "pr-88"}}
	kept, err := e.Client.PutRoute(ctx, r)
	require.NoError(t, err)
	require.Equal(t, r, kept)
	_, err = e.Client.PutRoute(ctx, api.NamedRoute{Name: "empty", Parent: "team-a"})
	require.NoError(t, err, "a route without picks")
	routes, err := e.Client.Routes(ctx)
	require.NoError(t, err)
	require.Len(t, routes, 2)
	got, err := e.Route(ctx, "team-a")
	require.NoError(t, err)
	require.Equal(t, r, got)
	require.NoError(t, e.Client.RemoveRoute(ctx, "team-a"))

	list, err := e.Client.Events(ctx, api.EventFilter{})
	require.NoError(t, err)
	require.Equal(t, "ada", list.Items[0].Actor)
	last, err := e.Client.LastEvent(ctx)
	require.NoError(t, err)
	require.Equal(t, list.Last, last)

	e.SetTable(route.Spec{Revision: 7, Domain: "localhost", Services: []route.Service{{
		Name: "cart", Hosts: []string{"cart.localhost"},
		Versions: []route.Version{
			{Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "i1", Address: "127.0.0.1:1"}}},
			{Name: "pr-88", State: route.Ready, Instances: []route.Instance{{ID: "i2", Address: "127.0.0.1:2"}}},
		},
	}}})
	table, err := e.Client.Table(ctx)
	require.NoError(t, err)
	require.Equal(t, uint64(7), table.Revision)
	for route, version := range map[string]string{"": "main", "pr-88": "pr-88", "unknown": "main"} {
		x, err := e.Explain(ctx, api.ExplainRequest{URL: "cart.localhost:8080/items", Route: route, Headers: []string{"baggage: dynamic_route=main"}})
		require.NoError(t, err)
		require.Equal(t, "cart", x.Service)
		require.Equal(t, version, x.Version, route)
		require.NotEmpty(t, x.Steps)
	}
	_, err = e.Explain(ctx, api.ExplainRequest{URL: "ftp://x"})
	requireProblem(t, err, 422, api.CodeInvalid)

	build, err := e.ServerBuild(ctx)
	require.NoError(t, err)
	require.Equal(t, "1.2.3", build.Version)
	environment, err := e.Environment(ctx)
	require.NoError(t, err)
	require.Equal(t, shop, environment)
}

// Names that could change the path never reach the server as anything but names.
func TestClientNames(t *testing.T) {
	e := newEnv(t)
	for _, name := range []string{"", ".", "..", "../routes", "a/b", "a?b", "a#b", "A", "é", "a b", "a\x00", "%2e", strings.Repeat("a", 64)} {
		_, err := e.Service(t.Context(), name)
		requireProblem(t, err, 422, api.CodeInvalid)
	}
}

func TestClientCannotReach(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := ln.Addr().String()
	require.NoError(t, ln.Close())
	c, err := api.NewClient(address)
	require.NoError(t, err)
	defer c.Close()

	_, err = c.Services(t.Context())
	var unreachable *api.UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.Equal(t, "http://"+address, unreachable.URL)
	require.Contains(t, err.Error(), "no Layover server answers at http://"+address)
	require.Contains(t, err.Error(), "refused")
	for _, err := range c.FollowEvents(t.Context(), api.EventFilter{}) {
		require.ErrorAs(t, err, &unreachable, "the first connection is not tried again")
	}
	_, err = c.WaitDeploy(t.Context(), "cart", "x", 1, nil)
	require.ErrorAs(t, err, &unreachable)
}

func TestClientEndsWithItsContext(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.Client.Services(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

// What is not a Layover server must not be taken for one.
func TestClientMeetsSomethingElse(t *testing.T) {
	long := strings.Repeat("x", 33<<20)
	tests := map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a web page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
		}, "is not a Layover server"},
		"a redirect":   {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }, "answered 302 Found"},
		"a plain 404":  {http.NotFound, "answered 404 Not Found"},
		"a gateway":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "answered 502 Bad Gateway"},
		"broken JSON":  {jsonAnswer("application/json", 200, `{"items":`), "read the answer"},
		"a long body":  {jsonAnswer("application/json", 200, long), "longer than"},
		"bad problem":  {jsonAnswer("application/problem+json", 500, `[]`), "answered 500"},
		"good problem": {jsonAnswer("application/problem+json", 409, `{"detail":"taken","code":"conflict","hint":"take another"}`), "taken (take another)"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
		}, "unexpected EOF"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(tt.handler)
			defer srv.Close()
			c, err := api.NewClient(srv.URL)
			require.NoError(t, err)
			defer c.Close()
			_, err = c.Services(t.Context())
			require.ErrorContains(t, err, tt.want)
			require.Less(t, len(err.Error()), 300)
		})
	}
}

func TestNewClientAddress(t *testing.T) {
	good := map[string]string{
		"http://127.0.0.1:7070":        "http://127.0.0.1:7070",
		"127.0.0.1:7070":               "http://127.0.0.1:7070",
		"localhost":                    "http://localhost",
		"https://example.com/layover/": "https://example.com/layover",
		"http://[::1]:7070/":           "http://[::1]:7070",
	}
	for in, want := range good {
		c, err := api.NewClient(in)
		require.NoError(t, err, in)
		require.Equal(t, want, c.URL())
	}
	for _, in := range []string{"", "http://", "ftp://x", "http://x?y", "http://x#y", "http://user@x", "http://x:port", "unix:///run/x", ":7070"} {
		_, err := api.NewClient(in)
		require.Error(t, err, in)
	}
}

func TestClientHeadersAndPrefix(t *testing.T) {
	var got *http.Request
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		jsonAnswer("application/json", 200, `{}`)(w, r)
	}))
	defer srv.Close()
	c, err := api.NewClient(srv.URL+"/layover", api.WithActor("ada\r\nX: y"), api.WithUserAgent("layover/1"))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Service(t.Context(), "cart")
	require.NoError(t, err)
	require.Equal(t, "/layover/api/v1/services/cart", got.URL.Path)
	require.Equal(t, "adaX: y", got.Header.Get(api.HeaderActor))
	require.Equal(t, "layover/1", got.Header.Get("User-Agent"))
}

// HTTP_PROXY often points at the environment's own proxy: calls to this machine must not go there.
func TestClientGoesAroundTheProxyOnLoopback(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:1")
	t.Setenv("http_proxy", "http://192.0.2.1:1")
	e := newEnv(t)
	_, err := e.Client.Services(t.Context())
	require.NoError(t, err)
}

func TestCleanActor(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		" ada ":                   "ada",
		"ada\x00\x1b[31m":         "ada[31m",
		"Ada Lovelace":            "Ada Lovelace",
		"Zoë":                     "Zoë",
		"a\xffb":                  "ab",
		strings.Repeat("é", 200):  strings.Repeat("é", 100),
		strings.Repeat(" ", 2000): "",
	} {
		require.Equal(t, want, api.CleanActor(in))
	}
}

func requireProblem(t *testing.T, err error, status int, code api.Code) {
	t.Helper()
	var p *api.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, status, p.Status, p.Detail)
	require.Equal(t, code, p.Code)
	require.NotEmpty(t, p.Hint)
}

func jsonAnswer(contentType string, status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}
