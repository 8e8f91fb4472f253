package proxy

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// sendTimeout is how long a client may take none of its answer.
const sendTimeout = time.Minute

// sendWithin writes to a client, as long as it takes something of that in each limit.
func sendWithin(conn net.Conn, b []byte, limit time.Duration) (sent int, err error) {
	for {
		if err := conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
			return sent, err
		}
		n, err := conn.Write(b[sent:])
		sent += n
		if err == nil || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return sent, err
		}
	}
}

// sendLimit ends answers over HTTP/2 of which the client takes nothing for long. It may take other answers
// on its connection meanwhile, so that the connection itself says nothing of it.
//
// The server has a limit for each stream, from its beginning to its end: twice ours. That one ends what is
// still to be sent when the request is over for the proxy. A request that lasts longer takes it back, and
// is looked after here alone.
//
// A sendLimit is used for one answer after the other. Its timer runs on between them, as setting it costs
// more than what it is for.
type sendLimit struct {
	most time.Duration

	mu      sync.Mutex
	timer   *time.Timer // nil before the first answer
	armed   bool
	to      http.ResponseWriter // nil between two answers
	begun   time.Time           // the request
	waits   bool                // something is being written
	since   time.Time           // when that began
	alone   bool                // the server's own limit was taken back
	endless bool                // the client may take as long as it likes
}

// serverLimit is that of the server for a stream.
func serverLimit(most time.Duration) time.Duration { return 2 * most }

// begin is for a request that begins.
func (l *sendLimit) begin(w http.ResponseWriter, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to, l.begun, l.waits, l.alone, l.endless = w, now, false, false, false
	l.armLocked(l.most)
}

// end is for a request that is over.
func (l *sendLimit) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = nil
}

// lift takes the limit back.
func (l *sendLimit) lift() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endless = true
}

// wait notes that something is being written, until done is called.
func (l *sendLimit) wait() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits, l.since = !l.endless, time.Now()
	l.armLocked(l.most)
}

// done is for what wait was called for.
func (l *sendLimit) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = false
}

// isAlone says whether the server does not look after what is left of the answer.
func (l *sendLimit) isAlone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alone
}

func (l *sendLimit) armLocked(in time.Duration) {
	switch {
	case l.armed:
		return
	case l.timer == nil:
		l.timer = time.AfterFunc(in, l.look)
	default:
		l.timer.Reset(in)
	}
	l.armed = true
}

// look ends an answer that has waited for too long.
func (l *sendLimit) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if l.to == nil {
		return
	}
	control, now := http.NewResponseController(l.to), time.Now()
	next := l.most
	if !l.alone {
		if left := l.begun.Add(l.most).Sub(now); left > 0 {
			next = left
		} else {
			l.alone = true
			_ = control.SetWriteDeadline(time.Time{})
		}
	}
	if l.waits {
		left := l.since.Add(l.most).Sub(now)
		if left <= 0 {
			_ = control.SetWriteDeadline(longAgo) // resets the stream
			return
		}
		next = min(next, left)
	}
	if !l.alone || l.waits {
		l.armLocked(next)
	}
}
