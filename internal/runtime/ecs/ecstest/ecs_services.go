package ecstest

import (
	"fmt"
	"slices"
	"sort"
)

// ecsSvc is an ECS service: it keeps a number of tasks running.
type ecsSvc struct {
	ARN            string                `json:"serviceArn"`
	Name           string                `json:"serviceName"`
	ClusterARN     string                `json:"clusterArn"`
	Status         string                `json:"status"`
	DesiredCount   int                   `json:"desiredCount"`
	RunningCount   int                   `json:"runningCount"`
	PendingCount   int                   `json:"pendingCount"`
	TaskDefinition string                `json:"taskDefinition"`
	LaunchType     string                `json:"launchType,omitempty"`
	Strategy       []strategyItem        `json:"capacityProviderStrategy,omitempty"`
	Network        *networkConfiguration `json:"networkConfiguration,omitempty"`
	LoadBalancers  []loadBalancer        `json:"loadBalancers"`
	PropagateTags  string                `json:"propagateTags,omitempty"`
	CreatedAt      *epoch                `json:"createdAt"`
	Deployments    []*deployment         `json:"deployments"`
	Events         []serviceEvent        `json:"events"`
	Exec           bool                  `json:"enableExecuteCommand"`

	cluster *ecsCluster
	tags    []tag
	token   string // of the call that made it
	failed  int    // tasks in a row that did not start
}

type loadBalancer struct {
	TargetGroupARN string `json:"targetGroupArn,omitempty"`
	ContainerName  string `json:"containerName"`
	ContainerPort  int    `json:"containerPort"`
}

type deployment struct {
	ID             string `json:"id"`
	Status         string `json:"status"`
	TaskDefinition string `json:"taskDefinition"`
	DesiredCount   int    `json:"desiredCount"`
	RunningCount   int    `json:"runningCount"`
	PendingCount   int    `json:"pendingCount"`
	RolloutState   string `json:"rolloutState"`
	CreatedAt      *epoch `json:"createdAt"`
	UpdatedAt      *epoch `json:"updatedAt"`
}

type serviceEvent struct {
	ID        string `json:"id"`
	CreatedAt *epoch `json:"createdAt"`
	Message   string `json:"message"`
}

type serviceInput struct {
	Cluster        string                `json:"cluster"`
	ServiceName    string                `json:"serviceName"`
	Service        string                `json:"service"`
	TaskDefinition string                `json:"taskDefinition"`
	DesiredCount   *int                  `json:"desiredCount"`
	LaunchType     string                `json:"launchType"`
	Strategy       []strategyItem        `json:"capacityProviderStrategy"`
	Network        *networkConfiguration `json:"networkConfiguration"`
	LoadBalancers  []loadBalancer        `json:"loadBalancers"`
	PropagateTags  string                `json:"propagateTags"`
	Tags           []tag                 `json:"tags"`
	Force          bool                  `json:"force"`
	ClientToken    string                `json:"clientToken"`
	Exec           bool                  `json:"enableExecuteCommand"`
}

func (e *ecsService) createService(call *request) (any, *apiError) {
	in, err := decode[serviceInput](call)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.clusterLocked(in.Cluster)
	if err != nil {
		return nil, err
	}
	arn := e.arn("service/" + c.name + "/" + in.ServiceName)
	if err := e.cloud.iam.authorize(call, "ecs:CreateService", arn, tagContext(c.context(), "", in.Tags)); err != nil {
		return nil, err
	}
	if err := e.allowTags(call, arn, c.context(), in.Tags); err != nil {
		return nil, err
	}
	d, err := e.definitionLocked(in.TaskDefinition)
	if err != nil {
		return nil, err
	}
	if err := e.passRoles(call, d.TaskRoleARN, d.ExecutionRoleARN); err != nil {
		return nil, err
	}
	if err := checkRun(d, in.LaunchType, in.Strategy, in.Network); err != nil {
		return nil, err
	}
	if !familyName.MatchString(in.ServiceName) {
		return nil, apiErrorf("InvalidParameterException", "Service name is invalid.")
	}
	if len(in.ClientToken) > 36 {
		return nil, apiErrorf("InvalidParameterException", "clientToken is too long.")
	}
	switch old := c.services[in.ServiceName]; {
	case old != nil && old.Status == "ACTIVE" && in.ClientToken != "" && old.token == in.ClientToken:
		return map[string]any{"service": old.describe(true)}, nil
	case old != nil && old.Status == "ACTIVE":
		return nil, apiErrorf("InvalidParameterException", "Creation of service was not idempotent.")
	case old != nil && old.Status == "DRAINING":
		return nil, apiErrorf("InvalidParameterException", "Unable to Start a service that is still Draining.")
	}
	s := &ecsSvc{
		ARN: arn, Name: in.ServiceName, ClusterARN: c.arn, Status: "ACTIVE", TaskDefinition: d.arn, LaunchType: in.LaunchType, Strategy: in.Strategy,
		Network: in.Network, LoadBalancers: in.LoadBalancers, PropagateTags: in.PropagateTags, CreatedAt: now(), Events: []serviceEvent{},
		Exec: in.Exec, cluster: c, tags: in.Tags, token: in.ClientToken,
	}
	if s.LoadBalancers == nil {
		s.LoadBalancers = []loadBalancer{}
	}
	if in.DesiredCount != nil {
		s.DesiredCount = *in.DesiredCount
	}
	s.deploy(d)
	c.services[s.Name] = s
	e.reconcileLocked(s)
	return map[string]any{"service": s.describe(true)}, nil
}

