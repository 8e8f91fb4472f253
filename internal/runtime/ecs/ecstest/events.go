package ecstest

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// rule is a rule of EventBridge that sends events on to a queue.
type rule struct {
	queue   string
	pattern struct {
		Source     []string `json:"source"`
		DetailType []string `json:"detail-type"`
		Detail     struct {
			ClusterARN []string `json:"clusterArn"`
		} `json:"detail"`
	}
}

// eventBus is EventBridge, as far as it sends events to queues.
type eventBus struct {
	mu    sync.Mutex
	rules []*rule
	late  []func() // events that come behind the next one
}

// Forward makes a rule of EventBridge: events that a pattern matches go to a queue. Of the pattern it knows
// source, detail-type and detail.clusterArn, each a list of values.
func (c *Cloud) Forward(queueURL, pattern string) error {
	r := &rule{queue: shortName(queueURL)}
	if err := json.Unmarshal([]byte(pattern), &r.pattern); err != nil {
		return fmt.Errorf("event pattern: %w", err)
	}
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	c.events.rules = append(c.events.rules, r)
	return nil
}

// emitEvent sends an event to the queues of all rules that match, or not, as the faults have it.
func (c *Cloud) emitEvent(source, detailType string, resources []string, detail map[string]any) {
	lost, repeated, late, delay := c.faults.eventFate()
	if lost {
		return
	}
	body, _ := json.Marshal(map[string]any{ // it has nothing that cannot be written
		"version": "0", "id": newID(), "detail-type": detailType, "source": source, "account": c.account,
		"time": time.Now().UTC().Format(time.RFC3339), "region": c.region, "resources": resources, "detail": detail,
	})
	matches := func(want []string, have string) bool { return len(want) == 0 || slices.Contains(want, have) }
	cluster, _ := detail["clusterArn"].(string)
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	for _, r := range c.events.rules {
		if !matches(r.pattern.Source, source) || !matches(r.pattern.DetailType, detailType) || !matches(r.pattern.Detail.ClusterARN, cluster) {
			continue
		}
		send := func() { c.sqs.send(r.queue, string(body)) }
		if delay > 0 {
			now := send
			send = func() { time.AfterFunc(delay, now) }
		}
		if late {
			c.events.late = append(c.events.late, send)
			continue
		}
		send()
		if repeated {
			send()
		}
		for _, earlier := range c.events.late {
			earlier()
		}
		c.events.late = nil
	}
}
