package ecstest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// ecsTask is a task, as DescribeTasks gives it.
type ecsTask struct {
	TaskARN              string          `json:"taskArn"`
	ClusterARN           string          `json:"clusterArn"`
	TaskDefinitionARN    string          `json:"taskDefinitionArn"`
	ContainerInstanceARN string          `json:"containerInstanceArn,omitempty"`
	LastStatus           string          `json:"lastStatus"`
	DesiredStatus        string          `json:"desiredStatus"`
	LaunchType           string          `json:"launchType,omitempty"`
	CapacityProvider     string          `json:"capacityProviderName,omitempty"`
	CPU                  string          `json:"cpu,omitempty"`
	Memory               string          `json:"memory,omitempty"`
	StartedBy            string          `json:"startedBy,omitempty"`
	Group                string          `json:"group,omitempty"`
	Version              int64           `json:"version"`
	StopCode             string          `json:"stopCode,omitempty"`
	StoppedReason        string          `json:"stoppedReason,omitempty"`
	AvailabilityZone     string          `json:"availabilityZone,omitempty"`
	HealthStatus         string          `json:"healthStatus,omitempty"`
	EnableExecuteCommand bool            `json:"enableExecuteCommand"`
	CreatedAt            *epoch          `json:"createdAt,omitempty"`
	PullStartedAt        *epoch          `json:"pullStartedAt,omitempty"`
	StartedAt            *epoch          `json:"startedAt,omitempty"`
	StoppingAt           *epoch          `json:"stoppingAt,omitempty"`
	StoppedAt            *epoch          `json:"stoppedAt,omitempty"`
	Containers           []*ecsContainer `json:"containers"`
	Attachments          []attachment    `json:"attachments"`
	Overrides            taskOverride    `json:"overrides"`

	id         string
	definition *ecsDefinition
	cluster    *ecsCluster
	service    *ecsSvc
	tags       []tag
	running    Running
	stopCode   string // why it is being stopped
	stopWords  string
}

type ecsContainer struct {
	ContainerARN      string             `json:"containerArn"`
	TaskARN           string             `json:"taskArn"`
	Name              string             `json:"name"`
	Image             string             `json:"image"`
	ImageDigest       string             `json:"imageDigest,omitempty"`
	RuntimeID         string             `json:"runtimeId,omitempty"`
	LastStatus        string             `json:"lastStatus"`
	HealthStatus      string             `json:"healthStatus,omitempty"`
	ExitCode          *int               `json:"exitCode,omitempty"`
	Reason            string             `json:"reason,omitempty"`
	Memory            string             `json:"memory,omitempty"`
	NetworkBindings   []networkBinding   `json:"networkBindings"`
	NetworkInterfaces []networkInterface `json:"networkInterfaces"`
}

type networkBinding struct {
	BindIP        string `json:"bindIP"`
	ContainerPort int    `json:"containerPort"`
	HostPort      int    `json:"hostPort"`
	Protocol      string `json:"protocol"`
}

type networkInterface struct {
	AttachmentID string `json:"attachmentId"`
	PrivateIPv4  string `json:"privateIpv4Address"`
}

type attachment struct {
	ID      string     `json:"id"`
	Type    string     `json:"type"`
	Status  string     `json:"status"`
	Details []keyValue `json:"details"`
}

type taskOverride struct {
	ContainerOverrides []containerOverride `json:"containerOverrides"`
	CPU                string              `json:"cpu,omitempty"`
	Memory             string              `json:"memory,omitempty"`
}

type containerOverride struct {
	Name        string     `json:"name"`
	Command     []string   `json:"command,omitempty"`
	Environment []keyValue `json:"environment,omitempty"`
}

type networkConfiguration struct {
	Awsvpc *struct {
		Subnets        []string `json:"subnets"`
		SecurityGroups []string `json:"securityGroups,omitempty"`
		AssignPublicIP string   `json:"assignPublicIp,omitempty"`
	} `json:"awsvpcConfiguration,omitempty"`
}

