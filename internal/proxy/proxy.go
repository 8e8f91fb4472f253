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
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
	"github.com/layover-dev/layover/internal/route"
)

// Defaults of [Options].
const (
	DefaultDrainTimeout  = 10 * time.Second
	DefaultDialTimeout   = 5 * time.Second
	DefaultMaxHeld       = 4096
	DefaultHeldRequests  = 1024      // of one service; see route.Held
	DefaultHeldBytes     = 64 << 20  // the same
	DefaultHeaderBytes   = 256 << 10 // a baggage field over the 8,192 bytes that are read is still forwarded
	DefaultTargetBytes   = 32 << 10
	DefaultHeaderFields  = 200
	DefaultHeaderTimeout = 15 * time.Second
	DefaultIdleTimeout   = 3 * time.Minute // longer than clients keep connections, so that they close first
)

// Options says how a proxy behaves. The zero value is ready to use.
type Options struct {
	// TrustForwarded are the networks of the proxies in front of this one: of requests
	// from there the X-Forwarded-* and Forwarded fields are kept and appended to. For all others
	// they are replaced by what the proxy itself saw.
	TrustForwarded []netip.Prefix

	// ProxyProtocolFrom are the networks of load balancers whose connections begin
	// with the header of the PROXY protocol, version 1 or 2. They have to.
	ProxyProtocolFrom []netip.Prefix

	// Recorder is called once for each request, when its answer has been handed to the
	// connection. It must return fast, and must not keep the record, which is used again; see
	// [Record.Clone], [Ring] and [AccessLog].
	Recorder func(*Record)

	// Logger gets the errors that no client is told about. Nil means [slog.Default].
	Logger *slog.Logger

	DrainTimeout  time.Duration // how long requests in flight may go on when Run ends; 0 means DefaultDrainTimeout
	DialTimeout   time.Duration // how long connecting to an instance may take; 0 means DefaultDialTimeout
	AnswerTimeout time.Duration // how long an instance may take to begin its answer; 0 means no limit
	MaxHeld       int           // how many requests may wait for versions that start; 0 means DefaultMaxHeld
	HeaderTimeout time.Duration // how long a client may take to send a request's header; 0 means DefaultHeaderTimeout
	IdleTimeout   time.Duration // how long a connection may be idle between requests; 0 means DefaultIdleTimeout

	// NoFastPath has net/http serve all of HTTP/1.1: for comparisons.
	NoFastPath bool

	Header      HeaderLimits // of requests and answers
	Health      Health       // when an instance is taken out
	Concurrency Concurrency  // of the requests of a version
	Connections Connections  // of clients
	BodyRate    BodyRate     // of requests

	// Wake asks the control plane to start a version that sleeps ("cart@feature-1"), for a
	// request that waits for it. However many wait, one call is made at a time; it is made
	// again where it failed, or nothing came of it. Nil means that nobody can be asked.
	Wake func(ctx context.Context, version string) error

	Healing Healing // what is remembered of routes that may get lost

	// RememberTraces has the routes of traces remembered also where no service is healed by them: for [Proxy.TraceRoute].
	RememberTraces bool

	// Sample returns the share, from 0 to 1, of the traces with a route ("" for those without) that get a span of the proxy's;
	// see [Record.SpanID]. Nil means none, and that traceparent fields are passed on as they come.
	Sample func(route string) float64
	// FollowUntrusted has traces recorded that a caller records also where that came to a listener that is not trusted, and is
	// no instance.
	FollowUntrusted bool

	// Receipt returns what came of the requests of a trace that have ended, for an answer with a receipt: a list as
	// [ReceiptHeader] has. Nil means that nobody gets one.
	Receipt func(ctx context.Context, id TraceID) string

	sendTimeout time.Duration // how long a client may take none of its answer; 0 means sendTimeout
}

// HeaderLimits bound the header of a request or answer of HTTP/1.1; of HTTP/2, only Bytes and Memory do.
// Memory is for requests.
type HeaderLimits struct {
	Bytes  int // of the whole header; 0 means DefaultHeaderBytes
	Target int // bytes of a request's target; 0 means DefaultTargetBytes
	Fields int // 0 means DefaultHeaderFields
	Memory int // bytes that all headers over 16 KiB take together; 0 means DefaultHeaderMemory, below 0 no limit
}

// withDefaults returns h with what is 0 filled in.
func (h HeaderLimits) withDefaults() HeaderLimits {
	h.Bytes = orDefault(h.Bytes, DefaultHeaderBytes)
	h.Target = min(orDefault(h.Target, DefaultTargetBytes), h.Bytes)
	h.Fields = orDefault(h.Fields, DefaultHeaderFields)
	h.Memory = orDefault(h.Memory, DefaultHeaderMemory)
	return h
}

