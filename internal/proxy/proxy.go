// Package proxy is the data plane of Layover: it accepts requests, asks the
// table which version of which service answers, and forwards them.
//
// A [Proxy] holds one compiled [route.Table] at a time. [Proxy.SetTable]
// exchanges it while requests are in flight; each request is decided on exactly
// one revision. The proxy knows nothing of the control plane, and goes on with
// its last table when no newer one comes.
//
// The rules (R1 to R8) are those of docs/design.md.
package proxy

import (
	"context"
	"html/template"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Defaults of [Options].
const (
	DefaultDrainTimeout = 10 * time.Second
	DefaultDialTimeout  = 5 * time.Second
	DefaultMaxHeld      = 4096
)

// Options says how a proxy behaves. The zero value is ready to use.
type Options struct {
	// TrustForwarded keeps the X-Forwarded-* and Forwarded fields of requests and
	// appends to them. Where it is off they are replaced by what the proxy itself saw.
	TrustForwarded bool

	// Recorder is called once for each request, when its answer has been handed to the
	// connection. It must return fast, and must not keep the record: it is used again.
	Recorder func(*Record)

	// Logger gets the errors that no client is told about. Nil means [slog.Default].
	Logger *slog.Logger

	DrainTimeout  time.Duration // how long requests in flight may go on when Run ends; 0 means DefaultDrainTimeout
	DialTimeout   time.Duration // how long connecting to an instance may take; 0 means DefaultDialTimeout
	AnswerTimeout time.Duration // how long an instance may take to begin its answer; 0 means no limit
	MaxHeld       int           // how many requests may wait for versions that start; 0 means DefaultMaxHeld
}

// Proxy forwards requests to the versions that a table selects. It is safe for
// concurrent use.
type Proxy struct {
	options    Options
	page       *template.Template
	transports *transports
	buffers    *bufferPool
	exchanges  sync.Pool // of *exchange
	current    atomic.Pointer[snapshot]
	flights    flights
	counters   counters
	held       atomic.Int64
	active     flight        // all requests
	none       *route.Table  // the table before the first: nothing is known of any host
	retired    atomic.Bool   // see Retire
	stopping   chan struct{} // closed when Run drains: held requests are let go
	stop       sync.Once     // closes stopping

	mu sync.Mutex // serializes SetTable
}

// snapshot is a table and the news that it is no longer the current one.
type snapshot struct {
	table    *route.Table
	replaced chan struct{} // closed when a newer table is in place
}

// New returns a proxy without a table: before the first [Proxy.SetTable] it answers
// everything with the problem no-table. It starts nothing; see [Proxy.Run].
func New(options Options) *Proxy {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	options.DrainTimeout = orDefault(options.DrainTimeout, DefaultDrainTimeout)
	options.DialTimeout = orDefault(options.DialTimeout, DefaultDialTimeout)
	options.MaxHeld = orDefault(options.MaxHeld, DefaultMaxHeld)
	p := &Proxy{
		options:    options,
		page:       parsePage(),
		transports: newTransports(options.DialTimeout, options.AnswerTimeout),
		buffers:    newBufferPool(),
		none:       route.EmptyTable(),
		stopping:   make(chan struct{}),
	}
	p.exchanges.New = func() any { return newExchange(p) }
	p.current.Store(&snapshot{table: p.none, replaced: make(chan struct{})})
	return p
}

// SetTable makes t the table that requests are decided on. When it returns, no
// request is sent anywhere on the strength of an earlier table, and requests
// that wait for a version have been told to look again.
func (p *Proxy) SetTable(t *route.Table) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.current.Swap(&snapshot{table: t, replaced: make(chan struct{})})
	close(old.replaced)
	p.counters.sweep(t)
	p.flights.sweep(t)
	p.transports.sweep(t)
}

// Table returns the current table.
func (p *Proxy) Table() *route.Table { return p.current.Load().table }

// ServeHTTP answers one request as an untrusted listener does; see [Listener].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.serve(w, r, false) }

// Requests returns how many requests each version has answered, by its ID
// ("cart@main"). Versions that are not in the table are not in it.
func (p *Proxy) Requests() map[string]uint64 { return p.counters.in(p.Table()) }

// RequestsTo returns how many requests one version has answered.
func (p *Proxy) RequestsTo(id string) uint64 { return p.counters.of(id) }

// WaitIdle waits until no request is in flight to the instance, upgraded
// connections included. Call it after SetTable with a table that lacks the instance: from
// then on it gets no new ones. It returns the cause of ctx where that ends first.
func (p *Proxy) WaitIdle(ctx context.Context, instanceID string) error {
	return p.flights.waitIdle(ctx, instanceID)
}

// Retire has every answer from now on end its connection, so that clients make their next
// one to the process that has taken over the listeners. A connection is never closed under a
// request that is on its way, as it can be when Run ends.
func (p *Proxy) Retire() { p.retired.Store(true) }

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, trusted bool) {
	p.active.enter()
	defer p.active.leave()
	x := p.exchanges.Get().(*exchange)
	x.begin(w, r, trusted)
	defer x.end()
	if p.retired.Load() {
		w.Header().Set("Connection", "close") // over HTTP/2 this is GOAWAY
	}
	x.run()
	x.completed = true
}

func orDefault[T int | time.Duration](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}