type strategyItem struct {
	CapacityProvider string `json:"capacityProvider"`
	Weight           int    `json:"weight"`
	Base             int    `json:"base"`
}

func (t *ecsTask) family() string { return t.definition.family }

// runCall is a call that ran tasks. ECS remembers it by its client token:
// https://docs.aws.amazon.com/AmazonECS/latest/APIReference/ECS_Idempotency.html.
type runCall struct {
	call  string
	tasks []*ecsTask
}

type runTaskInput struct {
	Cluster              string                `json:"cluster"`
	TaskDefinition       string                `json:"taskDefinition"`
	Count                *int                  `json:"count"`
	LaunchType           string                `json:"launchType"`
	Strategy             []strategyItem        `json:"capacityProviderStrategy"`
	Network              *networkConfiguration `json:"networkConfiguration"`
	Overrides            taskOverride          `json:"overrides"`
	StartedBy            string                `json:"startedBy"`
	Group                string                `json:"group"`
	Tags                 []tag                 `json:"tags"`
	ClientToken          string                `json:"clientToken"`
	EnableExecuteCommand bool                  `json:"enableExecuteCommand"`
}

func (e *ecsService) runTask(call *request) (any, *apiError) {
	in, err := decode[runTaskInput](call)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.clusterLocked(in.Cluster)
	if err != nil {
		return nil, err
	}
	d, err := e.definitionLocked(in.TaskDefinition)
	if err != nil {
		return nil, apiErrorf("ClientException", "TaskDefinition not found.")
	}
	if err := e.cloud.iam.authorize(call, "ecs:RunTask", d.arn, resourceContext(tagContext(c.context(), "", in.Tags), d.tags)); err != nil {
		return nil, err
	}
	if err := e.allowTags(call, e.arn("task/"+c.name+"/*"), c.context(), in.Tags); err != nil {
		return nil, err
	}
	if err := e.passRoles(call, d.TaskRoleARN, d.ExecutionRoleARN); err != nil {
		return nil, err
	}
	if err := checkRun(d, in.LaunchType, in.Strategy, in.Network); err != nil {
		return nil, err
	}
	if len(in.StartedBy) > 128 || len(in.ClientToken) > 64 {
		return nil, apiErrorf("InvalidParameterException", "startedBy or clientToken is too long.")
	}
	token := in.ClientToken
	if earlier, used := c.tokens[token]; used && token != "" {
		if earlier.call != string(call.body) {
			return nil, apiErrorf("ConflictException", "The request with client token %s was made before, and had other parameters.", token)
		}
		return map[string]any{"tasks": describeTasks(earlier.tasks, true), "failures": []any{}}, nil
	}
	count := 1
	if in.Count != nil {
		count = *in.Count
	}
	if count < 1 || count > 10 {
		return nil, apiErrorf("InvalidParameterException", "Count must be from 1 to 10.")
	}
	var started []*ecsTask
	failures := []any{}
	for range count {
		if c.capacity > 0 && c.active() >= c.capacity {
			failures = append(failures, map[string]any{"arn": e.arn("container-instance/" + c.name + "/" + newID()), "reason": "RESOURCE:MEMORY"})
			continue
		}
		t := e.newTaskLocked(c, d, in)
		started = append(started, t)
	}
	if token != "" && len(started) > 0 {
		c.tokens[token] = runCall{call: string(call.body), tasks: started}
	}
	return map[string]any{"tasks": describeTasks(started, true), "failures": failures}, nil
}

