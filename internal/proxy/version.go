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
	limiter limiter
	budget  budget
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
	v.byID.Range(func(id, _ any) bool {
		if !hasVersion(table, id.(string)) {
			v.byID.Delete(id)
		}
		return true
	})
}

func hasVersion(table *route.Table, id string) bool {
	name, version, _ := strings.Cut(id, "@")
	service := table.Service(name)
	return service != nil && service.Version(version) != nil
}
