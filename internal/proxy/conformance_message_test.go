package proxy

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// silent holds that nothing comes for a moment.
func (c *wire) silent(t *testing.T) {
	t.Helper()
	idle(t, c, 30*time.Millisecond)
}

func TestConformance_KeepAlive(t *testing.T) {
	eachCase(t, map[string]struct {
		raw   string
		stays bool
		says  []string // Connection of the answer
	}{
		"1.1":            {get("/"), true, nil},
		"1.1 close":      {get("/", "Connection: close"), false, []string{"close"}},
		"1.1 Close":      {get("/", "Connection: x-a, Close"), false, []string{"close"}},
		"1.0":            {"GET / HTTP/1.0\r\nHost: cart.localhost\r\n\r\n", false, nil}, // nothing needs to be said
		"1.0 keep-alive": {"GET / HTTP/1.0\r\nHost: cart.localhost\r\nConnection: Keep-Alive\r\n\r\n", true, []string{"keep-alive"}},
	}, func(t *testing.T, path, name string, c struct {
		raw   string
		stays bool
		says  []string // Connection of the answer
	},
	) {
		w := newPathWorld(t, path, Options{}, newOrigin(t, answering(okAnswer)).addr)
		client := dial(t, w.addr)
		for n := range 3 {
			client.raw(t, c.raw)
			head := client.head(t)
			require.Equal(t, "ok", client.exactly(t, 2), name)
			if said := field(head, "Connection"); c.says != nil || said != nil {
				require.Equal(t, c.says, said, name)
			}
			w.served(t, head, n+1)
			if !c.stays {
				client.ended(t)
				return
			}
		}
	})
}

func TestConformance_Pipelining(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		o := newOrigin(t, func(c *far) {
			for head := c.head(); head != nil; head = c.head() {
				body, _ := c.bodyOf(head)
				text := strings.Fields(head[0])[1] + body
				c.say("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(text)) + "\r\n\r\n" + text)
			}
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/1")+
			strings.Replace(post("Content-Length: 5"), "/", "/2", 1)+"hello"+
			strings.Replace(post("Transfer-Encoding: chunked"), "/", "/3", 1)+"2\r\nho\r\n0\r\n\r\n"+
			get("/4")+get("/5"))
		for n, want := range []string{"/1", "/2hello", "/3ho", "/4", "/5"} {
			head := client.head(t)
			require.Equal(t, want, client.exactly(t, len(want)))
			r := w.served(t, head, n+1)
			require.Equal(t, want[:2], r.Path)
		}
		client.silent(t)
	})
}

func TestConformance_Chunked(t *testing.T) {
	t.Run("up", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			bodies := make(chan string, 1)
			heads := make(chan []string, 1)
			o := newOrigin(t, func(c *far) {
				head := c.head()
				body, _ := c.bodyOf(head)
				heads <- head
				bodies <- body
				c.say(okAnswer)
			})
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			client.raw(t, post("Transfer-Encoding: chunked")+"1\r\nh\r\n4;x=y\r\nello\r\n0\r\n\r\n")
			r := w.served(t, client.head(t), 1)
			require.Equal(t, "hello", <-bodies)
			head := <-heads
			require.Equal(t, []string{"chunked"}, field(head, "Transfer-Encoding"))
			require.Empty(t, field(head, "Content-Length"))
			require.EqualValues(t, 5, r.BytesIn)
			require.EqualValues(t, 2, r.BytesOut)
		})
	})
	t.Run("down", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			o := newOrigin(t, answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n4;x=y\r\nello\r\n0\r\n\r\n"))
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			for n := range 2 {
				client.raw(t, get("/"))
				head := client.head(t)
				require.Equal(t, []string{"chunked"}, field(head, "Transfer-Encoding"))
				body, trailers := readChunked(client.in)
				require.Equal(t, "hello", body)
				require.Empty(t, trailers)
				require.EqualValues(t, 5, w.served(t, head, n+1).BytesOut)
			}
			old := dial(t, w.addr)
			old.raw(t, "GET / HTTP/1.0\r\nHost: cart.localhost\r\n\r\n")
			head := old.head(t)
			require.Empty(t, field(head, "Transfer-Encoding"), "HTTP/1.0 does not know it")
			rest, err := io.ReadAll(old.in)
			require.NoError(t, err)
			require.Equal(t, "hello", string(rest))
			w.served(t, head, 3)
		})
	})
}