// checkRun refuses what no task of a definition could be run with.
func checkRun(d *ecsDefinition, launch string, strategy []strategyItem, network *networkConfiguration) *apiError {
	fargate := launch == "FARGATE" || slices.ContainsFunc(strategy, func(i strategyItem) bool { return strings.HasPrefix(i.CapacityProvider, "FARGATE") })
	switch {
	case d.status != "ACTIVE":
		return apiErrorf("ClientException", "TaskDefinition is inactive")
	case launch != "" && len(strategy) > 0:
		return apiErrorf("InvalidParameterException", "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.")
	case fargate && !slices.Contains(d.RequiresCompatibilities, "FARGATE"):
		return apiErrorf("InvalidParameterException", "Task definition does not support launch_type FARGATE.")
	case d.NetworkMode == "awsvpc" && (network == nil || network.Awsvpc == nil || len(network.Awsvpc.Subnets) == 0):
		return apiErrorf("InvalidParameterException", "Network Configuration must be provided when networkMode 'awsvpc' is specified.")
	case d.NetworkMode != "awsvpc" && network != nil && network.Awsvpc != nil:
		return apiErrorf("InvalidParameterException", "Network Configuration is not valid for the given networkMode of this task definition.")
	}
	return nil
}

func (c *ecsCluster) active() int {
	n := 0
	for _, t := range c.tasks {
		if t.LastStatus != "STOPPED" {
			n++
		}
	}
	return n
}

// newTaskLocked makes a task and has it start.
func (e *ecsService) newTaskLocked(c *ecsCluster, d *ecsDefinition, in runTaskInput) *ecsTask {
	id := newID()
	t := &ecsTask{
		TaskARN: e.arn("task/" + c.name + "/" + id), ClusterARN: c.arn, TaskDefinitionARN: d.arn, LastStatus: "PROVISIONING", DesiredStatus: "RUNNING",
		CPU: d.CPU, Memory: d.Memory, StartedBy: in.StartedBy, Group: in.Group, Version: 1, AvailabilityZone: e.cloud.region + "a",
		HealthStatus: "UNKNOWN", CreatedAt: now(), Overrides: in.Overrides, EnableExecuteCommand: in.EnableExecuteCommand,
		LaunchType: in.LaunchType, Attachments: []attachment{},
		id: id, definition: d, cluster: c, tags: in.Tags,
	}
	if t.Group == "" {
		t.Group = "family:" + d.family
	}
	if len(in.Strategy) > 0 {
		t.CapacityProvider = in.Strategy[0].CapacityProvider
	}
	if t.LaunchType == "" && !strings.HasPrefix(t.CapacityProvider, "FARGATE") {
		t.LaunchType = "EC2"
	}
	if t.LaunchType == "EC2" && len(c.machines) > 0 {
		t.ContainerInstanceARN = c.machines[len(c.tasks)%len(c.machines)].arn
	}
	if t.Overrides.ContainerOverrides == nil {
		t.Overrides.ContainerOverrides = []containerOverride{}
	}
	for _, cd := range d.ContainerDefinitions {
		t.Containers = append(t.Containers, &ecsContainer{
			ContainerARN: e.arn("container/" + c.name + "/" + id + "/" + newID()), TaskARN: t.TaskARN, Name: cd.Name, Image: cd.Image,
			LastStatus: "PENDING", HealthStatus: "UNKNOWN", NetworkBindings: []networkBinding{}, NetworkInterfaces: []networkInterface{},
		})
	}
	c.tasks[t.TaskARN] = t
	e.emitLocked(t)
	e.tasksWait.Go(func() { e.live(t) })
	return t
}

