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
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Standby answers for a server that waits for its store. What the store has, and what the leader's tables say, it answers by
// itself, streams included, also while no server leads. With the rest it asks the server that has the store: whichever
// of them a client knows, it may do the same.
type Standby struct {
	known   Known
	own     *Server // answers by itself
	handler http.Handler
	log     *slog.Logger
	forward *httputil.ReverseProxy
	ending  context.Context
	end     context.CancelFunc

	mu        sync.Mutex
	leader    leader
	follows   bool          // the stream of its tables is open
	following chan struct{} // closed, and made anew, when the leader is another one
}

// leader is the server that has the store.
type leader struct {
	url    *url.URL // nil where none is known
	known  bool     // this program knows the schema of its store
	ctx    context.Context
	passed context.CancelFunc // ends what waits for its answers
}

// Known is what a server that stands by knows without the leader: [*control.Standby].
type Known interface {
	Tables
	Events
	Services(ctx context.Context) ([]api.Service, error)
	Routes(ctx context.Context) ([]api.NamedRoute, error)
	History(ctx context.Context, key control.Key) ([]api.Generation, error)
	DeadLetters(ctx context.Context) ([]api.DeadLetter, error)
	Ready(ctx context.Context) error
	// TakeTable takes up what leads to the leader's newest table. An error says that it does not follow on what came before.
	TakeTable(update api.TableUpdate) error
}

var _ Known = (*control.Standby)(nil)

// StandbyOptions are what a Standby needs. Known is required.
type StandbyOptions struct {
	Known          Known           // what can be answered without the leader
	Environment    api.Environment // as in [Options], and so are those that follow
	Build          api.Build
	Metrics        http.Handler
	AllowedHosts   []string
	AllowedOrigins []string
	KeepAlive      time.Duration
	Logger         *slog.Logger // may be nil
}

// headerStandby marks what a standby passes on: none passes it on to another, or to itself.
const headerStandby = "Layover-Standby"

const (
	dialLeader  = time.Second            // how long a connection to the leader may take
	followSoon  = 50 * time.Millisecond  // first pause before the leader's tables are followed again
	followLate  = 500 * time.Millisecond // longest one
	endForwards = time.Second            // for answers under way when the standby ends
)

// NewStandby returns a standby. It answers nothing before [Standby.Serve].
func NewStandby(opts StandbyOptions) (*Standby, error) {
	s := &Standby{known: opts.Known, log: cmp.Or(opts.Logger, slog.New(slog.DiscardHandler)), following: make(chan struct{})}
	s.ending, s.end = context.WithCancel(context.Background())
	s.leader.ctx, s.leader.passed = context.WithCancel(s.ending)
	var err error
	s.own, err = New(Options{
		Control:        standing{unled{}, opts.Known},
		Webhooks:       standingWebhooks{known: opts.Known},
		Environment:    opts.Environment,
		Build:          opts.Build,
		AllowedHosts:   opts.AllowedHosts,
		AllowedOrigins: opts.AllowedOrigins,
		KeepAlive:      opts.KeepAlive,
		Logger:         opts.Logger,
		Metrics:        opts.Metrics,
		leader:         s.leaderURL,
	})
	if err != nil {
		return nil, err
	}
	s.forward = &httputil.ReverseProxy{
		Rewrite:       rewriteForLeader,
		FlushInterval: -1, // streams
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialLeader}).DialContext,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     time.Minute,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			noLeader(w)
		},
	}
	s.handler = s.own.recovering(s.own.guarding(http.HandlerFunc(s.answer)))
	return s, nil
}

// Lead says which server leads: the URL of its API, "" where none is known, and whether this program knows the
// schema of its store. Where not, everything is asked of the leader. What waits for the answer of another leader is broken off.
func (s *Standby) Lead(address string, known bool) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		u = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader.known = known
	if text(u) == text(s.leader.url) {
		return
	}
	s.leader.passed()
	s.leader.url = u
	s.leader.ctx, s.leader.passed = context.WithCancel(s.ending)
	close(s.following)
	s.following = make(chan struct{})
}

func text(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.String()
}

// led returns the leader, and a channel that is closed when it is another one.
func (s *Standby) led() (leader, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader, s.following
}

func (s *Standby) leaderURL() string {
	l, _ := s.led()
	return text(l.url)
}

// answer answers by itself what it can, and asks the leader for the rest.
func (s *Standby) answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(headerStandby) != "" { // whoever asked takes this server for the leader
		noLeader(w)
		return
	}
	l, _ := s.led()
	if s.alone(r, l) {
		s.own.mux.ServeHTTP(w, r)
		return
	}
	if l.url == nil {
		noLeader(w)
		return
	}
	s.pass(w, r, l)
}

