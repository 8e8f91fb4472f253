package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConformance_BothWaysAtOnce(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		o := newOrigin(t, func(c *far) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for {
				size, err := c.in.ReadString('\n')
				if err != nil {
					return
				}
				if size == "0\r\n" {
					_ = c.head()
					c.say("0\r\n\r\n")
					return
				}
				chunk, _ := c.in.ReadString('\n')
				c.say(fmt.Sprintf("%x\r\n%s", len(chunk)-2, strings.ToUpper(chunk)))
			}
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, post("Transfer-Encoding: chunked"))
		head := client.head(t)
		for _, word := range []string{"one", "three", "seventeen"} { // each is answered before the next is sent
			client.raw(t, fmt.Sprintf("%x\r\n%s\r\n", len(word), word))
			want := fmt.Sprintf("%x\r\n%s\r\n", len(word), strings.ToUpper(word))
			require.Equal(t, want, client.exactly(t, len(want)))
		}
		client.raw(t, "0\r\n\r\n")
		require.Equal(t, "0\r\n\r\n", client.exactly(t, 5))
		r := w.served(t, head, 1)
		require.EqualValues(t, len("onethreeseventeen"), r.BytesIn)
		require.EqualValues(t, len("onethreeseventeen"), r.BytesOut)
	})
}

// TestConformance_HalfClose holds that a client may end what it says with its request.
func TestConformance_HalfClose(t *testing.T) {
	eachCase(t, map[string]string{"half-close behind a GET": get("/"), "half-close behind a POST": post("Content-Length: 2") + "hi"}, func(t *testing.T, path, name, raw string) {
		asked, proceed := make(chan struct{}), make(chan struct{})
		o := newOrigin(t, func(c *far) {
			c.bodyOf(c.head())
			close(asked)
			<-proceed
			c.say(okAnswer)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, raw)
		client.closeWrite(t)
		<-asked
		client.silent(t)
		close(proceed)
		head := client.head(t)
		require.Equal(t, "ok", client.exactly(t, 2), name)
		w.served(t, head, 1)
		client.ended(t)
	})
}

func TestConformance_ClientThatLeaves(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		asked, left := make(chan struct{}), make(chan struct{})
		o := newOrigin(t, func(c *far) {
			c.head()
			close(asked)
			_, err := c.in.ReadByte() // until the proxy gives up
			if err != nil {
				close(left)
			}
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		<-asked
		require.NoError(t, client.Close())
		<-left
		w.failed(t, CodeClientGone, 1)
		require.Zero(t, w.records.list()[0].Status)
	})
}

// hangingDials has connecting to instances hang. It tells when one has begun, and when it was given up.
func (w *world) hangingDials() (begun, ended <-chan struct{}) {
	b, e := make(chan struct{}, 8), make(chan struct{}, 8)
	w.transports.dialer.ControlContext = func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
		b <- struct{}{}
		<-ctx.Done()
		e <- struct{}{}
		return context.Cause(ctx)
	}
	return b, e
}

// TestConformance_NobodyWaitsForTheConnection holds that a request ends where nobody waits for it, though
// connecting to its instance hangs; and that another is not tried then. net/http looks after a client only
// once it has read the body, and goes on connecting for a request that may come.
func TestConformance_NobodyWaitsForTheConnection(t *testing.T) {
	bodies := map[string]string{"no body": get("/"), "a body": post("Content-Length: 5") + "hello", "part of a body": post("Content-Length: 5") + "hel"}
	options := Options{DialTimeout: patience, DrainTimeout: 200 * time.Millisecond}
	t.Run("client leaves", func(t *testing.T) {
		eachCase(t, bodies, func(t *testing.T, path, name, raw string) {
			if path == "net/http" && name != "no body" {
				return
			}
			w := newPathWorld(t, path, options, deadAddress(t))
			w.set(t, service("cart", ready("main", deadAddress(t), deadAddress(t))))
			begun, ended := w.hangingDials()
			client := dial(t, w.addr)
			client.raw(t, raw)
			<-begun
			require.NoError(t, client.Close())
			w.failed(t, CodeClientGone, 1)
			require.Less(t, w.records.list()[0].Duration, patience/2, name)
			if path == "fast" {
				<-ended
			}
			require.Empty(t, begun, name)
		})
	})
	t.Run("proxy stops", func(t *testing.T) {
		eachCase(t, bodies, func(t *testing.T, path, name, raw string) {
			w := newPathWorld(t, path, options, deadAddress(t))
			w.set(t, service("cart", ready("main", deadAddress(t), deadAddress(t))))
			begun, ended := w.hangingDials()
			client := dial(t, w.addr)
			client.raw(t, raw)
			<-begun
			w.stop()
			require.Len(t, w.records.list(), 1, name)
			w.failed(t, CodeStopping, 1)
			if path == "fast" {
				<-ended
			}
			require.Empty(t, begun, name)
		})
	})
}

