package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Versions returns every version, ordered by service and name.
func (c *Control) Versions(context.Context) ([]api.Version, error) {
	requests := c.fleet.Requests()
	table := c.Table()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]api.Version, 0, len(c.records))
	for key, rec := range c.records {
		out = append(out, c.viewLocked(key, rec, table, requests[key.String()]))
	}
	slices.SortFunc(out, func(a, b api.Version) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// Version returns one version.
func (c *Control) Version(_ context.Context, key Key) (api.Version, error) {
	requests := c.fleet.requestsTo(key.String())
	table := c.Table()
	c.mu.Lock()
	defer c.mu.Unlock()
	rec, ok := c.records[key]
	if !ok {
		return api.Version{}, c.unknownVersionLocked(key)
	}
	return c.viewLocked(key, rec, table, requests), nil
}

func (c *Control) viewLocked(key Key, rec *VersionRecord, table *route.Table, requests uint64) api.Version {
	s, k := c.services[key.Service], c.keepers[key]
	v := api.Version{
		Service: key.Service, Name: key.Version,
		Default:   cmp.Or(s.Default, route.DefaultVersion) == key.Version,
		Branch:    rec.Branch,
		Owner:     rec.Owner,
		Source:    rec.Source,
		Origin:    rec.Origin,
		Note:      rec.Note,
		Labels:    maps.Clone(rec.Labels),
		CreatedAt: rec.CreatedAt,
		Requests:  requests,
	}
	v.State, v.Reason = k.stateLocked(rec)
	shown := rec.newest()
	if serving := rec.serving(); serving != nil {
		v.Serving = serving.Number
		_, v.Healthy = k.answeringLocked(serving)
	}
	if shown != nil {
		v.Replicas = len(shown.slots())
		v.Generation, v.DeployedAt = shown.Number, shown.At
		v.LogTail = shown.LogTail
		v.Run, v.Runtime = shown.Run, shown.Run.Runtime()
		v.EnvNames = slices.Sorted(maps.Keys(shown.Env))
	}
	for _, id := range slices.Sorted(maps.Keys(k.instances)) {
		v.Instances = append(v.Instances, viewInstance(k.instances[id]))
	}
	if entry := versionIn(table, key); entry != nil {
		v.PreviewURL = c.previewURL(entry.PreviewHost())
	}
	return v
}

func viewInstance(i *instance) api.Instance {
	out := api.Instance{
		ID: i.ID, Generation: i.Generation, StartedAt: i.StartedAt,
		Healthy: len(i.healthy) > 0 && !i.leaving, Health: i.health,
	}
	for _, a := range i.Addresses {
		out.Addresses = append(out.Addresses, a.HostPort)
	}
	switch {
	case i.leaving:
		out.Health = "leaving"
	case !i.Running:
		out.Health = exitReason(i.Status)
	}
	return out
}

func (c *Control) previewURL(host string) string {
	if host == "" {
		return ""
	}
	if p := c.opts.PreviewPort; p != "" && p != "80" {
		host = net.JoinHostPort(host, p)
	}
	return "http://" + host
}

// stateLocked says what the version does, and why it is not running, in words.
func (k *keeper) stateLocked(rec *VersionRecord) (api.State, string) {
	if rec.Desired != DesiredRunning {
		if len(k.instances) > 0 {
			return api.StateStopping, ""
		}
		return api.StateStopped, ""
	}
	newest, serving := rec.newest(), rec.serving()
	if newest == nil {
		return api.StateStopped, ""
	}
	failed := ""
	if newest.State == GenerationFailed {
		failed = newest.Reason
	}
	if serving == nil {
		if newest.State == GenerationPending {
			return api.StateStarting, ""
		}
		return api.StateFailed, failed
	}
	_, healthy := k.answeringLocked(serving)
	trouble, all := k.troubleLocked(serving)
	switch {
	case healthy > 0:
		if failed != "" {
			return api.StateRunning, "the newest generation did not come up: " + failed
		}
		if trouble != "" {
			trouble = fmt.Sprintf("%d of %d instances are healthy: %s", healthy, len(serving.slots()), trouble)
		}
		return api.StateRunning, trouble
	case trouble != "" && all:
		return api.StateFailed, trouble
	default:
		return api.StateStarting, k.unhealthyLocked(serving)
	}
}

// answeringLocked returns the addresses of generation g that may get requests, and how many
// of its instances have one.
func (k *keeper) answeringLocked(g *Generation) (routed []route.Instance, healthy int) {
	for _, id := range g.instanceIDs(k.key) {
		inst := k.instances[id]
		if inst == nil {
			continue
		}
		addresses := inst.routed()
		routed = append(routed, addresses...)
		healthy += min(len(addresses), 1)
	}
	return routed, healthy
}

// troubleLocked says why an instance of generation g does not answer, "" where each does or
// may still, and whether that is so of all.
func (k *keeper) troubleLocked(g *Generation) (why string, all bool) {
	all = true
	for _, id := range g.instanceIDs(k.key) {
		p := k.places[id]
		switch {
		case p == nil || p.failure == "":
			all = false
		case why == "":
			why = p.failure
		}
	}
	return why, all
}

// unhealthyLocked says what is wrong with an instance of generation g that answered once, and runs.
func (k *keeper) unhealthyLocked(g *Generation) string {
	for _, id := range g.instanceIDs(k.key) {
		if inst := k.instances[id]; inst != nil && inst.Running && inst.ready {
			return inst.health
		}
	}
	return ""
}

// routedLocked returns the version as the table has it, and false where it has no route.
func (k *keeper) routedLocked(rec *VersionRecord) (route.Version, bool) {
	if rec.Desired != DesiredRunning || rec.newest() == nil {
		return route.Version{}, false
	}
	v := route.Version{Name: k.key.Version}
	state, reason := k.stateLocked(rec)
	switch state {
	case api.StateRunning:
		v.State = route.Ready
		v.Instances, _ = k.answeringLocked(rec.serving())
	case api.StateFailed:
		v.State, v.Reason = route.Failed, reason
	default:
		v.State, v.Reason = route.Starting, reason
	}
	return v, true
}
