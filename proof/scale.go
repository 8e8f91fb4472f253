package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/route"
)

const (
	scaleVersions = 100_000
	scaleMemory   = 150e6 // bytes resident, after traffic
	scaleLive     = 20 * time.Millisecond
	scaleBusy     = 1.5  // × the quiet p99, with 100 changes a second
	scaleRate     = 1000 // requests a second at most; a quarter of what the proxy can do, where that is less
	scaleChanges  = 300
	scaleLeast    = 95 // changes a second that must have been made, of 100 tried
	scaleRounds   = 7
)

// proveScale measures the proxy with many versions: its memory, how soon a change
// is live, and what changes do to requests.
func proveScale(ctx context.Context) (result, error) {
	if err := harness.Supported(); err != nil {
		return result{}, err
	}
	fmt.Println("  building layover")
	if err := (harness.Layover{}).Install(ctx); err != nil {
		return result{}, err
	}
	backend, err := harness.StartBackend(ctx)
	if err != nil {
		return result{}, err
	}
	defer backend.Stop()
	began := time.Now()
	running, err := harness.StartPeer(ctx, harness.Layover{}, harness.NewRoutes(scaleVersions, route.HTTP1), backend)
	if err != nil {
		return result{}, err
	}
	defer running.Stop()
	fmt.Printf("  %d versions, right after %.1f s\n", scaleVersions, time.Since(began).Seconds())
	load := harness.Load{
		Address: running.Address, Routes: running.Setup.Routes, InUse: harness.MaxInUse,
		Connections: 32, WarmUp: time.Second, Duration: 3 * time.Second,
	}
	atLimit, err := load.Run(ctx)
	if err != nil {
		return result{}, err
	}
	memory, err := harness.MemoryOf(running.PID())
	if err != nil {
		return result{}, err
	}
	fmt.Printf("  %.0f requests/s, then %.1f MB resident, %.1f MB at the peak\n", atLimit.PerSecond(), harness.MB(memory.Resident), harness.MB(memory.Peak))
	live, err := changesLive(ctx, running)
	if err != nil {
		return result{}, err
	}
	load.Rate = min(scaleRate, atLimit.PerSecond()/4)
	quiet, busy, changes, err := quietAndBusy(ctx, running, load)
	if err != nil {
		return result{}, err
	}
	after, err := harness.MemoryOf(running.PID())
	if err != nil {
		return result{}, err
	}
	fmt.Printf("  after the changes %.1f MB resident, %.1f MB at the peak\n", harness.MB(after.Resident), harness.MB(after.Peak))
	resident := max(memory.Resident, after.Resident)
	return result{
		figure: fmt.Sprintf("%.1f MB resident; a change is live after %.2f ms (p99 of %d); p99 %.2f ms with %.0f changes a second, %.2f × the quiet one",
			harness.MB(resident), inMilliseconds(live), scaleChanges, busy, changes, busy/quiet),
		bar: fmt.Sprintf("%.0f MB; %d ms; %g × with 100 a second", harness.MB(scaleMemory), scaleLive.Milliseconds(), scaleBusy),
		ok:  resident <= scaleMemory && live <= scaleLive && busy <= scaleBusy*quiet && changes >= scaleLeast,
	}, nil
}

// changesLive adds versions one by one, and returns the p99 of the time from the change to the first request
// that the new version answers.
func changesLive(ctx context.Context, running *harness.Running) (time.Duration, error) {
	var took []time.Duration
	routes := running.Setup.Routes
	for i := range scaleChanges {
		service := i % routes.Services
		d, err := running.Routed(ctx, harness.Added{
			Service: service, Name: fmt.Sprintf("live-%d", i),
			Backend: (routes.Backend(service, 0) + 1) % harness.Backends, // not that of the default version
		})
		if err != nil {
			return 0, err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	fmt.Printf("  a change is live after %.2f ms (p50), %.2f ms (slowest of %d)\n", inMilliseconds(took[len(took)/2]),
		inMilliseconds(took[len(took)-1]), len(took))
	return took[len(took)*99/100], nil
}

// quietAndBusy returns the medians of the p99 of rounds without and with changes, in milliseconds, and of
// the changes made in a second.
func quietAndBusy(ctx context.Context, running *harness.Running, load harness.Load) (quiet, busy, changes float64, err error) {
	load.WarmUp = 200 * time.Millisecond
	var still, changing, made []float64
	for round := range scaleRounds {
		load.Seed = uint64(round)
		r, err := load.Run(ctx)
		if err != nil {
			return 0, 0, 0, err
		}
		still = append(still, inMilliseconds(r.P99))
		b, perSecond, err := harness.UnderChanges(ctx, running, load)
		if err != nil {
			return 0, 0, 0, err
		}
		changing, made = append(changing, inMilliseconds(b.P99)), append(made, perSecond)
		fmt.Printf("    round %d: p99 %.2f ms quiet, %.2f ms with %.0f changes a second\n", round+1, inMilliseconds(r.P99), inMilliseconds(b.P99), perSecond)
	}
	return harness.Median(still), harness.Median(changing), harness.Median(made), nil
}
