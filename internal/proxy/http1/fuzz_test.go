package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"
)

// seeds are what the fuzzers begin with, beside their corpora.
var seeds = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /a?b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: 1\r\n\r\nGET",
	"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\nX: 1\r\n\r\n",
	"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	"\r\nGET //x/%2f HTTP/1.1\r\nHost: [::1]\r\nX-Y:\t a  b\t\r\nBaggage: a=b\r\nbaggage: c=d;e\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\nHost: a\n\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
	"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
}

// FuzzRequest reads requests as net/http does, too: what both accept, both must
// read alike, the body and what stands behind it included. What this package refuses
// it may refuse; that net/http refuses something that is accepted here is a finding,
// but for what is written down in laxer.
func FuzzRequest(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Head
		n, err := h.ReadRequest(b, limits)
		if n > len(b) || n > 0 && err != nil {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		checkInParts(t, b, n, err)
		if n == 0 {
			return
		}
		source := bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(b, []byte("\r\n")))) // which net/http's server reads away
		r, err := http.ReadRequest(source)
		if err != nil {
			if !laxer(&h, err) {
				t.Fatalf("net/http refuses what is accepted here: %v\n%q", err, b)
			}
			return
		}
		if r.Method != string(h.Method) || r.RequestURI != string(h.Target) || r.ProtoMajor != 1 || r.ProtoMinor != h.Minor {
			t.Fatalf("%q is read as %s %s HTTP/1.%d", b, r.Method, r.RequestURI, r.ProtoMinor)
		}
		compareFields(t, &h, r)
		data, rest, bad := readBody(&h, b[n:])
		theirs, err := io.ReadAll(r.Body)
		if bad != nil {
			return // stricter here
		}
		if err != nil && rest != nil {
			t.Fatalf("net/http refuses a body that is accepted here: %v\n%q", err, b)
		}
		if (err != nil) != (rest == nil) {
			t.Fatalf("%q: complete here %v, there %v", b, rest != nil, err)
		}
		if string(theirs) != data {
			t.Fatalf("%q has the body %q, and %q for net/http", b, data, theirs)
		}
		if err == nil {
			behind, _ := io.ReadAll(source)
			if !bytes.Equal(behind, rest) {
				t.Fatalf("%q is followed by %q, and by %q for net/http", b, rest, behind)
			}
		}
	})
}

// laxer says whether net/http refuses something that is accepted here on purpose: the
// form of the target, which [checkTarget] of the proxy looks at, not the framing.
func laxer(h *Head, err error) bool {
	text := err.Error()
	return strings.Contains(text, "invalid URI") || strings.Contains(text, "invalid URL escape") || strings.Contains(text, "invalid port") ||
		strings.Contains(text, "invalid character") && strings.Contains(text, "in host name") ||
		strings.Contains(text, "first path segment in URL cannot contain colon") || strings.Contains(text, "missing ']' in host") ||
		strings.Contains(text, "missing protocol scheme") || strings.Contains(text, "invalid userinfo") ||
		strings.Contains(text, "invalid host") || strings.Contains(text, "net/url:") || string(h.Method) == "CONNECT" ||
		strings.HasPrefix(text, "parse ")
}

// compareFields compares the fields by name: net/http keeps no order among names.
func compareFields(t *testing.T, h *Head, r *http.Request) {
	t.Helper()
	ours := make(http.Header)
	for i := range h.Fields {
		f := &h.Fields[i]
		ours.Add(string(f.NameBytes()), string(f.Value))
	}
	host := ours["Host"]
	if !strings.Contains(r.RequestURI, "://") && len(host) == 1 && host[0] != r.Host {
		t.Fatalf("host %q, and %q for net/http", host[0], r.Host)
	}
	chunked := len(r.TransferEncoding) == 1 && r.TransferEncoding[0] == "chunked"
	if chunked != (h.Body == BodyChunked) || !chunked && h.Body == BodyLength && r.ContentLength != h.Length || !chunked && h.Body == BodyNone && r.ContentLength != 0 {
		t.Fatalf("body %d of %d, and %v of %d for net/http", h.Body, h.Length, r.TransferEncoding, r.ContentLength)
	}
	for _, name := range []string{"Host", "Transfer-Encoding", "Trailer"} { // which net/http takes out
		delete(ours, name)
		r.Header.Del(name)
	}
	if len(ours) != len(r.Header) {
		t.Fatalf("fields %q, and %q for net/http", ours, r.Header)
	}
	for name, values := range ours {
		if strings.Join(values, "\n") != strings.Join(r.Header[name], "\n") {
			t.Fatalf("field %s is %q, and %q for net/http", name, values, r.Header[name])
		}
	}
}

