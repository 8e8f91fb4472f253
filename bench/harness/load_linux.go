package harness

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxAnswer   = 16 << 10
	lateAnswers = 10 * time.Second // for what is still in flight at the end
)

// loop sends and receives HTTP/1.1 over many connections in one thread, by
// epoll. A generator of goroutines spends more on its processor than a fast proxy
// does on its own, and its timers are a millisecond apart when it is idle.
type loop struct {
	load   Load
	to     unix.SockaddrInet4
	epoll  int
	timer  int32
	random *rand.Rand
	asks   []ask
	conns  map[int32]*clientConn
	idle   []*clientConn

	began     time.Time // of measuring
	end       time.Time
	next      time.Time // when the next request is due
	result    Result
	latencies latencies
	inFlight  int
}

// ask is a request as it is sent, and the body of its answer.
type ask struct {
	request []byte
	body    string
}

type clientConn struct {
	fd        int32
	connected bool
	ask       *ask // in flight
	due       time.Time
	sent      int // requests on this connection
	n         int
	buf       [maxAnswer]byte
	shut      bool // the answer says that the connection ends with it
}

func closedOrOpenLoop(l Load) (Result, error) {
	debug.SetGCPercent(-1) // it makes no garbage to speak of
	address, err := netip.ParseAddrPort(l.Address)
	if err != nil {
		return Result{}, err
	}
	g := &loop{
		load: l, to: unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()},
		random: rand.New(rand.NewPCG(l.Seed, 1)), //nolint:gosec // for load, not for secrets
		conns:  make(map[int32]*clientConn),
	}
	for _, w := range l.Routes.inUse(l.InUse, l.Seed) {
		g.asks = append(g.asks, ask{
			request: fmt.Appendf(nil, "GET /some/path?query=1 HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\nBaggage: %s\r\n"+
				"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n", w.host, Baggage(w.version)),
			body: body(w.backend),
		})
	}
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return Result{}, err
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return Result{}, err
	}
	g.timer = int32(timer) //nolint:gosec // a file's number
	if err := g.watch(g.timer, unix.EPOLLIN); err != nil {
		return Result{}, err
	}
	if err := g.run(); err != nil {
		return Result{}, err
	}
	g.latencies.into(&g.result)
	return g.result, nil
}

func (g *loop) run() error {
	for range g.load.Connections {
		if err := g.connect(); err != nil {
			return err
		}
	}
	start := time.Now()
	g.next = start
	g.began, g.end = start.Add(g.load.WarmUp), start.Add(g.load.WarmUp+g.load.Duration)
	var cpu time.Duration
	measuring := false
	pids := tree(g.load.PID)
	events := make([]unix.EpollEvent, 256)
	for {
		now := time.Now()
		if !measuring && !now.Before(g.began) {
			measuring = true
			if g.load.PID > 0 {
				var err error
				if cpu, err = cpuTime(pids); err != nil {
					return err
				}
			}
		}
		if !now.Before(g.end) && (g.load.Rate == 0 || g.inFlight == 0 && !g.next.Before(g.end)) {
			break
		}
		if now.After(g.end.Add(lateAnswers)) {
			unsent := int(g.end.Sub(g.next).Seconds() * g.load.Rate)
			g.fail(g.inFlight+unsent, fmt.Sprintf("%d requests were not answered within %s of the end, %d of them not even sent",
				g.inFlight+unsent, lateAnswers, unsent))
			break
		}
		if err := g.send(now); err != nil {
			return err
		}
		if err := g.arm(now); err != nil {
			return err
		}
		n, err := unix.EpollWait(g.epoll, events, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == g.timer {
				var spent [8]byte
				_, _ = unix.Read(int(g.timer), spent[:]) // it tells only how often
				continue
			}
			c := g.conns[e.Fd]
			switch {
			case c == nil: // closed while its event waited
			case !c.connected:
				err = g.established(c)
			default:
				err = g.receive(c)
			}
			if err != nil {
				return err
			}
		}
	}
	g.result.Elapsed = time.Since(g.began)
	if g.load.PID > 0 {
		after, err := cpuTime(pids)
		if err != nil {
			return err
		}
		g.result.CPU = after - cpu
	}
	return nil
}

// send sends what is due on connections that are idle.
func (g *loop) send(now time.Time) error {
	for len(g.idle) > 0 {
		due := now
		if g.load.Rate > 0 {
			if now.Before(g.next) || !g.next.Before(g.end) {
				return nil
			}
			due = g.next
			g.next = g.next.Add(time.Duration(float64(time.Second) / g.load.Rate))
		} else if !now.Before(g.end) {
			return nil
		}
		c := g.idle[len(g.idle)-1]
		g.idle = g.idle[:len(g.idle)-1]
		c.ask, c.due, c.n = &g.asks[g.random.IntN(len(g.asks))], due, 0
		c.sent++
		g.inFlight++
		if n, err := unix.Write(int(c.fd), c.ask.request); err != nil || n < len(c.ask.request) {
			if err := g.broken(c, fmt.Sprintf("write: %v", err)); err != nil {
				return err
			}
		}
	}
	return nil
}

