package api

// List is what the API answers where there are several: an object, so that it can grow.
type List[T any] struct {
	Items []T `json:"items" nullable:"false" doc:"The things asked for; empty where there are none"`
}

// VersionList is a page of versions.
type VersionList struct {
	Items []Version `json:"items" nullable:"false" doc:"Versions, ordered by service and name"`
	Next  string    `json:"next,omitempty" doc:"Where there are more: what to ask for as after" example:"cart@feature-2981"`
}

// The bounds of a page of versions.
const (
	DefaultVersionPage = 1000
	MaxVersionPage     = 5000
)

// EventList is a part of the event log.
type EventList struct {
	Items []Event `json:"items" nullable:"false" doc:"Events, oldest first"`
	Last  int64   `json:"last" doc:"ID of the newest event of the environment, 0 where there is none" example:"4711"`
}

// ServerHealth is what /healthz and /readyz answer.
type ServerHealth struct {
	Status  string `json:"status" enum:"ok" doc:"Always ok; a problem is answered otherwise" example:"ok"`
	Standby bool   `json:"standby,omitempty" doc:"Another server has the store: this one answers what it can by itself, and asks that one for the rest"`
	Leader  string `json:"leader,omitempty" doc:"URL of the server that has the store, where this one stands by and knows one" example:"http://10.0.0.5:7070"`
}

// Build says what a program was built from.
type Build struct {
	Version string `json:"version" doc:"Version of Layover, or devel" example:"0.1.0"`
	Commit  string `json:"commit,omitempty" doc:"Git commit" example:"16248e9"`
	Date    string `json:"date,omitempty" doc:"Date of the commit, RFC 3339"`
	Go      string `json:"go,omitempty" doc:"Version of Go" example:"go1.26.0"`
}
