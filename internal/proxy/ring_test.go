package proxy

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

func sample() *Record {
	return &Record{
		Time: time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC), Method: "GET", Host: "cart.localhost", Path: "/a/b",
		Peer: netip.MustParseAddrPort("10.1.2.3:4567"), Caller: "web-1", Service: "cart", Version: "pr-1", Instance: "cart-7",
		Upstream: "127.0.0.1:9000", Route: "pr-1~x", By: route.ByBaggage, Fallback: route.FallbackUnknown, Revision: 9,
		Status: 200, Error: "", BytesIn: 3, BytesOut: 5, Held: time.Second, FirstByte: 1234567, Duration: 2 * time.Millisecond,
		TraceID: TraceID{1, 2, 15: 255},
	}
}

func TestRing_KeepsWhatFits(t *testing.T) {
	ring := NewRing(3)
	require.Len(t, ring.places, 4)
	whole, long := sample(), sample()
	long.Method, long.Host = strings.Repeat("M", 100), strings.Repeat("h", 65)
	long.Path, long.Route = "/"+strings.Repeat("p", 1000), strings.Repeat("r", 64)
	ring.Add(whole)
	ring.Add(long)
	ring.Add(&Record{})
	var got []*Record
	require.Equal(t, 3, ring.Drain(func(r *Record) { got = append(got, r.Clone()) }))
	require.Equal(t, whole, got[0])
	require.Equal(t, long.Method[:16], got[1].Method)
	require.Equal(t, long.Host[:64], got[1].Host)
	require.Equal(t, long.Path[:128], got[1].Path)
	require.Equal(t, long.Route, got[1].Route)
	require.Equal(t, &Record{}, got[2])
	require.Zero(t, ring.Drain(nil))
}

func TestRing_DropsAndCountsWhenFull(t *testing.T) {
	ring := NewRing(4)
	for round := range 3 {
		for range 6 {
			ring.Add(sample())
		}
		require.EqualValues(t, 2*(round+1), ring.Dropped())
		require.Equal(t, 4, ring.Drain(func(*Record) {}))
	}
}

func TestRing_AddAllocatesNothing(t *testing.T) {
	ring, record := NewRing(1), sample()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		ring.Add(record)
		ring.Drain(func(*Record) {})
	}))
	require.Zero(t, ring.Dropped())
}

func TestRing_WaitEndsWithItsContext(t *testing.T) {
	ring := NewRing(8)
	for range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		go ring.Add(sample())
		_ = ring.Wait(ctx)
		<-ctx.Done()
		ring.Drain(func(*Record) {})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	eventually(t, func() bool {
		ring.Drain(func(*Record) {})
		return ring.Wait(ctx) != nil
	})
}

// TestRing_ManyWriters has records written at once, and expects each that was not dropped
// to come out whole and once.
func TestRing_ManyWriters(t *testing.T) {
	const writers, each = 8, 20_000
	ring := NewRing(64)
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(map[uint64]int)
	read := func(r *Record) {
		n := binary.BigEndian.Uint64(r.TraceID[:8])
		seen[n]++
		if r.BytesIn != int64(n) || r.Path != strings.Repeat("/", int(n%128)) {
			t.Errorf("record %d: %d, %q", n, r.BytesIn, r.Path)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ring.Wait(ctx) == nil {
			ring.Drain(read)
		}
		ring.Drain(read)
	}()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				n := w*each + i
				r := &Record{BytesIn: int64(n), Path: strings.Repeat("/", n%128)}
				binary.BigEndian.PutUint64(r.TraceID[:8], uint64(n))
				ring.Add(r)
			}
		})
	}
	all.Wait()
	cancel()
	<-done
	require.EqualValues(t, writers*each, uint64(len(seen))+ring.Dropped())
	for n, times := range seen {
		require.Equal(t, 1, times, n)
	}
}

func BenchmarkRing(b *testing.B) {
	ring, record := NewRing(0), sample()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ring.Wait(ctx) == nil {
			ring.Drain(func(*Record) {})
		}
	}()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ring.Add(record)
		}
	})
	b.ReportMetric(float64(ring.Dropped())/float64(b.N), "dropped/op")
	cancel()
	<-done
}
