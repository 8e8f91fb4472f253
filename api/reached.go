package api

import "time"

// Reached is what the requests of a test run reached, counted: the evidence that it tested what it was to test.
type Reached struct {
	Run       string        `json:"run" example:"ci-8812"`
	Requests  int           `json:"requests" doc:"All requests, those of services to each other included"`
	Errors    int           `json:"errors,omitempty" doc:"Those that were answered with 5xx, or by nobody"`
	Direct    int           `json:"direct" doc:"Requests that came from no instance: those of the tests themselves"`
	Took      Duration      `json:"took,omitzero" doc:"All of their durations together"`
	First     time.Time     `json:"first,omitzero"`
	Last      time.Time     `json:"last,omitzero"`
	Edges     []ReachedEdge `json:"edges"`
	Endpoints []Endpoint    `json:"endpoints" doc:"What was asked of each version"`
	Cut       int           `json:"cut,omitempty" doc:"Requests that no edge counts, as there are too many"`
	Dropped   uint64        `json:"dropped,omitempty" doc:"Requests of which proxies could not tell, of any run"`
	Since     time.Time     `json:"since" doc:"Since when this server keeps receipts. Where two answers differ in it, another server answers now, or the same was started anew, and what was told of before is not known any more"`
	Now       time.Time     `json:"now" doc:"The server's time"`
	Judged    time.Time     `json:"judged" doc:"Of all requests of which proxies told before this it is known what they belong to"`
}

// ReachedEdge are the requests of one caller to one version, and why that answered.
type ReachedEdge struct {
	Caller   string `json:"caller,omitempty" doc:"service@version that called; none where no instance did" example:"cart@feature-2981"`
	Service  string `json:"service"`
	Version  string `json:"version" doc:"The version that answered"`
	By       string `json:"by,omitempty" doc:"Where the route came from" example:"baggage"`
	Fallback string `json:"fallback,omitempty" doc:"Why the default version answered although a route came"`
	Lost     string `json:"lost,omitempty" doc:"What became of the route, where the caller had one and the call did not"`
	Requests int    `json:"requests"`
	Errors   int    `json:"errors,omitempty"`
	Example  string `json:"example,omitempty" doc:"Trace id of one of them"`
}

// ID returns service@version of what answered.
func (e ReachedEdge) ID() string { return e.Service + "@" + e.Version }

// Endpoint is one thing that can be asked of a version.
type Endpoint struct {
	Service  string    `json:"service"`
	Version  string    `json:"version"`
	Method   string    `json:"method"`
	Path     string    `json:"path" doc:"Its path, with {id} for what names one thing among many" example:"/items/{id}"`
	Requests int       `json:"requests"`
	Errors   int       `json:"errors,omitempty"`
	Last     time.Time `json:"last,omitzero"`
}

// ID returns service@version.
func (e Endpoint) ID() string { return e.Service + "@" + e.Version }
