package ecs

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// cluster is one cluster, and what is known of the tasks in it. All that the environment asks of it goes
// through here: questions of many are one call, and none is asked twice.
//
// What is known changes by what a description or an event says of one task, and by nothing else: a page that
// failed, or that came without a task, takes nothing away.
type cluster struct {
	*account
	runtime *Runtime
	key     clusterKey
	name    string // as it was given: name or ARN

	looking chan struct{} // holds one token: who has it looks

	mu          sync.Mutex
	definitions map[string]*definition // by family and revision; nil of those that are not there any more
	templates   map[string]*template   // by the name they were asked for with
	origins     map[string]*origin     // by name, see originOf
	differ      map[[2]string][]string // in what two definitions differ
	patient     time.Time              // templates are not looked at before: the last time it did not work

	tasks    map[string]*task     // by ARN: those of this environment, and of adopted services
	foreign  map[string]bool      // ARNs of the others that ran at the last look
	services map[string]*service  // of this environment, by instance
	adopted  map[string]*adoption // by instance
	hosts    map[string]string    // addresses of container instances, by their ARN
	asked    map[string]int       // ARNs that are described at once, and how many wait for each
	once     map[string]bool      // ARNs to describe with them, one time
	asking   bool                 // somebody describes them
	looked   time.Time            // when the last look began that saw all
	using    map[string]int       // task definitions that something is being started of
	untidy   error                // why what is no longer used could not be removed the last time
	last     map[string]string    // the newest definition of each family: its ARN, after its content's hash
}

// task is one task as far as it was told of.
type task struct {
	types.Task
	labels         // of this environment; none where it is of an adopted service
	missing   int  // descriptions in a row that did not find it
	forgotten bool // it has ended, and was let go of
}

// How AWS bounds its calls.
const (
	tasksPerCall    = 100
	servicesPerCall = 10
	stoppedPages    = 10 // of tasks that have ended, at the first look
)

// invisible is how long a new task may be missing from lists and descriptions: those are eventually consistent.
const invisible = time.Minute

func newCluster(r *Runtime, a *account, key clusterKey) *cluster {
	c := &cluster{
		account: a, runtime: r, key: key, name: key.name,
		looking:     make(chan struct{}, 1),
		definitions: map[string]*definition{}, templates: map[string]*template{}, origins: map[string]*origin{}, differ: map[[2]string][]string{},
		tasks: map[string]*task{}, foreign: map[string]bool{}, services: map[string]*service{}, adopted: map[string]*adoption{},
		hosts: map[string]string{}, asked: map[string]int{}, once: map[string]bool{}, using: map[string]int{}, last: map[string]string{},
	}
	c.looking <- struct{}{}
	return c
}

// fresh makes sure that everything in the cluster was looked at since then. An error means that something was not.
func (c *cluster) fresh(ctx context.Context, since time.Time) error {
	select {
	case <-c.looking:
		defer func() { c.looking <- struct{}{} }()
	case <-ctx.Done():
		return c.fail(ctx, "look at cluster "+c.name, ctx.Err())
	}
	looked := c.lookedAt()
	if looked.After(since) {
		return nil
	}
	began := time.Now()
	err := c.look(ctx, looked.IsZero())
	if err != nil && !errors.As(err, new(*types.ClusterNotFoundException)) { // what is not there has nothing in it
		return err
	}
	c.mu.Lock()
	c.looked = began
	c.mu.Unlock()
	return nil
}

// lookedAt is when the last look began that saw all.
func (c *cluster) lookedAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.looked
}

// look asks for all tasks, and describes those of which something new may be told.
func (c *cluster) look(ctx context.Context, first bool) error {
	running, err := c.list(ctx, types.DesiredStatusRunning, 0)
	if err != nil {
		return err
	}
	if first { // what ended while nobody looked; later ones are known from when they ran
		stopped, err := c.list(ctx, types.DesiredStatusStopped, stoppedPages)
		if err != nil {
			return err
		}
		running = append(running, stopped...)
	}
	if err := c.lookAtServices(ctx); err != nil {
		return err
	}
	if err := c.describe(ctx, c.unsettled(running)); err != nil {
		return err
	}
	c.runtime.notify()
	return c.findHosts(ctx)
}

// list returns the ARNs of the tasks that ECS wants to be so. pages bounds how many pages are read; 0 is no bound.
func (c *cluster) list(ctx context.Context, status types.DesiredStatus, pages int) ([]string, error) {
	var all []string
	in := &ecs.ListTasksInput{Cluster: &c.name, DesiredStatus: status, MaxResults: aws.Int32(tasksPerCall)}
	for page := 1; ; page++ {
		out, err := ask(ctx, c.account, c.listTasks, in)
		if err != nil {
			return nil, c.fail(ctx, "list the tasks of cluster "+c.name, err)
		}
		all = append(all, out.TaskArns...)
		if out.NextToken == nil || page == pages {
			return all, nil
		}
		in.NextToken = out.NextToken
	}
}

