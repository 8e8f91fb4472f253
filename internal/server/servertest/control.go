// Package servertest has an environment in memory, to test the server and its
// clients with. It keeps what it is given and runs nothing: tests say what
// happens.
package servertest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

// Control is an environment in memory. It is safe for concurrent use.
type Control struct {
	mu        sync.Mutex
	services  map[string]api.Service
	routes    map[string]api.NamedRoute
	versions  map[control.Key]api.Version
	deployed  map[control.Key]api.Deployment
	events    []api.Event
	table     *route.Table
	changes   []control.TableChange // that led to table, from the last SetTable on
	base      route.Position        // of the table that the first of changes applies to
	proxies   map[string]api.ProxyReport
	changed   chan struct{} // closed and replaced at each change
	err       error
	notReady  error
	log       []api.LogLine
	logErr    error
	logQuery  control.LogQuery
	openLogs  int
	drift     []api.Drift
	panicking bool
}

// Epoch is that of the table, unless a test gives it another one.
const Epoch = "e1"

// New returns an empty environment at revision 1.
func New() *Control {
	c := &Control{
		services: map[string]api.Service{},
		routes:   map[string]api.NamedRoute{},
		versions: map[control.Key]api.Version{},
		deployed: map[control.Key]api.Deployment{},
		proxies:  map[string]api.ProxyReport{},
		changed:  make(chan struct{}),
	}
	c.setTableLocked(route.Spec{Revision: 1})
	return c
}

// Fail makes every call return err from now on; nil ends that.
func (c *Control) Fail(err error) { c.set(func() { c.err = err }) }

// Panic makes Services panic.
func (c *Control) Panic() { c.set(func() { c.panicking = true }) }

// SetReady sets what Ready returns.
func (c *Control) SetReady(err error) { c.set(func() { c.notReady = err }) }

// SetLog sets the log of every version. err, where it is not nil, ends it.
func (c *Control) SetLog(err error, lines ...api.LogLine) {
	c.set(func() { c.log, c.logErr = lines, err })
}

// LogQuery returns the query of the last call of Logs.
func (c *Control) LogQuery() control.LogQuery {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logQuery
}

// OpenLogs counts the log readers that were not closed.
func (c *Control) OpenLogs() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.openLogs
}

// Deployment returns what the version was deployed with last.
func (c *Control) Deployment(key control.Key) api.Deployment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deployed[key]
}

// SetTable puts a table into force that no change leads to. Its revision must grow, unless it
// is of another epoch; without one it is of [Epoch].
func (c *Control) SetTable(spec route.Spec) { c.set(func() { c.setTableLocked(spec) }) }

func (c *Control) setTableLocked(spec route.Spec) {
	spec.Epoch = cmp.Or(spec.Epoch, Epoch)
	c.table = compile(spec)
	c.changes, c.base = nil, c.table.Position()
}

// ChangeTable puts the table into force that change leads to. It is of the epoch of the table.
func (c *Control) ChangeTable(change route.Change) {
	change.Epoch = c.Table().Position().Epoch
	data, err := json.Marshal(change)
	if err != nil {
		panic(err)
	}
	c.set(func() {
		next, err := c.table.Apply(change)
		if err != nil {
			panic(fmt.Sprintf("the test's change does not apply: %v", err))
		}
		c.table = next
		c.changes = append(c.changes, control.TableChange{Revision: change.Revision, JSON: data})
	})
}

// Emit adds an event under the next ID, which it returns. Where it has no time, that is now.
func (c *Control) Emit(e api.Event) int64 {
	var id int64
	c.set(func() { id = c.emitLocked(e) })
	return id
}

// Settle ends the deployment of the version's newest generation, or another
// one, with an event of that type.
func (c *Control) Settle(key control.Key, generation int64, t api.EventType, message string) {
	c.set(func() {
		if v, ok := c.versions[key]; ok {
			v.State = api.StateRunning
			if t == api.EventDeployFailed {
				v.State = api.StateFailed
			}
			c.versions[key] = v
		}
		c.emitLocked(api.Event{Type: t, Service: key.Service, Version: key.Version, Generation: generation, Message: message})
	})
}

// Services returns every service, ordered by name.
func (c *Control) Services(context.Context) ([]api.Service, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.panicking {
		panic("the environment is on fire")
	}
	return slices.SortedFunc(maps.Values(c.services), func(a, b api.Service) int { return compare(a.Name, b.Name) }), c.err
}

// PutService keeps s.
func (c *Control) PutService(_ context.Context, s api.Service) error {
	return c.do(func() error {
		c.services[s.Name] = s
		c.emitLocked(api.Event{Type: api.EventServiceChanged, Service: s.Name, Message: "changed"})
		return nil
	})
}

