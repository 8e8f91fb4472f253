package ecstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// eventBus is EventBridge: rules that forward events to queues.
type eventBus struct {
	mu    sync.Mutex
	rules []*eventRule
}

// eventRule forwards what its pattern matches to a queue.
type eventRule struct {
	queue   string // URL
	pattern map[string]any
	held    []func() // sends of events that are to come behind the next one
}

// reorderWithin bounds how long an event that is to come behind the next one waits for that.
const reorderWithin = 500 * time.Millisecond

// Forward makes a rule of EventBridge: each event that matches the pattern is sent to a queue. The pattern is JSON as
// of EventBridge, with lists of values, and {"prefix": …}, {"anything-but": […]} and {"exists": …} among them:
// {"source": ["aws.ecs"], "detail": {"clusterArn": ["arn:…"]}}.
func (c *Cloud) Forward(queueURL, pattern string) error {
	if c.sqs.byURL(queueURL) == nil {
		return fmt.Errorf("forward events to %s: there is no such queue", queueURL)
	}
	var p map[string]any
	d := json.NewDecoder(strings.NewReader(pattern))
	d.UseNumber()
	if err := d.Decode(&p); err != nil {
		return fmt.Errorf("event pattern is not valid: %w", err)
	}
	if err := checkPattern(p); err != nil {
		return fmt.Errorf("event pattern is not valid: %w", err)
	}
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	c.events.rules = append(c.events.rules, &eventRule{queue: queueURL, pattern: p})
	return nil
}

// emitEvent makes an event, and sends it to the queues whose rules match it.
func (c *Cloud) emitEvent(source, detailType string, resources []string, detail any) {
	if resources == nil {
		resources = []string{}
	}
	id := newID()
	text, err := json.Marshal(map[string]any{
		"version": "0", "id": id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:],
		"detail-type": detailType, "source": source, "account": c.account, "time": time.Now().UTC().Format(time.RFC3339),
		"region": c.region, "resources": resources, "detail": detail,
	})
	var event map[string]any
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		err = d.Decode(&event)
	}
	if err != nil {
		c.contract.broken(fmt.Errorf("event %s of %s: %w", detailType, source, err))
		return
	}
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	for _, r := range c.events.rules {
		if matchPattern(r.pattern, event) {
			c.send(r, string(text))
		}
	}
}

// send brings an event to the queue of a rule as the faults have it. The lock of the events is held, so that events
// come in their order where nothing is drawn.
func (c *Cloud) send(r *eventRule, event string) {
	fate := c.faults.ofEvent()
	if fate.lost {
		return
	}
	times := 1
	if fate.repeated {
		times = 2
	}
	deliver := func() {
		for range times {
			c.sqs.deliver(r.queue, event)
		}
	}
	if fate.late {
		once := sync.OnceFunc(func() { later(fate.delay, deliver) })
		r.held = append(r.held, once)
		time.AfterFunc(reorderWithin, once)
		return
	}
	held := r.held
	r.held = nil
	later(fate.delay, func() {
		deliver()
		for _, send := range held {
			send()
		}
	})
}

func later(d time.Duration, do func()) {
	if d <= 0 {
		do()
		return
	}
	time.AfterFunc(d, do)
}

// checkPattern refuses what the fake does not match.
func checkPattern(p map[string]any) error {
	for key, want := range p {
		switch want := want.(type) {
		case map[string]any:
			if err := checkPattern(want); err != nil {
				return err
			}
		case []any:
			for _, w := range want {
				if err := checkMatcher(key, w); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("%q must be an object or an array", key)
		}
	}
	return nil
}

func checkMatcher(key string, w any) error {
	m, ok := w.(map[string]any)
	if !ok {
		return nil
	}
	if len(m) == 1 {
		_, prefix := m["prefix"].(string)
		_, but := m["anything-but"]
		_, exists := m["exists"].(bool)
		if prefix || but || exists {
			return nil
		}
	}
	return fmt.Errorf("%q: the fake has prefix, anything-but and exists", key)
}

// matchPattern says whether an event has, for each key of a pattern, one of the values.
func matchPattern(pattern, event map[string]any) bool {
	for key, want := range pattern {
		has, there := event[key]
		switch want := want.(type) {
		case map[string]any:
			inner, ok := has.(map[string]any)
			if !ok || !matchPattern(want, inner) {
				return false
			}
		case []any:
			if !slices.ContainsFunc(want, func(w any) bool { return matchValue(w, has, there) }) {
				return false
			}
		}
	}
	return true
}

func matchValue(want, has any, there bool) bool {
	values, isList := has.([]any)
	if !isList {
		values = []any{has}
	}
	m, ok := want.(map[string]any)
	if !ok {
		return there && slices.ContainsFunc(values, func(v any) bool { return isScalar(v) && v == want })
	}
	if exists, ok := m["exists"].(bool); ok {
		return exists == there
	}
	if prefix, ok := m["prefix"].(string); ok {
		return slices.ContainsFunc(values, func(v any) bool {
			text, ok := v.(string)
			return ok && strings.HasPrefix(text, prefix)
		})
	}
	not, isList := m["anything-but"].([]any)
	if !isList {
		not = []any{m["anything-but"]}
	}
	return there && !slices.ContainsFunc(values, func(v any) bool { return isScalar(v) && slices.Contains(not, v) })
}

// isScalar says whether a value of JSON is neither a list nor an object.
func isScalar(v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return false
	}
	return true
}
