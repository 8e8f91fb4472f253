package edge

import (
	"encoding/json"
	"net/http"
	"os"
	"time"
)

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready          bool       `json:"ready"`
	PID            int        `json:"pid"`              // another one after a hand-over
	Reason         string     `json:"reason,omitempty"` // why it is not ready
	Environment    string     `json:"environment,omitempty"`
	Revision       uint64     `json:"revision"`
	Source         string     `json:"source,omitempty"` // of the table: server, cache or file
	Stale          bool       `json:"stale"`            // no server is followed: newer tables may exist
	AgeSeconds     *float64   `json:"age_seconds"`      // since a server said something last; null where none did
	Server         string     `json:"server,omitempty"` // that is followed
	ConnectedSince *time.Time `json:"connected_since,omitempty"`
	Problem        string     `json:"problem,omitempty"` // why no server is followed
	Draining       []string   `json:"draining,omitempty"`
}

// Admin answers what operators and machines ask about a proxy: /healthz (the program
// lives), /readyz (it can decide: 200, else 503) and /metrics. A proxy that serves from an
// old table is ready and says that it is stale; one without a table, and one that stopping
// says is being stopped, is not ready.
func (f *Follower) Admin(metrics http.Handler, stopping func() bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the client may be gone
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		answer := f.readiness(stopping())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !answer.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		_ = out.Encode(answer) // the client may be gone
	})
	mux.Handle("GET /metrics", metrics)
	return mux
}

func (f *Follower) readiness(stopping bool) Readiness {
	s := f.Status()
	answer := Readiness{
		Ready: s.Table && !stopping, PID: os.Getpid(), Environment: s.Environment, Revision: s.Revision,
		Source: s.Source, Stale: s.Stale(), Server: s.Server, Problem: s.Problem, Draining: f.Draining(),
	}
	switch {
	case stopping:
		answer.Reason = "the proxy is being stopped"
	case !s.Table:
		answer.Reason = "no server has answered, and there is no table on disk"
	}
	if !s.ContactAt.IsZero() {
		age := s.Age().Seconds()
		answer.AgeSeconds = &age
	}
	if !s.ConnectedSince.IsZero() {
		answer.ConnectedSince = &s.ConnectedSince
	}
	return answer
}
