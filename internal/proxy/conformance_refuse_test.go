package proxy

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// refusal is a request of which no byte may reach an instance.
type refusal struct {
	raw      string
	statuses []int // 400 where it is empty
}

// understood are those that can be read in one way only, and are refused for what they ask.
// The connection may stay open.
func understood() []string {
	return []string{"target without host", "target of another kind", "asterisk for GET"}
}

// bad is a request with lines that nobody may read in two ways.
func bad(lines ...string) refusal {
	return refusal{raw: strings.Join(append([]string{"POST / HTTP/1.1", "Host: cart.localhost"}, lines...), "\r\n") + "\r\n\r\nhello"}
}

// badLine is a request with another first line.
func badLine(line string, statuses ...int) refusal {
	return refusal{line + "\r\nHost: cart.localhost\r\n\r\n", statuses}
}

func refusals() map[string]refusal {
	const chunked = "Transfer-Encoding: chunked"
	unknownCoding := func(lines ...string) refusal {
		r := bad(lines...)
		r.statuses = []int{http.StatusBadRequest, http.StatusNotImplemented}
		return r
	}
	version := []int{http.StatusBadRequest, http.StatusHTTPVersionNotSupported}
	return map[string]refusal{
		// Two lengths.
		"length and coding":      bad("Content-Length: 5", chunked),
		"coding and length":      bad(chunked, "Content-Length: 5"),
		"two lengths":            bad("Content-Length: 5", "Content-Length: 6"),
		"two equal lengths":      bad("Content-Length: 5", "Content-Length: 5"),
		"lengths in one field":   bad("Content-Length: 5, 5"),
		"lengths without space":  bad("Content-Length: 5,5"),
		"length with plus":       bad("Content-Length: +5"),
		"length below zero":      bad("Content-Length: -1"),
		"length in hex":          bad("Content-Length: 0x5"),
		"length with a space":    bad("Content-Length: 5 5"),
		"length of nothing":      bad("Content-Length: "),
		"length of a word":       bad("Content-Length: five"),
		"length with underscore": bad("Content-Length: 1_0"),
		"length in quotes":       bad(`Content-Length: "5"`),
		"length as decimal":      bad("Content-Length: 5.0"),
		"length beyond 63 bits":  bad("Content-Length: 9223372036854775808"),
		"length beyond 64 bits":  bad("Content-Length: 18446744073709551621"),
		"length of 100 digits":   bad("Content-Length: " + strings.Repeat("9", 100)),

		// Codings.
		"coding twice":            unknownCoding("Transfer-Encoding: chunked, chunked"),
		"coding in two fields":    unknownCoding(chunked, chunked),
		"coding besides another":  unknownCoding("Transfer-Encoding: gzip, chunked"),
		"coding before another":   unknownCoding("Transfer-Encoding: chunked, gzip"),
		"coding not chunked":      unknownCoding("Transfer-Encoding: gzip"),
		"coding identity":         unknownCoding("Transfer-Encoding: identity"),
		"coding of nothing":       unknownCoding("Transfer-Encoding: "),
		"coding with a parameter": unknownCoding("Transfer-Encoding: chunked;a=b"),
		"coding in quotes":        unknownCoding(`Transfer-Encoding: "chunked"`),
		"coding misspelled":       unknownCoding("Transfer-Encoding: xchunked"),
		"coding with a comma":     unknownCoding("Transfer-Encoding: chunked,"),
		"coding in HTTP/1.0": {
			raw:      "POST / HTTP/1.0\r\nHost: cart.localhost\r\n" + chunked + "\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			statuses: []int{http.StatusBadRequest, http.StatusNotImplemented},
		},

		// Lines.
		"folded line":              bad("X-A: b", " c"),
		"folded by a tab":          bad("X-A: b", "\tc"),
		"folded length":            bad("Content-Length:", " 5"),
		"space before the first":   {raw: "GET / HTTP/1.1\r\n Host: cart.localhost\r\nHost: cart.localhost\r\n\r\n"},
		"LF alone at the end":      bad("X-A: b\nX-C: d"),
		"LF alone everywhere":      {raw: "GET / HTTP/1.1\nHost: cart.localhost\n\n"},
		"LF alone behind the line": {raw: "GET / HTTP/1.1\nHost: cart.localhost\r\n\r\n"},
		"LF alone ends the head":   {raw: "GET / HTTP/1.1\r\nHost: cart.localhost\r\n\n"},
		"CR alone in a value":      bad("X-A: b\rX-C: d"),
		"CR alone at the end":      bad("X-A: b\r"),
		"CR alone in a name":       bad("X\r-A: b"),
		"CR alone in the line":     badLine("GET /a\rb HTTP/1.1"),
		"NUL in a value":           bad("X-A: a\x00b"),
		"control in a value":       bad("X-A: a\x01b"),
		"DEL in a value":           bad("X-A: a\x7fb"),
		"vertical tab in coding":   unknownCoding("Transfer-Encoding: \x0bchunked"),
		"NUL in a name":            bad("X\x00A: b"),
		"control in a name":        bad("X\x1fA: b"),
		"UTF-8 in a name":          bad("X-é: b"),
		"parenthesis in a name":    bad("X(A): b"),
		"space in a name":          bad("X A: b"),
		"space before the colon":   bad("Content-Length : 5"),
		"tab before the colon":     bad("Content-Length\t: 5"),
		"name of nothing":          bad(": b"),
		"line without a colon":     bad("nothing"),

		// First line.
		"method with at":          badLine("G@T / HTTP/1.1"),
		"method with a slash":     badLine("GET/ / HTTP/1.1"),
		"method with a control":   badLine("GE\x01T / HTTP/1.1"),
		"method of nothing":       badLine(" / HTTP/1.1"),
		"method with a colon":     badLine("GET: / HTTP/1.1"),
		"two spaces":              badLine("GET  / HTTP/1.1"),
		"space at the end":        badLine("GET / HTTP/1.1 ", version...),
		"space in the target":     badLine("GET /a b HTTP/1.1", version...),
		"tabs for spaces":         badLine("GET\t/\tHTTP/1.1"),
		"target of nothing":       badLine("GET HTTP/1.1"),
		"target without a slash":  badLine("GET cart HTTP/1.1"),
		"target with NUL":         badLine("GET /\x00 HTTP/1.1"),
		"target with a control":   badLine("GET /\x1b HTTP/1.1"),
		"target with DEL":         badLine("GET /\x7f HTTP/1.1"),
		"target without host":     badLine("GET http:// HTTP/1.1"),
		"target of another kind":  badLine("GET ftp://cart.localhost/ HTTP/1.1"),
		"asterisk for GET":        badLine("GET * HTTP/1.1"),
		"version 1.2":             badLine("GET / HTTP/1.2", version...),
		"version 3.0":             badLine("GET / HTTP/3.0", version...),
		"version 2.0":             badLine("GET / HTTP/2.0", version...),
		"version 0.9":             badLine("GET / HTTP/0.9", version...),
		"version of nothing":      badLine("GET /", version...),
		"version without a minor": badLine("GET / HTTP/1", version...),
		"version with more":       badLine("GET / HTTP/1.1x", version...),
		"version with zeros":      badLine("GET / HTTP/01.1", version...),
		"version in lower case":   badLine("GET / http/1.1", version...),
		"version of another":      badLine("GET / HTTPS/1.1", version...),

		// Hosts.
		"no host":                {raw: "GET / HTTP/1.1\r\n\r\n"},
		"two hosts":              bad("Host: other.localhost"),
		"two equal hosts":        bad("Host: cart.localhost"),
		"host with a space":      {raw: "GET / HTTP/1.1\r\nHost: cart localhost\r\n\r\n"},
		"host with a slash":      {raw: "GET / HTTP/1.1\r\nHost: cart.localhost/x\r\n\r\n"},
		"host with a user":       {raw: "GET / HTTP/1.1\r\nHost: a@cart.localhost\r\n\r\n"},
		"host and target differ": badLine("GET http://other.localhost/ HTTP/1.1"),

		// Bounds.
		"head too long":   {"GET / HTTP/1.1\r\nHost: cart.localhost\r\nX-A: " + strings.Repeat("a", 2<<20) + "\r\n\r\n", []int{http.StatusRequestHeaderFieldsTooLarge}},
		"too many fields": {"GET / HTTP/1.1\r\nHost: cart.localhost\r\n" + strings.Repeat("a:\r\n", 20_000) + "\r\n", []int{http.StatusRequestHeaderFieldsTooLarge}},
		"target too long": badLine("GET /"+strings.Repeat("a", 512<<10)+" HTTP/1.1", http.StatusRequestURITooLong),
	}
}

