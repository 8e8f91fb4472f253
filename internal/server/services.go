package server

import (
	"context"
	"net/http"
	"slices"

	"github.com/layover-dev/layover/api"
)

// ActorHeader is the input part of operations that change something.
type ActorHeader struct {
	Actor string `header:"Layover-Actor" maxLength:"1000" doc:"Who asks for it, for events and ownership. Control characters, and all behind 100 characters, are left out" example:"ada"`
}

func (a ActorHeader) actor() string { return api.CleanActor(a.Actor) }

// ServicePath is the input part of operations on one service.
type ServicePath struct {
	Service Name `path:"service" doc:"Name of the service" example:"cart"`
}

type answer[T any] struct {
	Body T
}

func reply[T any](body T) *answer[T] { return &answer[T]{Body: body} }

func listOf[T any](items []T) *answer[api.List[T]] {
	if items == nil {
		items = []T{} // an empty list is not null
	}
	return reply(api.List[T]{Items: items})
}

func (s *Server) registerServices() {
	register(s, operation{
		id: "list-services", tag: tagServices, method: http.MethodGet, path: "/api/v1/services", standby: fromStore,
		summary:     "List services",
		description: "Returns every service of the environment, ordered by name.",
	}, func(ctx context.Context, _ *struct{}) (*answer[api.List[api.Service]], error) {
		services, err := s.control.Services(ctx)
		return listOf(services), err
	})

	register(s, operation{
		id: "get-service", tag: tagServices, method: http.MethodGet, path: "/api/v1/services/{service}", standby: fromStore,
		summary:     "Get a service",
		description: "Returns one service with its template.",
		errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *ServicePath) (*answer[api.Service], error) {
		service, err := s.service(ctx, string(in.Service))
		return reply(service), err
	})

	register(s, operation{
		id: "put-service", tag: tagServices, method: http.MethodPut, path: "/api/v1/services/{service}",
		summary: "Add or replace a service",
		description: "Adds the service, or replaces it whole. Versions that run go on as they are; the next deployment of each uses the new template. " +
			"Returns the service as it is kept.",
		errors: []int{http.StatusConflict},
	}, s.putService)

	register(s, operation{
		id: "delete-service", tag: tagServices, method: http.MethodDelete, path: "/api/v1/services/{service}",
		summary:     "Remove a service",
		description: "Removes a service that has no versions any more.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *struct {
		ServicePath
		ActorHeader
	},
	) (*struct{}, error) {
		return nil, s.control.RemoveService(ctx, string(in.Service), in.actor())
	})
}

type putServiceInput struct {
	ServicePath
	Body api.Service
}

func (s *Server) putService(ctx context.Context, in *putServiceInput) (*answer[api.Service], error) {
	service := in.Body
	if err := sameName(&service.Name, in.Service); err != nil {
		return nil, err
	}
	if err := s.control.PutService(ctx, service); err != nil {
		return nil, err
	}
	kept, err := s.service(ctx, service.Name)
	return reply(kept), err
}

func (s *Server) service(ctx context.Context, name string) (api.Service, error) {
	services, err := s.control.Services(ctx)
	if err != nil {
		return api.Service{}, err
	}
	i := slices.IndexFunc(services, func(o api.Service) bool { return o.Name == name })
	if i < 0 {
		return api.Service{}, notFoundf("GET /api/v1/services lists them", "there is no service %q", name)
	}
	return services[i], nil
}

// sameName fills in the name that the path has, and refuses a body that has another.
func sameName(inBody *string, inPath Name) error {
	if *inBody == "" {
		*inBody = string(inPath)
	}
	if *inBody != string(inPath) {
		return invalidf("leave the name out of the body", "the path names %q, and the body %q", inPath, *inBody)
	}
	return nil
}
