// Package edge keeps the table of a stand-alone proxy: it follows one of several
// servers, goes on with the last table when none answers, keeps that table on disk for
// the next start, and tells the server what the proxy has taken up.
//
// What is in force is never replaced by less: a table of another environment, or of a
// server that begins anew on an empty store, is refused until a person says otherwise.
package edge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Server is a server to follow: [api.Client].
type Server interface {
	URL() string
	// Environment says which environment the server owns.
	Environment(ctx context.Context) (api.Environment, error)
	// FollowTableOnce gives what is newer than the table at after, until ctx ends or the
	// connection breaks. Where that has no epoch, or one that the server does not know, the first
	// update is the whole table.
	FollowTableOnce(ctx context.Context, after api.TablePosition) iter.Seq2[api.TableUpdate, error]
	// Wake asks for a version that sleeps to be started, whichever branch it is of.
	Wake(ctx context.Context, service, version, branch string) (api.Version, error)
	// ReportProxy tells the server about this proxy.
	ReportProxy(ctx context.Context, report api.ProxyReport) error
	// SendHops tells the server what the proxy saw of requests.
	SendHops(ctx context.Context, batch api.HopBatch) error
	// Receipt returns what the server knows of a trace.
	Receipt(ctx context.Context, trace string) (api.Receipt, error)
}

// DataPlane decides on the tables that a [Follower] brings: internal/proxy's Proxy.
type DataPlane interface {
	SetTable(t *route.Table)
	WaitIdle(ctx context.Context, instanceID string) error
	Requests() map[string]uint64
	Busy() []string
}

// Options says what a [Follower] follows. Servers and DataPlane must be set.
type Options struct {
	Servers     []Server // tried in turn
	DataPlane   DataPlane
	CacheFile   string // where the last good table is kept; empty means nowhere
	AcceptReset bool   // take a table that is older than the one in force, or of another environment

	ID        string // names the proxy to the server
	Addresses []string
	Build     string

	Logger *slog.Logger // nil means [slog.Default]

	Backoff     time.Duration // first pause when no server answered; 0 means 100 ms
	MaxBackoff  time.Duration // 0 means 1.3 s: a server that was started waits 3 s for proxies to come back
	ReportEvery time.Duration // 0 means 3 s
}

const (
	contactTimeout = 10 * time.Second // for a server to say which environment it owns
	reportTimeout  = 5 * time.Second
	agreedAfter    = 2 * time.Second // of silence, a server that was refused is followed
	lostReports    = 3               // in a row without an answer, and the server is given up
)

// Follower brings the tables of a server to a data plane. It is safe for concurrent use.
type Follower struct {
	opts    Options
	log     *slog.Logger
	started time.Time
	ready   chan struct{} // closed when there is a table
	cache   *keeper
	wake    chan struct{} // the reporter has news
	ended   context.Context
	end     context.CancelFunc // lets go of what Run leaves behind

	mu      sync.Mutex
	table   *route.Table // nil before the first
	status  Status
	server  Server                  // that is followed; nil where none is
	session uint64                  // counts the servers that were
	drop    context.CancelCauseFunc // ends following it
	told    map[string]loss         // what the log has, by the URL of the server
	leave   map[string]struct{}     // instances that left and have requests in flight
}

// loss is why a server is not followed.
type loss struct {
	problem string
	refused bool // by this proxy, though the server answers
}

// Status is what a follower knows about its table.
type Status struct {
	Revision       uint64
	Environment    string
	Table          bool      // there is one
	Following      bool      // there are servers to follow
	Source         string    // where it came from: [SourceServer], [SourceCache] or [SourceFile]
	TakenAt        time.Time // when it was taken up
	Server         string    // URL of the server that is followed; empty where none answers
	ConnectedSince time.Time // zero where none answers
	ContactAt      time.Time // when a server said something last; zero where none ever did
	Problem        string    // why no server is followed; empty where one is, or none was tried
	Applied        uint64    // tables taken up since the start
	CacheRevision  uint64    // of the table on disk; 0 where there is none
	CacheErrors    uint64    // tables that could not be written
}

