package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Services returns all services, ordered by name.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	var out List[Service]
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"services"}}, &out)
	return out.Items, err
}

// Service returns one service.
func (c *Client) Service(ctx context.Context, name string) (Service, error) {
	var out Service
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"services", name}}, &out)
	return out, err
}

// PutService adds s, or replaces the service of that name, and returns it as it is kept.
func (c *Client) PutService(ctx context.Context, s Service) (Service, error) {
	var out Service
	err := c.do(ctx, call{method: http.MethodPut, path: []string{"services", s.Name}, body: s}, &out)
	return out, err
}

// RemoveService removes a service with its versions.
func (c *Client) RemoveService(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"services", name}}, nil)
}

// VersionFilter selects versions. An empty field selects all.
type VersionFilter struct {
	Service string
	Version string
	Owner   string            // see [SameOwner]
	Labels  map[string]string // all of them
}

// Versions returns the versions that the filter selects, ordered by service and name.
func (c *Client) Versions(ctx context.Context, f VersionFilter) ([]Version, error) {
	all := []Version{}
	for after := ""; ; {
		page, err := c.VersionPage(ctx, f, after, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if after = page.Next; after == "" {
			return all, nil
		}
	}
}

// VersionPage returns a page of the versions that the filter selects: those behind the
// one that after names ("" for the first page), limit at most; 0 means [DefaultVersionPage].
func (c *Client) VersionPage(ctx context.Context, f VersionFilter, after string, limit int) (VersionList, error) {
	q := f.query()
	setIf(q, "after", after)
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out VersionList
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"versions"}, query: q}, &out)
	return out, err
}

// Version returns one version.
func (c *Client) Version(ctx context.Context, service, version string) (Version, error) {
	var out Version
	err := c.do(ctx, call{method: http.MethodGet, path: versionPath(service, version)}, &out)
	return out, err
}

// Deploy asks for a version to run, and returns as soon as the server has
// recorded that. The version's Generation names this deployment; see [Client.WaitDeploy].
func (c *Client) Deploy(ctx context.Context, service, version string, d Deployment) (Version, error) {
	var out Version
	err := c.do(ctx, call{method: http.MethodPut, path: versionPath(service, version), body: d}, &out)
	return out, err
}

// Start starts a version that was stopped, or that failed, as it was last
// deployed. It is a deployment of its own, with a new generation.
//
// Here and below, branch is the Git branch whose version is meant: the server refuses to touch
// that of another branch that comes out as the same name. Empty, it means the version of that
// name, whoever's it is.
func (c *Client) Start(ctx context.Context, service, version, branch string) (Version, error) {
	return c.act(ctx, service, version, branch, "start")
}

// Stop takes the version's route away, drains its instances and ends them. It
// returns as soon as the server has recorded that.
func (c *Client) Stop(ctx context.Context, service, version, branch string) (Version, error) {
	return c.act(ctx, service, version, branch, "stop")
}

// Restart deploys a version again as it was last deployed.
func (c *Client) Restart(ctx context.Context, service, version, branch string) (Version, error) {
	return c.act(ctx, service, version, branch, "restart")
}

// Rollback deploys an earlier generation of a version again, as a new one: number to, or
// with 0 the newest that served besides the one that does now.
func (c *Client) Rollback(ctx context.Context, service, version, branch string, to int64) (Version, error) {
	var out Version
	path := append(versionPath(service, version), "rollback")
	err := c.do(ctx, call{method: http.MethodPost, path: path, query: branchQuery(branch), body: Rollback{To: to}}, &out)
	return out, err
}

// Scale gives a version another number of instances. It returns as soon as the server has
// recorded that.
func (c *Client) Scale(ctx context.Context, service, version, branch string, replicas int) (Version, error) {
	var out Version
	path := append(versionPath(service, version), "scale")
	err := c.do(ctx, call{method: http.MethodPost, path: path, query: branchQuery(branch), body: Scale{Replicas: replicas}}, &out)
	return out, err
}

// History returns the generations of a version that are kept, newest first.
func (c *Client) History(ctx context.Context, service, version string) ([]Generation, error) {
	var out List[Generation]
	path := append(versionPath(service, version), "generations")
	err := c.do(ctx, call{method: http.MethodGet, path: path}, &out)
	return out.Items, err
}

// Sleep ends the version's instances, once their requests have ended, and keeps its route:
// the next request wakes it. It returns as soon as the server has recorded that.
func (c *Client) Sleep(ctx context.Context, service, version, branch string) (Version, error) {
	return c.act(ctx, service, version, branch, "sleep")
}

// Wake starts a version that sleeps. It returns as soon as the server has recorded that.
func (c *Client) Wake(ctx context.Context, service, version, branch string) (Version, error) {
	return c.act(ctx, service, version, branch, "wake")
}

// Extend makes the lease of a version longer.
func (c *Client) Extend(ctx context.Context, service, version, branch string, e Extension) (Version, error) {
	var out Version
	err := c.do(ctx, call{method: http.MethodPost, path: append(versionPath(service, version), "extend"), query: branchQuery(branch), body: e}, &out)
	return out, err
}

// Remove stops a version and forgets it.
func (c *Client) Remove(ctx context.Context, service, version, branch string) (Version, error) {
	var out Version
	err := c.do(ctx, call{method: http.MethodDelete, path: versionPath(service, version), query: branchQuery(branch)}, &out)
	return out, err
}

