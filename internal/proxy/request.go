package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/layover-dev/layover/internal/proxy/http1"
)

// request is what the proxy reads of a request, whichever path it came on. On the
// fast path its strings are views of the connection's buffer: they are good until
// the request has ended.
type request struct {
	sender

	method    string
	target    string // as it was sent
	scheme    string // of the absolute form of the target; "" for the others
	authority string // of the absolute form
	path      string // of the target, without the query
	host      string // the Host field, or :authority
	major     int    // of the version of HTTP
	protocol  string // of an extended CONNECT (RFC 8441)

	accept         []string
	baggage        []string
	contentType    string
	cookie         []string
	forwarded      []string
	forwardedFor   []string
	forwardedHost  []string
	forwardedProto []string
	hops           []string
	traceparent    []string
	tracing        tracing
	receipt        bool // a receipt is asked for
}

// sender is where a request comes from.
type sender struct {
	peer      string         // address of the other end, host:port
	addr      netip.AddrPort // the same; the zero value where it is no address
	ip        string         // host of peer
	encrypted bool           // it came over TLS
	trusted   bool           // it came to a trusted listener
}

func senderOf(peer string, encrypted, trusted bool) sender {
	ip, _, err := net.SplitHostPort(peer)
	if err != nil {
		ip = peer
	}
	addr, _ := netip.ParseAddrPort(peer)
	return sender{peer: peer, addr: addr, ip: ip, encrypted: encrypted, trusted: trusted}
}

// readRequest reads r.
func readRequest(r *http.Request, trusted bool) request {
	h := r.Header
	rq := request{
		sender: senderOf(r.RemoteAddr, r.TLS != nil, trusted),
		method: r.Method, target: r.RequestURI, host: r.Host, major: r.ProtoMajor, protocol: tunnelProtocol(r),
		accept: h["Accept"], baggage: h["Baggage"], contentType: h.Get("Content-Type"), cookie: h["Cookie"],
		forwarded: h["Forwarded"], forwardedFor: h["X-Forwarded-For"], forwardedHost: h["X-Forwarded-Host"],
		forwardedProto: h["X-Forwarded-Proto"], hops: h[HopsHeader], traceparent: h["Traceparent"],
	}
	rq.receipt = h.Get(ReceiptHeader) == "1"
	if len(rq.traceparent) != 1 || parseTraceparent(rq.traceparent[0]).from == traceNone {
		rq.tracing.take(h)
	}
	rq.splitTarget()
	return rq
}

// take reads a head. The strings of rq are views of it.
func (rq *request) take(h *http1.Head) {
	rq.method, rq.target, rq.major = view(h.Method), view(h.Target), 1
	rq.host, rq.contentType = "", ""
	rq.accept, rq.baggage, rq.cookie, rq.forwarded = rq.accept[:0], rq.baggage[:0], rq.cookie[:0], rq.forwarded[:0]
	rq.forwardedFor, rq.forwardedHost, rq.forwardedProto = rq.forwardedFor[:0], rq.forwardedHost[:0], rq.forwardedProto[:0]
	rq.hops, rq.traceparent = rq.hops[:0], rq.traceparent[:0]
	rq.tracing, rq.receipt = tracing{}, false
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.Name {
		case http1.Host:
			rq.host = view(f.Value)
		case http1.Accept:
			rq.accept = append(rq.accept, view(f.Value))
		case http1.Baggage:
			rq.baggage = append(rq.baggage, view(f.Value))
		case http1.ContentType:
			if rq.contentType == "" {
				rq.contentType = view(f.Value)
			}
		case http1.Cookie:
			rq.cookie = append(rq.cookie, view(f.Value))
		case http1.ForwardedName:
			rq.forwarded = append(rq.forwarded, view(f.Value))
		case http1.XForwardedFor:
			rq.forwardedFor = append(rq.forwardedFor, view(f.Value))
		case http1.XForwardedHost:
			rq.forwardedHost = append(rq.forwardedHost, view(f.Value))
		case http1.XForwardedProto:
			rq.forwardedProto = append(rq.forwardedProto, view(f.Value))
		case http1.LayoverHops:
			rq.hops = append(rq.hops, view(f.Value))
		case http1.Traceparent:
			rq.traceparent = append(rq.traceparent, view(f.Value))
		case http1.LayoverReceipt:
			rq.receipt = view(f.Value) == "1"
		default:
			if f.Name >= http1.FirstTrace {
				rq.tracing[f.Name-http1.FirstTrace] = view(f.Value)
			}
		}
	}
	rq.splitTarget()
	if h.Minor == 0 && rq.host == "" {
		rq.host = rq.authority // HTTP/1.0 has no need of Host
	}
}

// splitTarget takes the target apart (RFC 9112, section 3.2).
func (rq *request) splitTarget() {
	rest := rq.target
	rq.scheme, rq.authority = "", ""
	if at := strings.Index(rest, "://"); at > 0 && rest[0] != '/' && isScheme(rest[:at]) {
		rq.scheme, rest = rest[:at], rest[at+len("://"):]
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		rq.authority, rest = rest[:end], rest[end:]
	}
	if end := strings.IndexByte(rest, '?'); end >= 0 {
		rest = rest[:end]
	}
	rq.path = rest
}

// originForm is the target in origin-form, as an instance gets it; "*" for the
// server as a whole (RFC 9112, section 3.2.4).
func (rq *request) originForm() (slash string, rest string) {
	if rq.scheme == "" {
		return "", rq.target
	}
	rest = rq.target[len(rq.scheme)+len("://")+len(rq.authority):]
	switch {
	case rest == "" && rq.method == http.MethodOptions:
		return "", "*"
	case rest == "" || rest[0] == '?':
		return "/", rest
	}
	return "", rest
}

// checkTarget returns why a proxy does not serve this kind of request, or nil.
//
// Of the forms of a request target (RFC 9112, section 3.2) it takes the origin form, the
// absolute form with http where it agrees with Host, and "*" for OPTIONS.
func (rq *request) checkTarget() *problem {
	switch {
	case rq.method == http.MethodConnect && strings.EqualFold(rq.protocol, websocketProtocol):
	case rq.method == http.MethodConnect:
		return connectUnsupported(rq.host, rq.protocol)
	case strings.EqualFold(rq.scheme, "https"):
		return httpsTarget(rq.authority)
	case rq.scheme != "" && !strings.EqualFold(rq.scheme, "http"),
		rq.scheme != "" && rq.authority == "",
		rq.scheme != "" && rq.major > 1,
		rq.scheme == "" && rq.target != "*" && !strings.HasPrefix(rq.target, "/"),
		rq.target == "*" && rq.method != http.MethodOptions:
		return badTarget(rq.target)
	case rq.scheme != "" && !sameAuthority(rq.authority, rq.host):
		return hostsDiffer(rq.authority, rq.host)
	case rq.timesForwarded() >= maxHops:
		return loop(rq.host)
	}
	return nil
}

// timesForwarded returns how often the request went through a proxy before.
func (rq *request) timesForwarded() int {
	if len(rq.hops) == 0 {
		return 0
	}
	n := 0
	for _, c := range []byte(rq.hops[0]) {
		if c < '0' || c > '9' || n > maxHops {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// sameAuthority compares two authorities; port 80 is what http has without one.
func sameAuthority(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, ":80"), strings.TrimSuffix(b, ":80"))
}

func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '+' && s[i] != '-' && s[i] != '.') {
			return false
		}
	}
	return s != ""
}
