package api

import "fmt"

// Problem is an error as the API sends it: RFC 9457 problem details
// (application/problem+json), with a code to branch on and a hint for people.
type Problem struct {
	Status int      `json:"status" doc:"HTTP status" example:"404"`
	Title  string   `json:"title" doc:"The status in words" example:"Not Found"`
	Detail string   `json:"detail" doc:"What happened, to which thing" example:"there is no version cart@pr-88"`
	Code   Code     `json:"code" enum:"invalid,not_found,conflict,forbidden,quota,unavailable,internal" doc:"What kind of error it is, to branch on"`
	Hint   string   `json:"hint,omitempty" doc:"What to do next"`
	Errors []string `json:"problems,omitempty" doc:"Every single problem, where there are several; of quota, the versions that could go"`
}

// Error returns the detail and, behind it, the hint.
func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Detail
	}
	return fmt.Sprintf("%s (%s)", p.Detail, p.Hint)
}

// Code says what kind of error it is.
type Code string

// The kinds of errors.
const (
	CodeInvalid     Code = "invalid"     // the request is wrong: 422, or 400 where it cannot be read
	CodeNotFound    Code = "not_found"   // 404
	CodeConflict    Code = "conflict"    // 409
	CodeForbidden   Code = "forbidden"   // 403
	CodeQuota       Code = "quota"       // 409: as many versions run as may; Errors has what could go
	CodeUnavailable Code = "unavailable" // 503: a runtime or the store does not answer
	CodeInternal    Code = "internal"    // 500: a defect
)