// arm sets the timer to when something has to be done without an answer coming first.
func (g *loop) arm(now time.Time) error {
	at := g.end
	if g.load.Rate > 0 && len(g.idle) > 0 && g.next.Before(at) {
		at = g.next
	}
	if now.Before(g.began) && g.began.Before(at) {
		at = g.began
	}
	in := max(at.Sub(now), time.Microsecond)
	return unix.TimerfdSettime(int(g.timer), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(in.Nanoseconds())}, nil)
}

func (g *loop) receive(c *clientConn) error {
	n, err := unix.Read(int(c.fd), c.buf[c.n:])
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return nil
	case c.ask == nil: // the proxy may close a connection that is idle
		return g.reconnect(c)
	case err != nil || n == 0:
		return g.broken(c, fmt.Sprintf("the connection ended before the answer did: %v", err))
	}
	c.n += n
	complete, wrong := c.answer()
	switch {
	case !complete && c.n == len(c.buf):
		return g.broken(c, fmt.Sprintf("an answer of more than %d bytes", len(c.buf)))
	case !complete:
		return nil
	case wrong != "":
		return g.broken(c, wrong)
	}
	if late := time.Since(c.due); g.load.Timeout > 0 && late > g.load.Timeout {
		return g.broken(c, fmt.Sprintf("the answer came after %s", late))
	}
	if !c.due.Before(g.began) {
		g.result.Requests++
		g.latencies = append(g.latencies, time.Since(c.due))
	}
	g.inFlight--
	c.ask = nil
	if c.shut || c.sent == g.load.Reuse {
		return g.reconnect(c)
	}
	g.idle = append(g.idle, c)
	return nil
}

// answer looks at what came so far, and says what is wrong with it.
func (c *clientConn) answer() (complete bool, wrong string) {
	text := c.buf[:c.n]
	end := bytes.Index(text, []byte("\r\n\r\n"))
	if end < 0 {
		return false, ""
	}
	head, rest := text[:end+2], text[end+4:]
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return true, string(text[:min(len(text), 300)])
	}
	length, ok := field(head, "content-length")
	if !ok {
		return true, "an answer without Content-Length: " + string(head)
	}
	want, err := strconv.Atoi(string(length))
	if err != nil {
		return true, "a wrong Content-Length: " + string(length)
	}
	if len(rest) < want {
		return false, ""
	}
	if string(rest) != c.ask.body {
		return true, fmt.Sprintf("routed wrongly: %q should have answered, %q did; asked: %s", c.ask.body, rest, c.ask.request)
	}
	connection, _ := field(head, "connection")
	c.shut = bytes.EqualFold(connection, []byte("close"))
	return true, ""
}

// field finds a header field by its lower-case name.
func field(head []byte, name string) ([]byte, bool) {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name)+1:]), true
		}
	}
	return nil, false
}

// broken counts the request in flight as failed, and connects anew.
func (g *loop) broken(c *clientConn, why string) error {
	g.inFlight--
	c.ask = nil
	g.fail(1, why)
	return g.reconnect(c)
}

func (g *loop) fail(n int, why string) {
	g.result.Failed += n
	if g.result.Failure == "" {
		g.result.Failure = why
	}
}

func (g *loop) reconnect(c *clientConn) error {
	for i, one := range g.idle {
		if one == c {
			g.idle = append(g.idle[:i], g.idle[i+1:]...)
			break
		}
	}
	delete(g.conns, c.fd)
	_ = unix.Close(int(c.fd)) // which takes it out of the epoll set
	return g.connect()
}

// connect begins a connection; it is idle once it stands.
func (g *loop) connect() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	c := &clientConn{fd: int32(fd)} //nolint:gosec // a file's number
	g.conns[c.fd] = c
	if err := unix.Connect(fd, &g.to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %s: %w", g.load.Address, err)
	}
	return g.watch(c.fd, unix.EPOLLIN|unix.EPOLLOUT)
}

func (g *loop) established(c *clientConn) error {
	code, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("connect to %s: %w", g.load.Address, unix.Errno(code))
	}
	c.connected = true
	g.idle = append(g.idle, c)
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_MOD, int(c.fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.fd})
}

func (g *loop) watch(fd int32, events uint32) error {
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: events, Fd: fd})
}