// TestConformance_Refuses holds that what two parsers may read differently is refused with a
// closed connection, and that an instance sees nothing of it.
func TestConformance_Refuses(t *testing.T) {
	eachCase(t, refusals(), func(t *testing.T, path, name string, c refusal) {
		o := newOrigin(t, answering(okAnswer))
		w := newPathWorld(t, path, Options{}, o.addr)
		stays := slices.Contains(understood(), name)
		client := dial(t, w.addr)
		sent := make(chan struct{})
		go func() { // a long one is not read to its end
			defer close(sent)
			_, _ = io.WriteString(client, c.raw)
			if !stays {
				_, _ = io.WriteString(client, get("/smuggled"))
			}
		}()
		head := client.head(t)
		status, err := strconv.Atoi(strings.Fields(head[0])[1])
		require.NoError(t, err)
		statuses := c.statuses
		if len(statuses) == 0 {
			statuses = []int{http.StatusBadRequest}
		}
		require.Contains(t, statuses, status, head)
		require.True(t, stays || slices.ContainsFunc(field(head, "Connection"), func(v string) bool { return strings.EqualFold(v, "close") }), head)
		if strict(path) {
			client.problemOf(t, head)
			if !stays {
				client.ended(t)
			}
			require.NotEmpty(t, w.records.wait(t, 1)[0].Error)
		} else if !stays {
			_, _ = io.Copy(io.Discard, client.in)
		}
		_ = client.Close()
		<-sent
		w.stop()
		require.Empty(t, o.bytes())
	})
}

