package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
)

// deployment is one attempt to bring up a generation.
type deployment struct {
	k          *keeper
	generation *Generation

	step      api.Step // in progress
	stepBegan time.Time
	detailAt  time.Time // of the last progress within the step
	toldAt    time.Time // of the last progress that is in the table
	toldStep  api.Step  // of which step that was
}

// startsAtOnce is how many instances of one version are started at a time.
const startsAtOnce = 4

// bringUp starts the instances of the generation, and waits until enough of them are
// healthy. With an error it returns the instance that caused it, where there is one.
//
// The first is started alone: what is wrong with all shows there, and what all
// need, such as an image, is fetched once.
func (d *deployment) bringUp(ctx context.Context, enough int) (*instance, error) {
	s, timeout, err := d.service()
	if err != nil {
		return nil, err
	}
	ids := d.generation.instanceIDs(d.k.key)
	instances := make([]*instance, len(ids))
	d.stepBegan = time.Now()
	d.progress("it starts")
	defer d.progress("")
	if instances[0], err = d.start(ctx, ids[0], timeout, func(step api.Step, detail string) { d.enter(ctx, step, detail) }); err != nil {
		return nil, err
	}
	errs := make([]error, len(ids))
	var group errgroup.Group
	group.SetLimit(startsAtOnce)
	for i := 1; i < len(ids); i++ {
		group.Go(func() error {
			instances[i], errs[i] = d.start(ctx, ids[i], timeout, nil)
			return nil
		})
	}
	_ = group.Wait() // every error is in errs
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	d.done(ctx, api.StepStart)
	d.enter(ctx, api.StepHealthy, "")
	inst, err := d.waitEnough(ctx, s, instances, errs, min(enough, len(ids)), timeout)
	if err != nil {
		return inst, err
	}
	d.done(ctx, api.StepHealthy)
	return nil, nil
}

// bringUpOne starts one instance of the generation and waits until it is healthy. Where steps is
// set, it tells how far it is.
func (d *deployment) bringUpOne(ctx context.Context, id string, steps bool) error {
	s, timeout, err := d.service()
	if err != nil {
		return err
	}
	if !steps {
		inst, err := d.start(ctx, id, timeout, nil)
		if err != nil {
			return err
		}
		return d.waitHealthy(ctx, s, inst, timeout)
	}
	d.stepBegan = time.Now()
	d.progress("it starts")
	defer d.progress("")
	inst, err := d.start(ctx, id, timeout, func(step api.Step, detail string) { d.enter(ctx, step, detail) })
	if err != nil {
		return err
	}
	d.done(ctx, api.StepStart)
	d.enter(ctx, api.StepHealthy, "")
	if err := d.waitHealthy(ctx, s, inst, timeout); err != nil {
		return err
	}
	d.done(ctx, api.StepHealthy)
	return nil
}

// service returns the service, and how long an instance may take to become healthy.
func (d *deployment) service() (api.Service, time.Duration, error) {
	s, ok := d.k.c.service(d.k.key.Service)
	if !ok {
		return s, 0, fmt.Errorf("service %s is gone", d.k.key.Service)
	}
	return s, d.generation.Deployment.Timeout.Or(s.Timeout.Or(defaultTimeout)), nil
}

// waitEnough waits until so many instances are healthy, or so many failed that this cannot
// be any more. errs says which were not started. The others go on as they are.
func (d *deployment) waitEnough(
	ctx context.Context, s api.Service, instances []*instance, errs []error, enough int, timeout time.Duration,
) (*instance, error) {
	waiting, cancel := context.WithCancelCause(ctx)
	type outcome struct {
		inst *instance
		err  error
	}
	outcomes := make(chan outcome, len(instances))
	var group errgroup.Group
	defer func() {
		cancel(nil)
		_ = group.Wait() // every error is among the outcomes
	}()
	for i, inst := range instances {
		if errs[i] != nil {
			outcomes <- outcome{inst, errs[i]}
			continue
		}
		group.Go(func() error {
			outcomes <- outcome{inst, d.waitHealthy(waiting, s, inst, timeout)}
			return nil
		})
	}
	healthy, failed := 0, 0
	for healthy < enough {
		o := <-outcomes
		if o.err == nil {
			healthy++
			continue
		}
		if failed++; len(instances)-failed < enough {
			return o.inst, o.err
		}
	}
	return nil, nil
}

