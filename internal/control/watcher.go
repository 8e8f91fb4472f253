package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/layover-dev/layover/api"
)

// watcher follows one runtime: it finds what was started before this server,
// and learns what ends.
type watcher struct {
	c    *Control
	name string
	rt   Runtime

	looked chan struct{} // closed once the runtime has been asked
	listed chan struct{} // closed once it has answered

	// Guarded by c.mu.
	problem error           // why the last look failed; nil where it did not
	ending  map[string]bool // IDs of the orphans that are being ended
	orphans map[string]*orphan
	missing map[string]int // lists in a row that did not have an instance, by its ID
}

// relist is how often a runtime is listed although it reports what changes: the
// net under reports that got lost.
const relist = 5 * time.Second

const (
	listTimeout = time.Minute     // a runtime that takes longer to list hangs
	firstLook   = 5 * time.Second // how long a deployment waits for the first list
)

func newWatcher(c *Control, name string, rt Runtime) *watcher {
	return &watcher{
		c: c, name: name, rt: rt,
		looked: make(chan struct{}), listed: make(chan struct{}),
		problem: errors.New("not yet looked at"), ending: map[string]bool{},
		orphans: map[string]*orphan{}, missing: map[string]int{},
	}
}

// run lists the runtime again and again until ctx ends; it runs once. A runtime
// that does not answer changes nothing of what is known (R5).
func (w *watcher) run(ctx context.Context) error {
	for first := true; ; first = false {
		again := relist
		err := w.list(ctx)
		if first {
			close(w.looked)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if w.setErr(err) {
				w.logErr(ctx, err)
			}
			again = time.Second
		default:
			w.setErr(nil)
			w.markListed()
			if w.misses() {
				again = time.Second
			}
		}
		if !pause(ctx, again) {
			return nil
		}
	}
}

// waitListed returns true once the runtime has been listed, and false where ctx
// ends before.
func (w *watcher) waitListed(ctx context.Context) bool {
	select {
	case <-w.listed:
		return true
	case <-ctx.Done():
		return false
	}
}