// live takes a task through its life.
func (e *ecsService) live(t *ecsTask) {
	e.mu.Lock()
	delay := e.startDelay
	e.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-e.ctx.Done():
			timer.Stop()
		}
	}
	spec, failed := e.prepare(t)
	if failed != "" {
		e.finish(t, "TaskFailedToStart", failed)
		return
	}
	running, err := e.runner.Start(e.ctx, spec)
	if err != nil {
		e.failStart(t, err)
		return
	}
	e.mu.Lock()
	t.running = running
	e.connectLocked(t)
	stopping := t.DesiredStatus == "STOPPED" || e.closing
	e.mu.Unlock()
	if stopping {
		running.Stop()
	}
	code, words := "EssentialContainerExited", "Essential container in task exited"
	for exit := range running.Exited() {
		e.mu.Lock()
		for i, c := range t.Containers {
			if c.Name != exit.Container {
				continue
			}
			c.LastStatus, c.ExitCode = "STOPPED", &exit.Code
			if exit.OutOfMemory {
				c.Reason = "OutOfMemoryError: Container killed due to memory usage"
			}
			essential := t.definition.ContainerDefinitions[i].Essential
			if (essential == nil || *essential) && t.DesiredStatus == "RUNNING" {
				t.DesiredStatus, t.LastStatus, t.StoppingAt = "STOPPED", "DEPROVISIONING", now()
				t.StopCode, t.StoppedReason = code, words
				e.emitLocked(t)
			}
		}
		e.mu.Unlock()
	}
	e.finish(t, code, words)
}

// prepare moves a task on to where its containers start, and returns what they are; or why they cannot.
func (e *ecsService) prepare(t *ecsTask) (TaskSpec, string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t.DesiredStatus == "STOPPED" || e.closing {
		return TaskSpec{}, t.stopWords
	}
	t.LastStatus, t.PullStartedAt = "PENDING", now()
	e.emitLocked(t)
	spec := TaskSpec{ID: t.id, NetworkMode: t.definition.NetworkMode}
	for i, d := range t.definition.ContainerDefinitions {
		c := ContainerSpec{
			Name: d.Name, Image: d.Image, EntryPoint: d.EntryPoint, Command: d.Command, Env: map[string]string{}, MemoryMiB: d.Memory,
			StopTimeout: 30 * time.Second, Essential: d.Essential == nil || *d.Essential,
		}
		if d.StopTimeout != nil {
			c.StopTimeout = time.Duration(*d.StopTimeout) * time.Second
		}
		for _, v := range d.Environment {
			c.Env[v.Name] = v.Value
		}
		for _, s := range d.Secrets {
			value, ok := e.secrets[s.ValueFrom]
			if !ok {
				return spec, "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret " +
					s.ValueFrom + " from secrets manager: ResourceNotFoundException: Secrets Manager can't find the specified secret."
			}
			c.Env[s.Name] = value
		}
		for _, o := range t.Overrides.ContainerOverrides {
			if o.Name != d.Name {
				continue
			}
			for _, v := range o.Environment {
				c.Env[v.Name] = v.Value
			}
			if len(o.Command) > 0 {
				c.Command = o.Command
			}
		}
		for _, p := range d.PortMappings {
			host := 0
			if p.HostPort != nil {
				host = *p.HostPort
			}
			if t.definition.NetworkMode == "host" {
				host = p.ContainerPort
			}
			c.Ports = append(c.Ports, Port{Container: p.ContainerPort, Host: host})
		}
		t.Containers[i].RuntimeID = newID()
		if l := d.LogConfiguration; l != nil && l.LogDriver == "awslogs" {
			group, create := l.Options["awslogs-group"], l.Options["awslogs-create-group"] == "true"
			if !create && !e.cloud.logs.groupExists(group) {
				return spec, "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not exist. : exit status 1"
			}
			stream := t.Containers[i].RuntimeID
			if prefix := l.Options["awslogs-stream-prefix"]; prefix != "" {
				stream = prefix + "/" + d.Name + "/" + t.id
			}
			c.Log = func(at time.Time, line string) { _ = e.cloud.logs.put(group, stream, create, at, line) }
		}
		spec.Containers = append(spec.Containers, c)
	}
	return spec, ""
}

