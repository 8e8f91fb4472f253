package shop

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
)

const testRoute = "dynamic_route=feature-1"

// forwarder is the least that can stand in for the proxy: it forwards by host,
// to feature-1 where the baggage asks for it and the service has it, and
// remembers the header of the last request for each host.
type forwarder struct {
	addr     string
	backends map[string]string // "pricing@feature-1" -> host:port

	mu   sync.Mutex
	seen map[string]http.Header // service -> request header
}

func newForwarder(t *testing.T) *forwarder {
	t.Helper()
	f := &forwarder{backends: map[string]string{}, seen: map[string]http.Header{}}
	http1 := &http.Transport{}
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)

	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service, backend, id := f.choose(r)
		if backend == "" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"title":"Service Unavailable","detail":"no version of `+service+` answers"}`)
			return
		}
		proxy := &httputil.ReverseProxy{
			Transport: http1,
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(&url.URL{Scheme: "http", Host: backend})
				pr.Out.Host = pr.In.Host
			},
			ModifyResponse: func(resp *http.Response) error {
				resp.Header.Set(servedByHeader, id)
				return nil
			},
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		}
		if service == Inventory {
			proxy.Transport = h2c
		}
		proxy.ServeHTTP(w, r)
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		http1.CloseIdleConnections()
		h2c.CloseIdleConnections()
	})
	f.addr = srv.Listener.Addr().String()
	return f
}

// choose remembers the request and returns the service it is for, the address of
// the version that gets it, and that version's name.
func (f *forwarder) choose(r *http.Request) (service, backend, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	service, _, _ = strings.Cut(r.Host, ".localhost")
	f.seen[service] = r.Header.Clone()
	id = service + "@main"
	if strings.Contains(r.Header.Get("Baggage"), testRoute) && f.backends[service+"@feature-1"] != "" {
		id = service + "@feature-1"
	}
	return service, f.backends[id], id
}

// header returns the header of the last request for service.
func (f *forwarder) header(service string) http.Header {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[service]
}

// baggage returns the baggage of the last request for service.
func (f *forwarder) baggage(t *testing.T, service string) baggage.Baggage {
	t.Helper()
	b, err := baggage.Parse(strings.Join(f.header(service).Values("Baggage"), ","))
	require.NoError(t, err)
	return b
}

// env returns what Layover tells a process of a version.
func (f *forwarder) env(service, version string, more map[string]string) map[string]string {
	env := map[string]string{
		"LAYOVER_SERVICE": service,
		"LAYOVER_VERSION": version,
		"LAYOVER_PROXY":   f.addr,
		"HTTP_PROXY":      "http://" + f.addr,
		"PORT":            "0",
	}
	maps.Copy(env, more)
	return env
}

// start runs a version of a service inside the test, until the test ends or the
// returned function is called, which gives the error the service ended with.
func (f *forwarder) start(t *testing.T, service, version string, more map[string]string) (stop func() error) {
	t.Helper()
	env := f.env(service, version, more)
	cfg, err := readConfig(service, func(name string) string { return env[name] })
	require.NoError(t, err)
	cfg.httpProxy = http.ProxyURL(&url.URL{Scheme: "http", Host: f.addr})

	ctx, cancel := context.WithCancel(t.Context())
	ln, err := listen(ctx, cfg)
	require.NoError(t, err)
	f.mu.Lock()
	f.backends[service+"@"+version] = ln.Addr().String()
	f.mu.Unlock()

	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, ln, cfg, slog.New(slog.DiscardHandler)) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// startShop runs main of all services; overrides are the settings of some.
func (f *forwarder) startShop(t *testing.T, overrides map[string]map[string]string) {
	t.Helper()
	for _, service := range Services() {
		f.start(t, service, "main", overrides[service])
	}
}

// get sends a request for the storefront through the forwarder, with header lines
// "name: value", and returns the response and its body.
func (f *forwarder) get(t *testing.T, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s%s", f.addr, path), http.NoBody)
	require.NoError(t, err)
	req.Host = "storefront.localhost"
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}
