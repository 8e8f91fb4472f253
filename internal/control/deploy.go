package control

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
	"github.com/layover-dev/layover/internal/route"
)

// Deploy asks for a version to run as d says. It returns when the wish is
// recorded; the events of the returned generation tell how it goes. A deployment of
// the same version that is still under way is superseded.
func (c *Control) Deploy(ctx context.Context, key Key, d api.Deployment) (api.Version, error) {
	return c.deploy(ctx, key, d, c.checkQuota)
}

// deploy is Deploy, where room says whether there is room for the version.
func (c *Control) deploy(ctx context.Context, key Key, d api.Deployment, room func(before, next *VersionRecord) error) (api.Version, error) {
	s, err := c.deployable(key, d)
	if err != nil {
		return api.Version{}, err
	}
	run, env, err := resolve(s, d)
	if err != nil {
		return api.Version{}, err
	}
	if err := c.checkProxy(key, run, env); err != nil {
		return api.Version{}, err
	}
	hooks, err := c.resolveHooks(key, s, d, run)
	if err != nil {
		return api.Version{}, err
	}
	before := c.record(key)
	v, err := c.begin(ctx, key, d.Owner, "", room, func(r *VersionRecord) (Generation, error) {
		if err := r.takeBranch(d.Branch); err != nil {
			return Generation{}, err
		}
		if err := r.takeWho(d); err != nil {
			return Generation{}, err
		}
		if r.Desired == DesiredRemoved {
			r.Lease = Lease{} // a new life
		}
		r.Lease.take(d)
		g := Generation{Deployment: d, Run: run, Env: env, Setup: hooks.setup, Teardown: hooks.teardown}
		n := replicasOf(s, r, d, run)
		if err := checkReplicas(run, d.Port, n); err != nil {
			return Generation{}, err
		}
		g.resize(n)
		if d.Replicas > 0 || r.Desired == DesiredRemoved {
			r.Scaled = 0
		}
		return g, nil
	})
	if err == nil && d.Owner != "" {
		c.noteOverruled(ctx, before, d.Owner, "deployed anew")
	}
	return v, err
}

// By says who acts on a version, and on whose.
type By struct {
	Actor string // for events
	// Branch is the Git branch whose version is meant: that of another branch is refused. ""
	// means the version of the name, whoever's it is.
	Branch string
	// SkipTeardown gives up the teardown of a version that is removed.
	SkipTeardown bool

	why string // what it is done for, where no person wants it
}

// Start deploys a stopped or failed version once more, as it was. A version that runs is left alone.
func (c *Control) Start(ctx context.Context, key Key, by By) (api.Version, error) {
	if rec := c.record(key); rec != nil {
		if err := rec.meant(by.Branch); err != nil {
			return api.Version{}, err
		}
	}
	v, err := c.Version(ctx, key)
	switch {
	case err != nil, v.State == api.StateRunning, v.State == api.StateStarting:
		return v, err
	case v.State == api.StateAsleep:
		return c.Wake(ctx, key, by)
	}
	return c.again(ctx, key, by)
}

// Restart starts a new instance of what the version runs, and lets go of the
// one before once it is healthy.
func (c *Control) Restart(ctx context.Context, key Key, by By) (api.Version, error) {
	if _, err := c.Version(ctx, key); err != nil {
		return api.Version{}, err
	}
	before := c.record(key)
	v, err := c.again(ctx, key, by)
	if err == nil {
		c.noteOverruled(ctx, before, by.Actor, "restarted")
	}
	return v, err
}

// Stop takes the version out of the table, drains it and ends its instances. Its record stays.
func (c *Control) Stop(ctx context.Context, key Key, by By) (api.Version, error) {
	return c.end(ctx, key, by, DesiredStopped, "stopped")
}

// Remove stops the version and deletes its record.
func (c *Control) Remove(ctx context.Context, key Key, by By) (api.Version, error) {
	return c.end(ctx, key, by, DesiredRemoved, "removed")
}

// deployable returns the service that key names, or an error that says what is wrong with d.
func (c *Control) deployable(key Key, d api.Deployment) (api.Service, error) {
	if err := route.CheckName("version", key.Version); err != nil {
		return api.Service{}, invalidf(fmt.Sprintf("a valid name would be %q", route.NameOf(key.Version)), "%s", err)
	}
	if err := d.CheckWho(); err != nil {
		return api.Service{}, invalidf("", "%s", err)
	}
	s, ok := c.service(key.Service)
	if !ok {
		return api.Service{}, c.unknownService(key.Service)
	}
	return s, nil
}