func (s *ecsSvc) deploy(d *ecsDefinition) {
	s.TaskDefinition, s.failed = d.arn, 0
	for _, old := range s.Deployments {
		old.Status = "ACTIVE"
	}
	s.Deployments = append([]*deployment{{
		ID: "ecs-svc/" + newID()[:19], Status: "PRIMARY", TaskDefinition: d.arn, RolloutState: "IN_PROGRESS", CreatedAt: now(), UpdatedAt: now(),
	}}, s.Deployments...)
}

// serviceLocked finds a service.
func (e *ecsService) serviceLocked(cluster, name string) (*ecsSvc, *apiError) {
	c, err := e.clusterLocked(cluster)
	if err != nil {
		return nil, err
	}
	s := c.services[shortName(name)]
	if s == nil {
		return nil, apiErrorf("ServiceNotFoundException", "Service not found.")
	}
	return s, nil
}

func (e *ecsService) updateService(call *request) (any, *apiError) {
	in, err := decode[serviceInput](call)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, err := e.serviceLocked(in.Cluster, in.Service)
	if err != nil {
		return nil, err
	}
	if err := e.cloud.iam.authorize(call, "ecs:UpdateService", s.ARN, resourceContext(s.cluster.context(), s.tags)); err != nil {
		return nil, err
	}
	if s.Status != "ACTIVE" {
		return nil, apiErrorf("ServiceNotActiveException", "Service was not ACTIVE.")
	}
	if in.DesiredCount != nil {
		s.DesiredCount = *in.DesiredCount
	}
	if in.TaskDefinition != "" {
		d, err := e.definitionLocked(in.TaskDefinition)
		if err != nil {
			return nil, err
		}
		if err := e.passRoles(call, d.TaskRoleARN, d.ExecutionRoleARN); err != nil {
			return nil, err
		}
		if d.arn != s.TaskDefinition {
			s.deploy(d)
		}
	}
	e.reconcileLocked(s)
	return map[string]any{"service": s.describe(true)}, nil
}

func (e *ecsService) deleteService(call *request) (any, *apiError) {
	in, err := decode[serviceInput](call)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, err := e.serviceLocked(in.Cluster, in.Service)
	if err != nil {
		return nil, err
	}
	if err := e.cloud.iam.authorize(call, "ecs:DeleteService", s.ARN, resourceContext(s.cluster.context(), s.tags)); err != nil {
		return nil, err
	}
	if s.DesiredCount > 0 && !in.Force {
		return nil, apiErrorf("InvalidParameterException", "The service cannot be stopped while it is scaled above 0.")
	}
	s.Status, s.DesiredCount = "DRAINING", 0
	e.reconcileLocked(s)
	return map[string]any{"service": s.describe(true)}, nil
}

