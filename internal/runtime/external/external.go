// Package external adopts addresses that somebody else runs, as the instances of
// a version: an existing main, for example.
//
// It starts and ends nothing, and keeps nothing: after a restart of the server List is empty, and
// the caller starts the instances again, which costs a look-up of their names.
// Nothing of them exits, and no failure of DNS takes their addresses away.
package external

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Resolver looks up the addresses of a host. [net.Resolver] is one.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// Options says how names are looked up.
type Options struct {
	Resolver Resolver      // nil means that of the system
	Interval time.Duration // between look-ups while Watch runs; 0 means 5 s
	Logger   *slog.Logger  // is told of names that cannot be looked up any more; nil is silence
}

// lookupTimeout is how long Watch waits for the answer to one look-up, and
// parallelLookups how many it makes at a time.
const (
	lookupTimeout   = 5 * time.Second
	parallelLookups = 8
)

// Runtime adopts addresses. It implements [control.Runtime].
type Runtime struct {
	resolver Resolver
	interval time.Duration
	log      *slog.Logger

	mu        sync.Mutex
	instances map[string]*instance
}

var _ control.Runtime = (*Runtime)(nil)

// instance is an adopted address. Runtime.mu guards what changes.
type instance struct {
	target target
	status control.Status
	change int  // how often its addresses changed
	lost   bool // its name could not be looked up the last time
}

// New returns a runtime without instances.
func New(opts Options) *Runtime {
	r := &Runtime{
		resolver: opts.Resolver, interval: opts.Interval, log: opts.Logger,
		instances: map[string]*instance{},
	}
	if r.resolver == nil {
		r.resolver = net.DefaultResolver
	}
	if r.interval <= 0 {
		r.interval = 5 * time.Second
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Start adopts the URL of a workload: every address its name has. See [control.Runtime].
func (r *Runtime) Start(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	if err := ctx.Err(); err != nil {
		return control.Status{}, fmt.Errorf("adopt %s: %w", w.ID, err)
	}
	if status, ok := r.status(w.ID); ok {
		return status, nil
	}
	t, err := newTarget(w)
	if err != nil {
		return control.Status{}, err
	}
	if step != nil {
		step(api.StepStart, t.host)
	}
	addresses, err := t.lookUp(ctx, r.resolver)
	if err != nil {
		return control.Status{}, t.lookUpError(ctx, w.ID, err)
	}
	return r.add(&instance{target: t, status: control.Status{
		ID: w.ID, Service: w.Service, Version: w.Version, Generation: w.Generation,
		Addresses: addresses, Running: true, StartedAt: time.Now().UTC().Round(0),
	}}), nil
}

// Stop forgets an instance, which goes on running. See [control.Runtime].
func (r *Runtime) Stop(_ context.Context, id string, _ time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.instances, id)
	return nil
}

// List returns what was started since the server was, ordered by ID. See [control.Runtime].
func (r *Runtime) List(ctx context.Context) ([]control.Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list external addresses: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]control.Status, 0, len(r.instances))
	for _, id := range slices.Sorted(maps.Keys(r.instances)) {
		all = append(all, r.instances[id].statusLocked())
	}
	return all, nil
}

// Watch looks up the names of the instances again and again, and reports changed
// addresses. A name that cannot be looked up keeps the addresses it had. See [control.Runtime].
func (r *Runtime) Watch(ctx context.Context, changed func(control.Status)) error {
	tick := time.NewTicker(r.interval)
	defer tick.Stop()
	told := map[*instance]int{}
	for {
		r.lookUpAll(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, status := range r.untold(told) {
			changed(status)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Logs returns an error that says where the log is. See [control.Runtime].
func (r *Runtime) Logs(_ context.Context, id string, _ control.LogOptions) (control.LogReader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.instances[id]
	if !ok {
		return nil, control.ErrNoInstance
	}
	return nil, &control.Error{
		Code:    api.CodeInvalid,
		Message: fmt.Sprintf("there is no log of %s@%s here: it runs at %s, and Layover only sends requests to it", i.status.Service, i.status.Version, i.target.url),
		Hint:    "read the log where it runs",
	}
}

func (r *Runtime) status(id string) (control.Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.instances[id]
	if !ok {
		return control.Status{}, false
	}
	return i.statusLocked(), true
}

// add keeps an instance, unless another call was faster, and returns the one that is kept.
func (r *Runtime) add(i *instance) control.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.instances[i.status.ID]; ok {
		return first.statusLocked()
	}
	r.instances[i.status.ID] = i
	return i.statusLocked()
}

// lookUpAll looks up every instance once.
func (r *Runtime) lookUpAll(ctx context.Context) {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.instances))
	r.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(parallelLookups)
	for _, i := range all {
		group.Go(func() error {
			lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
			defer cancel()
			addresses, err := i.target.lookUp(lookup, r.resolver)
			if ctx.Err() == nil {
				r.update(i, addresses, err)
			}
			return nil
		})
	}
	_ = group.Wait() // none of them returns an error
}

// update takes the answer to a look-up; of an error it takes only note.
func (r *Runtime) update(i *instance, addresses []control.Address, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && !i.lost:
		r.log.Warn("name cannot be looked up, its last addresses are kept", "service", i.status.Service, "version", i.status.Version, "err", err)
	case err == nil && !slices.Equal(addresses, i.status.Addresses):
		i.status.Addresses = addresses
		i.change++
	}
	i.lost = err != nil
}

// untold returns the instances that changed since the last call with the same map.
func (r *Runtime) untold(told map[*instance]int) []control.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(told, func(i *instance, _ int) bool { return r.instances[i.status.ID] != i })
	var changed []control.Status
	for _, i := range r.instances {
		if i.change != told[i] {
			told[i] = i.change
			changed = append(changed, i.statusLocked())
		}
	}
	return changed
}

// statusLocked returns a status that its reader may keep and change.
func (i *instance) statusLocked() control.Status {
	status := i.status
	status.Addresses = slices.Clone(status.Addresses)
	return status
}

// errNoAddress says that a name has no address, without an error of the resolver.
var errNoAddress = errors.New("the name has no address")
