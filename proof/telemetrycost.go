package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/receipt"
	"github.com/layover-dev/layover/internal/receipt/sender"
	"github.com/layover-dev/layover/internal/route"
)

// telemetryPlan says how much the proof does.
type telemetryPlan struct {
	rounds, requests int           // of each proxy
	rate             int           // requests a second that are told of
	lasts            time.Duration // that rate
	kept             int           // requests that a store takes in
}

func telemetryFull() telemetryPlan {
	return telemetryPlan{9, 20_000, 20_000, 10 * time.Second, 1_000_000}
}

const (
	telemetryMore   = 1.10
	telemetryMemory = 200 << 20
)

// proveTelemetryCost compares the processor time of two proxies of which one tells the server of every request, tells of many
// a second, and fills the store of a server.
func proveTelemetryCost(plan telemetryPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) {
		memory := storeMemory(plan.kept)
		fmt.Printf("  a store that took in %d requests takes %.0f MiB\n", plan.kept, float64(memory)/(1<<20))
		told, busy, err := telling(ctx, plan)
		if err != nil {
			return result{}, err
		}
		fmt.Printf("  %d requests a second: all %d were told of and taken in, with %.2f of a CPU\n", plan.rate, told, busy)
		off, on, err := proxiesOffAndOn(ctx, plan)
		if err != nil {
			return result{}, err
		}
		sent := int(plan.lasts.Seconds()) * plan.rate
		return result{
			figure: fmt.Sprintf("a request costs the proxy %.1f µs of a CPU, and %.1f µs with all told of, counted and none sampled: %.2f ×; %d of %d requests at %d a second told of with %.2f of a CPU, server included; receipts and X-ray of %d requests in %.0f MiB",
				off, on, on/off, told, sent, plan.rate, busy, plan.kept, float64(memory)/(1<<20)),
			bar: fmt.Sprintf("%.2f ×; all, 1 CPU; %d MiB", telemetryMore, telemetryMemory>>20),
			ok:  on/off <= telemetryMore && told == sent && busy < 1 && memory < telemetryMemory,
		}, nil
	}
}

// telemetryRecord is a request with a route and a trace: of those all are told of.
func telemetryRecord(n int) *proxy.Record {
	r := &proxy.Record{
		Time: time.Now(), Method: http.MethodGet, Host: "cart.localhost", Path: "/api/v1/carts/4711/items", Service: "cart", Version: fmt.Sprintf("feature-%d", n%100),
		Instance: fmt.Sprintf("cart--feature-%d--1", n%100), Route: fmt.Sprintf("feature-%d", n%100), By: route.ByBaggage, Status: http.StatusOK,
		Duration: time.Millisecond, Caller: "storefront--main--1", CallerOf: "storefront@main",
	}
	binary.LittleEndian.PutUint64(r.TraceID[:], uint64(n/5)+1) // five hops of each trace
	return r
}

// tell runs a sender to a store until ctx ends.
func tell(ctx context.Context, store *receipt.Store, took func(int)) (*sender.Sender, *sync.WaitGroup) {
	s := sender.New("proof", func(_ context.Context, b api.HopBatch) error {
		store.Add(b)
		took(len(b.Hops))
		return nil
	}, slog.New(slog.DiscardHandler))
	var group sync.WaitGroup
	group.Go(func() { _ = s.Run(ctx) })
	return s, &group
}

// storeMemory is how much more memory is in use once a store has taken in many requests, in bytes.
func storeMemory(requests int) int64 {
	used := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	before := used()
	store := receipt.New(receipt.Options{})
	for n := 0; n < requests; n += 1000 {
		batch := api.HopBatch{Proxy: "proof"}
		for i := n; i < n+1000; i++ {
			r := telemetryRecord(i)
			batch.Hops = append(batch.Hops, api.Hop{
				Time: r.Time, Trace: r.TraceID.String(), Duration: api.Duration(r.Duration), Service: r.Service, Version: r.Version, Instance: r.Instance,
				Caller: r.Caller, CallerOf: r.CallerOf, Method: r.Method, Host: r.Host, Path: r.Path, Route: r.Route, By: r.By.String(), Status: r.Status,
			})
		}
		store.Add(batch)
	}
	after := used()
	_ = store.XRay() // so that it is still there
	return after - before
}

