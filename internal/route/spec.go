// Package route decides which version of a service answers a request.
//
// It is pure: no I/O, no clock, no goroutine. A [Spec] says what an environment
// holds, [Compile] checks it and makes an immutable [Table], and [Table.Resolve]
// gives the [Decision] for one request. The same code answers `layover explain`
// through [Table.Explain].
//
// The rules (R1 to R8) are those of docs/design.md.
package route

import "time"

// Defaults of an environment.
const (
	DefaultVersion    = "main"          // answers when a route names none
	DefaultBaggageKey = "dynamic_route" // the baggage member that carries the route
	DefaultDomain     = "localhost"     // <service>.<domain> is the default host of a service
	DefaultHold       = 30 * time.Second
	CookieName        = "layover_route" // the cookie that carries the route (R2.4)
)

// Spec is everything the data plane needs to decide, as plain data. It is what
// servers send and proxies read; [Compile] turns it into a [Table].
type Spec struct {
	Epoch       string        `json:"epoch,omitempty"` // in which Revision counts; see [Position]
	Revision    uint64        `json:"revision"`
	Environment string        `json:"environment"`
	Domain      string        `json:"domain"`                 // preview hosts end in it; empty means DefaultDomain
	BaggageKey  string        `json:"baggage_key"`            // empty means DefaultBaggageKey
	RouteHeader string        `json:"route_header,omitempty"` // alternative header (R2.3); empty means none
	Hold        time.Duration `json:"hold_ns"`                // how long a request waits for a version that starts (R5); 0 means DefaultHold
	Services    []Service     `json:"services"`
	Routes      []NamedRoute  `json:"routes,omitempty"`
}

// Service is one application with its versions.
type Service struct {
	Name     string    `json:"name"`
	Hosts    []string  `json:"hosts"`              // exact hosts or "*.suffix"; empty means <name>.<domain>
	Default  string    `json:"default,omitempty"`  // the default version; empty means DefaultVersion
	Protocol Protocol  `json:"protocol,omitempty"` // how instances are spoken to; empty means HTTP1
	Held     Held      `json:"held,omitzero"`      // how much may wait for its versions
	Healing  Healing   `json:"healing,omitzero"`   // what becomes of requests to it that lost their route (R6)
	Versions []Version `json:"versions"`
}

// Held bounds the requests that wait in one proxy for versions of a service that are not
// ready (R5). What is 0 is the proxy's own bound.
type Held struct {
	Requests int `json:"requests,omitempty"`
	Bytes    int `json:"bytes,omitempty"` // of memory that they may take
}

// Healing says what becomes of a request without a route that should have had one (R6).
type Healing struct {
	Origin HealMode `json:"origin,omitempty"` // as the instance that makes the call serves one route alone
	Trace  HealMode `json:"trace,omitempty"`  // as its trace was seen with a route
}

// HealMode says what is done about a route that was lost.
type HealMode string

// The modes of healing.
const (
	HealOff  HealMode = "off"  // nothing, and nobody looks; as the empty text
	HealWarn HealMode = "warn" // it is noted
	HealOn   HealMode = "heal" // the request gets the route
)

func (m HealMode) isOn() bool { return m == HealWarn || m == HealOn }

// Protocol is what an instance speaks.
type Protocol string

// The protocols of instances.
const (
	HTTP1 Protocol = "http1" // HTTP/1.1, the default
	H2C   Protocol = "h2c"   // HTTP/2 without TLS, by prior knowledge: gRPC
)

// Version is one version of a service.
type Version struct {
	Name      string     `json:"name"`
	State     State      `json:"state"`
	Reason    string     `json:"reason,omitempty"` // why it is not ready, for people
	Instances []Instance `json:"instances,omitempty"`
}

// State says whether a version can answer (R5).
type State string

// The states of a version in a table. A stopped version is not in the table.
const (
	Ready    State = "ready"    // has at least one healthy instance
	Starting State = "starting" // will have one: requests are held
	Asleep   State = "asleep"   // starts when asked: requests are held
	Failed   State = "failed"   // will not answer: 503 at once
)

// Instance is one healthy running copy of a version.
type Instance struct {
	ID         string `json:"id"`
	Address    string `json:"address"`               // host:port
	TLS        bool   `json:"tls,omitempty"`         // speak TLS to it
	ServerName string `json:"server_name,omitempty"` // name its certificate must carry; empty means the host of Address
	Host       string `json:"host,omitempty"`        // sent as Host instead of the client's; empty keeps the client's
	From       string `json:"from,omitempty"`        // IP address that its calls come from, where nobody else's do; else empty
}

// NamedRoute is a route stored under a name: explicit picks and an optional
// parent, whose picks hold where this route has none.
type NamedRoute struct {
	Name   string            `json:"name"`
	Parent string            `json:"parent,omitempty"`
	Picks  map[string]string `json:"picks"` // service -> version
}