// RemoveService forgets a service, unless it has versions.
func (c *Control) RemoveService(_ context.Context, name, actor string) error {
	return c.do(func() error {
		if _, ok := c.services[name]; !ok {
			return unknown("service", name)
		}
		for key := range c.versions {
			if key.Service == name {
				return &control.Error{Code: api.CodeConflict, Message: "service " + name + " still has versions", Hint: "remove them first"}
			}
		}
		delete(c.services, name)
		c.emitLocked(api.Event{Type: api.EventServiceRemoved, Service: name, Actor: actor, Message: "removed"})
		return nil
	})
}

// VersionPage returns a page of versions, ordered by service and name.
func (c *Control) VersionPage(_ context.Context, p control.Page) (page []api.Version, next string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range slices.SortedFunc(maps.Values(c.versions), func(a, b api.Version) int { return compare(a.ID(), b.ID()) }) {
		switch {
		case p.Service != "" && p.Service != v.Service, p.Version != "" && p.Version != v.Name:
		case p.Only != nil && !p.Only(&control.VersionRecord{Owner: v.Owner, Who: control.Who{Labels: v.Labels}}):
		case p.After != (control.Key{}) && compare(v.ID(), p.After.String()) <= 0:
		case len(page) == p.Limit:
			return page, page[p.Limit-1].ID(), c.err
		default:
			page = append(page, v)
		}
	}
	return page, "", c.err
}

// Version returns one version.
func (c *Control) Version(_ context.Context, key control.Key) (api.Version, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return api.Version{}, c.err
	}
	v, ok := c.versions[key]
	if !ok {
		return v, unknown("version", key.String())
	}
	return v, nil
}

// Deploy records a new generation, and emits deploy.started.
func (c *Control) Deploy(_ context.Context, key control.Key, d api.Deployment) (api.Version, error) {
	var v api.Version
	err := c.do(func() error {
		if _, ok := c.services[key.Service]; !ok {
			return unknown("service", key.Service)
		}
		c.deployed[key] = d
		v = c.beginLocked(key, d.Owner)
		v.Owner, v.Source, v.Branch, v.Origin, v.Note, v.Labels = d.Owner, d.Source, d.Branch, d.Origin, d.Note, d.Labels
		c.versions[key] = v
		return nil
	})
	return v, err
}

// Start records a new generation of a version.
func (c *Control) Start(_ context.Context, key control.Key, by control.By) (api.Version, error) {
	return c.change(key, by, func() { c.beginLocked(key, by.Actor) })
}

// Restart does as Start does.
func (c *Control) Restart(ctx context.Context, key control.Key, by control.By) (api.Version, error) {
	return c.Start(ctx, key, by)
}

// Rollback does as Start does, and refuses a generation that there never was.
func (c *Control) Rollback(ctx context.Context, key control.Key, to int64, by control.By) (api.Version, error) {
	v, err := c.Version(ctx, key)
	if err == nil && to >= v.Generation {
		return v, &control.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no generation %d", to), Hint: "see: layover history"}
	}
	return c.Start(ctx, key, by)
}

// Scale notes the number of instances.
func (c *Control) Scale(_ context.Context, key control.Key, replicas int, by control.By) (api.Version, error) {
	return c.change(key, by, func() {
		v := c.versions[key]
		v.Replicas = replicas
		c.versions[key] = v
	})
}

// History returns a generation for each deployment, newest first.
func (c *Control) History(ctx context.Context, key control.Key) ([]api.Generation, error) {
	v, err := c.Version(ctx, key)
	if err != nil {
		return nil, err
	}
	var out []api.Generation
	for n := v.Generation; n > 0; n-- {
		out = append(out, api.Generation{Number: n, State: api.GenerationSuperseded, Runtime: v.Runtime, At: v.DeployedAt})
	}
	return out, nil
}

// Stop marks the version as stopped.
func (c *Control) Stop(_ context.Context, key control.Key, by control.By) (api.Version, error) {
	return c.change(key, by, func() {
		v := c.versions[key]
		v.State = api.StateStopped
		c.versions[key] = v
		c.emitLocked(api.Event{Type: api.EventVersionStopped, Service: key.Service, Version: key.Version, Actor: by.Actor, Message: "stopped"})
	})
}

// Sleep marks the version as asleep.
func (c *Control) Sleep(_ context.Context, key control.Key, by control.By) (api.Version, error) {
	return c.mark(key, by, api.StateAsleep, api.EventVersionAsleep)
}

// Wake marks a version that sleeps as running.
func (c *Control) Wake(_ context.Context, key control.Key, by control.By) (api.Version, error) {
	return c.mark(key, by, api.StateRunning, api.EventVersionWaking)
}

