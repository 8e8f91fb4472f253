//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/control"
)

// Intervals of Watch and of followers of logs.
const (
	rescanInterval = 2 * time.Second        // for what another server process started; only folders are looked at
	pollInterval   = 200 * time.Millisecond // for exits, where the kernel does not tell
)

// Watch reports exits, those that were before it too. See [control.Runtime].
func (r *Runtime) Watch(ctx context.Context, changed func(control.Status)) error {
	wake := r.addWatcher()
	defer r.removeWatcher(wake)
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{
		runtime: r, changed: changed,
		waiting: map[string]bool{}, told: map[string]time.Time{}, ended: make(chan string),
	}
	defer w.waits.Wait()
	defer cancel()

	rescan := time.NewTicker(rescanInterval)
	defer rescan.Stop()
	if err := w.scan(ctx); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case id := <-w.ended:
			delete(w.waiting, id)
			err = w.look(ctx, r.folder(id))
		case <-wake:
			err = w.scan(ctx)
		case <-rescan.C:
			err = w.scan(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// watch is one call of Watch.
type watch struct {
	runtime *Runtime
	changed func(control.Status)
	waiting map[string]bool      // instances whose end is waited for
	told    map[string]time.Time // start of the run whose end was reported, by instance
	ended   chan string
	waits   sync.WaitGroup
}

// scan looks at the instances that are not waited for.
func (w *watch) scan(ctx context.Context) error {
	folders, err := w.runtime.folders()
	if err != nil {
		return fmt.Errorf("watch processes: %w", err)
	}
	there := make(map[string]bool, len(folders))
	for _, f := range folders {
		there[f.id] = true
		if w.waiting[f.id] {
			continue
		}
		if err := w.look(ctx, f); err != nil {
			return err
		}
	}
	for id := range w.told {
		if !there[id] {
			delete(w.told, id)
		}
	}
	return nil
}

// look reports an instance that exited, and waits for the end of one that runs.
func (w *watch) look(ctx context.Context, f folder) error {
	status, found, err := w.runtime.inspect(f)
	switch {
	case err != nil:
		return fmt.Errorf("watch %s: %w", f.id, err)
	case !found:
		return nil
	case status.Running:
		w.waiting[f.id] = true
		w.waits.Go(func() {
			f.awaitEnd(ctx)
			select {
			case w.ended <- f.id:
			case <-ctx.Done():
			}
		})
	case !w.told[f.id].Equal(status.StartedAt):
		w.told[f.id] = status.StartedAt
		w.changed(status)
	}
	return nil
}

// awaitEnd returns when the instance does not run, or ctx has ended.
func (f folder) awaitEnd(ctx context.Context) {
	f.awaitSupervisor(ctx)
	for ctx.Err() == nil {
		held, err := f.held()
		if err != nil || !held {
			return
		}
		if _, err := os.Stat(f.file(exitFile)); err == nil {
			return
		}
		if pause(ctx, pollInterval) != nil {
			return
		}
	}
}

// awaitSupervisor waits for the end of the supervisor, where the kernel tells.
func (f folder) awaitSupervisor(ctx context.Context) {
	s, err := f.state()
	for errors.Is(err, os.ErrNotExist) { // it is just being started
		if held, err := f.held(); err != nil || !held {
			return
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return
		}
		s, err = f.state()
	}
	if err != nil {
		return
	}
	exit, err := openExit(s.Supervisor)
	if err != nil {
		return
	}
	defer exit.Close() //nolint:errcheck // only waited on
	// The lock proves that it is the supervisor that was opened.
	if held, err := f.held(); err == nil && held {
		_ = exit.wait(ctx)
	}
}

func (r *Runtime) addWatcher() chan struct{} {
	wake := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[wake] = true
	return wake
}

func (r *Runtime) removeWatcher(wake chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, wake)
}

// wakeWatchers has every Watch look for what was started.
func (r *Runtime) wakeWatchers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for wake := range r.watchers {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}
