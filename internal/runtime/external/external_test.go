package external

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRuntime(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "{}")
	}))
	t.Cleanup(app.Close)
	names := &names{}
	hanging := New(Options{Resolver: hangingResolver{}})
	for name, url := range map[string]string{
		"address":   app.URL,
		"localhost": strings.Replace(app.URL, "127.0.0.1", "localhost", 1),
	} {
		t.Run(name, func(t *testing.T) {
			runtimetest.Run(t, runtimetest.Harness{
				New: func(*testing.T, string) control.Runtime {
					if name == "address" {
						return New(Options{Resolver: names})
					}
					return New(Options{})
				},
				Run: run(url),
				Bad: map[string]api.Run{
					"no URL":           {},
					"of another":       {Docker: &api.Docker{Image: "cart"}},
					"bad URL":          run("cart"),
					"name without dot": run("http://no..dot"),
				},
				Hanging: func(*testing.T, string) (control.Runtime, api.Run) {
					return hanging, run("http://slow.internal")
				},
				Leftovers: func(t *testing.T, _ string) []string {
					t.Helper()
					all, err := hanging.List(context.WithoutCancel(t.Context()))
					require.NoError(t, err)
					var left []string
					for _, status := range all {
						left = append(left, status.ID)
					}
					return left
				},
				External: true,
			})
		})
	}
}

func TestURL(t *testing.T) {
	tests := map[string]struct {
		url     string
		rewrite bool
		want    []control.Address
		message string
	}{
		"port":               {url: "http://cart.internal:8080", want: []control.Address{{HostPort: "10.0.0.1:8080"}, {HostPort: "10.0.0.2:8080"}}},
		"default port":       {url: "http://cart.internal", want: []control.Address{{HostPort: "10.0.0.1:80"}, {HostPort: "10.0.0.2:80"}}},
		"slash":              {url: "http://10.0.0.9/", want: []control.Address{{HostPort: "10.0.0.9:80"}}},
		"https":              {url: "https://10.0.0.9", want: []control.Address{{HostPort: "10.0.0.9:443", TLS: true, ServerName: "10.0.0.9"}}},
		"https name":         {url: "https://one.internal:8443", want: []control.Address{{HostPort: "10.0.0.3:8443", TLS: true, ServerName: "one.internal"}}},
		"rewrite":            {url: "http://one.internal:81", rewrite: true, want: []control.Address{{HostPort: "10.0.0.3:81", Host: "one.internal:81"}}},
		"IPv6":               {url: "http://[::1]:81", want: []control.Address{{HostPort: "[::1]:81"}}},
		"IPv6 of a name":     {url: "http://six.internal", want: []control.Address{{HostPort: "[fd00::1]:80"}}},
		"trailing dot":       {url: "http://one.internal.:81", want: []control.Address{{HostPort: "10.0.0.3:81"}}},
		"empty":              {url: "", message: "does not begin with http://"},
		"no scheme":          {url: "cart.internal:8080", message: "does not begin with http://"},
		"other scheme":       {url: "ftp://cart.internal", message: "does not begin with http://"},
		"no host":            {url: "http://", message: "has no host"},
		"only a port":        {url: "http://:8080", message: "has no host"},
		"odd host":           {url: "http://ca*rt", message: "has no host"},
		"space in host":      {url: "http://ca rt", message: "is not a URL"},
		"placeholder":        {url: "http://localhost:{port}", message: "is not a URL"},
		"port too large":     {url: "http://localhost:70000", message: "has the port 70000"},
		"port zero":          {url: "http://localhost:0", message: "has the port 0"},
		"path":               {url: "http://localhost/api", message: `has the path "/api"`},
		"query":              {url: "http://localhost?a=b", message: "has a query"},
		"empty query":        {url: "http://localhost?", message: "has a query"},
		"fragment":           {url: "http://localhost#a", message: "has a query or a fragment"},
		"user and password":  {url: "http://me:s3cr3t@localhost", message: "has a user name or a password"},
		"unknown name":       {url: "http://none.internal", message: "no address is known for the name none.internal"},
		"name without entry": {url: "http://empty.internal", message: "no address is known for the name empty.internal"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := New(Options{Resolver: shopNames()})
			w := control.Workload{ID: "cart-1", Service: "cart", Version: "main", Run: run(test.url)}
			w.Run.External.RewriteHost = test.rewrite
			status, err := r.Start(t.Context(), w, nil)
			if test.message == "" {
				require.NoError(t, err)
				require.Equal(t, test.want, status.Addresses)
				return
			}
			var told *control.Error
			require.ErrorAs(t, err, &told)
			require.Equal(t, api.CodeInvalid, told.Code)
			require.Contains(t, told.Message, test.message)
			require.NotContains(t, told.Message, "s3cr3t")
			require.NotEmpty(t, told.Hint)
		})
	}
}

