package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
)

// hookRun is one run of a hook. Its instance carries the name of the hook, so that a server
// which was started meanwhile finds it and takes its end, and never runs a second one beside it.
type hookRun struct {
	k        *keeper
	name     string
	workload Workload
	rt       Runtime
	runtimes []string // on which hooks of the version may have been started
	timeout  time.Duration
	output   *hookOutput
	told     func(line string) // learns of the progress
	points   hookPoints
	woken    chan struct{} // the runtime reported something of it

	startedAt time.Time // under the lock of the control plane; zero before it was started
}

// hookPoints are the fail points that the run of a hook passes.
type hookPoints struct{ wanted, started, ended string }

// hookError is why a hook failed, with the last lines that it wrote.
type hookError struct {
	error
	tail []string
}

// Unwrap returns the cause.
func (e *hookError) Unwrap() error { return e.error }

const (
	hookLook     = 250 * time.Millisecond // how often a hook is looked at that runs; longer in time
	hookLookLong = 5 * time.Second
	hookReading  = 10 * time.Second // what may be left to read of its output when it has ended
)

// newHookRun makes a run of a hook of rec, which has generations.
func (k *keeper) newHookRun(rec *VersionRecord, name string, h Hook, instances map[string]string) (*hookRun, error) {
	rt := k.c.opts.Runtimes[h.Run.Runtime()]
	if rt == nil {
		return nil, invalidf("this server runs without it", "there is no runtime %q here, which the %s needs", h.Run.Runtime(), name)
	}
	r := &hookRun{
		k: k, name: name, rt: rt, runtimes: rec.hookRuntimes(), timeout: time.Duration(h.Timeout),
		workload: k.c.hookWorkload(k.key, rec.newest().Number, name, h, instances, rec.Hooks),
		output:   newHookOutput(rec.Hooks.Outputs), told: func(string) {}, woken: make(chan struct{}, 1),
		points: hookPoints{failpoint.SetupWanted, failpoint.SetupStarted, failpoint.SetupEnded},
	}
	if name == hookTeardown {
		r.points = hookPoints{failpoint.TeardownWanted, failpoint.TeardownStarted, failpoint.TeardownEnded}
	}
	return r, nil
}

// run runs the hook to its end. The error says why it failed; it is the cause of ctx where that
// ends before. A hook goes on while no server is there, and is ended where something else is wanted.
func (h *hookRun) run(ctx context.Context) error {
	h.setRunning(h)
	defer h.setRunning(nil)
	status, err := h.begin(ctx)
	if err == nil {
		h.setStarted(status.StartedAt)
		status, err = h.follow(ctx, status)
	}
	if ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errSuperseded) {
			err = errors.Join(errSuperseded, h.clear(context.WithoutCancel(ctx)))
		}
		return errors.Join(context.Cause(ctx), err)
	}
	if err == nil && (status.ExitCode != 0 || status.Reason != "") {
		err = errors.New(exitReason(status))
	}
	if _, bad := h.output.given(); err == nil && bad != nil {
		err = bad
	}
	if err != nil {
		return h.failed(err)
	}
	return nil
}

// failed says that the hook failed, keeping the hint of the cause.
func (h *hookRun) failed(err error) error {
	failed := &hookError{error: &Error{
		Code: CodeOf(err), Message: fmt.Sprintf("the %s failed: %s", h.name, err), Hint: hintOf(err), Err: err,
	}}
	lines := h.output.shown()
	for _, line := range lines[max(0, len(lines)-tailLines):] {
		failed.tail = append(failed.tail, line.Text)
	}
	return failed
}

func (h *hookRun) setRunning(now *hookRun) {
	h.k.c.mu.Lock()
	defer h.k.c.mu.Unlock()
	h.k.hook = now
}

func (h *hookRun) setStarted(at time.Time) {
	h.k.c.mu.Lock()
	defer h.k.c.mu.Unlock()
	h.startedAt = at
}

// begin starts the hook, or takes the run that is there: one that an earlier server started,
// whether it has ended since or not. No other hook of the version runs beside it.
func (h *hookRun) begin(ctx context.Context) (Status, error) {
	found, err := h.clearOthers(ctx)
	if err != nil {
		return Status{}, err
	}
	if found != nil && (found.Running || found.ExitCode >= 0) {
		return *found, nil
	}
	failpoint.Pass(h.points.wanted)
	starting, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("it did not start within %s", h.timeout))
	defer cancel()
	status, err := h.rt.Start(starting, h.workload, func(step api.Step, detail string) {
		if step == api.StepPull && detail != "" {
			h.told("its image is being pulled: " + detail)
		}
	})
	if err != nil {
		if starting.Err() != nil && ctx.Err() == nil {
			err = context.Cause(starting)
		}
		return Status{}, err
	}
	failpoint.Pass(h.points.started)
	return status, nil
}

