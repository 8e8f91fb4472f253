package ecs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Finding is what one step of a check found.
type Finding struct {
	Service string `json:"service,omitempty"` // of ours; "" where it is of the whole environment
	Step    string `json:"step"`
	OK      bool   `json:"ok"`
	Left    bool   `json:"left_out,omitempty"` // it was not looked at: Text says why
	Text    string `json:"text"`
	Hint    string `json:"hint,omitempty"`
}

// The steps of a check, in their order. Those from StepRegister on make something, and take it away again.
const (
	StepCredentials = "credentials"
	StepCluster     = "cluster"
	StepTasks       = "tasks"
	StepEvents      = "events"
	StepTemplate    = "template"
	StepPlacement   = "network and place"
	StepLogGroup    = "log group"
	StepReach       = "reach"
	StepRun         = "run"
	StepConnect     = "connect"
	StepLog         = "log"
	StepStop        = "stop"
	StepTidy        = "tidy"
)

// checkTimeout bounds the connection to a task.
const checkTimeout = 3 * time.Second

// Check looks at everything that the deployments of these services, by their names, need. With try it also runs an
// instance of each from its template, connects to it, reads its log and stops it.
func (r *Runtime) Check(ctx context.Context, services []api.Service, try bool, told func(Finding)) {
	k := &check{r: r, ctx: ctx, told: told, seen: map[*account]bool{}, clusters: map[*cluster]bool{}}
	for _, s := range services {
		if s.Run.ECS == nil {
			continue
		}
		k.service(s, try)
	}
	if r.events != "" {
		k.queue()
	}
}

type check struct {
	r        *Runtime
	ctx      context.Context //nolint:containedctx // a check is one call
	told     func(Finding)
	seen     map[*account]bool // whether its credentials are right
	clusters map[*cluster]bool // whether it is right
}

// find tells of a step, and says whether it went well.
func (k *check) find(service, step, text string, err error) bool {
	f := Finding{Service: service, Step: step, OK: err == nil, Text: text}
	if err != nil {
		f.Text = err.Error()
		if known, ok := errors.AsType[*control.Error](err); ok {
			f.Hint = known.Hint
		}
	}
	k.told(f)
	return err == nil
}

func (k *check) leave(service, step, format string, args ...any) {
	k.told(Finding{Service: service, Step: step, Left: true, OK: true, Text: fmt.Sprintf(format, args...)})
}

func (k *check) service(s api.Service, try bool) {
	e := s.Run.ECS
	c, err := k.r.cluster(k.ctx, *e)
	if err != nil {
		k.find(s.Name, StepCredentials, "", err)
		return
	}
	if !k.account(c.account) || !k.cluster(c) {
		k.leave(s.Name, StepTemplate, "not looked at, for want of what is said above")
		return
	}
	filled := *e
	filled.Service = api.FillPlaceholders(e.Service, map[string]string{"service": s.Name})
	filled.TaskDefinition = api.FillPlaceholders(e.TaskDefinition, map[string]string{"service": s.Name})
	t, err := c.template(k.ctx, &filled, templateAge)
	if err != nil {
		k.find(s.Name, StepTemplate, "", err)
		return
	}
	routed, port, err := t.routed(&filled)
	if err != nil {
		k.find(s.Name, StepTemplate, "", err)
		return
	}
	k.find(s.Name, StepTemplate, fmt.Sprintf("%s: container %s (%s), port %d, %s", t.definition.label(), aws.ToString(routed.Name), aws.ToString(routed.Image), port, t.definition.NetworkMode), nil)
	k.placement(s, c, t, &filled)
	k.logGroup(s, c, routed)
	k.reach(s, c, t, aws.ToString(routed.Name), port)
	if try && !filled.Adopt {
		k.try(s, &filled)
	}
}

// account checks the credentials of an account, once.
func (k *check) account(a *account) bool {
	if ok, seen := k.seen[a]; seen {
		return ok
	}
	out, err := a.getCallerIdentity(k.ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		k.seen[a] = k.find("", StepCredentials, "", a.fail(k.ctx, "ask AWS who this is", err))
		return k.seen[a]
	}
	k.seen[a] = k.find("", StepCredentials, fmt.Sprintf("%s, in region %s", aws.ToString(out.Arn), a.region), nil)
	return k.seen[a]
}