func TestLookupFails(t *testing.T) {
	names := shopNames()
	names.fail(errors.New("server misbehaving"))
	r := New(Options{Resolver: names})
	_, err := r.Start(t.Context(), control.Workload{ID: "cart-1", Run: run("http://cart.internal")}, nil)
	require.Equal(t, api.CodeUnavailable, control.CodeOf(err))
	require.ErrorContains(t, err, "server misbehaving")
	all, err := r.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := shopNames()
		r := New(Options{Resolver: names, Interval: 5 * time.Second})
		_, err := r.Start(t.Context(), control.Workload{ID: "cart-1", Service: "cart", Run: run("http://cart.internal")}, nil)
		require.NoError(t, err)
		var reports []control.Status
		ended := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- r.Watch(ctx, func(s control.Status) { reports = append(reports, s) }) }()
		interval := func() {
			time.Sleep(5 * time.Second) // of the test's own clock
			synctest.Wait()
		}

		interval()
		names.set("cart.internal", "10.0.0.2", "10.0.0.1", "10.0.0.2")
		interval()
		require.Empty(t, reports, "the same addresses in another order are no change")

		for _, err := range []error{errors.New("timeout"), &net.DNSError{Err: "no such host", IsNotFound: true}, errNoAddress} {
			names.fail(err)
			interval()
			require.Empty(t, reports, "an error of the resolver changes nothing")
			all, err := r.List(t.Context())
			require.NoError(t, err)
			require.Len(t, all[0].Addresses, 2)
		}

		names.fail(nil)
		names.set("cart.internal", "10.0.0.7")
		interval()
		require.Len(t, reports, 1)
		require.Equal(t, []control.Address{{HostPort: "10.0.0.7:80"}}, reports[0].Addresses)
		require.True(t, reports[0].Running)
		interval()
		require.Len(t, reports, 1)

		names.set("cart.internal")
		interval()
		require.Len(t, reports, 1, "no address at all is not believed")

		require.NoError(t, r.Stop(t.Context(), "cart-1", 0))
		names.set("cart.internal", "10.0.0.8")
		interval()
		require.Len(t, reports, 1)
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

func TestLogs(t *testing.T) {
	r := New(Options{})
	_, err := r.Start(t.Context(), control.Workload{ID: "cart-1", Service: "cart", Version: "main", Run: run("http://127.0.0.1:81")}, nil)
	require.NoError(t, err)
	_, err = r.Logs(t.Context(), "cart-1", control.LogOptions{})
	var told *control.Error
	require.ErrorAs(t, err, &told)
	require.Equal(t, "there is no log of cart@main here: it runs at http://127.0.0.1:81, and Layover only sends requests to it", told.Message)
}

func run(url string) api.Run { return api.Run{External: &api.External{URL: url}} }

// names is a resolver over a table.
type names struct {
	mu    sync.Mutex
	table map[string][]string
	err   error
}

func shopNames() *names {
	return &names{table: map[string][]string{
		"cart.internal":  {"10.0.0.2", "10.0.0.1"},
		"one.internal":   {"10.0.0.3"},
		"one.internal.":  {"10.0.0.3"},
		"six.internal":   {"fd00::1"},
		"empty.internal": {},
	}}
}

func (n *names) LookupHost(_ context.Context, host string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return nil, n.err
	}
	ips, ok := n.table[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return slices.Clone(ips), nil
}

func (n *names) set(host string, ips ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.table[host] = ips
}

func (n *names) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

// hangingResolver never answers.
type hangingResolver struct{}

func (hangingResolver) LookupHost(ctx context.Context, _ string) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
