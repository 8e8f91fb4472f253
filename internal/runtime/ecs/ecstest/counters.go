package ecstest

import (
	"maps"
	"sync"
)

// counters count calls by their names.
type counters struct {
	mu      sync.Mutex
	asked   map[string]int
	refused map[string]int // for being too many
}

func (c *counters) count(name string)          { c.add(&c.asked, name) }
func (c *counters) countThrottled(name string) { c.add(&c.refused, name) }

func (c *counters) add(to *map[string]int, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *to == nil {
		*to = map[string]int{}
	}
	(*to)[name]++
}

func (c *counters) all() map[string]int       { return c.copyOf(&c.asked) }
func (c *counters) throttled() map[string]int { return c.copyOf(&c.refused) }

func (c *counters) copyOf(from *map[string]int) map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]int, len(*from))
	maps.Copy(out, *from)
	return out
}