// failStart ends a task of which a container did not start.
func (e *ecsService) failStart(t *ecsTask, err error) {
	words := "CannotStartContainerError: " + err.Error()
	var image *ImageError
	if errors.As(err, &image) {
		words = fmt.Sprintf("CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref %s: %s: not found", image.Image, image.Image)
	}
	e.mu.Lock()
	for _, c := range t.Containers {
		if image != nil && c.Image == image.Image {
			c.Reason = words
		}
	}
	e.mu.Unlock()
	e.finish(t, "TaskFailedToStart", words)
}

// connectLocked makes a task one that runs.
func (e *ecsService) connectLocked(t *ecsTask) {
	address := t.running.Address().String()
	eni := newID()
	if t.definition.NetworkMode == "awsvpc" {
		t.Attachments = []attachment{{ID: eni, Type: "ElasticNetworkInterface", Status: "ATTACHED", Details: []keyValue{
			{Name: "subnetId", Value: "subnet-0fake"},
			{Name: "networkInterfaceId", Value: "eni-" + eni[:17]},
			{Name: "macAddress", Value: "0a:00:00:00:00:01"},
			{Name: "privateIPv4Address", Value: address},
		}}}
	} else if machine := e.machineLocked(t); machine != nil {
		e.cloud.ec2.setAddress(machine.ec2, address, t.definition.NetworkMode == "bridge")
	}
	for _, c := range t.Containers {
		c.LastStatus = "RUNNING"
		c.ImageDigest = e.digestLocked(c.Image)
		if t.definition.NetworkMode == "awsvpc" {
			c.NetworkInterfaces = []networkInterface{{AttachmentID: eni, PrivateIPv4: address}}
			continue
		}
		for _, p := range t.running.Bindings(c.Name) {
			c.NetworkBindings = append(c.NetworkBindings, networkBinding{BindIP: "0.0.0.0", ContainerPort: p.Container, HostPort: p.Host, Protocol: "tcp"})
		}
	}
	t.LastStatus = "ACTIVATING"
	e.emitLocked(t)
	t.LastStatus, t.StartedAt = "RUNNING", now()
	e.emitLocked(t)
	if t.service != nil {
		e.reconcileLocked(t.service)
	}
}

func (e *ecsService) machineLocked(t *ecsTask) *ecsMachine {
	for _, m := range t.cluster.machines {
		if m.arn == t.ContainerInstanceARN {
			return m
		}
	}
	return nil
}

// finish ends a task of which nothing runs any more.
func (e *ecsService) finish(t *ecsTask, code, words string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case t.stopCode != "":
		code, words = t.stopCode, t.stopWords
	case t.StopCode != "":
		code, words = t.StopCode, t.StoppedReason
	}
	for _, c := range t.Containers {
		c.LastStatus = "STOPPED"
	}
	t.LastStatus, t.DesiredStatus, t.StoppedAt, t.StopCode, t.StoppedReason = "STOPPED", "STOPPED", now(), code, words
	if t.StoppingAt == nil {
		t.StoppingAt = t.StoppedAt
	}
	for i := range t.Attachments {
		t.Attachments[i].Status = "DELETED"
	}
	e.emitLocked(t)
	if t.service != nil {
		e.reconcileLocked(t.service)
	}
	for arn, other := range t.cluster.tasks {
		if other.StoppedAt != nil && time.Since(time.Time(*other.StoppedAt)) > time.Hour {
			delete(t.cluster.tasks, arn)
		}
	}
}

// emitLocked counts a change of a task, and tells of it.
func (e *ecsService) emitLocked(t *ecsTask) {
	t.Version++
	e.cloud.emitEvent("aws.ecs", "ECS Task State Change", []string{t.TaskARN}, t.detail())
}

// detail is a task as an event has it: times are text.
func (t *ecsTask) detail() map[string]any {
	text, _ := json.Marshal(t) // it has nothing that cannot be written
	out := map[string]any{}
	_ = json.Unmarshal(text, &out)
	for name, at := range map[string]*epoch{
		"createdAt": t.CreatedAt, "pullStartedAt": t.PullStartedAt, "startedAt": t.StartedAt, "stoppingAt": t.StoppingAt, "stoppedAt": t.StoppedAt,
	} {
		if at != nil {
			out[name] = time.Time(*at).UTC().Format("2006-01-02T15:04:05.000Z")
		}
	}
	for _, a := range out["attachments"].([]any) {
		a.(map[string]any)["type"] = "eni"
	}
	out["updatedAt"] = time.Now().UTC().Format(time.RFC3339)
	return out
}

