package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/suite"
)

// prove asks the receipts of the run what it reached.
func (t *suiteRun) prove(ctx context.Context, result *api.TestRun) error {
	if t.opts.NoProof {
		return nil
	}
	reached, err := t.reached(ctx)
	if err != nil {
		return err
	}
	xray, err := t.client.XRay(ctx)
	if err != nil {
		return err
	}
	claim := t.claim()
	if reached.Requests == 0 {
		if claim.Strays, err = t.strays(ctx, claim.Under); err != nil {
			return err
		}
	}
	result.Findings, t.unproved = suite.GapBetween(t.begin, reached).Doubt(suite.Prove(claim, reached, xray))
	result.Exercised = t.unproved == "" && !slices.ContainsFunc(result.Findings, func(f api.RunFinding) bool { return f.Kind == suite.NotExercised })
	for _, id := range claim.Under {
		service, _, _ := strings.Cut(id, "@")
		known, err := t.client.Endpoints(ctx, api.VersionFilter{Service: service})
		if err != nil {
			return err
		}
		result.Unreached = append(result.Unreached, suite.Unexercised(known, reached.Endpoints, []string{id})...)
	}
	result.Reached = &reached
	return nil
}

// strays are the requests to the services under test that came from no instance while the tests ran, without a route or run.
func (t *suiteRun) strays(ctx context.Context, under []string) ([]api.ReachedEdge, error) {
	found := map[string]int{}
	for _, id := range under {
		service, _, _ := strings.Cut(id, "@")
		list, err := t.client.Requests(ctx, api.HopFilter{Service: service, Limit: 1000}, 0)
		if err != nil {
			return nil, err
		}
		for _, h := range list.Items {
			if h.Time.After(t.run.Began) && h.Caller == "" && h.Run == "" && h.Route == "" {
				found[h.ID()]++
			}
		}
	}
	var out []api.ReachedEdge
	for _, id := range slices.Sorted(maps.Keys(found)) {
		service, version, _ := strings.Cut(id, "@")
		out = append(out, api.ReachedEdge{Service: service, Version: version, By: "default", Requests: found[id]})
	}
	return out, nil
}

// reached waits until all requests of the run have been told of and are known to belong to it.
func (t *suiteRun) reached(ctx context.Context) (api.Reached, error) {
	ctx, cancel := context.WithTimeout(ctx, receiptsLimit)
	defer cancel()
	var first api.Reached
	for {
		r, err := patiently(ctx, t.app, func(ctx context.Context) (api.Reached, error) { return t.client.Reached(ctx, t.run.ID) })
		if err != nil {
			return r, err
		}
		if first.Now.IsZero() || !r.Since.Equal(first.Since) { // another server has another clock
			first = r
		}
		if r.Judged.After(first.Now.Add(receiptsDelay)) {
			return r, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return r, fmt.Errorf("receipts did not come within %s: %w", receiptsLimit, ctx.Err())
		}
	}
}

const (
	receiptsDelay = 700 * time.Millisecond // proxies tell of requests several times a second
	receiptsLimit = 30 * time.Second
)
