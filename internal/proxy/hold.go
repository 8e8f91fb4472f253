package proxy

import "time"

// hold is a request's wait for a version that is not ready (R5). The zero value is
// a request that has not waited.
type hold struct {
	version string // ID of the version that the request waits for; no other may answer it
	since   time.Time
	timer   *time.Timer
}

// wait returns when a newer table than now is in place, or with a problem where
// the request has waited long enough, or nobody waits for its answer.
func (h *hold) wait(x *exchange, now *snapshot) *problem {
	if h.timer == nil {
		if x.proxy.held.Add(1) > int64(x.proxy.options.MaxHeld) {
			x.proxy.held.Add(-1)
			return tooManyHeld(x.decision.Version.ID)
		}
		h.version, h.since, h.timer = x.decision.Version.ID, time.Now(), time.NewTimer(now.table.Hold())
	}
	select {
	case <-now.replaced:
		return nil
	case <-h.timer.C:
		return versionNotReady(x.decision.Version, time.Since(h.since))
	case <-x.client.gone():
		return x.unwanted()
	case <-x.proxy.stopping:
		return stopping()
	}
}

// release ends the wait, where there was one.
func (h *hold) release(x *exchange) {
	if h.timer == nil {
		return
	}
	h.timer.Stop()
	x.record.Held = time.Since(h.since)
	x.proxy.held.Add(-1)
}
