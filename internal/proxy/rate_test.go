package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBodyPatience(t *testing.T) {
	rate := BodyRate{BytesPerSecond: 100, Grace: 30 * time.Second}
	p := newPatience(&rate)
	now := time.Now()
	require.Equal(t, 30*time.Second, p.deadline(now).Sub(now))
	p.got(50, 10*time.Second)
	require.Equal(t, 20*time.Second+time.Second/2, p.deadline(now).Sub(now))
	p.got(1_000_000, time.Second)
	require.Equal(t, 30*time.Second, p.deadline(now).Sub(now), "what came early is not saved up")
	p.got(0, time.Minute)
	require.Equal(t, time.Duration(0), p.deadline(now).Sub(now))
	p.got(100, 0)
	require.Equal(t, time.Second, p.deadline(now).Sub(now))
}

func TestBodyRate_Applies(t *testing.T) {
	rate := BodyRate{}.withDefaults()
	require.True(t, rate.applies(1, "text/plain"))
	require.False(t, rate.applies(0, ""))
	require.False(t, rate.applies(-1, ""), "a stream")
	require.False(t, rate.applies(5, "application/grpc+proto"))
	off := BodyRate{BytesPerSecond: -1}.withDefaults()
	require.False(t, off.applies(1, ""))
}

// trickle sends n bytes, one each pause.
func trickle(to net.Conn, n int, pause time.Duration) {
	for range n {
		time.Sleep(pause)
		if _, err := to.Write([]byte("x")); err != nil {
			return
		}
	}
	_ = to.Close()
}

func TestPacedBody(t *testing.T) {
	for name, c := range map[string]struct {
		pause time.Duration
		n     int
		slow  bool
		after time.Duration
	}{
		"as fast as asked":  {time.Second / 10, 1000, false, 100 * time.Second},
		"half as fast":      {time.Second / 5, 1000, true, 20 * time.Second},
		"stops":             {time.Hour, 1, true, 10 * time.Second},
		"slow, but not for": {9 * time.Second, 1, false, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				var sending sync.WaitGroup
				sending.Go(func() { trickle(client, c.n, c.pause) })
				rate := &BodyRate{BytesPerSecond: 10, Grace: 10 * time.Second}
				body := newPacedBody(server, rate, server.SetReadDeadline)
				start := time.Now()
				n, err := io.Copy(io.Discard, body)
				require.Equal(t, c.slow, body.slow.Load())
				require.InDelta(t, c.after, time.Since(start), float64(time.Second))
				if c.slow {
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				} else {
					require.NoError(t, err)
					require.EqualValues(t, c.n, n)
				}
				_ = server.Close()
				sending.Wait()
			})
		})
	}
}

func TestPacedBody_ThatIsOverLeavesTheDeadline(t *testing.T) {
	set := 0
	body := newPacedBody(io.NopCloser(strings.NewReader("ab")), &BodyRate{BytesPerSecond: 1, Grace: time.Second},
		func(time.Time) error { set++; return nil })
	_, err := body.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, 1, set)
	body.end()
	_, err = io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, 1, set)
}

func TestProxy_EndsBodiesThatComeTooSlowly(t *testing.T) {
	w := newWorld(t, Options{BodyRate: BodyRate{BytesPerSecond: 1, Grace: 30 * time.Millisecond}},
		service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))))
	c := dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", "Content-Length: 1000", "", "")
	a := c.answer(t, http.MethodPost)
	require.Equal(t, http.StatusRequestTimeout, a.StatusCode)
	require.Equal(t, CodeSlowBody, a.problem(t).Code)
	require.True(t, a.Close)
	_, err := c.in.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	r := w.records.wait(t, 1)[0]
	require.Equal(t, string(CodeSlowBody), r.Error)
	require.Equal(t, http.StatusRequestTimeout, r.Status)
}

// TestProxy_LetsStreamsTakeTheirTime has no bound on bodies of unknown length, on waiting
// for an answer to a complete body, and on the request behind.
func TestProxy_LetsStreamsTakeTheirTime(t *testing.T) {
	const grace = 20 * time.Millisecond
	proceed := make(chan struct{})
	w := newWorld(t, Options{BodyRate: BodyRate{BytesPerSecond: 1, Grace: grace}},
		service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			<-proceed
			_, _ = w.Write(body)
		}))))
	c := dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", "Transfer-Encoding: chunked", "")
	idle(t, c, 3*grace)
	c.send(t, "2", "hi", "0", "")
	idle(t, c, 3*grace)
	proceed <- struct{}{}
	require.Equal(t, "hi", c.answer(t, http.MethodPost).text)

	c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", "Content-Length: 2", "", "ho")
	idle(t, c, 3*grace)
	proceed <- struct{}{}
	require.Equal(t, "ho", c.answer(t, http.MethodPost).text)
	idle(t, c, 3*grace)
	c.send(t, "GET / HTTP/1.1", "Host: cart.localhost", "")
	proceed <- struct{}{}
	require.Equal(t, http.StatusOK, c.answer(t, http.MethodGet).StatusCode)
}

// TestProxy_DoesNotBlameTheClientForASlowInstance has the instance take nothing for longer than a client
// may fall behind.
func TestProxy_DoesNotBlameTheClientForASlowInstance(t *testing.T) {
	const grace, size = time.Second / 2, 32 << 20
	waiting := make(chan struct{})
	proceed := sync.OnceFunc(func() { close(waiting) })
	w := newWorld(t, Options{BodyRate: BodyRate{BytesPerSecond: 1, Grace: grace}},
		service("cart", ready("main", instance(t, func(w http.ResponseWriter, r *http.Request) {
			<-waiting
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n, err)
		}))))
	t.Cleanup(proceed)
	c := dial(t, w.addr)
	c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", fmt.Sprint("Content-Length: ", size), "")
	var sending sync.WaitGroup
	sending.Go(func() {
		_, err := c.Write(make([]byte, size))
		if err != nil {
			t.Error(err)
		}
	})
	idle(t, c, 2*grace)
	proceed()
	require.Equal(t, fmt.Sprint(size, nil), c.answer(t, http.MethodPost).text)
	sending.Wait()
}

// idle holds that nothing comes for a time.
func idle(t *testing.T, c *wire, d time.Duration) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(d)))
	_, err := c.in.Peek(1)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
}
