package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// watcher looks after the client of a request on the fast path that takes long: it
// reads ahead, to learn that the client has left. While it runs, nobody else uses the
// connection's input.
type watcher struct {
	c     *fastConn
	timer *time.Timer
	inUse bool // arm or start was called since the last stop

	mu      sync.Mutex
	armed   bool          // the timer is to start it
	running chan struct{} // closed when watch has ended; nil while it does not run
	over    chan struct{} // closed to end watch's wait
	gone    chan struct{} // closed when the client has left
	isLeft  bool
}

// arm has the client watched from a while on, until stop is called.
func (w *watcher) arm() {
	w.inUse = true
	w.armBehindBody()
}

// armBehindBody is arm for the pump, which has sent the whole body. The goroutine that
// started the pump has set inUse, and calls stop once the pump has ended.
func (w *watcher) armBehindBody() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(patienceForAnswer, w.fire)
		return
	}
	w.timer.Reset(patienceForAnswer)
}

func (w *watcher) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.armed {
		w.startLocked()
	}
}

// start has the client watched until stop is called. The channel that it returns is
// closed when the client leaves.
func (w *watcher) start() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inUse = true
	w.startLocked()
	return w.gone
}

func (w *watcher) startLocked() {
	if w.running != nil {
		return
	}
	w.running, w.over = make(chan struct{}), make(chan struct{})
	if w.gone == nil {
		w.gone = make(chan struct{})
	}
	go w.watch(w.running, w.over)
}

// stop ends watching. When it returns the input can be used again.
func (w *watcher) stop() {
	if !w.inUse {
		return
	}
	w.inUse = false
	w.mu.Lock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.armed = false
	running := w.running
	if running != nil {
		close(w.over)
	}
	w.mu.Unlock()
	if running == nil {
		return
	}
	w.c.halt()
	<-running
	w.mu.Lock()
	w.running, w.over = nil, nil
	w.mu.Unlock()
	w.c.resume()
}

// longAgo is a deadline that ends what is under way.
var longAgo = time.Unix(1, 0)

func (w *watcher) watch(running, over chan struct{}) {
	c := w.c
	defer close(running)
	defer c.survive()
	c.keepHead()
	for len(c.unread()) < inputSize {
		err := c.fillBehindHead()
		switch {
		case err == nil:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case errors.Is(err, io.EOF) && !w.halfClosed(over):
			return
		}
		w.leave()
		return
	}
}

// halfClosed waits for the answer to a client that has closed its side, and says
// whether it took too long.
func (w *watcher) halfClosed(over chan struct{}) (tooLong bool) {
	timer := time.NewTimer(w.c.proxy.halfCloseGrace)
	defer timer.Stop()
	select {
	case <-over:
		return false
	case <-timer.C:
		return true
	}
}

func (w *watcher) leave() {
	w.mu.Lock()
	if !w.isLeft {
		w.isLeft = true
		close(w.gone)
	}
	w.mu.Unlock()
	if u := w.c.up.Load(); u != nil {
		_ = u.conn.Close()
	}
}

func (w *watcher) isGone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isLeft
}
