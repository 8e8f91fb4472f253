package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/route"
)

// The bars of a request's cost, in processor time of the proxy. The peers are measured in the same run.
const (
	costOfNginx        = 1.5  // at 100 routes
	costOfTraefik      = 0.4  // at 100 routes
	costOfTraefikMany  = 0.09 // at 10,000 routes
	costOfOwn          = 1.15 // at 1,000,000 versions, times the cost at 100
	costOfTraefikHTTP2 = 0.8  // at 100 routes, h2 and gRPC

	// costRate is at what rate the proxy is compared with itself, in requests a second. At its
	// limit, how often it finds more to do without being woken, which the kernel charges it for,
	// depends on how fast the generator is, and that has a harder time with ten thousand different requests.
	costRate = 9_000

	costRounds   = 5
	costDuration = 3 * time.Second
)

// proveCost measures what a request costs the proxy, beside nginx and Traefik.
func proveCost(ctx context.Context) (result, error) {
	peers, err := harness.PeersNamed("nginx", "traefik", "layover")
	if err != nil {
		return result{}, err
	}
	nginx, traefik, layover := peers[0], peers[1], peers[2]
	if _, leftOut := harness.Install(ctx, peers); len(leftOut) > 0 {
		var all []error
		for name, why := range leftOut {
			all = append(all, fmt.Errorf("%s: %w", name, why))
		}
		return result{}, errors.Join(all...)
	}
	few := func(p harness.Peer) harness.Entry { return harness.Entry{Peer: p, Routes: 100} }
	many := func(p harness.Peer) harness.Entry { return harness.Entry{Peer: p, Routes: 10_000} }
	var c costs
	c.compare(ctx, route.HTTP1, few(layover), bar{few(nginx), costOfNginx}, bar{few(traefik), costOfTraefik})
	c.compare(ctx, route.HTTP1, many(layover), bar{many(traefik), costOfTraefikMany})
	c.compareAt(ctx, costRate, route.HTTP1, harness.Entry{Peer: layover, Routes: 1_000_000}, bar{few(layover), costOfOwn})
	c.compare(ctx, route.H2C, few(layover), bar{few(traefik), costOfTraefikHTTP2})
	c.compare(ctx, harness.GRPC, few(layover), bar{few(traefik), costOfTraefikHTTP2})
	return result{figure: c.figure, bar: c.bar, ok: !c.short}, c.err
}

// bar is what something may cost, as a multiple of what the entry costs.
type bar struct {
	entry harness.Entry
	limit float64
}

// costs collects comparisons.
type costs struct {
	figure, bar string
	short       bool
	err         error
}

// compare measures one entry and those that it is held to, at their limits.
func (c *costs) compare(ctx context.Context, protocol route.Protocol, own harness.Entry, bars ...bar) {
	c.compareAt(ctx, 0, protocol, own, bars...)
}

// compareAt measures one entry and those that it is held to, in turn, and takes medians.
func (c *costs) compareAt(ctx context.Context, rate float64, protocol route.Protocol, own harness.Entry, bars ...bar) {
	if c.err != nil {
		return
	}
	fmt.Printf("  %s\n", protocol)
	entries := []harness.Entry{own}
	for _, b := range bars {
		entries = append(entries, b.entry)
	}
	rows, err := harness.Comparison{
		Protocol: protocol, Rounds: costRounds, Duration: costDuration, Connections: 32, Rate: rate,
		Progress: func(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) },
	}.CPU(ctx, entries...)
	if err != nil {
		c.err = err
		return
	}
	for i, b := range bars {
		mine, theirs := rows[0], rows[i+1]
		ratio := mine.CPUPerRequest / theirs.CPUPerRequest
		if c.figure != "" {
			c.figure, c.bar = c.figure+"; ", c.bar+"; "
		}
		c.figure += fmt.Sprintf("%s %d routes: %.1f µs, %.2f × %s's %.1f at %d", protocol, mine.Routes, mine.CPUPerRequest,
			ratio, theirs.Peer, theirs.CPUPerRequest, theirs.Routes)
		c.bar += fmt.Sprintf("%g ×", b.limit)
		c.short = c.short || ratio > b.limit
	}
}
