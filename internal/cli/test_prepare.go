package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/suite"
)

// routeWithNeeds is the route with what the suite needs in other versions before it.
func (t *suiteRun) routeWithNeeds(ctx context.Context) (string, error) {
	value := t.opts.Route
	a, err := aimAt(ctx, t.client, value)
	if err != nil {
		return "", err
	}
	for _, service := range t.named() {
		if a.table.Service(service) == nil {
			return "", usagef("layover service ls lists them", "suite %s is of service %q, which the environment does not have", t.job.name, service)
		}
	}
	for _, service := range slices.Backward(slices.Sorted(maps.Keys(t.job.suite.Needs))) {
		want := t.job.suite.Needs[service].Version
		if want == "" || want == a.wanted(service) || a.route == "" && want == a.defaultOf(service) {
			continue
		}
		if value == "" {
			value = service + "@" + want
		} else {
			value = service + "@" + want + "~" + value
		}
	}
	return value, nil
}

// named are the services that the suite is to test, needs, and must reach.
func (t *suiteRun) named() []string {
	out := slices.Sorted(maps.Keys(t.job.suite.Needs))
	if t.job.suite.Service != "" {
		out = append(out, t.job.suite.Service)
	}
	for _, target := range t.job.suite.Reach {
		service, _, _ := strings.Cut(target, "@")
		out = append(out, service)
	}
	return out
}

// prepare deploys what is missing, and waits until all versions of the route are there.
func (t *suiteRun) prepare(ctx context.Context, value string) error {
	var err error
	if t.aim, err = t.aimAt(ctx, value); err != nil {
		return err
	}
	deployed := false
	for _, service := range slices.Sorted(maps.Keys(t.job.suite.Needs)) {
		need := t.job.suite.Needs[service]
		version := cmp.Or(need.Version, t.aim.wanted(service), t.aim.defaultOf(service))
		v, err := t.client.Version(ctx, service, version)
		if err == nil && v.State != api.StateStopped {
			continue
		}
		if p, ok := errors.AsType[*api.Problem](err); err != nil && (!ok || p.Code != api.CodeNotFound) {
			return err
		}
		if err := t.deploy(ctx, service, version, api.Overrides{Image: need.Image, Command: need.Command, Dir: dirOf(need.Command, t.job.suite.Dir), Env: need.Env}); err != nil {
			return err
		}
		deployed = true
	}
	for _, id := range t.needed() {
		if err := t.await(ctx, id); err != nil {
			return err
		}
	}
	if deployed {
		if t.aim, err = t.aimAt(ctx, value); err != nil {
			return err
		}
	}
	return t.checkAim()
}

// checkAim refuses a route that does not lead to what it names: the default versions would answer in its place, and the tests
// would pass without having met what they are to test. A selector without a service may match nothing where others do: it is
// part of a chain.
func (t *suiteRun) checkAim() error {
	unknown, hint := t.aim.unknown()
	r, err := route.ParseRoute(t.aim.route)
	if err == nil && len(unknown) < len(r.Selectors) {
		unknown = slices.DeleteFunc(unknown, func(s route.Selector) bool { return s.Service == "" })
	}
	if len(unknown) > 0 {
		return usagef(hint, "nothing in the environment is called %s: the default versions would be tested in its place", selectorsText(unknown))
	}
	if t.opts.Affected == "" {
		return nil
	}
	service, version, _ := strings.Cut(t.opts.Affected, "@")
	met := t.aim.defaultOf(service)
	if s := t.aim.table.Service(service); s != nil {
		met = cmp.Or(t.aim.versionOf(s), met)
	}
	if met != version {
		return usagef("layover ls shows what is there; --route says what to aim at", "route %s leads to %s@%s, not to %s", t.aim.route, service, met, t.opts.Affected)
	}
	return nil
}

func (t *suiteRun) aimAt(ctx context.Context, value string) (*aim, error) {
	return patiently(ctx, t.app, func(ctx context.Context) (*aim, error) { return aimAt(ctx, t.client, value) })
}

func dirOf(command []string, dir string) string {
	if len(command) == 0 {
		return ""
	}
	return dir
}

func (t *suiteRun) deploy(ctx context.Context, service, version string, with api.Overrides) error {
	t.app.say("%s needs %s@%s, which is not there: deploying it\n", t.job.name, service, version)
	d := api.Deployment{Overrides: with}
	who := whoOptions{Note: "needed by suite " + t.job.name}
	if err := who.put(t.app, &d); err != nil {
		return err
	}
	v, err := t.client.Deploy(ctx, service, version, d)
	if err != nil {
		return err
	}
	_, err = waitDeploy(ctx, t.app, t.client, v)
	return err
}

// needed are the versions that have to be there: those of the route, and what the suite needs besides.
func (t *suiteRun) needed() []string {
	all := t.aim.versions()
	for service, need := range t.job.suite.Needs {
		version := cmp.Or(need.Version, t.aim.wanted(service), t.aim.defaultOf(service))
		all = append(all, service+"@"+version)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// await waits until requests reach a version. One that sleeps is woken by the first of them.
func (t *suiteRun) await(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	service, version, _ := strings.Cut(id, "@")
	told := false
	for {
		v, err := t.client.Version(ctx, service, version)
		if err != nil {
			return err
		}
		switch v.State {
		case api.StateRunning, api.StateAsleep:
			return nil
		case api.StateFailed:
			return &control.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("%s has failed: %s", id, v.Reason), Hint: "layover status " + id + ", layover logs " + id}
		case api.StateStopped, api.StateStopping, api.StateRemoving:
			return &control.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("%s is %s, and the route means it", id, v.State), Hint: "start it: layover start " + id}
		case api.StateStarting:
		}
		if !told {
			told = true
			t.app.say("waiting for %s, which is starting\n", id)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", id, ctx.Err())
		}
	}
}

// under are the versions under test: that of the suite's service, where the route has one, else all of the route.
func (t *suiteRun) under() []string {
	if mine := t.mine(); mine != "" {
		return []string{mine}
	}
	if all := t.aim.versions(); len(all) > 0 || t.job.suite.Service == "" {
		return all
	}
	return []string{t.job.suite.Service + "@" + t.aim.defaultOf(t.job.suite.Service)}
}

// mine is the version of the suite's service that the route has; "" where it has none.
func (t *suiteRun) mine() string {
	for _, id := range t.aim.versions() {
		if service, _, _ := strings.Cut(id, "@"); service == t.job.suite.Service {
			return id
		}
	}
	return ""
}

// claim is what the run has to prove.
func (t *suiteRun) claim() suite.Claim {
	c := suite.Claim{Route: t.run.Route, Under: t.under(), Versions: t.aim.versions(), Fallback: t.job.suite.Fallback}
	for _, target := range t.job.suite.Reach {
		service, version, scoped := strings.Cut(target, "@")
		if !scoped {
			version = t.aim.defaultOf(service)
			if s := t.aim.table.Service(service); s != nil {
				version = cmp.Or(t.aim.versionOf(s), version)
			}
		}
		c.Reach = append(c.Reach, service+"@"+version)
	}
	return c
}
