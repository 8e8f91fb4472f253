package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

// TestFast_HandsOnItsPlace holds that a request which net/http serves has one place among those of its version.
func TestFast_HandsOnItsPlace(t *testing.T) {
	cart := service("cart", ready("main", h2cInstance(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })))
	cart.Protocol = route.H2C
	w := newWorld(t, Options{Concurrency: Concurrency{PerVersion: 1, Queue: -1}}, cart)
	for range 3 {
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		require.Equal(t, http.StatusOK, client.answer(t, http.MethodGet).StatusCode)
	}
}

// TestFast_SlowAnswerIsNotAskedForTwice holds that an instance which takes too long is not
// taken for one that has closed the connection.
func TestFast_SlowAnswerIsNotAskedForTwice(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		var asked atomic.Int64
		o := newOrigin(t, func(f *far) {
			for f.head() != nil {
				if asked.Add(1) == 1 {
					f.say(okAnswer)
				}
			}
		})
		w := newPathWorld(t, path, Options{AnswerTimeout: 150 * time.Millisecond}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		client.head(t)
		client.exactly(t, 2)
		client.raw(t, get("/"))
		require.Equal(t, "HTTP/1.1 504 Gateway Timeout", client.head(t)[0])
		require.EqualValues(t, 2, asked.Load())
	})
}

// TestFast_TimeToTakeAnAnswer holds that the time for an answer begins with it: that for an earlier
// one says nothing.
func TestFast_TimeToTakeAnAnswer(t *testing.T) {
	const most = 200 * time.Millisecond
	events := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
	for name, c := range map[string]struct{ ask, answer, first string }{
		"without a body": {get("/"), "HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP/1.1 304 Not Modified"},
		"by the proxy":   {"GET / HTTP/1.1\r\nHost: unknown\r\n\r\n", "", "HTTP/1.1 404 Not Found"},
		"interim":        {get("/"), "HTTP/1.1 103 Early Hints\r\n\r\n" + okAnswer, "HTTP/1.1 103 Early Hints"},
		"until close":    {get("/"), events, "HTTP/1.1 200 OK"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, func(f *far) {
				f.head()
				f.say(okAnswer)
				f.head()
				f.say(c.answer)
				_ = f.head()
			})
			w := newPathWorld(t, "fast", Options{sendTimeout: most}, o.addr)
			client := dial(t, w.addr)
			client.raw(t, get("/"))
			require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0])
			client.exactly(t, 2)
			letPass(2 * most)
			client.raw(t, c.ask)
			require.Equal(t, c.first, client.head(t)[0])
		})
	}
}

// TestFast_TunnelHasNoTimeToEnd holds that an upgraded connection does not inherit the time in
// which an answer had to be taken.
func TestFast_TunnelHasNoTimeToEnd(t *testing.T) {
	const most = 200 * time.Millisecond
	o := newOrigin(t, func(f *far) {
		f.head()
		f.say(okAnswer)
		f.head()
		f.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(f, f.in)
	})
	w := newPathWorld(t, "fast", Options{sendTimeout: most}, o.addr)
	client := dial(t, w.addr)
	client.raw(t, get("/"))
	client.head(t)
	client.exactly(t, 2)
	client.raw(t, get("/", "Connection: Upgrade", "Upgrade: echo"))
	require.Equal(t, "HTTP/1.1 101 Switching Protocols", client.head(t)[0])
	letPass(2 * most)
	client.raw(t, "still there")
	require.Equal(t, "still there", client.exactly(t, 11))
}

// TestFast_HandedOnHasNoTimeToEnd holds the same for a connection that net/http takes over.
func TestFast_HandedOnHasNoTimeToEnd(t *testing.T) {
	const most = 200 * time.Millisecond
	slow := h2cInstance(t, func(w http.ResponseWriter, _ *http.Request) {
		letPass(2 * most)
		_, _ = io.WriteString(w, "ok")
	})
	chat := service("chat", ready("main", slow))
	chat.Protocol = route.H2C
	w := newWorld(t, Options{sendTimeout: most}, service("cart", ready("main", says(t, "cart"))), chat)
	client := dial(t, w.addr)
	client.raw(t, get("/"))
	require.Equal(t, "cart", client.answer(t, http.MethodGet).text)
	client.raw(t, "GET / HTTP/1.1\r\nHost: chat.localhost\r\n\r\n")
	require.Equal(t, "ok", client.answer(t, http.MethodGet).text)
}

// TestFast_ClientThatReadsNothing holds that one who asks and asks, and takes none of the
// proxy's own answers, does not stay.
func TestFast_ClientThatReadsNothing(t *testing.T) {
	w := newWorld(t, Options{sendTimeout: 200 * time.Millisecond})
	client := dial(t, w.addr)
	require.NoError(t, client.SetWriteDeadline(time.Now().Add(5*time.Second)))
	asks := strings.Repeat("GET / HTTP/1.1\r\nHost: unknown\r\n\r\n", 1000)
	for {
		if _, err := io.WriteString(client, asks); err != nil {
			require.NotErrorIs(t, err, net.ErrClosed)
			require.NotContains(t, err.Error(), "timeout", "the proxy waits for it without end")
			return
		}
	}
}

