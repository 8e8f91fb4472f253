package server

import (
	"context"
	"net/http"

	"github.com/layover-dev/layover/api"
)

func (s *Server) registerSystem() {
	register(s, operation{
		id: "get-environment", tag: tagServer, method: http.MethodGet, path: "/api/v1/environment", standby: itself,
		summary:     "Get the environment",
		description: "Describes the environment that the server owns: its names, and where its proxy is.",
	}, func(context.Context, *struct{}) (*answer[api.Environment], error) {
		return reply(s.opts.Environment), nil
	})

	register(s, operation{
		id: "get-server-version", tag: tagServer, method: http.MethodGet, path: "/api/v1/version", standby: itself,
		summary:     "Get the server's version",
		description: "Says what the server was built from.",
	}, func(context.Context, *struct{}) (*answer[api.Build], error) {
		return reply(s.opts.Build), nil
	})

	register(s, operation{
		id: "get-health", tag: tagServer, method: http.MethodGet, path: "/healthz", standby: itself,
		summary:     "Is the server alive?",
		description: "Answers as long as the server answers at all.",
	}, func(context.Context, *struct{}) (*answer[api.ServerHealth], error) {
		return reply(s.health()), nil
	})

	register(s, operation{
		id: "get-readiness", tag: tagServer, method: http.MethodGet, path: "/readyz", standby: itself,
		summary: "Is the server ready?",
		description: "Answers 200 when the store answers and every runtime in use has been looked at; 503 with the reason otherwise. " +
			"A server that stands by is ready when the store answers; `leader` is missing while no server has the store.",
		errors: []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, _ *struct{}) (*answer[api.ServerHealth], error) {
		if err := s.control.Ready(ctx); err != nil {
			return nil, newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "it becomes ready by itself once the reason is gone", "the server is not ready: %s", err)
		}
		return reply(s.health()), nil
	})
}

func (s *Server) health() api.ServerHealth {
	h := api.ServerHealth{Status: "ok"}
	if s.opts.leader != nil {
		h.Standby, h.Leader = true, s.opts.leader()
	}
	return h
}