// start starts the instance, or takes the one that already runs. A runtime
// that makes no progress for as long as timeout is given up. told, which may be nil, learns of
// the progress.
func (d *deployment) start(ctx context.Context, id string, timeout time.Duration, told func(api.Step, string)) (*instance, error) {
	k, name := d.k, d.generation.Run.Runtime()
	rt, ok := k.c.opts.Runtimes[name]
	if !ok {
		return nil, invalidf("this server runs without it", "there is no runtime %q here", name)
	}
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

	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hung := fmt.Errorf("the start made no progress for %s", timeout)
	idle := time.AfterFunc(timeout, func() { cancel(hung) })
	defer idle.Stop()
	failpoint.Pass(failpoint.InstanceWanted)
	status, err := rt.Start(starting, k.c.workload(k.key, d.generation, id), func(step api.Step, detail string) {
		idle.Reset(timeout)
		if told != nil {
			told(step, detail)
		}
	})
	if err != nil {
		if cause := context.Cause(starting); cause != nil && errors.Is(cause, hung) {
			err = hung
		}
		return nil, err
	}
	failpoint.Pass(failpoint.InstanceStarted)
	return k.c.take(k, name, status), nil
}

// waitHealthy asks the instance until it is healthy, it ends, or timeout is over.
func (d *deployment) waitHealthy(ctx context.Context, s api.Service, inst *instance, timeout time.Duration) error {
	k := d.k
	k.c.mu.Lock()
	ended := inst.ended
	k.c.mu.Unlock()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	began, pause := time.Now(), minPause
	if healthKind(s.Health) == api.HealthProcess {
		pause = aliveFor
	}
	checks := 0
	for first := true; ; first = false {
		if !first || healthKind(s.Health) != api.HealthProcess {
			checks++
			if k.probe(ctx, s, inst, nil).after > 0 {
				k.c.mu.Lock()
				inst.nextCheck = time.Now().Add(interval(s))
				k.c.mu.Unlock()
				return nil
			}
		}
		select {
		case <-time.After(pause):
			// What takes long is asked less often: nobody waits for much longer than it takes.
			pause = startPause(began)
		case <-ended:
			k.c.mu.Lock()
			defer k.c.mu.Unlock()
			return errors.New(exitReason(inst.Status))
		case <-deadline.C:
			return d.explainUnhealthy(ctx, s, inst, timeout, checks)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// startPause is the time until the next check of what has been starting since began.
func startPause(began time.Time) time.Duration {
	return min(max(time.Since(began)/20, minPause), maxPause)
}

// minPause and maxPause bound the time between two checks of an instance that starts.
const (
	minPause = 5 * time.Millisecond
	maxPause = 100 * time.Millisecond
)

// healthHint says what to look at where an instance does not become healthy.
func healthHint(run api.Run) string {
	if run.External != nil {
		return "can this machine reach " + run.External.URL + "? Its health check is set per service"
	}
	if run.ECS != nil {
		return "does it listen on the port in PORT, and does its security group let the proxies and this server in? `layover ecs check` looks. Its health check is set per service"
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
	if words := stepDoing[step]; words != "" && detail != "" {
		d.progress(words + ": " + detail)
	} else {
		d.progress(words)
	}
	if detail != "" {
		d.detail(ctx, step, detail)
	}
}

// detail tells of progress within a step, at most once a second.
func (d *deployment) detail(ctx context.Context, step api.Step, detail string) {
	if time.Since(d.detailAt) < time.Second {
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
	d.k.event(ctx, api.Event{
		Type: api.EventDeployStep, Generation: d.generation.Number, Step: step,
		Took:    api.Duration(max(time.Since(d.stepBegan), time.Microsecond)),
		Message: fmt.Sprintf("%s: %s", d.k.key, words),
	})
}

// progress says what the start does at the moment, to those who wait for it.
func (d *deployment) progress(words string) {
	c := d.k.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.k.progress == words || words != "" && time.Since(d.toldAt) < progressEvery && d.toldStep == d.step {
		return
	}
	d.k.progress, d.toldAt, d.toldStep = words, time.Now(), d.step
	if words != "" {
		c.touchLocked(d.k.key)
		c.publishSoon()
	}
}

// progressEvery is how often a step of a start says how far it is.
const progressEvery = 500 * time.Millisecond

var stepDoing = map[api.Step]string{
	api.StepSetup:   "its setup runs",
	api.StepPull:    "its image is being pulled",
	api.StepStart:   "it starts",
	api.StepHealthy: "it has started, and is not healthy yet",
}

var stepDone = map[api.Step]string{
	api.StepSetup:   "set up",
	api.StepPull:    "image pulled",
	api.StepStart:   "started",
	api.StepHealthy: "healthy",
	api.StepRouted:  "routed",
}
