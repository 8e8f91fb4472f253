package route

// Request is the part of a request that decides its route.
type Request struct {
	Host    string   // the authority: ":authority", else Host; port, case and a trailing dot do not matter
	Baggage []string // the baggage header lines, in order
	Header  []string // the lines of the alternative header (R2.3); the first non-empty one counts
	Cookie  []string // the cookie header lines
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
