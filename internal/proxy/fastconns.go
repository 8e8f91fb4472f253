package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// fastConns are the connections that the fast path serves.
type fastConns struct {
	mu  sync.Mutex
	all map[*fastConn]struct{}

	drained atomic.Bool // a connection that becomes idle ends
}

func (s *fastConns) add(c *fastConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*fastConn]struct{})
	}
	s.all[c] = struct{}{}
}

func (s *fastConns) remove(c *fastConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
}

// each calls f for every connection.
func (s *fastConns) each(f func(*fastConn)) {
	s.mu.Lock()
	all := make([]*fastConn, 0, len(s.all))
	for c := range s.all {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

func (s *fastConns) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// drain waits until every connection has ended, or been idle for the time a client
// may take to use it once more, and closes those; at the latest when ctx ends.
func (s *fastConns) drain(ctx context.Context) {
	over := time.NewTimer(drainIdle)
	defer over.Stop()
	for {
		if s.len() == 0 {
			return
		}
		select {
		case <-over.C:
			s.drained.Store(true)
			s.each(func(c *fastConn) {
				if c.state.CompareAndSwap(connIdle, connClosed) {
					c.close()
				}
			})
			return
		case <-ctx.Done():
			return
		case <-time.After(drainPoll):
		}
	}
}

const (
	drainIdle = time.Second          // how long an idle connection is kept when the proxy stops: a request may be on its way
	drainPoll = 5 * time.Millisecond // how often it is looked whether all have ended
)
