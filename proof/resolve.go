package main

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
)

const (
	resolveLimit = 300 * time.Nanosecond
	resolveRatio = 2.0
	// resolveInUse is how many versions the requests are for, picked from anywhere in
	// the table: what some hundred people have traffic for at a time. With more of them
	// it is the processor that is measured, as what it reads of each has to come from
	// memory; that is printed too.
	resolveInUse = 1_000
	manyInUse    = 10_000
	// Rounds are many and short, to fall between what else a machine does.
	resolveRounds = 20
	resolveCalls  = 1 << 17 // in a round
)

// resolveChanges is how many changes of one version lead to the table that is measured.
const resolveChanges = 2_000

// proveResolve measures a decision with tables of growing size, and what the change of
// one version takes.
func proveResolve(ctx context.Context) (result, error) {
	var smallest, largest, many, cold time.Duration
	allocs := 0.0
	var change time.Duration
	fmt.Printf("  %9s  %12s  %12s  %12s  %12s  %s\n", "versions", "1,000 used", "10,000 used", "all used", "a change", "allocations")
	for _, versions := range []int{100, 1_000, 10_000, 100_000, 1_000_000} {
		if err := ctx.Err(); err != nil {
			return result{}, err
		}
		var table *route.Table
		var err error
		if table, change, err = changedTable(routetest.Shape(versions)); err != nil {
			return result{}, err
		}
		if largest, err = lowestCost(table, resolveInUse); err != nil {
			return result{}, err
		}
		if many, err = lowestCost(table, manyInUse); err != nil {
			return result{}, err
		}
		if cold, err = lowestCost(table, 0); err != nil {
			return result{}, err
		}
		n := allocsPerResolve(table)
		fmt.Printf("  %9d  %9d ns  %9d ns  %9d ns  %9d ns  %g\n", versions,
			largest.Nanoseconds(), many.Nanoseconds(), cold.Nanoseconds(), change.Nanoseconds(), n)
		allocs = max(allocs, n)
		if smallest == 0 {
			smallest = largest
		}
		runtime.GC()
	}
	ratio := float64(largest) / float64(smallest)
	return result{
		figure: fmt.Sprintf("%d ns and %g allocations at 1,000,000 versions, %.2f × the cost at 100 (%d ns with 10,000 in use, %d ns with all; %d µs for a change)",
			largest.Nanoseconds(), allocs, ratio, many.Nanoseconds(), cold.Nanoseconds(), change.Microseconds()),
		bar: fmt.Sprintf("%d ns, 0 allocations, %g ×, with 1,000 versions in use", resolveLimit.Nanoseconds(), resolveRatio),
		ok:  allocs == 0 && largest <= resolveLimit && ratio <= resolveRatio,
	}, nil
}

// changedTable makes a table of so many services and versions, and changes it one
// version at a time. It returns what a change took, as the mean.
func changedTable(services, versionsPerService int) (*route.Table, time.Duration, error) {
	table, err := route.Compile(routetest.Spec(services, versionsPerService))
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	for n := range resolveChanges {
		if table, err = table.Apply(routetest.Change(table, services, versionsPerService, n)); err != nil {
			return nil, 0, err
		}
	}
	return table, time.Since(start) / resolveChanges, nil
}

// lowestCost is the best round: a machine that is busy elsewhere only adds.
func lowestCost(table *route.Table, inUse int) (time.Duration, error) {
	lowest := time.Duration(1<<63 - 1)
	for range resolveRounds {
		cost, err := routetest.Cost(table, inUse, resolveCalls)
		if err != nil {
			return 0, err
		}
		lowest = min(lowest, cost)
	}
	return lowest, nil
}

// allocsPerResolve counts over plain, percent-encoded, fallback and preview requests alike.
func allocsPerResolve(table *route.Table) float64 {
	spec := table.Spec()
	requests := make([]route.Request, 256)
	routetest.NewRequests(spec, 0, 2).Fill(requests)
	host := spec.Services[0].Hosts[0]
	requests = append(requests,
		route.Request{Host: host, Baggage: []string{"dynamic_route=service-0%40feature-2"}},
		route.Request{Host: host, Baggage: []string{"dynamic_route=nobody-knows-this~feature-2"}},
		route.Request{Host: host, Baggage: []string{"dynamic_route=nobody-knows-this!"}},
		route.Request{Host: "feature-2--" + host, Cookie: []string{"a=b; layover_route=x"}},
		route.Request{Host: "UNKNOWN.example:80"},
	)
	return testing.AllocsPerRun(100, func() {
		for i := range requests {
			_ = table.Resolve(&requests[i])
		}
	})
}
