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
	Caller   string // ID of the instance that made the request, as its address says; "" where none is known
	CallerOf string // the version of that instance: cart@feature-1
	Service  string // "" where no service has the host
	Version  string // "" where none was selected
	Instance string // ID of the instance that was asked; "" where none was
	Upstream string // its address, host:port
	Route    string // as it came, or was known again
	By       route.By
	Lost     string // the route that a service before this one lost (R6); "" where none was lost, or nobody looked
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
	ParentID  SpanID // of the caller's span, the zero value where there is none
	Sampled   bool   // the caller records its spans of the trace

	// Baggage are the lines of the field as they came, where the route did not come with them. They
	// say what became of it on the way. A [Ring] keeps their beginning.
	Baggage        []string
	BaggageMembers int // how many members all of them have
	BaggageBytes   int // how long all of them are
}

// Clone returns a copy that may be kept.
func (r *Record) Clone() *Record {
	c := *r
	c.Method, c.Host = strings.Clone(r.Method), strings.Clone(r.Host)
	c.Path, c.Route = strings.Clone(r.Path), strings.Clone(r.Route)
	c.Baggage = nil
	for _, line := range r.Baggage {
		c.Baggage = append(c.Baggage, strings.Clone(line[:min(len(line), maxBaggageKept)]))
	}
	return &c
}

// maxBaggageKept is how much of a line of baggage a copy keeps: as much as is read of all lines (R2).
const maxBaggageKept = 8192

// TraceID is the trace id of a traceparent field; the zero value where there is none.
type TraceID [16]byte

// String returns the 32 hex digits, "" for the zero value.
func (id TraceID) String() string {
	if id == (TraceID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// SpanID is the span id of a traceparent field; the zero value where there is none.
type SpanID [8]byte

// String returns the 16 hex digits, "" for the zero value.
func (id SpanID) String() string {
	if id == (SpanID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// takeTrace notes what the traceparent fields of a request say.
func (r *Record) takeTrace(lines []string) {
	if len(lines) == 1 {
		r.TraceID, r.ParentID, r.Sampled = parseTraceparent(lines[0])
	}
}

// parseTraceparent reads a traceparent field (W3C Trace Context, version 00 and later). All is zero where it is none that is valid.
func parseTraceparent(s string) (trace TraceID, parent SpanID, sampled bool) {
	const (
		traceAt  = len("00-")
		parentAt = traceAt + 2*len(trace) + len("-")
		flagsAt  = parentAt + 2*len(parent) + len("-")
		end      = flagsAt + len("01")
	)
	var version, flags [1]byte
	if len(s) < end || s[:2] == "ff" || !unhex(version[:], s) || s[2] != '-' || s[parentAt-1] != '-' || s[flagsAt-1] != '-' ||
		!unhex(trace[:], s[traceAt:]) || !unhex(parent[:], s[parentAt:]) || !unhex(flags[:], s[flagsAt:]) ||
		s[:2] == "00" && len(s) != end || len(s) > end && s[end] != '-' || trace == (TraceID{}) || parent == (SpanID{}) {
		return TraceID{}, SpanID{}, false
	}
	return trace, parent, flags[0]&1 != 0
}

// unhex fills to with what the digits at the beginning of s stand for, and says whether they are digits in lower case.
func unhex(to []byte, s string) bool {
	for i := range to {
		high, low := hexDigit(s[2*i]), hexDigit(s[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		to[i] = high<<4 | low
	}
	return true
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