// TestFast_TimeForAHead holds that the time for a head is not given anew with each byte,
// on a connection that has been idle too.
func TestFast_TimeForAHead(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		w := newPathWorld(t, path, Options{HeaderTimeout: 300 * time.Millisecond}, newOrigin(t, answering(okAnswer)).addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		client.head(t)
		client.exactly(t, 2)
		letPass(1200 * time.Millisecond)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = client.in.ReadByte()
		}()
		start := time.Now()
		for _, c := range get("/" + strings.Repeat("x", 60)) {
			_, _ = client.Write([]byte{byte(c)})
			select {
			case <-ended:
				require.Less(t, time.Since(start), 2*time.Second)
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
		t.Fatal("the head may take as long as it likes")
	})
}

// TestFast_TimeForAHeadBehindARequest holds that the time for a head does not begin while the request before it
// is answered, and is not more for a head that began by then.
func TestFast_TimeForAHeadBehindARequest(t *testing.T) {
	const most = 300 * time.Millisecond
	eachCase(t, map[string]string{"without a body": get("/"), "behind a body": post("Content-Length: 2") + "hi"}, func(t *testing.T, path, name, raw string) {
		o := newOrigin(t, func(f *far) {
			for head := f.head(); head != nil; head = f.head() {
				f.bodyOf(head)
				letPass(2 * most)
				f.say(okAnswer)
			}
		})
		w := newPathWorld(t, path, Options{HeaderTimeout: most}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, raw+"GET / HT")
		client.head(t)
		client.exactly(t, 2)
		client.raw(t, "TP/1.1\r\nHost: cart.localhost\r\n\r\nGET")
		require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0], name)
		client.exactly(t, 2)
		start := time.Now()
		client.ended(t)
		require.Less(t, time.Since(start), 2*time.Second, name)
	})
}

// TestFast_IdleTimeBeginsBehindTheAnswer holds that a long request does not use up the time
// in which the next one may come.
func TestFast_IdleTimeBeginsBehindTheAnswer(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		o := newOrigin(t, func(f *far) {
			for f.head() != nil {
				letPass(600 * time.Millisecond)
				f.say(okAnswer)
			}
		})
		w := newPathWorld(t, path, Options{IdleTimeout: 400 * time.Millisecond}, o.addr)
		client := dial(t, w.addr)
		for range 2 {
			client.raw(t, get("/"))
			require.Equal(t, "HTTP/1.1 200 OK", client.head(t)[0])
			client.exactly(t, 2)
			letPass(100 * time.Millisecond)
		}
	})
}

// TestFast_StopsWhileARequestIsAnswered holds that its client is told that the connection ends with it, and
// that nothing is left of the connection when the proxy has stopped.
func TestFast_StopsWhileARequestIsAnswered(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		asked := make(chan struct{})
		o := newOrigin(t, func(f *far) {
			f.head()
			close(asked)
			letPass(drainIdle + 300*time.Millisecond)
			f.say(okAnswer)
			_ = f.head()
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		<-asked
		w.stop()
		head := client.head(t)
		require.Equal(t, "HTTP/1.1 200 OK", head[0])
		require.Equal(t, []string{"close"}, field(head, "Connection"))
		client.exactly(t, 2)
		client.ended(t)
	})
}

// TestFast_AnswersWithAFalseLength holds that a length which says nothing is not passed on, and that a
// connection on which an answer had two is not used again.
func TestFast_AnswersWithAFalseLength(t *testing.T) {
	const interim, switching = "HTTP/1.1 103 Early Hints\r\n", "HTTP/1.1 101 Switching Protocols\r\n"
	for name, c := range map[string]struct{ ask, answer, want string }{
		"interim":   {get("/"), interim + "Content-Length: 9\r\nLink: </a>\r\n\r\n" + okAnswer, interim + "Link: </a>\r\n\r\n"},
		"switching": {get("/", "Connection: Upgrade", "Upgrade: echo"), switching + "Content-Length: 9\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", switching + "Layover-Served-By"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, func(f *far) {
				f.head()
				f.say(c.answer)
			})
			client := dial(t, newPathWorld(t, "fast", Options{}, o.addr).addr)
			client.raw(t, c.ask)
			require.Equal(t, c.want, client.exactly(t, len(c.want)))
		})
	}
	t.Run("beside a coding", func(t *testing.T) {
		o := newOrigin(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
		client := dial(t, newPathWorld(t, "fast", Options{}, o.addr).addr)
		for n := range 2 {
			client.raw(t, get("/"))
			require.Empty(t, field(client.head(t), "Content-Length"))
			body, _ := readChunked(client.in)
			require.Equal(t, "ok", body)
			require.EqualValues(t, n+1, o.conns.Load())
		}
	})
}

