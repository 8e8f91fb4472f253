package sender

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

// server takes batches.
type server struct {
	mu      sync.Mutex
	batches []api.HopBatch
	fails   bool
}

func (s *server) take(_ context.Context, b api.HopBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return errors.New("it is away")
	}
	s.batches = append(s.batches, b)
	return nil
}

func (s *server) hops() (all []api.Hop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batches {
		all = append(all, b.Hops...)
	}
	return all
}

func run(t *testing.T, s *server) *Sender {
	t.Helper()
	sender := New("edge-1", s.take, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = sender.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return sender
}

func record(n int) *proxy.Record {
	return &proxy.Record{
		Time: time.Now(), Service: "cart", Version: "pr-1", Route: "pr-1", By: route.ByBaggage, Status: 200, Path: "/", TraceID: proxy.TraceID{byte(n), byte(n >> 8), 1},
	}
}

func TestSender_TellsOfAll(t *testing.T) {
	s := &server{}
	sender := run(t, s)
	const all = 5000
	for n := range all {
		sender.Record(record(n))
	}
	require.Eventually(t, func() bool { return len(s.hops()) == all }, 20*time.Second, 10*time.Millisecond)
	for _, b := range s.batches {
		require.LessOrEqual(t, len(b.Hops), hopsMost)
		require.Equal(t, "edge-1", b.Proxy)
		require.Zero(t, b.Dropped)
	}
	h := s.hops()[0]
	require.Equal(t, "cart@pr-1", h.ID())
	require.Equal(t, "baggage", h.By)
	require.Len(t, h.Trace, 32)
}

func TestSender_BatchesFit(t *testing.T) {
	s := &server{}
	sender := run(t, s)
	for n := range 2000 {
		r := record(n)
		r.By, r.Baggage = route.ByDefault, []string{strings.Repeat(`"k"=v,`, 300)}
		r.BaggageMembers, r.BaggageBytes = 300, 1800
		r.Path = strings.Repeat("/x", 500)
		sender.Record(r)
	}
	require.Eventually(t, func() bool { return len(s.hops()) == 2000 }, 20*time.Second, 10*time.Millisecond)
	for _, b := range s.batches {
		text, err := json.Marshal(b)
		require.NoError(t, err)
		require.Less(t, len(text), 1<<20)
	}
	require.Equal(t, 300, s.hops()[0].Baggage.Members)
	require.Len(t, s.hops()[0].Baggage.Text, 6*170-1, "whole members, within 1024 bytes")
}

func TestSender_CountsWhatItCouldNotTell(t *testing.T) {
	s := &server{fails: true}
	sender := run(t, s)
	sender.Record(record(1))
	require.Eventually(t, func() bool { return sender.lost.Load() == 1 }, 20*time.Second, 10*time.Millisecond)
	s.mu.Lock()
	s.fails = false
	s.mu.Unlock()
	sender.Record(record(2))
	require.Eventually(t, func() bool { return len(s.hops()) == 1 }, 20*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 1, s.batches[0].Dropped)
}

func TestSender_LeavesOutWhatIsEvidenceOfNothing(t *testing.T) {
	s := &server{}
	sender := run(t, s)
	now := time.Now()
	for range 1000 {
		sender.Record(&proxy.Record{Time: now, Service: "cart", Version: "main", Status: 200})
	}
	bad := &proxy.Record{Time: now, Service: "cart", Version: "main", Status: 503}
	sender.Record(bad)
	sender.Record(&proxy.Record{Time: now, Status: 404}) // of no service
	require.Eventually(t, func() bool { return len(s.hops()) == plainMost+1 }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, 503, s.hops()[plainMost].Status)
}
