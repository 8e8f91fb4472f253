package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// from says where the calls of a version's instances come from.
func from(v route.Version, address string) route.Version {
	for i := range v.Instances {
		v.Instances[i].From = address
	}
	return v
}

// healed is a service whose requests are healed.
func healed(mode route.HealMode, s route.Service) route.Service {
	s.Healing = route.Healing{Origin: mode, Trace: mode}
	return s
}

// middle is an instance that calls another service from an address of its own, with the fields that it keeps.
func middle(t *testing.T, w func() *world, address, callee string, keeps ...string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext,
	}}
	return instance(t, func(rw http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+w().addr+"/", nil)
		if err != nil {
			return
		}
		req.Host = callee
		for _, name := range keeps {
			req.Header[name] = r.Header[name]
		}
		res, err := client.Do(req)
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = res.Body.Close() }()
		rw.Header().Set("Seen", res.Header.Get(ServedByHeader))
		_, _ = io.Copy(rw, res.Body)
	})
}

const (
	trace1 = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	trace2 = "00-00000000000000000000000000000002-00f067aa0ba902b7-01"
)

func TestHealing(t *testing.T) {
	tests := map[string]struct {
		mode   route.HealMode
		keeps  []string
		want   string // the answer of the second service
		servBy string
		lost   string // of the record of the second hop
	}{
		"kept":          {route.HealOn, []string{"Baggage", "Traceparent"}, "pricing-pr-1", "by=baggage", ""},
		"by trace":      {route.HealOn, []string{"Traceparent"}, "pricing-pr-1", "by=healed-trace", "pr-1"},
		"by origin":     {route.HealOn, nil, "pricing-pr-1", "by=healed-origin", "pr-1"},
		"noted, trace":  {route.HealWarn, []string{"Traceparent"}, "pricing-main", "by=default", "pr-1"},
		"noted, origin": {route.HealWarn, nil, "pricing-main", "by=default", "pr-1"},
		"off":           {route.HealOff, []string{"Traceparent"}, "pricing-main", "by=default", ""},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			eachPath(t, func(t *testing.T, path string) {
				var w *world
				the := func() *world { return w }
				cart := middle(t, the, "127.9.0.1", "pricing.localhost", c.keeps...)
				w = newWorld(t, Options{NoFastPath: path == "net/http"},
					service("cart", ready("main", says(t, "cart-main")), from(ready("pr-1", cart), "127.9.0.1")),
					healed(c.mode, service("pricing", ready("main", says(t, "pricing-main")), ready("pr-1", says(t, "pricing-pr-1")))))
				a := w.get(t, "cart.localhost", "/", "Baggage", toPR1, "Traceparent", trace1)
				require.Equal(t, c.want, a.text)
				require.Contains(t, a.Header.Get("Seen"), c.servBy)
				inner := of(w.records.wait(t, 2), "pricing")
				require.Equal(t, "pricing", inner.Service)
				require.Equal(t, c.lost, inner.Lost)
				require.Equal(t, "pr-1-"+cart, inner.Caller)
				require.Equal(t, "cart@pr-1", inner.CallerOf)

				// What never had a route gets none, also of the same instance and with a trace of its own.
				require.Equal(t, "cart-main", w.get(t, "cart.localhost", "/", "Traceparent", trace2).text)
				require.Equal(t, "pricing-main", w.get(t, "pricing.localhost", "/", "Traceparent", trace2).text)
			})
		})
	}
}

func TestHealing_NeverGuesses(t *testing.T) {
	var w *world
	entered, proceed := make(chan struct{}, 8), make(chan struct{})
	call := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.9.0.2")}}).DialContext,
	}}
	calls := func() string {
		req := w.request(t, http.MethodGet, "pricing.localhost", "/", nil)
		res, err := call.Do(req)
		require.NoError(t, err)
		return read(t, res).text
	}
	shared := instance(t, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-proceed
	})
	let := sync.OnceFunc(func() { close(proceed) })
	defer let()
	w = newWorld(t, Options{},
		service("cart", from(ready("main", shared), "127.9.0.2"), ready("other", says(t, "other"))),
		healed(route.HealOn, service("pricing", ready("main", says(t, "pricing-main")), ready("pr-1", says(t, "pricing-pr-1")), ready("pr-2", says(t, "pricing-pr-2")))))
	require.Equal(t, "pricing-main", calls(), "nothing is at the instance")
	first := w.later(t, "cart.localhost", "Baggage", toPR1)
	<-entered
	require.Equal(t, "pricing-pr-1", calls(), "one route is at the instance")
	second := w.later(t, "cart.localhost", "Baggage", "dynamic_route=pr-2")
	<-entered
	require.Equal(t, "pricing-main", calls(), "two routes are at the instance")
	let()
	<-first
	<-second
	require.Equal(t, "pricing-main", calls(), "nothing is at the instance any more")

	// One trace with two routes says nothing.
	w.get(t, "cart.localhost", "/", "Baggage", "dynamic_route=other", "Traceparent", trace1)
	require.Equal(t, "other", w.traces.route(mustTrace(t, trace1), time.Now()))
	w.get(t, "cart.localhost", "/", "Baggage", toPR1, "Traceparent", trace1)
	require.Equal(t, "pricing-main", w.get(t, "pricing.localhost", "/", "Traceparent", trace1).text)
}

