package api

import "github.com/layover-dev/layover/internal/route"

// ExplainRequest describes a request whose routing is to be explained. It need
// not be one that could be sent: nothing is.
type ExplainRequest struct {
	URL     string   `json:"url" minLength:"1" maxLength:"8192" doc:"URL of the request; the scheme may be left out" example:"cart.localhost:8080/items"`
	Route   string   `json:"route,omitempty" maxLength:"4096" doc:"Route to carry in the baggage, in place of one that the headers have" example:"feature-2981"`
	Headers []string `json:"headers,omitempty" maxItems:"100" doc:"Header lines, 'Name: value'. Host, baggage, cookie and the alternative route header count" example:"[\"baggage: dynamic_route=feature-2981\"]"`
}

// Explanation is a decision as steps that a person can read.
type Explanation = route.Explanation
