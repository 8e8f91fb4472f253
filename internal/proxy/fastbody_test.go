package proxy

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// refusing is an instance's connection that takes the first write, and no other. Then it answers.
type refusing struct {
	net.Conn
	written int
	refused chan struct{}
	answer  *strings.Reader
}

// Write takes the first one.
func (c *refusing) Write(b []byte) (int, error) {
	switch c.written++; c.written {
	case 1:
		return len(b), nil
	case 2:
		close(c.refused)
	}
	return 0, syscall.EPIPE
}

// Read reads the answer.
func (c *refusing) Read(b []byte) (int, error) {
	<-c.refused
	return c.answer.Read(b)
}

// Close does nothing.
func (c *refusing) Close() error { return nil }

// TestBody_InstanceThatTakesNoEnd holds that the end of a body is never read as a request, when the
// instance does not take it, and that the instance's connection is not used again.
func TestBody_InstanceThatTakesNoEnd(t *testing.T) {
	smuggled := get("/smuggled")
	for name, c := range map[string]struct{ begin, end, answer string }{
		"length":         {post(fmt.Sprintf("Content-Length: %d", 5+len(smuggled))) + "hello", smuggled, okAnswer},
		"chunks":         {post("Transfer-Encoding: chunked") + "5\r\nhello\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled), okAnswer},
		"without answer": {post(fmt.Sprintf("Content-Length: %d", 5+len(smuggled))) + "hello", smuggled, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, answering(okAnswer))
			w := newPathWorld(t, "fast", Options{}, o.addr)
			version := w.Table().Service("cart").Version("main")
			conns := w.pools.of(&version.Instances[0])
			conns.put(&upstream{
				source: source{conn: &refusing{refused: make(chan struct{}), answer: strings.NewReader(c.answer)}},
				born:   time.Now(),
			}, time.Now(), time.Minute)
			client := dial(t, w.addr)
			client.raw(t, c.begin)
			letPass(20 * time.Millisecond) // so that the end comes by itself
			client.raw(t, c.end)
			client.head(t)
			client.closeWrite(t)
			_, _ = io.Copy(io.Discard, client.in)
			w.stop()
			require.Len(t, w.records.list(), 1)
			require.NotContains(t, o.bytes(), "smuggled")
			require.Empty(t, conns.list)
		})
	}
}

// TestBody_InstanceThatBreaksOffWithinIt holds that the client is told who broke off, and at once, though it
// has more of its body to send: not that it was slow, and not nothing.
func TestBody_InstanceThatBreaksOffWithinIt(t *testing.T) {
	bodies := map[string]string{
		"length": post("Content-Length: 10") + "hello",
		"chunks": post("Transfer-Encoding: chunked") + "5\r\nhello\r\n",
	}
	begun := map[string]string{
		"nothing said":            "",
		"within the head":         "HTTP/1.1 200 OK\r\nContent-L",
		"within an answer":        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
		"within a chunked answer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	}
	breaksOff := map[string]func(*far){
		"closes": func(c *far) { _ = c.Close() },
		"resets": func(c *far) { _ = c.Conn.(*net.TCPConn).SetLinger(0) },
	}
	type breach struct {
		raw, said string
		do        func(*far)
	}
	cases := make(map[string]breach)
	for how, do := range breaksOff {
		for body, raw := range bodies {
			for where, said := range begun {
				cases[how+" "+where+" and "+body] = breach{raw, said, do}
			}
		}
	}
	eachCase(t, cases, func(t *testing.T, path, name string, c breach) {
		o := newOrigin(t, func(f *far) {
			f.head()
			f.say(c.said)
			letPass(20 * time.Millisecond) // until the proxy waits for more of the body
			c.do(f)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		start := time.Now()
		client.raw(t, c.raw)
		head := client.head(t)
		if strings.Contains(name, "answer") {
			require.Equal(t, "HTTP/1.1 200 OK", head[0], name)
			rest, _ := io.ReadAll(client.in)
			require.Contains(t, string(rest), "hello", name)
			require.NotContains(t, string(rest), "0\r\n\r\n", name)
			w.failed(t, CodeAborted, 1)
		} else {
			require.Equal(t, "HTTP/1.1 502 Bad Gateway", head[0], name)
			require.Equal(t, []string{string(CodeUnreachable)}, field(head, ErrorHeader), name)
			require.Equal(t, []string{"close"}, field(head, "Connection"), name)
			client.problemOf(t, head)
			client.ended(t)
			w.failed(t, CodeUnreachable, 1)
		}
		require.Less(t, time.Since(start), patience/2, name)
	})
}

// TestBody_ClientThatLeavesBehindIt holds that a client is looked after when all of its body was sent.
func TestBody_ClientThatLeavesBehindIt(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		asked, left := make(chan struct{}), make(chan struct{})
		o := newOrigin(t, func(c *far) {
			c.bodyOf(c.head())
			close(asked)
			_, _ = c.in.ReadByte() // until the proxy gives up
			close(left)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, post("Content-Length: 5"))
		letPass(20 * time.Millisecond) // so that the body comes by itself
		client.raw(t, "hello")
		<-asked
		require.NoError(t, client.Close())
		select {
		case <-left:
		case <-time.After(3 * time.Second):
			t.Fatal("the instance is not told that nobody waits for its answer")
		}
		w.failed(t, CodeClientGone, 1)
	})
}

// reset ends a connection at once: what is under way in both directions is lost.
func reset(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.(*net.TCPConn).SetLinger(0))
	require.NoError(t, conn.Close())
}

// TestBody_ClientThatBreaksOffWithinALargeOne holds that the instance learns of it.
func TestBody_ClientThatBreaksOffWithinALargeOne(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		left := make(chan struct{})
		o := newOrigin(t, func(c *far) {
			c.head()
			_, _ = io.Copy(io.Discard, c.in)
			close(left)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, post("Content-Length: 10000000"))
		client.raw(t, strings.Repeat("x", 1<<20))
		letPass(50 * time.Millisecond)
		reset(t, client.Conn)
		select {
		case <-left:
		case <-time.After(3 * time.Second):
			t.Fatal("the instance waits for a body that never comes")
		}
		require.NotEmpty(t, w.records.wait(t, 1)[0].Error)
	})
}

// TestBody_TimeOfTheAnswerBeginsBehindIt holds that the time for an answer is not used up by a body
// that takes long.
func TestBody_TimeOfTheAnswerBeginsBehindIt(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		o := newOrigin(t, func(c *far) {
			c.bodyOf(c.head())
			c.say(okAnswer)
		})
		w := newPathWorld(t, path, Options{AnswerTimeout: 200 * time.Millisecond}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, post("Content-Length: 8"))
		for range 8 {
			letPass(80 * time.Millisecond)
			client.raw(t, "x")
		}
		head := client.head(t)
		require.Equal(t, "HTTP/1.1 200 OK", head[0])
		w.served(t, head, 1)
	})
}