func (c *Control) mark(key control.Key, by control.By, state api.State, t api.EventType) (api.Version, error) {
	return c.change(key, by, func() {
		v := c.versions[key]
		v.State = state
		c.versions[key] = v
		c.emitLocked(api.Event{Type: t, Service: key.Service, Version: key.Version, Actor: by.Actor, Message: string(state)})
	})
}

// Extend gives the version a lease that ends as e says.
func (c *Control) Extend(_ context.Context, key control.Key, e api.Extension, by control.By) (api.Version, error) {
	return c.change(key, by, func() {
		v := c.versions[key]
		until := e.Until
		if until.IsZero() {
			until = time.Now().Add(time.Duration(e.By))
		}
		v.Lease = &api.Lease{TTL: api.Duration(72 * time.Hour), EndsAt: until.UTC()}
		c.versions[key] = v
		c.emitLocked(api.Event{Type: api.EventLeaseExtended, Service: key.Service, Version: key.Version, Actor: by.Actor, Message: "extended"})
	})
}

// Remove forgets the version.
func (c *Control) Remove(_ context.Context, key control.Key, by control.By) (api.Version, error) {
	v, err := c.change(key, by, func() {
		c.emitLocked(api.Event{Type: api.EventVersionRemoved, Service: key.Service, Version: key.Version, Actor: by.Actor, Message: "removed"})
	})
	if err == nil {
		c.set(func() { delete(c.versions, key) })
	}
	return v, err
}

// Logs returns the lines of SetLog. Following, it waits for the end of ctx behind them.
func (c *Control) Logs(ctx context.Context, q control.LogQuery) (control.Log, error) {
	for _, t := range q.Targets {
		if _, err := c.Version(ctx, control.Key(t)); t.Service != "" && err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logQuery = q
	c.openLogs++
	lines := slices.Clone(c.log)
	if q.Tail > 0 {
		lines = lines[max(0, len(lines)-q.Tail):]
	}
	read := 0
	if q.After != "" {
		read, _ = strconv.Atoi(q.After)
		lines = lines[min(read, len(lines)):]
	}
	return &logReader{c: c, lines: lines, follow: q.Follow, err: c.logErr, read: read}, nil
}

// Routes returns every named route, ordered by name.
func (c *Control) Routes(context.Context) ([]api.NamedRoute, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.routes), func(a, b api.NamedRoute) int { return compare(a.Name, b.Name) }), c.err
}

// PutRoute keeps r.
func (c *Control) PutRoute(_ context.Context, r api.NamedRoute, actor string) error {
	return c.do(func() error {
		c.routes[r.Name] = r
		c.emitLocked(api.Event{Type: api.EventRouteChanged, Actor: actor, Message: "route " + r.Name})
		return nil
	})
}

// RemoveRoute forgets a named route.
func (c *Control) RemoveRoute(_ context.Context, name, actor string) error {
	return c.do(func() error {
		if _, ok := c.routes[name]; !ok {
			return unknown("route", name)
		}
		delete(c.routes, name)
		c.emitLocked(api.Event{Type: api.EventRouteRemoved, Actor: actor, Message: "route " + name})
		return nil
	})
}

// Table returns the table in force.
func (c *Control) Table() *route.Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table
}

// WaitTable returns the table in force once it is of another epoch than after, or above its revision.
func (c *Control) WaitTable(ctx context.Context, after route.Position) (*route.Table, error) {
	err := c.wait(ctx, func() bool {
		return c.table.Position().Epoch != after.Epoch || c.table.Revision() > after.Revision
	})
	return c.Table(), err
}

// TableChanges returns the changes since SetTable that lead on from the table at after.
func (c *Control) TableChanges(after route.Position) ([]control.TableChange, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if after == c.base {
		return slices.Clone(c.changes), true
	}
	i := slices.IndexFunc(c.changes, func(t control.TableChange) bool {
		return after == route.Position{Epoch: c.base.Epoch, Revision: t.Revision}
	})
	return slices.Clone(c.changes[i+1:]), i >= 0
}

// Proxies returns the last report of each proxy, ordered by ID.
func (c *Control) Proxies(context.Context) ([]api.Proxy, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []api.Proxy{}
	for _, id := range slices.Sorted(maps.Keys(c.proxies)) {
		one := api.Proxy{ProxyReport: c.proxies[id], SeenAt: time.Now().UTC()}
		if revision := c.table.Revision(); one.Revision < revision {
			one.Behind, one.Lag = revision-one.Revision, api.Duration(time.Second)
		}
		out = append(out, one)
	}
	return out, c.err
}

