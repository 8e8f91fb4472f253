package proxy

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The header fields that Layover adds.
const (
	// ServedByHeader of an answer says which version answered and why (R7).
	ServedByHeader = "Layover-Served-By"

	// ErrorHeader is on every answer that Layover made itself because of an
	// error, and holds the code of the problem.
	ErrorHeader = "Layover-Error"

	// HopsHeader of a request counts how often it went through a proxy. A request
	// that a service makes starts anew at 1, unless the service copies all fields of the one
	// that it answers; so the limit is far above the depth of real call chains.
	HopsHeader = "Layover-Hops"

	// ReceiptHeader with the value 1 in a request to a trusted listener asks for the receipt. The answer has it under the
	// same name: the versions that the request passed through, as a list of RFC 9651.
	ReceiptHeader = "Layover-Receipt"

	// TraceHeader of such an answer is the id of the trace, for layover receipt.
	TraceHeader = "Layover-Trace"
)

// maxHops is how often a request may go through a proxy before it is taken for
// one that runs in a circle: an external address that leads back to the proxy.
const maxHops = 32

// keepTarget makes out ask for the path and query of in, byte for byte.
//
// A [url.URL] writes a path that has bytes which ought to be escaped ("{", "|",
// raw UTF-8) in its own way, even where that changes other parts ("%2F" becomes "/").
// Only Opaque is written as it is; and one that begins with "//" has to name the host.
func keepTarget(out, in *url.URL, method, host string) {
	out.User = nil
	out.RawQuery = in.RawQuery
	switch {
	case in.RawPath != "" && in.EscapedPath() != in.RawPath:
		out.Opaque = in.RawPath
		if strings.HasPrefix(in.RawPath, "//") {
			out.Opaque = "//" + host + in.RawPath
		}
	case in.Path == "" && in.Host != "" && method == http.MethodOptions && in.RawQuery == "" && !in.ForceQuery:
		out.Path = "*" // the last proxy turns the absolute form of "OPTIONS *" back (RFC 9112 section 3.2.4)
	}
}

// via is what the forwarding fields tell an instance about the client.
type via struct {
	chain    string // X-Forwarded-For
	host     string // X-Forwarded-Host
	proto    string // X-Forwarded-Proto
	elements string // Forwarded, where the request has one; else ""
}

// via returns what the forwarding fields say to the instance. What the request came
// with is kept only where trust says so.
func (rq *request) via(trust bool) via {
	scheme := "http"
	if rq.encrypted {
		scheme = "https"
	}
	v := via{chain: rq.ip, host: rq.host, proto: scheme}
	elements := ""
	if trust {
		if len(rq.forwardedFor) > 0 {
			v.chain = strings.Join(rq.forwardedFor, ", ") + ", " + rq.ip
		}
		v.host = firstOr(rq.forwardedHost, v.host)
		v.proto = firstOr(rq.forwardedProto, v.proto)
		elements = strings.Join(rq.forwarded, ", ")
	}
	if len(rq.forwarded) > 0 {
		if elements != "" {
			elements += ", "
		}
		v.elements = elements + forwardedElement(rq.ip, rq.host, scheme)
	}
	return v
}

func firstOr(values []string, fallback string) string {
	if len(values) > 0 && values[0] != "" {
		return values[0]
	}
	return fallback
}

// forwardedElement writes one element of Forwarded (RFC 7239 section 4).
func forwardedElement(ip, host, proto string) string {
	if strings.Contains(ip, ":") {
		ip = `"[` + ip + `]"`
	}
	if !isToken(host) {
		host = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(host) + `"`
	}
	return "for=" + ip + ";host=" + host + ";proto=" + proto
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// dropTunnelsOfHTTP takes the wish to upgrade to another kind of HTTP from a
// request. A server may ignore the wish (RFC 9110 section 7.8); granting it would tie
// all later requests of the client's connection to the version of this one.
func dropTunnelsOfHTTP(h http.Header) {
	if slices.ContainsFunc(h["Upgrade"], isHTTPUpgrade) {
		delete(h, "Upgrade")
		delete(h, "Connection")
	}
}

// isHTTPUpgrade says whether an Upgrade field names a kind of HTTP, or TLS.
func isHTTPUpgrade(line string) bool {
	for protocol := range strings.SplitSeq(line, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(protocol), "/")
		switch strings.ToLower(name) {
		case "h2c", "h2", "http", "tls":
			return true
		}
	}
	return false
}

// isGRPC says whether a request or answer with this content type is gRPC's.
func isGRPC(contentType string) bool {
	rest, found := strings.CutPrefix(contentType, "application/grpc")
	return found && (rest == "" || rest[0] == '+' || rest[0] == ';' || rest[0] == '-')
}

// prefersHTML says whether a person with a browser asked: Accept names
// text/html, and no JSON that it likes as much.
func prefersHTML(accept []string) bool {
	html, json := 0.0, 0.0
	for _, line := range accept {
		for element := range strings.SplitSeq(line, ",") {
			media, params, _ := strings.Cut(element, ";")
			switch strings.ToLower(strings.TrimSpace(media)) {
			case "text/html", "application/xhtml+xml":
				html = max(html, quality(params))
			case "application/json", "application/problem+json":
				json = max(json, quality(params))
			}
		}
	}
	return html > json
}

// quality returns the q of a media range's parameters, 1 where it has none and
// 0 where it is not a number from 0 to 1 (RFC 9110 section 12.4.2).
func quality(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		q, err := strconv.ParseFloat(value, 64)
		if err != nil || q < 0 || q > 1 {
			return 0
		}
		return q
	}
	return 1
}
