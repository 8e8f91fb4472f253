package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// BeginRun stores that a suite runs, and returns the run with its ID. It counts as lost after most; 0 stands for two hours.
func (c *Client) BeginRun(ctx context.Context, r TestRun, most time.Duration) (TestRun, error) {
	var out TestRun
	return out, c.do(ctx, call{method: http.MethodPost, path: []string{"runs"}, body: map[string]any{
		"id": r.ID, "suite": r.Suite, "ref": r.Ref, "route": r.Route, "versions": orNone(r.Versions), "owners": orNone(r.Owners),
		"repository": r.Repository, "origin": r.Origin, "repeats": r.Repeats, "for": Duration(most),
	}}, &out)
}

// EndRun stores the result of a run.
func (c *Client) EndRun(ctx context.Context, r TestRun) (TestRun, error) {
	var out TestRun
	return out, c.do(ctx, call{method: http.MethodPut, path: []string{"runs", r.ID, "result"}, body: map[string]any{
		"status": r.Status, "reason": r.Reason, "versions": orNone(r.Versions), "exercised": r.Exercised, "extra_runs": r.ExtraRuns,
		"cases": orNone(r.Cases), "omitted": r.Omitted, "findings": orNone(r.Findings), "unreached": orNone(r.Unreached),
	}}, &out)
}

// orNone is a list that is [] as JSON where it is empty.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// TestRun returns a run with all that is known of it.
func (c *Client) TestRun(ctx context.Context, id string) (TestRun, error) {
	var out TestRun
	return out, c.do(ctx, call{method: http.MethodGet, path: []string{"runs", id}}, &out)
}

// TestRuns returns the newest runs that a filter selects, the newest first, without their tests.
func (c *Client) TestRuns(ctx context.Context, f TestRunFilter) ([]TestRun, error) {
	query := url.Values{}
	for name, value := range map[string]string{
		"suite": f.Suite, "route": f.Route, "version": f.Version, "status": string(f.Status),
		"before": strconv.FormatInt(f.Before, 10), "limit": strconv.Itoa(f.Limit),
	} {
		if value != "" && value != "0" {
			query.Set(name, value)
		}
	}
	var out List[TestRun]
	return out.Items, c.do(ctx, call{method: http.MethodGet, path: []string{"runs"}, query: query}, &out)
}

// TestHistory returns how the tests of a suite went in its last runs.
func (c *Client) TestHistory(ctx context.Context, suite string) ([]TestHistory, error) {
	var out List[TestHistory]
	return out.Items, c.do(ctx, call{method: http.MethodGet, path: []string{"tests"}, query: url.Values{"suite": {suite}}}, &out)
}

// Suites returns the shared suites; where a service is given, those that touch it.
func (c *Client) Suites(ctx context.Context, service string) ([]Suite, error) {
	query := url.Values{}
	if service != "" {
		query.Set("service", service)
	}
	var out List[Suite]
	return out.Items, c.do(ctx, call{method: http.MethodGet, path: []string{"suites"}, query: query}, &out)
}

// PublishSuite makes a version of a suite known; with replace also where its ref names another commit now.
func (c *Client) PublishSuite(ctx context.Context, s Suite, replace bool) (Suite, error) {
	var out Suite
	return out, c.do(ctx, call{method: http.MethodPut, path: []string{"suites", s.Name}, query: url.Values{"ref": {s.Ref}}, body: map[string]any{
		"repository": s.Repository, "commit": s.Commit, "file": s.File, "services": orNone(s.Services), "owners": orNone(s.Owners), "note": s.Note, "replace": replace,
	}}, &out)
}

// UnpublishSuite forgets a version of a suite.
func (c *Client) UnpublishSuite(ctx context.Context, name, ref string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"suites", name}, query: url.Values{"ref": {ref}}}, nil)
}

// RenameSuite gives what is known of a suite's tests another name.
func (c *Client) RenameSuite(ctx context.Context, from, to string) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"suites", from, "rename"}, body: map[string]any{"to": to}}, nil)
}

// Touches returns which services the runs of each suite reached.
func (c *Client) Touches(ctx context.Context) (map[string][]TouchedByTest, error) {
	out := map[string][]TouchedByTest{}
	return out, c.do(ctx, call{method: http.MethodGet, path: []string{"touches"}}, &out)
}
