package server

import (
	"context"
	"net/http"

	"github.com/layover-dev/layover/api"
)

type rollbackInput struct {
	ActInput
	Body *api.Rollback // may be left out: one back
}

type scaleInput struct {
	ActInput
	Body api.Scale
}

func (s *Server) registerGenerations() {
	register(s, operation{
		id: "list-generations", tag: tagVersions, method: http.MethodGet, path: versionPath + "/generations", standby: fromStore,
		summary:     "List the generations of a version",
		description: "Returns the deployments of the version that are kept, newest first: what each ran, and how far it came.",
		errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *VersionPath) (*answer[api.List[api.Generation]], error) {
		generations, err := s.control.History(ctx, in.key())
		return listOf(generations), err
	})

	register(s, operation{
		id: "rollback-version", tag: tagVersions, method: http.MethodPost, path: versionPath + "/rollback",
		summary: "Roll a version back",
		description: "Deploys what an earlier generation ran, its command and variables, as a new generation. What serves goes on serving " +
			"until that is healthy. Without `to` it is the newest generation that served besides the one that does now.",
		status: http.StatusAccepted,
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *rollbackInput) (*answer[api.Version], error) {
		var to int64
		if in.Body != nil {
			to = in.Body.To
		}
		v, err := s.control.Rollback(ctx, in.key(), to, in.by())
		return reply(v), err
	})

	register(s, operation{
		id: "scale-version", tag: tagVersions, method: http.MethodPost, path: versionPath + "/scale",
		summary: "Scale a version",
		description: "Gives the version another number of instances. Those it has stay, as far as they may; those that leave are drained. " +
			"A stopped version has that many when it is started. Later deployments that name no number keep it.",
		status: http.StatusAccepted,
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *scaleInput) (*answer[api.Version], error) {
		v, err := s.control.Scale(ctx, in.key(), in.Body.Replicas, in.by())
		return reply(v), err
	})
}
