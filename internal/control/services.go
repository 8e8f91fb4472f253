package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Services returns every service, ordered by name.
func (c *Control) Services(context.Context) ([]api.Service, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sortedValues(c.services), nil
}

// PutService adds a service, or replaces its definition. Versions that run go
// on as they are; the next deployment uses the new template.
func (c *Control) PutService(ctx context.Context, s api.Service) error {
	return c.PutServices(ctx, []api.Service{s})
}

// PutServices adds or replaces several services. They are checked together,
// and either all fit or none is taken.
func (c *Control) PutServices(ctx context.Context, services []api.Service) error {
	services = slices.Clone(services)
	for i := range services {
		s := &services[i]
		if len(s.Hosts) == 0 {
			s.Hosts = []string{s.Name + "." + cmp.Or(c.opts.Domain, route.DefaultDomain)}
		}
		if s.Run.Runtime() != "" {
			if err := checkRun(s.Run); err != nil {
				return err
			}
		}
		if err := checkHooks(*s); err != nil {
			return err
		}
	}
	taken, err := c.takeServices(ctx, services)
	for _, s := range taken {
		c.note(ctx, api.Event{
			Type: api.EventServiceChanged, Service: s.Name,
			Message: fmt.Sprintf("service %s is reached at %s", s.Name, strings.Join(s.Hosts, ", ")),
		})
	}
	if len(taken) > 0 {
		c.changed(ctx)
	}
	return err
}

// takeServices checks and stores services, and returns those that are new or
// changed. With an error it returns what was stored before it.
func (c *Control) takeServices(ctx context.Context, services []api.Service) (taken []api.Service, err error) {
	c.writes.Lock()
	defer c.writes.Unlock()
	err = c.check(services, nil)
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		if before, ok := c.service(s.Name); ok && reflect.DeepEqual(before, s) {
			continue
		}
		if err := c.opts.Store.PutService(ctx, s); err != nil {
			return taken, fmt.Errorf("store service %s: %w", s.Name, err)
		}
		c.mu.Lock()
		c.services[s.Name] = s
		c.dirty++
		c.touched.service(s.Name)
		c.due = time.Time{} // its leases may have other terms now
		c.mu.Unlock()
		taken = append(taken, s)
	}
	return taken, nil
}

// RemoveService forgets a service that has no versions, and that no named route picks.
func (c *Control) RemoveService(ctx context.Context, name, actor string) error {
	if err := c.dropService(ctx, name); err != nil {
		return err
	}
	c.note(ctx, api.Event{
		Type: api.EventServiceRemoved, Service: name, Actor: actor,
		Message: fmt.Sprintf("service %s is removed", name),
	})
	c.changed(ctx)
	return nil
}

func (c *Control) dropService(ctx context.Context, name string) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	versions, routes := c.usersOf(name)
	switch {
	case len(versions) > 0:
		return conflictf("remove them first: layover rm "+strings.Join(versions, " "),
			"service %s still has %d versions", name, len(versions))
	case len(routes) > 0:
		return conflictf("change or remove those first", "service %s is picked by the routes %s", name, strings.Join(routes, ", "))
	}
	if err := c.opts.Store.DeleteService(ctx, name); err != nil {
		if errors.Is(err, ErrNotStored) {
			return c.unknownService(name)
		}
		return fmt.Errorf("delete service %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.services, name)
	c.dirty++
	c.touched.service(name)
	return nil
}

// usersOf returns the versions of a service, and the named routes that pick one of it.
func (c *Control) usersOf(service string) (versions, routes []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.records {
		if key.Service == service {
			versions = append(versions, key.String())
		}
	}
	for name, r := range c.routes {
		if _, ok := r.Picks[service]; ok {
			routes = append(routes, name)
		}
	}
	slices.Sort(versions)
	slices.Sort(routes)
	return versions, routes
}

// Routes returns every named route, ordered by name.
func (c *Control) Routes(context.Context) ([]api.NamedRoute, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sortedValues(c.routes), nil
}

// PutRoute adds a named route, or replaces it.
func (c *Control) PutRoute(ctx context.Context, r api.NamedRoute, actor string) error {
	return c.putRoutes(ctx, []api.NamedRoute{r}, actor)
}

// putRoutes adds or replaces several routes, in any order of parents and
// children. They are checked together, and either all fit or none is taken.
func (c *Control) putRoutes(ctx context.Context, routes []api.NamedRoute, actor string) error {
	taken, err := c.takeRoutes(ctx, routes)
	for _, r := range taken {
		c.note(ctx, api.Event{
			Type: api.EventRouteChanged, Actor: actor,
			Message: fmt.Sprintf("route %s: %s", r.Name, describeRoute(r)),
		})
	}
	if len(taken) > 0 {
		c.changed(ctx)
	}
	return err
}

// takeRoutes checks and stores named routes, and returns those that are new or
// changed. With an error it returns what was stored before it.
func (c *Control) takeRoutes(ctx context.Context, routes []api.NamedRoute) (taken []api.NamedRoute, err error) {
	c.writes.Lock()
	defer c.writes.Unlock()
	err = c.check(nil, routes)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		c.mu.Lock()
		before, ok := c.routes[r.Name]
		c.mu.Unlock()
		if ok && reflect.DeepEqual(before, r) {
			continue
		}
		if err := c.opts.Store.PutRoute(ctx, r); err != nil {
			return taken, fmt.Errorf("store route %s: %w", r.Name, err)
		}
		c.mu.Lock()
		c.routes[r.Name] = r
		c.dirty++
		c.touched.route(r.Name)
		c.mu.Unlock()
		taken = append(taken, r)
	}
	return taken, nil
}

// RemoveRoute deletes a named route that is no other route's parent.
func (c *Control) RemoveRoute(ctx context.Context, name, actor string) error {
	if err := c.dropRoute(ctx, name); err != nil {
		return err
	}
	c.note(ctx, api.Event{
		Type: api.EventRouteRemoved, Actor: actor, Message: fmt.Sprintf("route %s is removed", name),
	})
	c.changed(ctx)
	return nil
}

func (c *Control) dropRoute(ctx context.Context, name string) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	c.mu.Lock()
	_, ok := c.routes[name]
	var children []string
	for _, r := range c.routes {
		if r.Parent == name {
			children = append(children, r.Name)
		}
	}
	c.mu.Unlock()
	if !ok {
		return notFoundf("see: layover route ls", "there is no route %q", name)
	}
	if len(children) > 0 {
		slices.Sort(children)
		return conflictf("remove or change those first", "route %s is the parent of %s", name, strings.Join(children, ", "))
	}
	if err := c.opts.Store.DeleteRoute(ctx, name); err != nil && !errors.Is(err, ErrNotStored) {
		return fmt.Errorf("delete route %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.routes, name)
	c.dirty++
	c.touched.route(name)
	return nil
}

func describeRoute(r api.NamedRoute) string {
	picks := make([]string, 0, len(r.Picks))
	for _, service := range slices.Sorted(maps.Keys(r.Picks)) {
		picks = append(picks, service+"="+r.Picks[service])
	}
	text := strings.Join(picks, " ")
	if r.Parent != "" {
		text += " over " + r.Parent
	}
	return text
}

func sortedValues[V any](m map[string]V) []V {
	out := make([]V, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[name])
	}
	return out
}