// ReportProxy keeps r.
func (c *Control) ReportProxy(_ context.Context, r api.ProxyReport) error {
	return c.do(func() error {
		c.proxies[r.ID] = r
		return nil
	})
}

// SetDrift sets what Drift and Collect return.
func (c *Control) SetDrift(drift ...api.Drift) { c.set(func() { c.drift = drift }) }

// Drift returns what SetDrift was given.
func (c *Control) Drift(context.Context) ([]api.Drift, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.drift), c.err
}

// Collect returns what is not wanted of SetDrift, and forgets it unless it is a dry run.
func (c *Control) Collect(_ context.Context, dryRun bool) ([]api.Drift, error) {
	var out []api.Drift
	err := c.do(func() error {
		for _, d := range c.drift {
			if !d.Wanted {
				d.Removed = !dryRun
				out = append(out, d)
			}
		}
		if !dryRun {
			c.drift = slices.DeleteFunc(c.drift, func(d api.Drift) bool { return !d.Wanted })
		}
		return nil
	})
	return out, err
}

// Events returns a part of the event log.
func (c *Control) Events(_ context.Context, after int64, limit int) ([]api.Event, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := min(max(after, 0), int64(len(c.events)))
	to := min(from+int64(limit), int64(len(c.events)))
	return slices.Clone(c.events[from:to]), c.err
}

// WaitEvents returns when there is an event above after.
func (c *Control) WaitEvents(ctx context.Context, after int64) error {
	return c.wait(ctx, func() bool { return int64(len(c.events)) > after })
}

// LastEvent returns the ID of the newest event.
func (c *Control) LastEvent(context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.events)), c.err
}

// Ready returns what SetReady was given.
func (c *Control) Ready(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notReady
}

func (c *Control) beginLocked(key control.Key, actor string) api.Version {
	v := c.versions[key]
	if v.Generation == 0 {
		v = api.Version{Service: key.Service, Name: key.Version, Runtime: api.RuntimeProcess, CreatedAt: time.Now().UTC()}
	}
	v.Generation++
	v.State, v.DeployedAt = api.StateStarting, time.Now().UTC()
	c.versions[key] = v
	c.emitLocked(api.Event{
		Type: api.EventDeployStarted, Service: key.Service, Version: key.Version,
		Generation: v.Generation, Owner: cmp.Or(v.Owner, actor), Actor: actor, Message: "deploying " + key.String(),
	})
	return v
}

func (c *Control) change(key control.Key, by control.By, edit func()) (api.Version, error) {
	var v api.Version
	err := c.do(func() error {
		was, ok := c.versions[key]
		if !ok {
			return unknown("version", key.String())
		}
		if by.Branch != "" && by.Branch != was.Branch {
			return &control.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s is of branch %q, not %q", key, was.Branch, by.Branch), Hint: "write its name"}
		}
		edit()
		v = c.versions[key]
		return nil
	})
	return v, err
}

func (c *Control) do(edit func() error) (err error) {
	c.set(func() {
		if err = c.err; err == nil {
			err = edit()
		}
	})
	return err
}

func (c *Control) set(edit func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	edit()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Control) wait(ctx context.Context, until func() bool) error {
	for {
		c.mu.Lock()
		done, changed, err := until(), c.changed, c.err
		c.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Control) emitLocked(e api.Event) int64 {
	e.ID = int64(len(c.events)) + 1
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	if v, ok := c.versions[control.Key{Service: e.Service, Version: e.Version}]; ok && e.Owner == "" {
		e.Owner = v.Owner
	}
	c.events = append(c.events, e)
	return e.ID
}

type logReader struct {
	c      *Control
	lines  []api.LogLine
	follow bool
	err    error
	read   int
}

func (r *logReader) Next(ctx context.Context) (api.LogLine, error) {
	if len(r.lines) > 0 {
		line := r.lines[0]
		r.lines = r.lines[1:]
		r.read++
		return line, nil
	}
	switch {
	case r.err != nil:
		return api.LogLine{}, r.err
	case r.follow:
		<-ctx.Done()
		return api.LogLine{}, ctx.Err()
	}
	return api.LogLine{}, io.EOF
}

func (r *logReader) Ready() bool { return len(r.lines) > 0 }

func (r *logReader) Position() string { return strconv.Itoa(r.read) }

func (r *logReader) Close() error {
	r.c.set(func() { r.c.openLogs-- })
	return nil
}

func unknown(kind, name string) error {
	return &control.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no %s %q", kind, name), Hint: "see: layover ls"}
}

func compile(spec route.Spec) *route.Table {
	t, err := route.Compile(spec)
	if err != nil {
		panic(fmt.Sprintf("the test's table does not compile: %v", err))
	}
	return t
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
