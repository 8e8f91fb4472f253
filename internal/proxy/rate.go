package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of [BodyRate].
const (
	DefaultBodyRate  = 100
	DefaultBodyGrace = 30 * time.Second
)

// BodyRate is how slow a client may send a body that it announced the length of. Only the
// time counts in which the proxy waits for the client, not that in which an instance does not
// take what is there. A body of unknown length may be a stream, which has pauses as it
// likes: for those, for gRPC and for upgraded connections there is no such bound.
type BodyRate struct {
	BytesPerSecond int           // 0 means DefaultBodyRate, below 0 no bound
	Grace          time.Duration // how long a client may fall behind; 0 means DefaultBodyGrace
}

// withDefaults returns r with what is 0 filled in.
func (r BodyRate) withDefaults() BodyRate {
	r.BytesPerSecond = orDefault(r.BytesPerSecond, DefaultBodyRate)
	r.Grace = orDefault(r.Grace, DefaultBodyGrace)
	return r
}

// applies says whether a request's body is bound. length is that of Content-Length, below 0
// where there is none.
func (r *BodyRate) applies(length int64, contentType string) bool {
	return r.BytesPerSecond > 0 && length > 0 && !isGRPC(contentType)
}

// bodyPatience is how long the proxy still waits for more of one body. Waiting uses it up,
// and each byte brings some of it back, up to the grace.
type bodyPatience struct {
	rate *BodyRate
	left time.Duration
}

func newPatience(rate *BodyRate) bodyPatience { return bodyPatience{rate: rate, left: rate.Grace} }

// deadline returns when a read that begins now has waited long enough.
func (p *bodyPatience) deadline(now time.Time) time.Time { return now.Add(p.left) }

// got notes what a read that waited so long brought.
func (p *bodyPatience) got(n int, waited time.Duration) {
	p.left -= waited
	p.left += time.Duration(n) * time.Second / time.Duration(p.rate.BytesPerSecond)
	p.left = max(0, min(p.left, p.rate.Grace))
}

// pacedBody is a body that has to keep the pace. It outlives its request: the transport may
// still read it when the answer is complete.
type pacedBody struct {
	io.ReadCloser
	patience    bodyPatience
	setDeadline func(time.Time) error
	slow        atomic.Bool // the client did not keep the pace

	mu   sync.Mutex
	over bool // the deadline is no longer this body's
}

func newPacedBody(body io.ReadCloser, rate *BodyRate, setDeadline func(time.Time) error) *pacedBody {
	return &pacedBody{ReadCloser: body, patience: newPatience(rate), setDeadline: setDeadline}
}

// Read reads from the client, as long as there is patience.
func (b *pacedBody) Read(p []byte) (int, error) {
	start := time.Now()
	b.set(b.patience.deadline(start))
	n, err := b.ReadCloser.Read(p)
	b.patience.got(n, time.Since(start))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.slow.Store(true)
	case err != nil:
		b.set(time.Time{}) // or it would end the wait for the answer
	}
	return n, err
}

// end lets go of the deadline: from now on it is the next request's.
func (b *pacedBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}

func (b *pacedBody) set(deadline time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		_ = b.setDeadline(deadline) // a server that has no deadlines is one of a test, or a middleware's
	}
}

func slowBody(rate *BodyRate) *problem {
	return &problem{
		status: http.StatusRequestTimeout,
		code:   CodeSlowBody,
		title:  "The request's body came too slowly",
		detail: "The client announced a body, and sent less of it than the proxy waits for (" + rate.String() + ").",
		hint:   "Send it faster, or without Content-Length if it is a stream. proxy.limits.body_rate allows less.",
	}
}

// String says the bound in words.
func (r *BodyRate) String() string {
	return fmt.Sprintf("%d bytes a second, %s behind", r.BytesPerSecond, r.Grace)
}
