package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

// counted are metrics with the versions that the table has.
type counted struct {
	*Requests
	mu    sync.Mutex
	table map[string]bool
}

func newCounted(versions int) *counted {
	c := &counted{table: map[string]bool{}}
	c.Requests = NewRequests(RequestOptions{Versions: versions, Has: func(service, version string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.table[service+"@"+version]
	}})
	return c
}

func (c *counted) has(id string, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table[id] = yes
}

// text is what a scrape gets, in the form that a client accepts.
func (c *counted) text(t *testing.T, accept string) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c.Requests)
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

func request(id string, status int) *proxy.Record {
	service, version, _ := strings.Cut(id, "@")
	return &proxy.Record{Time: time.Unix(1_800_000_000, 0), Service: service, Version: version, By: route.ByBaggage, Status: status, Duration: 30 * time.Millisecond, BytesOut: 500}
}

func TestRequests(t *testing.T) {
	c := newCounted(0)
	c.Record(request("cart@pr-1", 200))
	c.Record(request("cart@pr-1", 204))
	failed := request("cart@pr-1", 503)
	failed.Error, failed.Held, failed.Moves, failed.Lost, failed.Fallback = "overloaded", 2*time.Second, 2, "pr-1", route.FallbackUnknown
	c.Record(failed)
	c.Record(&proxy.Record{Error: "client-gone"})
	text := c.text(t, "text/plain")
	for _, line := range []string{
		`layover_requests_total{by="baggage",fallback="",service="cart",status="2xx",version="pr-1"} 2`,
		`layover_requests_total{by="baggage",fallback="` + route.FallbackUnknown.String() + `",service="cart",status="5xx",version="pr-1"} 1`,
		`layover_requests_total{by="default",fallback="",service="",status="none",version=""} 1`,
		`layover_errors_total{code="overloaded",service="cart",version="pr-1"} 1`,
		`layover_retries_total{service="cart",version="pr-1"} 2`,
		`layover_lost_routes_total{service="cart",version="pr-1"} 1`,
		`layover_held_seconds_sum{service="cart",version="pr-1"} 2`,
		`layover_request_duration_seconds_bucket{by="baggage",fallback="",service="cart",status="2xx",version="pr-1",le="0.025"} 0`,
		`layover_request_duration_seconds_bucket{by="baggage",fallback="",service="cart",status="2xx",version="pr-1",le="0.05"} 2`,
		`layover_response_size_bytes_sum{by="baggage",fallback="",service="cart",status="2xx",version="pr-1"} 1000`,
		`layover_request_size_bytes_count{by="baggage",fallback="",service="cart",status="2xx",version="pr-1"} 2`,
		`layover_metrics_cut_requests_total 0`,
	} {
		require.Contains(t, text, line+"\n")
	}
}

// TestRequests_Exemplar: who looks at a metric finds a trace, where there is one.
func TestRequests_Exemplar(t *testing.T) {
	c := newCounted(0)
	r := request("cart@pr-1", 200)
	r.TraceID = proxy.TraceID{0xab}
	c.Record(r)
	require.NotContains(t, c.text(t, "application/openmetrics-text"), "trace_id", "nobody recorded it")
	r.Recorded = true
	c.Record(r)
	text := c.text(t, "application/openmetrics-text")
	require.Regexp(t, `layover_requests_total\{.*\} 2\.0 # \{trace_id="ab0{30}"\} 1\.0`, text)
	require.Regexp(t, `layover_request_duration_seconds_bucket\{.*le="0\.05"\} 2 # \{trace_id="ab0{30}"\} 0\.03`, text)

	r.TraceID = proxy.TraceID{0xcd}
	c.Record(r)
	require.NotContains(t, c.text(t, "application/openmetrics-text"), `"cd`, "one a second is enough")
	r.Duration = 3 * time.Second
	c.Record(r)
	require.Regexp(t, `bucket\{.*le="5\.0"\} 4 # \{trace_id="cd`, c.text(t, "application/openmetrics-text"), "but the slow ones have theirs")
	r.TraceID, r.Time, r.Duration, r.Recorded, r.Sampled = proxy.TraceID{0xef}, r.Time.Add(time.Second), time.Hour, false, true
	c.Record(r)
	require.Regexp(t, `bucket\{.*le="\+Inf"\} 5 # \{trace_id="ef`, c.text(t, "application/openmetrics-text"), "others record it")
}

func TestRequests_EndWithTheirVersion(t *testing.T) {
	c := newCounted(0)
	c.has("cart@main", true)
	c.has("cart@pr-1", true)
	failed := request("cart@pr-1", 500)
	failed.Error, failed.Held, failed.Moves, failed.Lost = "x", 1, 1, "pr-1"
	c.Record(failed)
	c.Record(request("cart@main", 200))
	c.Record(&proxy.Record{Error: "unknown-host"})
	c.Sweep(time.Now())
	require.Contains(t, c.text(t, ""), "pr-1")

	start := time.Now()
	c.has("cart@pr-1", false)
	c.Sweep(start)
	c.Sweep(start.Add(20 * time.Second))
	require.Contains(t, c.text(t, ""), "pr-1", "its last requests can still be scraped")
	c.Sweep(start.Add(40 * time.Second))
	text := c.text(t, "")
	require.NotContains(t, text, "pr-1")
	require.Contains(t, text, `version="main"`)
	require.Contains(t, text, "unknown-host", "what nothing answered has no version that could end")

	c.Record(request("cart@pr-1", 200)) // the last one that was in flight
	require.Contains(t, c.text(t, ""), "pr-1")
	c.Sweep(start.Add(50 * time.Second))
	c.has("cart@pr-1", true) // it is deployed again
	c.Sweep(start.Add(60 * time.Second))
	c.has("cart@pr-1", false)
	c.Sweep(start.Add(90 * time.Second))
	require.Contains(t, c.text(t, ""), "pr-1", "the time counts anew")
	c.Sweep(start.Add(120 * time.Second))
	require.NotContains(t, c.text(t, ""), "pr-1")
}

