package ecstest

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Faults are what goes wrong. Shares are from 0 to 1.
type Faults struct {
	Throttle        float64       // of the questions to ECS that are refused for being too many
	ThrottleActions []string      // only these; empty means every List and Describe
	Fail            float64       // of the same that are answered with a fault of the server
	Partial         float64       // of the answers to DescribeTasks that leave a task out, as missing
	Latency         time.Duration // of every call
	Invisible       time.Duration // for which a new task is in no list and no description
	LoseEvents      float64
	RepeatEvents    float64
	ReorderEvents   float64 // events that come after the next one
	EventDelay      time.Duration
}

// SetFaults has things go wrong from now on; the zero value ends it.
func (c *Cloud) SetFaults(f Faults) {
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.Faults = f
}

// SetLimits sets how fast calls may come: 1 is as AWS has it, 2 twice as fast, 0 without a limit. New clouds have none.
func (c *Cloud) SetLimits(factor float64) {
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.factor = factor
	c.faults.buckets = map[string]*bucket{}
}

// faultState draws what goes wrong, and holds the limits of the API.
type faultState struct {
	mu sync.Mutex
	Faults
	rand    *rand.Rand
	factor  float64
	buckets map[string]*bucket
}

// bucket is a token bucket.
type bucket struct {
	tokens float64
	at     time.Time
}

// limit is how fast calls of one kind may come.
type limit struct{ burst, rate float64 }

// limitOf is the limit of an action, as far as AWS documents it:
// https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html.
func limitOf(action string) (string, limit) {
	switch {
	case action == "RegisterTaskDefinition", action == "DeregisterTaskDefinition", action == "DeleteTaskDefinitions":
		return action, limit{burst: 20, rate: 1}
	case action == "RunTask", action == "StopTask":
		return action, limit{burst: 20, rate: 20}
	case action == "CreateService", action == "UpdateService", action == "DeleteService":
		return "service changes", limit{burst: 50, rate: 5}
	case strings.HasPrefix(action, "Describe"), strings.HasPrefix(action, "List"):
		return action, limit{burst: 50, rate: 20}
	}
	return action, limit{burst: 50, rate: 20}
}

func (f *faultState) seed(seed uint64) { f.rand = rand.New(rand.NewPCG(seed, 0)) } //nolint:gosec // nothing secret

func (f *faultState) draw(share float64) bool { return share > 0 && f.rand.Float64() < share }

// refuse says whether a call gets no answer, and why.
func (f *faultState) refuse(call *request) *apiError {
	f.mu.Lock()
	latency := f.Latency
	err := f.refuseLocked(call)
	f.mu.Unlock()
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-call.ctx.Done():
		}
	}
	return err
}

func (f *faultState) refuseLocked(call *request) *apiError {
	if call.service != "ecs" {
		return nil
	}
	asks := strings.HasPrefix(call.action, "List") || strings.HasPrefix(call.action, "Describe")
	hit := asks
	if len(f.ThrottleActions) > 0 {
		hit = slices.Contains(f.ThrottleActions, call.action)
	}
	switch {
	case hit && f.draw(f.Throttle):
		return apiErrorf(throttling, "Rate exceeded")
	case asks && f.draw(f.Fail):
		return &apiError{status: http.StatusInternalServerError, code: "ServerException", message: "Service Unavailable. Please try again later."}
	case f.factor <= 0:
		return nil
	}
	name, l := limitOf(call.action)
	b, now := f.buckets[name], time.Now()
	if b == nil {
		b = &bucket{tokens: l.burst, at: now}
		f.buckets[name] = b
	}
	b.tokens = min(l.burst, b.tokens+now.Sub(b.at).Seconds()*l.rate*f.factor)
	b.at = now
	if b.tokens < 1 {
		return apiErrorf(throttling, "Rate exceeded")
	}
	b.tokens--
	return nil
}

// visibleAfter is for how long a new task is not seen.
func (f *faultState) visibleAfter() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Invisible
}

// partial says whether this answer leaves something out.
func (f *faultState) partial() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.draw(f.Partial)
}

// eventFate says what becomes of an event.
func (f *faultState) eventFate() (lost, repeated, late bool, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.draw(f.LoseEvents), f.draw(f.RepeatEvents), f.draw(f.ReorderEvents), f.EventDelay
}