// readBody reads the body at the beginning of b; rest is nil where it is not complete.
func readBody(h *Head, b []byte) (data string, rest []byte, err error) {
	switch h.Body {
	case BodyLength:
		if int64(len(b)) < h.Length {
			return string(b), nil, nil
		}
		return string(b[:h.Length]), b[h.Length:], nil
	case BodyChunked:
		var c Chunked
		var out strings.Builder
		for len(b) > 0 && !c.Done() {
			n, d, err := c.Next(b)
			if err != nil {
				return "", nil, err
			}
			out.Write(d)
			b = b[n:]
		}
		if !c.Done() {
			return out.String(), nil, nil
		}
		return out.String(), slices.Clip(b), nil
	default:
		return "", b, nil
	}
}

// checkInParts reads the same head as it comes from a slow connection.
func checkInParts(t *testing.T, b []byte, whole int, wholeErr error) {
	t.Helper()
	var h Head
	for size := 1; ; size += 7 {
		size = min(size, len(b))
		n, err := h.ReadRequest(b[:size], limits)
		if n > 0 || err != nil {
			if n != whole || (err == nil) != (wholeErr == nil) {
				t.Fatalf("%q: %d bytes, %v; in parts %d bytes, %v", b, whole, wholeErr, n, err)
			}
			return
		}
		if size == len(b) {
			break
		}
	}
	if whole != 0 || wholeErr != nil {
		t.Fatalf("%q: %d bytes, %v; in parts nothing", b, whole, wholeErr)
	}
}

// FuzzAnswer reads answers as net/http does, too.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.0 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.1 204\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, b []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		var h Head
		n, err := h.ReadAnswer(b, limits)
		if n == 0 || err != nil || h.FrameAnswer([]byte(method)) != nil || h.Status < 200 {
			return
		}
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses what is accepted here: %v\n%q", err, b)
		}
		if r.StatusCode != h.Status || r.ProtoMinor != h.Minor {
			t.Fatalf("%q is read as %d HTTP/1.%d", b, r.StatusCode, r.ProtoMinor)
		}
		data, rest, bad := readAnswerBody(&h, b[n:])
		theirs, err := io.ReadAll(r.Body)
		if bad != nil {
			return
		}
		if (err != nil) != (rest == nil) {
			t.Fatalf("%q: complete here %v, there %v", b, rest != nil, err)
		}
		if data != string(theirs) {
			t.Fatalf("%q has the body %q, and %q for net/http", b, data, theirs)
		}
	})
}

func readAnswerBody(h *Head, b []byte) (data string, rest []byte, err error) {
	if h.Body == BodyClose {
		return string(b), []byte{}, nil
	}
	return readBody(h, b)
}

// FuzzChunked compares with net/http's reader, and one read with many.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nX: 1\r\n\r\nGET", "0\r\n\r\n", "a\r\n0123456789\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, text string, size int) {
		size = 1 + (size&0x7fffffff)%64
		data, rest, done, err := decode(text, len(text)+1)
		data2, rest2, done2, err2 := decode(text, size)
		if err == nil && (data != data2 || rest != rest2) || done != done2 || (err == nil) != (err2 == nil) {
			t.Fatalf("%q: %q %q %v %v, in parts %q %q %v %v", text, data, rest, done, err, data2, rest2, done2, err2)
		}
		if !done {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(text)))
		if err != nil {
			t.Fatalf("net/http refuses what is accepted here: %v\n%q", err, text)
		}
		if string(theirs) != data {
			t.Fatalf("%q is %q, and %q for net/http", text, data, theirs)
		}
	})
}
