package server

import (
	"context"
	"net/http"
	"slices"

	"github.com/layover-dev/layover/api"
)

// RoutePath is the input part of operations on one named route.
type RoutePath struct {
	Route Name `path:"route" doc:"Name of the route" example:"team-a"`
}

func (s *Server) registerRoutes() {
	register(s, operation{
		id: "list-routes", tag: tagRoutes, method: http.MethodGet, path: "/api/v1/routes", standby: fromStore,
		summary:     "List named routes",
		description: "Returns every named route, ordered by name.",
	}, func(ctx context.Context, _ *struct{}) (*answer[api.List[api.NamedRoute]], error) {
		routes, err := s.control.Routes(ctx)
		return listOf(routes), err
	})

	register(s, operation{
		id: "get-route", tag: tagRoutes, method: http.MethodGet, path: "/api/v1/routes/{route}", standby: fromStore,
		summary:     "Get a named route",
		description: "Returns one named route with its own picks; those of its parents are not merged in.",
		errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *RoutePath) (*answer[api.NamedRoute], error) {
		r, err := s.namedRoute(ctx, string(in.Route))
		return reply(r), err
	})

	register(s, operation{
		id: "put-route", tag: tagRoutes, method: http.MethodPut, path: "/api/v1/routes/{route}",
		summary: "Add or replace a named route",
		description: "Keeps picks (a version for each service) under a name that requests can carry as their route. " +
			"The picks of the parent hold where this route has none.",
		errors: []int{http.StatusConflict},
	}, s.putRoute)

	register(s, operation{
		id: "delete-route", tag: tagRoutes, method: http.MethodDelete, path: "/api/v1/routes/{route}",
		summary:     "Remove a named route",
		description: "Removes a named route that is no other route's parent.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *struct {
		RoutePath
		ActorHeader
	},
	) (*struct{}, error) {
		return nil, s.control.RemoveRoute(ctx, string(in.Route), in.actor())
	})
}

// NamedRouteChange is a named route as a client sends it.
type NamedRouteChange struct {
	Name   string            `json:"name,omitempty" doc:"May be left out: the path has it"`
	Parent string            `json:"parent,omitempty" doc:"Another named route, whose picks hold where this one has none"`
	Picks  map[string]string `json:"picks" doc:"Service to version" example:"{\"cart\":\"pr-88\"}"`
}

type putRouteInput struct {
	RoutePath
	ActorHeader
	Body NamedRouteChange
}

func (s *Server) putRoute(ctx context.Context, in *putRouteInput) (*answer[api.NamedRoute], error) {
	r := api.NamedRoute{Name: in.Body.Name, Parent: in.Body.Parent, Picks: in.Body.Picks}
	if err := sameName(&r.Name, in.Route); err != nil {
		return nil, err
	}
	if err := s.control.PutRoute(ctx, r, in.actor()); err != nil {
		return nil, err
	}
	return reply(r), nil
}

func (s *Server) namedRoute(ctx context.Context, name string) (api.NamedRoute, error) {
	routes, err := s.control.Routes(ctx)
	if err != nil {
		return api.NamedRoute{}, err
	}
	i := slices.IndexFunc(routes, func(o api.NamedRoute) bool { return o.Name == name })
	if i < 0 {
		return api.NamedRoute{}, notFoundf("GET /api/v1/routes lists them", "there is no route %q", name)
	}
	return routes[i], nil
}
