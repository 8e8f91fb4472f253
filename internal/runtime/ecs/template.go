package ecs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// template is what a version is a copy of: a task definition, and how the tasks of it run.
type template struct {
	definition *definition
	service    *types.Service // nil where only a task definition is named
	read       time.Time
}

// definition is a task definition as ECS has it. It never changes.
type definition struct {
	types.TaskDefinition
	tags []types.Tag
}

// templateAge is how long a template is used without being read again: what a deployment wants is the
// newest, and many start at once.
const templateAge = 20 * time.Second

// template reads the template of a run, unless it is known since less than age.
func (c *cluster) template(ctx context.Context, e *api.ECS, age time.Duration) (*template, error) {
	name := "service " + e.Service
	if e.Service == "" {
		name = "task definition " + e.TaskDefinition
	} else if e.TaskDefinition != "" {
		name += " with " + e.TaskDefinition
	}
	c.mu.Lock()
	known := c.templates[name]
	seen := c.origins[originOf(e)]
	c.mu.Unlock()
	moved := age <= templateAge && known != nil && seen != nil && seen.current != "" && seen.current != known.definition.label()
	if known != nil && time.Since(known.read) < age && !moved {
		return known, nil
	}
	out := &template{read: time.Now()}
	wanted := e.TaskDefinition
	if e.Service != "" {
		found, err := c.findService(ctx, e.Service)
		if err != nil {
			return nil, err
		}
		out.service = found
		wanted = cmp.Or(wanted, aws.ToString(found.TaskDefinition))
	}
	var err error
	if out.definition, err = c.definition(ctx, wanted); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.templates[name] = out
	c.origins[originOf(e)] = &origin{current: out.definition.label(), asked: out.read}
	c.mu.Unlock()
	return out, nil
}

// findService asks for one ECS service by name.
func (c *cluster) findService(ctx context.Context, name string) (*types.Service, error) {
	what := fmt.Sprintf("look for the ECS service %s in cluster %s", name, c.name)
	out, err := ask(ctx, c.account, c.describeServices, &ecs.DescribeServicesInput{Cluster: &c.name, Services: []string{name}})
	if err != nil {
		return nil, c.fail(ctx, what, err)
	}
	if len(out.Services) == 0 || aws.ToString(out.Services[0].Status) != serviceActive {
		return nil, &control.Error{
			Code:    api.CodeNotFound,
			Message: fmt.Sprintf("cluster %s has no ECS service %s", c.name, name),
			Hint:    fmt.Sprintf("`aws ecs list-services --cluster %s` lists them; set run.ecs.service of the service", c.name),
		}
	}
	return &out.Services[0], nil
}

const serviceActive = "ACTIVE"

// definition asks for a task definition. What is asked for with its revision is asked for once.
func (c *cluster) definition(ctx context.Context, name string) (*definition, error) {
	c.mu.Lock()
	known := c.definitions[shortARN(name)] // a family alone is not in there
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	out, err := ask(ctx, c.account, c.describeTaskDefinition, &ecs.DescribeTaskDefinitionInput{
		TaskDefinition: &name, Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags},
	})
	switch {
	case err != nil && strings.Contains(err.Error(), "Unable to describe task definition"):
		return nil, &control.Error{
			Code:    api.CodeNotFound,
			Message: fmt.Sprintf("there is no task definition %s in region %s", name, c.region),
			Hint:    "`aws ecs list-task-definition-families --status ACTIVE` lists them; set run.ecs.task_definition of the service",
			Err:     err,
		}
	case err != nil:
		return nil, c.fail(ctx, "read task definition "+name, err)
	case out.TaskDefinition == nil:
		return nil, c.fail(ctx, "read task definition "+name, fmt.Errorf("AWS gave none"))
	}
	found := &definition{TaskDefinition: *out.TaskDefinition, tags: out.Tags}
	c.mu.Lock()
	c.definitions[found.label()] = found
	c.mu.Unlock()
	return found, nil
}

