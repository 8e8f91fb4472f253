package main

import (
	"context"
	"fmt"
	"time"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/route"
)

const (
	hybridFew      = 10
	hybridMany     = 10_000
	hybridServices = 10
	hybridBar      = 1.10 // of Traefik's processor time for a request
	hybridRounds   = 7
	hybridDuration = 3 * time.Second
)

// proveTraefikHybrid measures what a request that carries a route costs Traefik in the mode hybrid, whose work is
// done by Layover's proxy behind it.
func proveTraefikHybrid(ctx context.Context) (result, error) {
	peer := harness.TraefikHybrid{}
	if err := harness.Supported(); err != nil {
		return result{}, err
	}
	if err := harness.RaiseFileLimit(16_384); err != nil {
		return result{}, err
	}
	if err := peer.Install(ctx); err != nil {
		return result{}, err
	}
	backend, err := harness.StartBackend(ctx)
	if err != nil {
		return result{}, err
	}
	defer backend.Stop()
	var all [2]*harness.Running
	var cpu, perSecond [2][]float64
	for i, versions := range []int{hybridFew, hybridMany} {
		routes := harness.Routes{Services: hybridServices, Versions: versions / hybridServices, Protocol: route.HTTP1}
		if all[i], err = harness.StartPeer(ctx, peer, routes, backend); err != nil {
			return result{}, err
		}
		defer all[i].Stop()
	}
	for round := range hybridRounds {
		for i, running := range all {
			r, err := harness.Load{
				Address: running.Address, PID: running.PID(), Routes: running.Setup.Routes, InUse: harness.MaxInUse,
				Connections: 32, WarmUp: 500 * time.Millisecond, Duration: hybridDuration, Seed: uint64(round),
			}.Run(ctx)
			if err != nil {
				return result{}, err
			}
			cpu[i], perSecond[i] = append(cpu[i], r.CPUPerRequest()), append(perSecond[i], r.PerSecond())
			fmt.Printf("  %6d versions of %d services, round %d: %.1f µs of Traefik's CPU per request, %.0f requests/s\n",
				running.Setup.Routes.Len(), hybridServices, round+1, r.CPUPerRequest(), r.PerSecond())
		}
	}
	few, many := harness.Median(cpu[0]), harness.Median(cpu[1])
	return result{
		figure: fmt.Sprintf("%.1f µs of Traefik's CPU per request with %d versions, %.1f with %d: %.2f ×", few, hybridFew, many, hybridMany, many/few),
		bar:    fmt.Sprintf("%.2f ×", hybridBar),
		ok:     many <= hybridBar*few,
	}, nil
}