// The sources of a table.
const (
	SourceServer = "server"
	SourceCache  = "cache"
	SourceFile   = "file"
)

// Stale says whether newer tables may exist: a server should be followed, and none answers.
func (s Status) Stale() bool { return s.Table && s.Following && s.Server == "" }

// Age is how long ago a server said something last; -1 s where none ever did.
func (s Status) Age() time.Duration {
	if s.ContactAt.IsZero() {
		return -time.Second
	}
	return time.Since(s.ContactAt)
}

// New returns a follower. It connects to nothing yet; see [Follower.Run].
func New(opts Options) *Follower {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	opts.Backoff = orDefault(opts.Backoff, 100*time.Millisecond)
	opts.MaxBackoff = orDefault(opts.MaxBackoff, 1300*time.Millisecond)
	opts.ReportEvery = orDefault(opts.ReportEvery, 3*time.Second)
	f := &Follower{
		opts:    opts,
		log:     opts.Logger,
		started: time.Now(),
		ready:   make(chan struct{}),
		wake:    make(chan struct{}, 1),
		told:    make(map[string]loss),
		leave:   make(map[string]struct{}),
	}
	f.status.Following = len(opts.Servers) > 0
	f.ended, f.end = context.WithCancel(context.Background())
	f.cache = newKeeper(opts.CacheFile, f.log)
	return f
}

func orDefault(value, fallback time.Duration) time.Duration {
	if value == 0 {
		return fallback
	}
	return value
}

// Ready is closed when there is a table, from wherever.
func (f *Follower) Ready() <-chan struct{} { return f.ready }

// Status says what is known now.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.CacheRevision, s.CacheErrors = f.cache.figures()
	return s
}

// LoadCache takes up the table on disk. It is no error where there is none. A file that
// cannot be used is set aside, with a word in the log.
func (f *Follower) LoadCache() error {
	if f.opts.CacheFile == "" {
		return nil
	}
	table, lost, err := f.cache.load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err != nil {
		aside, asideErr := f.cache.setAside()
		if asideErr != nil {
			return errors.Join(err, asideErr)
		}
		f.log.Error("the table on disk cannot be used, and was set aside", "err", err, "file", aside)
		return nil
	}
	if lost != nil {
		f.log.Warn("the table on disk lacks its last changes, as after a crash", "revision", table.Revision(), "err", lost)
	}
	if have := f.current(); have == nil || have.Revision() < table.Revision() {
		f.take(taken{table: table, source: SourceCache})
	}
	return nil
}

// Use takes up a table that somebody else has: a fixed one.
func (f *Follower) Use(table *route.Table) {
	f.take(taken{table: table, source: SourceFile})
}

// Run follows until ctx ends, and then writes the last table to disk.
func (f *Follower) Run(ctx context.Context) error {
	defer f.end()
	group, ctx := errgroup.WithContext(ctx)
	if len(f.opts.Servers) > 0 {
		group.Go(func() error { f.follow(ctx); return nil })
		group.Go(func() error { f.report(ctx); return nil })
	}
	group.Go(func() error { return f.cache.run(ctx) })
	return group.Wait()
}

// Save writes the table to disk now, where it is not there yet.
func (f *Follower) Save() error { return f.cache.save() }

// Retire says that another process has taken over the name and the place of this one: the
// table on disk is left to it. This one goes on to follow and report, for what is still in flight
// here; the server tells the two apart by when they started.
func (f *Follower) Retire() { f.cache.stop() }

// follow goes from server to server. It pauses when it has tried each of them.
func (f *Follower) follow(ctx context.Context) {
	pause := backoff.NewExponentialBackOff() // each a little random, so that proxies do not come all at once
	pause.InitialInterval, pause.MaxInterval = f.opts.Backoff, f.opts.MaxBackoff
	for tried := 1; ; tried++ {
		server := f.opts.Servers[(tried-1)%len(f.opts.Servers)]
		began := time.Now()
		err := f.followOne(ctx, server)
		if ctx.Err() != nil {
			return
		}
		f.lost(server, err)
		if time.Since(began) > f.opts.MaxBackoff {
			pause.Reset()
		}
		if tried%len(f.opts.Servers) != 0 {
			continue
		}
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
			return
		}
	}
}

