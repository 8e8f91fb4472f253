package api

import "time"

// Drift is one thing in which what a runtime has differs from what the store wants: an instance
// that is wanted and does not run, one that runs and is not wanted, a runtime that cannot be
// seen, or a file that is left over.
type Drift struct {
	Service    string    `json:"service,omitempty"`
	Version    string    `json:"version,omitempty"`
	Generation int64     `json:"generation,omitempty"`
	Runtime    string    `json:"runtime"`
	Instance   string    `json:"instance,omitempty" doc:"ID of the instance"`
	Path       string    `json:"path,omitempty" doc:"Of a file or folder without an instance"`
	Wanted     bool      `json:"wanted" doc:"The store wants it"`
	Has        string    `json:"has" enum:"running,exited,nothing,unknown" doc:"What the runtime has of it"`
	RemoveAt   time.Time `json:"remove_at,omitzero" doc:"When it will be removed, where nobody wants it until then"`
	Removed    bool      `json:"removed,omitempty" doc:"It was removed just now"`
	Message    string    `json:"message" doc:"What is the matter with it, for people"`
}

// What a runtime may have of an instance.
const (
	HasRunning = "running"
	HasExited  = "exited"
	HasNothing = "nothing"
	HasUnknown = "unknown" // the runtime does not answer
)