// again makes a new generation of what the version ran last.
func (c *Control) again(ctx context.Context, key Key, by By) (api.Version, error) {
	return c.begin(ctx, key, by.Actor, "again: ", c.checkQuota, func(r *VersionRecord) (Generation, error) {
		if err := r.meant(by.Branch); err != nil {
			return Generation{}, err
		}
		last := r.startable()
		if last == nil {
			return Generation{}, c.unknownVersion(key)
		}
		return last.repeat(len(last.slots())), nil
	})
}

// begin records a new generation, as make returns it, where there is room for it, and sets the
// keeper to work.
func (c *Control) begin(
	ctx context.Context, key Key, actor, how string,
	room func(before, next *VersionRecord) error, make func(*VersionRecord) (Generation, error),
) (api.Version, error) {
	var superseded, number int64
	var like string
	err := c.update(ctx, key, func(r *VersionRecord) (*VersionRecord, error) {
		if _, ok := c.service(key.Service); !ok { // removed since it was looked up
			return nil, c.unknownService(key.Service)
		}
		if r == nil {
			r = &VersionRecord{Key: key, CreatedAt: time.Now().UTC()}
		}
		if err := r.beginAnew(); err != nil {
			return nil, err
		}
		g, err := make(r)
		if err != nil {
			return nil, err
		}
		g.FromSleep = r.Desired == DesiredAsleep
		if last := r.newest(); last != nil && last.State == GenerationPending {
			superseded, g.FromSleep = last.Number, last.FromSleep
		}
		g.State, g.At = GenerationPending, time.Now().UTC()
		r.append(g)
		r.takeHooks()
		r.Lease.ActiveAt = g.At
		r.Desired = DesiredRunning
		number, like = r.newest().Number, r.newest().described()
		return r, room(c.record(key), r)
	})
	if err != nil {
		return api.Version{}, err
	}
	failpoint.Pass(failpoint.DeployRecorded)
	c.noteSuperseded(ctx, key, superseded, actor)
	c.note(ctx, api.Event{
		Type: api.EventDeployStarted, Service: key.Service, Version: key.Version, Generation: number, Actor: actor,
		Message: fmt.Sprintf("%sdeploying %s (generation %d%s)", how, key, number, like),
	})
	failpoint.Pass(failpoint.DeployBegun)
	c.changed(ctx) // requests for it are held from here on
	v := c.versionOrGone(ctx, key)
	v.Generation = number // also where a later one is recorded already
	c.setToWork(key, number)
	return v, nil
}

// setToWork wakes the keeper of a version for which something else is wanted now. The
// beginning of the generations up to told is among the events.
func (c *Control) setToWork(key Key, told int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.keepers[key]; k != nil {
		k.told = max(k.told, told)
		k.look()
	}
}

// versionOrGone returns the version, as a stopped one where it is removed by now.
func (c *Control) versionOrGone(ctx context.Context, key Key) api.Version {
	v, err := c.Version(ctx, key)
	if err != nil {
		return api.Version{Service: key.Service, Name: key.Version, State: api.StateStopped}
	}
	return v
}

// end records that the version is to stop or to go, and sets its keeper to work.
func (c *Control) end(ctx context.Context, key Key, by By, want Desired, did string) (api.Version, error) {
	c.mu.Lock()
	if k := c.keepers[key]; k != nil {
		k.halting = &halt{actor: by.Actor, why: by.why} // before the keeper can see the wish
	}
	c.mu.Unlock()
	var superseded int64
	before := c.record(key)
	err := c.update(ctx, key, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil {
			return nil, c.unknownVersion(key)
		}
		if err := r.meant(by.Branch); err != nil {
			return nil, err
		}
		c.mu.Lock()
		if k := c.keepers[key]; k != nil {
			k.halting = &halt{actor: by.Actor, why: by.why} // before the keeper can see the wish
		}
		c.mu.Unlock()
		if last := r.newest(); last != nil && last.State == GenerationPending {
			superseded = last.Number
		}
		if r.Desired != DesiredRemoved {
			r.Desired = want
		}
		r.supersede()
		r.teardownAgain(by.SkipTeardown)
		return r, nil
	})
	if err != nil {
		return api.Version{}, err
	}
	failpoint.Pass(failpoint.EndRecorded)
	c.noteOverruled(ctx, before, by.Actor, did)
	c.noteSuperseded(ctx, key, superseded, by.Actor)
	c.changed(ctx) // no new requests from here on
	failpoint.Pass(failpoint.EndPublished)
	v := c.versionOrGone(ctx, key)
	c.setToWork(key, 0)
	return v, nil
}