// followOne follows one server until that ends; the error says why.
func (f *Follower) followOne(ctx context.Context, server Server) error {
	ctx, drop := context.WithCancelCause(ctx)
	defer drop(nil)
	if err := f.greet(ctx, server); err != nil {
		return err
	}
	connected := func() { f.connected(ctx, server, drop) }
	if f.wasRefused(server) {
		// That it greets means nothing; that it goes on, or stays silent, does.
		timer := time.AfterFunc(agreedAfter, connected)
		defer timer.Stop()
	} else {
		connected()
	}
	err := f.updates(ctx, server, f.position(), connected)
	if _, ok := errors.AsType[*gapError](err); ok {
		f.log.Warn("the table has a gap, and is asked for whole", "server", server.URL(), "err", err)
		err = f.updates(ctx, server, api.TablePosition{Revision: f.position().Revision}, connected)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// greet sees that a server answers, and for the environment whose table is in force.
func (f *Follower) greet(ctx context.Context, server Server) error {
	ctx, cancel := context.WithTimeout(ctx, contactTimeout)
	defer cancel()
	environment, err := server.Environment(ctx)
	if err != nil {
		return err
	}
	return f.sameEnvironment(environment.Name)
}

func (f *Follower) sameEnvironment(name string) error {
	s := f.Status()
	if !s.Table || s.Environment == name || f.opts.AcceptReset {
		return nil
	}
	return &RefusedError{Reason: fmt.Sprintf("it has the environment %s, and the table here is of %s", name, s.Environment)}
}

// RefusedError says why a server is not followed though it answers.
type RefusedError struct{ Reason string }

// Error has the reason and what to do.
func (e *RefusedError) Error() string {
	return e.Reason + "; where that is meant, start the proxy with --accept-reset"
}

// gapError says that a change does not follow on the table in force.
type gapError struct{ err error }

func (e *gapError) Error() string { return e.err.Error() }
func (e *gapError) Unwrap() error { return e.err }

// updates takes up what a server sends, and calls agreed each time.
func (f *Follower) updates(ctx context.Context, server Server, after api.TablePosition, agreed func()) error {
	for update, err := range server.FollowTableOnce(ctx, after) {
		if err == nil {
			err = f.update(update)
		}
		if err != nil {
			return err
		}
		agreed()
	}
	return errors.New("the server ended the stream")
}

func (f *Follower) update(update api.TableUpdate) error {
	switch have := f.current(); {
	case update.Table != nil:
		return f.snapshot(have, update.Table)
	case update.Change != nil && have == nil:
		return &gapError{errors.New("the first update is no whole table")}
	case update.Change != nil:
		next, err := have.Apply(*update.Change)
		if err != nil {
			return &gapError{err}
		}
		left := leftByChange(have, next, update.Change)
		f.take(taken{table: next, change: update.Change, source: SourceServer, left: left})
	}
	return nil
}

func (f *Follower) snapshot(have *route.Table, spec *api.Table) error {
	if err := f.sameEnvironment(spec.Environment); err != nil {
		return err
	}
	if have != nil && spec.Revision < have.Revision() && !f.opts.AcceptReset {
		return &RefusedError{Reason: fmt.Sprintf("its table is at revision %d, and the one here is at %d: its store is an older or an empty one", spec.Revision, have.Revision())}
	}
	next, err := route.Compile(*spec)
	if err != nil {
		return fmt.Errorf("the table of revision %d: %w", spec.Revision, err)
	}
	f.take(taken{table: next, source: SourceServer, left: leftBySnapshot(have, next)})
	return nil
}

// taken is a table that is taken up.
type taken struct {
	table  *route.Table
	change *route.Change // that made it of the one in force; nil where none did
	source string
	left   []string // instances that it lacks, and the one in force has
}

// take makes a table the one in force. The instances that left are watched until they are idle.
func (f *Follower) take(t taken) {
	f.opts.DataPlane.SetTable(t.table)
	f.watch(t.left) // before a report can say that the table is in force
	f.mu.Lock()
	first := f.table == nil
	f.table = t.table
	f.status.Table, f.status.Revision, f.status.Environment = true, t.table.Revision(), t.table.Environment().Environment
	f.status.Source, f.status.TakenAt = t.source, time.Now()
	f.status.Applied++
	f.mu.Unlock()
	if first {
		close(f.ready)
	}
	if t.source == SourceServer {
		f.cache.put(t.table, t.change)
	}
	f.news()
}

// leftByChange returns the instances that a change took out of the table.
func leftByChange(before, after *route.Table, change *route.Change) []string {
	var left []string
	for _, c := range change.Versions {
		left = appendLeft(left, before, after, c.Service, c.Name)
	}
	for _, c := range change.Services {
		if c.Service != nil || before.Service(c.Name) == nil {
			continue
		}
		services := before.Spec().Services
		i := slices.IndexFunc(services, func(s route.Service) bool { return s.Name == c.Name })
		for j := range services[i].Versions {
			left = appendLeft(left, before, after, c.Name, services[i].Versions[j].Name)
		}
	}
	return left
}

// leftBySnapshot returns the instances of before that after lacks.
func leftBySnapshot(before, after *route.Table) []string {
	if before == nil {
		return nil
	}
	var left []string
	for i := range before.Spec().Services {
		service := &before.Spec().Services[i]
		for j := range service.Versions {
			left = appendLeft(left, before, after, service.Name, service.Versions[j].Name)
		}
	}
	return left
}

func appendLeft(left []string, before, after *route.Table, service, version string) []string {
	stay := instances(after, service, version)
	for _, instance := range instances(before, service, version) {
		if !slices.ContainsFunc(stay, func(i route.Instance) bool { return i.ID == instance.ID }) {
			left = append(left, instance.ID)
		}
	}
	return left
}

func instances(table *route.Table, service, version string) []route.Instance {
	s := table.Service(service)
	if s == nil {
		return nil
	}
	v := s.Version(version)
	if v == nil {
		return nil
	}
	return v.Instances
}

func (f *Follower) current() *route.Table {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.table
}

// position is that of the table in force; the zero one where there is none.
func (f *Follower) position() api.TablePosition {
	if table := f.current(); table != nil {
		return table.Position()
	}
	return api.TablePosition{}
}

func (f *Follower) wasRefused(server Server) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told[server.URL()].refused
}

// connected notes that a server is followed, where ctx has not ended.
func (f *Follower) connected(ctx context.Context, server Server, drop context.CancelCauseFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	f.status.ContactAt = now
	if f.server != nil {
		return
	}
	f.server, f.drop = server, drop
	f.session++
	f.status.Server, f.status.ConnectedSince, f.status.Problem = server.URL(), now, ""
	delete(f.told, server.URL())
	f.log.Info("following a server", "server", server.URL(), "revision", f.status.Revision)
	f.news()
}

func (f *Follower) contact() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.ContactAt = time.Now()
}

// lost notes that a server is not followed. It is said once of each server, and again where
// the reason is another one.
func (f *Follower) lost(server Server, err error) {
	problem := err.Error()
	if !strings.Contains(problem, server.URL()) {
		problem = server.URL() + ": " + problem
	}
	f.mu.Lock()
	told := f.told[server.URL()].problem == problem
	_, refused := errors.AsType[*RefusedError](err)
	f.told[server.URL()] = loss{problem, refused}
	f.server, f.drop = nil, nil
	f.status.Server, f.status.ConnectedSince, f.status.Problem = "", time.Time{}, problem
	revision := f.status.Revision
	f.mu.Unlock()
	if told {
		return
	}
	level := slog.LevelWarn
	if refused {
		level = slog.LevelError
	}
	f.log.Log(context.Background(), level, "no server is followed; the last table stays in force", "server", server.URL(), "revision", revision, "err", err)
}
