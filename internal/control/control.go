// Package control owns the rules of the control plane: which versions of which
// services should run, and making it so.
//
// What is wanted lives in the [Store]. One keeper per version compares it with what
// its [Runtime] has and takes the next step: start an instance, wait until it
// is healthy, put it into the table, drain and stop what it replaces. Because each
// step looks at the facts anew, a server that was killed anywhere goes on
// where it was.
//
// The package names no technology: stores, runtimes and the data plane are
// behind small interfaces.
package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// DataPlane is what serves the requests: the embedded proxy. Where it has a method
// RequestsTo(id string) uint64, the requests to one version are asked for by that; where
// it has Busy() []string, that names the versions with requests in progress.
type DataPlane interface {
	// SetTable makes the data plane decide from t; it has taken effect when it returns.
	SetTable(t *route.Table)
	// WaitIdle returns when no request is in flight to the instance, or with ctx's error.
	WaitIdle(ctx context.Context, instanceID string) error
	// Requests counts the requests answered since the start, by service@version.
	Requests() map[string]uint64
}

// Options are what a Control is made from. Store and Runtimes are required.
type Options struct {
	Environment string        // name of the environment
	Domain      string        // see route.Spec
	BaggageKey  string        // see route.Spec
	RouteHeader string        // see route.Spec
	Hold        time.Duration // see route.Spec
	// LeaseWarning is how long before the end of a lease there is a warning; 0 means DefaultLeaseWarning.
	LeaseWarning time.Duration
	PreviewPort  string // port of the proxy in preview URLs; "" or "80" leaves it out

	Store     Store
	Runtimes  map[string]Runtime // by name: api.RuntimeProcess, …
	DataPlane DataPlane          // nil where only stand-alone proxies serve, which watch the table
	// ProxyAddress is the host:port at which instances of a runtime reach the proxy;
	// it fills the placeholder {proxy}.
	ProxyAddress map[string]string
	// ProxyGrace is how long stand-alone proxies have to come back to a server that was
	// started, before it ends what an earlier one left; 0 means DefaultProxyGrace.
	ProxyGrace time.Duration
	Quotas     Quotas
	// RouteOfTrace returns the route of a trace, 32 hex digits, for lines of logs that name it; "" where none is known. Nil where nobody
	// knows any.
	RouteOfTrace func(trace string) string

	// TelemetryAddress is the host:port at which instances of a runtime reach a receiver of OTLP, by the runtime's name; "" where there
	// is none. They name themselves to it by the header TelemetryHeader.
	TelemetryAddress map[string]string
	TelemetryHeader  string

	// TelemetryEnv are the tracers whose variables instances get, see [TelemetryVendors]; nil means all.
	TelemetryEnv []string
	// WholeDrain gives each instance that leaves all of its drain time: requests come to it from others than
	// proxies, which neither learn of a new table at once nor report what they have in flight.
	WholeDrain bool
	// OrphanGrace is how long an instance of which no version is known stays before it is
	// removed; 0 means DefaultOrphanGrace.
	OrphanGrace time.Duration
	LogArchive  LogArchive // nil where no log of an ended instance is kept
	Log         *slog.Logger
}

// DefaultProxyGrace is the default of [Options].ProxyGrace.
const DefaultProxyGrace = 3 * time.Second

// storeTimeout bounds a change of the store that nobody may cut short.
const storeTimeout = 30 * time.Second

