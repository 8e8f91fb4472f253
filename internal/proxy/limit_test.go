package proxy

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimiter_QueuesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Concurrency{PerVersion: 1, Queue: 2, Wait: time.Second}
		var l limiter
		require.True(t, l.enter(&c))
		require.False(t, l.enter(&c))
		turns := make(chan int, 2)
		for i := range 2 {
			go func() {
				if l.wait(t.Context().Done(), nil, &c) {
					turns <- i
				}
			}()
			synctest.Wait()
		}
		require.False(t, l.wait(t.Context().Done(), nil, &c), "the queue is full")
		l.leave(&c)
		require.Equal(t, 0, <-turns)
		require.False(t, l.enter(&c), "nobody overtakes")
		l.leave(&c)
		require.Equal(t, 1, <-turns)
		l.leave(&c)
		require.True(t, l.enter(&c))
		l.leave(&c)
	})
}

func TestLimiter_WaitsNoLongerThanAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Concurrency{PerVersion: 1, Queue: 9, Wait: time.Second}
		var l limiter
		require.True(t, l.enter(&c))
		start := time.Now()
		require.False(t, l.wait(t.Context().Done(), nil, &c))
		require.Equal(t, time.Second, time.Since(start))
		gone, leave := context.WithCancel(t.Context())
		leave()
		require.False(t, l.wait(gone.Done(), nil, &c))
		stopping := make(chan struct{})
		close(stopping)
		require.False(t, l.wait(t.Context().Done(), stopping, &c))
		require.Equal(t, time.Second, time.Since(start))
		require.Zero(t, l.waiting.Load())
		l.leave(&c)
		require.True(t, l.enter(&c))
	})
}

// TestLimiter_NeverMoreThanAllowed has many come and go, and expects that nobody waits
// while there is room.
func TestLimiter_NeverMoreThanAllowed(t *testing.T) {
	c := Concurrency{PerVersion: 3, Queue: 100, Wait: patience}
	var l limiter
	var inside, most atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 200 {
				if !l.enter(&c) && !l.wait(t.Context().Done(), nil, &c) {
					t.Error("not let in")
					return
				}
				n := inside.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
					continue
				}
				inside.Add(-1)
				l.leave(&c)
			}
		})
	}
	all.Wait()
	require.LessOrEqual(t, most.Load(), int64(3))
	require.Zero(t, l.inside.Load())
	require.Zero(t, l.waiting.Load())
}

func TestLimiter_CostsNothingWithRoom(t *testing.T) {
	c := Concurrency{}.withDefaults()
	var l limiter
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if !l.enter(&c) {
			t.Error("no room")
		}
		l.leave(&c)
	}))
}

func TestProxy_BoundsTheRequestsOfAVersion(t *testing.T) {
	proceed := make(chan struct{})
	w := newWorld(t, Options{Concurrency: Concurrency{PerVersion: 1, Queue: 1, Wait: patience}},
		service("cart", ready("main", instance(t, func(http.ResponseWriter, *http.Request) { <-proceed })), ready("pr-1", says(t, "pr-1"))))
	first := w.later(t, "cart.localhost")
	state := w.versions.of("cart@main")
	eventually(t, func() bool { return state.limiter.inside.Load() == 1 })
	second := w.later(t, "cart.localhost")
	eventually(t, func() bool { return state.limiter.waiting.Load() == 1 })

	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Equal(t, CodeOverloaded, a.problem(t).Code)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.Contains(t, a.Header.Get(ServedByHeader), "cart@main")
	require.Equal(t, "pr-1", w.get(t, "cart.localhost", "/", "Baggage", toPR1).text, "each version for itself")

	proceed <- struct{}{}
	require.Equal(t, http.StatusOK, (<-first).StatusCode)
	proceed <- struct{}{}
	require.Equal(t, http.StatusOK, (<-second).StatusCode)
	eventually(t, func() bool { return state.limiter.inside.Load() == 0 })
}

func TestProxy_UpgradesCountAsRequests(t *testing.T) {
	w := newWorld(t, Options{Concurrency: Concurrency{PerVersion: 1, Queue: -1}}, service("cart", ready("main", upgrading(t))))
	c := dial(t, w.addr)
	c.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "Connection: Upgrade", "Upgrade: websocket", "")
	require.Equal(t, http.StatusSwitchingProtocols, c.response(t, http.MethodGet).StatusCode)
	require.Equal(t, CodeOverloaded, w.get(t, "cart.localhost", "/").problem(t).Code)
	require.NoError(t, c.Close())
	eventually(t, func() bool { return w.versions.of("cart@main").limiter.inside.Load() == 0 })
}

func TestProxy_WhoWaitsIsAnsweredByThatVersionOrNot(t *testing.T) {
	proceed := make(chan struct{})
	slow := instance(t, func(http.ResponseWriter, *http.Request) { <-proceed })
	w := newWorld(t, Options{Concurrency: Concurrency{PerVersion: 1, Wait: patience}}, service("cart", ready("main", slow), ready("pr-1", slow)))
	first := w.later(t, "cart.localhost", "Baggage", toPR1)
	state := w.versions.of("cart@pr-1")
	eventually(t, func() bool { return state.limiter.inside.Load() == 1 })
	second := w.later(t, "cart.localhost", "Baggage", toPR1)
	eventually(t, func() bool { return state.limiter.waiting.Load() == 1 })
	w.set(t, service("cart", ready("main", says(t, "main"))))
	proceed <- struct{}{}
	<-first
	require.Equal(t, CodeVersionGone, (<-second).problem(t).Code)
	eventually(t, func() bool { return state.limiter.inside.Load() == 0 })
}
