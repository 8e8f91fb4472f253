package webhook

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

const (
	page         = 200             // events read from the log at a time
	storePause   = time.Second     // before a log or store that fails is asked again
	maxRetryWait = 5 * time.Minute // how long a receiver may ask us to wait
)

// queue takes one hook through the log. Only run changes where it is.
type queue struct {
	s    *Sender
	hook Hook

	stored int64 // position as the store has it; of run

	mu           sync.Mutex
	position     int64 // ID of the last event that is done with
	sent         uint64
	lost         int64
	failures     int // in a row
	failingSince time.Time
	lastError    string
	nextTry      time.Time // zero where nothing waits
}

func (q *queue) view() api.Webhook {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := api.Webhook{
		Name: q.hook.Name, URL: shownURL(q.hook.URL), Format: q.hook.Format, Events: slices.Clone(q.hook.Events),
		Position: q.position, Delivered: q.sent, Lost: q.lost, Failures: q.failures, LastError: q.lastError,
	}
	if !q.nextTry.IsZero() {
		next := q.nextTry.UTC()
		w.NextTry = &next
	}
	return w
}

// run delivers one event after another until ctx ends.
func (q *queue) run(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := q.s.opts.Log.Events(ctx, q.at(), page)
		if err == nil && len(events) == 0 {
			if err = q.store(ctx); err == nil {
				err = q.s.opts.Log.WaitEvents(ctx, q.at())
			}
		}
		if err != nil {
			q.troubled(ctx, err)
			continue
		}
		for _, e := range events {
			if !q.take(ctx, e) {
				return
			}
		}
	}
}

// take is done with e when it returns true; false means that ctx ended before.
func (q *queue) take(ctx context.Context, e api.Event) bool {
	if missing := e.ID - q.at() - 1; missing > 0 {
		q.s.log.Warn("events left the log before the webhook came to them", "webhook", q.hook.Name, "events", missing)
		q.mu.Lock()
		q.lost += missing
		q.mu.Unlock()
	}
	if !q.hook.wants(e.Type) {
		q.moveTo(e.ID)
		return true
	}
	attempts := 0
	for q.waitTurn(ctx) {
		err := q.s.send(ctx, q.hook, e)
		if err == nil {
			q.delivered()
			q.moveTo(e.ID)
			return q.insist(ctx, q.store)
		}
		if ctx.Err() != nil {
			return false
		}
		attempts++
		if !q.failed(e, err) {
			continue
		}
		q.s.log.Warn("webhook delivery given up", "webhook", q.hook.Name, "event", e.ID, "err", err)
		letter := api.DeadLetter{Webhook: q.hook.Name, Event: e, Reason: err.Error(), Attempts: attempts, At: time.Now().UTC()}
		if !q.insist(ctx, func(ctx context.Context) error { return q.s.opts.Store.AddDeadLetter(ctx, letter, keepLetters) }) {
			return false
		}
		q.moveTo(e.ID)
		q.stored = e.ID
		return true
	}
	return false
}

// delivered notes that a delivery worked.
func (q *queue) delivered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sent++
	q.failures, q.failingSince, q.lastError, q.nextTry = 0, time.Time{}, "", time.Time{}
}

// failed notes that a delivery did not work, and says whether it is given up. While a receiver
// is away each event has as long as the first one that failed: what is older then is
// tried once.
func (q *queue) failed(e api.Event, err error) (givenUp bool) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failures++
	q.lastError = err.Error()
	if q.failingSince.IsZero() {
		q.failingSince = now
	}
	refused, ok := errors.AsType[*refusal](err)
	if ok && refused.final {
		q.nextTry = time.Time{} // it concerns this delivery alone
		return true
	}
	first := q.failingSince
	if e.Time.After(first) {
		first = e.Time
	}
	pause := min(q.s.opts.FirstPause<<min(q.failures-1, 20), q.s.opts.LongestPause)
	pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // only so that receivers are not met by all at once
	if ok {
		pause = max(pause, min(refused.after, maxRetryWait))
	}
	q.nextTry = now.Add(pause)
	return now.Sub(first) >= q.hook.RetryFor
}

// waitTurn waits until the next try may be made. It returns false where ctx ends before.
func (q *queue) waitTurn(ctx context.Context) bool {
	q.mu.Lock()
	wait := time.Until(q.nextTry)
	q.mu.Unlock()
	return sleep(ctx, wait)
}

// store makes the position durable.
func (q *queue) store(ctx context.Context) error {
	position := q.at()
	if position == q.stored {
		return nil
	}
	// What was sent is sent; the end of the server makes nobody forget it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.s.opts.Timeout)
	defer cancel()
	if err := q.s.opts.Store.PutWebhookPosition(ctx, q.hook.Name, position); err != nil {
		return err
	}
	q.stored = position
	return nil
}

// insist calls do until it works. It returns false where ctx ends before.
func (q *queue) insist(ctx context.Context, do func(context.Context) error) bool {
	for {
		err := do(ctx)
		if err == nil {
			return true
		}
		if !q.troubled(ctx, err) {
			return false
		}
	}
}

// troubled waits a while because the log or the store fails. It returns false where ctx ended.
func (q *queue) troubled(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	q.s.log.Error("webhook cannot go on", "webhook", q.hook.Name, "err", err)
	return sleep(ctx, storePause)
}

func (q *queue) at() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.position
}

func (q *queue) moveTo(position int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.position = position
}

// sleep waits for d, or returns false where ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
