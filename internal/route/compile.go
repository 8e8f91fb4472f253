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
	c := compiler{table: &Table{spec: spec}, seed: maphash.MakeSeed()}
	c.table.spec.Services = nil
	if len(spec.Routes) == 0 {
		c.table.spec.Routes = nil
	}
	c.environment()
	c.services(spec.Services)
	c.routes()
	if len(c.problems) > 0 {
		return nil, &CompileError{Problems: c.problems}
	}
	c.names()
	return c.table, nil
}

// compiler makes one table.
type compiler struct {
	table    *Table
	seed     maphash.Seed // of all the table's indexes
	problems []string
	entries  []*ServiceEntry // by the number that the directory has for each
	byHost   map[string]int  // exact hosts, and suffixes with their "*"
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
func (c *compiler) services(list []Service) {
	c.begin(len(list))
	for i := range list {
		if s := c.service(list[i], nil); s != nil {
			c.versions(s, list[i].Versions)
		}
	}
	c.end()
}

// begin makes room for so many services.
func (c *compiler) begin(services int) {
	c.table.dir = newDirectory(services)
	c.byHost = make(map[string]int, services)
}

// end puts the services into the table.
func (c *compiler) end() {
	var hosts []hostEntry
	for host, number := range c.byHost {
		if suffix, wildcard := strings.CutPrefix(host, "*"); wildcard {
			c.table.dir.suffixes[suffix] = number
			c.table.dir.longest = max(c.table.dir.longest, len(suffix))
		} else {
			hosts = append(hosts, hostEntry{host, number})
		}
	}
	c.table.dir.hosts = newIndex(c.seed, hosts, func(old, _ hostEntry) hostEntry { return old })
	c.table.services = newVector(c.entries)
}

// service adds a service without its versions, and returns nil where it cannot. Old is
// its entry in an earlier table, nil where it is new.
func (c *compiler) service(spec Service, old *ServiceEntry) *ServiceEntry {
	if !c.checkName("", "service", spec.Name) {
		return nil
	}
	dir := c.table.dir
	if _, ok := dir.byName[spec.Name]; ok {
		c.problem("service %q is there twice", spec.Name)
		return nil
	}
	setDefault(&spec.Default, DefaultVersion)
	setDefault(&spec.Protocol, HTTP1)
	s := &ServiceEntry{
		Name: spec.Name, Protocol: spec.Protocol, Held: spec.Held, Healing: spec.Healing, defaultName: spec.Default,
		versions: index[*VersionEntry]{seed: c.seed},
	}
	if old != nil {
		s.owner, s.versions, s.picks = old.owner, old.versions, old.picks
		s.Default = s.Version(s.defaultName)
	} else {
		s.owner = &Owner{Name: spec.Name, label: PreviewLabel(spec.Name, maxServiceName), domain: c.table.spec.Domain}
	}
	number := len(c.entries)
	c.entries = append(c.entries, s)
	dir.byName[s.Name] = number
	c.checkName(fmt.Sprintf("service %q: the default version: ", s.Name), "version", spec.Default)
	if spec.Protocol != HTTP1 && spec.Protocol != H2C {
		c.problem("service %q has the protocol %s: it can be %q or %q", s.Name, quoteShort(string(spec.Protocol)), HTTP1, H2C)
	}
	if spec.Held.Requests < 0 || spec.Held.Bytes < 0 {
		c.problem("service %q bounds held requests by a number below 0", s.Name)
	}
	for _, mode := range []HealMode{spec.Healing.Origin, spec.Healing.Trace} {
		if mode != "" && mode != HealOff && !mode.isOn() {
			c.problem("service %q has the mode of healing %s: it can be %q, %q or %q", s.Name, quoteShort(string(mode)), HealOff, HealWarn, HealOn)
		}
	}
	dir.byTrace = dir.byTrace || spec.Healing.Trace.isOn()
	dir.byOrigin = dir.byOrigin || spec.Healing.Origin.isOn()
	label := s.owner.label
	if other, ok := dir.labels[label]; ok {
		c.problem("services %q and %q would both be %q in preview hosts: rename one of them", c.entries[other].Name, s.Name, label)
	}
	dir.labels[label] = number
	dir.room = min(dir.room, s.owner.previewRoom())
	c.hosts(s, number, spec.Hosts)
	return s
}

// hosts checks the hosts of a service.
func (c *compiler) hosts(s *ServiceEntry, number int, hosts []string) {
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
		switch other, ok := c.byHost[normal]; {
		case !ok:
			c.byHost[normal] = number
			s.Hosts = append(s.Hosts, normal)
		case other == number:
			c.problem("service %q has the host %q twice", s.Name, normal)
		default:
			c.problem("services %q and %q both have the host %q: a host belongs to one service", c.entries[other].Name, s.Name, normal)
		}
	}
}

