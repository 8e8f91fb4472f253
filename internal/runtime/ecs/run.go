package ecs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// startTask runs the task of an instance, and waits until it runs.
func (c *cluster) startTask(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	found, err := c.find(ctx, w.ID)
	if err != nil {
		return control.Status{}, err
	}
	if found != nil && !found.ended() {
		step(api.StepStart, "task "+shortARN(aws.ToString(found.TaskArn)))
		return c.untilRunning(ctx, w.ID, aws.ToString(found.TaskArn), step)
	}
	p, definition, done, err := c.prepare(ctx, w)
	if err != nil {
		return control.Status{}, err
	}
	if found != nil {
		c.keepLog(ctx, found)
		c.forget(w.ID)
	}
	done = sync.OnceFunc(done)
	defer done()
	if found != nil && aws.ToString(found.TaskDefinitionArn) != definition {
		c.drop(ctx, aws.ToString(found.TaskDefinitionArn))
	}
	in, err := c.runInput(p, definition)
	arn := ""
	if err == nil {
		step(api.StepStart, "a task of "+shortARN(definition))
		arn, err = c.runOne(ctx, w.ID, in)
	}
	if err != nil {
		done()
		c.drop(context.WithoutCancel(ctx), definition)
		return control.Status{}, err
	}
	status, err := c.untilRunning(ctx, w.ID, arn, step)
	if err != nil {
		done()
		c.abandon(ctx, w.ID)
	}
	return status, err
}

// runOne runs the task of an instance, and returns its ARN.
//
// ECS runs nothing twice for one token, for 24 hours. The same call made anew, as by a server that was ended in between, gives the
// same task; where that has ended meanwhile, the call is made as the one behind it, and so gives another.
func (c *cluster) runOne(ctx context.Context, id string, in *ecs.RunTaskInput) (arn string, err error) {
	last := c.lastEnded(id)
	for range earlierRuns {
		in.ClientToken = runToken(in, last)
		out, err := change(ctx, c.account, c.runTask, in)
		switch {
		case err != nil && ctx.Err() != nil: // nobody knows whether it was run
			c.discard(ctx, id, in)
			return "", err
		case err != nil:
			return "", c.fail(ctx, "run a task for "+id, err)
		case len(out.Tasks) == 0:
			return "", notPlaced(id, out.Failures)
		}
		started := out.Tasks[0]
		if len(started.Tags) == 0 {
			started.Tags = in.Tags
		}
		arn = aws.ToString(started.TaskArn)
		c.mu.Lock()
		c.takeLocked(&started)
		known := c.tasks[arn]
		over := known != nil && known.ended()
		if over {
			known.forgotten = true
		}
		c.mu.Unlock()
		if !over {
			return arn, nil
		}
		last = arn
	}
	return "", &control.Error{
		Code: api.CodeInvalid, Message: fmt.Sprintf("ECS gives tasks of %s that have ended, and runs no other", id),
		Hint: "deploy it again: another generation is run by other calls",
	}
}

// earlierRuns is how many tasks of an instance that nobody knows of any more are passed by.
const earlierRuns = 100

// lastEnded is the ARN of the newest task of an instance that has ended, also of one that was let go of; "" where none is known.
func (c *cluster) lastEnded(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var newest *task
	for _, t := range c.tasks {
		if t.ID == id && t.ended() && !t.ofECSService() && (newest == nil || newer(t, newest)) {
			newest = t
		}
	}
	if newest == nil {
		return ""
	}
	return aws.ToString(newest.TaskArn)
}

// runToken is the token of a call behind the task last. ECS refuses one token for two calls that are not the same.
func runToken(in *ecs.RunTaskInput, last string) *string {
	call := *in
	call.ClientToken = nil
	text, _ := json.Marshal(call) //nolint:gosec // all of it can be written, and what is called a token here is no secret
	return aws.String(shortHash(append(text, last...)))
}

// prepare makes the plan of an instance, and the definition that it is run from.
func (c *cluster) prepare(ctx context.Context, w control.Workload) (p plan, definition string, done func(), err error) {
	if like, done := c.like(w); like != nil {
		if p, err = c.planLike(ctx, w, like); err != nil {
			done()
			return plan{}, "", nil, err
		}
		return p, aws.ToString(like.TaskDefinitionArn), done, nil
	}
	if p, err = c.plan(ctx, w); err != nil {
		return plan{}, "", nil, err
	}
	definition, done, err = c.ensureDefinition(ctx, p)
	return p, definition, done, err
}

