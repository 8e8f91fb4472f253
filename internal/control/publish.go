package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Table returns the routing table in force.
func (c *Control) Table() *route.Table { return c.table.Load() }

// WaitTable returns the table in force once it is of another epoch than after, or its revision
// is above, and what an earlier server left has been looked at: until then the last table that
// other proxies have is better than this one.
func (c *Control) WaitTable(ctx context.Context, after route.Position) (*route.Table, error) {
	if err := c.adopted.wait(ctx); err != nil {
		return nil, err
	}
	for {
		next := c.tables.next()
		if t := c.Table(); t.Position().Epoch != after.Epoch || t.Revision() > after.Revision {
			return t, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// TableChanges returns the changes that lead from the table at a position to the newest one,
// oldest first, and false where they are not all kept any more, or never were: then
// the whole table is the way there.
func (c *Control) TableChanges(after route.Position) ([]TableChange, bool) {
	return c.history.since(after)
}

// touched names what may differ from the newest table. Its zero value is ready.
type touched struct {
	services map[string]bool
	versions map[Key]bool
	routes   map[string]bool
}

func (t *touched) service(name string) { mark(&t.services, name) }
func (t *touched) version(key Key)     { mark(&t.versions, key) }
func (t *touched) route(name string)   { mark(&t.routes, name) }

// merge adds what o names.
func (t *touched) merge(o touched) {
	for name := range o.services {
		t.service(name)
	}
	for key := range o.versions {
		t.version(key)
	}
	for name := range o.routes {
		t.route(name)
	}
}

func mark[K comparable](m *map[K]bool, k K) {
	if *m == nil {
		*m = map[K]bool{}
	}
	(*m)[k] = true
}

// touchLocked notes that a version may look otherwise in the table from now on.
func (c *Control) touchLocked(key Key) {
	c.dirty++
	c.touched.version(key)
}

// publish puts every change made before the call into the table that the data
// plane decides from. Callers that come while another publishes share the next table,
// and where nothing differs there is none. Where it does not work out,
// [Control.catchUp] tries again.
func (c *Control) publish(ctx context.Context) error {
	c.mu.Lock()
	need := c.dirty
	c.mu.Unlock()

	c.publishing.Lock()
	defer c.publishing.Unlock()
	if c.published >= need && c.Table().Revision() > 0 {
		return nil
	}
	if err := c.publishOwned(ctx); err != nil {
		select {
		case c.behind <- struct{}{}:
		default:
		}
		return err
	}
	return nil
}

// publishOwned publishes. The caller holds publishing. Its work is in proportion to
// what was touched, not to the environment.
func (c *Control) publishOwned(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	table := c.Table()
	c.mu.Lock()
	covers, touched := c.dirty, c.touched
	change := c.changeLocked(touched, table)
	c.resetTouchedLocked()
	c.mu.Unlock()

	if err := c.publishChange(ctx, table, change); err != nil {
		c.mu.Lock()
		c.touched.merge(touched)
		c.mu.Unlock()
		return err
	}
	c.published = covers
	return nil
}

// publishChange makes the table that follows table by change. Where the change does
// not apply, which would be a defect, the table is made anew as a whole.
func (c *Control) publishChange(ctx context.Context, table *route.Table, change route.Change) error {
	if table.Revision() > 0 && isEmpty(change) {
		return nil
	}
	revision, err := c.opts.Store.NextRevision(ctx)
	if err != nil {
		return fmt.Errorf("number the routing table: %w", err)
	}
	if revision <= table.Revision() { // what leads on from the revisions between would be taken for what was sent before
		c.log.Warn("the store counts revisions a second time, as one that was put back to an older state", "revision", revision, "before", table.Revision())
		c.epoch = newEpoch()
	}
	if c.epoch != table.Position().Epoch { // the first of it
		return c.publishWhole(revision)
	}
	change.Epoch, change.Base, change.Revision = c.epoch, table.Revision(), revision
	next, err := table.Apply(change)
	if err != nil {
		c.log.Error("change of the routing table does not apply, making it anew", "revision", revision, "err", err)
		return c.publishWhole(revision)
	}
	c.inTable.take(change)
	c.history.add(change)
	c.putTable(next)
	return nil
}

// publishWhole compiles the environment as it is now.
func (c *Control) publishWhole(revision uint64) error {
	c.mu.Lock()
	spec := c.specLocked()
	c.mu.Unlock()
	spec.Epoch, spec.Revision = c.epoch, revision
	table, err := route.Compile(spec)
	if err != nil {
		return fmt.Errorf("compile the routing table: %w", err)
	}
	c.inTable.replace(spec)
	c.history.reset(table.Position())
	c.putTable(table)
	return nil
}

// newEpoch draws the epoch in which the revisions of tables count from now on; see
// [route.Position].
func newEpoch() string { return rand.Text() }

func (c *Control) putTable(table *route.Table) {
	c.fleet.SetTable(table)
	c.table.Store(table)
	c.tables.raise()
}

// catchUp publishes what could not be published, until ctx ends.
func (c *Control) catchUp(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.behind:
		}
		if pause(ctx, retryDelay) && c.publish(ctx) == nil {
			c.log.Info("routing table published after all")
		}
	}
}

// publishAtLast returns once every change made before the call is in the table, or
// with the cause of ctx's end.
func (c *Control) publishAtLast(ctx context.Context) error {
	for {
		err := c.publish(ctx)
		if err == nil {
			return nil
		}
		c.log.Error("routing table not published", "err", err)
		if !pause(ctx, retryDelay) {
			return context.Cause(ctx)
		}
	}
}

// publishSoon has what was touched published by [Control.publishAside]: nobody waits for it.
func (c *Control) publishSoon() {
	select {
	case c.soon <- struct{}{}:
	default:
	}
}

func (c *Control) publishAside(ctx context.Context) error {
	for {
		select {
		case <-c.soon:
			c.changed(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// retryDelay is how soon something is tried again that the store refused.
const retryDelay = time.Second

// pause waits for d, and returns false where ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// changed publishes what was touched.
func (c *Control) changed(ctx context.Context) {
	if err := c.publish(ctx); err != nil {
		c.log.Error("routing table not published", "err", err)
	}
}

// tabled is what the newest table was told of services and named routes; the table
// itself has their normal form. It is guarded by Control.publishing.
type tabled struct {
	services map[string]route.Service // without versions
	routes   map[string]route.NamedRoute
}

func (t *tabled) replace(spec route.Spec) {
	t.services, t.routes = map[string]route.Service{}, map[string]route.NamedRoute{}
	for _, s := range spec.Services {
		s.Versions = nil
		t.services[s.Name] = s
	}
	for _, r := range spec.Routes {
		t.routes[r.Name] = r
	}
}

func (t *tabled) take(change route.Change) {
	for _, s := range change.Services {
		if s.Service == nil {
			delete(t.services, s.Name)
		} else {
			t.services[s.Name] = *s.Service
		}
	}
	for _, r := range change.Routes {
		if r.Route == nil {
			delete(t.routes, r.Name)
		} else {
			t.routes[r.Name] = *r.Route
		}
	}
}

func (c *Control) resetTouchedLocked() { c.touched = touched{} }

// changeLocked returns in what the environment differs from table, as far as it was
// touched. The caller holds publishing too.
func (c *Control) changeLocked(t touched, table *route.Table) route.Change {
	var change route.Change
	for _, name := range slices.Sorted(maps.Keys(t.services)) {
		before, was := c.inTable.services[name]
		s, is := c.services[name]
		now := routeService(s)
		switch {
		case is && (!was || !reflect.DeepEqual(before, now)):
			change.Services = append(change.Services, route.ServiceChange{Name: name, Service: &now})
		case was && !is:
			change.Services = append(change.Services, route.ServiceChange{Name: name})
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(t.versions), compareKeys) {
		if _, ok := c.services[key.Service]; !ok {
			continue // it goes with its service
		}
		now, is := c.routedLocked(key)
		before := versionIn(table, key)
		switch {
		case is && !sameVersion(before, now):
			change.Versions = append(change.Versions, route.VersionChange{Service: key.Service, Name: key.Version, Version: &now})
		case !is && before != nil:
			change.Versions = append(change.Versions, route.VersionChange{Service: key.Service, Name: key.Version})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.routes)) {
		before, was := c.inTable.routes[name]
		now, is := c.routes[name]
		switch {
		case is && (!was || !reflect.DeepEqual(before, now)):
			change.Routes = append(change.Routes, route.RouteChange{Name: name, Route: &now})
		case was && !is:
			change.Routes = append(change.Routes, route.RouteChange{Name: name})
		}
	}
	return change
}

func isEmpty(c route.Change) bool {
	return len(c.Services) == 0 && len(c.Versions) == 0 && len(c.Routes) == 0
}

func versionIn(table *route.Table, key Key) *route.VersionEntry {
	s := table.Service(key.Service)
	if s == nil {
		return nil
	}
	return s.Version(key.Version)
}

// sameVersion says whether a table has a version as now; before is nil where it has none.
func sameVersion(before *route.VersionEntry, now route.Version) bool {
	return before != nil && before.State == now.State && before.Reason == now.Reason &&
		slices.Equal(before.Instances, now.Instances)
}

// routedLocked returns a version as the table should have it, and false where it has no route.
func (c *Control) routedLocked(key Key) (route.Version, bool) {
	rec, k := c.records[key], c.keepers[key]
	if rec == nil || k == nil {
		return route.Version{}, false
	}
	return k.routedLocked(rec)
}

// specLocked describes the whole environment as it is now.
func (c *Control) specLocked() route.Spec {
	spec := route.Spec{
		Environment: c.opts.Environment,
		Domain:      c.opts.Domain,
		BaggageKey:  c.opts.BaggageKey,
		RouteHeader: c.opts.RouteHeader,
		Hold:        c.opts.Hold,
	}
	versions := map[string][]route.Version{}
	for key := range c.records {
		if v, ok := c.routedLocked(key); ok {
			versions[key.Service] = append(versions[key.Service], v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		s := routeService(c.services[name])
		s.Versions = versions[name]
		slices.SortFunc(s.Versions, func(a, b route.Version) int { return cmp.Compare(a.Name, b.Name) })
		spec.Services = append(spec.Services, s)
	}
	for _, name := range slices.Sorted(maps.Keys(c.routes)) {
		spec.Routes = append(spec.Routes, c.routes[name])
	}
	return spec
}

func routeService(s api.Service) route.Service {
	return route.Service{
		Name:     s.Name,
		Hosts:    s.Hosts,
		Default:  s.Default,
		Protocol: route.Protocol(s.Protocol),
		Held:     route.Held{Requests: s.Held.Requests, Bytes: s.Held.Bytes},
		Healing:  route.Healing{Origin: route.HealMode(s.Healing.Origin), Trace: route.HealMode(s.Healing.Trace)},
	}
}

// check applies services and routes to the environment as it is now, so that a change
// that does not fit is refused whole.
func (c *Control) check(services []api.Service, routes []api.NamedRoute) error {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	table := c.Table()
	c.mu.Lock()
	change := c.changeLocked(c.touched, table)
	c.mu.Unlock()
	for _, s := range services {
		entry := routeService(s)
		change.Services = slices.DeleteFunc(change.Services, func(o route.ServiceChange) bool { return o.Name == s.Name })
		change.Services = append(change.Services, route.ServiceChange{Name: s.Name, Service: &entry})
	}
	for _, r := range routes {
		change.Routes = slices.DeleteFunc(change.Routes, func(o route.RouteChange) bool { return o.Name == r.Name })
		change.Routes = append(change.Routes, route.RouteChange{Name: r.Name, Route: &r})
	}
	change.Epoch, change.Base, change.Revision = table.Position().Epoch, table.Revision(), table.Revision()+1
	if _, err := table.Apply(change); err != nil {
		if _, ok := errors.AsType[*route.CompileError](err); ok {
			return &Error{Code: api.CodeInvalid, Message: err.Error(), Err: err}
		}
		return err
	}
	return nil
}
