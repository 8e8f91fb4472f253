package http1

// Name is a field that a proxy has to know.
type Name uint8

// The fields that this package knows.
const (
	Other Name = iota

	// These are for one connection (RFC 9110, section 7.6.1, and what is in use besides).
	Connection
	KeepAliveName // Keep-Alive
	ProxyConnection
	ProxyAuthenticate
	ProxyAuthorization
	TE
	TransferEncoding
	UpgradeName // Upgrade

	// These say what a message is. Connection cannot take them away.
	Host
	ContentLength
	Trailer
	Baggage
	Cookie
	ForwardedName // Forwarded
	XForwardedFor
	XForwardedHost
	XForwardedProto
	LayoverHops
	LayoverServedBy

	// These are read on the way.
	Accept
	ContentType
	Date
	Expect
	Traceparent
	Tracestate
	LayoverReceipt

	// These carry traces in other forms than that of W3C, or name a request.
	B3             // b3, in one field
	B3TraceID      // X-B3-TraceId
	B3SpanID       // X-B3-SpanId
	B3Sampled      // X-B3-Sampled
	DatadogTrace   // x-datadog-trace-id
	DatadogParent  // x-datadog-parent-id
	DatadogSampled // x-datadog-sampling-priority
	DatadogTags    // x-datadog-tags
	XRayTrace      // X-Amzn-Trace-Id
	UberTrace      // uber-trace-id
	SentryTrace    // sentry-trace
	RequestID      // X-Request-Id
)

// The names of fields that carry traces are from FirstTrace to LastTrace.
const (
	FirstTrace = B3
	LastTrace  = RequestID
)

func (n Name) hopByHop() bool { return Connection <= n && n <= UpgradeName }
func (n Name) endToEnd() bool { return Host <= n && n <= LayoverServedBy }

// nameOf returns what a field of that name is. The name is a token.
func nameOf(name []byte) Name {
	var n Name
	var is string
	switch len(name) {
	case 2:
		switch name[0] | 0x20 {
		case 't':
			n, is = TE, "te"
		case 'b':
			n, is = B3, "b3"
		}
	case 4:
		switch name[0] | 0x20 {
		case 'h':
			n, is = Host, "host"
		case 'd':
			n, is = Date, "date"
		}
	case 6:
		switch name[0] | 0x20 {
		case 'a':
			n, is = Accept, "accept"
		case 'c':
			n, is = Cookie, "cookie"
		case 'e':
			n, is = Expect, "expect"
		}
	case 7:
		switch name[0] | 0x20 {
		case 'b':
			n, is = Baggage, "baggage"
		case 't':
			n, is = Trailer, "trailer"
		case 'u':
			n, is = UpgradeName, "upgrade"
		}
	case 9:
		n, is = ForwardedName, "forwarded"
	case 10:
		switch name[0] | 0x20 {
		case 'c':
			n, is = Connection, "connection"
		case 'k':
			n, is = KeepAliveName, "keep-alive"
		case 't':
			n, is = Tracestate, "tracestate"
		}
	case 11:
		switch name[0] | 0x20 {
		case 't':
			n, is = Traceparent, "traceparent"
		case 'x':
			n, is = B3SpanID, "x-b3-spanid"
		}
	case 12:
		switch name[0] | 0x20 {
		case 'c':
			n, is = ContentType, "content-type"
		case 'l':
			n, is = LayoverHops, "layover-hops"
		case 's':
			n, is = SentryTrace, "sentry-trace"
		case 'x':
			switch name[5] | 0x20 {
			case 't':
				n, is = B3TraceID, "x-b3-traceid"
			case 's':
				n, is = B3Sampled, "x-b3-sampled"
			case 'u':
				n, is = RequestID, "x-request-id"
			}
		}
	case 13:
		n, is = UberTrace, "uber-trace-id"
	case 14:
		switch name[0] | 0x20 {
		case 'c':
			n, is = ContentLength, "content-length"
		case 'x':
			n, is = DatadogTags, "x-datadog-tags"
		}
	case 15:
		switch name[2] | 0x20 {
		case 'f':
			n, is = XForwardedFor, "x-forwarded-for"
		case 'a':
			n, is = XRayTrace, "x-amzn-trace-id"
		case 'y':
			n, is = LayoverReceipt, "layover-receipt"
		}
	case 16:
		switch name[0] | 0x20 {
		case 'p':
			n, is = ProxyConnection, "proxy-connection"
		case 'x':
			n, is = XForwardedHost, "x-forwarded-host"
		}
	case 17:
		switch name[0] | 0x20 {
		case 'l':
			n, is = LayoverServedBy, "layover-served-by"
		case 't':
			n, is = TransferEncoding, "transfer-encoding"
		case 'x':
			n, is = XForwardedProto, "x-forwarded-proto"
		}
	case 18:
		switch name[0] | 0x20 {
		case 'p':
			n, is = ProxyAuthenticate, "proxy-authenticate"
		case 'x':
			n, is = DatadogTrace, "x-datadog-trace-id"
		}
	case 19:
		switch name[0] | 0x20 {
		case 'p':
			n, is = ProxyAuthorization, "proxy-authorization"
		case 'x':
			n, is = DatadogParent, "x-datadog-parent-id"
		}
	case 27:
		n, is = DatadogSampled, "x-datadog-sampling-priority"
	}
	if n != Other && equalFold(name, is) {
		return n
	}
	return Other
}