// unsettled returns of the tasks that are listed those that are new, and of those that are known the ones
// that are on their way somewhere, or are no more in the list.
func (c *cluster) unsettled(listed []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	there := make(map[string]bool, len(listed))
	foreign := make(map[string]bool, len(c.foreign))
	var out []string
	for _, arn := range listed {
		there[arn] = true
		switch {
		case c.foreign[arn]:
			foreign[arn] = true
		case c.tasks[arn] == nil, !c.tasks[arn].settled():
			out = append(out, arn)
		}
	}
	c.foreign = foreign
	for arn, t := range c.tasks {
		switch {
		case t.ended() && time.Since(aws.ToTime(t.StoppedAt)) > rememberEnded:
			delete(c.tasks, arn)
		case !there[arn] && !t.ended():
			out = append(out, arn)
		}
	}
	return out
}

// rememberEnded is for how long a task that ended is remembered: as long as ECS does.
const rememberEnded = time.Hour

// describe asks for tasks, a hundred a call, and takes over what is told.
func (c *cluster) describe(ctx context.Context, arns []string) error {
	for chunk := range slices.Chunk(arns, tasksPerCall) {
		out, err := ask(ctx, c.account, c.describeTasks, &ecs.DescribeTasksInput{
			Cluster: &c.name, Tasks: chunk, Include: []types.TaskField{types.TaskFieldTags},
		})
		if err != nil {
			return c.fail(ctx, "look at the tasks of cluster "+c.name, err)
		}
		c.mu.Lock()
		for i := range out.Tasks {
			c.takeLocked(&out.Tasks[i])
		}
		for _, failure := range out.Failures {
			c.missingLocked(aws.ToString(failure.Arn))
		}
		c.mu.Unlock()
	}
	return nil
}

// takeLocked takes over what a description says of a task, unless more is known by now.
func (c *cluster) takeLocked(told *types.Task) {
	arn := aws.ToString(told.TaskArn)
	known := c.tasks[arn]
	if known == nil {
		of := c.runtime.labelled(told.Tags)
		if s := c.serviceOfLocked(told); s != nil && of.ID == "" {
			of = s.labels // an event has no tags, and those of the service are the task's
		}
		if of.ID == "" && !c.isAdoptedLocked(told) {
			c.foreign[arn] = true
			return
		}
		// What Layover ended, an earlier server has let go of as well.
		known = &task{labels: of, forgotten: aws.ToString(told.LastStatus) == statusStopped && aws.ToString(told.StoppedReason) == stopReason}
		c.tasks[arn] = known
	}
	known.missing = 0
	if told.Version < known.Version {
		return
	}
	tags := known.Tags
	known.Task = *told
	if known.Tags == nil {
		known.Tags = tags // an event has none
	}
}

// missingLocked notes that ECS does not know a task that it knew. It keeps ended ones for an hour, so
// that one is believed only when it says so twice, of a task that it has had the time to see.
func (c *cluster) missingLocked(arn string) {
	t := c.tasks[arn]
	if t == nil || time.Since(aws.ToTime(t.CreatedAt)) < invisible {
		return
	}
	if t.missing++; t.missing > 1 {
		delete(c.tasks, arn)
	}
}

// isAdoptedLocked says whether a task is of an ECS service that was adopted.
func (c *cluster) isAdoptedLocked(t *types.Task) bool {
	for _, a := range c.adopted {
		if aws.ToString(t.Group) == "service:"+a.service {
			return true
		}
	}
	return false
}

// readoptLocked has the tasks of others looked at again: some may be of what is adopted from now on.
func (c *cluster) readoptLocked() {
	clear(c.foreign)
	c.looked = time.Time{}.Add(1) // long ago, and not the first look
}

