// Package server offers the control plane of one environment over HTTP: the API
// under /api/v1, its OpenAPI document and its documentation.
//
// It holds no rules. It reads and checks requests, calls [Control], and turns
// errors into RFC 9457 problems in one place.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/layover-dev/layover/api"
)

const (
	maxBody         = 1 << 20 // of a request
	maxHeader       = 64 << 10
	shutdownTimeout = 10 * time.Second
)

// Options are what a Server is made from. Control is required.
type Options struct {
	Control Control
	// AllowedHosts are names, without port, that requests may be addressed to, besides
	// loopback names and the address a request came in at. Anything else
	// is refused, because a name that an attacker made point here would let
	// a web page of his act as a client (DNS rebinding).
	AllowedHosts []string
	// AllowedOrigins are origins ("https://console.example.com") whose pages may use the API.
	AllowedOrigins []string
	Environment    api.Environment // described at /api/v1/environment
	Webhooks       Webhooks        // nil where there are none
	Forges         Forges          // takes webhooks of forges at /forges/{name}; nil where there are none
	Tests          TestRuns        // nil where none are kept
	Receipts       Receipts        // nil where nothing is kept of requests
	Gateway        Gateway         // the zero value where there is no other data plane
	Metrics        http.Handler    // for Prometheus; nil where nothing is told
	Build          api.Build
	Logger         *slog.Logger
	KeepAlive      time.Duration // how often an idle stream says something; 0 means 15 s
	WriteTimeout   time.Duration // how long a client may take to accept a part of a stream; 0 means 30 s

	leader func() string // of a server that stands by: URL of the one that leads, "" where none does; else nil
}

// Server is the HTTP server of one environment.
type Server struct {
	opts     Options
	control  Control
	webhooks Webhooks
	receipts Receipts
	tests    TestRuns
	log      *slog.Logger
	guard    guard
	api      huma.API
	mux      *http.ServeMux
	handler  http.Handler
	openAPI  []byte
	tables   tableCache

	standbyAnswers map[string]standbyAnswer // by method and path

	followers atomic.Int64 // logs that are followed

	closing   chan struct{} // closed when streams must end
	closeOnce sync.Once
}

// New returns a server. It listens to nothing; see [Server.Handler] and [Server.Serve].
func New(opts Options) (*Server, error) {
	if opts.Control == nil {
		return nil, errors.New("server: no control")
	}
	opts.KeepAlive = cmp.Or(opts.KeepAlive, 15*time.Second)
	opts.WriteTimeout = cmp.Or(opts.WriteTimeout, 30*time.Second)
	guard, err := newGuard(opts.AllowedHosts, opts.AllowedOrigins)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts:     opts,
		control:  opts.Control,
		webhooks: opts.Webhooks,
		receipts: opts.Receipts,
		tests:    opts.Tests,
		log:      cmp.Or(opts.Logger, slog.New(slog.DiscardHandler)),
		guard:    guard,
		closing:  make(chan struct{}),

		standbyAnswers: map[string]standbyAnswer{},
	}
	if s.webhooks == nil {
		s.webhooks = noWebhooks{}
	}
	if s.tests == nil {
		s.tests = noTestRuns{}
	}
	if s.receipts == nil {
		s.receipts = noReceipts{}
	}
	mux := http.NewServeMux()
	s.mux = mux
	s.api = humago.New(mux, apiConfig(opts.Build))
	s.registerServices()
	s.registerVersions()
	s.registerGenerations()
	s.registerDrift()
	s.registerLogs()
	s.registerRoutes()
	s.registerExplain()
	s.registerTable()
	s.registerProxies()
	s.registerReceipts()
	s.registerTestRuns()
	s.registerForges()
	s.registerSuites()
	s.registerGateway()
	s.registerEvents()
	s.registerWebhooks()
	s.registerSystem()
	if s.openAPI, err = finishOpenAPI(s.api.OpenAPI()); err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	if err := s.handlePages(mux); err != nil {
		return nil, err
	}
	if opts.Forges != nil {
		mux.Handle("POST /forges/{name}", opts.Forges)
	}
	s.handler = s.recovering(s.guarding(routing(mux)))
	return s, nil
}

// Handler returns the handler of all requests, with its guards.
func (s *Server) Handler() http.Handler { return s.handler }

// OpenAPI returns the OpenAPI 3.1 document of the API, as indented JSON.
func (s *Server) OpenAPI() []byte { return s.openAPI }

// Serve answers requests at ln until ctx ends. Then it ends all streams, waits
// for other requests for at most 10 s, and returns nil. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute, // streams set their own
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		s.CloseStreams()
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	s.CloseStreams()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests did not end within %s: %w", shutdownTimeout, err), srv.Close())
	}
	_ = <-served // only that it was closed
	return err
}

// CloseStreams ends all streams, now and from now on. Serve calls it; callers
// that use Handler with a server of their own call it before they shut that down.
func (s *Server) CloseStreams() {
	s.closeOnce.Do(func() { close(s.closing) })
}

// streamContext returns a context that ends with the request, and with the server.
func (s *Server) streamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	done := ctx.Done()
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-done:
		}
	}()
	return ctx, cancel
}