// RemoveWithoutTeardown removes a version as [Client.Remove] does, and gives up its teardown: what
// its setup made may stay behind.
func (c *Client) RemoveWithoutTeardown(ctx context.Context, service, version, branch string) (Version, error) {
	var out Version
	query := branchQuery(branch)
	query.Set("skip_teardown", "true")
	err := c.do(ctx, call{method: http.MethodDelete, path: versionPath(service, version), query: query}, &out)
	return out, err
}

// Drift returns in what the runtimes differ from what the store wants of the versions that
// the filter selects.
func (c *Client) Drift(ctx context.Context, f VersionFilter) ([]Drift, error) {
	var out List[Drift]
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"drift"}, query: f.query()}, &out)
	return out.Items, err
}

// Collect removes what the runtimes have and nobody wants, or with dryRun only says what that is.
func (c *Client) Collect(ctx context.Context, dryRun bool) ([]Drift, error) {
	var out List[Drift]
	query := url.Values{"dry_run": {strconv.FormatBool(dryRun)}}
	err := c.do(ctx, call{method: http.MethodPost, path: []string{"gc"}, query: query}, &out)
	return out.Items, err
}

// Routes returns all named routes, ordered by name.
func (c *Client) Routes(ctx context.Context) ([]NamedRoute, error) {
	var out List[NamedRoute]
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"routes"}}, &out)
	return out.Items, err
}

// Route returns one named route.
func (c *Client) Route(ctx context.Context, name string) (NamedRoute, error) {
	var out NamedRoute
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"routes", name}}, &out)
	return out, err
}

// PutRoute adds r, or replaces the named route of that name.
func (c *Client) PutRoute(ctx context.Context, r NamedRoute) (NamedRoute, error) {
	var out NamedRoute
	if r.Picks == nil {
		r.Picks = map[string]string{} // null is not an object
	}
	err := c.do(ctx, call{method: http.MethodPut, path: []string{"routes", r.Name}, body: r}, &out)
	return out, err
}

// RemoveRoute removes a named route.
func (c *Client) RemoveRoute(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"routes", name}}, nil)
}

// Proxies returns the stand-alone proxies that report to the server, ordered by ID.
func (c *Client) Proxies(ctx context.Context) ([]Proxy, error) {
	var out List[Proxy]
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"proxies"}}, &out)
	return out.Items, err
}

// ReportProxy tells the server about a proxy. Of r.Requests those versions may be left out
// whose number is as in the report before; the whole report may have 1 MiB as JSON.
func (c *Client) ReportProxy(ctx context.Context, r ProxyReport) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"proxies", r.ID}, body: r}, nil)
}

// Explain says how a request would be routed, and by which rules.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	var out Explanation
	err := c.do(ctx, call{method: http.MethodPost, path: []string{"explain"}, body: r}, &out)
	return out, err
}

// Table returns the routing table in force.
func (c *Client) Table(ctx context.Context) (*Table, error) {
	out := &Table{}
	if err := c.do(ctx, call{method: http.MethodGet, path: []string{"table"}, limit: maxTable}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// EventFilter selects a part of the event log. An empty Service, Version, Owner or
// Since selects all.
type EventFilter struct {
	After   int64 // only events with an ID above it; see also [FromNow]
	Limit   int   // at most so many: 1 to 1000; 0 means 100. FollowEvents has no limit
	Service string
	Version string
	Owner   string // only of versions that were theirs then; see [SameOwner]
	Since   time.Time
}

// maxPage is the most events that one answer has.
const maxPage = 1000

// FromNow as EventFilter.After follows only what happens from now on.
const FromNow = -1

// Events returns a part of the event log, oldest first.
func (c *Client) Events(ctx context.Context, f EventFilter) (EventList, error) {
	var out EventList
	q := f.query()
	if f.Limit != 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"events"}, query: q}, &out)
	return out, err
}

// LastEvent returns the ID of the newest event, 0 where there is none.
func (c *Client) LastEvent(ctx context.Context) (int64, error) {
	var out EventList
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"events"}, query: url.Values{"limit": {"0"}}}, &out)
	return out.Last, err
}

// Environment describes the environment that the server owns.
func (c *Client) Environment(ctx context.Context) (Environment, error) {
	var out Environment
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"environment"}}, &out)
	return out, err
}

// ServerBuild says what the server was built from.
func (c *Client) ServerBuild(ctx context.Context) (Build, error) {
	var out Build
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"version"}}, &out)
	return out, err
}

func (c *Client) act(ctx context.Context, service, version, branch, action string) (Version, error) {
	var out Version
	err := c.do(ctx, call{method: http.MethodPost, path: append(versionPath(service, version), action), query: branchQuery(branch)}, &out)
	return out, err
}

func branchQuery(branch string) url.Values {
	q := url.Values{}
	setIf(q, "branch", branch)
	return q
}

func versionPath(service, version string) []string {
	return []string{"services", service, "versions", version}
}

func (f VersionFilter) query() url.Values {
	q := url.Values{}
	setIf(q, "service", f.Service)
	setIf(q, "version", f.Version)
	setIf(q, "owner", f.Owner)
	for name, value := range f.Labels {
		q.Add("label", name+"="+value)
	}
	return q
}

func (f EventFilter) query() url.Values {
	q := url.Values{}
	setIf(q, "service", f.Service)
	setIf(q, "version", f.Version)
	setIf(q, "owner", f.Owner)
	if !f.Since.IsZero() {
		q.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if f.After != 0 {
		q.Set("after", strconv.FormatInt(f.After, 10))
	}
	return q
}

func setIf(q url.Values, key, value string) {
	if value != "" {
		q.Set(key, value)
	}
}
