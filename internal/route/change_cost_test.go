//go:build !race

package route_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route/routetest"
)

// The race detector takes memory of its own, and gigabytes for a table of 1,000,000
// versions: what is counted here is counted without it.

// TestApply_CostsWhatChanges holds that a change allocates what it takes for one
// version, whatever the table has.
func TestApply_CostsWhatChanges(t *testing.T) {
	const changes = 2000
	perChange := func(versions int) float64 {
		services, each := routetest.Shape(versions)
		table := compiled(t, routetest.Spec(services, each))
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for n := range changes {
			var err error
			table, err = table.Apply(routetest.Change(table, services, each, n))
			require.NoError(t, err)
		}
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc-before.TotalAlloc) / changes
	}
	small, large := perChange(1000), perChange(1_000_000)
	t.Logf("%.0f bytes a change with 1,000 versions, %.0f with 1,000,000", small, large)
	require.Less(t, large/small, 3.0)
	require.Less(t, large, 64_000.0)
}

// TestApply_MemoryOfATable holds what a version with one instance takes.
func TestApply_MemoryOfATable(t *testing.T) {
	const versions = 100_000
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	table := compiled(t, routetest.Spec(routetest.Shape(versions)))
	each := float64(heap()-before) / versions
	t.Logf("%.0f bytes a version", each)
	require.Less(t, each, 500.0)
	runtime.KeepAlive(table)
}