func (c *Control) noteSuperseded(ctx context.Context, key Key, generation int64, actor string) {
	if generation == 0 {
		return
	}
	c.note(ctx, api.Event{
		Type: api.EventDeploySuperseded, Service: key.Service, Version: key.Version, Generation: generation, Actor: actor,
		Message: fmt.Sprintf("generation %d of %s gives way to a later wish", generation, key),
	})
}

// Wanted is a version as a configuration file declares it.
type Wanted struct {
	Key
	Deployment api.Deployment
}

// Apply makes the environment hold the services, named routes and versions of a
// configuration file. What the file does not name is left alone. A version is
// deployed anew only where it does not run, or the file changed what it runs.
func (c *Control) Apply(ctx context.Context, services []api.Service, routes []api.NamedRoute, versions []Wanted) error {
	if err := c.PutServices(ctx, services); err != nil {
		return err
	}
	if err := c.putRoutes(ctx, routes, "file"); err != nil {
		return err
	}
	for _, w := range versions {
		same, err := c.runsAlready(w)
		if err != nil {
			return err
		}
		if same {
			if err := c.fit(ctx, w); err != nil {
				return err
			}
			continue
		}
		if c.deployLater(w) {
			continue
		}
		if _, err := c.deploy(ctx, w.Key, w.Deployment, func(_, _ *VersionRecord) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// runsAlready says whether what the version runs, or is about to, is what w wants.
func (c *Control) runsAlready(w Wanted) (bool, error) {
	s, err := c.deployable(w.Key, w.Deployment)
	if err != nil {
		return false, err
	}
	run, env, err := resolve(s, w.Deployment)
	if err != nil {
		return false, err
	}
	hooks, err := c.resolveHooks(w.Key, s, w.Deployment, run)
	if err != nil {
		return false, err
	}
	rec := c.record(w.Key)
	if rec == nil || rec.Desired != DesiredRunning && rec.Desired != DesiredAsleep {
		return false, nil
	}
	g := rec.newest()
	return g != nil && g.State != GenerationFailed && reflect.DeepEqual(g.Run, run) && hooks.same(g) &&
		maps.Equal(g.Env, env) && g.Deployment.Port == w.Deployment.Port, nil
}

func (c *Control) unknownService(name string) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unknownServiceLocked(name)
}

func (c *Control) unknownServiceLocked(name string) *Error {
	hint := "no service is known yet: name it in layover.yaml"
	if len(c.services) > 0 {
		hint = "known are " + firstNames(slices.Sorted(maps.Keys(c.services)), "layover service ls")
	}
	return notFoundf(hint, "there is no service %q", name)
}

func (c *Control) unknownVersion(key Key) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unknownVersionLocked(key)
}

func (c *Control) unknownVersionLocked(key Key) *Error {
	if _, ok := c.services[key.Service]; !ok {
		return c.unknownServiceLocked(key.Service)
	}
	var names []string
	for k := range c.records {
		if k.Service == key.Service {
			names = append(names, k.Version)
		}
	}
	slices.Sort(names)
	hint := "deploy it with: layover deploy " + key.String()
	if len(names) > 0 {
		hint = key.Service + " has " + firstNames(names, "layover ls --service "+key.Service)
	}
	if near := c.Table().DidYouMean(key.String(), 3); len(near) > 0 && near[0] != key.String() {
		hint = "did you mean " + strings.Join(near, ", ") + "? " + hint
	}
	return notFoundf(hint, "there is no version %s", key)
}

// firstNames lists names for a hint; where there are many, the first and how to see all.
func firstNames(names []string, all string) string {
	const most = 10
	text := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more: %s", len(names)-most, all)
	}
	return text
}