// describeTasks copies tasks as they are now.
func describeTasks(all []*ecsTask, tags bool) []any {
	out := []any{}
	for _, t := range all {
		text, _ := json.Marshal(t)
		one := map[string]any{}
		_ = json.Unmarshal(text, &one)
		if tags {
			one["tags"] = tagsOf(t.tags)
		}
		out = append(out, one)
	}
	return out
}

func (e *ecsService) stopTask(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster string `json:"cluster"`
		Task    string `json:"task"`
		Reason  string `json:"reason"`
	}](call)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.clusterLocked(in.Cluster)
	if err != nil {
		return nil, err
	}
	t := c.task(in.Task)
	if t == nil {
		return nil, apiErrorf("InvalidParameterException", "The referenced task was not found.")
	}
	if err := e.cloud.iam.authorize(call, "ecs:StopTask", t.TaskARN, resourceContext(c.context(), t.tags)); err != nil {
		return nil, err
	}
	if in.Reason == "" {
		in.Reason = "Task stopped by user"
	}
	e.stopLocked(t, "UserInitiated", in.Reason)
	return map[string]any{"task": describeTasks([]*ecsTask{t}, false)[0]}, nil
}

// stopLocked has a task end.
func (e *ecsService) stopLocked(t *ecsTask, code, words string) {
	if t.DesiredStatus == "STOPPED" {
		return
	}
	t.DesiredStatus, t.StoppingAt = "STOPPED", now()
	t.stopCode, t.stopWords, t.StopCode, t.StoppedReason = code, words, code, words
	e.emitLocked(t)
	if t.running != nil {
		t.LastStatus = "STOPPING"
		e.emitLocked(t)
		go t.running.Stop()
	}
}

func (c *ecsCluster) task(name string) *ecsTask {
	if t := c.tasks[name]; t != nil {
		return t
	}
	for arn, t := range c.tasks {
		if shortName(arn) == name {
			return t
		}
	}
	return nil
}

func (e *ecsService) visible(t *ecsTask) bool {
	return time.Since(time.Time(*t.CreatedAt)) >= e.cloud.faults.visibleAfter()
}

func (e *ecsService) listTasks(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster           string  `json:"cluster"`
		Family            string  `json:"family"`
		ServiceName       string  `json:"serviceName"`
		StartedBy         string  `json:"startedBy"`
		DesiredStatus     string  `json:"desiredStatus"`
		LaunchType        string  `json:"launchType"`
		ContainerInstance string  `json:"containerInstance"`
		NextToken         *string `json:"nextToken"`
		MaxResults        int     `json:"maxResults"`
	}](call)
	if err != nil {
		return nil, err
	}
	if in.StartedBy != "" && (in.Family != "" || in.ServiceName != "" || in.DesiredStatus != "" || in.LaunchType != "" || in.ContainerInstance != "") {
		return nil, apiErrorf("InvalidParameterException", "startedBy must be the only filter.")
	}
	if in.DesiredStatus == "" {
		in.DesiredStatus = "RUNNING"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.clusterLocked(in.Cluster)
	if err != nil {
		return nil, err
	}
	if err := e.cloud.iam.authorize(call, "ecs:ListTasks", "*", c.context()); err != nil {
		return nil, err
	}
	if in.ServiceName != "" && c.services[shortName(in.ServiceName)] == nil {
		return nil, apiErrorf("ServiceNotFoundException", "Service not found.")
	}
	arns := []string{}
	for arn, t := range c.tasks {
		if t.DesiredStatus == in.DesiredStatus && (in.Family == "" || t.family() == in.Family) && (in.StartedBy == "" || t.StartedBy == in.StartedBy) &&
			(in.ServiceName == "" || t.Group == "service:"+shortName(in.ServiceName)) && (in.LaunchType == "" || t.LaunchType == in.LaunchType) && e.visible(t) {
			arns = append(arns, arn)
		}
	}
	sort.Strings(arns)
	some, next, err := page(arns, in.NextToken, in.MaxResults)
	if err != nil {
		return nil, err
	}
	return withToken(map[string]any{"taskArns": some}, next), nil
}

