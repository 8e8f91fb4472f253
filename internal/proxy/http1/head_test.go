package http1

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var limits = Limits{Head: 64 << 10, Target: 8 << 10, Fields: 100}

// readRequest reads a head that is there as a whole.
func readRequest(text string) (Head, int, error) {
	var h Head
	n, err := h.ReadRequest([]byte(text), limits)
	return h, n, err
}

func TestReadRequest(t *testing.T) {
	text := "POST /a//b%2F{x}?q=1 HTTP/1.1\r\nhOST: cart.test:80\r\nX-Empty:\r\nX-Padded: \t a b \t\r\n" +
		"Connection: keep-alive , X-Mine,,upgrade\r\nConnection: close\r\nX-Mine: 1\r\nContent-Length: 5\r\n\r\nhello"
	h, n, err := readRequest(text)
	require.NoError(t, err)
	require.Equal(t, "hello", text[n:])
	require.Equal(t, "POST", string(h.Method))
	require.Equal(t, "/a//b%2F{x}?q=1", string(h.Target))
	require.Equal(t, 1, h.Minor)
	require.Equal(t, BodyLength, h.Body)
	require.EqualValues(t, 5, h.Length)
	require.True(t, h.Close)
	require.True(t, h.KeepAlive)
	require.True(t, h.Upgrade)
	var got []string
	for i := range h.Fields {
		f := &h.Fields[i]
		got = append(got, fmt.Sprintf("%s=%q %d %v", f.NameBytes(), f.Value, f.Name, h.IsHopByHop(f)))
	}
	require.Equal(t, []string{
		fmt.Sprintf(`hOST="cart.test:80" %d false`, Host),
		`X-Empty="" 0 false`,
		`X-Padded="a b" 0 false`,
		fmt.Sprintf(`Connection="keep-alive , X-Mine,,upgrade" %d true`, Connection),
		fmt.Sprintf(`Connection="close" %d true`, Connection),
		`X-Mine="1" 0 true`,
		fmt.Sprintf(`Content-Length="5" %d false`, ContentLength),
	}, got)
}

// Whoever lists a field that says what a message is must not be able to take it away.
func TestIsHopByHop_NotWhatAMessageIs(t *testing.T) {
	h, _, err := readRequest("GET / HTTP/1.1\r\nHost: a\r\nConnection: host, baggage, cookie, x-forwarded-for\r\nBaggage: a=b\r\nCookie: c=d\r\nX-Forwarded-For: 1\r\n\r\n")
	require.NoError(t, err)
	for i := range h.Fields {
		f := &h.Fields[i]
		require.Equal(t, f.Name == Connection, h.IsHopByHop(f), "%s", f.NameBytes())
	}
}

func TestReadRequest_InParts(t *testing.T) {
	text := "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest"
	var h Head
	for i := 1; i < len(text)-len("rest"); i++ {
		n, err := h.ReadRequest([]byte(text[:i]), limits)
		require.NoError(t, err)
		require.Zero(t, n, "%q", text[:i])
	}
	n, err := h.ReadRequest([]byte(text), limits)
	require.NoError(t, err)
	require.Equal(t, len(text)-len("rest"), n)
	require.Equal(t, "GET", string(h.Method))
}

func TestReadRequest_Accepts(t *testing.T) {
	for name, text := range map[string]string{
		"HTTP/1.0 without Host":  "GET / HTTP/1.0\r\n\r\n",
		"empty Host":             "GET / HTTP/1.1\r\nHost:\r\n\r\n",
		"IPv6 Host":              "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
		"UTF-8 in a value":       "GET / HTTP/1.1\r\nHost: a\r\nX: grün\r\n\r\n",
		"UTF-8 in the target":    "GET /grün HTTP/1.1\r\nHost: a\r\n\r\n",
		"odd names":              "GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~: 1\r\n\r\n",
		"absolute form":          "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"asterisk":               "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"Chunked in any case":    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n",
		"tab in a value":         "GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n",
		"one empty line before":  "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"Content-Length of zero": "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, n, err := readRequest(text)
			require.NoError(t, err)
			require.Equal(t, len(text), n)
		})
	}
}

