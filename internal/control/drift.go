package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
)

// DefaultOrphanGrace is the default of [Options].OrphanGrace.
const DefaultOrphanGrace = 5 * time.Minute

// orphan is an instance of this environment of which no version is known.
type orphan struct {
	status Status
	found  time.Time
}

// Sweeper is a [Runtime] that may have more than instances left over, such as folders.
type Sweeper interface {
	// Leftovers returns what is there without an instance, and removes it where remove says so.
	Leftovers(ctx context.Context, remove bool) ([]Leftover, error)
}

// Leftover is what a runtime has without an instance.
type Leftover struct {
	Path string
	Why  string
	Kept bool // it is not removed, for the reason in Why
}

// meetOrphan notes an instance of which no version is known, and ends it when it has been there
// for the grace time: the record may only be missing because somebody put an old store back.
func (w *watcher) meetOrphan(ctx context.Context, s Status) {
	w.c.mu.Lock()
	o, known := w.orphans[s.ID]
	if !known {
		o = &orphan{found: time.Now()}
		w.orphans[s.ID] = o
	}
	o.status = s
	w.c.mu.Unlock()
	if !known {
		w.c.note(ctx, api.Event{
			Type: api.EventOrphanFound, Service: s.Service, Version: s.Version, Generation: s.Generation,
			Message: fmt.Sprintf("%s %s, and no version %s@%s is known: it is removed in %s (see: layover gc)",
				s.ID, has(s), s.Service, s.Version, w.c.opts.OrphanGrace),
		})
	}
	if time.Since(o.found) >= w.c.opts.OrphanGrace {
		w.endOrphan(ctx, s)
	}
}

// forgetOrphans forgets those that are not in the list any more, or wanted by now.
func (w *watcher) forgetOrphans(there map[string]bool) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	maps.DeleteFunc(w.orphans, func(id string, o *orphan) bool {
		return !there[id] || w.c.records[Key{o.status.Service, o.status.Version}] != nil
	})
}

func has(s Status) string {
	if s.Running {
		return api.HasRunning
	}
	return api.HasExited
}

// Drift returns in what the runtimes differ from what the store wants, as far as that is
// known now. It asks no runtime.
func (c *Control) Drift(context.Context) ([]api.Drift, error) {
	inUse := c.runtimesInUse()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []api.Drift{}
	for _, name := range slices.Sorted(maps.Keys(c.watchers)) {
		w := c.watchers[name]
		if w.problem != nil && inUse[name] {
			out = append(out, unseen(name, w.problem))
		}
		for _, o := range w.orphans {
			d := driftOf(name, o.status)
			d.RemoveAt = o.found.Add(c.opts.OrphanGrace).UTC()
			d.Message = "no such version is known"
			out = append(out, d)
		}
	}
	for key, rec := range c.records {
		out = append(out, c.keepers[key].driftLocked(rec)...)
	}
	sortDrift(out)
	return out, nil
}

// unseen says that a runtime does not answer.
func unseen(runtime string, err error) api.Drift {
	return api.Drift{
		Runtime: runtime, Has: api.HasUnknown,
		Message: fmt.Sprintf("what it has cannot be seen, so nothing of it is removed: %s", err),
	}
}

func sortDrift(all []api.Drift) {
	slices.SortFunc(all, func(a, b api.Drift) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version),
			cmp.Compare(a.Runtime, b.Runtime), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Path, b.Path))
	})
}

func driftOf(runtime string, s Status) api.Drift {
	return api.Drift{
		Service: s.Service, Version: s.Version, Generation: s.Generation,
		Runtime: runtime, Instance: s.ID, Has: has(s),
	}
}