func (e *ecsService) describeTasks(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster string   `json:"cluster"`
		Tasks   []string `json:"tasks"`
		Include []string `json:"include"`
	}](call)
	if err != nil {
		return nil, err
	}
	switch {
	case len(in.Tasks) == 0:
		return nil, apiErrorf("InvalidParameterException", "Tasks cannot be empty.")
	case len(in.Tasks) > 100:
		return nil, apiErrorf("InvalidParameterException", "Tasks cannot have more than 100 elements.")
	}
	partial := e.cloud.faults.partial()
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.clusterLocked(in.Cluster)
	if err != nil {
		return nil, err
	}
	var found []*ecsTask
	failures := []any{}
	for i, name := range in.Tasks {
		t := c.task(name)
		arn := e.arn("task/" + c.name + "/" + shortName(name))
		if t != nil {
			if err := e.cloud.iam.authorize(call, "ecs:DescribeTasks", arn, resourceContext(c.context(), t.tags)); err != nil {
				return nil, err
			}
		}
		if t == nil || !e.visible(t) || partial && i == 0 {
			failures = append(failures, missing(arn))
			continue
		}
		found = append(found, t)
	}
	return map[string]any{"tasks": describeTasks(found, slices.Contains(in.Include, "TAGS")), "failures": failures}, nil
}

// TaskInfo is a task as the tests see it.
type TaskInfo struct {
	ARN, Family, Status, Address string
	Service                      string // the ECS service it is of; "" for none
	Tags                         map[string]string
	StartedAt                    time.Time // when it was RUNNING; zero before
}

// digestLocked is the digest of an image: the one that it names itself, or that was pushed, else one of its name alone.
func (e *ecsService) digestLocked(image string) string {
	if _, digest, ok := strings.Cut(image, "@"); ok {
		return digest
	}
	if digest := e.digests[image]; digest != "" {
		return digest
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(image)))
}

// PushImage has the tasks that start from now on run another image under a name: its tag moves.
func (c *Cloud) PushImage(name, digest string) {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	c.ecs.digests[name] = digest
}

// Tasks returns the tasks of a cluster.
func (c *Cloud) Tasks(cluster string) []TaskInfo {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	var out []TaskInfo
	for _, t := range c.ecs.clusters[cluster].tasks {
		info := TaskInfo{ARN: t.TaskARN, Family: t.family(), Status: t.LastStatus, Tags: map[string]string{}}
		if t.service != nil {
			info.Service = t.service.Name
		}
		if t.running != nil {
			info.Address = t.running.Address().String()
		}
		if t.StartedAt != nil {
			info.StartedAt = time.Time(*t.StartedAt)
		}
		for _, tg := range t.tags {
			info.Tags[tg.Key] = tg.Value
		}
		out = append(out, info)
	}
	return out
}

// KillTask has the containers of a task end by themselves, with a code where the runner can give one.
func (c *Cloud) KillTask(arn string, code int) {
	c.ecs.mu.Lock()
	var running Running
	for _, cl := range c.ecs.clusters {
		if t := cl.tasks[arn]; t != nil {
			running = t.running
		}
	}
	c.ecs.mu.Unlock()
	if k, ok := running.(interface{ Kill(code int) }); ok {
		k.Kill(code)
	}
}