// await describes a task again and again, together with all that are waited for, until done says so of it, and
// returns it as it is then.
func (c *cluster) await(ctx context.Context, arn string, done func(*task) bool) (*task, error) {
	c.mu.Lock()
	c.asked[arn]++
	c.askLocked()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked[arn]--; c.asked[arn] == 0 {
			delete(c.asked, arn)
		}
	}()
	for {
		changed := c.runtime.changed()
		c.mu.Lock()
		if t := c.tasks[arn]; t != nil && done(t) {
			now := *t
			c.mu.Unlock()
			return &now, nil
		}
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// askLocked has what is asked for described, unless that goes on already.
func (c *cluster) askLocked() {
	if !c.asking {
		c.asking = true
		go c.describeAsked()
	}
}

// askOnceLocked has a task described one time, soon.
func (c *cluster) askOnceLocked(arn string) {
	c.once[arn] = true
	c.askLocked()
}

// describeAsked describes what is waited for until nobody waits any more: what is to be described one time soon, and
// the rest less often where events tell of it.
func (c *cluster) describeAsked() {
	ctx, last := c.runtime.ctx, time.Now()
	tick := time.NewTicker(c.runtime.hurry)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		soon := len(c.once) > 0
		maps.DeleteFunc(c.once, func(arn string, _ bool) bool { return c.asked[arn] > 0 })
		arns := slices.AppendSeq(slices.Collect(maps.Keys(c.asked)), maps.Keys(c.once))
		if len(arns) == 0 {
			c.asking = false
			c.mu.Unlock()
			return
		}
		if !soon && time.Since(last) < c.runtime.hurried() {
			c.mu.Unlock()
			continue
		}
		clear(c.once)
		c.mu.Unlock()
		last = time.Now()
		err := c.describe(ctx, arns)
		if err == nil {
			err = c.findHosts(ctx)
		}
		if err != nil && ctx.Err() == nil {
			c.runtime.log.Warn("tasks not looked at", "cluster", c.name, "err", err)
		}
		c.runtime.notify()
	}
}

// settled says whether a task stays as it is unless it is ended.
func (t *task) settled() bool {
	return t.ended() || aws.ToString(t.LastStatus) == statusRunning && aws.ToString(t.DesiredStatus) == statusRunning
}

// ofECSService says whether an ECS service runs the task: then it is the service that is the instance.
func (t *task) ofECSService() bool { return strings.HasPrefix(aws.ToString(t.Group), "service:") }

func (t *task) ended() bool { return aws.ToString(t.LastStatus) == statusStopped }

// The states of a task that matter here, of
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-lifecycle-explanation.html.
const (
	statusRunning = "RUNNING"
	statusStopped = "STOPPED"
)

// findHosts looks up the addresses of the container instances that tasks without a network of their own are on.
func (c *cluster) findHosts(ctx context.Context) error {
	c.mu.Lock()
	wanted := map[string]bool{}
	for _, t := range c.tasks {
		if c.hostUnknownLocked(&t.Task) {
			wanted[aws.ToString(t.ContainerInstanceArn)] = true
		}
	}
	c.mu.Unlock()
	if len(wanted) == 0 {
		return nil
	}
	defer c.runtime.notify()
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(wanted)), tasksPerCall) {
		out, err := ask(ctx, c.account, c.describeContainerInstances, &ecs.DescribeContainerInstancesInput{Cluster: &c.name, ContainerInstances: chunk})
		if err != nil {
			return c.fail(ctx, "look at the container instances of cluster "+c.name, err)
		}
		machines := map[string]string{} // container instance, by EC2 instance
		var ids []string
		for _, i := range out.ContainerInstances {
			id := aws.ToString(i.Ec2InstanceId)
			machines[id] = aws.ToString(i.ContainerInstanceArn)
			ids = append(ids, id)
		}
		addresses, err := c.privateAddresses(ctx, ids)
		if err != nil {
			return c.fail(ctx, "look up the addresses of EC2 instances "+strings.Join(ids, ", "), err)
		}
		c.mu.Lock()
		for id, address := range addresses {
			c.hosts[machines[id]] = address
		}
		c.mu.Unlock()
	}
	return nil
}

// hostUnknownLocked says whether a task is on a container instance whose address is needed, and not known.
func (c *cluster) hostUnknownLocked(t *types.Task) bool {
	arn := aws.ToString(t.ContainerInstanceArn)
	return arn != "" && c.hosts[arn] == "" && aws.ToString(t.LastStatus) != statusStopped && ownAddress(t) == ""
}

// ownAddress is the address of the network interface of a task, "" where it has none.
func ownAddress(t *types.Task) string {
	for _, container := range t.Containers {
		for _, i := range container.NetworkInterfaces {
			if address := aws.ToString(i.PrivateIpv4Address); address != "" {
				return address
			}
			if address := aws.ToString(i.Ipv6Address); address != "" {
				return address
			}
		}
	}
	for _, a := range t.Attachments {
		for _, d := range a.Details {
			if aws.ToString(a.Type) == "ElasticNetworkInterface" && aws.ToString(d.Name) == "privateIPv4Address" {
				return aws.ToString(d.Value)
			}
		}
	}
	return ""
}
