package api

import "time"

// Hop is one request as a proxy saw it: who called, which version answered, and why.
type Hop struct {
	Trace    string    `json:"trace,omitempty" doc:"Trace id of its traceparent, or of what another tracer sent: 32 hex digits" example:"4bf92f3577b34da6a3ce929d0e0e4736"`
	Parent   string    `json:"parent,omitempty" doc:"Span id of the caller, 16 hex digits"`
	Span     string    `json:"span,omitempty" doc:"Span id of the proxy, where it has a span of its own"`
	Named    bool      `json:"named,omitempty" doc:"The trace id is made of its X-Request-Id, which proves nothing: a client may use one again"`
	Time     time.Time `json:"time" doc:"When its header was read"`
	Duration Duration  `json:"duration,omitzero" doc:"Until the last byte of the answer"`
	Held     Duration  `json:"held,omitzero" doc:"How long of that it waited for the version to be ready"`
	Caller   string    `json:"caller,omitempty" doc:"The instance it came from, as its address says"`
	CallerOf string    `json:"caller_version,omitempty" doc:"The version of that instance" example:"cart@feature-2981"`
	Service  string    `json:"service,omitempty"`
	Version  string    `json:"version,omitempty" doc:"The version that answered"`
	Instance string    `json:"instance,omitempty"`
	Method   string    `json:"method,omitempty"`
	Host     string    `json:"host,omitempty"`
	Path     string    `json:"path,omitempty" doc:"Without the query"`
	Route    string    `json:"route,omitempty" doc:"The route, as it came or was known again"`
	By       string    `json:"by,omitempty" doc:"Where the route came from" example:"baggage"`
	Fallback string    `json:"fallback,omitempty" doc:"Why the default version answered although a route came"`
	Run      string    `json:"run,omitempty" doc:"The test run it is part of, by its baggage" example:"ci-8812"`
	Lost     string    `json:"lost,omitempty" doc:"The route that a service before it lost, where healing looks for that"`
	Status   int       `json:"status,omitempty" doc:"0 where the client left before"`
	Error    string    `json:"error,omitempty" doc:"Code of the problem, where Layover answered itself"`
	Baggage  *Baggage  `json:"baggage,omitempty" doc:"The baggage that came without the route"`
}

// ID returns service@version of what answered.
func (h *Hop) ID() string { return h.Service + "@" + h.Version }

// Baggage is baggage that came without the route.
type Baggage struct {
	Text    string `json:"text,omitempty" maxLength:"1024" doc:"Its beginning"`
	Members int    `json:"members" doc:"How many members it has"`
	Bytes   int    `json:"bytes" doc:"How long it is"`
}

// HopBatch is what a proxy saw since the last one.
type HopBatch struct {
	Proxy   string `json:"proxy" minLength:"1" maxLength:"100"`
	Dropped uint64 `json:"dropped" doc:"Requests that the proxy could not tell of since it was started"`
	Hops    []Hop  `json:"hops" maxItems:"2000"`
}

// Receipt is the proof of which versions a request really passed through: its hops as far as proxies saw them.
type Receipt struct {
	Trace   string        `json:"trace"`
	Roots   []ReceiptNode `json:"roots" doc:"The requests that came from elsewhere"`
	Hops    int           `json:"hops"`
	Dropped uint64        `json:"dropped,omitempty" doc:"Requests that proxies could not tell of, of any trace: some may be missing here"`
}

// ReceiptNode is a hop with those that it led to.
type ReceiptNode struct {
	Hop
	Calls []ReceiptNode `json:"calls,omitempty"`
}

// HopFilter selects hops; what is empty selects all.
type HopFilter struct {
	Service string
	Version string
	Status  string // "503" or "5xx"
	Run     string // only those of a test run
	Lost    bool   // only those whose route a service before them lost
	Limit   int    // 0 means 100
}

// XRay says of every service that calls another whether it passes the route on.
type XRay struct {
	Since   time.Time  `json:"since,omitzero" doc:"The oldest call that counts"`
	Edges   []XRayEdge `json:"edges"`
	Dropped uint64     `json:"dropped,omitempty" doc:"Requests that proxies could not tell of"`
	Unknown int        `json:"unknown,omitempty" doc:"Calls whose caller nobody knows: they prove nothing"`
}

// XRayEdge is what one version of a service does with the route when it calls another service.
type XRayEdge struct {
	Caller  string         `json:"caller" doc:"service@version that calls" example:"cart@feature-2981"`
	Callee  string         `json:"callee" doc:"The service that is called" example:"pricing"`
	Verdict Verdict        `json:"verdict" enum:"carries,sometimes,drops,unknown"`
	Calls   int            `json:"calls" doc:"All calls, those without a route included"`
	Routed  int            `json:"routed" doc:"Calls that should have carried a route, as the request they belong to had one"`
	Carried int            `json:"carried" doc:"Those that did"`
	Healed  int            `json:"healed,omitempty" doc:"Those that did not, and were healed"`
	Reasons map[string]int `json:"reasons,omitempty" doc:"What became of the route in the others, and how often"`
	Example *Hop           `json:"example,omitempty" doc:"The last call that lost it"`
	Last    time.Time      `json:"last,omitzero" doc:"The last call"`
}

// Verdict says what a service does with the route.
type Verdict string

// The verdicts.
const (
	VerdictCarries   Verdict = "carries"
	VerdictSometimes Verdict = "sometimes" // some calls carry it, and some do not
	VerdictDrops     Verdict = "drops"
	VerdictUnknown   Verdict = "unknown" // no call should have carried one
)

// What becomes of a route on the way.
const (
	LossBaggage  = "no baggage, traceparent kept"
	LossBoth     = "no baggage and no traceparent"
	LossReplaced = "other members in its place"
	LossRenamed  = "its value has another key"
	LossMangled  = "its value is another"
	LossTooLarge = "too much baggage: 64 members or 8192 bytes"
)

// HopList is a list of hops, oldest first.
type HopList struct {
	Items []Hop  `json:"items"`
	Last  uint64 `json:"last" doc:"Number of the newest request that is known: ask behind it to go on"`
}