// versions compiles the versions of a new service.
func (c *compiler) versions(s *ServiceEntry, list []Version) {
	entries := make([]*VersionEntry, 0, len(list))
	for i := range list {
		if nameProblem(list[i].Name) == "" {
			entries = append(entries, newVersion(s.owner, &list[i]))
		}
	}
	again := make(map[*VersionEntry]bool)
	s.versions = newIndex(c.seed, entries, func(old, v *VersionEntry) *VersionEntry {
		again[v] = true
		return old
	})
	s.Default = s.Version(s.defaultName)
	for i := range list {
		switch {
		case !c.checkVersionName(s.owner, list[i].Name):
		case again[entries[0]]:
			c.problem("version %q is there twice", entries[0].ID)
			entries = entries[1:]
		default:
			c.check(entries[0])
			entries = entries[1:]
		}
	}
}

func (c *compiler) checkVersionName(owner *Owner, name string) bool {
	if nameProblem(name) == "" { // without writing down where
		return true
	}
	return c.checkName(fmt.Sprintf("service %q: ", owner.Name), "version", name)
}

// newVersion makes the entry of a version with a valid name. It stands by itself, so
// that it can outlive the others of its table.
func newVersion(owner *Owner, spec *Version) *VersionEntry {
	id := owner.Name + "@" + spec.Name
	v := &VersionEntry{Service: owner, ID: id, Name: id[len(owner.Name)+1:], State: spec.State, Reason: spec.Reason}
	if len(spec.Instances) > 0 {
		v.Instances = spec.Instances
	}
	return v
}

// check checks the state and the instances of a version that is new. It makes its
// state one of the constants, as what was read from a file has memory of its own.
func (c *compiler) check(v *VersionEntry) {
	states := [...]State{Ready, Starting, Asleep, Failed}
	if i := slices.Index(states[:], v.State); i >= 0 {
		v.State = states[i]
	} else {
		c.problem("version %q has the state %s: it can be %q, %q, %q or %q",
			v.ID, quoteShort(string(v.State)), Ready, Starting, Asleep, Failed)
	}
	if v.State == Ready && len(v.Instances) == 0 {
		c.problem("version %q is ready and has no instance: it is %q until one is healthy", v.ID, Starting)
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
		c.checkPicks(r)
	}
	picks := make(map[int]map[string]string)
	inCycle := make(map[string]bool)
	for i := range routes {
		if r := &routes[i]; byName[r.Name] == r && !inCycle[r.Name] {
			c.inherit(r, byName, inCycle, picks)
		}
	}
	c.setPicks(picks)
}

// checkPicks checks the picks of a named route itself.
func (c *compiler) checkPicks(r *NamedRoute) {
	for _, service := range slices.Sorted(maps.Keys(r.Picks)) {
		if _, ok := c.table.dir.byName[service]; !ok {
			c.problem("route %q picks a version of %s, and no service has that name", r.Name, quoteShort(service))
		}
		c.checkName(fmt.Sprintf("route %q: the pick for %q: ", r.Name, service), "version", r.Picks[service])
	}
}

// inherit gives the services, by their numbers, the picks of a named route and of its
// parents, the nearest first.
func (c *compiler) inherit(r *NamedRoute, byName map[string]*NamedRoute, inCycle map[string]bool, picks map[int]map[string]string) {
	chain := []string{r.Name}
	for at := r; ; {
		for service, version := range at.Picks {
			if number, ok := c.table.dir.byName[service]; ok {
				pick(picks, number, r.Name, version)
			}
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
func pick(picks map[int]map[string]string, service int, route, version string) {
	if picks[service] == nil {
		picks[service] = make(map[string]string)
	}
	if _, ok := picks[service][route]; !ok {
		picks[service][route] = version
	}
}

// setPicks gives each service its picks. An entry that other tables have stays as it is.
func (c *compiler) setPicks(picks map[int]map[string]string) {
	for i, s := range c.table.services.all() {
		if !maps.Equal(s.picks, picks[i]) {
			changed := *s
			changed.picks = picks[i]
			c.table.services = c.table.services.with(i, &changed)
		}
	}
}

// names gathers the names that exist anywhere, and those that preview hosts
// shorten.
func (c *compiler) names() {
	t := c.table
	var all []nameCount
	for _, s := range t.services.all() {
		for v := range s.versions.all() {
			all = append(all, nameCount{v.Name, 1})
		}
	}
	for i := range t.spec.Routes {
		all = append(all, nameCount{t.spec.Routes[i].Name, 1})
	}
	t.names = newIndex(c.seed, all, func(a, b nameCount) nameCount {
		return nameCount{a.name, a.count + b.count}
	})
	c.labels()
}

// labels gathers the names that preview hosts shorten.
func (c *compiler) labels() {
	var shortened []*hashedNames
	for n := range c.table.names.all() {
		if !isLabel(n.name, c.table.dir.room) {
			shortened = append(shortened, &hashedNames{name: n.name})
		}
	}
	c.table.hashed = newIndex(c.seed, shortened, func(old, v *hashedNames) *hashedNames {
		v.next = old
		return v
	})
}

// setDefault sets what is not set.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
