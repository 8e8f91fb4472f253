package ecs

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// service is an ECS service of ours, which keeps one task of an instance running: where that ends, ECS runs another
// and the address of the instance changes.
type service struct {
	types.Service
	labels
	ended bool // it is being deleted
}

// serviceName names the ECS service of an instance.
func (c *cluster) serviceName(id string) string { return c.runtime.prefix() + ecsName(id) }

// failedStarts is how many tasks of a new ECS service may end before one runs: ECS itself never gives up.
const failedStarts = 2

// startService makes the ECS service of an instance, and waits until its task runs.
func (c *cluster) startService(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	found, err := c.lookAtService(ctx, c.serviceName(w.ID))
	if err != nil {
		return control.Status{}, err
	}
	if found == nil {
		if err := c.createService(ctx, w, step); err != nil {
			return control.Status{}, err
		}
	}
	status, err := c.untilServes(ctx, w.ID, step)
	if err != nil && (found == nil || ctx.Err() == nil) {
		c.abandon(ctx, w.ID)
	}
	return status, err
}

func (c *cluster) createService(ctx context.Context, w control.Workload, step func(api.Step, string)) error {
	p, err := c.plan(ctx, w)
	if err != nil {
		return err
	}
	definition, done, err := c.ensureDefinition(ctx, p)
	if err != nil {
		return err
	}
	task, err := c.runInput(p, definition)
	if err == nil {
		step(api.StepStart, "ECS service "+c.serviceName(w.ID))
		var out *ecs.CreateServiceOutput
		out, err = change(ctx, c.account, c.account.createService, &ecs.CreateServiceInput{
			Cluster: &c.name, ServiceName: aws.String(c.serviceName(w.ID)), TaskDefinition: &definition, DesiredCount: aws.Int32(1),
			LaunchType: task.LaunchType, CapacityProviderStrategy: task.CapacityProviderStrategy, PlatformVersion: task.PlatformVersion,
			NetworkConfiguration: task.NetworkConfiguration, PlacementConstraints: task.PlacementConstraints,
			PlacementStrategy: task.PlacementStrategy, EnableExecuteCommand: task.EnableExecuteCommand,
			Tags: task.Tags, PropagateTags: types.PropagateTagsService, EnableECSManagedTags: true,
			ClientToken:             aws.String(rand.Text()), // the SDK sends it again where the answer gets lost
			DeploymentConfiguration: &types.DeploymentConfiguration{MinimumHealthyPercent: aws.Int32(0), MaximumPercent: aws.Int32(200)},
		})
		if err == nil {
			c.mu.Lock()
			c.services[w.ID] = &service{Service: *out.Service, labels: c.runtime.labelled(task.Tags)}
			c.mu.Unlock()
			done()
			return nil
		}
		err = c.fail(ctx, "make an ECS service for "+w.ID, err)
	}
	done()
	if ctx.Err() != nil { // nobody knows whether it was made
		c.abandon(ctx, w.ID)
	}
	c.drop(context.WithoutCancel(ctx), definition)
	return err
}

// untilServes waits until an ECS service of ours has a task that runs. It looks at its tasks again and again, less often
// where events tell of them.
func (c *cluster) untilServes(ctx context.Context, id string, step func(api.Step, string)) (control.Status, error) {
	tick := time.NewTicker(c.runtime.hurry)
	defer tick.Stop()
	began, looked := time.Now(), time.Now()
	looking, stop := context.WithCancel(ctx)
	looks, busy := make(chan error, 1), false
	defer func() {
		stop()
		if busy {
			_ = <-looks // nobody waits for what it found
		}
	}()
	look := func() { // an event that comes meanwhile need not wait for it
		busy = true
		go func() { looks <- c.lookAtTasksOf(looking, c.serviceName(id)) }()
	}
	look()
	for {
		changed := c.runtime.changed()
		c.mu.Lock()
		s := c.services[id]
		if s == nil {
			c.mu.Unlock()
			return control.Status{}, invalid("", "the ECS service of %s is gone: something other than Layover deleted it", id)
		}
		status := c.serviceStatusLocked(s)
		failed, why := 0, ""
		for _, t := range c.tasks {
			if t.ID == id && t.ended() && aws.ToTime(t.CreatedAt).After(began.Add(-time.Second)) {
				failed++
				_, why = whyStopped(&t.Task, t.container)
			} else if t.ID == id && doing[aws.ToString(t.LastStatus)] != "" {
				step(api.StepStart, doing[aws.ToString(t.LastStatus)])
			}
		}
		c.mu.Unlock()
		switch {
		case len(status.Addresses) > 0:
			c.runtime.notify()
			return status, nil
		case failed >= failedStarts:
			return control.Status{}, &control.Error{
				Code: api.CodeInvalid, Message: fmt.Sprintf("%d tasks of %s ended before one answered: %s", failed, id, cmp.Or(why, "it exited")),
				Hint: "`layover ecs check` looks at everything that a deployment needs",
			}
		}
		select {
		case <-changed:
		case err := <-looks:
			if busy, looked = false, time.Now(); err != nil {
				return control.Status{}, err
			}
		case <-tick.C:
			if !busy && time.Since(looked) >= c.runtime.hurried() {
				look()
			}
		case <-ctx.Done():
			return control.Status{}, c.fail(ctx, "wait for a task of "+id, ctx.Err())
		}
	}
}

