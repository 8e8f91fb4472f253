package server

import (
	"context"
	"net/http"

	"github.com/layover-dev/layover/api"
)

// Forges takes webhooks of GitHub, GitLab and Bitbucket, at /forges/{name}, and describes what is configured.
type Forges interface {
	http.Handler
	Forges(ctx context.Context, check bool) []api.Forge
}

func (s *Server) registerForges() {
	register(s, operation{
		id: "list-forges", tag: tagWebhooks, method: http.MethodGet, path: "/api/v1/forges",
		summary:     "List forges",
		description: "Returns the forges of the configuration, and how many of their webhooks were refused. With `check` each is asked for its repositories, and what is wrong is said.",
	}, func(ctx context.Context, in *struct {
		Check bool `query:"check" doc:"Ask the forges"`
	},
	) (*answer[api.List[api.Forge]], error) {
		if s.opts.Forges == nil {
			return listOf([]api.Forge{}), nil
		}
		return listOf(s.opts.Forges.Forges(ctx, in.Check)), nil
	})
}
