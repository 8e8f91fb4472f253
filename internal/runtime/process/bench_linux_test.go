package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

// BenchmarkStart measures how long Start and Stop take, and what memory a
// supervisor has for itself (private) and with what it shares (rss).
func BenchmarkStart(b *testing.B) {
	r, err := New(Options{Dir: b.TempDir(), Environment: "shop"})
	require.NoError(b, err)
	var starting, stopping time.Duration
	var rss, private float64
	for b.Loop() {
		began := time.Now()
		status, err := r.Start(b.Context(), appWorkload("cart", nil), nil)
		require.NoError(b, err)
		starting += time.Since(began)
		runtimetest.Ask(b, status.Addresses[0])
		s, err := r.folder("cart").state()
		require.NoError(b, err)
		rss += memoryOf(b, s.Supervisor, "Rss")
		private += memoryOf(b, s.Supervisor, "Private_Clean") + memoryOf(b, s.Supervisor, "Private_Dirty")
		began = time.Now()
		require.NoError(b, r.Stop(b.Context(), "cart", time.Second))
		stopping += time.Since(began)
	}
	n := float64(b.N)
	b.ReportMetric(float64(starting.Microseconds())/n/1000, "start-ms/op")
	b.ReportMetric(float64(stopping.Microseconds())/n/1000, "stop-ms/op")
	b.ReportMetric(rss/n, "rss-KiB")
	b.ReportMetric(private/n, "private-KiB")
}

// BenchmarkListHundred measures a look at a hundred instances.
func BenchmarkListHundred(b *testing.B) {
	r, err := New(Options{Dir: b.TempDir(), Environment: "shop"})
	require.NoError(b, err)
	for i := range 100 {
		f := r.folder("cart-" + strconv.Itoa(i))
		require.NoError(b, os.Mkdir(f.path, 0o700))
		require.NoError(b, f.writePlan(plan{ID: f.id, StartedAt: time.Now()}))
		lock, err := f.lock()
		require.NoError(b, err)
		b.Cleanup(func() { _ = lock.Close() })
	}
	b.ReportAllocs()
	for b.Loop() {
		var all []control.Status
		all, err = r.List(b.Context())
		require.NoError(b, err)
		require.Len(b, all, 100)
	}
}

// memoryOf returns a field of the memory map of a process, in KiB.
func memoryOf(b *testing.B, pid int, field string) float64 {
	b.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	require.NoError(b, err)
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			require.NoError(b, err)
			return kib
		}
	}
	b.Fatalf("no %s in the memory map", field)
	return 0
}