func TestConformance_AnswerBeforeTheBodyIsComplete(t *testing.T) {
	eachCase(t, map[string]string{"length": "Content-Length: 1000000", "chunks": "Transfer-Encoding: chunked"}, func(t *testing.T, path, name, fields string) {
		o := newOrigin(t, func(c *far) {
			c.head()
			c.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			c.closeWrite()
			_, _ = io.Copy(io.Discard, c.in)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, post(fields))
		if strings.HasPrefix(fields, "T") {
			client.raw(t, "5\r\nhello\r\n")
		} else {
			client.raw(t, "hello")
		}
		head := client.head(t)
		require.Contains(t, head[0], "HTTP/1.1 413 ", name)
		require.Equal(t, "no", client.exactly(t, 2), name)
		require.NoError(t, client.Close())
		r := w.records.wait(t, 1)[0]
		require.Equal(t, 413, r.Status)
		require.Empty(t, r.Error)
	})
}

// TestConformance_StaleConnection holds that an instance that closes an idle connection costs
// no request that can be sent again, and that none that it may have acted on is sent twice.
func TestConformance_StaleConnection(t *testing.T) {
	t.Run("closed while idle", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			closed := make(chan struct{}, 64)
			o := newOrigin(t, func(c *far) {
				if c.head() != nil {
					c.say(okAnswer)
				}
				_ = c.Close()
				closed <- struct{}{}
			})
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			for n := range 20 {
				client.raw(t, get("/"))
				head := client.head(t)
				require.Equal(t, "HTTP/1.1 200 OK", head[0])
				require.Equal(t, "ok", client.exactly(t, 2))
				w.served(t, head, n+1)
				<-closed
			}
		})
	})
	t.Run("a body that was sent", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			var posts atomic.Int64
			o := newOrigin(t, func(c *far) {
				c.head()
				c.say(okAnswer)
				if head := c.head(); head != nil { // the second request of the connection is read, and not answered
					c.bodyOf(head)
					posts.Add(1)
				}
			})
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			client.raw(t, get("/"))
			client.head(t)
			client.exactly(t, 2)
			client.raw(t, post("Content-Length: 5")+"hello")
			require.Equal(t, "HTTP/1.1 502 Bad Gateway", client.head(t)[0])
			w.records.wait(t, 2)
			w.failed(t, CodeUnreachable, 2)
			require.EqualValues(t, 1, posts.Load())
			require.EqualValues(t, 1, o.conns.Load())
		})
	})
	t.Run("an answer that began", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			o := newOrigin(t, func(c *far) {
				c.head()
				if c.number > 1 {
					c.say(okAnswer)
				}
				c.say(okAnswer)
				c.head()
				c.say("HTTP/1.1 2")
			})
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			client.raw(t, get("/"))
			client.head(t)
			client.exactly(t, 2)
			client.raw(t, get("/"))
			require.Equal(t, "HTTP/1.1 502 Bad Gateway", client.head(t)[0])
			require.EqualValues(t, 1, o.conns.Load())
		})
	})
}

