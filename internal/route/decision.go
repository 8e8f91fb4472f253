package route

import (
	"strconv"
	"strings"
)

// Request is the part of a request that decides its route.
type Request struct {
	Host    string   // the authority: ":authority", else Host; port, case and a trailing dot do not matter
	Baggage []string // the baggage header lines, in order
	Header  []string // the lines of the alternative header (R2.3); the first non-empty one counts
	Cookie  []string // the cookie header lines

	// Healed is the route that the request lost on its way (R6), as HealedBy knows; empty where it lost none. It counts where
	// no other source has one.
	Healed   string
	HealedBy By // ByHealedOrigin or ByHealedTrace
}

// Decision is what a table says for one request.
//
// Service and Version point into the table, and must not be changed.
type Decision struct {
	Outcome  Outcome
	Service  *ServiceEntry // nil where Outcome is UnknownHost
	Version  *VersionEntry // nil where Outcome is UnknownHost, UnknownRoute or NoVersion
	HostBy   HostBy        // how the host selected the service (R1)
	By       By            // where the route came from (R2)
	Route    string        // the route as it came, still percent-encoded where it was; "" where none came
	Strict   bool          // the route ends in "!"
	Match    Match         // what of the route selected the version (R4)
	Fallback Fallback      // why the default version answers although a route came (R5)
}

// Outcome says whether there is a version to go to. Whether that version can
// answer is its State.
type Outcome uint8

// The outcomes of a decision.
const (
	Found        Outcome = iota // go to Version
	UnknownHost                 // no service has this host: 404
	UnknownRoute                // a strict route has a selector that matches nothing: 421
	NoVersion                   // the default version is asked for, and the service has none: 503
)

// HostBy says how the host selected the service.
type HostBy uint8

// The ways a host selects a service, in the order they are tried.
const (
	HostNone    HostBy = iota
	HostExact          // cart.localhost
	HostSuffix         // *.cart.test
	HostPreview        // feature-1--cart.localhost or feature-1.cart.localhost
)

// By says where the route came from; its String is the word in Layover-Served-By.
type By uint8

// The sources of a route, in the order they are tried (R2).
const (
	ByDefault      By = iota // none: the default versions
	ByPreview                // the preview host
	ByBaggage                // the baggage member
	ByHeader                 // the alternative header
	ByCookie                 // the cookie
	ByHealedOrigin           // R6, by the calling instance
	ByHealedTrace            // R6, by the trace
)

// Match says what of the route selected the version.
type Match uint8

// The ways a route selects a version (R4).
const (
	MatchNone   Match = iota // nothing did: the default version
	MatchScoped              // a selector scoped to the service: cart@pr-88
	MatchNamed               // a named route with a pick for the service
	MatchName                // an unscoped selector that is a version of the service
)

// Fallback says why the default version answers although a route came; its
// String is the word in Layover-Served-By.
type Fallback uint8

// The reasons to fall back (R5).
const (
	FallbackNone    Fallback = iota
	FallbackDefault          // the service lacks the version, others have it: the normal case
	FallbackUnknown          // the route, or its pick for this service, names nothing that exists
)

// ServedBy is the value of Layover-Served-By (R7): which version answers, which
// route asked for it, where that came from, and why it is the default version if
// it is so in spite of the route. It is empty where no version answers. The route
// stands there as it came, with all that could harm a header percent-encoded,
// and cut where it is long.
func (d Decision) ServedBy() string {
	return string(d.AppendServedBy(nil))
}

// AppendServedBy appends what [Decision.ServedBy] returns to b.
func (d Decision) AppendServedBy(b []byte) []byte {
	if d.Version == nil {
		return b
	}
	b = append(b, d.Version.ID...)
	if d.Route != "" {
		b = append(b, "; route="...)
		b = appendHeaderSafe(b, d.Route)
	}
	b = append(b, "; by="...)
	b = append(b, d.By.String()...)
	if d.Fallback != FallbackNone {
		b = append(b, "; fallback="...)
		b = append(b, d.Fallback.String()...)
	}
	return b
}

// appendHeaderSafe appends route as a header parameter can hold it.
func appendHeaderSafe(b []byte, route string) []byte {
	const most = 200
	plain := func(c byte) bool { return isBaggageOctet(c) && c != '=' }
	end := ""
	if len(route) > most {
		route, end = route[:most], "..."
		if at := strings.LastIndexByte(route, '%'); at >= most-2 {
			route = route[:at]
		}
	}
	b = appendEscaped(b, route, plain)
	return append(b, end...)
}

// String is the outcome as the API writes it.
func (o Outcome) String() string {
	return word(int(o), "found", "unknown-host", "unknown-route", "no-version")
}

// String is the way as the API writes it.
func (h HostBy) String() string {
	return word(int(h), "none", "exact", "suffix", "preview")
}

// String is the source as Layover-Served-By writes it.
func (b By) String() string {
	return word(int(b), "default", "preview", "baggage", "header", "cookie", "healed-origin", "healed-trace")
}

// String is the way as the API writes it.
func (m Match) String() string {
	return word(int(m), "none", "scoped", "named", "name")
}

// String is the reason as Layover-Served-By writes it; empty for FallbackNone.
func (f Fallback) String() string {
	return word(int(f), "", "default", "unknown")
}

// word is the i-th of words, and tells a value that has none by its number.
func word(i int, words ...string) string {
	if i < len(words) {
		return words[i]
	}
	return "invalid(" + strconv.Itoa(i) + ")"
}
