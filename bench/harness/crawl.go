package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	crawlStep    = 5 * time.Second // between two bytes of one connection
	crawlSources = 100             // addresses that the connections come from
	crawlAgain   = 100 * time.Millisecond
)

// Crawl is an attack by connections that are slow. One that the proxy ends is made anew.
type Crawl struct {
	Address string `json:"address"`
	Routes  Routes `json:"routes"`
	Heads   int    `json:"heads"`  // connections that send a head, one byte every few seconds, without end
	Bodies  int    `json:"bodies"` // that send a body in that way
	Unread  int    `json:"unread"` // that ask for much, and read nothing
}

// Crawled is what became of the connections.
type Crawled struct {
	Made    int64 `json:"made"`
	Ended   int64 `json:"ended"`   // by the proxy
	Refused int64 `json:"refused"` // not even made
	Open    int64 `json:"open"`    // at the end
	Most    int64 `json:"most"`    // open at once
}

// Crawling is an attack that goes on.
type Crawling struct{ p *Process }

// Start begins it, and returns when every connection has been tried once.
func (c Crawl) Start(ctx context.Context) (*Crawling, error) {
	p, err := startRole("slow", LoadCPU, c)
	if err != nil {
		return nil, err
	}
	var begun bool
	if err := p.answer(ctx, &begun); err != nil {
		p.Stop()
		return nil, err
	}
	return &Crawling{p}, nil
}

// Stop ends it.
func (c *Crawling) Stop(ctx context.Context) (Crawled, error) {
	defer c.p.Stop()
	var got Crawled
	if err := json.NewEncoder(c.p.stdin).Encode(true); err != nil {
		return got, err
	}
	return got, c.p.answer(ctx, &got)
}

// crawl is the role.
func crawl(in io.Reader, out io.Writer) error {
	var c Crawl
	if err := readOrder(in, &c); err != nil {
		return err
	}
	a := &attack{Crawl: c}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var first sync.WaitGroup
	for i := range c.Heads + c.Bodies + c.Unread {
		first.Add(1)
		go a.keep(ctx, i, first.Done)
		if i%20 == 19 {
			time.Sleep(10 * time.Millisecond) // 2,000 connections a second are enough
		}
	}
	first.Wait()
	if err := json.NewEncoder(out).Encode(true); err != nil {
		return err
	}
	var end bool
	if err := readOrder(in, &end); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(Crawled{
		Made: a.made.Load(), Ended: a.ended.Load(), Refused: a.refused.Load(), Open: a.open.Load(), Most: a.most.Load(),
	})
}

type attack struct {
	Crawl
	made, ended, refused, open, most atomic.Int64
}

// keep keeps the i-th connection: a new one for each that ends.
func (a *attack) keep(ctx context.Context, i int, tried func()) {
	source := net.IPv4(127, 9, byte(i%crawlSources/250), byte(1+i%crawlSources%250)) //nolint:gosec // it fits
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: source}, Timeout: 5 * time.Second}
	for once := true; ctx.Err() == nil; once = false {
		conn, err := dialer.DialContext(ctx, "tcp", a.Address)
		if err != nil {
			a.refused.Add(1)
		} else {
			a.made.Add(1)
			open := a.open.Add(1)
			for most := a.most.Load(); open > most && !a.most.CompareAndSwap(most, open); most = a.most.Load() {
			}
		}
		if once {
			tried()
		}
		if err == nil {
			a.use(ctx, i, conn)
			_ = conn.Close()
			a.open.Add(-1)
			a.ended.Add(1)
		}
		if !pause(ctx, crawlAgain) {
			return
		}
	}
}

func (a *attack) use(ctx context.Context, i int, conn net.Conn) {
	head := fmt.Sprintf("Host: %s\r\nBaggage: %s\r\n", a.Routes.Host(0), Baggage(a.Routes.Version(1)))
	switch {
	case i < a.Unread:
		if small, ok := conn.(*net.TCPConn); ok {
			_ = small.SetReadBuffer(4 << 10)
		}
		if _, err := fmt.Fprintf(conn, "GET /download?bytes=%d HTTP/1.1\r\n%s\r\n", int64(10)<<30, head); err != nil {
			return
		}
		a.wait(ctx, conn, func() bool { return true })
	case i < a.Unread+a.Bodies:
		if _, err := fmt.Fprintf(conn, "POST /upload HTTP/1.1\r\n%sContent-Length: 1000000\r\n\r\n", head); err != nil {
			return
		}
		a.wait(ctx, conn, func() bool { _, err := conn.Write([]byte("x")); return err == nil })
	default:
		text := "GET / HTTP/1.1\r\n" + head + "X-Slow: "
		a.wait(ctx, conn, func() bool {
			next := "x"
			if text != "" {
				next, text = text[:1], text[1:]
			}
			_, err := io.WriteString(conn, next)
			return err == nil
		})
	}
}

// wait calls step again and again, until the connection ends.
func (a *attack) wait(ctx context.Context, conn net.Conn, step func() bool) {
	for {
		if !step() || !pause(ctx, crawlStep) {
			return
		}
		if ended(conn) {
			return
		}
	}
}

// ended looks whether the other side closed, without taking what it sent.
func ended(conn net.Conn) bool {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	over := false
	err = raw.Control(func(fd uintptr) { over = peekEnd(int(fd)) })
	return err != nil || over
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
