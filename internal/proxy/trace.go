package proxy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/internal/proxy/http1"
)

// TraceID is the id of a trace (W3C Trace Context); the zero value where there is none.
type TraceID [16]byte

// String returns the 32 hex digits, "" for the zero value.
func (id TraceID) String() string {
	if id == (TraceID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// SpanID is the id of a span; the zero value where there is none.
type SpanID [8]byte

// String returns the 16 hex digits, "" for the zero value.
func (id SpanID) String() string {
	if id == (SpanID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// traceFrom says how it is known which trace a request is of.
type traceFrom uint8

const (
	traceNone     traceFrom = iota
	traceW3C                // a traceparent field
	traceOther              // the fields of another tracer
	traceBalancer           // of AWS X-Ray, without a span: a load balancer put it in
	traceSentry             // Sentry has one for all that a page or worker does: it proves nothing
	traceRequest            // a name of the request, which a client chose: it may be anything, and come again
)

// tracing are the fields of a request that carry traces in other forms than W3C's.
type tracing [http1.LastTrace - http1.FirstTrace + 1]string

func (t *tracing) at(name http1.Name) string { return t[name-http1.FirstTrace] }

// take reads the fields of a request that net/http has read.
func (t *tracing) take(h http.Header) {
	for name, key := range map[http1.Name]string{
		http1.B3: "B3", http1.B3TraceID: "X-B3-Traceid", http1.B3SpanID: "X-B3-Spanid", http1.B3Sampled: "X-B3-Sampled",
		http1.DatadogTrace: "X-Datadog-Trace-Id", http1.DatadogParent: "X-Datadog-Parent-Id", http1.DatadogSampled: "X-Datadog-Sampling-Priority",
		http1.DatadogTags: "X-Datadog-Tags", http1.XRayTrace: "X-Amzn-Trace-Id", http1.UberTrace: "Uber-Trace-Id", http1.SentryTrace: "Sentry-Trace", http1.RequestID: "X-Request-Id",
	} {
		t[name-http1.FirstTrace] = h.Get(key)
	}
}

// trace is what a request says of the trace that it is of.
type trace struct {
	id      TraceID
	parent  SpanID
	flags   byte // of a traceparent field
	sampled bool
	from    traceFrom
}

// traceOf reads what a request says of its trace: what W3C says goes before what others do.
func (rq *request) traceOf() (t trace) {
	if len(rq.traceparent) == 1 {
		if t = parseTraceparent(rq.traceparent[0]); t.id != (TraceID{}) {
			return t
		}
	}
	f := &rq.tracing
	if *f == (tracing{}) {
		return trace{}
	}
	for _, parse := range [...]func(*tracing) trace{parseB3, parseDatadog, parseUber, parseSentry, parseXRay} {
		if t = parse(f); t.id != (TraceID{}) {
			if t.from == traceNone {
				t.from = traceOther
			}
			return t
		}
	}
	if id := f.at(http1.RequestID); id != "" {
		return trace{id: RequestTrace(id), from: traceRequest}
	}
	return trace{}
}

// parseTraceparent reads a traceparent field (W3C Trace Context, version 00 and later). All is zero where it is none that is valid.
func parseTraceparent(s string) (t trace) {
	const (
		traceAt  = len("00-")
		parentAt = traceAt + 2*len(t.id) + len("-")
		flagsAt  = parentAt + 2*len(t.parent) + len("-")
		end      = flagsAt + len("01")
	)
	var version, flags [1]byte
	if len(s) < end || s[:2] == "ff" || !unhex(version[:], s) || s[2] != '-' || s[parentAt-1] != '-' || s[flagsAt-1] != '-' ||
		!unhex(t.id[:], s[traceAt:]) || !unhex(t.parent[:], s[parentAt:]) || !unhex(flags[:], s[flagsAt:]) ||
		s[:2] == "00" && len(s) != end || len(s) > end && s[end] != '-' || t.id == (TraceID{}) || t.parent == (SpanID{}) {
		return trace{}
	}
	t.flags, t.sampled, t.from = flags[0], flags[0]&flagSampled != 0, traceW3C
	return t
}

// The flags of a traceparent field (W3C Trace Context, section 3.2.2.5, and Level 2 for the second).
const (
	flagSampled = 1
	flagRandom  = 2
)

// parseB3 reads the fields of Zipkin, in one or in several (https://github.com/openzipkin/b3-propagation).
func parseB3(f *tracing) (t trace) {
	id, span, state := f.at(http1.B3TraceID), f.at(http1.B3SpanID), f.at(http1.B3Sampled)
	if single := f.at(http1.B3); single != "" {
		var rest string
		id, rest, _ = strings.Cut(single, "-")
		span, rest, _ = strings.Cut(rest, "-")
		state, _, _ = strings.Cut(rest, "-")
	}
	if !t.takeHex(id, span) || len(id) != 16 && len(id) != 32 {
		return trace{}
	}
	t.sampled = state == "1" || state == "d" || state == "true"
	return t
}

// parseUber reads the field of Jaeger (https://www.jaegertracing.io/sdk-migration/#propagation-format).
func parseUber(f *tracing) (t trace) {
	id, rest, _ := strings.Cut(strings.ReplaceAll(f.at(http1.UberTrace), "%3A", ":"), ":")
	span, rest, _ := strings.Cut(rest, ":")
	_, flags, _ := strings.Cut(rest, ":")
	if !t.takeHex(id, span) {
		return trace{}
	}
	n, _ := strconv.ParseUint(flags, 16, 8)
	t.sampled = n&1 != 0
	return t
}

// parseSentry reads the field of Sentry: trace, span, and whether it is sampled, where that is decided.
func parseSentry(f *tracing) (t trace) {
	id, rest, _ := strings.Cut(f.at(http1.SentryTrace), "-")
	span, state, _ := strings.Cut(rest, "-")
	if len(id) != 2*len(t.id) || !t.takeHex(id, span) {
		return trace{}
	}
	t.sampled, t.from = state == "1", traceSentry
	return t
}

// parseDatadog reads the fields of Datadog: 64 bits as a decimal number, and those above them among the tags.
func parseDatadog(f *tracing) (t trace) {
	low, err := strconv.ParseUint(f.at(http1.DatadogTrace), 10, 64)
	if err != nil || low == 0 {
		return trace{}
	}
	binary.BigEndian.PutUint64(t.id[8:], low)
	for tag := range strings.SplitSeq(f.at(http1.DatadogTags), ",") {
		if high, ok := strings.CutPrefix(strings.TrimSpace(tag), "_dd.p.tid="); ok && len(high) == 16 && !unhex(t.id[:8], high) {
			clear(t.id[:8])
		}
	}
	if parent, err := strconv.ParseUint(f.at(http1.DatadogParent), 10, 64); err == nil {
		binary.BigEndian.PutUint64(t.parent[:], parent)
	}
	priority, err := strconv.Atoi(f.at(http1.DatadogSampled))
	t.sampled = err == nil && priority > 0
	return t
}

// parseXRay reads the field of AWS X-Ray: Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1. A load balancer
// puts in one without a parent.
func parseXRay(f *tracing) (t trace) {
	for part := range strings.SplitSeq(f.at(http1.XRayTrace), ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch key {
		case "Root":
			const timeAt, restAt, end = len("1-"), len("1-00000000-"), len("1-00000000-000000000000000000000000")
			if len(value) != end || value[:timeAt] != "1-" || value[restAt-1] != '-' || !unhex(t.id[:4], value[timeAt:]) || !unhex(t.id[4:], value[restAt:]) {
				return trace{}
			}
		case "Parent":
			if len(value) != 2*len(t.parent) || !unhex(t.parent[:], value) {
				t.parent = SpanID{}
			}
		case "Sampled":
			t.sampled = value == "1"
		}
	}
	if t.parent == (SpanID{}) {
		t.from = traceBalancer
	}
	return t
}

// takeHex takes ids of up to 32 and 16 digits, which may have lost the zeros before them.
func (t *trace) takeHex(id, span string) bool {
	if len(id) == 0 || len(id) > 2*len(t.id) || len(span) > 2*len(t.parent) {
		return false
	}
	const zeros = "00000000000000000000000000000000"
	return unhex(t.id[:], strings.ToLower(zeros[len(id):]+id)) &&
		(span == "" || unhex(t.parent[:], strings.ToLower(zeros[16+len(span):]+span))) && t.id != (TraceID{})
}

// RequestTrace returns the trace that a request is thought to be of by its X-Request-Id: the same digits, where it is a UUID or
// has 32 hex digits, else a digest of it.
func RequestTrace(name string) (id TraceID) {
	digits := name
	if len(name) == len("00000000-0000-0000-0000-000000000000") {
		digits = strings.ReplaceAll(name, "-", "")
	}
	if len(digits) == 2*len(id) && unhex(id[:], strings.ToLower(digits)) && id != (TraceID{}) {
		return id
	}
	sum := sha256.Sum256([]byte(name))
	return TraceID(sum[:16])
}

// random fills an id, which is not zero then: it has to be another one each time, and no secret.
func random(id []byte) {
	for at := 0; at < len(id); at += 8 {
		binary.BigEndian.PutUint64(id[at:], rand.Uint64()|1) //nolint:gosec // that is enough for it
	}
}

// unhex fills to with what the digits at the beginning of s stand for, and says whether they are digits in lower case.
func unhex(to []byte, s string) bool {
	if len(s) < 2*len(to) {
		return false
	}
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

// takeTrace notes which trace the request is of.
func (x *exchange) takeTrace() {
	x.trace = x.rq.traceOf()
	x.record.TraceID, x.record.ParentID, x.record.Sampled = x.trace.id, x.trace.parent, x.trace.sampled
	x.record.Named = x.trace.from == traceRequest || x.trace.from == traceSentry
}

// joins says whether what has the same trace id is of the same request from outside.
func (x *exchange) joins() bool {
	switch x.trace.from {
	case traceW3C, traceOther, traceBalancer:
		return true
	}
	return x.begun
}

// follows says whether a request is recorded because its caller records it: where no stranger could have everything recorded so.
func (x *exchange) follows() bool {
	return x.record.Sampled && (x.rq.trusted || x.caller != nil || x.proxy.options.FollowUntrusted)
}

// sample decides once whether the request gets a span of the proxy's own: where its caller has one that counts, and where its trace
// is of the share of its route. The bits of the id decide, so that all proxies do the same (W3C Trace Context Level 2, random flag).
func (x *exchange) sample() {
	if x.asked {
		return
	}
	x.asked = true
	share := 0.0
	if x.proxy.options.Sample != nil {
		share = x.proxy.options.Sample(x.decision.Route)
	}
	r, id := &x.record, x.record.TraceID
	begins := x.trace.from == traceNone || x.trace.from == traceRequest // a name may come again, and a trace must not
	if begins && (share > 0 || x.wantsReceipt()) {
		random(id[:])
	}
	r.Recorded = x.proxy.options.Sample != nil && (x.follows() || isOfShare(id, share))
	if r.Recorded || x.wantsReceipt() && (begins || x.trace.from == traceBalancer) {
		random(r.SpanID[:])
		if begins {
			r.TraceID, r.Named, x.begun = id, false, true
		}
	}
}

// isOfShare says whether a trace is of the share that is recorded: its last 56 bits are random.
func isOfShare(id TraceID, share float64) bool {
	var n uint64
	for _, b := range id[9:] {
		n = n<<8 | uint64(b)
	}
	return share > 0 && float64(n>>1) < share*(1<<55)
}

// passesTrace says whether the instance gets a traceparent field of the proxy's, so that what it does is below the proxy's span.
// Those whose tracer speaks otherwise keep what they have.
func (x *exchange) passesTrace() bool {
	return x.record.SpanID != (SpanID{}) && x.trace.from != traceOther && x.trace.from != traceSentry
}

// traceparentSize is the length of a traceparent field's value.
const traceparentSize = len("00-00000000000000000000000000000000-0000000000000000-00")

// appendTraceparent writes the field's value for the instance.
func (x *exchange) appendTraceparent(b []byte) []byte {
	r, flags := &x.record, x.trace.flags&(flagSampled|flagRandom) // and no others (section 3.2.2.5.2)
	if x.begun {
		flags = flagRandom
	}
	if r.Recorded {
		flags |= flagSampled
	}
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, r.TraceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, r.SpanID[:])
	b = append(b, '-')
	return hex.AppendEncode(b, []byte{flags})
}

// receiptTimeout is how long an answer waits for what other requests of its trace left.
const receiptTimeout = 2 * time.Second

// wantsReceipt says whether the answer is to have a receipt: who gets names of versions in errors may know this as well.
func (x *exchange) wantsReceipt() bool {
	return x.rq.receipt && x.rq.trusted && x.proxy.options.Receipt != nil && !isGRPC(x.rq.contentType)
}

// receipt returns the value of [ReceiptHeader] in an answer: elements as [ServedByHeader] has, first this request, then those that
// came of it.
func (x *exchange) receipt(status int) string {
	var b strings.Builder
	b.WriteString(cmp.Or(x.servedBy(), "none"))
	b.WriteString("; depth=0; status=" + strconv.Itoa(status))
	ctx, cancel := context.WithTimeout(context.Background(), receiptTimeout)
	defer cancel()
	if calls := x.proxy.options.Receipt(ctx, x.record.TraceID); calls != "" {
		b.WriteString(", " + calls)
	}
	return b.String()
}
