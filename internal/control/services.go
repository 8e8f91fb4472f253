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
	}
	c.writes.Lock()
	defer c.writes.Unlock()
	err := c.check(func(spec *route.Spec) {
		for _, s := range services {
			entry := routeService(s)
			i := slices.IndexFunc(spec.Services, func(o route.Service) bool { return o.Name == s.Name })
			if i < 0 {
				spec.Services = append(spec.Services, entry)
				continue
			}
			entry.Versions = spec.Services[i].Versions
			spec.Services[i] = entry
		}
	})
	if err != nil {
		return err
	}
	for _, s := range services {
		if before, ok := c.service(s.Name); ok && reflect.DeepEqual(before, s) {
			continue
		}
		if err := c.opts.Store.PutService(ctx, s); err != nil {
			return fmt.Errorf("store service %s: %w", s.Name, err)
		}
		c.mu.Lock()
		c.services[s.Name] = s
		c.mu.Unlock()
		c.note(ctx, api.Event{
			Type: api.EventServiceChanged, Service: s.Name,
			Message: fmt.Sprintf("service %s is reached at %s", s.Name, strings.Join(s.Hosts, ", ")),
		})
	}
	c.changed(ctx)
	return nil
}

// RemoveService forgets a service that has no versions.
func (c *Control) RemoveService(ctx context.Context, name, actor string) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	c.mu.Lock()
	var versions []string
	for key := range c.records {
		if key.Service == name {
			versions = append(versions, key.String())
		}
	}
	c.mu.Unlock()
	if len(versions) > 0 {
		slices.Sort(versions)
		return conflictf("remove them first: layover rm "+strings.Join(versions, " "),
			"service %s still has %d versions", name, len(versions))
	}
	if err := c.opts.Store.DeleteService(ctx, name); err != nil {
		if errors.Is(err, ErrNotStored) {
			return c.unknownService(name)
		}
		return fmt.Errorf("delete service %s: %w", name, err)
	}
	c.mu.Lock()
	delete(c.services, name)
	c.mu.Unlock()
	c.note(ctx, api.Event{
		Type: api.EventServiceRemoved, Service: name, Actor: actor,
		Message: fmt.Sprintf("service %s is removed", name),
	})
	c.changed(ctx)
	return nil
}

// Routes returns every named route, ordered by name.
func (c *Control) Routes(context.Context) ([]api.NamedRoute, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sortedValues(c.routes), nil
}

// PutRoute adds a named route, or replaces it.
func (c *Control) PutRoute(ctx context.Context, r api.NamedRoute, actor string) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	c.mu.Lock()
	before, ok := c.routes[r.Name]
	c.mu.Unlock()
	if ok && reflect.DeepEqual(before, r) {
		return nil
	}
	err := c.check(func(spec *route.Spec) {
		spec.Routes = append(slices.DeleteFunc(spec.Routes, func(o route.NamedRoute) bool { return o.Name == r.Name }), r)
	})
	if err != nil {
		return err
	}
	if err := c.opts.Store.PutRoute(ctx, r); err != nil {
		return fmt.Errorf("store route %s: %w", r.Name, err)
	}
	c.mu.Lock()
	c.routes[r.Name] = r
	c.mu.Unlock()
	c.note(ctx, api.Event{
		Type: api.EventRouteChanged, Actor: actor,
		Message: fmt.Sprintf("route %s: %s", r.Name, describeRoute(r)),
	})
	c.changed(ctx)
	return nil
}

// RemoveRoute deletes a named route that is no other route's parent.
func (c *Control) RemoveRoute(ctx context.Context, name, actor string) error {
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
	delete(c.routes, name)
	c.mu.Unlock()
	c.note(ctx, api.Event{
		Type: api.EventRouteRemoved, Actor: actor, Message: fmt.Sprintf("route %s is removed", name),
	})
	c.changed(ctx)
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
