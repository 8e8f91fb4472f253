package server

import (
	"context"
	"net/http"
	"slices"

	"github.com/layover-dev/layover/api"
)

type collectInput struct {
	DryRun bool `query:"dry_run" doc:"Only say what would be removed"`
}

func (s *Server) registerDrift() {
	register(s, operation{
		id: "list-drift", tag: tagServer, method: http.MethodGet, path: "/api/v1/drift",
		summary: "List what drifts",
		description: "Returns in what the runtimes differ from what the store wants: instances that are wanted and do not run, instances that run and are not wanted, " +
			"and runtimes that do not answer. An empty list says that all is as it should be.",
	}, func(ctx context.Context, in *VersionQuery) (*answer[api.List[api.Drift]], error) {
		drift, err := s.control.Drift(ctx)
		drift = slices.DeleteFunc(drift, func(d api.Drift) bool { return !in.selects(d.Service, d.Version) })
		return listOf(drift), err
	})

	register(s, operation{
		id: "collect-garbage", tag: tagServer, method: http.MethodPost, path: "/api/v1/gc",
		summary: "Remove what is left over",
		description: "Asks every runtime what it has, and removes what no version wants: instances of which no version is known, without waiting for their grace time, " +
			"and files without an instance. Of a runtime that does not answer it removes nothing, and says so.",
	}, func(ctx context.Context, in *collectInput) (*answer[api.List[api.Drift]], error) {
		left, err := s.control.Collect(ctx, in.DryRun)
		return listOf(left), err
	})
}
