package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Table returns the routing table in force.
func (c *Control) Table() *route.Table { return c.table.Load() }

// WaitTable returns the table in force once its revision is above after.
func (c *Control) WaitTable(ctx context.Context, after uint64) (*route.Table, error) {
	for {
		next := c.tables.next()
		if t := c.Table(); t.Revision() > after {
			return t, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// publish puts every change made before the call into the table that the data
// plane decides from. Callers that come while another publishes share the next table.
// Where it does not work out, [Control.catchUp] tries again.
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

// publishOwned publishes. The caller holds publishing.
func (c *Control) publishOwned(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	c.mu.Lock()
	covers := c.dirty
	spec := c.specLocked()
	c.mu.Unlock()

	revision, err := c.opts.Store.NextRevision(ctx)
	if err != nil {
		return fmt.Errorf("number the routing table: %w", err)
	}
	spec.Revision = revision
	table, err := route.Compile(spec)
	if err != nil {
		return fmt.Errorf("compile the routing table: %w", err)
	}
	c.opts.DataPlane.SetTable(table)
	c.table.Store(table)
	c.published = covers
	c.tables.raise()
	return nil
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

// changed marks the table as out of date, and publishes.
func (c *Control) changed(ctx context.Context) {
	c.mu.Lock()
	c.dirty++
	c.mu.Unlock()
	if err := c.publish(ctx); err != nil {
		c.log.Error("routing table not published", "err", err)
	}
}

// specLocked describes the environment as it is now.
func (c *Control) specLocked() route.Spec {
	spec := route.Spec{
		Environment: c.opts.Environment,
		Domain:      c.opts.Domain,
		BaggageKey:  c.opts.BaggageKey,
		RouteHeader: c.opts.RouteHeader,
		Hold:        c.opts.Hold,
	}
	versions := map[string][]route.Version{}
	for key, r := range c.records {
		if v, ok := c.keepers[key].routedLocked(r); ok {
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
	}
}

// check compiles the environment as edit would make it, so that a change that
// does not fit is refused whole.
func (c *Control) check(edit func(*route.Spec)) error {
	c.mu.Lock()
	spec := c.specLocked()
	c.mu.Unlock()
	edit(&spec)
	if _, err := route.Compile(spec); err != nil {
		if _, ok := errors.AsType[*route.CompileError](err); ok {
			return &Error{Code: api.CodeInvalid, Message: err.Error(), Err: err}
		}
		return err
	}
	return nil
}
