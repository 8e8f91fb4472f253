package route_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
)

// BenchmarkResolve shows that a decision costs the same however many versions
// there are; what grows is what a cache miss costs. The figure that counts is
// ns/resolve: it leaves out making the requests.
func BenchmarkResolve(b *testing.B) {
	for _, versions := range []int{10, 100, 1_000, 10_000, 100_000, 1_000_000} {
		table, err := route.Compile(routetest.Spec(routetest.Shape(versions)))
		require.NoError(b, err)
		for name, inUse := range map[string]int{"all": 0, "1000": 1000, "10000": 10_000} {
			b.Run(fmt.Sprintf("versions=%d/in-use=%s", versions, name), func(b *testing.B) {
				cost, err := routetest.Cost(table, inUse, max(b.N, 1000))
				require.NoError(b, err)
				b.ReportMetric(float64(cost.Nanoseconds()), "ns/resolve")
			})
		}
	}
}

// BenchmarkCompile shows what a table takes to make.
func BenchmarkCompile(b *testing.B) {
	for _, versions := range []int{100, 10_000, 1_000_000} {
		spec := routetest.Spec(routetest.Shape(versions))
		b.Run(fmt.Sprintf("versions=%d", versions), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := route.Compile(spec)
				require.NoError(b, err)
			}
		})
	}
}
