package proxy

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/layover-dev/layover/internal/route"
)

// counters counts the requests that each version answered, by the version's ID.
// Entries are made by a version's first request and dropped once it has left the table.
type counters struct {
	byID sync.Map // string -> *atomic.Uint64
}

func (c *counters) add(id string) {
	v, ok := c.byID.Load(id)
	if !ok {
		v, _ = c.byID.LoadOrStore(id, new(atomic.Uint64))
	}
	v.(*atomic.Uint64).Add(1)
}

// in returns the counts of the versions that table has. An answer to a request of an
// earlier table may have brought back an entry that the next sweep drops.
func (c *counters) in(table *route.Table) map[string]uint64 {
	counts := make(map[string]uint64)
	c.byID.Range(func(id, v any) bool {
		if hasVersion(table, id.(string)) {
			counts[id.(string)] = v.(*atomic.Uint64).Load()
		}
		return true
	})
	return counts
}

func (c *counters) of(id string) uint64 {
	v, ok := c.byID.Load(id)
	if !ok {
		return 0
	}
	return v.(*atomic.Uint64).Load()
}

// sweep drops the entries of versions that table does not have.
func (c *counters) sweep(table *route.Table) {
	c.byID.Range(func(id, _ any) bool {
		if !hasVersion(table, id.(string)) {
			c.byID.Delete(id)
		}
		return true
	})
}

func hasVersion(table *route.Table, id string) bool {
	name, version, _ := strings.Cut(id, "@")
	service := table.Service(name)
	return service != nil && service.Version(version) != nil
}