// cluster checks a cluster, once.
func (k *check) cluster(c *cluster) bool {
	if ok, seen := k.clusters[c]; seen {
		return ok
	}
	out, err := ask(k.ctx, c.account, c.describeClusters, &ecs.DescribeClustersInput{Clusters: []string{c.name}})
	switch {
	case err != nil:
		err = c.fail(k.ctx, "look at cluster "+c.name, err)
	case len(out.Clusters) == 0 || aws.ToString(out.Clusters[0].Status) != serviceActive:
		err = &control.Error{
			Code: api.CodeNotFound, Message: fmt.Sprintf("there is no active cluster %s in region %s", c.name, c.region),
			Hint: "set ecs.cluster and ecs.region, or cluster and region of the service's run.ecs; `aws ecs list-clusters` lists them",
		}
	}
	text := ""
	if err == nil {
		is := out.Clusters[0]
		text = fmt.Sprintf("%s: %d tasks, %d ECS services, %d container instances", aws.ToString(is.ClusterName), is.RunningTasksCount, is.ActiveServicesCount, is.RegisteredContainerInstancesCount)
		if len(is.CapacityProviders) > 0 {
			text += ", capacity providers " + strings.Join(is.CapacityProviders, ", ")
		}
	}
	if k.clusters[c] = k.find("", StepCluster, text, err); !k.clusters[c] {
		return false
	}
	err = c.fresh(k.ctx, time.Now())
	c.mu.Lock()
	text = fmt.Sprintf("%d of others, %d of this environment", len(c.foreign), len(c.tasks))
	c.mu.Unlock()
	k.clusters[c] = k.find("", StepTasks, text, err)
	return k.clusters[c]
}

// placement checks that tasks have somewhere to run.
func (k *check) placement(s api.Service, c *cluster, t *template, e *api.ECS) {
	network, err := t.network(e)
	launch, strategy, placeErr := t.placement(e)
	if err == nil {
		err = placeErr
	}
	where := string(launch)
	if len(strategy) > 0 {
		var names []string
		for _, item := range strategy {
			names = append(names, aws.ToString(item.CapacityProvider))
		}
		where = strings.Join(names, ", ")
	}
	where = cmp.Or(where, "as cluster "+c.name+" does by default")
	if err == nil && fargate(launch, strategy) && !slices.Contains(t.definition.RequiresCompatibilities, types.CompatibilityFargate) {
		err = invalid("add FARGATE to its requiresCompatibilities, or set launch_type: EC2 of run.ecs", "%s is not made for Fargate", t.definition.label())
	}
	text := where
	if network != nil && network.AwsvpcConfiguration != nil {
		text = fmt.Sprintf("%s; subnets %s, security groups %s", where, strings.Join(network.AwsvpcConfiguration.Subnets, ", "),
			cmp.Or(strings.Join(network.AwsvpcConfiguration.SecurityGroups, ", "), "of the VPC"))
	}
	k.find(s.Name, StepPlacement, text, err)
}

// logGroup checks that there is a log to write to and to read.
func (k *check) logGroup(s api.Service, c *cluster, routed *types.ContainerDefinition) {
	config := routed.LogConfiguration
	if config == nil || config.LogDriver != types.LogDriverAwslogs {
		k.leave(s.Name, StepLogGroup, "container %s does not log with awslogs: `layover logs` has nothing of it", aws.ToString(routed.Name))
		return
	}
	group := config.Options["awslogs-group"]
	out, err := c.describeLogGroups(k.ctx, &cloudwatchlogs.DescribeLogGroupsInput{LogGroupNamePrefix: &group})
	if err != nil {
		k.find(s.Name, StepLogGroup, "", c.fail(k.ctx, "look for the log group "+group, err))
		return
	}
	for _, g := range out.LogGroups {
		if aws.ToString(g.LogGroupName) == group {
			k.find(s.Name, StepLogGroup, group, nil)
			return
		}
	}
	if config.Options["awslogs-create-group"] == "true" {
		k.find(s.Name, StepLogGroup, group+", which its first task makes", nil)
		return
	}
	k.find(s.Name, StepLogGroup, "", invalid(fmt.Sprintf("`aws logs create-log-group --log-group-name %s`, or set awslogs-create-group in the template", group),
		"there is no log group %s: tasks would not start", group))
}

// reach connects to a task that the template's ECS service runs.
func (k *check) reach(s api.Service, c *cluster, t *template, container string, port int) {
	if t.service == nil {
		k.leave(s.Name, StepReach, "no ECS service is named whose tasks could be connected to; --run runs one")
		return
	}
	name := aws.ToString(t.service.ServiceName)
	c.mu.Lock()
	c.adopted["check"] = &adoption{service: name, container: container, port: port}
	c.readoptLocked()
	c.mu.Unlock()
	err := c.lookAtTasksOf(k.ctx, name)
	c.mu.Lock()
	addresses := c.adoptedStatusLocked(c.adopted["check"]).Addresses
	delete(c.adopted, "check")
	c.mu.Unlock()
	switch {
	case err != nil:
		k.find(s.Name, StepReach, "", err)
	case len(addresses) == 0:
		k.leave(s.Name, StepReach, "the ECS service %s has no task that runs, to which could be connected; --run runs one", name)
	default:
		k.connect(s.Name, StepReach, addresses[0])
	}
}