// TestRequests_EndWithTheirService: what no version of a service answered ends with the service.
func TestRequests_EndWithTheirService(t *testing.T) {
	c := newCounted(0)
	c.has("cart@", true)
	c.Record(&proxy.Record{Service: "cart", Error: "unknown-route", Status: 421})
	c.Sweep(time.Now())
	c.Sweep(time.Now().Add(time.Minute))
	require.Contains(t, c.text(t, ""), `service="cart"`)
	c.has("cart@", false)
	c.Sweep(time.Now())
	c.Sweep(time.Now().Add(time.Minute))
	require.NotContains(t, c.text(t, ""), `service="cart"`)
}

// TestRequests_RunWithoutScrapes: the series of a version end within a minute, though nobody asks for them.
func TestRequests_RunWithoutScrapes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounted(0)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		c.has("cart@pr-1", true)
		c.Record(request("cart@pr-1", 200))
		time.Sleep(5 * time.Minute)
		require.Contains(t, c.text(t, ""), "pr-1")
		time.Sleep(time.Second)
		c.has("cart@pr-1", false)
		time.Sleep(lingers)
		require.Contains(t, c.text(t, ""), "pr-1")
		time.Sleep(time.Minute - lingers)
		require.NotContains(t, c.text(t, ""), "pr-1")
		cancel()
		require.NoError(t, <-ended)
	})
}

// TestRequests_AreBounded: as many versions as one likes are no more series than were asked for, and what has none is counted.
func TestRequests_AreBounded(t *testing.T) {
	c := newCounted(10)
	for i := range 100 {
		id := fmt.Sprint("cart@pr-", i)
		c.has(id, true)
		c.Record(request(id, 200))
	}
	text := c.text(t, "")
	require.Equal(t, 11, strings.Count(text, "\nlayover_requests_total{"))
	require.Contains(t, text, `layover_requests_total{by="baggage",fallback="",service="(other)",status="2xx",version="(other)"} 90`)
	require.Contains(t, text, "layover_metrics_cut_requests_total 90\n")

	c.Sweep(time.Unix(1_800_000_000, 0).Add(2 * idleFor)) // those that nobody calls make room
	c.Record(request("cart@pr-99", 200))
	require.Contains(t, c.text(t, ""), `version="pr-99"`)
}

// TestRequests_AtATime: requests, sweeps and scrapes go on beside each other.
func TestRequests_AtATime(t *testing.T) {
	c := newCounted(50)
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 2000 {
				id := fmt.Sprint("cart@pr-", (i+worker)%100)
				c.has(id, i%3 == 0)
				c.Record(request(id, 200+100*(i%4)))
				if i%50 == 0 {
					c.Sweep(time.Now())
				}
			}
		})
	}
	all.Wait()
	for i := range 100 {
		c.has(fmt.Sprint("cart@pr-", i), false)
	}
	c.Sweep(time.Now())
	c.Sweep(time.Now().Add(lingers))
	text := c.text(t, "")
	require.NotContains(t, text, `version="pr-`, "no series is left behind")
	c.Sweep(time.Now().Add(24 * time.Hour))
	require.LessOrEqual(t, c.count.Load(), int64(1))
}

func BenchmarkRequests(b *testing.B) {
	for name, recorded := range map[string]bool{"plain": false, "recorded": true} {
		b.Run(name, func(b *testing.B) {
			c := newCounted(0)
			r := request("cart@pr-1", 200)
			r.Recorded, r.TraceID = recorded, proxy.TraceID{1}
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				r.Time = time.Unix(1_800_000_000, int64(n)*int64(100*time.Microsecond)) // 10,000 a second
				r.Duration = time.Duration(n%4000) * time.Millisecond
				c.Record(r)
			}
		})
	}
}

// TestRequests_CostNothing: what is counted of a request is no garbage.
func TestRequests_CostNothing(t *testing.T) {
	c := newCounted(0)
	r := request("cart@pr-1", 200)
	c.Record(r)
	require.Zero(t, testing.AllocsPerRun(1000, func() { c.Record(r) }))
}

// TestRequests_OfAProxy: what a real proxy hands over is counted, without a word about it.
func TestRequests_OfAProxy(t *testing.T) {
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer instance.Close()
	table, err := route.Compile(route.Spec{Services: []route.Service{{Name: "cart", Versions: []route.Version{{
		Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "i", Address: instance.Listener.Addr().String()}},
	}}}}})
	require.NoError(t, err)
	c := newCounted(0)
	p := proxy.New(proxy.Options{Recorder: c.Record, Logger: slog.New(slog.DiscardHandler)})
	p.SetTable(table)
	for range 3 {
		r := httptest.NewRequest(http.MethodGet, "http://cart.localhost/", nil)
		p.ServeHTTP(httptest.NewRecorder(), r)
	}
	require.Contains(t, c.text(t, ""), `layover_requests_total{by="default",fallback="",service="cart",status="2xx",version="main"} 3`)
	require.Contains(t, c.text(t, ""), `layover_response_size_bytes_sum{by="default",fallback="",service="cart",status="2xx",version="main"} 15`)
}