// driftLocked returns in what the instances of one version differ from its record.
func (k *keeper) driftLocked(rec *VersionRecord) []api.Drift {
	var out []api.Drift
	for i := range rec.Generations {
		g := &rec.Generations[i]
		if rec.Desired != DesiredRunning || g.State != GenerationServing && g.State != GenerationPending {
			continue
		}
		for _, id := range g.instanceIDs(k.key) {
			inst := k.instances[id]
			if inst != nil && inst.Running {
				continue
			}
			d := api.Drift{
				Service: k.key.Service, Version: k.key.Version, Generation: g.Number, Runtime: g.Run.Runtime(), Instance: id,
				Wanted: true, Has: api.HasNothing, Message: "it is about to be started",
			}
			if inst != nil {
				d.Has = api.HasExited
			}
			if p := k.places[id]; p != nil && p.failure != "" {
				d.Message = p.trouble()
			} else if k.starting[id] {
				d.Message = "it is being started"
			}
			out = append(out, d)
		}
	}
	for _, inst := range k.instances {
		if rec.wants(inst.Generation, inst.ID) {
			continue
		}
		d := driftOf(inst.runtime, inst.Status)
		d.Message = "it is let go of: it ends when its requests have"
		out = append(out, d)
	}
	return out
}

// Collect returns what the runtimes have that nobody wants, and removes it at once, unless it is
// a dry run. Of a runtime that does not answer it says so, and removes nothing.
func (c *Control) Collect(ctx context.Context, dryRun bool) ([]api.Drift, error) {
	inUse := c.runtimesInUse()
	out := []api.Drift{}
	for _, name := range slices.Sorted(maps.Keys(c.watchers)) {
		w := c.watchers[name]
		left, err := w.collect(ctx, dryRun)
		if err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && inUse[name] {
			left = append(left, unseen(name, err))
		}
		out = append(out, left...)
	}
	sortDrift(out)
	return out, nil
}

// collect is Collect for one runtime.
func (w *watcher) collect(ctx context.Context, dryRun bool) ([]api.Drift, error) {
	limited, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	statuses, err := w.rt.List(limited)
	if err != nil {
		return nil, err
	}
	var left []api.Drift
	for _, s := range statuses {
		if !w.keeps(s) && !w.wanted(s) {
			left = append(left, driftOf(w.name, s))
		}
	}
	if !dryRun {
		w.removeAll(ctx, statuses, left)
	} else {
		for i := range left {
			left[i].Message = "nobody wants it"
		}
	}
	sweeper, ok := w.rt.(Sweeper)
	if !ok {
		return left, nil
	}
	more, err := sweeper.Leftovers(ctx, !dryRun)
	for _, l := range more {
		d := api.Drift{Runtime: w.name, Path: l.Path, Has: api.HasExited, Message: l.Why, Removed: !dryRun && !l.Kept}
		if l.Kept {
			d.Has = api.HasRunning
		}
		left = append(left, d)
	}
	return left, err
}

// removeAll ends the instances that left names, several at a time, and notes there what became of each.
func (w *watcher) removeAll(ctx context.Context, statuses []Status, left []api.Drift) {
	var group errgroup.Group
	group.SetLimit(startsAtOnce)
	for i := range left {
		j := slices.IndexFunc(statuses, func(s Status) bool { return s.ID == left[i].Instance })
		group.Go(func() error {
			left[i].Message = "removed: nobody wanted it"
			if err := w.remove(ctx, statuses[j]); err != nil {
				left[i].Message = "not removed: " + err.Error()
			} else {
				left[i].Removed = true
			}
			return nil
		})
	}
	_ = group.Wait() // every error is in a message
}

// remove ends an instance that no record wants, once no proxy needs it, and tells of it.
func (w *watcher) remove(ctx context.Context, s Status) error {
	if !w.c.drain(ctx, s, false) {
		return context.Cause(ctx)
	}
	if w.wanted(s) { // by now
		return fmt.Errorf("%s is wanted again", s.ID)
	}
	if err := w.rt.Stop(ctx, s.ID, w.c.grace(s.Service)); err != nil {
		return err
	}
	if key := (Key{Service: s.Service, Version: s.Version}); w.c.record(key) == nil {
		w.c.forgetLogs(key)
	}
	w.c.note(ctx, api.Event{
		Type: api.EventOrphanEnded, Service: s.Service, Version: s.Version, Generation: s.Generation,
		Message: fmt.Sprintf("ended %s, which nobody wants", s.ID),
	})
	return nil
}

// wanted says whether a record wants the instance.
func (w *watcher) wanted(s Status) bool {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	rec := w.c.records[Key{Service: s.Service, Version: s.Version}]
	return rec != nil && (rec.wants(s.Generation, s.ID) || rec.wantsHook(s.ID))
}