func TestConformance_Trailers(t *testing.T) {
	eachCase(t, map[string]bool{"announced": true, "unannounced": false}, func(t *testing.T, path, name string, announced bool) {
		announcement := ""
		if announced {
			announcement = "Trailer: X-Sum\r\n"
		}
		trailers := make(chan []string, 1)
		o := newOrigin(t, func(c *far) {
			_, got := c.bodyOf(c.head())
			trailers <- got
			c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + announcement + "\r\n2\r\nok\r\n0\r\nX-Sum: down\r\n\r\n")
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		head := "Transfer-Encoding: chunked\r\nTE: trailers"
		if announced {
			head += "\r\nTrailer: X-Sum"
		}
		client.raw(t, post(head)+"5\r\nhello\r\n0\r\nX-Sum: up\r\n\r\n")
		answer := client.head(t)
		body, got := readChunked(client.in)
		require.Equal(t, "ok", body, name)
		require.Equal(t, []string{"X-Sum: down"}, got, name)
		require.Equal(t, []string{"X-Sum: up"}, <-trailers, name)
		w.served(t, answer, 1)
	})
}

// TestConformance_TrailersOfAnAnswerAreNoFields holds the same of an instance's.
func TestConformance_TrailersOfAnAnswerAreNoFields(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		o := newOrigin(t, answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nContent-Length: 77\r\n"+
			"Transfer-Encoding: gzip\r\nLayover-Served-By: cart@other\r\n\r\n"))
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		w.served(t, client.head(t), 1)
		body, trailers := readChunked(client.in)
		require.Equal(t, "ok", body)
		require.Equal(t, []string{"X-Sum: 1"}, trailers)
	})
}

// TestConformance_TrailersAreNoFields holds that a trailer cannot say what only a head may.
func TestConformance_TrailersAreNoFields(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		o := newOrigin(t, answering(okAnswer))
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, post("Transfer-Encoding: chunked")+"2\r\nhi\r\n0\r\nContent-Length: 77\r\nHost: other.localhost\r\nTransfer-Encoding: gzip\r\n\r\n")
		status := strings.Fields(client.head(t)[0])[1]
		require.Contains(t, []string{"200", "400"}, status)
		require.NotContains(t, o.bytes(), "77")
		require.NotContains(t, o.bytes(), "other.localhost")
		require.NotContains(t, o.bytes(), "gzip")
	})
}

func TestConformance_Continue(t *testing.T) {
	t.Run("as the instance says", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			asked, proceed, bodies := make(chan []string, 1), make(chan struct{}), make(chan string, 1)
			o := newOrigin(t, func(c *far) {
				head := c.head()
				asked <- head
				<-proceed
				c.say("HTTP/1.1 100 Continue\r\n\r\n")
				body, _ := c.bodyOf(head)
				bodies <- body
				c.say(okAnswer)
			})
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			client.raw(t, post("Content-Length: 5", "Expect: 100-continue"))
			require.Equal(t, []string{"100-continue"}, field(<-asked, "Expect"))
			client.silent(t)
			close(proceed)
			require.Equal(t, "HTTP/1.1 100 Continue", client.head(t)[0])
			client.silent(t)
			client.raw(t, "hello")
			w.served(t, client.head(t), 1)
			require.Equal(t, "hello", <-bodies)
		})
	})
	t.Run("not where the instance does not want the body", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			o := newOrigin(t, func(c *far) {
				c.head()
				c.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			})
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			client.raw(t, post("Content-Length: 5", "Expect: 100-continue"))
			head := client.head(t)
			require.Equal(t, "HTTP/1.1 417 Expectation Failed", head[0])
			require.Equal(t, "no", client.exactly(t, 2))
			w.served(t, head, 1)
		})
	})
	t.Run("a client that does not wait", func(t *testing.T) {
		eachPath(t, func(t *testing.T, path string) {
			bodies := make(chan string, 1)
			o := newOrigin(t, func(c *far) {
				head := c.head()
				c.say("HTTP/1.1 100 Continue\r\n\r\n")
				body, _ := c.bodyOf(head)
				bodies <- body
				c.say(okAnswer)
			})
			w := newPathWorld(t, path, Options{}, o.addr)
			client := dial(t, w.addr)
			client.raw(t, post("Content-Length: 5", "Expect: 100-continue")+"hello"+get("/2"))
			head := client.head(t)
			if strings.HasPrefix(head[0], "HTTP/1.1 100") {
				head = client.head(t)
			}
			require.Equal(t, "HTTP/1.1 200 OK", head[0])
			require.Equal(t, "hello", <-bodies)
		})
	})
}