func (k *check) connect(service, step string, to control.Address) {
	ctx, cancel := context.WithTimeout(k.ctx, checkTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.HostPort)
	if err == nil {
		_ = conn.Close()
		k.find(service, step, "this machine connects to "+to.HostPort+"; the proxies need the same", nil)
		return
	}
	k.find(service, step, "", invalid("let the security group of the tasks take connections to that port from the security groups of the server and of the proxies, and check the routes between their subnets",
		"this machine cannot connect to the task at %s: %v", to.HostPort, err))
}

// try runs an instance, and takes it away again.
func (k *check) try(s api.Service, e *api.ECS) {
	w := control.Workload{
		ID: s.Name + "--layover-check--1", Service: s.Name, Version: "layover-check", Generation: 1, Run: api.Run{ECS: e}, Grace: s.Grace.Or(checkTimeout),
		Env: map[string]string{},
	}
	for name, value := range s.Env {
		w.Env[name] = api.FillPlaceholders(value, map[string]string{"service": s.Name, "version": w.Version, "route": w.Version})
	}
	filled := *e
	filled.Image = api.FillPlaceholders(e.Image, map[string]string{"service": s.Name, "version": s.Default, "route": s.Default})
	w.Run.ECS = &filled
	ctx, cancel := context.WithTimeout(k.ctx, s.Timeout.Or(2*time.Minute))
	defer cancel()
	began := time.Now()
	status, err := k.r.Start(ctx, w, nil)
	if k.find(s.Name, StepRun, "a task runs, after "+time.Since(began).Round(100*time.Millisecond).String(), err) {
		if len(status.Addresses) > 0 {
			k.listen(ctx, s.Name, status.Addresses[0])
		}
		if filled.Mode == modeService { // which are looked for where there is one
			c, err := k.r.cluster(ctx, filled)
			if err == nil {
				err = c.fresh(ctx, time.Now())
			}
			k.find(s.Name, StepTasks, "the ECS services of the cluster can be listed", err)
		}
		logs, err := k.r.Logs(ctx, w.ID, control.LogOptions{Tail: 1})
		if err == nil {
			_, err = logs.Next()
			_ = logs.Close()
		}
		switch {
		case api.CodeInvalid == control.CodeOf(err) && !denied(err):
			k.leave(s.Name, StepLog, "%s", err)
		case err != nil && err.Error() == "EOF":
			k.leave(s.Name, StepLog, "it has written nothing yet")
		default:
			k.find(s.Name, StepLog, "its log can be read", err)
		}
	}
	stopping, cancelStop := context.WithTimeout(context.WithoutCancel(k.ctx), 2*time.Minute)
	defer cancelStop()
	if !k.find(s.Name, StepStop, "it is stopped", k.r.Stop(stopping, w.ID, w.Grace)) {
		return
	}
	c, err := k.r.cluster(stopping, filled)
	if err == nil {
		err = c.sweep(stopping)
	}
	if err == nil {
		var left []string
		if left, err = c.active(stopping, c.family(w)); len(left) > 0 {
			err = invalid("remove it: aws ecs deregister-task-definition", "the task definition %s is left", shortARN(left[0]))
		}
	}
	if err == nil {
		c.mu.Lock()
		err = c.untidy
		c.mu.Unlock()
		if err != nil {
			err = c.fail(stopping, "remove the task definition of the check", err)
		}
	}
	k.find(s.Name, StepTidy, "nothing is left of it", err)
}

// listen waits until an instance takes connections.
func (k *check) listen(ctx context.Context, service string, to control.Address) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{Timeout: checkTimeout}).DialContext(ctx, "tcp", to.HostPort)
		if err == nil {
			_ = conn.Close()
			k.find(service, StepConnect, "this machine connects to "+to.HostPort+"; the proxies need the same", nil)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			k.connect(service, StepConnect, to)
			return
		}
	}
}

// queue checks that the queue of events can be read.
func (k *check) queue() {
	a, err := k.r.queueAccount(k.ctx)
	if err != nil {
		k.find("", StepEvents, "", err)
		return
	}
	_, err = a.getQueueAttributes(k.ctx, &sqs.GetQueueAttributesInput{QueueUrl: &k.r.events, AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameQueueArn}})
	if err == nil {
		var got *sqs.ReceiveMessageOutput
		got, err = a.receiveMessage(k.ctx, &sqs.ReceiveMessageInput{QueueUrl: &k.r.events, MaxNumberOfMessages: 1, VisibilityTimeout: 0})
		if err == nil { // that nothing has this receipt is no matter: it is whether it may be asked
			_, err = a.deleteMessageBatch(k.ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &k.r.events, Entries: []sqstypes.DeleteMessageBatchRequestEntry{
				{Id: aws.String("check"), ReceiptHandle: aws.String("none")},
			}})
		}
		if err == nil && len(got.Messages) == 0 {
			k.find("", StepEvents, k.r.events+" can be read, and is empty now", nil)
			return
		}
	}
	if err != nil {
		err = a.fail(k.ctx, "read the queue "+k.r.events, err)
	}
	k.find("", StepEvents, k.r.events+" can be read, and has events", err)
}