// alone says whether a request is answered without the leader.
func (s *Standby) alone(r *http.Request, l leader) bool {
	_, pattern := s.own.mux.Handler(r)
	answer, operation := s.own.standbyAnswers[pattern]
	switch {
	case pattern == "": // the leader may know more
		return false
	case !operation, answer == itself: // what is no operation is a page
		return true
	case answer == fromStore:
		return l.known
	case answer == leaderless:
		return s.known.Table().Revision() > 0 && !s.isFollowing()
	}
	return false
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
func (s *Standby) pass(w http.ResponseWriter, r *http.Request, l leader) {
	for _, name := range []string{"X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Content-Security-Policy", "Cache-Control"} {
		w.Header().Del(name) // the leader's are passed on
	}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), leaderKey{}, l.url))
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // the leader sets its own
	s.forward.ServeHTTP(w, r.WithContext(ctx))
}

// follow takes up the leader's tables, whichever server that is, until ctx ends. All who watch them here share it.
func (s *Standby) follow(ctx context.Context) {
	pause := followSoon
	for ctx.Err() == nil {
		l, changed := s.led()
		began := time.Now()
		if l.url != nil {
			err := s.followOne(ctx, l)
			s.log.Debug("the leader's tables are not followed", "server", l.url.String(), "err", err)
		}
		if time.Since(began) > followLate {
			pause = followSoon
		}
		select {
		case <-changed:
			pause = followSoon
			continue
		case <-ctx.Done():
			return
		default:
		}
		select {
		case <-changed:
			pause = followSoon
		case <-time.After(pause):
			pause = min(2*pause, followLate)
		case <-ctx.Done():
		}
	}
}

// followOne follows one leader until that ends; the error says why.
func (s *Standby) followOne(ctx context.Context, l leader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	client, err := api.NewClient(l.url.String(), api.WithHTTPClient(&http.Client{Transport: watching{s}}))
	if err != nil {
		return err
	}
	defer s.setFollowing(false)
	err = s.takeTables(ctx, client, s.known.Table().Position())
	if _, ok := errors.AsType[*gapError](err); ok {
		s.log.Warn("the table has a gap, and is asked for whole", "server", l.url.String(), "err", err)
		err = s.takeTables(ctx, client, api.TablePosition{})
	}
	return err
}

// gapError says that an update of the table does not follow on the one before.
type gapError struct{ err error }

func (e *gapError) Error() string { return e.err.Error() }
func (e *gapError) Unwrap() error { return e.err }

func (s *Standby) takeTables(ctx context.Context, leader *api.Client, after api.TablePosition) error {
	for update, err := range leader.FollowTableOnce(ctx, after) {
		if err != nil {
			return err
		}
		if err := s.known.TakeTable(update); err != nil {
			return &gapError{err}
		}
	}
	return nil
}

func (s *Standby) setFollowing(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follows = is
}

func (s *Standby) isFollowing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.follows
}

// watching is how a standby watches the leader's table. It lets the leader know that a standby asks.
type watching struct{ *Standby }

// RoundTrip is of [http.RoundTripper].
func (w watching) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(headerStandby, "1")
	answer, err := w.forward.Transport.RoundTrip(r)
	if err == nil && answer.StatusCode == http.StatusOK {
		w.setFollowing(true)
	}
	return answer, err
}

// Serve answers requests at ln until ctx ends. Then it ends all streams and breaks off what the leader was asked, and leaves ln open for
// the server that follows it: who connects meanwhile waits for that.
func (s *Standby) Serve(ctx context.Context, ln *net.TCPListener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute, // streams set their own
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var group errgroup.Group
	following, endFollowing := context.WithCancel(ctx)
	defer endFollowing()
	group.Go(func() error { s.follow(following); return nil })
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lentListener{ln}) }()
	select {
	case err := <-served:
		endFollowing()
		s.own.CloseStreams()
		s.end()
		return errors.Join(err, group.Wait())
	case <-ctx.Done():
	}
	s.own.CloseStreams()
	s.end()
	_ = group.Wait() // returns nothing else
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endForwards)
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

// standing is the control of a server that stands by: what it knows by itself. The rest is asked of the leader
// before it comes here, see [operation].
type standing struct {
	unled
	Known
}

// unled has what nobody does here. It is a type of its own so that what is known goes before it.
type unled struct{ Control }

// standingWebhooks are the webhooks of a server that stands by, which sends nothing.
type standingWebhooks struct {
	noWebhooks
	known Known
}

// DeadLetters are the leader's.
func (w standingWebhooks) DeadLetters(ctx context.Context) ([]api.DeadLetter, error) {
	return w.known.DeadLetters(ctx)
}
