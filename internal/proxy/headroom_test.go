package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/layover-dev/layover/internal/route"
)

// largeHead is the head of a request of at least so many bytes, in two parts.
func largeHead(size int) (begin, end string) {
	return "GET / HTTP/1.1\r\nHost: cart.localhost\r\nX-Large: " + strings.Repeat("x", size), "\r\n\r\n"
}

// isFree holds that no headroom is taken, in the end.
func (w *world) isFree(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return w.headroom.taken.Load() == 0 })
}

// roomFor are the limits with room for so many heads of which largeHead makes the one.
func roomFor(heads int) (limits HeaderLimits, size int) {
	return HeaderLimits{Bytes: 64 << 10, Memory: heads * 64 << 10}, 40 << 10
}

// begun begins to send a large head, and waits until it is read.
func (w *world) begun(t *testing.T, size int) *wire {
	t.Helper()
	before := w.headroom.taken.Load()
	client := dial(t, w.addr)
	begin, _ := largeHead(size)
	client.raw(t, begin)
	eventually(t, func() bool { return w.headroom.taken.Load() == before+64<<10 })
	return client
}

// TestConformance_HeaderMemory holds that large heads that are being read have a bound together, that the one
// that is too much is refused, and that small ones have nothing to do with that.
func TestConformance_HeaderMemory(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		limits, size := roomFor(2)
		w := newPathWorld(t, path, Options{Header: limits}, newOrigin(t, answering(okAnswer)).addr)
		first, second := w.begun(t, size), w.begun(t, size)

		third := dial(t, w.addr)
		begin, end := largeHead(size)
		third.raw(t, begin)
		head := third.head(t)
		require.Equal(t, "HTTP/1.1 503 Service Unavailable", head[0])
		require.Equal(t, []string{string(CodeLargeHeaders)}, field(head, ErrorHeader))
		require.Equal(t, []string{"close"}, field(head, "Connection"))
		require.Equal(t, []string{"1"}, field(head, "Retry-After"))
		third.problemOf(t, head)
		third.ended(t)
		w.failed(t, CodeLargeHeaders, 1)

		small := dial(t, w.addr)
		small.raw(t, get("/"))
		require.Equal(t, "HTTP/1.1 200 OK", small.head(t)[0])

		first.raw(t, end)
		require.Equal(t, "HTTP/1.1 200 OK", first.head(t)[0])
		first.exactly(t, 2)
		eventually(t, func() bool { return w.headroom.taken.Load() == 64<<10 })
		require.NoError(t, second.Close())
		w.isFree(t)
		first.raw(t, begin+end) // and once more
		require.Equal(t, "HTTP/1.1 200 OK", first.head(t)[0])
		w.isFree(t)
	})
}

// TestConformance_HeaderMemoryIsGivenBack holds that it is, whatever becomes of the request.
func TestConformance_HeaderMemoryIsGivenBack(t *testing.T) {
	limits, size := roomFor(1)
	_, end := largeHead(size)
	options := Options{Header: limits, HeaderTimeout: 1500 * time.Millisecond, DrainTimeout: 100 * time.Millisecond}
	eachCase(t, map[string]func(*testing.T, *world, *wire){
		"answered": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, end)
			require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0])
		},
		"answered, and the next has begun": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, end+"GET / HT")
			require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0])
		},
		"the last of its connection": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, "\r\nConnection: close"+end)
			require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0])
		},
		"malformed": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, "\n")
			require.Equal(t, "HTTP/1.1 400 Bad Request", client.head(t)[0])
		},
		"larger than it may be": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, strings.Repeat("x", size))
			require.Equal(t, "HTTP/1.1 431 Request Header Fields Too Large", client.head(t)[0])
		},
		"for two hosts": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, "\r\nHost: a"+end)
			require.Equal(t, "HTTP/1.1 400 Bad Request", client.head(t)[0])
		},
		"left": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			require.NoError(t, client.Close())
		},
		"reset": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			reset(t, client.Conn)
		},
		"too slow": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.ended(t)
		},
		"stopped": func(t *testing.T, w *world, _ *wire) {
			t.Helper()
			w.stop()
		},
		"with a body": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, "\r\nContent-Length: 5"+end+"hel")
			letPass(20 * time.Millisecond) // so that the rest comes by itself
			client.raw(t, "lo")
			require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0])
		},
		"reset within the body": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, "\r\nContent-Length: 5"+end+"hel")
			letPass(20 * time.Millisecond)
			reset(t, client.Conn)
		},
		"reset before the answer": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, "\r\nX-Wait: 1"+end)
			letPass(20 * time.Millisecond)
			reset(t, client.Conn)
		},
		"HTTP/2 from there on": func(t *testing.T, _ *world, client *wire) {
			t.Helper()
			client.raw(t, "\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "+h2cSettings+end)
			require.Equal(t, "HTTP/1.1 101 Switching Protocols", client.head(t)[0])
		},
	}, func(t *testing.T, path, _ string, goOn func(*testing.T, *world, *wire)) {
		o := newOrigin(t, func(f *far) {
			for head := f.head(); head != nil; head = f.head() {
				f.bodyOf(head)
				if field(head, "X-Wait") != nil {
					_ = f.head() // for ever
				}
				f.say(okAnswer)
			}
		})
		w := newPathWorld(t, path, options, o.addr)
		goOn(t, w, w.begun(t, size))
		w.isFree(t)
	})
}

