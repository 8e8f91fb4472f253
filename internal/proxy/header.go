package proxy

import (
	"net"
	"net/http"
	"net/url"
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
)

// maxHops is how often a request may go through a proxy before it is taken for
// one that runs in a circle: an external address that leads back to the proxy.
const maxHops = 32

// hops returns how often the request went through a proxy before.
func hops(h http.Header) int {
	lines := h[HopsHeader]
	if len(lines) == 0 {
		return 0
	}
	n, err := strconv.Atoi(lines[0])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

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

// forward sets the fields that tell an instance about the client.
func forward(out http.Header, in *http.Request, trust bool) {
	ip, _, err := net.SplitHostPort(in.RemoteAddr)
	if err != nil {
		ip = in.RemoteAddr
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	chain, host, elements := ip, in.Host, ""
	if trust {
		if prior := in.Header["X-Forwarded-For"]; len(prior) > 0 {
			chain = strings.Join(prior, ", ") + ", " + ip
		}
		if prior := in.Header.Get("X-Forwarded-Host"); prior != "" {
			host = prior
		}
		if prior := in.Header.Get("X-Forwarded-Proto"); prior != "" {
			proto = prior
		}
		elements = strings.Join(in.Header["Forwarded"], ", ")
	}
	values := [3]string{chain, host, proto} // one allocation for the three
	out["X-Forwarded-For"] = values[0:1:1]
	out["X-Forwarded-Host"] = values[1:2:2]
	out["X-Forwarded-Proto"] = values[2:3:3]
	if _, asked := in.Header["Forwarded"]; asked {
		if elements != "" {
			elements += ", "
		}
		scheme := "http"
		if in.TLS != nil {
			scheme = "https"
		}
		out["Forwarded"] = []string{elements + forwardedElement(ip, in.Host, scheme)}
	}
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
	for _, line := range h["Upgrade"] {
		for protocol := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(protocol), "/")
			switch strings.ToLower(name) {
			case "h2c", "h2", "http", "tls":
				delete(h, "Upgrade")
				delete(h, "Connection")
				return
			}
		}
	}
}

// isGRPC says whether a request or answer with this content type is gRPC's.
func isGRPC(contentType string) bool {
	rest, found := strings.CutPrefix(contentType, "application/grpc")
	return found && (rest == "" || rest[0] == '+' || rest[0] == ';' || rest[0] == '-')
}

// prefersHTML says whether a person with a browser asked: Accept names
// text/html, and no JSON that it likes as much.
func prefersHTML(h http.Header) bool {
	html, json := 0.0, 0.0
	for _, line := range h["Accept"] {
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
