package proxy

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of [Health].
const (
	DefaultConnectFailures = 3
	DefaultFirstPause      = 5 * time.Second
	DefaultLongestPause    = 5 * time.Minute
)

// Health says when the proxy itself takes an instance out: it gets no requests for a
// pause, which doubles each time until an answer comes. Instances of a version that are all out
// are all used. It goes by what requests meet; the checks of the server decide besides.
type Health struct {
	ConnectFailures int           // failed connects in a row; 0 means DefaultConnectFailures, below 0 never
	ServerErrors    int           // answers of 500 to 599 in a row; 0 and below means never
	FirstPause      time.Duration // 0 means DefaultFirstPause
	LongestPause    time.Duration // 0 means DefaultLongestPause
}

// withDefaults returns h with what is 0 filled in.
func (h Health) withDefaults() Health {
	h.ConnectFailures = orDefault(h.ConnectFailures, DefaultConnectFailures)
	h.FirstPause = orDefault(h.FirstPause, DefaultFirstPause)
	h.LongestPause = max(orDefault(h.LongestPause, DefaultLongestPause), h.FirstPause)
	return h
}

// outliers takes instances out, by what [Health] says.
type outliers struct {
	health Health
	epoch  time.Time // what pauses are counted from: the wall clock may be set back
}

func newOutliers(health Health) *outliers {
	return &outliers{health: health.withDefaults(), epoch: time.Now()}
}

// outlier is what is known of one instance. The zero value is an instance in good order.
type outlier struct {
	since   atomic.Int64 // begin of the last pause, in nanoseconds after the epoch
	until   atomic.Int64 // its end; 0 where there was none
	suspect atomic.Bool  // something else than good answers happened since the last one

	mu       sync.Mutex
	connects int // that failed in a row
	errors   int // answers of 5xx in a row
	pauses   int // since the last good answer
}

// out says whether the instance is in a pause.
func (o *outliers) out(of *outlier) bool {
	until := of.until.Load()
	return until != 0 && int64(time.Since(o.epoch)) < until
}

// unreachable notes that connecting to the instance failed.
func (o *outliers) unreachable(of *outlier) {
	if o.health.ConnectFailures > 0 {
		o.failed(of, &of.connects, o.health.ConnectFailures)
	}
}

// answered notes the status of an answer to a request that came at the time asked. A good
// one ends all suspicion, but where it was asked for before the pause: then it proves nothing.
func (o *outliers) answered(of *outlier, status int, asked time.Time) {
	if o.health.ServerErrors > 0 && status >= http.StatusInternalServerError {
		o.failed(of, &of.errors, o.health.ServerErrors)
		return
	}
	if !of.suspect.Load() || o.out(of) && int64(asked.Sub(o.epoch)) <= of.since.Load() {
		return
	}
	of.mu.Lock()
	defer of.mu.Unlock()
	of.connects, of.errors, of.pauses = 0, 0, 0
	of.until.Store(0)
	of.suspect.Store(false)
}

// failed counts a failure. At the limit a pause begins. What fails during it was sent before
// it; behind it the first failure begins the next one.
func (o *outliers) failed(of *outlier, count *int, limit int) {
	of.mu.Lock()
	defer of.mu.Unlock()
	of.suspect.Store(true)
	if o.out(of) {
		return
	}
	if *count++; *count < limit && of.pauses == 0 {
		return
	}
	now := time.Since(o.epoch)
	of.since.Store(int64(now))
	of.until.Store(int64(now + o.pause(of.pauses)))
	of.pauses++
}

// pause returns how long the pause behind n others is, and up to a quarter more: what
// failed at once need not come back at once.
func (o *outliers) pause(n int) time.Duration {
	pause := o.health.FirstPause
	for ; n > 0 && pause < o.health.LongestPause; n-- {
		pause *= 2
	}
	pause = min(pause, o.health.LongestPause)
	return pause + rand.N(pause/4+1) //nolint:gosec // nothing depends on nobody guessing it
}
