package ecstest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Faults say what goes wrong. Shares are from 0, never, to 1, always; what is hit is drawn by [Options.Seed].
type Faults struct {
	Throttle        float64       // of the calls that list and describe in ECS: they are told ThrottlingException
	ThrottleActions []string      // which those are; empty is every List and Describe
	Fail            float64       // of all calls of ECS: they are told ServerException, and have no effect
	Break           int           // how many of the next calls of ECS get no answer: their connections are cut, and they have no effect
	Lose            string        // the next call of this action of ECS has its effect, and its connection is cut before the answer
	Latency         time.Duration // of every call
	Invisible       time.Duration // for how long lists and descriptions don't have what is new yet
	Partial         float64       // of the answers that leave a part out, see [faultState.partial]

	LoseEvents    float64
	RepeatEvents  float64
	ReorderEvents float64 // of events that come behind the next one
	EventDelay    time.Duration
}

// SetFaults has things go wrong from now on. The zero value has them go well again.
func (c *Cloud) SetFaults(f Faults) {
	f.ThrottleActions = slices.Clone(f.ThrottleActions)
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.set = f
}

// SetLimits has calls of ECS and CloudWatch Logs be refused where there are too many: 1 is as AWS has it, 10 allows ten times as many, and 0,
// which is what a new cloud has, any number.
func (c *Cloud) SetLimits(factor float64) {
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.factor, c.faults.quotas = factor, map[string]*quota{}
}

// faultState draws what goes wrong, and holds the limits.
type faultState struct {
	mu     sync.Mutex
	set    Faults
	rand   *rand.Rand
	factor float64
	quotas map[string]*quota
}

// limitOf is the limit of an action, and what shares it:
// https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html,
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html.
func limitOf(service, action string) (shared string, q quota) {
	switch {
	case service == "logs" && (action == "GetLogEvents" || action == "FilterLogEvents"):
		return action, quota{burst: readRate, perSecond: readRate}
	case service != "ecs":
		return action, quota{}
	case action == "RegisterTaskDefinition", action == "DeregisterTaskDefinition", action == "DeleteTaskDefinitions":
		return action, quota{burst: 20, perSecond: 1}
	case action == "RunTask", action == "StopTask":
		return action, quota{burst: 20, perSecond: 20}
	case action == "CreateService", action == "UpdateService", action == "DeleteService":
		return "changes of services", quota{burst: 50, perSecond: 5}
	}
	return action, quota{burst: 50, perSecond: 20}
}

func (f *faultState) seed(seed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rand = rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // faults can be repeated, nothing is secret
}

// refuse delays a call, and refuses it where the draw hits it.
func (f *faultState) refuse(call *request) *apiError {
	f.mu.Lock()
	latency := f.set.Latency
	err := f.refusal(call)
	f.mu.Unlock()
	pause(call.ctx, latency)
	return err
}

// cut says whether a call gets no answer.
func (f *faultState) cut(call *request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if call.service != "ecs" || f.set.Break == 0 {
		return false
	}
	f.set.Break--
	return true
}

// lose says whether the answer to a call gets lost.
func (f *faultState) lose(call *request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if call.service != "ecs" || f.set.Lose == "" || call.action != f.set.Lose {
		return false
	}
	f.set.Lose = ""
	return true
}

func (f *faultState) refusal(call *request) *apiError {
	if call.service != "ecs" {
		return f.overLimit(call)
	}
	hit := strings.HasPrefix(call.action, "List") || strings.HasPrefix(call.action, "Describe")
	if len(f.set.ThrottleActions) > 0 {
		hit = slices.Contains(f.set.ThrottleActions, call.action)
	}
	switch {
	case hit && f.draw(f.set.Throttle):
		return apiErrorf(throttling, "Rate exceeded")
	case f.draw(f.set.Fail):
		return &apiError{status: http.StatusInternalServerError, code: "ServerException", message: "Service Unavailable. Please try again later."}
	}
	return f.overLimit(call)
}

// overLimit refuses a call behind too many others. The lock is held.
func (f *faultState) overLimit(call *request) *apiError {
	name, limit := limitOf(call.service, call.action)
	if f.factor <= 0 || limit.perSecond == 0 {
		return nil
	}
	if f.quotas[name] == nil {
		limit.perSecond *= f.factor
		f.quotas[name] = &limit
	}
	if !f.quotas[name].take(time.Now()) {
		return apiErrorf(throttling, "Rate exceeded")
	}
	return nil
}

// draw says whether a share is hit. The lock is held.
func (f *faultState) draw(share float64) bool { return share > 0 && f.rand.Float64() < share }

// visibleAfter is for how long lists and descriptions don't have what was just made.
func (f *faultState) visibleAfter() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set.Invisible
}

// partial says whether this answer leaves a part of what it should have out, as missing.
func (f *faultState) partial(...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.draw(f.set.Partial)
}

// eventFate is what becomes of an event on its way to one queue.
type eventFate struct {
	lost, repeated, late bool
	delay                time.Duration
}

func (f *faultState) ofEvent() eventFate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return eventFate{
		lost: f.draw(f.set.LoseEvents), repeated: f.draw(f.set.RepeatEvents), late: f.draw(f.set.ReorderEvents),
		delay: f.set.EventDelay,
	}
}

// pause lets a call take its time.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// quota is a limit of calls: so many at once, and so many a second from then on.
type quota struct {
	burst, perSecond float64
	left             float64
	at               time.Time
}

// take says whether one more may be made now. It is not safe for concurrent use.
func (q *quota) take(now time.Time) bool {
	if q.at.IsZero() {
		q.left = q.burst
	} else {
		q.left = min(q.burst, q.left+now.Sub(q.at).Seconds()*q.perSecond)
	}
	q.at = now
	if q.left < 1 {
		return false
	}
	q.left--
	return true
}