func TestConformance_Informational(t *testing.T) {
	hints := "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
	eachPath(t, func(t *testing.T, path string) {
		proceed := make(chan struct{})
		o := newOrigin(t, func(c *far) {
			for head := c.head(); head != nil; head = c.head() {
				c.say(hints)
				<-proceed
				c.say(hints + okAnswer)
			}
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		for range 2 {
			head := client.head(t)
			require.Equal(t, "HTTP/1.1 103 Early Hints", head[0])
			require.Equal(t, []string{"</a.css>; rel=preload"}, field(head, "Link"))
			if proceed != nil {
				proceed <- struct{}{} // the first came before the answer
			}
			proceed = nil
		}
		head := client.head(t)
		require.Equal(t, "HTTP/1.1 200 OK", head[0])
		require.Equal(t, http.StatusOK, w.served(t, head, 1).Status)
	})
	eachPath(t, func(t *testing.T, path string) {
		w := newPathWorld(t, path, Options{}, newOrigin(t, answering(hints+okAnswer)).addr)
		old := dial(t, w.addr)
		old.raw(t, "GET / HTTP/1.0\r\nHost: cart.localhost\r\n\r\n")
		require.Contains(t, old.head(t)[0], "200 OK", "HTTP/1.0 does not know 1xx")
	})
}

func TestConformance_NoBody(t *testing.T) {
	eachCase(t, map[string]struct{ request, answer, length string }{
		"HEAD with length":    {"HEAD / HTTP/1.1\r\nHost: cart.localhost\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "5"},
		"HEAD without length": {"HEAD / HTTP/1.1\r\nHost: cart.localhost\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
		"204":                 {get("/"), "HTTP/1.1 204 No Content\r\n\r\n", ""},
		"304 with length":     {get("/"), "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nEtag: \"a\"\r\n\r\n", "5"},
		"304":                 {get("/"), "HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n", ""},
		"200 of length 0":     {get("/"), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "0"},
	}, func(t *testing.T, path, name string, c struct{ request, answer, length string }) {
		w := newPathWorld(t, path, Options{}, newOrigin(t, answering(c.answer)).addr)
		client := dial(t, w.addr)
		for n := range 3 { // whatever came as a body would be in the way
			client.raw(t, c.request)
			head := client.head(t)
			require.Equal(t, strings.Fields(c.answer)[1], strings.Fields(head[0])[1], name)
			// net/http leaves the length out where nothing is written.
			if length := field(head, "Content-Length"); length != nil || c.length != "" && strict(path) {
				require.Equal(t, []string{c.length}, length, name)
			}
			require.Zero(t, w.served(t, head, n+1).BytesOut, name)
		}
		client.silent(t)
	})
}

func TestConformance_HopByHop(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		script, heads := handing("HTTP/1.1 200 OK\r\nConnection: X-Private, keep-alive\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n" +
			"Proxy-Authenticate: Basic\r\nX-Public: 1\r\nContent-Length: 2\r\n\r\nok")
		w := newPathWorld(t, path, Options{}, newOrigin(t, script).addr)
		client := dial(t, w.addr)
		client.raw(t, get("/", "Connection: x-private, Keep-Alive", "X-Private: 1", "X-PRIVATE: 2", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive",
			"Proxy-Authorization: Basic eA==", "TE: trailers, deflate", "X-Public: 1"))
		answer := client.head(t)
		w.served(t, answer, 1)
		sent := <-heads
		for _, head := range [][]string{answer, sent} {
			for _, name := range []string{"X-Private", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Upgrade"} {
				require.Empty(t, field(head, name), name)
			}
			require.Equal(t, []string{"1"}, field(head, "X-Public"))
			require.NotContains(t, strings.ToLower(strings.Join(field(head, "Connection"), ",")), "x-private")
		}
		require.Equal(t, []string{"trailers"}, field(sent, "TE"))
		require.Equal(t, []string{"1"}, field(sent, HopsHeader))
		require.Equal(t, []string{"127.0.0.1"}, field(sent, "X-Forwarded-For"))
	})
}

func TestConformance_FieldsAreKept(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		script, heads := handing("HTTP/1.1 200 OK\r\nx-lower: 1\r\nSet-Cookie: a=b\r\nX-Between: 1\r\nset-cookie: c=d\r\nSet-Cookie: a=b\r\n" +
			"X-Empty:\r\nX-Value: caf\xe9  b\t \r\nContent-Length: 2\r\n\r\nok")
		w := newPathWorld(t, path, Options{}, newOrigin(t, script).addr)
		client := dial(t, w.addr)
		client.raw(t, get("/", "x-lower: 1", "Cookie: a=b", "X-Between: 1", "cookie: c=d", "X-Twice: 2", "x-twice: 1",
			"!#$%&'*+-.^_`|~9: odd", "X-Value:   caf\xe9  b\t ", "X-Empty:"))
		answer := client.head(t)
		w.served(t, answer, 1)
		sent := <-heads
		for _, head := range [][]string{sent, answer} {
			require.Equal(t, []string{"1"}, field(head, "X-Lower"))
			require.Equal(t, []string{""}, field(head, "X-Empty"))
			require.Equal(t, []string{"caf\xe9  b"}, field(head, "X-Value"))
		}
		require.Equal(t, []string{"a=b", "c=d"}, field(sent, "Cookie"))
		require.Equal(t, []string{"2", "1"}, field(sent, "X-Twice"))
		require.Equal(t, []string{"odd"}, field(sent, "!#$%&'*+-.^_`|~9"))
		require.Equal(t, []string{"a=b", "c=d", "a=b"}, field(answer, "Set-Cookie"))
		if strict(path) { // net/http writes names its way, and in an order of its own
			require.Subset(t, names(sent), []string{"x-lower", "cookie", "x-twice"})
			require.Subset(t, names(answer), []string{"x-lower", "set-cookie"})
		}
	})
}

