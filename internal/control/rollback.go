package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/layover-dev/layover/api"
)

// repeat returns a new generation that runs what g does, with that many instances.
func (g *Generation) repeat(replicas int) Generation {
	next := Generation{Deployment: g.Deployment, Run: g.Run, Env: maps.Clone(g.Env), Setup: g.Setup, Teardown: g.Teardown, Again: g.Number}
	next.resize(replicas)
	return next
}

// History returns the generations of a version that are kept, newest first.
func (c *Control) History(_ context.Context, key Key) ([]api.Generation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec, ok := c.records[key]
	if !ok {
		return nil, c.unknownVersionLocked(key)
	}
	return rec.history(), nil
}

// history returns the generations that are kept, newest first.
func (r *VersionRecord) history() []api.Generation {
	out := make([]api.Generation, 0, len(r.Generations))
	for _, g := range slices.Backward(r.Generations) {
		out = append(out, api.Generation{
			Number: g.Number, State: api.GenerationState(g.State), Served: g.Served, Reason: g.Reason, Again: g.Again,
			Runtime: g.Run.Runtime(), Run: g.Run, EnvNames: slices.Sorted(maps.Keys(g.Env)), Replicas: len(g.slots()),
			Owner: g.Deployment.Owner, Source: g.Deployment.Source, At: g.At,
		})
	}
	return out
}

// Rollback deploys an earlier generation of a version again, as a new one. to is the number
// of one that served; 0 stands for the newest that served besides the one that does now.
func (c *Control) Rollback(ctx context.Context, key Key, to int64, by By) (api.Version, error) {
	before := c.record(key)
	if before == nil {
		return api.Version{}, c.unknownVersion(key)
	}
	v, err := c.begin(ctx, key, by.Actor, "rollback: ", c.checkQuota, func(r *VersionRecord) (Generation, error) {
		if err := r.meant(by.Branch); err != nil {
			return Generation{}, err
		}
		g, err := r.rollbackTo(to)
		if err != nil {
			return Generation{}, err
		}
		return g.repeat(r.replicasLike(g)), nil
	})
	if err == nil {
		c.noteOverruled(ctx, before, by.Actor, "rolled back")
	}
	return v, err
}

// rollbackTo returns the generation with that number, or with 0 the one before what serves or
// served last, where it came up once.
func (r *VersionRecord) rollbackTo(number int64) (*Generation, error) {
	again := "see: layover history " + r.String()
	if number == 0 {
		current := r.lastServed()
		if number = r.servedBefore(current); number == 0 {
			return nil, conflictf(again, "%s has no other generation that came up: there is nothing to go back to", r.Key)
		}
	}
	g := r.generation(number)
	hint := again
	if good := r.servedNumbers(); good != "" {
		hint = "those that did are " + good + "; " + again
	}
	switch {
	case g == nil:
		return nil, notFoundf(hint, "the history of %s has no generation %d; it goes back %d generations", r.Key, number, keptGenerations)
	case !g.Served:
		return nil, conflictf(hint, "generation %d of %s never came up", number, r.Key)
	}
	return g, nil
}

// replicasLike returns how many instances a repetition of g gets: as many as there are now.
func (r *VersionRecord) replicasLike(g *Generation) int {
	now := r.startable()
	if now == nil || checkReplicas(g.Run, g.Deployment.Port, len(now.slots())) != nil {
		return len(g.slots())
	}
	return len(now.slots())
}

// servedNumbers lists the generations that came up, newest first.
func (r *VersionRecord) servedNumbers() string {
	var out []string
	for _, g := range slices.Backward(r.Generations) {
		if g.Served {
			out = append(out, strconv.FormatInt(g.Number, 10))
		}
	}
	return strings.Join(out, ", ")
}

// described says how a generation came about, where that was not a deployment of its own.
func (g *Generation) described() string {
	if g.Again == 0 {
		return ""
	}
	return fmt.Sprintf(", as generation %d was", g.Again)
}
