package proxy

import (
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Record is what is known of one request after its answer. Its strings may be views of
// a buffer that is used again: who keeps them keeps a [Record.Clone].
type Record struct {
	Time     time.Time // when the request's header was read
	Method   string
	Host     string // as the client sent it
	Path     string // without the query
	Peer     string // address of the connection's other end, host:port
	Service  string // "" where no service has the host
	Version  string // "" where none was selected
	Instance string // ID of the instance that was asked; "" where none was
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
	Duration  time.Duration
	TraceID   string // of traceparent, 32 hex digits; "" where it has none
}

// Clone returns the record with strings of its own.
func (r *Record) Clone() Record {
	c := *r
	for _, s := range []*string{&c.Method, &c.Host, &c.Path, &c.Peer, &c.Route, &c.TraceID} {
		*s = strings.Clone(*s)
	}
	return c
}

// traceID returns the trace id of a traceparent field (W3C Trace Context,
// version 00 and later), or "" where there is none that is valid.
func traceID(lines []string) string {
	if len(lines) != 1 {
		return ""
	}
	const prefix, length = len("00-"), 32
	s := lines[0]
	if len(s) < prefix+length+len("-0123456789abcdef-01") || s[:2] == "ff" || s[2] != '-' || s[prefix+length] != '-' {
		return ""
	}
	id, zero := s[prefix:prefix+length], true
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
		zero = zero && c == '0'
	}
	if zero {
		return ""
	}
	return id
}