// runInput says how to run the task of p.
func (c *cluster) runInput(p plan, definition string) (*ecs.RunTaskInput, error) {
	e := p.workload.Run.ECS
	launch, strategy, err := p.template.placement(e)
	if err != nil {
		return nil, err
	}
	network, err := p.template.network(e)
	if err != nil {
		return nil, err
	}
	in := &ecs.RunTaskInput{
		Cluster: &c.name, TaskDefinition: &definition, Count: aws.Int32(1),
		LaunchType: launch, CapacityProviderStrategy: strategy, NetworkConfiguration: network,
		StartedBy: aws.String(c.startedBy(p.workload.ID)), Tags: c.runtime.instanceTags(p), EnableECSManagedTags: true,
	}
	if s := p.template.service; s != nil {
		in.EnableExecuteCommand = s.EnableExecuteCommand
		if fargate(launch, strategy) {
			in.PlatformVersion = s.PlatformVersion
		} else {
			in.PlacementConstraints, in.PlacementStrategy = s.PlacementConstraints, s.PlacementStrategy
		}
	}
	if len(p.own) > 0 {
		in.Overrides = &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{
			Name: &p.container, Environment: variables(p.own),
		}}}
	}
	return in, nil
}

// startedBy names an instance in 36 characters, by which its tasks can be listed.
func (c *cluster) startedBy(id string) string {
	sum := sha256.Sum256([]byte(c.runtime.environment + "\x00" + id))
	return "layover-" + hex.EncodeToString(sum[:14])
}

// notPlaced says why ECS ran no task.
func notPlaced(id string, failures []types.Failure) error {
	why := "ECS gave no reason"
	if len(failures) > 0 {
		why = explainFailure(failures[0])
	}
	return &control.Error{
		Code:    api.CodeInvalid,
		Message: fmt.Sprintf("no task was run for %s: %s", id, why),
		Hint:    "`layover ecs check` shows what the cluster has; a capacity provider with managed scaling gets machines by itself",
	}
}

func explainFailure(f types.Failure) string {
	reason := aws.ToString(f.Reason)
	if detail := aws.ToString(f.Detail); detail != "" {
		return noCapacity(reason) + " (" + detail + ")"
	}
	return noCapacity(reason)
}

// find returns the newest task of an instance, nil where there is none. It asks ECS where nobody looked lately. What an
// earlier server ran that nobody has seen yet is none: to run it once more gives the same task, by its token.
func (c *cluster) find(ctx context.Context, id string) (*task, error) {
	t := c.newestKnown(id)
	c.mu.Lock()
	lately := time.Since(c.looked) < lookedAtLately
	c.mu.Unlock()
	if t != nil && !t.ended() || lately {
		return t, nil
	}
	by := c.startedBy(id)
	out, err := ask(ctx, c.account, c.listTasks, &ecs.ListTasksInput{Cluster: &c.name, StartedBy: &by})
	if errors.As(err, new(*types.ClusterNotFoundException)) {
		return nil, nil //nolint:nilnil // what is not there has nothing in it
	}
	if err != nil {
		return nil, c.fail(ctx, "look for the task of "+id, err)
	}
	if len(out.TaskArns) > 0 {
		if err := c.describe(ctx, out.TaskArns); err != nil {
			return nil, err
		}
	}
	return c.newestKnown(id), nil
}

// newestKnown returns the newest task that is known of an instance, nil where there is none.
func (c *cluster) newestKnown(id string) *task {
	c.mu.Lock()
	defer c.mu.Unlock()
	var newest *task
	for _, t := range c.tasks {
		if t.ID == id && !t.forgotten && !t.ofECSService() && (newest == nil || newer(t, newest)) {
			newest = t
		}
	}
	if newest == nil {
		return nil
	}
	out := *newest
	return &out
}

// newer says whether a is of a later run than b; of two at the same time, the one that goes on.
func newer(a, b *task) bool {
	at, than := aws.ToTime(a.CreatedAt), aws.ToTime(b.CreatedAt)
	return at.After(than) || at.Equal(than) && b.ended() && !a.ended()
}

