package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/layover-dev/layover/api"
)

// replicasOf returns how many instances a deployment of r, which may be nil, gets: what it says
// itself, else what the version was scaled to, else what the service says, else one.
func replicasOf(s api.Service, r *VersionRecord, d api.Deployment, run api.Run) int {
	scaled := 0
	if r != nil && r.Desired != DesiredRemoved {
		scaled = r.Scaled
	}
	if run.Adopted() { // the number of a service or an earlier deployment is not meant for it
		scaled, s.Replicas = 0, 0
	}
	return cmp.Or(d.Replicas, scaled, s.Replicas, 1)
}

// errSameScale is returned where a version has as many instances as are wanted.
var errSameScale = errors.New("it has as many already")

// Scale gives a version another number of instances. Those it has stay, as far as they may;
// those that leave are drained. Later deployments that name no number keep it.
func (c *Control) Scale(ctx context.Context, key Key, replicas int, by By) (api.Version, error) {
	if replicas < 1 {
		return api.Version{}, invalidf("to run none: layover stop "+key.String(), "a version has 1 to %d instances, and not %d", api.MaxReplicas, replicas)
	}
	if err := c.scale(ctx, key, replicas, replicas, by); err != nil {
		return api.Version{}, err
	}
	return c.versionOrGone(ctx, key), nil
}

// scale gives a version that many instances, and notes that a person asked for it where
// scaled is not 0.
func (c *Control) scale(ctx context.Context, key Key, replicas, scaled int, by By) error {
	before := 0
	err := c.update(ctx, key, func(r *VersionRecord) (*VersionRecord, error) {
		if r == nil || r.Desired == DesiredRemoved {
			return nil, c.unknownVersion(key)
		}
		if err := r.meant(by.Branch); err != nil {
			return nil, err
		}
		last := cmp.Or(r.startable(), r.newest())
		if last == nil {
			return nil, c.unknownVersion(key)
		}
		if newest := r.newest(); newest.State == GenerationPending {
			last = newest
		}
		if err := checkReplicas(last.Run, last.Deployment.Port, replicas); err != nil {
			return nil, err
		}
		if before = len(last.slots()); before == replicas && r.Scaled == scaled {
			return nil, errSameScale
		}
		r.Scaled = scaled
		last.resize(replicas)
		// What serves while another comes up may have to serve on.
		if g := r.serving(); g != nil && checkReplicas(g.Run, g.Deployment.Port, replicas) == nil {
			g.resize(replicas)
		}
		return r, nil
	})
	if errors.Is(err, errSameScale) {
		return nil
	}
	if err != nil {
		return err
	}
	if before != replicas {
		c.note(ctx, api.Event{
			Type: api.EventVersionScaled, Service: key.Service, Version: key.Version, Actor: by.Actor,
			Message: fmt.Sprintf("%s is to have %d instances, instead of %d", key, replicas, before),
		})
	}
	c.setToWork(key, 0)
	return nil
}

// fit gives a version that runs already as many instances as its configuration file wants.
func (c *Control) fit(ctx context.Context, w Wanted) error {
	s, _ := c.service(w.Service)
	rec := c.record(w.Key)
	if rec == nil || rec.newest() == nil {
		return nil
	}
	n := replicasOf(s, rec, w.Deployment, rec.newest().Run)
	scaled := rec.Scaled
	if w.Deployment.Replicas > 0 {
		scaled = 0
	}
	return c.scale(ctx, w.Key, n, scaled, By{})
}
