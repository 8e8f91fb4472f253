package traefik

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/layover-dev/layover/internal/route"
)

// Limit says why Traefik may decide a request otherwise than the table does; "" where it does not. These are all
// the ways there are.
func Limit(r *Request, t *route.Table) string {
	length := 0
	for _, line := range r.Header["Baggage"] {
		length += len(line) + len(",")
	}
	if length-len(",") > route.MaxBaggage {
		return LimitBaggage
	}
	if isOddHost(r.Host, t) {
		return LimitHost
	}
	fields := []string{"Baggage", "Cookie"}
	if header := t.RouteHeader(); header != "" {
		fields = append(fields, http.CanonicalHeaderKey(header))
	}
	named := connectionFields(r.Header)
	if slices.ContainsFunc(fields, func(f string) bool { return len(r.Header[f]) > 0 && slices.Contains(named, f) }) {
		return LimitConnection
	}
	return ""
}

// The limits, as the end of a sentence about what Traefik does.
const (
	LimitBaggage    = "Traefik reads all of a baggage header; Layover reads 8,192 bytes"
	LimitConnection = "Traefik drops the fields that a Connection field names before it decides; Layover decides by all that came"
	LimitHost       = "Traefik takes a host with a malformed port, or an IPv6 address without brackets, for the host itself; Layover refuses it"
)

// isOddHost says whether an authority is none that the table takes, and Traefik takes it for one of its hosts.
func isOddHost(authority string, t *route.Table) bool {
	if d := t.Resolve(&route.Request{Host: authority}); d.Service != nil {
		return false
	}
	host := canonicalHost(authority)
	if net.ParseIP(host) != nil && strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return t.Resolve(&route.Request{Host: host}).Service != nil
}

// connectionFields are the names of the fields that are for one hop only, as the client says. Traefik keeps Upgrade, and what
// it writes itself (X-Forwarded-For and others), by which nothing here decides.
func connectionFields(h http.Header) (names []string) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if name != "" && name != "Upgrade" {
				names = append(names, name)
			}
		}
	}
	return names
}
