package edge

import (
	"sync/atomic"
	"time"
)

// How long work goes on at a time, and how long it then rests. On a machine with one processor
// requests wait for the first; yielding alone would not do, as new requests are looked for only
// when nothing else wants to run.
const (
	workSlice = 200 * time.Microsecond
	restSlice = time.Millisecond
)

// pace is how something long is done beside the requests. A nil one takes no rests.
type pace struct {
	hurry  *atomic.Int32 // above 0: somebody waits for the end of it
	began  time.Time     // this slice of the work
	steps  int
	rested time.Duration
}

// step is called before each small part of the work.
func (p *pace) step() {
	const parts = 16 // whose time is not worth looking at the clock
	if p == nil {
		return
	}
	if p.steps++; p.steps%parts != 1 {
		return
	}
	now := time.Now()
	switch {
	case p.began.IsZero():
		p.began = now
	case p.hurry.Load() == 0 && now.Sub(p.began) >= workSlice:
		time.Sleep(restSlice)
		p.began = time.Now()
		p.rested += p.began.Sub(now)
	}
}
