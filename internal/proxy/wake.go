package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

const (
	wakeTimeout = 5 * time.Second        // for the control plane to answer
	wakeAgain   = 5 * time.Second        // after which it is asked again where the version sleeps on
	wakeRetry   = 250 * time.Millisecond // after which it is asked again where that failed; doubles
	maxRetry    = 2 * time.Second        // where the doubling ends
)

// wakes has the control plane asked to wake versions, once for all requests that wait for
// one. The zero value is ready.
type wakes struct {
	mu    sync.Mutex
	byID  map[string]*waking
	asked atomic.Uint64 // how often the control plane was
}

// waking is the wish of some requests that a version wakes up. Its fields are guarded by
// the mutex of wakes.
type waking struct {
	of      *wakes
	waiters int
	asking  bool // somebody asks, or waits for what comes of it
	end     context.CancelFunc
	err     error // of the last time that the control plane was asked
}

// join makes a request wait for a version that sleeps, and has the control plane asked where
// nobody does. Mine is what it was given before, nil the first time.
func (w *wakes) join(p *Proxy, id string, mine *waking) *waking {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mine == nil {
		if w.byID[id] == nil {
			if w.byID == nil {
				w.byID = make(map[string]*waking)
			}
			w.byID[id] = &waking{of: w}
		}
		mine = w.byID[id]
		mine.waiters++
	}
	if !mine.asking {
		ctx, end := context.WithCancel(context.Background())
		mine.asking, mine.end = true, end
		go mine.run(ctx, p, id)
	}
	return mine
}

// leave is called when a request waits no longer.
func (w *wakes) leave(id string, mine *waking) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mine.waiters--; mine.waiters > 0 {
		return
	}
	delete(w.byID, id)
	if mine.end != nil {
		mine.end()
	}
}

// problem says why the control plane could not be asked.
func (g *waking) problem() error {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	return g.err
}

// run asks until the version is no longer asleep, or nobody waits for it.
func (g *waking) run(ctx context.Context, p *Proxy, id string) {
	retry := wakeRetry
	for {
		limited, cancel := context.WithTimeout(ctx, wakeTimeout)
		err := p.options.Wake(limited, id)
		g.of.asked.Add(1)
		cancel()
		g.of.mu.Lock()
		g.err = err
		g.of.mu.Unlock()
		again := wakeAgain
		if err != nil {
			again, retry = retry, min(2*retry, maxRetry)
		}
		if !g.stillAsleep(ctx, p, id, again) {
			return
		}
	}
}

// stillAsleep waits for d, and returns false as soon as nobody has to be asked any more.
func (g *waking) stillAsleep(ctx context.Context, p *Proxy, id string, d time.Duration) bool {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		now := p.current.Load()
		if g.done(p, id) {
			return false
		}
		select {
		case <-now.replaced:
		case <-over.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// done says whether the version is awake, and that nobody asks then.
func (g *waking) done(p *Proxy, id string) bool {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	g.asking = stateIn(p.Table(), id) == route.Asleep
	return !g.asking
}

func stateIn(table *route.Table, id string) route.State {
	if v := versionIn(table, id); v != nil {
		return v.State
	}
	return ""
}
