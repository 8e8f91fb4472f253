package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// later does a request on the side.
func (w *world) later(t *testing.T, host string, headers ...string) <-chan answer {
	t.Helper()
	return w.laterAt(t, host, "/", headers...)
}

// laterAt is later for another path.
func (w *world) laterAt(t *testing.T, host, path string, headers ...string) <-chan answer {
	t.Helper()
	req := w.request(t, http.MethodGet, host, path, nil, headers...)
	answers := make(chan answer, 1)
	go func() {
		defer close(answers)
		res, err := w.client.Do(req)
		if err != nil {
			t.Errorf("request: %v", err)
			return
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Errorf("read: %v", err)
		}
		answers <- answer{res, string(body)}
	}()
	return answers
}

func (w *world) waitHeld(t *testing.T, n int64) {
	t.Helper()
	eventually(t, func() bool { return w.held.Load() == n })
}

const toPR1 = "dynamic_route=pr-1"

func TestHold_UntilReady(t *testing.T) {
	main := ready("main", says(t, "main"))
	for _, waiting := range []route.State{route.Starting, route.Asleep} {
		t.Run(string(waiting), func(t *testing.T) {
			w := newWorld(t, Options{}, service("cart", main, state("pr-1", waiting, "")))
			one, two := w.later(t, "cart.localhost", "Baggage", toPR1), w.later(t, "cart.localhost", "Baggage", toPR1)
			w.waitHeld(t, 2)
			require.Equal(t, "main", w.get(t, "cart.localhost", "/").text, "others do not wait")

			// A table that changes nothing of the version changes nothing for the request.
			w.set(t, service("cart", main, state("pr-1", route.Starting, "")), service("other"))
			w.waitHeld(t, 2)

			w.set(t, service("cart", main, ready("pr-1", says(t, "pr-1"))))
			require.Equal(t, "pr-1", (<-one).text)
			require.Equal(t, "pr-1", (<-two).text)
			w.waitHeld(t, 0)
			for _, r := range w.records.wait(t, 3) { // main's may come late
				require.Equal(t, r.Version == "pr-1", r.Held > 0)
			}
		})
	}
}

func TestHold_TimesOut(t *testing.T) {
	w := newWorld(t, Options{})
	w.SetTable(compile(t, route.Spec{Hold: 20 * time.Millisecond, Services: []route.Service{
		service("cart", ready("main", says(t, "main")), state("pr-1", route.Starting, "pulls its image")),
	}}))
	a := w.get(t, "cart.localhost", "/", "Baggage", toPR1)
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Equal(t, "5", a.Header.Get("Retry-After"))
	require.Contains(t, a.Header.Get(ServedByHeader), "cart@pr-1")
	p := a.problem(t)
	require.Equal(t, CodeVersionNotReady, p.Code)
	require.Contains(t, p.Detail, "pulls its image")
}

func TestHold_NeverAnotherVersion(t *testing.T) {
	main := ready("main", says(t, "main"))
	for name, after := range map[string][]route.Service{
		"version removed":      {service("cart", main)},
		"service removed":      {service("other", main)},
		"everything removed":   {},
		"default is not there": {service("cart")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{}, service("cart", main, state("pr-1", route.Starting, "")))
			held := w.later(t, "cart.localhost", "Baggage", toPR1)
			w.waitHeld(t, 1)
			w.set(t, after...)
			a := <-held
			require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
			require.Equal(t, CodeVersionGone, a.problem(t).Code)
		})
	}
}

func TestHold_EndsWhenTheVersionFails(t *testing.T) {
	main := ready("main", says(t, "main"))
	w := newWorld(t, Options{}, service("cart", main, state("pr-1", route.Starting, "")))
	held := w.later(t, "cart.localhost", "Baggage", toPR1)
	w.waitHeld(t, 1)
	w.set(t, service("cart", main, state("pr-1", route.Failed, "exit code 3")))
	p := (<-held).problem(t)
	require.Equal(t, CodeVersionFailed, p.Code)
	require.Contains(t, p.Detail, "exit code 3")
	require.Contains(t, p.Hint, "layover logs cart@pr-1")
}

func TestHold_ClientThatLeaves(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", state("main", route.Starting, "")))
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	req := w.request(t, http.MethodGet, "cart.localhost", "/", nil).WithContext(ctx)
	go func() {
		_, err := w.client.Do(req)
		left <- err
	}()
	w.waitHeld(t, 1)
	cancel()
	require.Error(t, <-left)
	w.waitHeld(t, 0)
	r := w.records.wait(t, 1)[0]
	require.Equal(t, string(CodeClientGone), r.Error)
	require.Zero(t, r.Status)
}