func TestConformance_Target(t *testing.T) {
	eachCase(t, map[string]string{
		"/": "", "/a/b?c=d": "", "//a//b": "", "/a%2Fb%2f": "", "/a{b}|c": "", "/a?": "", "/?x=%zz&y=%": "", "/a/../b/.": "", "/a;b?c;d": "",
		`/a"b'c`: "", "/a+b%20c": "", "/%": "/%", "*": "",
		"http://cart.localhost/a?b": "/a?b", "http://cart.localhost": "/", "HTTP://cart.localhost//x": "//x", "http://cart.localhost?q": "/?q",
	}, func(t *testing.T, path, sent, want string) {
		script, heads := handing(okAnswer)
		w := newPathWorld(t, path, Options{}, newOrigin(t, script).addr)
		client := dial(t, w.addr)
		method := "GET"
		if sent == "*" {
			method = "OPTIONS"
		}
		client.raw(t, method+" "+sent+" HTTP/1.1\r\nHost: cart.localhost\r\n\r\n")
		w.served(t, client.head(t), 1)
		if want == "" {
			want = sent
		}
		head := <-heads
		require.Equal(t, method+" "+want+" HTTP/1.1", head[0])
		require.Equal(t, []string{"cart.localhost"}, field(head, "Host"))
	})
}

func TestConformance_AnswerThatEndsWithItsConnection(t *testing.T) {
	eachCase(t, map[string]string{
		"1.1":         "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
		"1.1 implied": "HTTP/1.1 200 OK\r\n\r\nhello",
		"1.0":         "HTTP/1.0 200 OK\r\n\r\nhello",
	}, func(t *testing.T, path, name, answer string) {
		o := newOrigin(t, func(c *far) {
			c.head()
			c.say(answer)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		for n := range 2 { // the client's connection need not end
			client.raw(t, get("/"))
			res, err := http.ReadResponse(client.in, nil)
			require.NoError(t, err, name)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err, name)
			require.Equal(t, "hello", string(body), name)
			require.Equal(t, "cart@main; by=default", res.Header.Get(ServedByHeader))
			require.Empty(t, w.records.wait(t, n+1)[n].Error)
			if res.Close {
				break
			}
		}
	})
}

func TestConformance_InstanceThatBreaksOff(t *testing.T) {
	eachCase(t, map[string]struct {
		answer string
		code   Code
	}{
		"before the answer":    {"", CodeUnreachable},
		"within the head":      {"HTTP/1.1 200 OK\r\nContent-", CodeUnreachable},
		"within the body":      {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", CodeAborted},
		"within the chunks":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", CodeAborted},
		"within a chunk":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", CodeAborted},
		"no HTTP":              {"220 smtp.example.com ESMTP\r\n\r\n", CodeBadAnswer},
		"a length that is two": {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", CodeBadAnswer},
	}, func(t *testing.T, path, name string, c struct {
		answer string
		code   Code
	},
	) {
		o := newOrigin(t, func(f *far) {
			f.head()
			f.say(c.answer)
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, get("/"))
		if c.code == CodeAborted {
			res, err := http.ReadResponse(client.in, nil)
			if err == nil { // or it broke off before any of it was passed on
				_, err = io.ReadAll(res.Body)
			}
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
		} else {
			head := client.head(t)
			require.Equal(t, "HTTP/1.1 502 Bad Gateway", head[0], name)
			if name != "within the head" || strict(path) { // net/http does not tell that it was the connection
				require.Equal(t, []string{string(c.code)}, field(head, ErrorHeader), name)
			}
			c.code = Code(field(head, ErrorHeader)[0])
			client.problemOf(t, head)
			client.raw(t, get("/")) // the client's connection goes on
			client.head(t)
		}
		w.failed(t, c.code, 1)
	})
}
