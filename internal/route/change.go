package route

import (
	"fmt"
	"slices"
)

// Change turns the environment of one revision into that of a later one. Servers
// send changes to proxies that have the revision before, instead of the world.
// Services are changed first, then versions, then named routes; a thing is named
// once at most.
type Change struct {
	Base     uint64          `json:"base"`     // the revision that it applies to
	Revision uint64          `json:"revision"` // the revision that it makes; above Base
	Services []ServiceChange `json:"services,omitempty"`
	Versions []VersionChange `json:"versions,omitempty"`
	Routes   []RouteChange   `json:"routes,omitempty"`
}

// ServiceChange adds, replaces or removes the definition of a service. The versions of
// a service that is replaced stay; those of one that is removed go with it.
type ServiceChange struct {
	Name    string   `json:"name"`
	Service *Service `json:"service,omitempty"` // without versions; nil: it is removed
}

// VersionChange adds, replaces or removes a version of a service.
type VersionChange struct {
	Service string   `json:"service"`
	Name    string   `json:"name"`
	Version *Version `json:"version,omitempty"` // nil: it is removed
}

// RouteChange adds, replaces or removes a named route.
type RouteChange struct {
	Name  string      `json:"name"`
	Route *NamedRoute `json:"route,omitempty"` // nil: it is removed
}

// Apply makes the table that a change leads to; t stays as it is. A change that does
// not start at the revision of t, or names a service that is not there, is an error.
// As with [Compile], the error of an environment that is not valid is a *CompileError.
// Removing what is not there is no error.
func (t *Table) Apply(c Change) (*Table, error) {
	if c.Base != t.Revision() || c.Revision <= c.Base {
		return nil, fmt.Errorf("apply a change from revision %d to %d: the table is at revision %d", c.Base, c.Revision, t.Revision())
	}
	spec := *t.Spec()
	spec.Revision = c.Revision
	spec.Services = slices.Clone(spec.Services)
	spec.Routes = slices.Clone(spec.Routes)
	for _, one := range c.Services {
		i := slices.IndexFunc(spec.Services, func(s Service) bool { return s.Name == one.Name })
		switch {
		case one.Service == nil && i >= 0:
			spec.Services = slices.Delete(spec.Services, i, i+1)
		case one.Service == nil:
		case i >= 0:
			versions := spec.Services[i].Versions
			spec.Services[i] = *one.Service
			spec.Services[i].Versions = versions
		default:
			spec.Services = append(spec.Services, *one.Service)
		}
	}
	for _, one := range c.Versions {
		i := slices.IndexFunc(spec.Services, func(s Service) bool { return s.Name == one.Service })
		if i < 0 {
			return nil, fmt.Errorf("apply a change of version %s@%s: there is no service %s", one.Service, one.Name, one.Service)
		}
		versions := slices.Clone(spec.Services[i].Versions)
		j := slices.IndexFunc(versions, func(v Version) bool { return v.Name == one.Name })
		switch {
		case one.Version == nil && j >= 0:
			versions = slices.Delete(versions, j, j+1)
		case one.Version == nil:
		case j >= 0:
			versions[j] = *one.Version
		default:
			versions = append(versions, *one.Version)
		}
		spec.Services[i].Versions = versions
	}
	for _, one := range c.Routes {
		i := slices.IndexFunc(spec.Routes, func(r NamedRoute) bool { return r.Name == one.Name })
		switch {
		case one.Route == nil && i >= 0:
			spec.Routes = slices.Delete(spec.Routes, i, i+1)
		case one.Route == nil:
		case i >= 0:
			spec.Routes[i] = *one.Route
		default:
			spec.Routes = append(spec.Routes, *one.Route)
		}
	}
	return Compile(spec)
}