func TestHold_IsBounded(t *testing.T) {
	w := newWorld(t, Options{MaxHeld: 1}, service("cart", state("main", route.Starting, "")))
	first := w.later(t, "cart.localhost")
	w.waitHeld(t, 1)
	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.Equal(t, CodeTooManyHeld, a.problem(t).Code)
	w.set(t, service("cart", ready("main", says(t, "main"))))
	require.Equal(t, "main", (<-first).text)
}

func TestHold_EndsWhenTheProxyStops(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", state("main", route.Starting, "")))
	held := w.later(t, "cart.localhost")
	w.waitHeld(t, 1)
	w.stop()
	require.Equal(t, CodeStopping, (<-held).problem(t).Code)
}

func TestDrain_WaitIdle(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	slow := instance(t, func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-proceed
		_, _ = io.WriteString(w, "old")
	})
	old := ready("main", slow)
	w := newWorld(t, Options{}, service("cart", old))
	id := old.Instances[0].ID
	inFlight := w.later(t, "cart.localhost")
	<-entered

	w.set(t, service("cart", ready("main", says(t, "new"))))
	require.Equal(t, "new", w.get(t, "cart.localhost", "/").text)

	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, w.WaitIdle(short, id), context.DeadlineExceeded)

	idle := make(chan error, 1)
	go func() { idle <- w.WaitIdle(t.Context(), id) }()
	require.Empty(t, idle)
	close(proceed)
	require.Equal(t, "old", (<-inFlight).text)
	require.NoError(t, <-idle)
	require.NoError(t, w.WaitIdle(t.Context(), "unknown"))
}

func TestDrain_WaitIdleCountsUpgrades(t *testing.T) {
	version := ready("main", upgrading(t))
	w := newWorld(t, Options{}, service("cart", version))
	c := dial(t, w.addr)
	c.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "Connection: Upgrade", "Upgrade: websocket", "")
	require.Equal(t, http.StatusSwitchingProtocols, c.response(t, http.MethodGet).StatusCode)
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.Error(t, w.WaitIdle(short, version.Instances[0].ID))
	require.NoError(t, c.Close())
	require.NoError(t, w.WaitIdle(t.Context(), version.Instances[0].ID))
}

func TestDrain_RequestInFlightEnds(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	w := newWorld(t, Options{}, service("cart", ready("main", instance(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-proceed
		_, _ = io.WriteString(w, "done")
	}))))
	inFlight := w.later(t, "cart.localhost")
	<-entered
	stopped := make(chan struct{})
	go func() { w.stop(); close(stopped) }()
	<-w.stopping
	close(proceed)
	require.Equal(t, "done", (<-inFlight).text)
	<-stopped
}

func TestDrain_IsBounded(t *testing.T) {
	w := newWorld(t, Options{DrainTimeout: 20 * time.Millisecond}, service("cart", ready("main", upgrading(t))),
		service("slow", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))))
	c := dial(t, w.addr)
	c.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "Connection: Upgrade", "Upgrade: websocket", "")
	require.Equal(t, http.StatusSwitchingProtocols, c.response(t, http.MethodGet).StatusCode)
	res, err := w.client.Do(w.request(t, http.MethodGet, "slow.localhost", "/", nil))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	w.stop()
	_, err = io.ReadAll(res.Body)
	require.Error(t, err)
	for _, r := range w.records.wait(t, 2) {
		require.NotEqual(t, string(CodeAborted), r.Error)
	}
}

// TestDrain_TableChangesDropNothing replaces the instances of a version again
// and again, stops each as soon as it is idle, and expects every request answered.
func TestDrain_TableChangesDropNothing(t *testing.T) {
	w := newWorld(t, Options{})
	start := func(generation int) (route.Version, func()) {
		l := listen(t)
		server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		})}
		go func() { _ = server.Serve(l) }()
		version := ready("main", l.Addr().String())
		version.Instances[0].ID = fmt.Sprint("generation-", generation)
		return version, func() { _ = server.Close() }
	}
	version, stop := start(0)
	w.set(t, service("cart", version))

	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				req := w.request(t, http.MethodPost, "cart.localhost", "/", strings.NewReader("payload"))
				res, err := w.client.Do(req)
				if err != nil {
					t.Errorf("request: %v", err)
					return
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || string(body) != "payload" {
					t.Errorf("%s: %q, %v", res.Status, body, err)
					return
				}
			}
		})
	}
	for generation := 1; generation <= 50; generation++ {
		next, stopNext := start(generation)
		w.set(t, service("cart", next))
		require.NoError(t, w.WaitIdle(t.Context(), version.Instances[0].ID))
		stop()
		version, stop = next, stopNext
	}
	cancel()
	clients.Wait()
	stop()
}
