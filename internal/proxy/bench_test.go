package proxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// BenchmarkServeHTTP compares a request through the proxy with one through a
// bare ReverseProxy with the same transport, buffers and instance, over real
// connections to the instance.
func BenchmarkServeHTTP(b *testing.B) {
	address := instance(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	p := New(Options{Logger: slog.New(slog.DiscardHandler), Recorder: func(*Record) {}})
	p.SetTable(compile(b, route.Spec{Services: []route.Service{service("cart", ready("main", address), ready("pr-1", address))}}))
	b.Cleanup(p.transports.closeIdle)
	bare := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", address, r.In.Host
			r.SetXForwarded()
		},
		Transport:  p.transports.http1,
		BufferPool: p.buffers,
	}
	for name, handler := range map[string]http.Handler{"bare": bare, "layover": p} {
		b.Run(name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			req := httptest.NewRequest(http.MethodGet, "http://cart.localhost/a/b?c=d", nil).WithContext(ctx)
			req.URL.Scheme, req.URL.Host = "", ""
			req.Header.Set("Baggage", toPR1)
			req.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
			w := &discard{header: make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				handler.ServeHTTP(w, req)
			}
			require.Equal(b, http.StatusOK, w.status)
		})
	}
}

// discard is a client that reads nothing.
type discard struct {
	header http.Header
	status int
}

// Header is where the answer's header is put.
func (d *discard) Header() http.Header { return d.header }

// WriteHeader keeps the status.
func (d *discard) WriteHeader(status int) { d.status = status }

// Write drops the body.
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