// clearOthers ends every other hook of the version that a runtime still has, and returns the run
// of this one, if any.
func (h *hookRun) clearOthers(ctx context.Context) (*Status, error) {
	return h.k.clearHooks(ctx, h.runtimes, h.workload.ID)
}

// clearHooks ends the hooks of the version that the runtimes have, but for the one with the ID
// kept, whose status it returns.
func (k *keeper) clearHooks(ctx context.Context, runtimes []string, kept string) (found *Status, err error) {
	for _, name := range runtimes {
		rt := k.c.opts.Runtimes[name]
		if rt == nil {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, listTimeout)
		statuses, err := rt.List(limited)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("see which hooks of it run: %w", err)
		}
		for _, s := range statuses {
			switch {
			case (Key{s.Service, s.Version}) != k.key || !IsHook(s.ID):
			case s.ID == kept:
				found = &s
			default:
				if err := rt.Stop(ctx, s.ID, k.c.grace(k.key.Service)); err != nil {
					return nil, fmt.Errorf("end %s: %w", s.ID, err)
				}
			}
		}
	}
	return found, nil
}

// follow waits for the end of the hook, and reads all that it writes. One that takes longer than
// it may is ended.
func (h *hookRun) follow(ctx context.Context, status Status) (Status, error) {
	reading, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	var readErr error
	read := make(chan struct{})
	group.Go(func() {
		defer close(read)
		readErr = h.read(reading)
	})
	defer func() {
		stop()
		group.Wait()
	}()
	status, err := h.awaitEnd(ctx, status)
	if err != nil {
		return status, err
	}
	failpoint.Pass(h.points.ended)
	select {
	case <-read:
	case <-time.After(hookReading):
		stop()
		<-read
	case <-ctx.Done():
		return status, context.Cause(ctx)
	}
	if readErr != nil {
		return status, fmt.Errorf("its output could not be read: %w", readErr)
	}
	return status, nil
}

// awaitEnd returns the status of the hook once it has ended. A runtime that does not answer says
// nothing about it.
func (h *hookRun) awaitEnd(ctx context.Context, status Status) (Status, error) {
	over := time.NewTimer(time.Until(status.StartedAt.Add(h.timeout)))
	defer over.Stop()
	missing := 0
	for look := hookLook; status.Running; look = min(look*2, hookLookLong) {
		select {
		case <-h.woken:
		case <-time.After(look):
		case <-over.C:
			if err := h.clear(ctx); err != nil {
				return status, err
			}
			return status, fmt.Errorf("it did not end within %s, and was ended", h.timeout)
		case <-ctx.Done():
			return status, context.Cause(ctx)
		}
		statuses, err := h.rt.List(ctx)
		if err != nil {
			continue
		}
		i := slices.IndexFunc(statuses, func(s Status) bool { return s.ID == h.workload.ID })
		if i >= 0 {
			status, missing = statuses[i], 0
		} else if missing++; missing >= missingLists {
			return status, errors.New("it is gone: something other than Layover removed it")
		}
	}
	return status, nil
}

// read takes the output of the hook until it has ended and all is read. Where the runtime
// breaks off, it begins anew.
func (h *hookRun) read(ctx context.Context) error {
	for {
		err := h.readOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !pause(ctx, retryDelay) {
			return err
		}
	}
}

func (h *hookRun) readOnce(ctx context.Context) error {
	h.output.begin()
	logs, err := h.rt.Logs(ctx, h.workload.ID, LogOptions{Follow: true})
	if err != nil {
		return err
	}
	defer func() { _ = logs.Close() }()
	for {
		line, err := logs.Next()
		switch {
		case errors.Is(err, io.EOF):
			return ctx.Err() // a reader also ends with that
		case err != nil:
			return err
		}
		h.told(bounded(h.output.take(line).Text, maxShownLine))
	}
}

// maxShownLine is how many bytes of a line are told while a hook runs.
const maxShownLine = 200

// clear ends the hook, where it runs, and removes what is left of it, its log included.
func (h *hookRun) clear(ctx context.Context) error {
	if err := h.rt.Stop(ctx, h.workload.ID, h.k.c.grace(h.k.key.Service)); err != nil {
		return fmt.Errorf("end the %s: %w", h.name, err)
	}
	return nil
}

// seesHookLocked takes notice of what a runtime says of a hook of the version, and says whether
// that run is wanted. rec is the version's, and may be nil.
func (k *keeper) seesHookLocked(rec *VersionRecord, s Status) bool {
	if k.hook != nil && k.hook.workload.ID == s.ID {
		select {
		case k.hook.woken <- struct{}{}:
		default:
		}
		return true
	}
	return rec != nil && rec.wantsHook(s.ID)
}