func TestConformance_Upgrade(t *testing.T) {
	eachCase(t, map[string]struct{ protocol, more string }{
		"websocket": {"websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"},
		"another":   {"layover-test/1", ""},
	}, func(t *testing.T, path, name string, c struct{ protocol, more string }) {
		o := newOrigin(t, func(f *far) {
			head := f.head()
			if field(head, "Upgrade") == nil {
				f.say("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
				return
			}
			f.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + c.protocol + "\r\n\r\nright behind ")
			_, _ = io.Copy(f, f.in)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, "GET / HTTP/1.1\r\nHost: cart.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: "+c.protocol+"\r\n"+c.more+"\r\nearly")
		head := client.head(t)
		require.Equal(t, "HTTP/1.1 101 Switching Protocols", head[0], name)
		require.Equal(t, []string{c.protocol}, field(head, "Upgrade"), name)
		require.Equal(t, []string{"cart@main; by=default"}, field(head, ServedByHeader), name)
		require.Equal(t, "right behind early", client.exactly(t, len("right behind early")), name)
		client.raw(t, "\x00\xff\r\n\r\n")
		require.Equal(t, "\x00\xff\r\n\r\n", client.exactly(t, 6), name)
		client.closeWrite(t)
		client.ended(t)
		r := w.served(t, head, 1)
		require.EqualValues(t, len("early")+6, r.BytesIn, name)
		require.EqualValues(t, len("right behind early")+6, r.BytesOut, name)
	})
}

// TestConformance_UpgradeThatIsNotGranted holds that the connection is one of HTTP still.
func TestConformance_UpgradeThatIsNotGranted(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		w := newPathWorld(t, path, Options{}, newOrigin(t, answering(okAnswer)).addr)
		client := dial(t, w.addr)
		for n := range 2 {
			client.raw(t, get("/", "Connection: Upgrade", "Upgrade: websocket"))
			head := client.head(t)
			require.Equal(t, "HTTP/1.1 200 OK", head[0])
			require.Equal(t, "ok", client.exactly(t, 2))
			w.served(t, head, n+1)
		}
	})
}