// waitLooked returns true once the runtime has been asked, whatever the answer,
// or hangs, and false where ctx ends before.
func (w *watcher) waitLooked(ctx context.Context) bool {
	hangs := time.NewTimer(firstLook)
	defer hangs.Stop()
	select {
	case <-w.looked:
		return true
	case <-hangs.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// err says why the runtime could not be listed the last time.
func (w *watcher) err() error {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return w.problem
}

// setErr says whether the problem is a new one.
func (w *watcher) setErr(err error) bool {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	fresh := err != nil && (w.problem == nil || w.problem.Error() != err.Error())
	w.problem = err
	return fresh
}

// logErr logs why the runtime could not be listed. Where nothing runs on it that is
// no error: it may not even be installed.
func (w *watcher) logErr(ctx context.Context, err error) {
	level := slog.LevelDebug
	if w.c.runtimesInUse()[w.name] {
		level = slog.LevelError
	}
	w.c.log.Log(ctx, level, "runtime not listed", "runtime", w.name, "err", err)
}

func (w *watcher) markListed() {
	select {
	case <-w.listed:
	default:
		close(w.listed)
	}
}

// watch hands on what the runtime reports until ctx ends, and begins anew where it
// loses track. What nobody wants is left to list, which knows it from what has just ended.
func (w *watcher) watch(ctx context.Context) error {
	for {
		err := w.rt.Watch(ctx, func(s Status) { _ = w.observe(ctx, s) })
		if ctx.Err() == nil {
			w.c.log.Debug("runtime no longer watched", "runtime", w.name, "err", err)
		}
		if !pause(ctx, time.Second) {
			return nil
		}
	}
}

// list compares what the runtime has with what is known, and ends what nobody wants.
func (w *watcher) list(ctx context.Context) error {
	known := w.known()
	limited, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	statuses, err := w.rt.List(limited)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	unwanted := map[string]bool{}
	defer func() { w.forgetOrphans(there) }()
	for _, s := range statuses {
		there[s.ID] = true
		if _, ok := known[s.ID]; ok && !w.keeps(s) {
			continue // let go of since: the list was made before that
		}
		if !w.observe(ctx, s) {
			unwanted[s.ID] = true
		}
	}
	for id, s := range known {
		if s.Running && !there[id] && w.gone(limited, s) {
			s.Running, s.ExitCode, s.Reason = false, -1, "it is gone: something other than Layover removed it"
			_ = w.observe(ctx, s)
		}
	}
	w.forgetMissing(known, there)
	return w.endOrphans(limited, ctx, unwanted)
}

// endOrphans ends those of the instances that nobody wants, and that are still there in
// another list: a keeper may have started, let go of and ended one while the first list
// was under way, and that is no orphan. Limited ends before ctx, and bounds the listing.
func (w *watcher) endOrphans(limited, ctx context.Context, unwanted map[string]bool) error {
	if len(unwanted) == 0 {
		return nil
	}
	statuses, err := w.rt.List(limited)
	if err != nil {
		return err
	}
	for _, s := range statuses {
		if !unwanted[s.ID] || w.keeps(s) || w.observe(ctx, s) {
			continue
		}
		if w.c.record(Key{Service: s.Service, Version: s.Version}) == nil {
			w.meetOrphan(ctx, s)
			continue
		}
		w.endOrphan(ctx, s) // its version is known, and has something else by now
	}
	return nil
}

// missingLists is how many lists in a row have to be without an instance before it is gone.
const missingLists = 2

// gone says whether an instance that the list does not have is there no more. A runtime
// that gives half a list is believed no more than one that gives none (R5): what still
// answers is there, whatever the list says.
func (w *watcher) gone(ctx context.Context, s Status) bool {
	w.c.mu.Lock()
	w.missing[s.ID]++
	again := w.missing[s.ID]
	w.c.mu.Unlock()
	if again < missingLists {
		return false
	}
	service, _ := w.c.service(s.Service)
	for _, a := range s.Addresses {
		if ctx.Err() != nil {
			return false // nobody was asked
		}
		check := checkHealth(ctx, service, a)
		if healthKind(service.Health) == api.HealthProcess {
			check = checkTCP(ctx, a)
		}
		if check == nil {
			if again == missingLists {
				w.c.log.Warn("runtime does not list an instance that answers", "runtime", w.name, "service", s.Service, "version", s.Version)
			}
			return false
		}
	}
	return true
}

// misses says whether the last list was without something that is known.
func (w *watcher) misses() bool {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return len(w.missing) > 0
}

// forgetMissing forgets the instances that were listed, or are not known any more.
func (w *watcher) forgetMissing(known map[string]Status, there map[string]bool) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	maps.DeleteFunc(w.missing, func(id string, _ int) bool {
		_, ok := known[id]
		return !ok || there[id]
	})
}

// known returns the instances of this runtime that keepers know, by ID.
func (w *watcher) known() map[string]Status {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	out := map[string]Status{}
	for _, k := range w.c.keepers {
		for _, inst := range k.instances {
			if inst.runtime == w.name {
				out[inst.ID] = inst.Status
			}
		}
	}
	return out
}

// keeps says whether a keeper knows the instance, or is starting it.
func (w *watcher) keeps(s Status) bool {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	k := w.c.keepers[Key{Service: s.Service, Version: s.Version}]
	return k != nil && (k.instances[s.ID] != nil || k.starting[s.ID])
}

// observe takes over the status of one instance, and says whether it is one that
// is wanted, or was and is leaving.
func (w *watcher) observe(ctx context.Context, s Status) bool {
	key := Key{Service: s.Service, Version: s.Version}
	c := w.c
	c.mu.Lock()
	rec, k := c.records[key], c.keepers[key]
	if k == nil || IsHook(s.ID) {
		defer c.mu.Unlock()
		return k != nil && k.seesHookLocked(rec, s)
	}
	inst, known := k.instances[s.ID]
	if !known {
		if rec == nil || !rec.wants(s.Generation, s.ID) {
			c.mu.Unlock()
			return false
		}
		k.instances[s.ID] = newInstance(w.name, s)
		own := k.starting[s.ID] // seen before Start has returned
		c.mu.Unlock()
		if s.Running && !own {
			k.event(ctx, api.Event{
				Type: api.EventInstanceAdopted, Generation: s.Generation,
				Message: fmt.Sprintf("%s: an instance was running already", key),
			})
		}
		k.look()
		return true
	}
	served := inst.ready && !inst.leaving
	changed := inst.updateLocked(s)
	if changed {
		c.touchLocked(key)
	}
	name := instanceName(key, rec, s.Generation, s.ID)
	c.mu.Unlock()
	if !changed {
		return true
	}
	if served {
		c.changed(ctx)
		if !s.Running {
			k.event(ctx, api.Event{
				Type: api.EventInstanceExited, Generation: s.Generation,
				Message: fmt.Sprintf("%s: %s", name, exitReason(s)),
			})
		}
	}
	k.look()
	return true
}

// endOrphan ends an instance that no record wants, in the background, once no proxy
// needs it: an earlier server may have put it into a table. Where that does not work out,
// the next list finds it again.
func (w *watcher) endOrphan(ctx context.Context, s Status) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.ending[s.ID] || w.c.group == nil {
		return
	}
	w.ending[s.ID] = true
	w.c.group.Go(func() error {
		err := w.remove(ctx, s)
		w.c.mu.Lock()
		delete(w.ending, s.ID)
		w.c.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			w.c.log.Error("orphan not ended", "service", s.Service, "version", s.Version, "err", err)
		}
		return nil
	})
}

// take hands a started instance over to its keeper. Where the watcher saw it
// first, what it saw since counts.
func (c *Control) take(k *keeper, runtime string, s Status) *instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	inst, ok := k.instances[s.ID]
	if !ok {
		inst = newInstance(runtime, s)
		k.instances[s.ID] = inst
		return inst
	}
	if inst.updateLocked(s) {
		c.touchLocked(k.key)
	}
	return inst
}

// grace returns how long an instance of the service may take to end.
func (c *Control) grace(service string) time.Duration {
	s, _ := c.service(service)
	return s.Grace.Or(defaultGrace)
}
