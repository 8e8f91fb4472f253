package ecstest

import (
	"maps"
	"sync"
)

// counters count calls.
type counters struct {
	mu        sync.Mutex
	calls     map[string]int
	throttles map[string]int
}

func (c *counters) count(name string) { c.add(&c.calls, name) }

func (c *counters) countThrottled(name string) { c.add(&c.throttles, name) }

func (c *counters) add(m *map[string]int, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[name]++
}

func (c *counters) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

func (c *counters) throttled() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.throttles)
}
