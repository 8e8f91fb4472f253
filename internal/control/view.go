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

// Page selects a page of versions.
type Page struct {
	Service, Version string // "" for all
	After            Key    // the last of the page before; the zero value for the first page
	Limit            int    // above 0

	Only func(*VersionRecord) bool // nil for all
}

func (p *Page) selects(key Key, rec *VersionRecord) bool {
	return (p.Service == "" || p.Service == key.Service) && (p.Version == "" || p.Version == key.Version) &&
		compareKeys(key, p.After) > 0 && (p.Only == nil || p.Only(rec))
}

// VersionPage returns a page of versions, ordered by service and name, and where there are
// more the last one of the page. Its work grows with the page, and little with the number of versions.
func (c *Control) VersionPage(_ context.Context, p Page) (versions []api.Version, next string, err error) {
	keys := c.pageOf(p)
	if len(keys) > p.Limit {
		keys = keys[:p.Limit]
		next = keys[p.Limit-1].String()
	}
	requests := make([]uint64, len(keys))
	for i, key := range keys {
		requests[i] = c.fleet.requestsTo(key.String())
	}
	table := c.Table()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, key := range keys {
		if rec := c.records[key]; rec != nil { // or it was removed just now
			versions = append(versions, c.viewLocked(key, rec, table, requests[i]))
		}
	}
	return versions, next, nil
}

// pageOf returns the keys of a page in order, and one more where there is one. Of the others it
// looks at each once: it keeps the smallest that it has seen, and forgets the rest now and then.
func (c *Control) pageOf(p Page) []Key {
	want := p.Limit + 1
	keys := make([]Key, 0, 2*want)
	var bound *Key // no key from here on is on the page
	shrink := func() {
		slices.SortFunc(keys, compareKeys)
		if len(keys) >= want {
			keys = keys[:want]
			last := keys[want-1]
			bound = &last
		}
	}
	c.mu.Lock()
	for key, rec := range c.records {
		if bound != nil && compareKeys(key, *bound) >= 0 || !p.selects(key, rec) {
			continue
		}
		if keys = append(keys, key); len(keys) == 2*want {
			shrink()
		}
	}
	c.mu.Unlock()
	shrink()
	return keys
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
	c.viewLeaseLocked(&v, rec, k)
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
	v.OutputNames, v.Teardown = slices.Sorted(maps.Keys(rec.Hooks.Outputs)), k.viewTeardownLocked(rec)
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
		Images: i.Images, Base: i.Base,
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
	if rec.Desired == DesiredAsleep {
		if len(k.instances) > 0 {
			return api.StateAsleep, "its instance ends when its last request has ended"
		}
		return api.StateAsleep, k.crowded
	}
	if rec.Desired != DesiredRunning {
		if len(k.instances) > 0 {
			return api.StateStopping, ""
		}
		if rec.owesTeardown() {
			return api.StateRemoving, k.teardownWordsLocked(rec)
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
			return api.StateStarting, k.progress
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
		return api.StateStarting, cmp.Or(k.progress, k.unhealthyLocked(serving))
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
			why = p.trouble()
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
	v := route.Version{Name: k.key.Version}
	if rec.Desired == DesiredAsleep {
		v.State = route.Asleep
		return v, true
	}
	if rec.Desired != DesiredRunning || rec.newest() == nil {
		return route.Version{}, false
	}
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