// reconcileLocked starts and stops tasks until a service has what it wants.
func (e *ecsService) reconcileLocked(s *ecsSvc) {
	if e.closing {
		return
	}
	var current, old []*ecsTask
	running, runningNew := 0, 0
	for _, t := range s.cluster.tasks {
		if t.service != s || t.LastStatus == "STOPPED" {
			continue
		}
		if t.LastStatus == "RUNNING" {
			running++
		}
		switch {
		case t.DesiredStatus == "STOPPED":
		case t.TaskDefinitionARN == s.TaskDefinition:
			current = append(current, t)
			if t.LastStatus == "RUNNING" {
				runningNew++
			}
		default:
			old = append(old, t)
		}
	}
	s.RunningCount, s.PendingCount = running, len(current)+len(old)-running
	primary := s.Deployments[0]
	primary.DesiredCount, primary.RunningCount, primary.UpdatedAt = s.DesiredCount, runningNew, now()
	for i := len(current); i < s.DesiredCount; i++ {
		d, err := e.definitionLocked(s.TaskDefinition)
		if err != nil || s.failed > 20 {
			break
		}
		tags := s.tags
		if s.PropagateTags == "TASK_DEFINITION" {
			tags = d.tags
		} else if s.PropagateTags != "SERVICE" {
			tags = nil
		}
		t := e.newTaskLocked(s.cluster, d, runTaskInput{
			LaunchType: s.LaunchType, Strategy: s.Strategy, Network: s.Network, StartedBy: primary.ID, Group: "service:" + s.Name, Tags: tags,
			EnableExecuteCommand: s.Exec,
		})
		t.service = s
		s.failed++
		s.say("has started 1 tasks: (task %s).", t.id)
	}
	sort.Slice(current, func(i, j int) bool { return current[i].TaskARN < current[j].TaskARN })
	for i := s.DesiredCount; i < len(current); i++ {
		e.stopLocked(current[i], "ServiceSchedulerInitiated", "Scaling activity initiated by (deployment "+primary.ID+")")
	}
	if runningNew >= s.DesiredCount {
		for _, t := range old {
			e.stopLocked(t, "ServiceSchedulerInitiated", "Scaling activity initiated by (deployment "+primary.ID+")")
		}
		if primary.RolloutState == "IN_PROGRESS" {
			primary.RolloutState = "COMPLETED"
			s.Deployments = s.Deployments[:1]
			s.say("has reached a steady state.")
		}
	}
	if runningNew > 0 {
		s.failed = 0
	}
	if s.Status == "DRAINING" && len(current)+len(old)+running == 0 {
		s.Status = "INACTIVE"
	}
}

func (s *ecsSvc) say(format string, args ...any) {
	s.Events = append([]serviceEvent{{ID: newID(), CreatedAt: now(), Message: "(service " + s.Name + ") " + fmt.Sprintf(format, args...)}}, s.Events...)
	s.Events = s.Events[:min(len(s.Events), 100)]
}

func (s *ecsSvc) describe(tags bool) any {
	type plain ecsSvc
	out := struct {
		plain
		Tags []tag `json:"tags,omitempty"`
	}{plain: plain(*s)}
	out.Deployments = nil
	for _, d := range s.Deployments {
		copied := *d
		out.Deployments = append(out.Deployments, &copied)
	}
	out.Events = slices.Clone(s.Events)
	if tags {
		out.Tags = s.tags
	}
	return out
}

func (e *ecsService) describeServices(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster  string   `json:"cluster"`
		Services []string `json:"services"`
		Include  []string `json:"include"`
	}](call)
	if err != nil {
		return nil, err
	}
	if len(in.Services) == 0 || len(in.Services) > 10 {
		return nil, apiErrorf("InvalidParameterException", "Services must have 1 to 10 elements.")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.clusterLocked(in.Cluster)
	if err != nil {
		return nil, err
	}
	found, failures := []any{}, []any{}
	for _, name := range in.Services {
		arn := e.arn("service/" + c.name + "/" + shortName(name))
		s := c.services[shortName(name)]
		var tags []tag
		if s != nil {
			tags = s.tags
		}
		if err := e.cloud.iam.authorize(call, "ecs:DescribeServices", arn, resourceContext(c.context(), tags)); err != nil {
			return nil, err
		}
		if s == nil {
			failures = append(failures, missing(arn))
			continue
		}
		found = append(found, s.describe(slices.Contains(in.Include, "TAGS")))
	}
	return map[string]any{"services": found, "failures": failures}, nil
}

func (e *ecsService) listServices(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster    string  `json:"cluster"`
		NextToken  *string `json:"nextToken"`
		MaxResults int     `json:"maxResults"`
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
	if err := e.cloud.iam.authorize(call, "ecs:ListServices", "*", c.context()); err != nil {
		return nil, err
	}
	arns := []string{}
	for _, s := range c.services {
		if s.Status != "INACTIVE" {
			arns = append(arns, s.ARN)
		}
	}
	sort.Strings(arns)
	if in.MaxResults == 0 {
		in.MaxResults = 10
	}
	some, next, err := page(arns, in.NextToken, in.MaxResults)
	if err != nil {
		return nil, err
	}
	return withToken(map[string]any{"serviceArns": some}, next), nil
}

// UpdateService changes an ECS service as a person would: how many tasks it has, and where definition is not "", of what.
func (c *Cloud) UpdateService(cluster, name string, count int, definition string) error {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	s, err := c.ecs.serviceLocked(cluster, name)
	if err != nil {
		return err
	}
	s.DesiredCount = count
	if definition != "" {
		d, err := c.ecs.definitionLocked(definition)
		if err != nil {
			return err
		}
		s.deploy(d)
	}
	c.ecs.reconcileLocked(s)
	return nil
}