// untilRunning waits until a task runs, and tells how far it is. A task that ended before it ran is an error; one
// that ran and ended is a status.
func (c *cluster) untilRunning(ctx context.Context, id, arn string, step func(api.Step, string)) (control.Status, error) {
	last := ""
	t, err := c.await(ctx, arn, func(t *task) bool {
		if now := aws.ToString(t.LastStatus); now != last {
			last = now
			if words := doing[now]; words != "" {
				step(api.StepStart, words)
			}
		}
		if t.ended() {
			return true
		}
		return aws.ToString(t.LastStatus) == statusRunning && len(c.addressesLocked(t, t.container, t.port)) > 0
	})
	if err != nil {
		return control.Status{}, c.fail(ctx, "wait for the task of "+id, err)
	}
	if t.ended() && t.StartedAt == nil {
		_, reason := whyStopped(&t.Task, t.container)
		return control.Status{}, &control.Error{
			Code: api.CodeInvalid, Message: fmt.Sprintf("the task of %s did not start: %s", id, cmp.Or(reason, "ECS gave no reason")),
			Hint: "`layover ecs check` looks at everything that a deployment needs",
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taskStatusLocked(t), nil
}

// doing says what a task does on its way.
var doing = map[string]string{ //nolint:gochecknoglobals // a table
	"PROVISIONING": "ECS looks for a place and makes its network",
	"PENDING":      "ECS fetches the image",
	"ACTIVATING":   "ECS starts its containers",
}

// addressesLocked returns where a task that runs, and is to run on, is reached.
func (c *cluster) addressesLocked(t *task, container string, port int) []control.Address {
	if aws.ToString(t.LastStatus) != statusRunning || aws.ToString(t.DesiredStatus) != statusRunning {
		return nil
	}
	host, hostPort := ownAddress(&t.Task), port
	if host == "" {
		host = c.hosts[aws.ToString(t.ContainerInstanceArn)]
		for _, d := range t.Containers {
			if aws.ToString(d.Name) != container {
				continue
			}
			for _, b := range d.NetworkBindings {
				if int(aws.ToInt32(b.ContainerPort)) == port {
					hostPort = int(aws.ToInt32(b.HostPort))
				}
			}
		}
	}
	if host == "" || hostPort == 0 {
		return nil
	}
	return []control.Address{{HostPort: net.JoinHostPort(host, strconv.Itoa(hostPort)), From: ownAddress(&t.Task)}}
}

// taskStatusLocked is the status of the instance of a task.
func (c *cluster) taskStatusLocked(t *task) control.Status {
	status := control.Status{
		ID: t.ID, Service: t.ofService, Version: t.ofVersion, Generation: t.Generation,
		Running: true, StartedAt: aws.ToTime(t.CreatedAt).UTC(), Addresses: c.addressesLocked(t, t.container, t.port),
	}
	if t.ended() {
		ended(&status, &t.Task, t.container)
		return status
	}
	status.Images, status.Base = c.imagesLocked([]*task{t}, t.container), c.baseLocked(&t.labels)
	return status
}

// statuses adds what is known of the instances in the cluster: of each its newest run.
func (c *cluster) statuses(byID map[string]control.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	newest := map[string]*task{}
	for _, t := range c.tasks {
		if t.ID == "" || t.ofECSService() || t.forgotten {
			continue
		}
		if known := newest[t.ID]; known == nil || newer(t, known) {
			newest[t.ID] = t
		}
	}
	for id, t := range newest {
		byID[id] = c.taskStatusLocked(t)
	}
	for id, s := range c.services {
		if !s.ended {
			byID[id] = c.serviceStatusLocked(s)
		}
	}
	for id, a := range c.adopted {
		byID[id] = c.adoptedStatusLocked(a)
	}
}

// stop ends whatever the cluster has of an instance.
func (c *cluster) stop(ctx context.Context, id string) error {
	c.mu.Lock()
	_, adopted := c.adopted[id]
	delete(c.adopted, id)
	c.mu.Unlock()
	if adopted {
		c.runtime.notify()
		return nil
	}
	if stopped, err := c.stopService(ctx, id); stopped || err != nil {
		return err
	}
	t, err := c.find(ctx, id)
	if err != nil || t == nil {
		return err
	}
	arn := aws.ToString(t.TaskArn)
	if !t.ended() {
		if err := c.endTask(ctx, id, arn); err != nil {
			return err
		}
		if t, err = c.await(ctx, arn, (*task).ended); err != nil {
			return c.fail(ctx, "wait for the end of the task of "+id, err)
		}
	}
	c.keepLog(ctx, t)
	c.forget(id)
	c.drop(ctx, aws.ToString(t.TaskDefinitionArn))
	return nil
}

// endTask asks ECS to end a task. How long its containers have after SIGTERM its definition says (stopTimeout).
func (c *cluster) endTask(ctx context.Context, id, arn string) error {
	_, err := change(ctx, c.account, c.stopTask, &ecs.StopTaskInput{Cluster: &c.name, Task: &arn, Reason: aws.String(stopReason)})
	if err != nil {
		return c.fail(ctx, "stop the task of "+id, err)
	}
	return nil
}

// forget lets go of all tasks of an instance, which have ended.
func (c *cluster) forget(id string) {
	c.mu.Lock()
	for _, t := range c.tasks {
		if t.ID == id && t.ended() {
			t.forgotten = true
		}
	}
	c.mu.Unlock()
	c.runtime.notify()
}

// abandon ends what a start that failed has left, also when nobody waits for it any more.
func (c *cluster) abandon(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lingering)
	defer cancel()
	if err := c.stop(ctx, id); err != nil {
		c.runtime.log.WarnContext(ctx, "task of a start that failed not ended", "instance", id, "err", err)
	}
}

// discard ends a task that was asked for by a call of which the answer never came. The same call again gives
// that task, or one that is ended as well.
func (c *cluster) discard(ctx context.Context, id string, in *ecs.RunTaskInput) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lingering)
	defer cancel()
	out, err := change(ctx, c.account, c.runTask, in)
	if err != nil {
		c.runtime.log.WarnContext(ctx, "task of a start that was given up not looked for", "instance", id, "err", err)
		return
	}
	for _, t := range out.Tasks {
		if err := c.endTask(ctx, id, aws.ToString(t.TaskArn)); err != nil {
			c.runtime.log.WarnContext(ctx, "task of a start that was given up not ended", "instance", id, "err", err)
		}
	}
}
