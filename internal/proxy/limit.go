package proxy

import (
	"container/list"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of [Concurrency].
const (
	DefaultRequestsPerVersion = 4096
	DefaultQueue              = 128
	DefaultQueueWait          = time.Second
)

// Concurrency bounds how many requests a version works on at a time, streams and
// upgraded connections included. A few more wait a moment for one of them to end.
type Concurrency struct {
	PerVersion int           // 0 means DefaultRequestsPerVersion, below 0 no limit
	Queue      int           // how many may wait; 0 means DefaultQueue, below 0 none
	Wait       time.Duration // for how long; 0 means DefaultQueueWait
}

// withDefaults returns c with what is 0 filled in.
func (c Concurrency) withDefaults() Concurrency {
	c.PerVersion = orDefault(c.PerVersion, DefaultRequestsPerVersion)
	c.Queue = orDefault(c.Queue, DefaultQueue)
	c.Wait = orDefault(c.Wait, DefaultQueueWait)
	return c
}

// limiter counts the requests of one version, and lets those that wait in by their turn.
// The zero value is ready; all calls are made with the same [Concurrency].
type limiter struct {
	inside  atomic.Int64
	waiting atomic.Int64 // length of queue

	mu    sync.Mutex
	queue list.List // of chan struct{}: closed when its request is let in
}

// enter lets one request in, if there is room and nobody waits. Each that is let in has to
// [limiter.leave].
func (l *limiter) enter(c *Concurrency) bool {
	return c.PerVersion < 0 || l.waiting.Load() == 0 && l.room(c)
}

// leave makes room for another one.
func (l *limiter) leave(c *Concurrency) {
	if c.PerVersion < 0 {
		return
	}
	l.inside.Add(-1)
	if l.waiting.Load() > 0 {
		l.mu.Lock()
		l.admitLocked(c)
		l.mu.Unlock()
	}
}

// wait is for a request that could not enter. It says whether it was let in after all.
func (l *limiter) wait(gone, stopping <-chan struct{}, c *Concurrency) bool {
	l.mu.Lock()
	if l.queue.Len() >= c.Queue {
		l.mu.Unlock()
		return false
	}
	turn := make(chan struct{})
	place := l.queue.PushBack(turn)
	// The queue is known to be longer before its head looks for room, and who leaves makes
	// room before looking at the queue: one of the two sees the other.
	l.waiting.Add(1)
	l.admitLocked(c)
	l.mu.Unlock()

	timer := time.NewTimer(c.Wait)
	defer timer.Stop()
	select {
	case <-turn:
		return true
	case <-timer.C:
	case <-stopping:
	case <-gone:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-turn: // just now
		return true
	default:
		l.queue.Remove(place)
		l.waiting.Add(-1)
		return false
	}
}

// admitLocked lets in those who wait, as far as there is room.
func (l *limiter) admitLocked(c *Concurrency) {
	for first := l.queue.Front(); first != nil && l.room(c); first = l.queue.Front() {
		close(l.queue.Remove(first).(chan struct{}))
		l.waiting.Add(-1)
	}
}

// room takes a place, where there is one.
func (l *limiter) room(c *Concurrency) bool {
	for {
		n := l.inside.Load()
		if n >= int64(c.PerVersion) {
			return false
		}
		if l.inside.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func overloaded(id string, limit int) *problem {
	return &problem{
		status:     http.StatusServiceUnavailable,
		code:       CodeOverloaded,
		title:      fmt.Sprintf("%s has too much to do", id),
		detail:     fmt.Sprintf("%s works on %d requests already, as many as the proxy lets through at a time.", id, limit),
		hint:       fmt.Sprintf("Try again, or see why it is slow: `layover status %s`. proxy.limits.requests_per_version allows more.", id),
		retryAfter: retrySoon,
	}
}
