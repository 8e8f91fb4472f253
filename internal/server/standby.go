package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/layover-dev/layover/api"
)

// Standby answers for a server that waits for its store, by asking the server that has the store: whichever
// of them a client knows, it gets the same answers and may do the same.
type Standby struct {
	handler http.Handler
	leader  func() string
	log     *slog.Logger
	forward *httputil.ReverseProxy
	ending  context.Context
	end     context.CancelFunc
}

// StandbyOptions are what a Standby needs.
type StandbyOptions struct {
	Leader         func() string // URL of the API of the server that has the store; "" where none is known
	AllowedHosts   []string      // as in [Options]
	AllowedOrigins []string
	Logger         *slog.Logger // may be nil
}

// headerStandby marks what a standby passes on: none passes it on to another, or to itself.
const headerStandby = "Layover-Standby"

// NewStandby returns a standby. It answers nothing before [Standby.Serve].
func NewStandby(opts StandbyOptions) (*Standby, error) {
	guard, err := newGuard(opts.AllowedHosts, opts.AllowedOrigins)
	if err != nil {
		return nil, err
	}
	s := &Standby{leader: opts.Leader, log: cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))}
	s.ending, s.end = context.WithCancel(context.Background())
	s.forward = &httputil.ReverseProxy{
		Rewrite:       rewriteForLeader,
		FlushInterval: -1, // streams
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     time.Minute,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			noLeader(w)
		},
	}
	guarded := &Server{guard: guard, log: s.log}
	s.handler = guarded.recovering(guarded.guarding(http.HandlerFunc(s.pass)))
	return s, nil
}

type leaderKey struct{}

func rewriteForLeader(r *httputil.ProxyRequest) {
	leader, _ := r.In.Context().Value(leaderKey{}).(*url.URL)
	r.SetURL(leader)
	r.Out.Host = leader.Host
	r.Out.Header.Set(headerStandby, "1")
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"} { // were looked at here
		r.Out.Header.Del(name)
	}
}

func noLeader(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	writeProblem(w, newProblem(http.StatusServiceUnavailable, api.CodeUnavailable,
		"try again: one of the servers takes over within seconds", "no server has the store just now"))
}

// pass asks the leader.
func (s *Standby) pass(w http.ResponseWriter, r *http.Request) {
	leader, err := url.Parse(s.leader())
	if err != nil || leader.Host == "" || r.Header.Get(headerStandby) != "" {
		noLeader(w)
		return
	}
	for _, name := range []string{"X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Content-Security-Policy", "Cache-Control"} {
		w.Header().Del(name) // the leader's are passed on
	}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), leaderKey{}, leader))
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // the leader sets its own
	s.forward.ServeHTTP(w, r.WithContext(ctx))
}

// Serve answers requests at ln until ctx ends. Then it breaks off what is under way, and leaves ln open for
// the server that follows it: who connects meanwhile waits for that.
func (s *Standby) Serve(ctx context.Context, ln *net.TCPListener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lentListener{ln}) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.end()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		_ = srv.Close() // who is still there did not read its answer
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	s.forward.Transport.(*http.Transport).CloseIdleConnections() //nolint:forcetypeassert // made above
	return ln.SetDeadline(time.Time{})
}

// lentListener is not closed by the server that it is lent to.
type lentListener struct{ *net.TCPListener }

// Close lets Accept return.
func (l lentListener) Close() error { return l.SetDeadline(time.Unix(1, 0)) }
