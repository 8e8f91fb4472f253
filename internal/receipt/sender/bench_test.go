package sender

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/receipt"
)

// BenchmarkRequest is what one request costs: for the request itself, for the proxy that tells of it, and for the server that
// takes it in.
func BenchmarkRequest(b *testing.B) {
	b.Run("record", func(b *testing.B) {
		s := New("edge-1", func(context.Context, api.HopBatch) error { return nil }, slog.New(slog.DiscardHandler))
		r := record(1)
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			s.Record(r)
			if n++; n%hopRing == 0 {
				s.ring.Drain(func(*proxy.Record) {})
			}
		}
	})
	batch := api.HopBatch{Proxy: "edge-1"}
	for n := range 1000 {
		batch.Hops = append(batch.Hops, hopOf(record(n)))
	}
	text, err := json.Marshal(batch)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("tell", func(b *testing.B) {
		for b.Loop() {
			hops := make([]api.Hop, 0, 1000)
			for n := range 1000 {
				hops = append(hops, hopOf(record(n)))
			}
			_, _ = json.Marshal(api.HopBatch{Hops: hops})
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/request")
	})
	b.Run("take in", func(b *testing.B) {
		s := receipt.New(receipt.Options{})
		for b.Loop() {
			var in api.HopBatch
			if err := json.Unmarshal(text, &in); err != nil {
				b.Fatal(err)
			}
			s.Add(in)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/request")
	})
}
