package route

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Change turns the environment of one revision into that of a later one. Servers
// send changes to proxies that have the revision before, instead of the world.
// Services are changed first, then versions, then named routes; a thing is named
// once at most.
type Change struct {
	Epoch    string          `json:"epoch,omitempty"` // of both revisions; see [Position]
	Base     uint64          `json:"base"`            // the revision that it applies to
	Revision uint64          `json:"revision"`        // the revision that it makes; above Base
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

// Apply makes the table that a change leads to; t stays as it is, and may go on being
// used. A change that does not start at the position of t, names a thing twice, or
// names a service that is not there as that of a version, is an error. As with
// [Compile], the error of an environment that is not valid is a *CompileError with
// every problem there is. Removing what is not there is no error.
//
// A changed version costs work in proportion to itself, however many there are, and
// every version that is left alone keeps its entry. Changed services and named routes
// cost work in proportion to all services and named routes.
//
// The table keeps the slices and maps of c, which must not be changed afterwards.
func (t *Table) Apply(c Change) (*Table, error) {
	if c.Epoch != t.spec.Epoch {
		return nil, fmt.Errorf("apply a change from revision %d to %d: it is of another epoch than the table", c.Base, c.Revision)
	}
	if c.Base != t.Revision() || c.Revision <= c.Base {
		return nil, fmt.Errorf("apply a change from revision %d to %d: the table is at revision %d", c.Base, c.Revision, t.Revision())
	}
	if err := c.check(t); err != nil {
		return nil, fmt.Errorf("apply the change from revision %d to %d: %w", c.Base, c.Revision, err)
	}
	next := *t
	next.spec.Revision = c.Revision
	e := editor{compiler: compiler{table: &next, seed: t.names.seed}}
	if len(c.Services) > 0 {
		e.changeServices(c.Services)
	}
	e.changeVersions(c.Versions)
	if len(c.Routes) > 0 {
		e.changeRoutes(c.Routes)
	}
	if len(c.Services)+len(c.Routes) > 0 {
		e.routes()
	}
	if len(e.problems) > 0 {
		return nil, &CompileError{Problems: e.problems}
	}
	e.countNames(t.dir.room)
	return &next, nil
}

// check says what is wrong with a change whatever it leads to.
func (c *Change) check(t *Table) error {
	var problems []error
	services := make(map[string]bool, len(c.Services)) // whether each is there afterwards
	for i := range c.Services {
		one := &c.Services[i]
		if _, ok := services[one.Name]; ok {
			problems = append(problems, fmt.Errorf("service %s is named twice", quoteShort(one.Name)))
		}
		services[one.Name] = one.Service != nil
		switch {
		case one.Service == nil:
		case one.Service.Name != one.Name:
			problems = append(problems, otherName("service", one.Name, one.Service.Name))
		case len(one.Service.Versions) > 0:
			problems = append(problems, fmt.Errorf("service %s comes with versions: each is a change of its own", quoteShort(one.Name)))
		}
	}
	versions := make(map[[2]string]bool, len(c.Versions))
	for i := range c.Versions {
		one := &c.Versions[i]
		id, key := one.Service+"@"+one.Name, [2]string{one.Service, one.Name}
		if there, ok := services[one.Service]; !there && (ok || t.Service(one.Service) == nil) {
			problems = append(problems, fmt.Errorf("version %s is changed, and there is no service %s", quoteShort(id), quoteShort(one.Service)))
		}
		if versions[key] {
			problems = append(problems, fmt.Errorf("version %s is named twice", quoteShort(id)))
		}
		versions[key] = true
		if one.Version != nil && one.Version.Name != one.Name {
			problems = append(problems, otherName("version", id, one.Version.Name))
		}
	}
	routes := make(map[string]bool, len(c.Routes))
	for i := range c.Routes {
		one := &c.Routes[i]
		if routes[one.Name] {
			problems = append(problems, fmt.Errorf("route %s is named twice", quoteShort(one.Name)))
		}
		routes[one.Name] = true
		if one.Route != nil && one.Route.Name != one.Name {
			problems = append(problems, otherName("route", one.Name, one.Route.Name))
		}
	}
	return errors.Join(problems...)
}

func otherName(kind, name, other string) error {
	return fmt.Errorf("%s %s is replaced by one with another name, %s", kind, quoteShort(name), quoteShort(other))
}

// editor is the compiler of a table that has another one's parts. Whatever is in them
// it copies before it changes it.
type editor struct {
	compiler
	counts []nameCount // what is to be added to the counts of names, each 1 or -1
}

// changeServices makes the directory and the entries of all services anew. They have
// the versions that they had.
func (e *editor) changeServices(list []ServiceChange) {
	changes := make(map[string]*Service, len(list))
	for i := range list {
		changes[list[i].Name] = list[i].Service
	}
	before := e.table.services
	e.begin(before.size + len(list))
	old := make(map[string]bool)
	for _, s := range before.all() {
		spec := s.Definition()
		if change, ok := changes[s.Name]; ok {
			old[s.Name] = true
			if change == nil {
				for v := range s.versions.all() {
					e.count(v.Name, -1)
				}
				continue
			}
			spec = *change
		}
		e.service(spec, s)
	}
	for i := range list {
		if spec := list[i].Service; spec != nil && !old[spec.Name] {
			e.service(*spec, nil)
		}
	}
	e.end()
}

// changeVersions changes the versions of one service after the other.
func (e *editor) changeVersions(list []VersionChange) {
	byService := make(map[int][]*VersionChange)
	for i := range list {
		if number, ok := e.table.dir.byName[list[i].Service]; ok { // or it has no valid name
			byService[number] = append(byService[number], &list[i])
		}
	}
	for _, number := range slices.Sorted(maps.Keys(byService)) {
		s := *e.table.services.at(number)
		for _, one := range byService[number] {
			e.changeVersion(&s, one)
		}
		s.Default = s.Version(s.defaultName)
		e.table.services = e.table.services.with(number, &s)
	}
}

func (e *editor) changeVersion(s *ServiceEntry, change *VersionChange) {
	old := s.Version(change.Name)
	if change.Version == nil {
		if old != nil {
			s.versions = s.versions.without(old.Name)
			e.count(old.Name, -1)
		}
		return
	}
	if !e.checkVersionName(s.owner, change.Name) {
		return
	}
	v := newVersion(s.owner, change.Version)
	e.check(v)
	if old == nil {
		e.count(v.Name, 1)
	} else {
		if old.same(v) {
			return
		}
		v.cursor.Store(old.cursor.Load())
	}
	s.versions = s.versions.with(v)
}

// changeRoutes changes the list of named routes, which [compiler.routes] then checks.
func (e *editor) changeRoutes(list []RouteChange) {
	changes := make(map[string]*NamedRoute, len(list))
	for i := range list {
		changes[list[i].Name] = list[i].Route
	}
	before := e.table.spec.Routes
	routes := make([]NamedRoute, 0, len(before)+len(list))
	old := make(map[string]bool)
	for i := range before {
		change, ok := changes[before[i].Name]
		switch {
		case !ok:
			routes = append(routes, before[i])
			continue
		case change != nil:
			routes = append(routes, *change)
		default:
			e.count(before[i].Name, -1)
		}
		old[before[i].Name] = true
	}
	for i := range list {
		if r := list[i].Route; r != nil && !old[r.Name] {
			routes = append(routes, *r)
			if nameProblem(r.Name) == "" {
				e.count(r.Name, 1)
			}
		}
	}
	if len(routes) == 0 {
		routes = nil
	}
	e.table.spec.Routes = routes
}

// count notes that n, which is 1 or -1, is to be added to the number of versions and
// named routes with a name.
func (e *editor) count(name string, n int) { e.counts = append(e.counts, nameCount{name, n}) }

// countNames makes the names right again. Room is what preview hosts left for labels
// before the change.
func (e *editor) countNames(room int) {
	t := e.table
	const many, times = 100, 16 // a change of a name costs as much as gathering so many names anew
	if len(e.counts) > many && len(e.counts)*times > t.names.used {
		e.names()
		return
	}
	for _, one := range e.counts {
		known := t.names.find([]byte(one.name))
		if known.count == 0 {
			e.label(one.name, room)
			t.names = t.names.with(one)
			continue
		}
		if known.count += one.count; known.count == 0 {
			e.unlabel(one.name, room)
			t.names = t.names.without(one.name)
			continue
		}
		t.names = t.names.with(known)
	}
	if t.dir.room != room {
		e.labels()
	}
}

// label adds a name to those that preview hosts shorten, if they do.
func (e *editor) label(name string, room int) {
	if !isLabel(name, room) {
		hashed := &e.table.hashed
		*hashed = hashed.with(hashed.find([]byte(hashText(name))).with(name))
	}
}

// unlabel removes a name from those that preview hosts shorten, if they do.
func (e *editor) unlabel(name string, room int) {
	if isLabel(name, room) {
		return
	}
	hash := hashText(name)
	hashed := &e.table.hashed
	if rest := hashed.find([]byte(hash)).without(name); rest != nil {
		*hashed = hashed.with(rest)
	} else {
		*hashed = hashed.without(hash)
	}
}