// narrow is a listener whose connections hold back little of what is written.
type narrow struct{ net.Listener }

// Accept accepts a connection.
func (l narrow) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
	}
	return conn, err
}

// TestFast_SlowClient holds that a client that takes its answer slowly, and takes it, gets all of it.
func TestFast_SlowClient(t *testing.T) {
	const size, most = 8 << 20, 800 * time.Millisecond
	eachPath(t, func(t *testing.T, path string) {
		o := newOrigin(t, func(f *far) {
			f.head()
			f.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
			f.say(strings.Repeat("x", size))
			_ = f.head()
		})
		p, l := New(Options{sendTimeout: most, NoFastPath: path == "net/http"}), listen(t)
		p.SetTable(compile(t, route.Spec{Services: []route.Service{service("cart", ready("main", o.addr))}}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx, Listener{Listener: narrow{l}}) }()
		client := dial(t, l.Addr().String())
		require.NoError(t, client.Conn.(*net.TCPConn).SetReadBuffer(32<<10))
		client.raw(t, get("/"))
		client.head(t)
		got, buf := 0, make([]byte, 32<<10)
		for start := time.Now(); time.Since(start) < 3*time.Second; letPass(most / 20) {
			n, err := io.ReadFull(client.in, buf)
			got += n
			require.NoError(t, err, "after %d bytes", got)
		}
		n, err := io.CopyN(io.Discard, client.in, int64(size-got))
		require.NoError(t, err)
		require.EqualValues(t, size-got, n)
		require.NoError(t, client.Close())
		cancel()
		require.NoError(t, <-done)
	})
}

// TestFast_IdleConnectionKeepsNoHead holds that a large head is given up once its request was answered.
func TestFast_IdleConnectionKeepsNoHead(t *testing.T) {
	const clients, size, most = 40, 900 << 10, 12 << 20
	w := newPathWorld(t, "fast", Options{}, newOrigin(t, answering(okAnswer)).addr)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range clients {
		conn := dial(t, w.addr)
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: unknown\r\nX: ")
		require.NoError(t, err)
		_, err = io.WriteString(conn, strings.Repeat("x", size)+"\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(conn.in, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
	}
	letPass(20 * time.Millisecond)
	for range 3 { // a pool gives up what it has in two
		runtime.GC()
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.HeapInuse, before.HeapInuse+most)
}

// faulty is an instance's connection in which the proxy itself fails: at a write.
type faulty struct {
	net.Conn
	at, written int
	closed      chan struct{}
	close       sync.Once
}

// Write takes all that comes before the fault.
func (c *faulty) Write(b []byte) (int, error) {
	if c.written++; c.written == c.at {
		panic("a fault of the test")
	}
	return len(b), nil
}

// Read waits for the end.
func (c *faulty) Read([]byte) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

// Close ends a read.
func (c *faulty) Close() error {
	c.close.Do(func() { close(c.closed) })
	return nil
}

// TestFast_FaultGivesBackItsPlace holds that a request within which the proxy itself fails keeps no place:
// neither of its version, nor at its instance, nor among those that a drain waits for.
func TestFast_FaultGivesBackItsPlace(t *testing.T) {
	for name, c := range map[string]struct {
		begin, end string
		at         int
	}{
		"with the request": {get("/"), "", 1},
		"with its body":    {post("Content-Length: 10") + "hello", "world", 2},
		"of a large head":  {get("/", "X-Large: "+strings.Repeat("x", 40<<10)), "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, answering(okAnswer))
			w := newPathWorld(t, "fast", Options{Concurrency: Concurrency{PerVersion: 1, Queue: -1}}, o.addr)
			version := w.Table().Service("cart").Version("main")
			conn := &faulty{at: c.at, closed: make(chan struct{})}
			w.pools.of(&version.Instances[0]).put(&upstream{source: source{conn: conn}, born: time.Now()}, time.Now(), time.Minute)
			client := dial(t, w.addr)
			client.raw(t, c.begin)
			if c.end != "" {
				letPass(20 * time.Millisecond) // so that the end comes by itself
				client.raw(t, c.end)
			}
			client.ended(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			require.NoError(t, w.WaitIdle(ctx, version.Instances[0].ID))
			eventually(t, func() bool {
				return w.active.count.Load() == 0 && w.versions.of(version.ID).limiter.inside.Load() == 0 && w.headroom.taken.Load() == 0
			})
			require.Zero(t, w.clients.len())
			another := dial(t, w.addr)
			another.raw(t, get("/"))
			require.Equal(t, "HTTP/1.1 200 OK", another.head(t)[0])
		})
	}
}
