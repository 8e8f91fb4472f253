package route

import (
	"fmt"
	"hash/maphash"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// maxParents is how long a chain of parents of a named route may be.
const maxParents = 32

// CompileError reports everything that is wrong with a Spec.
type CompileError struct {
	Problems []string // one sentence each, in the order of the Spec
}

// Error lists the problems, one a line where there are several.
func (e *CompileError) Error() string {
	if len(e.Problems) == 1 {
		return "the environment is not valid: " + e.Problems[0]
	}
	return fmt.Sprintf("the environment has %d problems:\n- %s", len(e.Problems), strings.Join(e.Problems, "\n- "))
}

// Compile checks spec, fills in its defaults and makes the table of it. The error
// is a *CompileError with every problem there is.
//
// A default version that does not exist is no problem ([NoVersion] says so when it
// is asked for), nor is a pick of a version that does not exist: versions come and
// go. A version in state Ready needs an instance.
//
// The table keeps the slices and maps of spec, which must not be changed afterwards.
func Compile(spec Spec) (*Table, error) {
	c := compiler{table: &Table{spec: spec, seed: maphash.MakeSeed()}}
	c.environment()
	c.services()
	c.routes()
	c.names()
	if len(c.problems) > 0 {
		return nil, &CompileError{Problems: c.problems}
	}
	return c.table, nil
}

// compiler makes one table.
type compiler struct {
	table    *Table
	problems []string
}

func (c *compiler) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// checkName adds err, if it is one, with the thing it was found in.
func (c *compiler) checkName(where, kind, name string) bool {
	err := CheckName(kind, name)
	if err != nil {
		c.problem("%s%s", where, err)
	}
	return err == nil
}

// environment checks what belongs to no service, and fills in its defaults.
func (c *compiler) environment() {
	spec := &c.table.spec
	setDefault(&spec.Domain, DefaultDomain)
	setDefault(&spec.BaggageKey, DefaultBaggageKey)
	setDefault(&spec.Hold, DefaultHold)
	domain, err := checkHost(spec.Domain)
	if err == nil && (strings.HasPrefix(domain, "*.") || strings.HasPrefix(domain, "[")) {
		err = fmt.Errorf("host %s cannot have hosts below it: write a name such as localhost", quoteShort(spec.Domain))
	}
	if err != nil {
		c.problem("domain: %s", err)
	}
	spec.Domain = domain
	if !isToken(spec.BaggageKey) {
		c.problem("baggage key %s cannot be one: write a token of letters, digits, \"_\", \"-\" and \".\"", quoteShort(spec.BaggageKey))
	}
	if header := spec.RouteHeader; header != "" {
		switch strings.ToLower(header) {
		case "baggage", "cookie", "host":
			c.problem("route header %q has a meaning of its own: take another name, such as X-Route", header)
		default:
			if !isToken(header) {
				c.problem("route header %s cannot be a header: write a name such as X-Route", quoteShort(header))
			}
		}
	}
	if spec.Hold < 0 {
		c.problem("hold is %s: write a duration above zero, such as 30s", spec.Hold)
	}
}

// services compiles the services with their hosts and versions.
func (c *compiler) services() {
	t := c.table
	t.spec.Services = slices.Clone(t.spec.Services)
	n := len(t.spec.Services)
	t.services = make(map[string]*ServiceEntry, n)
	t.hosts = make(map[string]*ServiceEntry, n)
	t.suffixes = make(map[string]*ServiceEntry)
	t.labels = make(map[string]*ServiceEntry, n)
	entries := make([]ServiceEntry, n)
	for i := range t.spec.Services {
		spec := &t.spec.Services[i]
		if !c.checkName("", "service", spec.Name) {
			continue
		}
		if t.services[spec.Name] != nil {
			c.problem("service %q is there twice", spec.Name)
			continue
		}
		setDefault(&spec.Default, DefaultVersion)
		setDefault(&spec.Protocol, HTTP1)
		s := &entries[i]
		*s = ServiceEntry{
			Name: spec.Name, Protocol: spec.Protocol, defaultName: spec.Default, table: t,
			label: PreviewLabel(spec.Name, maxServiceName),
		}
		t.services[s.Name] = s
		c.service(s, spec)
	}
}

func (c *compiler) service(s *ServiceEntry, spec *Service) {
	c.checkName(fmt.Sprintf("service %q: the default version: ", s.Name), "version", spec.Default)
	if spec.Protocol != HTTP1 && spec.Protocol != H2C {
		c.problem("service %q has the protocol %s: it can be %q or %q", s.Name, quoteShort(string(spec.Protocol)), HTTP1, H2C)
	}
	if other := c.table.labels[s.label]; other != nil {
		c.problem("services %q and %q would both be %q in preview hosts: rename one of them", other.Name, s.Name, s.label)
	}
	c.table.labels[s.label] = s
	c.hosts(s, spec)
	c.versions(s, spec)
	s.Default = s.Version(spec.Default)
}

// hosts checks the hosts of a service and puts them into the table.
func (c *compiler) hosts(s *ServiceEntry, spec *Service) {
	hosts := spec.Hosts
	if len(hosts) == 0 {
		hosts = []string{s.Name + "." + c.table.spec.Domain}
	}
	s.Hosts = make([]string, 0, len(hosts))
	for _, host := range hosts {
		normal, err := checkHost(host)
		if err != nil {
			c.problem("service %q: %s", s.Name, err)
			continue
		}
		table, key := c.table.hosts, normal
		if suffix, wildcard := strings.CutPrefix(normal, "*"); wildcard {
			table, key = c.table.suffixes, suffix
			c.table.longest = max(c.table.longest, len(suffix))
		}
		switch other := table[key]; other {
		case nil:
			table[key] = s
			s.Hosts = append(s.Hosts, normal)
		case s:
			c.problem("service %q has the host %q twice", s.Name, normal)
		default:
			c.problem("services %q and %q both have the host %q: a host belongs to one service", other.Name, s.Name, normal)
		}
	}
	spec.Hosts = s.Hosts
}

// versions compiles the versions of a service. Their entries stand in one block,
// and their names in one string.
func (c *compiler) versions(s *ServiceEntry, spec *Service) {
	entries := make([]VersionEntry, len(spec.Versions))
	s.all, s.versions = entries, newIndex(len(entries))
	ids := idsOf(s.Name, spec.Versions)
	for i := range spec.Versions {
		v := &spec.Versions[i]
		id := ids[:len(s.Name)+1+len(v.Name)]
		ids = ids[len(id):]
		if CheckName("version", v.Name) != nil {
			c.checkName(fmt.Sprintf("service %q: ", s.Name), "version", v.Name)
			continue
		}
		e := &entries[i]
		e.Service, e.ID, e.Name = s, id, id[len(s.Name)+1:]
		e.State, e.Reason, e.Instances = v.State, v.Reason, v.Instances
		if s.versions.add(c.table.seed, e) != nil {
			c.problem("version %q is there twice", e.ID)
			continue
		}
		c.version(e)
	}
}

// idsOf writes the IDs of all versions of a service into one string.
func idsOf(service string, versions []Version) string {
	size := 0
	for i := range versions {
		size += len(service) + 1 + len(versions[i].Name)
	}
	var b strings.Builder
	b.Grow(size)
	for i := range versions {
		b.WriteString(service)
		b.WriteByte('@')
		b.WriteString(versions[i].Name)
	}
	return b.String()
}

// version checks the state and the instances of a version.
func (c *compiler) version(v *VersionEntry) {
	switch v.State {
	case Ready:
		if len(v.Instances) == 0 {
			c.problem("version %q is ready and has no instance: it is %q until one is healthy", v.ID, Starting)
		}
	case Starting, Asleep, Failed:
	default:
		c.problem("version %q has the state %s: it can be %q, %q, %q or %q",
			v.ID, quoteShort(string(v.State)), Ready, Starting, Asleep, Failed)
	}
	for i := range v.Instances {
		one := &v.Instances[i]
		if one.ID == "" {
			c.problem("version %q: instance %d has no id", v.ID, i+1)
		}
		if problem := addressProblem(one.Address); problem != "" {
			c.problem("version %q: instance %s %s", v.ID, quoteShort(one.ID), problem)
		}
		for j := range i {
			if one.ID != "" && v.Instances[j].ID == one.ID {
				c.problem("version %q has the instance %s twice", v.ID, quoteShort(one.ID))
				break
			}
		}
	}
}

func addressProblem(address string) string {
	if address == "" {
		return "has no address: write host:port"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Sprintf("has the address %s: write host:port", quoteShort(address))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Sprintf("has the port %s: write a number from 1 to 65535", quoteShort(port))
	}
	return ""
}

// routes compiles the named routes into the picks of each service, parents
// included.
func (c *compiler) routes() {
	routes := c.table.spec.Routes
	c.table.routes = make(map[string]string, len(routes))
	byName := make(map[string]*NamedRoute, len(routes))
	for i := range routes {
		r := &routes[i]
		if !c.checkName("", "route", r.Name) {
			continue
		}
		if byName[r.Name] != nil {
			c.problem("route %q is there twice", r.Name)
			continue
		}
		byName[r.Name] = r
		c.table.routes[r.Name] = r.Name
		c.picks(r)
	}
	inCycle := make(map[string]bool)
	for i := range routes {
		if r := &routes[i]; byName[r.Name] == r && !inCycle[r.Name] {
			c.inherit(r, byName, inCycle)
		}
	}
}

// picks checks the picks of a named route itself.
func (c *compiler) picks(r *NamedRoute) {
	for _, service := range slices.Sorted(maps.Keys(r.Picks)) {
		if c.table.services[service] == nil {
			c.problem("route %q picks a version of %s, and no service has that name", r.Name, quoteShort(service))
		}
		c.checkName(fmt.Sprintf("route %q: the pick for %q: ", r.Name, service), "version", r.Picks[service])
	}
}

// inherit gives the services the picks of a named route and of its parents, the
// nearest first.
func (c *compiler) inherit(r *NamedRoute, byName map[string]*NamedRoute, inCycle map[string]bool) {
	chain := []string{r.Name}
	for at := r; ; {
		for service, version := range at.Picks {
			c.pick(c.table.services[service], r.Name, version)
		}
		if at.Parent == "" {
			return
		}
		parent := byName[at.Parent]
		switch {
		case parent == nil:
			if at == r { // reported once, for the route that says so
				c.problem("route %q has the parent %s, and no route has that name", r.Name, quoteShort(at.Parent))
			}
			return
		case slices.Contains(chain, parent.Name):
			if parent == r { // reported for the first route of the cycle
				for _, name := range chain {
					inCycle[name] = true
				}
				c.problem("routes are their own parents: %s", strings.Join(append(chain, r.Name), " -> "))
			}
			return
		case len(chain) > maxParents:
			c.problem("route %q has more than %d parents above it", r.Name, maxParents)
			return
		}
		chain = append(chain, parent.Name)
		at = parent
	}
}

// pick sets what a named route picks of a service, unless a nearer one has.
func (c *compiler) pick(s *ServiceEntry, route, version string) {
	if s == nil {
		return
	}
	if s.picks == nil {
		s.picks = make(map[string]string)
	}
	if _, ok := s.picks[route]; !ok {
		s.picks[route] = version
	}
}

// names gathers the names that exist anywhere, and those that preview hosts
// shorten.
func (c *compiler) names() {
	t := c.table
	most, room := 0, maxName
	for _, s := range t.services {
		most = max(most, s.versions.used)
		room = min(room, s.previewRoom())
	}
	t.names = newIndex(most)
	t.hashed.first = make(map[uint32]int32)
	for i := range t.spec.Services {
		s := t.services[t.spec.Services[i].Name]
		if s == nil {
			continue
		}
		for j := range s.all {
			v := &s.all[j]
			if v.Name != "" && t.names.add(t.seed, v) == nil && !isLabel(v.Name, room) {
				t.hashed.add(v.Name)
			}
		}
	}
	for name := range t.routes {
		if !isLabel(name, room) && t.names.find(t.seed, []byte(name)) == nil {
			t.hashed.add(name)
		}
	}
}

// setDefault sets what is not set.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
