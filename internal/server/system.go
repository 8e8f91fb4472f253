package server

import (
	"context"
	"net/http"

	"github.com/layover-dev/layover/api"
)

func (s *Server) registerSystem() {
	register(s, operation{
		id: "get-environment", tag: tagServer, method: http.MethodGet, path: "/api/v1/environment",
		summary:     "Get the environment",
		description: "Describes the environment that the server owns: its names, and where its proxy is.",
	}, func(context.Context, *struct{}) (*answer[api.Environment], error) {
		return reply(s.opts.Environment), nil
	})

	register(s, operation{
		id: "get-server-version", tag: tagServer, method: http.MethodGet, path: "/api/v1/version",
		summary:     "Get the server's version",
		description: "Says what the server was built from.",
	}, func(context.Context, *struct{}) (*answer[api.Build], error) {
		return reply(s.opts.Build), nil
	})

	register(s, operation{
		id: "get-health", tag: tagServer, method: http.MethodGet, path: "/healthz",
		summary:     "Is the server alive?",
		description: "Answers as long as the server answers at all.",
	}, func(context.Context, *struct{}) (*answer[api.ServerHealth], error) {
		return reply(api.ServerHealth{Status: "ok"}), nil
	})

	register(s, operation{
		id: "get-readiness", tag: tagServer, method: http.MethodGet, path: "/readyz",
		summary:     "Is the server ready?",
		description: "Answers 200 when the store answers and every runtime in use has been looked at; 503 with the reason otherwise.",
		errors:      []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, _ *struct{}) (*answer[api.ServerHealth], error) {
		if err := s.control.Ready(ctx); err != nil {
			return nil, newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "it becomes ready by itself once the reason is gone", "the server is not ready: %s", err)
		}
		return reply(api.ServerHealth{Status: "ok"}), nil
	})
}
