package proxy

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// parkAfter is how long a connection waits for a client with a goroutine of its own, before it is parked.
const parkAfter = time.Second

// parking keeps the connections of the fast path whose clients say nothing for long: idle
// ones, and those that send the head of a request byte by byte. They have no goroutine and no
// buffer there, so that ten thousand of them fit into a few megabytes.
//
// The runtime's own poller wakes goroutines only; so this is an epoll instance beside it.
type parking struct {
	epoll int
	bell  int // an eventfd, under the key 0: run is to look up

	mu     sync.Mutex
	parked map[uint64]*fastConn
	last   uint64 // the newest key
	closed bool
}

func newParking() (*parking, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("make an epoll instance that can be told to end: %w", err)
	}
	return &parking{epoll: epoll, bell: bell, parked: make(map[uint64]*fastConn)}, nil
}

// park takes a connection until its client says something, or c.until is over. Where it says
// true, the connection is no longer the caller's.
func (p *parking) park(c *fastConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock() // what comes at once waits until all is in place
	if p.closed || c.raw == nil {
		return false
	}
	p.last++
	key := p.last
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(key)), Pad: int32(key >> 32)} //nolint:gosec // the two halves of a key
	op := unix.EPOLL_CTL_ADD
	if c.wasParked {
		op = unix.EPOLL_CTL_MOD
	}
	var failed error
	err := c.raw.Control(func(fd uintptr) { failed = unix.EpollCtl(p.epoll, op, int(fd), &event) })
	if err != nil || failed != nil {
		return false
	}
	c.wasParked, c.parkedAs = true, key
	p.parked[key] = c
	return true
}

// take takes a connection out, and says whether it was parked: then it is the caller's.
func (p *parking) take(c *fastConn) bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := c.parkedAs
	if p.parked[key] != c {
		return false
	}
	delete(p.parked, key)
	return true
}

// run serves those that have something to say, and ends those that have waited for too long,
// until it is closed.
func (p *parking) run() {
	const tick = 250 // milliseconds
	events := make([]unix.EpollEvent, 256)
	for next := time.Now(); ; {
		n, err := unix.EpollWait(p.epoll, events, tick)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // closed
		}
		for _, event := range events[:max(n, 0)] {
			if c := p.takeKey(uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32); c != nil { //nolint:gosec // as in park
				go c.drive()
			}
		}
		if p.isClosed() {
			return
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(tick * time.Millisecond)
			p.expire(now)
		}
	}
}

func (p *parking) takeKey(key uint64) *fastConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.parked[key]
	delete(p.parked, key)
	return c
}

// expire ends those that have waited for too long.
func (p *parking) expire(now time.Time) {
	var over []*fastConn
	p.mu.Lock()
	for key, c := range p.parked {
		if !now.Before(c.until) {
			over = append(over, c)
			delete(p.parked, key)
		}
	}
	p.mu.Unlock()
	for _, c := range over {
		c.finish(hangUp)
	}
}

func (p *parking) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// close lets nobody in any more, and run end. What is parked is to be taken before.
func (p *parking) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	_, _ = unix.Write(p.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only where it rings already
}

// free gives the epoll instance back, once run has ended.
func (p *parking) free() {
	_ = unix.Close(p.epoll)
	_ = unix.Close(p.bell)
}