// Control is the control plane of one environment. Its methods are safe for concurrent use.
type Control struct {
	opts    Options
	log     *slog.Logger
	began   time.Time // what was started before, an earlier server started
	fleet   *fleet
	adopted adoption

	writes sync.Mutex // serializes changes of the store with those of the cache below

	mu       sync.Mutex
	services map[string]api.Service
	routes   map[string]api.NamedRoute
	records  map[Key]*VersionRecord // never changed in place
	usage    usage                  // of records
	keepers  map[Key]*keeper
	watchers map[string]*watcher // by name of the runtime
	group    *errgroup.Group     // of Run; nil while it does not run
	ctx      context.Context     //nolint:containedctx // of Run: keepers made later live as long
	dirty    uint64              // counts changes that concern the table
	touched  touched             // what they may have changed, and the newest table does not have
	last     int64               // ID of the newest event
	later    map[Key]Wanted      // of the file, to deploy once their removal is done
	due      time.Time           // when a lease has to be looked at; see [Control.tend]

	publishing sync.Mutex                  // is taken before mu
	published  uint64                      // value of dirty that the newest table covers
	epoch      string                      // of the tables made now; guarded by publishing
	inTable    tabled                      // guarded by publishing
	table      atomic.Pointer[route.Table] // stored by publish only
	history    history                     // how it came to be
	behind     chan struct{}               // a change could not be published
	soon       chan struct{}               // a change that nobody waits for is to be published

	tables signal // a new table
	events signal // a new event
}

// New reads the environment from the store. It starts nothing; [Control.Run] does.
func New(ctx context.Context, opts Options) (*Control, error) {
	c := &Control{
		opts:     opts,
		log:      opts.Log,
		began:    time.Now(),
		fleet:    newFleet(opts.DataPlane),
		adopted:  adoption{done: make(chan struct{})},
		services: map[string]api.Service{},
		routes:   map[string]api.NamedRoute{},
		records:  map[Key]*VersionRecord{},
		keepers:  map[Key]*keeper{},
		watchers: map[string]*watcher{},
		later:    map[Key]Wanted{},
		behind:   make(chan struct{}, 1),
		epoch:    newEpoch(),
		soon:     make(chan struct{}, 1),
	}
	c.table.Store(route.EmptyTable())
	c.opts.LeaseWarning = cmp.Or(opts.LeaseWarning, DefaultLeaseWarning)
	c.opts.ProxyGrace = cmp.Or(opts.ProxyGrace, DefaultProxyGrace)
	c.opts.OrphanGrace = cmp.Or(opts.OrphanGrace, DefaultOrphanGrace)
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := c.load(ctx); err != nil {
		return nil, fmt.Errorf("read the environment: %w", err)
	}
	for name, rt := range opts.Runtimes {
		c.watchers[name] = newWatcher(c, name, rt)
	}
	if err := c.publish(ctx); err != nil {
		return nil, fmt.Errorf("make the routing table: %w", err)
	}
	return c, nil
}

func (c *Control) load(ctx context.Context) error {
	services, err := c.opts.Store.Services(ctx)
	if err != nil {
		return err
	}
	routes, err := c.opts.Store.Routes(ctx)
	if err != nil {
		return err
	}
	versions, err := c.opts.Store.Versions(ctx)
	if err != nil {
		return err
	}
	if c.last, err = c.opts.Store.LastEvent(ctx); err != nil {
		return err
	}
	for _, s := range services {
		c.services[s.Name] = s
	}
	for _, r := range routes {
		c.routes[r.Name] = r
	}
	for i := range versions {
		key := versions[i].Key
		c.records[key] = &versions[i]
		c.usage.count(nil, c.records[key])
		c.keepers[key] = newKeeper(c, key)
		c.keepers[key].inherit(c.records[key])
		if versions[i].Desired == DesiredRunning && versions[i].serving() != nil {
			c.keepers[key].unseen = true
			c.adopted.left++
		}
	}
	if c.adopted.left == 0 {
		c.adopted.end()
	}
	return nil
}

// Run adopts what the runtimes have, and keeps every version as it is wanted
// until ctx ends. Instances go on running when it returns; see [Control.StopInstances].
func (c *Control) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	c.mu.Lock()
	if c.group != nil {
		c.mu.Unlock()
		return errors.New("control runs already")
	}
	c.group, c.ctx = group, ctx
	group.Go(func() error { return c.catchUp(ctx) })
	group.Go(func() error { return c.publishAside(ctx) })
	group.Go(func() error { return c.tend(ctx) })
	group.Go(func() error { c.sweepLogs(); return nil })
	group.Go(func() error { return c.adopted.run(ctx) })
	for _, w := range c.watchers {
		group.Go(func() error { return w.run(ctx) })
		group.Go(func() error { return w.watch(ctx) })
	}
	for _, k := range c.keepers {
		group.Go(func() error { return k.run(ctx) })
	}
	c.mu.Unlock()

	<-ctx.Done()
	c.mu.Lock()
	c.group, c.ctx = nil, nil // nothing new from here on
	c.mu.Unlock()
	return group.Wait()
}

