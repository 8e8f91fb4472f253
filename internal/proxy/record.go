package proxy

import (
	"net/netip"
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Record is what is known of one request after its answer.
//
// Method, Host, Path, Route and Run may be views into the buffer of a connection: they hold
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
	Run      string // the test run it is part of, by its baggage; "" for none
	Revision uint64 // of the table that decided

	Status    int    // 0 where the client left before an answer began
	Error     string // code of the problem, where Layover made the answer or cut it off; else ""
	BytesIn   int64  // of the body, and of an upgraded connection
	BytesOut  int64  // the same, towards the client
	Held      time.Duration
	FirstByte time.Duration // until the answer's header was written; 0 where none was
	Duration  time.Duration // until the last byte was
	TraceID   TraceID
	Named     bool   // TraceID is made of the request's name (X-Request-Id), which a client may use again
	ParentID  SpanID // of the caller's span, the zero value where there is none
	Sampled   bool   // the caller records its spans of the trace
	SpanID    SpanID // of the proxy's own span, below which the instance's are; the zero value where it has none
	Recorded  bool   // that span is to be recorded

	Moves      int    // how many further instances it was sent to, as one could not be connected to
	Scheme     string // "http", or "https" where it came over TLS
	Protocol   int    // major version of HTTP
	GRPCStatus string // of the answer to a call of gRPC, as a number; "" for all else

	// Baggage are the lines of the field as they came, where the route did not come with them. They
	// say what became of it on the way. A [Ring] keeps their beginning.
	Baggage        []string
	BaggageMembers int // how many members all of them have
	BaggageBytes   int // how long all of them are

	Cut Cut // what is not whole, as a [Ring] kept the beginning
}

// Cut is a set of the texts of a record.
type Cut uint8

// The texts that a [Ring] may cut off.
const (
	CutMethod Cut = 1 << iota
	CutHost
	CutPath
	CutRoute
	CutBaggage
)

// Clone returns a copy that may be kept.
func (r *Record) Clone() *Record {
	c := *r
	c.Method, c.Host = strings.Clone(r.Method), strings.Clone(r.Host)
	c.Path, c.Route, c.Run = strings.Clone(r.Path), strings.Clone(r.Route), strings.Clone(r.Run)
	c.Baggage = nil
	for _, line := range r.Baggage {
		c.Baggage = append(c.Baggage, strings.Clone(line[:min(len(line), maxBaggageKept)]))
	}
	return &c
}

// maxBaggageKept is how much of a line of baggage a copy keeps: as much as is read of all lines (R2).
const maxBaggageKept = 8192
