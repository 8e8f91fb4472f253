package proxy

import (
	"fmt"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// hold is a request's wait for a version that is not ready (R5). The zero value is
// a request that has not waited.
type hold struct {
	version string // ID of the version that the request waits for; no other may answer it
	since   time.Time
	timer   *time.Timer
	page    bool // when the timer ends, a browser gets the page that waits
	place   heldPlace
	waking  *waking // nil where nobody was asked to wake the version
}

// wait returns when a newer table than now is in place, or with a problem where
// the request has waited long enough, or nobody waits for its answer.
func (h *hold) wait(x *exchange, now *snapshot) *problem {
	if h.timer == nil {
		limit := now.table.Hold()
		if h.page = x.isNavigation() && limit > pageAfter; h.page {
			limit = pageAfter
		}
		if problem := h.begin(x, limit); problem != nil {
			return problem
		}
	}
	h.wake(x)
	select {
	case <-now.replaced:
		return nil
	case <-h.timer.C:
		if h.page {
			return x.waitingProblem()
		}
		return versionNotReady(x.decision.Version, time.Since(h.since), h.notAsked())
	case <-x.client.gone():
		return x.unwanted()
	case <-x.proxy.stopping:
		return stopping()
	}
}

// begin takes a place among the requests that are held.
func (h *hold) begin(x *exchange, limit time.Duration) *problem {
	id := x.decision.Version.ID
	if x.proxy.held.Add(1) > int64(x.proxy.options.MaxHeld) {
		x.proxy.held.Add(-1)
		return tooManyHeld(id, "too many requests wait for versions already")
	}
	var why string
	if h.place, why = x.proxy.holds.take(x.decision.Service, x.client.heldBytes()); why != "" {
		x.proxy.held.Add(-1)
		return tooManyHeld(id, why)
	}
	h.version, h.since, h.timer = id, time.Now(), time.NewTimer(limit)
	return nil
}

// wake sees to it that a version that sleeps is started.
func (h *hold) wake(x *exchange) {
	if x.decision.Version.State == route.Asleep && x.proxy.options.Wake != nil {
		h.waking = x.proxy.wakes.join(x.proxy, h.version, h.waking)
	}
}

func (h *hold) notAsked() error {
	if h.waking == nil {
		return nil
	}
	return h.waking.problem()
}

// release ends the wait, where there was one.
func (h *hold) release(x *exchange) {
	if h.timer == nil {
		return
	}
	h.timer.Stop()
	x.record.Held = time.Since(h.since)
	x.proxy.holds.leave(h.place)
	if h.waking != nil {
		x.proxy.wakes.leave(h.version, h.waking)
	}
	x.proxy.held.Add(-1)
}

// holds counts what waits for the versions of each service. The zero value is ready.
type holds struct {
	mu       sync.Mutex
	services map[string]route.Held
}

// heldPlace is what one request takes of the bounds of its service.
type heldPlace struct {
	service string
	bytes   int
}

// take counts a request, or says in words why there is no room for it.
func (h *holds) take(s *route.ServiceEntry, bytes int) (heldPlace, string) {
	limit := route.Held{Requests: orDefault(s.Held.Requests, DefaultHeldRequests), Bytes: orDefault(s.Held.Bytes, DefaultHeldBytes)}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.services[s.Name]
	switch {
	case now.Requests >= limit.Requests:
		return heldPlace{}, fmt.Sprintf("%d requests wait for versions of %s, as many as may (held.requests)", now.Requests, s.Name)
	case now.Bytes+bytes > limit.Bytes:
		return heldPlace{}, fmt.Sprintf("the requests that wait for versions of %s take all the memory that they may, %d bytes (held.bytes)", s.Name, limit.Bytes)
	}
	if h.services == nil {
		h.services = make(map[string]route.Held)
	}
	h.services[s.Name] = route.Held{Requests: now.Requests + 1, Bytes: now.Bytes + bytes}
	return heldPlace{s.Name, bytes}, ""
}

func (h *holds) leave(p heldPlace) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.services[p.service]
	now.Requests, now.Bytes = now.Requests-1, now.Bytes-p.bytes
	if now.Requests == 0 {
		delete(h.services, p.service)
		return
	}
	h.services[p.service] = now
}
