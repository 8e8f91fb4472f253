package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// VersionPath is the input part of operations on one version.
type VersionPath struct {
	Service Name `path:"service" doc:"Name of the service" example:"cart"`
	Version Name `path:"version" doc:"Name of the version" example:"feature-2981"`
}

func (p VersionPath) key() control.Key {
	return control.Key{Service: string(p.Service), Version: string(p.Version)}
}

// OwnerQuery selects what belongs to somebody.
type OwnerQuery struct {
	Owner string `query:"owner" maxLength:"255" doc:"Only of versions of this owner; upper and lower case are the same" example:"ana"`
}

func (q OwnerQuery) owns(owner string) bool { return q.Owner == "" || api.SameOwner(q.Owner, owner) }

// VersionQuery selects versions, or what concerns them.
type VersionQuery struct {
	Service string `query:"service" maxLength:"63" doc:"Only of this service" example:"cart"`
	Version string `query:"version" maxLength:"63" doc:"Only of versions with this name" example:"feature-2981"`
}

func (q VersionQuery) selects(service, version string) bool {
	return (q.Service == "" || q.Service == service) && (q.Version == "" || q.Version == version)
}

func (s *Server) registerVersions() {
	register(s, operation{
		id: "list-versions", tag: tagVersions, method: http.MethodGet, path: "/api/v1/versions",
		summary:     "List versions",
		description: "Returns the versions of all services, ordered by service and name.",
	}, s.listVersions)

	register(s, operation{
		id: "get-version", tag: tagVersions, method: http.MethodGet, path: versionPath,
		summary:     "Get a version",
		description: "Returns one version as it is now: its state and why, its instances and their health.",
		errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *VersionPath) (*answer[api.Version], error) {
		v, err := s.control.Version(ctx, in.key())
		return reply(v), err
	})

	register(s, operation{
		id: "deploy-version", tag: tagVersions, method: http.MethodPut, path: versionPath,
		summary: "Deploy a version",
		description: "Asks for the version to run: the template of its service, with what the body changes. What serves now goes on serving " +
			"until the new generation is healthy, and for good where it does not become healthy. A deployment of the same version that is still under way is superseded. " +
			"The answer's `generation` names this deployment; the events with that generation tell how it goes.",
		status: http.StatusAccepted,
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, s.deploy)

	register(s, operation{
		id: "delete-version", tag: tagVersions, method: http.MethodDelete, path: versionPath,
		summary:     "Remove a version",
		description: "Takes the version's route away, drains and ends its instances, and forgets it.",
		status:      http.StatusAccepted,
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, s.acting(s.control.Remove))

	for _, a := range []struct {
		name, summary, description string
		act                        action
	}{
		{"start", "Start a version", "Deploys a version that is stopped, or failed, as it was deployed last. A version that runs is left alone.", s.control.Start},
		{"stop", "Stop a version", "Takes the version's route away, drains and ends its instances. It can be started again.", s.control.Stop},
		{"restart", "Restart a version", "Deploys the version again as it was deployed last. What serves goes on serving until the new instance is healthy.", s.control.Restart},
	} {
		register(s, operation{
			id: a.name + "-version", tag: tagVersions, method: http.MethodPost, path: versionPath + "/" + a.name,
			summary: a.summary, description: a.description,
			status: http.StatusAccepted,
			errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
		}, s.acting(a.act))
	}
}

type listVersionsInput struct {
	VersionQuery
	OwnerQuery
	Label []string `query:"label,explode" maxItems:"16" doc:"Only with this label, as NAME=VALUE. Several: only with all of them" example:"team=payments"`
}

func (s *Server) listVersions(ctx context.Context, in *listVersionsInput) (*answer[api.List[api.Version]], error) {
	labels := map[string]string{}
	for _, label := range in.Label {
		name, value, ok := strings.Cut(label, "=")
		if !ok || api.CheckLabel(name, value) != nil {
			return nil, invalidf("for example label=team=payments", "label: %s is not NAME=VALUE", quote(label))
		}
		labels[name] = value
	}
	versions, err := s.control.Versions(ctx)
	versions = slices.DeleteFunc(slices.Clone(versions), func(v api.Version) bool {
		if !in.selects(v.Service, v.Name) || !in.owns(v.Owner) {
			return true
		}
		for name, value := range labels {
			if have, ok := v.Labels[name]; !ok || have != value {
				return true
			}
		}
		return false
	})
	return listOf(versions), err
}

const versionPath = "/api/v1/services/{service}/versions/{version}"

type action = func(ctx context.Context, key control.Key, by control.By) (api.Version, error)

// ActInput is the input part of operations that act on a version.
type ActInput struct {
	VersionPath
	ActorHeader
	Branch string `query:"branch" maxLength:"255" doc:"The Git branch whose version is meant. Where the version is another branch's that comes out as the same name, the answer is 409" example:"feature/2981"`
}

func (in *ActInput) by() control.By { return control.By{Actor: in.actor(), Branch: in.Branch} }

func (s *Server) acting(act action) func(context.Context, *ActInput) (*answer[api.Version], error) {
	return func(ctx context.Context, in *ActInput) (*answer[api.Version], error) {
		v, err := act(ctx, in.key(), in.by())
		return reply(v), err
	}
}

type deployInput struct {
	VersionPath
	ActorHeader
	Body *api.Deployment // may be left out: the template alone
}

func (s *Server) deploy(ctx context.Context, in *deployInput) (*answer[api.Version], error) {
	var d api.Deployment
	if in.Body != nil {
		d = *in.Body
	}
	d.Owner = cmp.Or(d.Owner, in.actor())
	d.Source = cmp.Or(d.Source, "api")
	v, err := s.control.Deploy(ctx, in.key(), d)
	return reply(v), err
}