func TestReadRequest_Refuses(t *testing.T) {
	post := "POST / HTTP/1.1\r\nHost: a\r\n"
	for name, test := range map[string]struct {
		text   string
		status int
	}{
		"bare LF behind the request line":    {"GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
		"bare LF behind a field":             {"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400},
		"bare LF as the empty line":          {"GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		"bare CR in a value":                 {"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", 400},
		"bare CR in the request line":        {"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"NUL in a value":                     {"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n", 400},
		"NUL in a long value":                {"GET / HTTP/1.1\r\nHost: a\r\nX: 123456789012\x002345678901\r\n\r\n", 400},
		"DEL in a value":                     {"GET / HTTP/1.1\r\nHost: a\r\nX: 12345678\x7f\r\n\r\n", 400},
		"NUL in a name":                      {"GET / HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n", 400},
		"folded line":                        {"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400},
		"folded first field":                 {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
		"space before a colon":               {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
		"tab before a colon":                 {"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 400},
		"no colon":                           {"GET / HTTP/1.1\r\nHost\r\n\r\n", 400},
		"no name":                            {"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", 400},
		"UTF-8 in a name":                    {"GET / HTTP/1.1\r\nHost: a\r\nGrün: 1\r\n\r\n", 400},
		"very long name":                     {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("x", 256) + ": 1\r\n\r\n", 431},
		"no Host":                            {"GET / HTTP/1.1\r\n\r\n", 400},
		"two Hosts":                          {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
		"Host with a path":                   {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
		"Host with user":                     {"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
		"Host with space":                    {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		"HTTP/0.9":                           {"GET /\r\n\r\n", 400},
		"HTTP/1.2":                           {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
		"HTTP/3.0":                           {"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505},
		"HTTP/2.0 without its preface":       {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
		"http/1.1":                           {"GET / http/1.1\r\nHost: a\r\n\r\n", 400},
		"version with more digits":           {"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
		"two spaces":                         {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"space in the target":                {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"tab as separator":                   {"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"trailing space":                     {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
		"leading space":                      {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"odd method":                         {"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"very long method":                   {strings.Repeat("G", 33) + " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"two empty lines before":             {"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"CR before the last line":            {"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n", 400},
		"CR before hidden fields":            {"GET / HTTP/1.1\r\nHost: a\r\n\r\r\nX: 1\r\n\r\n", 400},
		"CR before an empty line":            {"\r\r\n\r\n", 400},
		"CR before the request line":         {"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"bare LF before":                     {"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"Content-Length with a coding":       {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"coding with Content-Length":         {post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400},
		"two Content-Lengths that differ":    {post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400},
		"two equal Content-Lengths":          {post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400},
		"Content-Length list":                {post + "Content-Length: 5, 5\r\n\r\n", 400},
		"Content-Length with plus":           {post + "Content-Length: +5\r\n\r\n", 400},
		"Content-Length below zero":          {post + "Content-Length: -1\r\n\r\n", 400},
		"Content-Length in hex":              {post + "Content-Length: 0x5\r\n\r\n", 400},
		"Content-Length empty":               {post + "Content-Length:\r\n\r\n", 400},
		"Content-Length of 2^64":             {post + "Content-Length: 18446744073709551616\r\n\r\n", 400},
		"Content-Length with leading zeros":  {post + "Content-Length: 0000000000000000005\r\n\r\n", 400},
		"gzip, chunked":                      {post + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
		"chunked, gzip":                      {post + "Transfer-Encoding: chunked, gzip\r\n\r\n", 400},
		"chunked twice":                      {post + "Transfer-Encoding: chunked, chunked\r\n\r\n", 400},
		"chunked in two fields":              {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"identity":                           {post + "Transfer-Encoding: identity\r\n\r\n", 501},
		"coding that is empty":               {post + "Transfer-Encoding:\r\n\r\n", 501},
		"coding with vertical tab":           {post + "Transfer-Encoding: \vchunked\r\n\r\n", 400},
		"coding with quotes":                 {post + "Transfer-Encoding: \"chunked\"\r\n\r\n", 400},
		"coding with parameter":              {post + "Transfer-Encoding: chunked;q=1\r\n\r\n", 400},
		"coding in HTTP/1.0":                 {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"target that is too long":            {"GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
		"target that is too long, unended":   {"GET /" + strings.Repeat("a", 9<<10), 414},
		"too many fields":                    {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: 1\r\n", 100) + "\r\n", 431},
		"head that is too large":             {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", 431},
		"head that is too large and unended": {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 64<<10), 431},
		"no method":                          {"/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"HTTP/2 preface":                     {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		"TLS":                                {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			_, n, err := readRequest(test.text)
			refused, ok := errors.AsType[*Error](err)
			require.True(t, ok, "%v", err)
			require.Zero(t, n)
			require.Equal(t, test.status, refused.Status, refused.What)
		})
	}
}

func TestReadAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		text, method string
		status       int
		body         Body
		wrong        string
	}{
		"length":               {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", 200, BodyLength, ""},
		"chunked":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 200, BodyChunked, ""},
		"coding goes first":    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 200, BodyChunked, ""},
		"coding goes first 2":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "GET", 200, BodyChunked, ""},
		"close":                {"HTTP/1.1 200 OK\r\n\r\n", "GET", 200, BodyClose, ""},
		"HEAD":                 {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200, BodyNone, ""},
		"204":                  {"HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, BodyNone, ""},
		"304 with a length":    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", 304, BodyNone, ""},
		"103":                  {"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "GET", 103, BodyNone, ""},
		"no reason":            {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", 200, BodyLength, ""},
		"empty reason":         {"HTTP/1.0 200 \r\nContent-Length: 0\r\n\r\n", "GET", 200, BodyLength, ""},
		"two lengths":          {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "GET", 200, 0, "several Content-Length"},
		"coding in HTTP/1.0":   {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 200, 0, "in HTTP/1.1"},
		"other coding":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "GET", 200, 0, "not \"chunked\" alone"},
		"HTTP/2":               {"HTTP/2.0 200 OK\r\n\r\n", "GET", 0, 0, "not one of HTTP/1.1"},
		"not HTTP":             {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "GET", 0, 0, "not one of HTTP/1.1"},
		"two digits":           {"HTTP/1.1 20 OK\r\n\r\n", "GET", 0, 0, "malformed"},
		"four digits":          {"HTTP/1.1 2000 OK\r\n\r\n", "GET", 0, 0, "malformed"},
		"control character":    {"HTTP/1.1 200 O\x01K\r\n\r\n", "GET", 0, 0, "control character"},
		"empty line before":    {"\r\nHTTP/1.1 200 OK\r\n\r\n", "GET", 0, 0, "empty line"},
		"CR before an end":     {"HTTP/1.1 200 OK\r\n\r\r\n\r\n", "GET", 0, 0, "malformed"},
		"bare LF":              {"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "GET", 0, 0, "LF without CR"},
		"space before a colon": {"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", "GET", 0, 0, "white space"},
	} {
		t.Run(name, func(t *testing.T) {
			var h Head
			n, err := h.ReadAnswer([]byte(test.text), limits)
			if err == nil {
				require.Equal(t, len(test.text), n)
				err = h.FrameAnswer([]byte(test.method))
			}
			if test.wrong != "" {
				require.ErrorContains(t, err, test.wrong)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.status, h.Status)
			require.Equal(t, test.body, h.Body)
		})
	}
}

func TestNames(t *testing.T) {
	for text, want := range map[string]Name{
		"Connection": Connection, "keep-alive": KeepAliveName, "Proxy-Connection": ProxyConnection,
		"Proxy-Authenticate": ProxyAuthenticate, "Proxy-Authorization": ProxyAuthorization, "TE": TE,
		"TRANSFER-ENCODING": TransferEncoding, "Upgrade": UpgradeName, "Host": Host, "Content-Length": ContentLength,
		"Trailer": Trailer, "baggage": Baggage, "Cookie": Cookie, "Forwarded": ForwardedName, "X-Forwarded-For": XForwardedFor,
		"X-Forwarded-Host": XForwardedHost, "X-Forwarded-Proto": XForwardedProto, "Layover-Hops": LayoverHops,
		"Layover-Served-By": LayoverServedBy, "Accept": Accept, "Content-Type": ContentType, "Date": Date, "Expect": Expect,
		"Traceparent": Traceparent, "Tracestate": Tracestate, "Layover-Receipt": LayoverReceipt, "b3": B3, "X-B3-TraceId": B3TraceID, "X-B3-SpanId": B3SpanID,
		"X-B3-Sampled": B3Sampled, "x-datadog-trace-id": DatadogTrace, "x-datadog-parent-id": DatadogParent, "x-datadog-tags": DatadogTags,
		"x-datadog-sampling-priority": DatadogSampled, "X-Amzn-Trace-Id": XRayTrace, "uber-trace-id": UberTrace, "sentry-trace": SentryTrace, "X-Request-Id": RequestID,
		"X-B3-Unknown": Other, "X-Request-Iz": Other, "X": Other, "Hos": Other, "Hosts": Other, "Accepd": Other, "": Other,
	} {
		require.Equal(t, want, nameOf([]byte(text)), text)
	}
}

func TestReadRequest_AllocatesNothing(t *testing.T) {
	text := []byte("GET /api/products?page=2 HTTP/1.1\r\nHost: cart.localhost\r\nUser-Agent: test\r\nAccept: */*\r\nBaggage: a=b,dynamic_route=feature-1\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n")
	var h Head
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h.Reset()
		if _, err := h.ReadRequest(text, limits); err != nil {
			panic(err)
		}
		for i := range h.Fields {
			_ = h.IsHopByHop(&h.Fields[i])
		}
	}))
}

func BenchmarkReadRequest(b *testing.B) {
	text := []byte("GET /api/products?page=2 HTTP/1.1\r\nHost: cart.localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,application/json\r\nAccept-Encoding: gzip, deflate\r\nBaggage: userId=alice,dynamic_route=feature-1\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nCookie: session=abcdefghijklmnop\r\n\r\n")
	var h Head
	for b.Loop() {
		h.Reset()
		if _, err := h.ReadRequest(text, limits); err != nil {
			b.Fatal(err)
		}
	}
}