// Proxy forwards requests to the versions that a table selects. It is safe for
// concurrent use.
type Proxy struct {
	options        Options
	trusted        networks // Options.TrustForwarded
	proxied        networks // Options.ProxyProtocolFrom
	page           *template.Template
	transports     *transports
	buffers        *bufferPool
	relays         sync.Pool // of *relay
	exchanges      sync.Pool // of *exchange
	clients        fastConns
	parking        *parking // nil before Run, and where the system has none
	conns          *connLimit
	limits         http1.Limits
	headroom       headroom
	current        atomic.Pointer[snapshot]
	flights        flights
	callers        callers
	traces         traces
	pools          pools
	versions       versions
	outliers       *outliers
	held           atomic.Int64
	holds          holds
	wakes          wakes
	waiting        *waitingPage
	active         flight       // all requests
	none           *route.Table // the table before the first: nothing is known of any host
	retired        atomic.Bool  // see Retire
	halfCloseGrace time.Duration
	sendTimeout    time.Duration
	stopping       chan struct{} // closed when Run drains: held requests are let go
	stop           sync.Once     // closes stopping

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
	options.HeaderTimeout = orDefault(options.HeaderTimeout, DefaultHeaderTimeout)
	options.IdleTimeout = orDefault(options.IdleTimeout, DefaultIdleTimeout)
	options.Header = options.Header.withDefaults()
	options.Concurrency = options.Concurrency.withDefaults()
	options.BodyRate = options.BodyRate.withDefaults()
	p := &Proxy{
		options:        options,
		trusted:        newNetworks(options.TrustForwarded),
		proxied:        newNetworks(options.ProxyProtocolFrom),
		page:           parsePage(),
		waiting:        newWaitingPage(),
		transports:     newTransports(options.DialTimeout, options.AnswerTimeout),
		buffers:        newBufferPool(),
		none:           route.EmptyTable(),
		outliers:       newOutliers(options.Health),
		conns:          newConnLimit(options.Connections),
		stopping:       make(chan struct{}),
		limits:         http1.Limits{Head: options.Header.Bytes, Target: options.Header.Target, Fields: options.Header.Fields},
		headroom:       headroom{most: options.Header.Memory},
		halfCloseGrace: halfCloseGrace,
		sendTimeout:    orDefault(options.sendTimeout, sendTimeout),
	}
	p.traces.init(options.Healing)
	p.exchanges.New = func() any { return &exchange{} }
	p.relays.New = func() any { return newRelay(p) }
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
}

// Table returns the current table.
func (p *Proxy) Table() *route.Table { return p.current.Load().table }

// HasTable says whether there has been a table yet.
func (p *Proxy) HasTable() bool { return p.Table() != p.none }

// ServeHTTP answers one request as an untrusted listener does; see [Listener].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.serve(w, r, false) }

// Requests returns how many requests each version has answered, by its ID
// ("cart@main"). Versions that are not in the table are not in it.
func (p *Proxy) Requests() map[string]uint64 { return p.versions.answers(p.Table()) }

// Ejected returns how many instances get no requests at the moment, as connecting to them
// failed or they answered with errors; see [Health].
func (p *Proxy) Ejected() int { return p.flights.ejected(p.Table(), p.outliers) }

// Connections returns how many connections clients have open, and how many were
// refused, as there were too many; see [Connections].
func (p *Proxy) Connections() (open int64, refused uint64) {
	return p.conns.open.Load(), p.conns.refused.Load()
}

// Caller returns the instance whose calls come from an address, and its version ("cart@feature-1"); ok is false where none is known.
func (p *Proxy) Caller(from netip.Addr) (instance, version string, ok bool) {
	found := p.callers.find(from)
	if found == nil {
		return "", "", false
	}
	return found.instance, found.version.ID, true
}

// TraceRoute returns the only route that a trace was seen with lately; "" where there is none.
func (p *Proxy) TraceRoute(id TraceID) string { return p.traces.route(id, time.Now()) }

// InFlight returns how many requests each version ("cart@main") has in progress, streams and upgraded connections included.
// Versions that nobody has called are not in it.
func (p *Proxy) InFlight() map[string]int64 { return p.flights.inFlight() }

// Held returns how many requests wait for versions that are asleep or starting, and how often the control plane was asked to
// wake one.
func (p *Proxy) Held() (requests int64, wakes uint64) { return p.held.Load(), p.wakes.asked.Load() }

// Busy names the versions ("cart@main") that have requests in progress, streams and upgraded
// connections included.
func (p *Proxy) Busy() []string { return p.flights.busy() }

// RequestsTo returns how many requests one version has answered.
func (p *Proxy) RequestsTo(id string) uint64 { return p.versions.answersOf(id) }

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

func (p *Proxy) isStopping() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

func orDefault[T int | time.Duration](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}
