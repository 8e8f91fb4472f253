package server

import (
	"cmp"
	"context"
	"net/http"
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
		description: "Returns the versions of all services, ordered by service and name, a page at a time. Where there are more, `next` names the last of the page: ask for what comes `after`.",
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
		summary: "Remove a version",
		description: "Takes the version's route away, drains and ends its instances, runs its teardown, and forgets it. While the teardown fails it is tried again, " +
			"and the version is `removing`; asking once more tries it at once.",
		status: http.StatusAccepted,
		errors: []int{http.StatusNotFound, http.StatusConflict},
	}, s.remove)

	for _, a := range []struct {
		name, summary, description string
		act                        action
	}{
		{"start", "Start a version", "Deploys a version that is stopped, or failed, as it was deployed last. A version that runs is left alone.", s.control.Start},
		{"stop", "Stop a version", "Takes the version's route away, drains and ends its instances. It can be started again.", s.control.Stop},
		{"restart", "Restart a version", "Deploys the version again as it was deployed last. What serves goes on serving until the new instance is healthy.", s.control.Restart},
		{"sleep", "Put a version to sleep", "Ends the version's instances, once their requests have ended, and keeps its route: the next request wakes it. Default versions do not sleep.", s.control.Sleep},
	} {
		register(s, operation{
			id: a.name + "-version", tag: tagVersions, method: http.MethodPost, path: versionPath + "/" + a.name,
			summary: a.summary, description: a.description,
			status: http.StatusAccepted,
			errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
		}, s.acting(a.act))
	}

	register(s, operation{
		id: "wake-version", tag: tagVersions, method: http.MethodPost, path: versionPath + "/wake",
		summary:     "Wake a version",
		description: "Starts a version that sleeps; proxies ask for it when a request comes. However often it is asked for, it is started once. A version that is not asleep is left alone.",
		status:      http.StatusAccepted,
		errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, s.acting(s.control.Wake))

	register(s, operation{
		id: "extend-version", tag: tagVersions, method: http.MethodPost, path: versionPath + "/extend",
		summary: "Extend the lease of a version",
		description: "Makes the lease longer, by a time or until one; by its ttl from now where the body names neither. " +
			"Activity extends a lease by itself.",
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
		body:   true,
	}, func(ctx context.Context, in *extendInput) (*answer[api.Version], error) {
		v, err := s.control.Extend(ctx, in.key(), in.Body, in.by())
		return reply(v), err
	})
}

type listVersionsInput struct {
	VersionQuery
	OwnerQuery
	Label []string `query:"label,explode" maxItems:"16" doc:"Only with this label, as NAME=VALUE. Several: only with all of them" example:"team=payments"`
	After string   `query:"after" maxLength:"127" doc:"Only versions behind this one, as service@version" example:"cart@feature-2981"`
	Limit int      `query:"limit" minimum:"1" maximum:"5000" default:"1000" doc:"How many at most"`
}

func (s *Server) listVersions(ctx context.Context, in *listVersionsInput) (*answer[api.VersionList], error) {
	labels := map[string]string{}
	for _, label := range in.Label {
		name, value, ok := strings.Cut(label, "=")
		if !ok || api.CheckLabel(name, value) != nil {
			return nil, invalidf("for example label=team=payments", "label: %s is not NAME=VALUE", quote(label))
		}
		labels[name] = value
	}
	service, version, ok := strings.Cut(in.After, "@")
	if in.After != "" && (!ok || service == "" || version == "") {
		return nil, invalidf("take it from next of the page before", "after is not service@version")
	}
	versions, next, err := s.control.VersionPage(ctx, control.Page{
		Service: in.Service, Version: in.Version,
		After: control.Key{Service: service, Version: version}, Limit: in.Limit,
		Only: func(r *control.VersionRecord) bool {
			for name, value := range labels {
				if have, ok := r.Labels[name]; !ok || have != value {
					return false
				}
			}
			return in.owns(r.Owner)
		},
	})
	if err != nil {
		return nil, err
	}
	page := api.VersionList{Items: versions, Next: next}
	if page.Items == nil {
		page.Items = []api.Version{} // an empty list is not null
	}
	return reply(page), nil
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

type removeInput struct {
	ActInput
	SkipTeardown bool `query:"skip_teardown" doc:"Give up the teardown: what the setup made may stay behind"`
}

func (s *Server) remove(ctx context.Context, in *removeInput) (*answer[api.Version], error) {
	by := in.by()
	by.SkipTeardown = in.SkipTeardown
	v, err := s.control.Remove(ctx, in.key(), by)
	return reply(v), err
}

type extendInput struct {
	ActInput
	Body api.Extension
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
