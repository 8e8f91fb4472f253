package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// deployment is one attempt to bring up a generation.
type deployment struct {
	k          *keeper
	generation *Generation
	quiet      bool // no events: a restart, not a deployment

	step      api.Step // in progress
	stepBegan time.Time
	detailAt  time.Time // of the last progress within the step
}

// bringUp starts an instance and waits until it is healthy. The instance is
// returned also with an error, where there is one.
func (d *deployment) bringUp(ctx context.Context) (*instance, error) {
	s, ok := d.k.c.service(d.k.key.Service)
	if !ok {
		return nil, fmt.Errorf("service %s is gone", d.k.key.Service)
	}
	timeout := d.generation.Deployment.Timeout.Or(s.Timeout.Or(defaultTimeout))
	inst, err := d.start(ctx, timeout)
	if err != nil {
		return nil, err
	}
	d.enter(ctx, api.StepHealthy, "")
	if err := d.waitHealthy(ctx, s, inst, timeout); err != nil {
		return inst, err
	}
	d.done(ctx, api.StepHealthy)
	return inst, nil
}

// start starts the instance, or takes the one that already runs. A runtime
// that makes no progress for as long as timeout is given up.
func (d *deployment) start(ctx context.Context, timeout time.Duration) (*instance, error) {
	k, name := d.k, d.generation.Run.Runtime()
	rt, ok := k.c.opts.Runtimes[name]
	if !ok {
		return nil, invalidf("this server runs without it", "there is no runtime %q here", name)
	}
	id := instanceID(k.key, d.generation.Number)
	k.c.mu.Lock()
	inst, ok := k.instances[id]
	if ok && inst.Running {
		k.c.mu.Unlock()
		return inst, nil
	}
	k.starting[id] = true
	k.c.mu.Unlock()
	defer func() {
		k.c.mu.Lock()
		delete(k.starting, id)
		k.c.mu.Unlock()
	}()

	d.stepBegan = time.Now()
	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hung := fmt.Errorf("the start made no progress for %s", timeout)
	idle := time.AfterFunc(timeout, func() { cancel(hung) })
	defer idle.Stop()
	status, err := rt.Start(starting, k.c.workload(k.key, d.generation), func(step api.Step, detail string) {
		idle.Reset(timeout)
		d.enter(ctx, step, detail)
	})
	if err != nil {
		if cause := context.Cause(starting); cause != nil && errors.Is(cause, hung) {
			err = hung
		}
		return nil, err
	}
	inst = k.c.take(k, name, status)
	d.done(ctx, api.StepStart)
	return inst, nil
}

// waitHealthy asks the instance until it is healthy, it ends, or timeout is over.
func (d *deployment) waitHealthy(ctx context.Context, s api.Service, inst *instance, timeout time.Duration) error {
	k := d.k
	k.c.mu.Lock()
	ended := inst.ended
	k.c.mu.Unlock()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	pause := 5 * time.Millisecond
	if healthKind(s.Health) == api.HealthProcess {
		pause = aliveFor
	}
	for first := true; ; first = false {
		if !first || healthKind(s.Health) != api.HealthProcess {
			if k.probe(ctx, s, inst).after > 0 {
				k.c.mu.Lock()
				inst.nextCheck = time.Now().Add(interval(s))
				k.c.mu.Unlock()
				return nil
			}
		}
		select {
		case <-time.After(pause):
			pause = min(pause*3/2+time.Millisecond, 250*time.Millisecond)
		case <-ended:
			k.c.mu.Lock()
			defer k.c.mu.Unlock()
			return errors.New(exitReason(inst.Status))
		case <-deadline.C:
			k.c.mu.Lock()
			defer k.c.mu.Unlock()
			return &Error{
				Code:    api.CodeInvalid,
				Message: fmt.Sprintf("not healthy after %s: %s", timeout, strings.TrimPrefix(inst.health, "unhealthy: ")),
				Hint:    healthHint(d.generation.Run),
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// healthHint says what to look at where an instance does not become healthy.
func healthHint(run api.Run) string {
	if run.External != nil {
		return "can this machine reach " + run.External.URL + "? Its health check is set per service"
	}
	return "does it listen on the port in PORT, on all addresses or 127.0.0.1? Its health check is set per service"
}

// enter begins a step, which ends the one before. The same step again is
// progress within it, told at most once a second.
func (d *deployment) enter(ctx context.Context, step api.Step, detail string) {
	if d.step != step {
		if d.step != "" {
			d.done(ctx, d.step)
		}
		d.step, d.stepBegan = step, time.Now()
	}
	if detail == "" || d.quiet || time.Since(d.detailAt) < time.Second {
		return
	}
	d.detailAt = time.Now()
	d.k.event(ctx, api.Event{
		Type: api.EventDeployStep, Generation: d.generation.Number, Step: step,
		Message: fmt.Sprintf("%s: %s", d.k.key, detail),
	})
}

// routed ends the last step, once every stand-alone proxy that reports has taken up the
// table in force, or the time for that is over: one that lags fails no deployment.
func (d *deployment) routed(ctx context.Context) {
	c := d.k.c
	limited, cancel := context.WithTimeout(ctx, takeUpTimeout)
	defer cancel()
	late := c.fleet.waitTaken(limited, c.Table().Position())
	if len(late) == 0 || ctx.Err() != nil {
		d.done(ctx, api.StepRouted)
		return
	}
	c.log.Warn("proxies have not taken up the routing table in time", "service", d.k.key.Service, "version", d.k.key.Version,
		"revision", c.Table().Revision(), "proxies", late)
	some := strings.Join(late[:min(len(late), 3)], ", ")
	if more := len(late) - 3; more > 0 {
		some += fmt.Sprintf(" and %d more", more)
	}
	d.told(ctx, api.StepRouted, fmt.Sprintf("%s, but after %s not yet by %s", stepDone[api.StepRouted], takeUpTimeout, some))
}

// done ends a step.
func (d *deployment) done(ctx context.Context, step api.Step) { d.told(ctx, step, stepDone[step]) }

// told ends a step with these words.
func (d *deployment) told(ctx context.Context, step api.Step, words string) {
	if d.step == step {
		d.step = ""
	}
	if d.quiet {
		return
	}
	d.k.event(ctx, api.Event{
		Type: api.EventDeployStep, Generation: d.generation.Number, Step: step,
		Took:    api.Duration(max(time.Since(d.stepBegan), time.Microsecond)),
		Message: fmt.Sprintf("%s: %s", d.k.key, words),
	})
}

var stepDone = map[api.Step]string{
	api.StepPull:    "image pulled",
	api.StepStart:   "started",
	api.StepHealthy: "healthy",
	api.StepRouted:  "routed",
}