// TestHeadroom_HandedOn holds that a large head that net/http takes over from the fast path counts once.
func TestHeadroom_HandedOn(t *testing.T) {
	limits, size := roomFor(1)
	proceed := make(chan struct{})
	cart := service("cart", ready("main", h2cInstance(t, func(http.ResponseWriter, *http.Request) { <-proceed })))
	cart.Protocol = route.H2C
	w := newWorld(t, Options{Header: limits}, cart)
	_, end := largeHead(size)
	client := w.begun(t, size)
	client.raw(t, end)
	eventually(t, func() bool { n := w.headroom.taken.Load(); return n > int64(size) && n < int64(size)+1000 })
	proceed <- struct{}{}
	require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0])
	w.isFree(t)
}

// TestHeadroom_HTTP2 holds the bound for requests over HTTP/2 that are being answered.
func TestHeadroom_HTTP2(t *testing.T) {
	proceed := make(chan struct{})
	w := newWorld(t, Options{Header: HeaderLimits{Memory: 100 << 10}}, service("cart", ready("main", instance(t, func(http.ResponseWriter, *http.Request) { <-proceed }))))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	large := strings.Repeat("x", 40<<10)
	client := h2cClient(t)
	ask := func() <-chan error {
		ended := make(chan error, 1)
		req := w.request(t, http.MethodGet, "cart.localhost", "/", nil, "X-Large", large).WithContext(ctx)
		go func() {
			res, err := client.Do(req)
			if err == nil {
				_ = res.Body.Close()
			}
			ended <- err
		}()
		return ended
	}
	first, second := ask(), ask()
	eventually(t, func() bool { return w.headroom.taken.Load() > 80<<10 })
	third, err := client.Do(w.request(t, http.MethodGet, "cart.localhost", "/", nil, "X-Large", large))
	require.NoError(t, err)
	a := read(t, third)
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Equal(t, CodeLargeHeaders, a.problem(t).Code)
	proceed <- struct{}{}
	proceed <- struct{}{}
	require.NoError(t, <-first)
	require.NoError(t, <-second)
	w.isFree(t)
}

// TestHeadroom_FramesOfHTTP2 holds that a connection of HTTP/2 needs no larger buffer than one of HTTP/1.1: the
// server makes one for whatever size the client says that its frame has.
func TestHeadroom_FramesOfHTTP2(t *testing.T) {
	w := newWorld(t, Options{})
	c := dialH2(t, dial(t, w.addr).Conn)
	c.await(t, func(frame http2.Frame) bool {
		settings, is := frame.(*http2.SettingsFrame)
		if is && !settings.IsAck() {
			size, _ := settings.Value(http2.SettingMaxFrameSize)
			require.EqualValues(t, inputSize, size)
		}
		return is && !settings.IsAck()
	})
}

// TestHeadroom_Memory holds that what is counted is what is taken.
func TestHeadroom_Memory(t *testing.T) {
	const clients, size, room, most = 200, 200 << 10, 4 << 20, 16 << 20
	eachPath(t, func(t *testing.T, path string) {
		w := newPathWorld(t, path, Options{Header: HeaderLimits{Memory: room}}, newOrigin(t, answering(okAnswer)).addr)
		begin, _ := largeHead(size)
		var before, now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		refused := 0
		for range clients {
			client := dial(t, w.addr)
			_, _ = io.WriteString(client, begin) // it may be refused within
			require.NoError(t, client.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			if line, err := client.in.ReadString('\n'); err == nil {
				require.Contains(t, line, "503")
				refused++
			}
		}
		require.Greater(t, refused, clients/2)
		letPass(lingerTime + 200*time.Millisecond)
		runtime.GC()
		runtime.ReadMemStats(&now)
		require.Less(t, now.HeapInuse, before.HeapInuse+most)
		require.LessOrEqual(t, w.headroom.taken.Load(), int64(room))
	})
}

func TestHeadroom_NoLimit(t *testing.T) {
	h := headroom{most: -1}
	require.True(t, h.take(1<<40))
	h = headroom{most: 10}
	require.True(t, h.take(10))
	require.False(t, h.take(1))
	h.give(1)
	require.True(t, h.take(1), fmt.Sprint(h.taken.Load()))
}