// badChunks is a body that is not chunked as it says.
func badChunks(body string) string { return post("Transfer-Encoding: chunked") + body }

func framings() map[string]string {
	return map[string]string{
		"chunk size in hex notation":        badChunks("0x5\r\nhello\r\n0\r\n\r\n"),
		"chunk size with a space":           badChunks("5 \r\nhello\r\n0\r\n\r\n"),
		"chunk size behind a space":         badChunks(" 5\r\nhello\r\n0\r\n\r\n"),
		"chunk size of nothing":             badChunks("\r\nhello\r\n0\r\n\r\n"),
		"chunk size with plus":              badChunks("+5\r\nhello\r\n0\r\n\r\n"),
		"chunk size below zero":             badChunks("-5\r\nhello\r\n0\r\n\r\n"),
		"chunk size of a word":              badChunks("five\r\nhello\r\n0\r\n\r\n"),
		"chunk size with underscore":        badChunks("0_5\r\nhello\r\n0\r\n\r\n"),
		"chunk size of 17 digits":           badChunks("00000000000000005\r\nhello\r\n0\r\n\r\n"),
		"chunk size of 64 bits":             badChunks("ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
		"chunk size that wraps":             badChunks("10000000000000005\r\nhello\r\n0\r\n\r\n"),
		"chunk size ends in LF":             badChunks("5\nhello\r\n0\r\n\r\n"),
		"chunk size ends in CR":             badChunks("5\rhello\r\n0\r\n\r\n"),
		"chunk size ends in CR CR LF":       badChunks("5\r\r\nhello\r\n0\r\n\r\n"),
		"chunk ends in LF":                  badChunks("5\r\nhello\n0\r\n\r\n"),
		"chunk ends in CR":                  badChunks("5\r\nhello\r0\r\n\r\n"),
		"chunk longer than its size":        badChunks("5\r\nhello!\r\n0\r\n\r\n"),
		"chunk shorter than its size":       badChunks("6\r\nhello\r\n0\r\n\r\n"),
		"last chunk ends in LF":             badChunks("5\r\nhello\r\n0\n\r\n"),
		"body ends in LF":                   badChunks("5\r\nhello\r\n0\r\n\n"),
		"chunk extension too long":          badChunks("5;a=" + strings.Repeat("b", 64<<10) + "\r\nhello\r\n0\r\n\r\n"),
		"chunk extension with LF":           badChunks("5;a\nb\r\nhello\r\n0\r\n\r\n"),
		"chunk extension with CR":           badChunks("5;a\rb\r\nhello\r\n0\r\n\r\n"),
		"chunk extension with NUL":          badChunks("5;a=\x00\r\nhello\r\n0\r\n\r\n"),
		"trailer that is folded":            badChunks("5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n"),
		"trailer that ends in LF":           badChunks("5\r\nhello\r\n0\r\nX-A: b\n\r\n"),
		"trailer with a space in front":     badChunks("5\r\nhello\r\n0\r\n X-A: b\r\n\r\n"),
		"trailer with a space in name":      badChunks("5\r\nhello\r\n0\r\nX-A : b\r\n\r\n"),
		"trailer without a colon":           badChunks("5\r\nhello\r\n0\r\nnothing\r\n\r\n"),
		"trailer with NUL":                  badChunks("5\r\nhello\r\n0\r\nX-A: \x00\r\n\r\n"),
		"trailer with CR":                   badChunks("5\r\nhello\r\n0\r\nX-A: a\rb\r\n\r\n"),
		"trailers too long":                 badChunks("5\r\nhello\r\n0\r\nX-A: " + strings.Repeat("a", 2<<20) + "\r\n\r\n"),
		"many chunks, then one that is bad": badChunks(strings.Repeat("5\r\nhello\r\n", 100) + "5\nhello\r\n0\r\n\r\n"),
	}
}

// TestConformance_RefusesFraming holds that a chunked body that is not one is refused with
// a closed connection, that no instance takes it for complete, and that nothing behind it is
// taken for a request.
func TestConformance_RefusesFraming(t *testing.T) {
	eachCase(t, framings(), func(t *testing.T, path, _, raw string) {
		complete := make(chan bool, 8)
		o := newOrigin(t, func(c *far) {
			r, err := http.ReadRequest(c.in)
			if err != nil {
				return
			}
			_, err = io.Copy(io.Discard, r.Body)
			complete <- err == nil
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = io.WriteString(client, raw)
			_, _ = io.WriteString(client, get("/smuggled"))
		}()
		head := client.head(t)
		require.Equal(t, "HTTP/1.1 400 Bad Request", head[0])
		if strict(path) {
			require.Equal(t, []string{"close"}, field(head, "Connection"))
		}
		client.problemOf(t, head)
		client.ended(t)
		w.failed(t, CodeBadBody, 1)
		_ = client.Close()
		<-sent
		w.stop()
		require.NotContains(t, o.bytes(), "smuggled")
		select {
		case all := <-complete:
			require.False(t, all, "the instance took it for complete")
		default: // nothing was sent, or not all of a head
		}
	})
}

// TestConformance_Takes holds that what is odd but right is passed on.
func TestConformance_Takes(t *testing.T) {
	chunks := func(body string) string { return post("Transfer-Encoding: chunked") + body }
	eachCase(t, map[string]struct{ raw, body string }{
		"odd names":                {post("Content-Length: 5", "!#$%&'*+-.^_`|~09aZ: x") + "hello", "hello"},
		"obs-text in a value":      {post("Content-Length: 5", "X-A: caf\xe9") + "hello", "hello"},
		"tab in a value":           {post("Content-Length: 5", "X-A: a\tb") + "hello", "hello"},
		"value of nothing":         {post("Content-Length: 5", "X-A:") + "hello", "hello"},
		"length with zeros":        {post("Content-Length: 0005") + "hello", "hello"},
		"length in lower case":     {post("content-length:5") + "hello", "hello"},
		"length of 0":              {post("Content-Length: 0"), ""},
		"coding in capitals":       {post("Transfer-Encoding: Chunked") + "5\r\nhello\r\n0\r\n\r\n", "hello"},
		"chunks of one byte":       {chunks("1\r\nh\r\n1\r\ne\r\n3\r\nllo\r\n0\r\n\r\n"), "hello"},
		"chunk size with zeros":    {chunks("0005\r\nhello\r\n000\r\n\r\n"), "hello"},
		"chunk size of 16 digits":  {chunks("0000000000000005\r\nhello\r\n0\r\n\r\n"), "hello"},
		"chunk size in capitals":   {chunks("A\r\nhellohello\r\n0\r\n\r\n"), "hellohello"},
		"chunk size in lower case": {chunks("a\r\nhellohello\r\n0\r\n\r\n"), "hellohello"},
		"chunk extension":          {chunks("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"), "hello"},
		"no chunks":                {chunks("0\r\n\r\n"), ""},
		"CRLF in a chunk":          {chunks("4\r\n\r\n\r\n\r\n0\r\n\r\n"), "\r\n\r\n"},
		"method of its own":        {strings.Replace(post("Content-Length: 5"), "POST", "X-PURGE", 1) + "hello", "hello"},
	}, func(t *testing.T, path, name string, c struct{ raw, body string }) {
		bodies := make(chan string, 2)
		o := newOrigin(t, func(c *far) {
			for head := c.head(); head != nil; head = c.head() {
				body, _ := c.bodyOf(head)
				bodies <- body
				c.say(okAnswer)
			}
		})
		w := newPathWorld(t, path, Options{}, o.addr)
		client := dial(t, w.addr)
		client.raw(t, c.raw+get("/behind"))
		for n := range 2 {
			head := client.head(t)
			require.Equal(t, "HTTP/1.1 200 OK", head[0], name)
			require.Equal(t, "ok", client.exactly(t, 2), name)
			w.served(t, head, n+1)
		}
		require.Equal(t, c.body, <-bodies, name)
		require.Empty(t, <-bodies, name)
	})
}