// StopInstances ends every instance that a runtime of this environment has,
// without changing what is wanted: the next Run starts them again. Call it when
// Run has returned.
func (c *Control) StopInstances(ctx context.Context) error {
	var group errgroup.Group
	var mu sync.Mutex
	var errs []error
	inUse := c.runtimesInUse()
	for name, rt := range c.opts.Runtimes {
		statuses, err := rt.List(ctx)
		if err != nil && !inUse[name] {
			continue // a runtime that is not there, and that nothing runs on
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("list the instances of %s: %w", name, err))
			continue
		}
		for _, s := range statuses {
			grace := c.grace(s.Service)
			group.Go(func() error {
				if err := rt.Stop(ctx, s.ID, grace); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, fmt.Errorf("stop %s: %w", s.ID, err))
				}
				return nil
			})
		}
	}
	_ = group.Wait() // every error is in errs
	return errors.Join(errs...)
}

// Ready returns nil when the store answers and every runtime in use has been looked at.
func (c *Control) Ready(ctx context.Context) error {
	if _, err := c.opts.Store.LastEvent(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	c.mu.Lock()
	running := c.group != nil
	c.mu.Unlock()
	if !running {
		return errors.New("the reconciler is not running")
	}
	for _, name := range slices.Sorted(maps.Keys(c.runtimesInUse())) {
		if w := c.watchers[name]; w != nil {
			if err := w.err(); err != nil {
				return fmt.Errorf("runtime %s: %w", name, err)
			}
		}
	}
	return nil
}

// runtimesInUse returns the names of the runtimes that versions should run on, or that
// have an instance.
func (c *Control) runtimesInUse() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	inUse := map[string]bool{}
	for _, r := range c.records {
		if g := r.newest(); g != nil && r.Desired == DesiredRunning && g.State != GenerationFailed {
			inUse[g.Run.Runtime()] = true
		}
		if h := r.dueHook(); h != nil {
			inUse[h.Run.Runtime()] = true
		}
	}
	for _, k := range c.keepers {
		for _, inst := range k.instances {
			inUse[inst.runtime] = true
		}
	}
	return inUse
}

// keeperLocked returns the keeper that looks after key, and starts one where there is none.
func (c *Control) keeperLocked(key Key) *keeper {
	k, ok := c.keepers[key]
	if !ok {
		k = newKeeper(c, key)
		c.keepers[key] = k
		if c.group != nil {
			ctx := c.ctx
			c.group.Go(func() error { return k.run(ctx) })
		}
	}
	return k
}

// update changes one record in the store and in memory. Where edit returns nil
// the record is deleted. Where something else is wanted from then on, the keeper's
// attempt in progress is over: no attempt sees the new record and is ended for it.
//
// The end of ctx does not cut it short: nobody could tell then what the store has.
func (c *Control) update(ctx context.Context, key Key, edit func(*VersionRecord) (*VersionRecord, error)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	c.writes.Lock()
	defer c.writes.Unlock()
	var result *VersionRecord
	err := c.opts.Store.UpdateVersion(ctx, key, func(r *VersionRecord) (*VersionRecord, error) {
		var err error
		result, err = edit(r)
		return result, err
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touchLocked(key)
	k := c.keeperLocked(key)
	if k.cancel != nil && result != nil && !c.records[key].sameWish(result) {
		k.cancel(errSuperseded)
	}
	c.usage.count(c.records[key], result)
	if result == nil {
		delete(c.records, key)
		k.told = 0 // the next life of this name counts anew
	} else {
		c.records[key] = result.clone()
		c.dueLocked(key)
	}
	return nil
}

// record returns what is wanted of key, or nil. The record must not be changed.
func (c *Control) record(key Key) *VersionRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records[key]
}

func (c *Control) service(name string) (api.Service, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.services[name]
	return s, ok
}