// telling has requests told of at a rate, and returns how many a store took in, and how many CPUs were busy with that.
func telling(ctx context.Context, plan telemetryPlan) (told int, busy float64, err error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	s, group := tell(running, receipt.New(receipt.Options{}), func(n int) { told += n })
	records := make([]*proxy.Record, 10_000)
	for n := range records {
		records[n] = telemetryRecord(n)
	}
	cpu, err := cpuOf(os.Getpid())
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; time.Since(began) < plan.lasts; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
		for due := min(int(time.Since(began).Seconds()*float64(plan.rate)), int(plan.lasts.Seconds())*plan.rate); sent < due; sent++ {
			s.Record(records[sent%len(records)])
		}
	}
	took := time.Since(began)
	if err := pause(ctx, time.Second); err != nil {
		return 0, 0, err
	}
	after, err := cpuOf(os.Getpid())
	cancel()
	group.Wait()
	return told, (after - cpu).Seconds() / took.Seconds(), err
}

// proxiesOffAndOn returns what a request costs a proxy without any telemetry, and one that tells the server of all, counts them for
// metrics and decides of each whether it gets a span (none does), in microseconds of a CPU: the median of rounds by turns.
func proxiesOffAndOn(ctx context.Context, plan telemetryPlan) (off, on float64, err error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	if err := e.write(fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
services:
  pricing:
    run: {process: {command: [%q, %s, "1"]}}
    versions: {x: {command: [%q, %s, "1"]}}
`, e.proxyPort, self, backendCommand, self, backendCommand)); err != nil {
		return 0, 0, err
	}
	if err := errors.Join(e.start(ctx), e.allRun(ctx)); err != nil {
		return 0, 0, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return 0, 0, err
	}
	var proxies [2]*exec.Cmd
	for i, settings := range [][]string{
		{"LAYOVER_TELEMETRY_REQUESTS=false", "LAYOVER_TELEMETRY_METRICS_VERSIONS=0"},
		{ // all there is, with nothing sampled; the receiver is not there, as for a network that is down
			"LAYOVER_TELEMETRY_OTLP_ENDPOINT=http://127.0.0.1:9", "LAYOVER_TELEMETRY_TRACES_SAMPLE=0", "LAYOVER_TELEMETRY_TRACES_SAMPLE_ROUTED=0",
			"LAYOVER_TELEMETRY_RECEIVER_LISTEN=127.0.0.1:0",
		},
	} {
		p := exec.Command(e.binary, "proxy", "--server", e.serverURL, "--listen", "127.0.0.1:"+ports[i], "--admin", "off", "--id", fmt.Sprint("proof-", i))
		p.Env = append(os.Environ(), settings...)
		if err := p.Start(); err != nil {
			return 0, 0, err
		}
		defer func() {
			_ = p.Process.Signal(syscall.SIGTERM)
			_ = p.Wait() // it was asked to end
		}()
		proxies[i] = p
	}
	var costs [2][]float64
	for round := range plan.rounds + 1 {
		for i, p := range proxies {
			cost, err := costOfRequests(ctx, p.Process.Pid, ports[i], plan.requests)
			if err != nil {
				return 0, 0, err
			}
			if round > 0 { // the first one warms up
				costs[i] = append(costs[i], cost)
			}
		}
	}
	median := func(of []float64) float64 {
		slices.Sort(of)
		return of[len(of)/2]
	}
	return median(costs[0]), median(costs[1]), nil
}

// costOfRequests sends requests through a proxy, and returns what one cost its process, in microseconds.
func costOfRequests(ctx context.Context, pid int, port string, requests int) (float64, error) {
	const clients = 8
	if err := until(ctx, time.Minute, func() (bool, error) { return telemetryRequest(ctx, http.DefaultClient, port, 0) == nil, nil },
		func() string { return "a proxy does not answer" }); err != nil {
		return 0, err
	}
	before, err := cpuOf(pid)
	if err != nil {
		return 0, err
	}
	var group sync.WaitGroup
	failed := make([]error, clients)
	for c := range clients {
		group.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
			defer client.CloseIdleConnections()
			for n := range requests / clients {
				if err := telemetryRequest(ctx, client, port, c*requests+n); err != nil {
					failed[c] = err
					return
				}
			}
		})
	}
	group.Wait()
	if err := errors.Join(failed...); err != nil {
		return 0, err
	}
	if err := pause(ctx, time.Second); err != nil { // what is told later counts as well
		return 0, err
	}
	after, err := cpuOf(pid)
	return float64((after - before).Microseconds()) / float64(requests), err
}

func telemetryRequest(ctx context.Context, client *http.Client, port string, n int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/", nil)
	if err != nil {
		return err
	}
	req.Host = "pricing.localhost"
	req.Header.Set("Baggage", "dynamic_route=x")
	req.Header.Set("Traceparent", fmt.Sprintf("00-%032x-00f067aa0ba902b7-00", n+1))
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err = io.Copy(io.Discard, res.Body); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %d", res.StatusCode)
	}
	return err
}
