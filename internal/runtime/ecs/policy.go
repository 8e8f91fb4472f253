package ecs

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/layover-dev/layover/api"
)

// Policy is an IAM policy. See
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html.
type Policy struct {
	Version   string      `json:"Version"`
	Statement []Statement `json:"Statement"`
}

// Statement allows some actions.
type Statement struct {
	Sid       string                         `json:"Sid"`
	Effect    string                         `json:"Effect"`
	Action    []string                       `json:"Action"`
	Resource  []string                       `json:"Resource"`
	Condition map[string]map[string][]string `json:"Condition,omitempty"`
}

// PolicyInput says for whom a policy is.
type PolicyInput struct {
	Environment string        // its name
	Services    []api.Service // those that run on ECS count
	Role        string        // the policy of this role, which is taken on; "" for that of the server itself
	Account     string        // 12 digits; "" asks AWS, or takes it from the role
	Offline     bool          // asks AWS nothing, and so has to allow more
}

// needs is what the services of one account and region need beside what all do.
type needs struct {
	clusters, roles, groups, templates map[string]bool
	services, machines                 bool // ECS services are made; tasks are on container instances
}

// Policy returns the IAM policy with which a server can do what the services need, and nothing else; and in words
// what it had to guess.
func (r *Runtime) Policy(ctx context.Context, in PolicyInput) (Policy, []string, error) {
	var notes []string
	need := needs{clusters: map[string]bool{}, roles: map[string]bool{}, groups: map[string]bool{}, templates: map[string]bool{}}
	others := map[string]bool{} // roles to take on
	var account *account
	region := r.defaults.Region
	for _, s := range in.Services {
		e := s.Run.ECS
		if e == nil {
			continue
		}
		if role := cmp.Or(e.Role, r.defaults.Role); role != in.Role {
			if in.Role == "" {
				others[role] = true
			}
			continue
		}
		c, err := r.cluster(ctx, *e)
		if err != nil {
			return Policy{}, nil, err
		}
		account, region = c.account, c.region
		need.clusters[shortARN(c.name)] = true
		need.services = need.services || e.Mode == modeService
		if in.Offline {
			need.machines = need.machines || e.LaunchType == string(types.LaunchTypeEc2)
			continue
		}
		if err := need.read(ctx, c, s); err != nil {
			return Policy{}, nil, err
		}
	}
	if len(need.clusters) == 0 && len(others) == 0 {
		return Policy{}, nil, invalid("give a service of layover.yaml a run block with ecs", "no service runs on ECS with these credentials")
	}
	if in.Account == "" && strings.HasPrefix(in.Role, "arn:") {
		in.Account = strings.Split(in.Role, ":")[4]
	}
	if in.Account == "" && !in.Offline && account != nil {
		out, err := account.getCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			return Policy{}, nil, account.fail(ctx, "ask AWS who this is", err)
		}
		in.Account = aws.ToString(out.Account)
	}
	if in.Account == "" {
		in.Account = "*"
		notes = append(notes, "the account is not known, and any is allowed: give --account")
	}
	if in.Offline && len(need.clusters) > 0 {
		need.roles["*"], need.groups["*"] = true, true
		notes = append(notes, "the templates were not read: every role may be handed to tasks, and every log group be read")
	}
	p := need.policy(in, region)
	if r.events != "" && in.Role == r.defaults.Role {
		p.Statement = append(p.Statement, allow("Events", []string{"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}, queueARN(r.events, region)))
	}
	if len(others) > 0 {
		p.Statement = append(p.Statement, allow("OtherAccounts", []string{"sts:AssumeRole"}, slices.Sorted(maps.Keys(others))...))
	}
	return p, notes, nil
}

// read finds out what the template of a service needs.
func (n *needs) read(ctx context.Context, c *cluster, s api.Service) error {
	e := *s.Run.ECS
	values := map[string]string{"service": s.Name}
	e.Service, e.TaskDefinition = api.FillPlaceholders(e.Service, values), api.FillPlaceholders(e.TaskDefinition, values)
	t, err := c.template(ctx, &e, templateAge)
	if err != nil {
		return err
	}
	routed, _, err := t.routed(&e)
	if err != nil {
		return err
	}
	for _, role := range []*string{t.definition.TaskRoleArn, t.definition.ExecutionRoleArn} {
		if aws.ToString(role) != "" {
			n.roles[aws.ToString(role)] = true
		}
	}
	if t.service != nil {
		n.templates[aws.ToString(t.service.ServiceName)] = true
	}
	n.machines = n.machines || t.definition.NetworkMode != types.NetworkModeAwsvpc
	if l := routed.LogConfiguration; l != nil && l.LogDriver == types.LogDriverAwslogs {
		n.groups[l.Options["awslogs-group"]] = true
	}
	return nil
}

func allow(sid string, actions []string, resources ...string) Statement {
	return Statement{Sid: sid, Effect: "Allow", Action: actions, Resource: resources}
}

func (s Statement) when(operator, key string, values ...string) Statement {
	if s.Condition == nil {
		s.Condition = map[string]map[string][]string{}
	}
	if s.Condition[operator] == nil {
		s.Condition[operator] = map[string][]string{}
	}
	s.Condition[operator][key] = values
	return s
}

// policy allows what is needed. What Layover makes in ECS has names that begin with its environment's, which
// gets eight digits of its own when it is made.
func (n *needs) policy(in PolicyInput, region string) Policy {
	p := Policy{Version: "2012-10-17"}
	if len(n.clusters) == 0 {
		return p
	}
	arn := func(resource string) string {
		return "arn:aws:ecs:" + cmp.Or(region, "*") + ":" + in.Account + ":" + resource
	}
	ours := "layover-" + ecsName(in.Environment) + "-*"
	var clusters, tasks, services, ourServices []string
	for _, name := range slices.Sorted(maps.Keys(n.clusters)) {
		clusters = append(clusters, arn("cluster/"+name))
		tasks = append(tasks, arn("task/"+name+"/*"))
		ourServices = append(ourServices, arn("service/"+name+"/"+ours))
		for _, template := range slices.Sorted(maps.Keys(n.templates)) {
			services = append(services, arn("service/"+name+"/"+template))
		}
		if in.Offline {
			services = append(services, arn("service/"+name+"/*"))
		}
	}
	if n.services {
		services = append(services, ourServices...)
	}
	inCluster := func(s Statement) Statement { return s.when("ArnEquals", "ecs:cluster", clusters...) }
	definitions := arn("task-definition/" + ours + ":*")

	lists := []string{"ecs:ListTasks"}
	creating := []string{"RunTask", "RegisterTaskDefinition"}
	tagged := append([]string{definitions}, tasks...)
	if n.services {
		lists = append(lists, "ecs:ListServices")
		creating = append(creating, "CreateService")
		tagged = append(tagged, ourServices...)
	}
	p.Statement = append(p.Statement,
		inCluster(allow("List", lists, "*")),
		allow("Clusters", []string{"ecs:DescribeClusters"}, clusters...),
		inCluster(allow("Tasks", []string{"ecs:DescribeTasks"}, tasks...)),
		inCluster(allow("Run", []string{"ecs:RunTask"}, definitions)),
		inCluster(allow("Stop", []string{"ecs:StopTask"}, tasks...)).when("StringLike", "aws:ResourceTag/"+TagEnvironment, in.Environment+"-*"),
		allow("Register", []string{"ecs:RegisterTaskDefinition", "ecs:DeleteTaskDefinitions"}, definitions),
		allow("Definitions", []string{"ecs:DescribeTaskDefinition", "ecs:DeregisterTaskDefinition", "ecs:ListTaskDefinitionFamilies", "ecs:ListTaskDefinitions"}, "*"),
		allow("Tag", []string{"ecs:TagResource"}, tagged...).when("StringEquals", "ecs:CreateAction", creating...),
	)
	if len(services) > 0 {
		p.Statement = append(p.Statement, inCluster(allow("Services", []string{"ecs:DescribeServices"}, services...)))
	}
	if n.services {
		p.Statement = append(p.Statement, inCluster(allow("OwnServices", []string{"ecs:CreateService", "ecs:UpdateService", "ecs:DeleteService"}, ourServices...)))
	}
	if n.machines {
		p.Statement = append(p.Statement,
			inCluster(allow("Machines", []string{"ecs:DescribeContainerInstances"}, arn("container-instance/*"))),
			allow("Addresses", []string{"ec2:DescribeInstances"}, "*"))
	}
	if roles := slices.Sorted(maps.Keys(n.roles)); len(roles) > 0 {
		for i, role := range roles {
			if role == "*" {
				roles[i] = "arn:aws:iam::" + in.Account + ":role/*"
			}
		}
		p.Statement = append(p.Statement, allow("PassRole", []string{"iam:PassRole"}, roles...).when("StringEquals", "iam:PassedToService", "ecs-tasks.amazonaws.com"))
	}
	if groups := slices.Sorted(maps.Keys(n.groups)); len(groups) > 0 {
		logs := "arn:aws:logs:" + cmp.Or(region, "*") + ":" + in.Account + ":log-group:"
		var streams []string
		for _, group := range groups {
			streams = append(streams, logs+group+":log-stream:*")
		}
		p.Statement = append(p.Statement,
			allow("Logs", []string{"logs:GetLogEvents"}, streams...),
			allow("LogGroups", []string{"logs:DescribeLogGroups"}, logs+"*"))
	}
	return p
}

// queueARN is the ARN of the queue of a URL.
func queueARN(queue, region string) string {
	u, err := url.Parse(queue)
	if err != nil {
		return "*"
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if host := strings.Split(u.Host, "."); len(host) > 2 && host[0] == "sqs" {
		region = host[1]
	}
	if len(parts) != 2 {
		return "*"
	}
	return fmt.Sprintf("arn:aws:sqs:%s:%s:%s", cmp.Or(region, "*"), parts[0], parts[1])
}
