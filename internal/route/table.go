package route

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// Table is an environment, compiled: everything needed to decide a request. It
// never changes, except for the round-robin cursors behind [VersionEntry.Next],
// and may be used by any number of goroutines.
type Table struct {
	spec     Spec
	seed     maphash.Seed
	services map[string]*ServiceEntry // by name
	hosts    map[string]*ServiceEntry // by exact host
	suffixes map[string]*ServiceEntry // by what stands behind "*": ".cart.test"
	labels   map[string]*ServiceEntry // by the label of the service in preview hosts
	longest  int                      // bytes of the longest suffix
	routes   map[string]string        // the names of the named routes, by themselves
	names    index                    // one version of each name in the environment
	hashed   hashedNames              // the names whose preview labels end in a hash
}

// EmptyTable is the table of an environment with nothing in it.
func EmptyTable() *Table {
	t, err := Compile(Spec{})
	if err != nil {
		panic("route: compile the empty environment: " + err.Error())
	}
	return t
}

// Revision is the revision of the Spec the table was compiled from.
func (t *Table) Revision() uint64 { return t.spec.Revision }

// Spec is what the table was compiled from, with the defaults filled in and hosts
// in their normal form. It must not be changed.
func (t *Table) Spec() *Spec { return &t.spec }

// Hold is how long a request waits for a version that starts (R5).
func (t *Table) Hold() time.Duration { return t.spec.Hold }

// BaggageKey is the key of the baggage member that carries the route.
func (t *Table) BaggageKey() string { return t.spec.BaggageKey }

// RouteHeader is the alternative header that carries the route (R2.3); empty
// where there is none.
func (t *Table) RouteHeader() string { return t.spec.RouteHeader }

// Service returns the service with the name, nil where there is none.
func (t *Table) Service(name string) *ServiceEntry { return t.services[name] }

// ServiceEntry is one service of a table. It must not be changed.
type ServiceEntry struct {
	// What every decision reads comes first, to lie close together.
	versions index             // of all, by name
	picks    map[string]string // named route -> version, parents included

	Default  *VersionEntry // nil where the default version does not exist
	Name     string
	Protocol Protocol
	Hosts    []string // exact hosts and "*.suffix" hosts, in their normal form

	defaultName string         // of the version that Default is, or would be
	all         []VersionEntry // in the order of the Spec
	table       *Table
	label       string // of the service in preview hosts
}

// Version returns the version with the name, nil where the service has none.
func (s *ServiceEntry) Version(name string) *VersionEntry {
	return s.versions.find(s.table.seed, []byte(name))
}

// previewRoom is how many bytes a preview host leaves for the label of the route.
func (s *ServiceEntry) previewRoom() int { return maxName - len("--") - len(s.label) }

// VersionEntry is one version of a service of a table. It must not be changed.
type VersionEntry struct {
	Service   *ServiceEntry
	ID        string // cart@feature-1
	Name      string // feature-1
	State     State
	Instances []Instance // the healthy ones
	cursor    atomic.Uint32
	Reason    string // why it is not ready, for people; may be empty
}

// Next returns the instance whose turn it is, nil where the version has none. The
// turn goes round by a cursor, the one word that changes in a compiled table.
func (v *VersionEntry) Next() *Instance {
	switch n := uint32(len(v.Instances)); n { //nolint:gosec // nobody runs 2^32 instances
	case 0:
		return nil
	case 1:
		return &v.Instances[0]
	default:
		return &v.Instances[(v.cursor.Add(1)-1)%n]
	}
}

// Label is the preview label of the version: what names it in a preview host.
func (v *VersionEntry) Label() string {
	return PreviewLabel(v.Name, v.Service.previewRoom())
}

// PreviewHost is the host at which the service answers with this version whatever
// else a request carries (R2.1): feature-1--cart.localhost.
func (v *VersionEntry) PreviewHost() string {
	s := v.Service
	return v.Label() + "--" + s.label + "." + s.table.spec.Domain
}

// hashedNames finds the name behind a preview label that ends in a hash, by that
// hash. Names that share one are chained.
type hashedNames struct {
	first map[uint32]int32
	list  []hashedName
}

type hashedName struct {
	name string
	next int32 // the one before it in list with the same hash, -1 where none is
}

func (h *hashedNames) add(name string) {
	key := hashKey(name)
	next, ok := h.first[key]
	if !ok {
		next = -1
	}
	h.first[key] = int32(len(h.list)) //nolint:gosec // a table has fewer than 2^31 names
	h.list = append(h.list, hashedName{name: name, next: next})
}

// find returns the name whose preview label in room bytes is label; "" where
// there is none, and where there are two, as neither can be meant for certain.
func (h *hashedNames) find(label []byte, room int) (name string) {
	key, ok := labelKey(label)
	if !ok {
		return ""
	}
	at, ok := h.first[key]
	if !ok {
		return ""
	}
	for ; at >= 0; at = h.list[at].next {
		if one := h.list[at].name; isLabelOf(label, one, room) {
			if name != "" {
				return ""
			}
			name = one
		}
	}
	return name
}
