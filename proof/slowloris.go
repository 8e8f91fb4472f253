package main

import (
	"context"
	"fmt"
	"time"

	"github.com/layover-dev/layover/bench/harness"
)

const (
	slowConnections = 10_000
	slowMemory      = 64 << 20 // of the proxy, at its peak
	slowDuration    = 40 * time.Second
	slowTimeout     = 5 * time.Second // of a normal request, connecting included
	slowRate        = 500             // normal requests a second beside them

	// slowMemoryLimit is what a person with 64 MiB gives to a Go program: some room is left for what the
	// limit does not count.
	slowMemoryLimit = "GOMEMLIMIT=44MiB"
)

// proveSlowloris keeps slow connections at the proxy, and sends normal requests beside them.
func proveSlowloris(connections int, duration time.Duration) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) {
		return slowloris(ctx, connections, duration, harness.Layover{Env: []string{slowMemoryLimit}})
	}
}

func slowloris(ctx context.Context, connections int, duration time.Duration, layover harness.Peer) (result, error) {
	if err := harness.Supported(); err != nil {
		return result{}, err
	}
	fmt.Println("  building layover")
	if err := (harness.Layover{}).Install(ctx); err != nil {
		return result{}, err
	}
	if err := harness.RaiseFileLimit(uint64(connections) + 6000); err != nil {
		return result{}, err
	}
	backend, err := harness.StartBackend(ctx)
	if err != nil {
		return result{}, err
	}
	defer backend.Stop()
	running, err := harness.StartPeer(ctx, layover, harness.NewRoutes(100, harness.Bulk), backend)
	if err != nil {
		return result{}, err
	}
	defer running.Stop()

	load := harness.Load{
		Address: running.Address, Routes: running.Setup.Routes, Connections: 32, Rate: slowRate, Reuse: 20,
		Timeout: slowTimeout, Duration: 3 * time.Second,
	}
	quiet, err := load.Run(ctx)
	if err != nil {
		return result{}, fmt.Errorf("before the attack: %w", err)
	}
	fmt.Printf("  quiet: %d requests, p99 %.1f ms\n", quiet.Requests, inMilliseconds(quiet.P99))
	crawl := harness.Crawl{
		Address: running.Address, Routes: running.Setup.Routes,
		Unread: connections / 50, Bodies: connections * 8 / 100,
	}
	crawl.Heads = connections - crawl.Unread - crawl.Bodies

	type outcome struct {
		result harness.Result
		err    error
	}
	beside := make(chan outcome, 1)
	load.Duration = duration
	go func() {
		r, err := load.Run(ctx)
		beside <- outcome{r, err}
	}()
	attack, err := crawl.Start(ctx)
	if err != nil {
		return result{}, err
	}
	got := <-beside
	slow, err := attack.Stop(ctx)
	if err != nil {
		return result{}, fmt.Errorf("the attack: %w", err)
	}
	if got.err != nil {
		fmt.Printf("  %v\n", got.err)
	}
	memory, err := harness.MemoryOf(running.PID())
	if err != nil {
		return result{}, fmt.Errorf("the proxy: %w; it said: %s", err, running.Said())
	}
	fmt.Printf("  slow connections: %d made, %d at once, %d ended by the proxy, %d refused\n", slow.Made, slow.Most, slow.Ended, slow.Refused)
	fmt.Printf("  beside them: %d requests, p50 %.1f ms, p99 %.1f ms, slowest %.0f ms\n", got.result.Requests,
		inMilliseconds(got.result.P50), inMilliseconds(got.result.P99), inMilliseconds(got.result.Max))
	tried := slow.Made >= int64(connections)
	return result{
		figure: fmt.Sprintf("%d of %d normal requests failed beside %d slow connections (%d at once); %.1f MiB of memory at the peak",
			got.result.Failed, got.result.Failed+got.result.Requests, slow.Made, slow.Most, mebibytes(memory.Peak)),
		bar: fmt.Sprintf("0 failed or slower than %s, beside %d; %.0f MiB, with %s", slowTimeout, connections, mebibytes(slowMemory), slowMemoryLimit),
		ok:  got.err == nil && got.result.Failed == 0 && tried && memory.Peak <= slowMemory,
	}, nil
}

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