// lookAtTasksOf describes the tasks of one ECS service.
func (c *cluster) lookAtTasksOf(ctx context.Context, name string) error {
	var arns []string
	for _, status := range []types.DesiredStatus{types.DesiredStatusRunning, types.DesiredStatusStopped} {
		out, err := ask(ctx, c.account, c.listTasks, &ecs.ListTasksInput{Cluster: &c.name, ServiceName: &name, DesiredStatus: status})
		if err != nil {
			return c.fail(ctx, "list the tasks of the ECS service "+name, err)
		}
		arns = append(arns, out.TaskArns...)
	}
	c.mu.Lock()
	for _, arn := range arns {
		delete(c.foreign, arn)
	}
	for arn, t := range c.tasks { // what stopped may be in no list for a moment
		if aws.ToString(t.Group) == "service:"+name && !t.ended() {
			arns = append(arns, arn)
		}
	}
	c.mu.Unlock()
	if err := c.describe(ctx, unique(arns)); err != nil {
		return err
	}
	return c.findHosts(ctx)
}

func unique(all []string) []string {
	seen := map[string]bool{}
	out := all[:0]
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// lookAtService asks for an ECS service of ours, and returns nil where there is none that is active.
func (c *cluster) lookAtService(ctx context.Context, name string) (*service, error) {
	if err := c.takeServices(ctx, []string{name}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.services {
		if aws.ToString(s.ServiceName) == name && !s.ended {
			return s, nil
		}
	}
	return nil, nil //nolint:nilnil // there is none
}

// takeServices asks for ECS services of ours by name, and takes over what is told.
func (c *cluster) takeServices(ctx context.Context, names []string) error {
	out, err := ask(ctx, c.account, c.describeServices, &ecs.DescribeServicesInput{
		Cluster: &c.name, Services: names, Include: []types.ServiceField{types.ServiceFieldTags},
	})
	if err != nil {
		return c.fail(ctx, "look at the ECS services of cluster "+c.name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, told := range out.Services {
		of := c.runtime.labelled(told.Tags)
		if of.ID == "" {
			continue
		}
		c.services[of.ID] = &service{Service: told, labels: of, ended: aws.ToString(told.Status) != serviceActive}
	}
	return nil
}

// lookAtServices finds the ECS services of ours that are not known, where there can be any.
func (c *cluster) lookAtServices(ctx context.Context) error {
	if !c.anyServices() {
		return nil
	}
	there := map[string]bool{}
	in := &ecs.ListServicesInput{Cluster: &c.name, MaxResults: aws.Int32(tasksPerCall)}
	for {
		out, err := ask(ctx, c.account, c.listServices, in)
		if err != nil {
			return c.fail(ctx, "list the ECS services of cluster "+c.name, err)
		}
		for _, arn := range out.ServiceArns {
			if name := shortARN(arn); strings.HasPrefix(name, c.runtime.prefix()) {
				there[name] = true
			}
		}
		if out.NextToken == nil {
			break
		}
		in.NextToken = out.NextToken
	}
	c.mu.Lock()
	for id, s := range c.services {
		name := aws.ToString(s.ServiceName)
		if !there[name] && time.Since(aws.ToTime(s.CreatedAt)) > invisible {
			delete(c.services, id)
		}
		if !s.ended {
			delete(there, name)
		}
	}
	c.mu.Unlock()
	var names []string
	for name := range there {
		names = append(names, name)
	}
	for len(names) > 0 {
		chunk := names[:min(servicesPerCall, len(names))]
		names = names[len(chunk):]
		if err := c.takeServices(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

// anyServices says whether something of the environment runs as an ECS service in the cluster, or may be left of that.
func (c *cluster) anyServices() bool {
	for _, run := range c.runtime.runs() {
		if run.ECS != nil && run.ECS.Mode == modeService && c.runtime.key(*run.ECS) == c.key {
			return true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.services) > 0
}

// serviceStatusLocked is the status of the instance of an ECS service: it runs as long as ECS keeps a task running.
func (c *cluster) serviceStatusLocked(s *service) control.Status {
	status := control.Status{
		ID: s.ID, Service: s.ofService, Version: s.ofVersion, Generation: s.Generation, Running: true,
		StartedAt: aws.ToTime(s.CreatedAt).UTC(),
	}
	tasks := c.tasksOfLocked(aws.ToString(s.ServiceName))
	for _, t := range tasks {
		status.Addresses = append(status.Addresses, c.addressesLocked(t, s.container, s.port)...)
	}
	status.Images, status.Base = c.imagesLocked(tasks, s.container), c.baseLocked(&s.labels)
	return status
}

// serviceOfLocked returns the ECS service of ours that a task is of, by its name; nil where that is not known.
func (c *cluster) serviceOfLocked(t *types.Task) *service {
	name, ok := strings.CutPrefix(aws.ToString(t.Group), "service:")
	if !ok || !strings.HasPrefix(name, c.runtime.prefix()) {
		return nil
	}
	for _, s := range c.services {
		if aws.ToString(s.ServiceName) == name {
			return s
		}
	}
	return nil
}

// tasksOfLocked returns the tasks of an ECS service that have not ended, the oldest first.
func (c *cluster) tasksOfLocked(name string) []*task {
	var out []*task
	for _, t := range c.tasks {
		if aws.ToString(t.Group) == "service:"+name && !t.ended() {
			out = append(out, t)
		}
	}
	sortTasks(out)
	return out
}

// stopService deletes the ECS service of an instance once its tasks have ended, and says whether there was one.
func (c *cluster) stopService(ctx context.Context, id string) (bool, error) {
	c.mu.Lock()
	_, known := c.services[id]
	c.mu.Unlock()
	if !known && !c.anyServices() {
		return false, nil
	}
	name := c.serviceName(id)
	s, err := c.lookAtService(ctx, name)
	if err != nil || s == nil {
		return false, err
	}
	what := "stop the ECS service of " + id
	if _, err := change(ctx, c.account, c.updateService, &ecs.UpdateServiceInput{Cluster: &c.name, Service: &name, DesiredCount: aws.Int32(0)}); err != nil {
		return true, c.fail(ctx, what, err)
	}
	if err := c.lookAtTasksOf(ctx, name); err != nil {
		return true, err
	}
	c.mu.Lock()
	running := c.tasksOfLocked(name)
	arns := make([]string, len(running))
	for i, t := range running {
		arns[i] = aws.ToString(t.TaskArn)
	}
	c.mu.Unlock()
	for _, arn := range arns {
		t, err := c.await(ctx, arn, (*task).ended)
		if err != nil {
			return true, c.fail(ctx, "wait for the end of the tasks of "+id, err)
		}
		c.keepLog(ctx, t)
	}
	if _, err := change(ctx, c.account, c.deleteService, &ecs.DeleteServiceInput{Cluster: &c.name, Service: &name, Force: aws.Bool(true)}); err != nil {
		return true, c.fail(ctx, what, err)
	}
	c.mu.Lock()
	if known := c.services[id]; known != nil {
		known.ended = true
	}
	c.mu.Unlock()
	c.forget(id)
	c.drop(ctx, aws.ToString(s.TaskDefinition))
	return true, nil
}
