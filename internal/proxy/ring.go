package proxy

import (
	"bytes"
	"context"
	"sync/atomic"
	"unsafe"

	"github.com/layover-dev/layover/internal/route"
)

// How much of a text a [Ring] keeps, in bytes. The rest is cut off, and the record says so ([Record.Cut]).
const (
	keptMethod = 16
	keptHost   = 64
	keptPath   = 128
	keptRoute  = 64

	keptBaggage = 1024 // of all lines together, and whole members alone
)

// DefaultRing is how many records a [Ring] has place for where nothing is said.
const DefaultRing = 2048

// Ring hands records from requests to one reader. It has a fixed size, and keeps of each
// record what fits its place: where the reader is too slow, records are dropped and
// counted, and no request waits.
type Ring struct {
	places []place
	wake   chan struct{}
	read   uint64 // number of the record to be read next; the reader's

	_       [64]byte // what all requests write lies apart from what they only read
	next    atomic.Uint64
	asleep  atomic.Bool // the reader waits for wake
	dropped atomic.Uint64
}

// place is room for one record. Its turn says whose it is: with n, of who adds the record
// number n; with n+1, of the reader, for that record.
type place struct {
	turn   atomic.Uint64
	record Record // with texts that are in text
	text   [keptMethod + keptHost + keptPath + keptRoute + route.MaxRun]byte

	baggage []byte    // the beginning of the lines, made where it is first needed
	lines   [1]string // what the record has of it
}

// NewRing returns a ring with places for at least so many records; 0 means DefaultRing.
func NewRing(size int) *Ring {
	n := 2 // with one place its two owners would have the same number
	for n < orDefault(size, DefaultRing) {
		n *= 2
	}
	r := &Ring{places: make([]place, n), wake: make(chan struct{}, 1)}
	for i := range r.places {
		r.places[i].turn.Store(uint64(i))
	}
	return r
}

// Add puts in a copy of a record. It never blocks.
func (r *Ring) Add(record *Record) {
	for {
		n := r.next.Load()
		p := &r.places[n%uint64(len(r.places))]
		switch turn := p.turn.Load(); {
		case turn < n: // the record of the last round is still there
			r.dropped.Add(1)
			return
		case turn == n && r.next.CompareAndSwap(n, n+1):
			p.fill(record)
			p.turn.Store(n + 1)
			if r.asleep.Load() && r.asleep.Swap(false) {
				r.wake <- struct{}{} // there is room: only who ends the sleep sends
			}
			return
		}
	}
}

// fill takes over a record.
func (p *place) fill(record *Record) {
	p.record = *record
	rest := p.text[:]
	keep := func(s string, most int, what Cut) string {
		if len(s) > most {
			p.record.Cut |= what
		}
		n := copy(rest[:most], s)
		kept := rest[:n]
		rest = rest[most:]
		return unsafe.String(unsafe.SliceData(kept), n) //nolint:gosec // it holds until the reader gives back the place
	}
	p.record.Method = keep(record.Method, keptMethod, CutMethod)
	p.record.Host = keep(record.Host, keptHost, CutHost)
	p.record.Path = keep(record.Path, keptPath, CutPath)
	p.record.Route = keep(record.Route, keptRoute, CutRoute)
	p.record.Run = keep(record.Run, route.MaxRun, 0)
	if len(record.Baggage) == 0 {
		return
	}
	p.baggage = p.baggage[:0]
	for i, line := range record.Baggage {
		if i > 0 {
			p.baggage = append(p.baggage, ',')
		}
		p.baggage = append(p.baggage, line[:min(len(line), keptBaggage+1)]...)
		if len(p.baggage) > keptBaggage {
			p.baggage = p.baggage[:max(bytes.LastIndexByte(p.baggage[:keptBaggage+1], ','), 0)] // half a member would be another value
			p.record.Cut |= CutBaggage
			break
		}
	}
	p.lines[0] = unsafe.String(unsafe.SliceData(p.baggage), len(p.baggage)) //nolint:gosec // likewise
	p.record.Baggage = p.lines[:]
}

// Drain calls each for the records that are there, in the order they came, and returns how
// many there were. A record and its texts hold during the call only. There is one reader.
func (r *Ring) Drain(each func(*Record)) int {
	for n := 0; ; n++ {
		p := r.ready()
		if p == nil || n == len(r.places) {
			return n
		}
		each(&p.record)
		p.turn.Store(r.read + uint64(len(r.places)))
		r.read++
	}
}

// ready returns the place of the next record, nil where there is none yet.
func (r *Ring) ready() *place {
	p := &r.places[r.read%uint64(len(r.places))]
	if p.turn.Load() != r.read+1 {
		return nil
	}
	return p
}

// Wait waits until there is a record to drain. It returns the cause of ctx where that
// ends first.
func (r *Ring) Wait(ctx context.Context) error {
	r.asleep.Store(true)
	if r.ready() != nil && r.asleep.Swap(false) {
		return nil
	}
	select {
	case <-r.wake:
		return nil
	case <-ctx.Done():
		if !r.asleep.Swap(false) {
			<-r.wake // on its way
		}
		return context.Cause(ctx)
	}
}

// Dropped returns how many records did not find a place.
func (r *Ring) Dropped() uint64 { return r.dropped.Load() }
