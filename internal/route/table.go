package route

import (
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Table is an environment, compiled: everything needed to decide a request. It
// never changes, except for the round-robin cursors behind [VersionEntry.Next] and what [VersionEntry.Keep] keeps,
// and may be used by any number of goroutines.
//
// Tables that [Table.Apply] makes share with the table before all that did not
// change. Nothing in a table refers to a table, so that an old one is garbage as
// soon as nobody uses it.
type Table struct {
	spec     Spec // without its services
	services vector[*ServiceEntry]
	dir      *directory
	names    index[nameCount]    // of versions and named routes, in the environment
	hashed   index[*hashedNames] // those whose preview labels end in a hash, by that hash
}

// directory finds services: what changes only when the services do. It holds
// their numbers, as their entries change with their versions.
type directory struct {
	byName   map[string]int
	hosts    index[hostEntry] // exact hosts
	suffixes map[string]int   // by what stands behind "*": ".cart.test"
	labels   map[string]int   // by the label of the service in preview hosts
	longest  int              // bytes of the longest suffix
	room     int              // the least that a service's preview hosts leave for the label of the route
	byTrace  bool             // some service's requests are healed by their trace
	byOrigin bool             // likewise by their origin
}

func newDirectory(services int) *directory {
	return &directory{
		byName:   make(map[string]int, services),
		suffixes: make(map[string]int),
		labels:   make(map[string]int, services),
		room:     maxName,
	}
}

// hostEntry is an exact host, and the number of the service that has it.
type hostEntry struct {
	host    string
	service int
}

func (h hostEntry) key() string { return h.host }

// EmptyTable is the table of an environment with nothing in it.
func EmptyTable() *Table {
	t, err := Compile(Spec{})
	if err != nil {
		panic("route: compile the empty environment: " + err.Error())
	}
	return t
}

// Revision is the revision of the Spec or the Change the table was made from.
func (t *Table) Revision() uint64 { return t.spec.Revision }

// Spec writes down what the table holds, with the defaults filled in, hosts in
// their normal form, services and named routes in their order, and the versions of
// each service in the order of their names. Tables that hold the same have equal
// Specs, however they were made. It costs work in proportion to the table; what it
// returns shares slices and maps with the table, and must not be changed.
func (t *Table) Spec() *Spec {
	spec := t.spec
	if t.services.size > 0 {
		spec.Services = make([]Service, 0, t.services.size)
	}
	for _, s := range t.services.all() {
		spec.Services = append(spec.Services, s.spec())
	}
	return &spec
}

// Environment is what Spec has without services and named routes. With [Table.Services] and
// [Table.NamedRoutes] it is all that the table holds, for those who take one part after another.
func (t *Table) Environment() Spec {
	spec := t.spec
	spec.Routes = nil
	return spec
}

// Services goes over the services in their order.
func (t *Table) Services() iter.Seq[*ServiceEntry] {
	return func(yield func(*ServiceEntry) bool) {
		for _, s := range t.services.all() {
			if !yield(s) {
				return
			}
		}
	}
}

// NamedRoutes returns the named routes in their order. They must not be changed.
func (t *Table) NamedRoutes() []NamedRoute { return t.spec.Routes }

// Hold is how long a request waits for a version that starts (R5).
func (t *Table) Hold() time.Duration { return t.spec.Hold }

// BaggageKey is the key of the baggage member that carries the route.
func (t *Table) BaggageKey() string { return t.spec.BaggageKey }

// RouteHeader is the alternative header that carries the route (R2.3); empty
// where there is none.
func (t *Table) RouteHeader() string { return t.spec.RouteHeader }

// HealsByTrace says whether requests to some service are healed, or watched, by their trace (R6).
func (t *Table) HealsByTrace() bool { return t.dir.byTrace }

// HealsByOrigin says whether requests to some service are healed, or watched, by their origin (R6).
func (t *Table) HealsByOrigin() bool { return t.dir.byOrigin }

// Service returns the service with the name, nil where there is none.
func (t *Table) Service(name string) *ServiceEntry {
	if i, ok := t.dir.byName[name]; ok {
		return t.services.at(i)
	}
	return nil
}

// ServiceEntry is one service of one table. It must not be changed.
type ServiceEntry struct {
	// What every decision reads comes first, to lie close together.
	picks    map[string]string    // named route -> version, parents included
	versions index[*VersionEntry] // by name

	Default  *VersionEntry // nil where the default version does not exist
	Name     string
	Protocol Protocol
	Held     Held
	Healing  Healing
	Hosts    []string // exact hosts and "*.suffix" hosts, in their normal form

	defaultName string // of the version that Default is, or would be
	owner       *Owner
}

// Version returns the version with the name, nil where the service has none.
func (s *ServiceEntry) Version(name string) *VersionEntry {
	return s.versions.find([]byte(name))
}

// Versions goes over the versions, in no order that means anything.
func (s *ServiceEntry) Versions() iter.Seq[*VersionEntry] { return s.versions.all() }

// PreviewLabel is what names the service in preview hosts: <route>--<label>.<domain>.
func (s *ServiceEntry) PreviewLabel() string { return s.owner.label }

// Definition is the service as a Spec has it, without its versions.
func (s *ServiceEntry) Definition() Service {
	return Service{Name: s.Name, Hosts: s.Hosts, Default: s.defaultName, Protocol: s.Protocol, Held: s.Held, Healing: s.Healing}
}

// spec is the service as a Spec has it.
func (s *ServiceEntry) spec() Service {
	spec := s.Definition()
	if s.versions.used == 0 {
		return spec
	}
	spec.Versions = make([]Version, 0, s.versions.used)
	for v := range s.versions.all() {
		spec.Versions = append(spec.Versions, v.Spec())
	}
	slices.SortFunc(spec.Versions, func(a, b Version) int { return strings.Compare(a.Name, b.Name) })
	return spec
}

// Owner is the service of a version, as far as it is the same in every table.
type Owner struct {
	Name   string
	label  string // of the service in preview hosts
	domain string // of the environment
}

// previewRoom is how many bytes a preview host leaves for the label of the route.
func (o *Owner) previewRoom() int { return maxName - len("--") - len(o.label) }

// VersionEntry is one version of a service. It must not be changed. Tables share
// it as long as nothing about the version changes.
type VersionEntry struct {
	Service   *Owner
	ID        string // cart@feature-1
	Name      string // feature-1
	State     State
	Instances []Instance // the healthy ones
	cursor    atomic.Uint32
	kept      atomic.Value
	Reason    string // why it is not ready, for people; may be empty
}

// Kept returns what [VersionEntry.Keep] was given last, nil before.
func (v *VersionEntry) Kept() any { return v.kept.Load() }

// Keep keeps what the data plane knows of the version at run time, so that a request finds
// it without looking for it by name. All calls for one entry are with one type. An entry that a
// change puts in the place of this one begins without.
func (v *VersionEntry) Keep(what any) { v.kept.Store(what) }

func (v *VersionEntry) key() string { return v.Name }

// Spec is the version as a Spec has it.
func (v *VersionEntry) Spec() Version {
	return Version{Name: v.Name, State: v.State, Reason: v.Reason, Instances: v.Instances}
}

// Next returns the instance whose turn it is, nil where the version has none.
func (v *VersionEntry) Next() *Instance {
	if i := v.Turn(); i >= 0 {
		return &v.Instances[i]
	}
	return nil
}

// Turn returns the place among Instances of the one whose turn it is, -1 where the version has
// none. The turn goes round by a cursor; that and what is kept are the words that change in a
// compiled table.
func (v *VersionEntry) Turn() int {
	switch n := uint32(len(v.Instances)); n { //nolint:gosec // nobody runs 2^32 instances
	case 0:
		return -1
	case 1:
		return 0
	default:
		return int((v.cursor.Add(1) - 1) % n)
	}
}

// Label is the preview label of the version: what names it in a preview host.
func (v *VersionEntry) Label() string {
	return PreviewLabel(v.Name, v.Service.previewRoom())
}

// PreviewHost is the host at which the service answers with this version whatever
// else a request carries (R2.1): feature-1--cart.localhost.
func (v *VersionEntry) PreviewHost() string {
	return v.Label() + "--" + v.Service.label + "." + v.Service.domain
}

// same says whether a version has stayed what it was.
func (v *VersionEntry) same(other *VersionEntry) bool {
	return v.ID == other.ID && v.State == other.State && v.Reason == other.Reason && slices.Equal(v.Instances, other.Instances)
}

// nameCount is a name, and how many versions and named routes have it.
type nameCount struct {
	name  string
	count int
}

func (n nameCount) key() string { return n.name }

// hashedNames are the names whose preview labels end in one hash: hardly ever more
// than one.
type hashedNames struct {
	name string
	next *hashedNames // nil behind the last
}

func (h *hashedNames) key() string { return hashText(h.name) }

// with returns the names of h and name.
func (h *hashedNames) with(name string) *hashedNames { return &hashedNames{name: name, next: h} }

// without returns the names of h other than name, nil where there is none.
func (h *hashedNames) without(name string) (rest *hashedNames) {
	for ; h != nil; h = h.next {
		if h.name != name {
			rest = rest.with(h.name)
		}
	}
	return rest
}

// labelled returns the name whose preview label in room bytes is label; "" where
// there is none, and where there are two, as neither can be meant for certain.
func (h *hashedNames) labelled(label []byte, room int) (name string) {
	for ; h != nil; h = h.next {
		if isLabelOf(label, h.name, room) {
			if name != "" {
				return ""
			}
			name = h.name
		}
	}
	return name
}
