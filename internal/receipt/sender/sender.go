// Package sender tells a server what a proxy saw of requests.
package sender

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

// Sender tells a server what the proxy saw of requests, in batches. No request waits for it: what is too much is dropped,
// and counted.
type Sender struct {
	id   string
	ring *proxy.Ring
	send func(context.Context, api.HopBatch) error
	log  *slog.Logger

	usual int // requests in a batch: as many as there were in the last one

	second atomic.Int64  // in which plain requests are counted
	plain  atomic.Int64  // those of that second
	lost   atomic.Uint64 // requests of which the server did not learn
}

const (
	hopRing   = 16_384                 // requests that wait to be told of: under a second at 20,000 a second
	hopsEvery = 200 * time.Millisecond // batches
	bytesMost = 700_000                // of a batch, about: servers take 1 MiB as JSON
	hopBytes  = 700                    // of a request without its texts, about
	hopsMost  = 1500                   // in a batch
	hopsLimit = 5 * time.Second        // for a batch to be taken
	tellEvery = time.Minute            // in the log
	plainMost = 50                     // requests a second that neither a route, a trace nor a caller says anything of
)

// New returns a sender, which sends nothing before [Sender.Run].
func New(id string, send func(context.Context, api.HopBatch) error, log *slog.Logger) *Sender {
	return &Sender{id: id, ring: proxy.NewRing(hopRing), send: send, log: log}
}

// Record is a [proxy.Options.Recorder].
func (s *Sender) Record(r *proxy.Record) {
	if r.Service == "" || s.isOneTooMany(r) {
		return
	}
	s.ring.Add(r)
}

// isOneTooMany says whether a request is one of many that look the same, and would be evidence of nothing.
func (s *Sender) isOneTooMany(r *proxy.Record) bool {
	if r.By != route.ByDefault || r.TraceID != (proxy.TraceID{}) || r.Caller != "" || r.Run != "" || r.Lost != "" || r.Status >= http.StatusInternalServerError || r.Status == 0 {
		return false
	}
	if now := r.Time.Unix(); s.second.Load() != now {
		s.second.Store(now)
		s.plain.Store(0)
	}
	return s.plain.Add(1) > plainMost
}

// Lost returns of how many requests the server did not learn.
func (s *Sender) Lost() uint64 { return s.ring.Dropped() + s.lost.Load() }

// Run sends until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	tick := time.NewTicker(hopsEvery)
	defer tick.Stop()
	var told time.Time
	for s.ring.Wait(ctx) == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		failed := s.sendAll(ctx)
		if failed > 0 && ctx.Err() == nil {
			if time.Since(told) > tellEvery {
				told = time.Now()
				s.log.WarnContext(ctx, "the server was not told of requests: receipts and the X-ray lack them", "requests", s.lost.Load())
			}
		}
	}
	return nil
}

// sendAll sends what is there, and returns of how many requests the server did not learn.
func (s *Sender) sendAll(ctx context.Context) (failed int) {
	hops := make([]api.Hop, 0, s.usual)
	size := 0
	flush := func() {
		if len(hops) == 0 {
			return
		}
		sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), hopsLimit)
		defer cancel()
		if err := s.send(sending, api.HopBatch{Proxy: s.id, Dropped: s.Lost(), Hops: hops}); err != nil {
			failed += len(hops)
			s.lost.Add(uint64(len(hops)))
		}
		s.usual = len(hops)
		hops, size = make([]api.Hop, 0, s.usual), 0 // the store may keep them
	}
	s.ring.Drain(func(r *proxy.Record) {
		h := hopOf(r)
		hops = append(hops, h)
		size += hopBytes + len(h.Path)
		if h.Baggage != nil {
			size += 2 * len(h.Baggage.Text) // with what JSON adds
		}
		if len(hops) == hopsMost || size > bytesMost {
			flush()
		}
	})
	flush()
	return failed
}

// hopOf copies a record, which is used again. What is not the table's shares one piece of memory: of twenty thousand a second, each
// allocation counts.
func hopOf(r *proxy.Record) api.Hop {
	h := api.Hop{
		Named: r.Named, Time: r.Time.UTC().Round(0), Duration: api.Duration(r.Duration), Held: api.Duration(r.Held),
		Caller: r.Caller, CallerOf: r.CallerOf, Service: r.Service, Version: r.Version, Instance: r.Instance,
		Method: r.Method, Host: r.Host, Path: r.Path, Route: r.Route, By: r.By.String(), Lost: r.Lost, Status: r.Status, Error: r.Error,
	}
	if r.Fallback != 0 {
		h.Fallback = r.Fallback.String()
	}
	const ids = 2 * (len(r.TraceID) + len(r.ParentID) + len(r.SpanID))
	text := make([]byte, 0, ids+len(r.Method)+len(r.Host)+len(r.Path)+len(r.Route)+len(r.Run))
	take := func(to *string, from string) {
		text = append(text, from...)
		*to = unsafe.String(unsafe.SliceData(text[len(text)-len(from):]), len(from)) //nolint:gosec // it is written once, and never moves
	}
	id := func(to *string, from []byte) {
		start := len(text)
		for _, b := range from {
			if b != 0 {
				text = hex.AppendEncode(text, from)
				*to = unsafe.String(unsafe.SliceData(text[start:]), len(text)-start) //nolint:gosec // likewise
				return
			}
		}
	}
	take(&h.Method, r.Method)
	take(&h.Host, r.Host)
	take(&h.Path, r.Path)
	take(&h.Route, r.Route)
	take(&h.Run, r.Run)
	id(&h.Trace, r.TraceID[:])
	id(&h.Parent, r.ParentID[:])
	id(&h.Span, r.SpanID[:])
	if r.BaggageBytes > 0 && r.By != route.ByBaggage {
		h.Baggage = &api.Baggage{Members: r.BaggageMembers, Bytes: r.BaggageBytes}
		if len(r.Baggage) > 0 {
			h.Baggage.Text = strings.Clone(r.Baggage[0])
		}
	}
	return h
}
