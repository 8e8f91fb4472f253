package proxy

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Record is what is known of one request after its answer.
//
// Method, Host, Path and Route may be views into the buffer of a connection: they hold
// during the call that hands over the record, and [Record.Clone] keeps them for longer. All other
// texts are the table's, or constants.
type Record struct {
	Time     time.Time // when the request's header was read
	Method   string
	Host     string // as the client sent it
	Path     string // without the query
	Peer     netip.AddrPort
	Caller   string // ID of the instance whose address Peer is; "" where none is known
	Service  string // "" where no service has the host
	Version  string // "" where none was selected
	Instance string // ID of the instance that was asked; "" where none was
	Upstream string // its address, host:port
	Route    string // as it came
	By       route.By
	Fallback route.Fallback
	Revision uint64 // of the table that decided

	Status    int    // 0 where the client left before an answer began
	Error     string // code of the problem, where Layover made the answer or cut it off; else ""
	BytesIn   int64  // of the body, and of an upgraded connection
	BytesOut  int64  // the same, towards the client
	Held      time.Duration
	FirstByte time.Duration // until the answer's header was written; 0 where none was
	Duration  time.Duration // until the last byte was
	TraceID   TraceID
}

// Clone returns a copy that may be kept.
func (r *Record) Clone() *Record {
	c := *r
	c.Method, c.Host = strings.Clone(r.Method), strings.Clone(r.Host)
	c.Path, c.Route = strings.Clone(r.Path), strings.Clone(r.Route)
	return &c
}

// TraceID is the trace id of a traceparent field; the zero value where there is none.
type TraceID [16]byte

// String returns the 32 hex digits, "" for the zero value.
func (id TraceID) String() string {
	if id == (TraceID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// traceID returns the trace id of the traceparent fields of a request.
func traceID(lines []string) TraceID {
	if len(lines) != 1 {
		return TraceID{}
	}
	return parseTraceID(lines[0])
}

// parseTraceID returns the trace id of a traceparent field (W3C Trace Context,
// version 00 and later), or the zero value where there is none that is valid.
func parseTraceID(s string) (id TraceID) {
	const prefix, length = len("00-"), 2 * len(id)
	if len(s) < prefix+length+len("-0123456789abcdef-01") || s[:2] == "ff" || s[2] != '-' || s[prefix+length] != '-' {
		return TraceID{}
	}
	for i := range id {
		high, low := hexDigit(s[prefix+2*i]), hexDigit(s[prefix+2*i+1])
		if high > 15 || low > 15 {
			return TraceID{}
		}
		id[i] = high<<4 | low
	}
	return id
}

// hexDigit returns the value of a digit in lower case, and more than 15 for any other byte.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