// TestConformance_UpgradeInHTTP10 holds that the wish is ignored, as HTTP/1.0 knows no upgrades.
func TestConformance_UpgradeInHTTP10(t *testing.T) {
	eachCase(t, map[string]string{"websocket": "websocket", "h2c": "h2c"}, func(t *testing.T, path, name, protocol string) {
		o := newOrigin(t, func(f *far) {
			if head := f.head(); field(head, "Upgrade") != nil || field(head, "Connection") != nil {
				f.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n")
				return
			}
			f.say(okAnswer)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, "GET / HTTP/1.0\r\nHost: cart.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "+protocol+"\r\nHTTP2-Settings: "+h2cSettings+"\r\n\r\n")
		head := client.head(t)
		require.Contains(t, head[0], " 200 OK", name)
		require.Equal(t, "ok", client.exactly(t, 2), name)
		w.served(t, head, 1)
		client.ended(t)
	})
}

// TestConformance_UpgradeNobodyAskedFor holds that an instance cannot make a tunnel of a connection by itself.
func TestConformance_UpgradeNobodyAskedFor(t *testing.T) {
	eachCase(t, map[string]struct{ ask, fields string }{
		"not asked for":              {get("/"), "Connection: Upgrade\r\nUpgrade: echo\r\n"},
		"not asked for, not named":   {get("/"), ""},
		"another than was asked for": {get("/", "Connection: Upgrade", "Upgrade: echo"), "Connection: Upgrade\r\nUpgrade: other\r\n"},
		"asked for, not named":       {get("/", "Connection: Upgrade", "Upgrade: echo"), ""},
	}, func(t *testing.T, path, name string, c struct{ ask, fields string }) {
		o := newOrigin(t, func(f *far) {
			f.head()
			f.say("HTTP/1.1 101 Switching Protocols\r\n" + c.fields + "\r\n")
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, c.ask)
		head := client.head(t)
		require.Equal(t, "HTTP/1.1 502 Bad Gateway", head[0], name)
		require.Equal(t, []string{string(CodeBadAnswer)}, field(head, ErrorHeader), name)
		client.problemOf(t, head)
		w.failed(t, CodeBadAnswer, 1)
	})
}

func TestConformance_EventsComeAtOnce(t *testing.T) {
	eachCase(t, map[string]string{
		"chunked":     "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
		"with length": "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 33\r\n\r\n",
		"until close": "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
	}, func(t *testing.T, path, name, head string) {
		proceed := make(chan struct{})
		event := "data: 123\n\n"
		o := newOrigin(t, func(c *far) {
			c.head()
			c.say(head)
			for range 3 {
				<-proceed
				if name == "chunked" {
					c.say(fmt.Sprintf("%x\r\n%s\r\n", len(event), event))
				} else {
					c.say(event)
				}
			}
			if name == "chunked" {
				c.say("0\r\n\r\n")
			}
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		res, err := http.ReadResponse(client.in, nil) // before the first event is there
		require.NoError(t, err, name)
		read := make([]byte, len(event))
		for range 3 {
			proceed <- struct{}{}
			_, err := io.ReadFull(res.Body, read)
			require.NoError(t, err, name)
			require.Equal(t, event, string(read), name)
		}
		n, err := res.Body.Read(read)
		require.Zero(t, n)
		require.ErrorIs(t, err, io.EOF, name)
		require.Empty(t, w.records.wait(t, 1)[0].Error, name)
	})
}

// TestConformance_ClientThatTakesNothing holds that one who asks and does not read the answer does not stay.
func TestConformance_ClientThatTakesNothing(t *testing.T) {
	const size = 32 << 20 // more than the system takes
	eachCase(t, map[string]string{
		"length":      fmt.Sprintf("Content-Length: %d\r\n\r\n", size),
		"chunked":     fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", size),
		"until close": "\r\n",
	}, func(t *testing.T, path, name, framing string) {
		o := newOrigin(t, func(f *far) {
			f.head()
			f.say("HTTP/1.1 200 OK\r\n" + framing)
			f.say(strings.Repeat("x", size))
			_ = f.head()
		})
		w := newPathWorld(t, path, Options{sendTimeout: 200 * time.Millisecond}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		w.failed(t, CodeClientGone, 1)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(patience/2)))
		_, err := io.Copy(io.Discard, client.in)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, name)
	})
}

// TestConformance_LargeAnswerThatBreaksOff holds that the one who broke off is recorded, however the
// answer is copied.
func TestConformance_LargeAnswerThatBreaksOff(t *testing.T) {
	const size, part = 8 << 20, 100 << 10
	eachCase(t, map[string]struct {
		byInstance, atOnce bool
		code               Code
	}{
		"instance closes": {true, false, CodeAborted},
		"instance resets": {true, true, CodeAborted},
		"client closes":   {false, false, CodeClientGone},
		"client resets":   {false, true, CodeClientGone},
	}, func(t *testing.T, path, name string, c struct {
		byInstance, atOnce bool
		code               Code
	},
	) {
		proceed := make(chan struct{})
		o := newOrigin(t, func(f *far) {
			f.head()
			f.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
			f.say(strings.Repeat("x", part))
			<-proceed
			if !c.byInstance {
				f.say(strings.Repeat("x", size-part))
				return
			}
			if c.atOnce {
				_ = f.Conn.(*net.TCPConn).SetLinger(0)
			}
			_ = f.Close()
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		client.head(t)
		client.exactly(t, part)
		if !c.byInstance && c.atOnce {
			reset(t, client.Conn)
		} else if !c.byInstance {
			require.NoError(t, client.Close())
		}
		close(proceed)
		w.failed(t, c.code, 1)
		if c.byInstance {
			_, err := io.ReadAll(client.in)
			if err != nil {
				require.ErrorContains(t, err, "reset", name)
			}
		}
	})
}

// TestConformance_LargeBodies sends bodies of any size through memory of a constant one.
func TestConformance_LargeBodies(t *testing.T) {
	const size, chunk, most = 64 << 20, 64 << 10, 24 << 20
	eachCase(t, map[string]bool{"length": false, "chunks": true}, func(t *testing.T, path, name string, chunked bool) {
		piece := []byte(strings.Repeat("x", chunk))
		if chunked {
			piece = fmt.Appendf(nil, "%x\r\n%s\r\n", chunk, piece)
		}
		pour := func(to io.Writer) error {
			for range size / chunk {
				if _, err := to.Write(piece); err != nil {
					return err
				}
			}
			if chunked {
				_, err := io.WriteString(to, "0\r\n\r\n")
				return err
			}
			return nil
		}
		framing := fmt.Sprintf("Content-Length: %d", size)
		if chunked {
			framing = "Transfer-Encoding: chunked"
		}
		o := newOrigin(t, func(c *far) {
			in := bufio.NewReader(c.Conn) // what came is not kept
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
			c.say("HTTP/1.1 200 OK\r\n" + framing + "\r\n\r\n")
			if err := pour(c); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		var before, now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		highest := uint64(0)
		measure := func() {
			runtime.ReadMemStats(&now)
			highest = max(highest, now.HeapInuse)
		}
		client.raw(t, post(framing))
		require.NoError(t, pour(client))
		measure()
		res, err := http.ReadResponse(client.in, nil)
		require.NoError(t, err)
		total := int64(0)
		for {
			n, err := io.CopyN(io.Discard, res.Body, size/16)
			total += n
			measure()
			if err != nil {
				break
			}
		}
		require.EqualValues(t, size, total)
		r := w.records.wait(t, 1)[0]
		require.EqualValues(t, size, r.BytesIn)
		require.EqualValues(t, size, r.BytesOut)
		require.Less(t, highest, before.HeapInuse+most)
	})
}
