package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	problem error // why the last look failed; nil where it did not
}

// relist is how often a runtime is listed although it reports what changes: the
// net under reports that got lost.
const relist = 5 * time.Second

func newWatcher(c *Control, name string, rt Runtime) *watcher {
	return &watcher{c: c, name: name, rt: rt, looked: make(chan struct{}), listed: make(chan struct{}), problem: errors.New("not yet looked at")}
}

// run lists and watches the runtime until ctx ends; it runs once. A runtime that does not answer
// changes nothing of what is known (R5).
func (w *watcher) run(ctx context.Context) error {
	go w.watch(ctx)
	for first := true; ; first = false {
		pause := relist
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
			pause = time.Second
		default:
			w.setErr(nil)
			w.markListed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// wait returns true once the runtime has been listed, or only asked, and false
// where ctx ends before.
func (w *watcher) wait(ctx context.Context, onlyAsked bool) bool {
	known := w.listed
	if onlyAsked {
		known = w.looked
	}
	select {
	case <-known:
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

// watch hands on what the runtime reports, and begins anew where it loses track.
func (w *watcher) watch(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		err := w.rt.Watch(ctx, func(s Status) { w.observe(ctx, s) })
		if ctx.Err() != nil {
			return
		}
		w.c.log.Debug("runtime no longer watched", "runtime", w.name, "err", err)
		if time.Since(began) < time.Second {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// list compares what the runtime has with what is known.
func (w *watcher) list(ctx context.Context) error {
	known := w.running()
	statuses, err := w.rt.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range statuses {
		delete(known, s.ID)
		w.observe(ctx, s)
	}
	for _, s := range known {
		s.Running, s.ExitCode, s.Reason = false, -1, "it is gone: something other than Layover removed it"
		w.observe(ctx, s)
	}
	return nil
}

// running returns the instances of this runtime that are thought to run, by ID.
func (w *watcher) running() map[string]Status {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	out := map[string]Status{}
	for _, k := range w.c.keepers {
		for _, inst := range k.instances {
			if inst.runtime == w.name && inst.Running && !inst.leaving {
				out[inst.ID] = inst.Status
			}
		}
	}
	return out
}

// observe takes over the status of one instance. One that nobody wants is ended.
func (w *watcher) observe(ctx context.Context, s Status) {
	key := Key{Service: s.Service, Version: s.Version}
	c := w.c
	c.mu.Lock()
	rec, k := c.records[key], c.keepers[key]
	if k == nil {
		c.mu.Unlock()
		w.endOrphan(ctx, s)
		return
	}
	inst, known := k.instances[s.ID]
	if !known {
		if rec == nil || !rec.wants(s.Generation) || s.ID != instanceID(key, s.Generation) {
			c.mu.Unlock()
			w.endOrphan(ctx, s)
			return
		}
		k.instances[s.ID] = newInstance(w.name, s)
		own := k.starting == s.ID // seen before Start has returned
		c.mu.Unlock()
		if s.Running && !own {
			k.event(ctx, api.Event{
				Type: api.EventInstanceAdopted, Generation: s.Generation,
				Message: fmt.Sprintf("%s: an instance was running already", key),
			})
		}
		k.look()
		return
	}
	served := inst.ready && !inst.leaving
	changed := inst.updateLocked(s)
	c.mu.Unlock()
	if !changed {
		return
	}
	if served {
		c.changed(ctx)
		if !s.Running {
			k.event(ctx, api.Event{
				Type: api.EventInstanceExited, Generation: s.Generation,
				Message: fmt.Sprintf("%s: %s", key, exitReason(s)),
			})
		}
	}
	k.look()
}

// endOrphan ends an instance that no record wants.
func (w *watcher) endOrphan(ctx context.Context, s Status) {
	if err := w.rt.Stop(ctx, s.ID, w.c.grace(s.Service)); err != nil {
		w.c.log.Error("orphan not ended", "service", s.Service, "version", s.Version, "err", err)
		return
	}
	w.c.note(ctx, api.Event{
		Type: api.EventOrphanEnded, Service: s.Service, Version: s.Version, Generation: s.Generation,
		Message: fmt.Sprintf("ended %s, which nobody wants", s.ID),
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
	inst.updateLocked(s)
	inst.leaving = false
	return inst
}

// grace returns how long an instance of the service may take to end.
func (c *Control) grace(service string) time.Duration {
	s, _ := c.service(service)
	return s.Grace.Or(defaultGrace)
}