func mustTrace(t *testing.T, line string) TraceID {
	t.Helper()
	id := parseTraceparent(line).id
	require.NotZero(t, id)
	return id
}

func TestTraces_AreBounded(t *testing.T) {
	var all traces
	all.init(Healing{Traces: 640, TTL: time.Minute})
	now := time.Now()
	id := func(n int) (out TraceID) {
		copy(out[:], fmt.Sprintf("%016d", n))
		return out
	}
	for n := range 10_000 {
		all.note(id(n), "pr-1", now)
	}
	known := 0
	for n := range 10_000 {
		if all.route(id(n), now) != "" {
			known++
		}
	}
	require.LessOrEqual(t, known, 640)
	require.Greater(t, known, 300)
	require.Equal(t, "pr-1", all.route(id(9_999), now), "the newest is known")
	require.Empty(t, all.route(id(9_999), now.Add(2*time.Minute)), "and not for ever")
	all.note(id(9_999), "pr-2", now.Add(2*time.Minute))
	require.Equal(t, "pr-2", all.route(id(9_999), now.Add(2*time.Minute)), "what was forgotten may be another")

	var none traces
	none.init(Healing{Traces: -1})
	none.note(id(1), "pr-1", now)
	require.Empty(t, none.route(id(1), now))
}

func TestRoutesAt_ARequestThatEndedMayHaveCallsThatGoOn(t *testing.T) {
	var at routesAt
	now := time.Now()
	at.enter("pr-1", now)
	at.leave("pr-1", now)
	at.enter("pr-2", now.Add(time.Second))
	require.Empty(t, at.sole(now.Add(time.Second)), "a late call of pr-1 must not go to pr-2")
	require.Equal(t, "pr-2", at.sole(now.Add(4*time.Second)))
	at.enter("", now.Add(4*time.Second))
	require.Empty(t, at.sole(now.Add(4*time.Second)), "a request without a route counts as well")
}

// of returns the record of a service. The one of a call may come behind that of what made it.
func of(all []Record, service string) Record {
	return all[slices.IndexFunc(all, func(r Record) bool { return r.Service == service })]
}

// TestHealing_Names: what a client calls its requests may come again, and Sentry has one trace for all that a worker does: neither
// leads another request to a version. A trace that the proxy begins is of one request, and does.
func TestHealing_Names(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		var w *world
		cart := middle(t, func() *world { return w }, "127.9.0.1", "pricing.localhost", "Traceparent", "Baggage", "Sentry-Trace")
		drops := middle(t, func() *world { return w }, "127.9.0.2", "pricing.localhost", "Traceparent")
		all := func(string) float64 { return 1 }
		w = newWorld(t, Options{NoFastPath: path == "net/http", Sample: all},
			service("cart", ready("main", cart), ready("pr-1", cart)), service("drops", ready("main", drops), ready("pr-1", drops)),
			healed(route.HealOn, service("pricing", ready("main", says(t, "pricing-main")), ready("pr-1", says(t, "pricing-pr-1")))))
		for _, name := range []string{"X-Request-Id", "Sentry-Trace"} {
			value := trace1[3:35] + "-00f067aa0ba902b7-1"
			require.Equal(t, "pricing-pr-1", w.get(t, "cart.localhost", "/", name, value, "Baggage", toPR1).text, name)
			require.Equal(t, "pricing-main", w.get(t, "cart.localhost", "/", name, value).text, name)
		}
		require.Equal(t, "pricing-pr-1", w.get(t, "drops.localhost", "/", "Baggage", toPR1).text, "by the trace that began at the proxy")
	})
}
