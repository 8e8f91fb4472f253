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
)

func (n Name) hopByHop() bool { return Connection <= n && n <= UpgradeName }
func (n Name) endToEnd() bool { return Host <= n && n <= LayoverServedBy }

// nameOf returns what a field of that name is. The name is a token.
func nameOf(name []byte) Name {
	var n Name
	var is string
	switch len(name) {
	case 2:
		n, is = TE, "te"
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
		}
	case 11:
		n, is = Traceparent, "traceparent"
	case 12:
		switch name[0] | 0x20 {
		case 'c':
			n, is = ContentType, "content-type"
		case 'l':
			n, is = LayoverHops, "layover-hops"
		}
	case 14:
		n, is = ContentLength, "content-length"
	case 15:
		n, is = XForwardedFor, "x-forwarded-for"
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
		n, is = ProxyAuthenticate, "proxy-authenticate"
	case 19:
		n, is = ProxyAuthorization, "proxy-authorization"
	}
	if n != Other && equalFold(name, is) {
		return n
	}
	return Other
}
