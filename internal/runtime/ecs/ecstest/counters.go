package ecstest

import (
	"maps"
	"sync"
)

// counters count calls by their names.
type counters struct {
	mu      sync.Mutex
	asked   map[string]int
	refused map[string]int            // for being too many
	byKey   map[string]map[string]int // what was asked with each access key
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

// countOf counts a call for who has an access key.
func (c *counters) countOf(key, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey == nil {
		c.byKey = map[string]map[string]int{}
	}
	if c.byKey[key] == nil {
		c.byKey[key] = map[string]int{}
	}
	c.byKey[key][name]++
}

func (c *counters) of(key string) map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.byKey[key])
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