// routed returns the container of a template that gets the requests, and the port it listens on.
func (t *template) routed(e *api.ECS) (*types.ContainerDefinition, int, error) {
	name, port := e.Container, e.Port
	if t.service != nil {
		for _, lb := range t.service.LoadBalancers {
			if name == "" {
				name = aws.ToString(lb.ContainerName)
			}
			if port == 0 && name == aws.ToString(lb.ContainerName) {
				port = int(aws.ToInt32(lb.ContainerPort))
			}
		}
	}
	of := "task definition " + t.definition.label()
	var names []string
	var found, open []*types.ContainerDefinition
	for i := range t.definition.ContainerDefinitions {
		d := &t.definition.ContainerDefinitions[i]
		names = append(names, aws.ToString(d.Name))
		if len(d.PortMappings) > 0 {
			open = append(open, d)
		}
		if name != "" && aws.ToString(d.Name) == name || name == "" && len(t.definition.ContainerDefinitions) == 1 {
			found = append(found, d)
		}
	}
	if name == "" && len(found) == 0 {
		found = open
	}
	switch {
	case name != "" && len(found) == 0:
		return nil, 0, invalid("set container of run.ecs to one of "+strings.Join(names, ", "), "%s has no container %s", of, name)
	case len(found) != 1:
		return nil, 0, invalid("set container of run.ecs to one of "+strings.Join(names, ", "), "nothing says which container of %s gets the requests", of)
	case port == 0 && len(found[0].PortMappings) == 0:
		return nil, 0, invalid("set port of run.ecs", "container %s of %s has no port mapping, and nothing says where it listens", aws.ToString(found[0].Name), of)
	case port == 0:
		port = int(aws.ToInt32(found[0].PortMappings[0].ContainerPort))
	}
	return found[0], port, nil
}

// label is the family and revision of a definition.
func (d *definition) label() string { return shortARN(aws.ToString(d.TaskDefinitionArn)) }

// shortARN is what follows the last slash of an ARN.
func shortARN(arn string) string { return arn[strings.LastIndex(arn, "/")+1:] }

// network is the network of tasks: as the run says, else as the ECS service has it.
func (t *template) network(e *api.ECS) (*types.NetworkConfiguration, error) {
	if t.definition.NetworkMode != types.NetworkModeAwsvpc {
		return nil, nil //nolint:nilnil // such tasks have none
	}
	if len(e.Subnets) > 0 {
		public := types.AssignPublicIpDisabled
		if e.PublicIP {
			public = types.AssignPublicIpEnabled
		}
		return &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{
			Subnets: e.Subnets, SecurityGroups: e.SecurityGroups, AssignPublicIp: public,
		}}, nil
	}
	if t.service == nil || t.service.NetworkConfiguration == nil {
		return nil, invalid("set subnets and security_groups of run.ecs, or service, to an ECS service that runs there",
			"tasks of %s have a network of their own, and nothing says which", t.definition.label())
	}
	return t.service.NetworkConfiguration, nil
}

// placement is where tasks run: as the run says, else as the ECS service has it.
func (t *template) placement(e *api.ECS) (types.LaunchType, []types.CapacityProviderStrategyItem, error) {
	if e.LaunchType != "" {
		return types.LaunchType(e.LaunchType), nil, nil
	}
	var strategy []types.CapacityProviderStrategyItem
	for _, entry := range e.Capacity {
		name, weight, given := strings.Cut(entry, ":")
		item := types.CapacityProviderStrategyItem{CapacityProvider: &name, Weight: 1}
		if given {
			n, err := strconv.ParseInt(weight, 10, 32)
			if err != nil || n < 0 || n > 1000 {
				return "", nil, invalid("write it like FARGATE_SPOT:3", "%q is not a capacity provider with its weight", entry)
			}
			item.Weight = int32(n)
		}
		strategy = append(strategy, item)
	}
	if len(strategy) > 0 || t.service == nil {
		return "", strategy, nil
	}
	if len(t.service.CapacityProviderStrategy) > 0 {
		return "", t.service.CapacityProviderStrategy, nil
	}
	return t.service.LaunchType, nil, nil
}

// fargate says whether a task runs on Fargate.
func fargate(launch types.LaunchType, strategy []types.CapacityProviderStrategyItem) bool {
	return launch == types.LaunchTypeFargate || slices.ContainsFunc(strategy, func(i types.CapacityProviderStrategyItem) bool {
		return strings.HasPrefix(aws.ToString(i.CapacityProvider), "FARGATE")
	})
}
