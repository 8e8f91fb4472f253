package proxy

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/layover-dev/layover/internal/route"
)

// versions has what the proxy knows of each version from its requests, by the version's ID.
// Entries are made by a version's first request and dropped once it has left the table.
type versions struct {
	byID sync.Map // string -> *versionState
}

// versionState is what is known of one version. The zero value is one without requests.
type versionState struct {
	answers atomic.Uint64
	dropped atomic.Bool // from the map
	limiter limiter
	budget  budget
}

// standing is what is known of a version of a table and of its instances. It is kept in the
// table's entry: looking for both by their names, among ten thousand, costs more than the decision.
type standing struct {
	owner   *Proxy // a table may serve several
	version *versionState
	flights []*flight // of its instances, in their order
}

// isGood says whether the standing is p's, and none of its parts was dropped.
func (s *standing) isGood(p *Proxy) bool {
	if s.owner != p || s.version.dropped.Load() {
		return false
	}
	for _, flight := range s.flights {
		if flight.dropped.Load() {
			return false
		}
	}
	return true
}

// standing returns the standing of a version.
func (p *Proxy) standing(v *route.VersionEntry) *standing {
	if found, ok := v.Kept().(*standing); ok && found.isGood(p) {
		return found
	}
	made := &standing{owner: p, version: p.versions.of(v.ID), flights: make([]*flight, len(v.Instances))}
	for i := range v.Instances {
		made.flights[i] = p.flights.of(v, v.Instances[i].ID)
		p.callers.note(v, &v.Instances[i], made.flights[i])
	}
	v.Keep(made)
	return made
}

func (v *versions) of(id string) *versionState {
	state, ok := v.byID.Load(id)
	if !ok {
		state, _ = v.byID.LoadOrStore(id, new(versionState))
	}
	return state.(*versionState)
}

// answers returns how many requests each version of table has answered, where it has any. A
// request of an earlier table may have brought back an entry that the next sweep drops.
func (v *versions) answers(table *route.Table) map[string]uint64 {
	counts := make(map[string]uint64)
	v.byID.Range(func(id, state any) bool {
		if n := state.(*versionState).answers.Load(); n > 0 && hasVersion(table, id.(string)) {
			counts[id.(string)] = n
		}
		return true
	})
	return counts
}

// answersOf returns how many requests one version has answered.
func (v *versions) answersOf(id string) uint64 {
	state, ok := v.byID.Load(id)
	if !ok {
		return 0
	}
	return state.(*versionState).answers.Load()
}

// sweep drops the entries of versions that table does not have.
func (v *versions) sweep(table *route.Table) {
	v.byID.Range(func(id, state any) bool {
		if !hasVersion(table, id.(string)) {
			v.byID.Delete(id)
			state.(*versionState).dropped.Store(true)
		}
		return true
	})
}

func hasVersion(table *route.Table, id string) bool {
	return versionIn(table, id) != nil
}

// versionIn returns a version by its ID, nil where table does not have it.
func versionIn(table *route.Table, id string) *route.VersionEntry {
	name, version, _ := strings.Cut(id, "@")
	if service := table.Service(name); service != nil {
		return service.Version(version)
	}
	return nil
}
