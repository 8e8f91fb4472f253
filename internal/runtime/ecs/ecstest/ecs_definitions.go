package ecstest

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// ecsDefinition is a task definition: what was registered, and what ECS adds.
type ecsDefinition struct {
	family   string
	revision int
	arn      string
	status   string
	content  map[string]any // as it was registered
	tags     []tag
	definitionContent
}

// definitionContent is what the fake itself reads of a definition.
type definitionContent struct {
	NetworkMode             string                `json:"networkMode"`
	CPU                     string                `json:"cpu"`
	Memory                  string                `json:"memory"`
	TaskRoleARN             string                `json:"taskRoleArn"`
	ExecutionRoleARN        string                `json:"executionRoleArn"`
	RequiresCompatibilities []string              `json:"requiresCompatibilities"`
	ContainerDefinitions    []containerDefinition `json:"containerDefinitions"`
}

type containerDefinition struct {
	Name         string     `json:"name"`
	Image        string     `json:"image"`
	EntryPoint   []string   `json:"entryPoint"`
	Command      []string   `json:"command"`
	Environment  []keyValue `json:"environment"`
	Memory       int        `json:"memory"`
	Essential    *bool      `json:"essential"`
	StopTimeout  *int       `json:"stopTimeout"`
	PortMappings []struct {
		ContainerPort int  `json:"containerPort"`
		HostPort      *int `json:"hostPort"`
	} `json:"portMappings"`
	Secrets []struct {
		Name      string `json:"name"`
		ValueFrom string `json:"valueFrom"`
	} `json:"secrets"`
	LogConfiguration *struct {
		LogDriver string            `json:"logDriver"`
		Options   map[string]string `json:"options"`
	} `json:"logConfiguration"`
}

var familyName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,255}$`)

// fargateSizes are the memory sizes in MiB that each CPU size of Fargate may have, from least to most.
func fargateSizes() map[int][2]int {
	return map[int][2]int{256: {512, 2048}, 512: {1024, 4096}, 1024: {2048, 8192}, 2048: {4096, 16384}, 4096: {8192, 30720}, 8192: {16384, 61440}, 16384: {32768, 122880}}
}

func (e *ecsService) registerTaskDefinition(call *request) (any, *apiError) {
	in, err := decode[struct {
		Family string `json:"family"`
		Tags   []tag  `json:"tags"`
		definitionContent
	}](call)
	if err != nil {
		return nil, err
	}
	content := map[string]any{}
	_ = json.Unmarshal(call.body, &content) // it was read a line above
	delete(content, "tags")
	if !familyName.MatchString(in.Family) {
		return nil, apiErrorf("ClientException", "Family contains invalid characters.")
	}
	if err := checkDefinition(in.definitionContent); err != nil {
		return nil, err
	}
	if in.NetworkMode == "awsvpc" {
		fillHostPorts(content)
	}
	resource := e.arn("task-definition/" + in.Family + ":*")
	if err := e.cloud.iam.authorize(call, "ecs:RegisterTaskDefinition", resource, tagContext(nil, "", in.Tags)); err != nil {
		return nil, err
	}
	if err := e.allowTags(call, resource, nil, in.Tags); err != nil {
		return nil, err
	}
	if err := e.passRoles(call, in.TaskRoleARN, in.ExecutionRoleARN); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	d := &ecsDefinition{
		family: in.Family, revision: len(e.definitions[in.Family]) + 1, status: "ACTIVE", content: content, tags: in.Tags, definitionContent: in.definitionContent,
	}
	if d.NetworkMode == "" {
		d.NetworkMode = "bridge"
	}
	d.arn = e.arn(fmt.Sprintf("task-definition/%s:%d", d.family, d.revision))
	e.definitions[d.family] = append(e.definitions[d.family], d)
	return map[string]any{"taskDefinition": d.describe(), "tags": tagsOf(d.tags)}, nil
}

// fillHostPorts gives mappings without a host port the container's, as ECS does for tasks with a network of their own.
func fillHostPorts(content map[string]any) {
	containers, _ := content["containerDefinitions"].([]any)
	for _, c := range containers {
		mappings, _ := c.(map[string]any)["portMappings"].([]any)
		for _, m := range mappings {
			if m := m.(map[string]any); m["hostPort"] == nil {
				m["hostPort"] = m["containerPort"]
			}
		}
	}
}

// passRoles refuses roles that the caller may not hand to ECS.
func (e *ecsService) passRoles(call *request, roles ...string) *apiError {
	for _, role := range roles {
		if role == "" {
			continue
		}
		if !strings.HasPrefix(role, "arn:") {
			role = "arn:aws:iam::" + e.cloud.account + ":role/" + role
		}
		err := e.cloud.iam.authorize(call, "iam:PassRole", role, map[string][]string{"iam:PassedToService": {"ecs-tasks.amazonaws.com"}})
		if err != nil {
			return err
		}
	}
	return nil
}

func checkDefinition(d definitionContent) *apiError {
	if len(d.ContainerDefinitions) == 0 {
		return apiErrorf("ClientException", "Container list cannot be empty.")
	}
	essential := false
	for i, c := range d.ContainerDefinitions {
		if c.Name == "" || c.Image == "" {
			return apiErrorf("ClientException", "Container.name and Container.image should not be null or empty.")
		}
		if slices.ContainsFunc(d.ContainerDefinitions[:i], func(o containerDefinition) bool { return o.Name == c.Name }) {
			return apiErrorf("ClientException", "Container names must be unique.")
		}
		essential = essential || c.Essential == nil || *c.Essential
		if c.Memory == 0 && d.Memory == "" {
			return apiErrorf("ClientException", "Invalid setting for container '%s'. At least one of 'memory' or 'memoryReservation' must be specified.", c.Name)
		}
		for _, s := range c.Secrets {
			if slices.ContainsFunc(c.Environment, func(v keyValue) bool { return v.Name == s.Name }) {
				return apiErrorf("ClientException", "The secret name must be unique and not shared with any new or existing environment variables set on the container, such as '%s'.", s.Name)
			}
		}
		for _, p := range c.PortMappings {
			if d.NetworkMode == "awsvpc" && p.HostPort != nil && *p.HostPort != p.ContainerPort {
				return apiErrorf("ClientException", "When networkMode=awsvpc, the host ports and container ports in port mappings must match.")
			}
		}
		if c.StopTimeout != nil && (*c.StopTimeout < 0 || *c.StopTimeout > 120 && slices.Contains(d.RequiresCompatibilities, "FARGATE")) {
			return apiErrorf("ClientException", "Fargate requires that the stop timeout be at most 120 seconds.")
		}
	}
	if !essential {
		return apiErrorf("ClientException", "At least one container must be essential.")
	}
	if slices.Contains(d.RequiresCompatibilities, "FARGATE") {
		cpu, _ := strconv.Atoi(d.CPU)
		memory, _ := strconv.Atoi(d.Memory)
		if d.NetworkMode != "awsvpc" {
			return apiErrorf("ClientException", "Fargate only supports network mode 'awsvpc'.")
		}
		if sizes, ok := fargateSizes()[cpu]; !ok || memory < sizes[0] || memory > sizes[1] {
			return apiErrorf("ClientException", "No Fargate configuration exists for given values: %s CPU, %s memory. See the Amazon ECS documentation for the valid values.", d.CPU, d.Memory)
		}
	}
	return nil
}

func (d *ecsDefinition) describe() map[string]any {
	out := maps.Clone(d.content)
	out["taskDefinitionArn"], out["family"], out["revision"], out["status"] = d.arn, d.family, d.revision, d.status
	compatible := []string{"EC2"}
	if slices.Contains(d.RequiresCompatibilities, "FARGATE") || d.NetworkMode == "awsvpc" {
		compatible = append(compatible, "FARGATE")
	}
	out["compatibilities"] = compatible
	return out
}

func tagsOf(tags []tag) []tag {
	if tags == nil {
		return []tag{}
	}
	return tags
}

// definitionLocked finds a definition by family, family:revision or ARN. A family is its newest active revision.
func (e *ecsService) definitionLocked(name string) (*ecsDefinition, *apiError) {
	gone := apiErrorf("ClientException", "Unable to describe task definition.")
	if strings.HasPrefix(name, "arn:") && !strings.HasPrefix(name, e.arn("task-definition/")) {
		return nil, gone
	}
	family, revision, given := strings.Cut(shortName(name), ":")
	all := e.definitions[family]
	if given {
		n, err := strconv.Atoi(revision)
		if err != nil || n < 1 || n > len(all) {
			return nil, gone
		}
		return all[n-1], nil
	}
	for _, d := range slices.Backward(all) {
		if d.status == "ACTIVE" {
			return d, nil
		}
	}
	return nil, gone
}

func (e *ecsService) describeTaskDefinition(call *request) (any, *apiError) {
	in, err := decode[struct {
		TaskDefinition string   `json:"taskDefinition"`
		Include        []string `json:"include"`
	}](call)
	if err != nil {
		return nil, err
	}
	if err := e.cloud.iam.authorize(call, "ecs:DescribeTaskDefinition", "*", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	d, err := e.definitionLocked(in.TaskDefinition)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"taskDefinition": d.describe()}
	if slices.Contains(in.Include, "TAGS") {
		out["tags"] = tagsOf(d.tags)
	}
	return out, nil
}

func (e *ecsService) deregisterTaskDefinition(call *request) (any, *apiError) {
	in, err := decode[struct {
		TaskDefinition string `json:"taskDefinition"`
	}](call)
	if err != nil {
		return nil, err
	}
	if err := e.cloud.iam.authorize(call, "ecs:DeregisterTaskDefinition", "*", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	d, err := e.definitionLocked(in.TaskDefinition)
	if err != nil {
		return nil, err
	}
	if d.status != "ACTIVE" {
		return nil, apiErrorf("ClientException", "The specified task definition is inactive. Specify an active task definition and try again.")
	}
	d.status = "INACTIVE"
	return map[string]any{"taskDefinition": d.describe()}, nil
}

func (e *ecsService) deleteTaskDefinitions(call *request) (any, *apiError) {
	in, err := decode[struct {
		TaskDefinitions []string `json:"taskDefinitions"`
	}](call)
	if err != nil {
		return nil, err
	}
	if len(in.TaskDefinitions) > 10 {
		return nil, apiErrorf("InvalidParameterException", "At most 10 task definitions can be deleted at once.")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	deleted, failures := []any{}, []any{}
	for _, name := range in.TaskDefinitions {
		d, err := e.definitionLocked(name)
		if err != nil {
			failures = append(failures, missing(name))
			continue
		}
		if err := e.cloud.iam.authorize(call, "ecs:DeleteTaskDefinitions", d.arn, resourceContext(nil, d.tags)); err != nil {
			return nil, err
		}
		if d.status == "ACTIVE" {
			failures = append(failures, map[string]any{"arn": d.arn, "reason": "The specified task definition is still in ACTIVE status. Please deregister the target and try again."})
			continue
		}
		d.status = "DELETE_IN_PROGRESS"
		deleted = append(deleted, d.describe())
	}
	return map[string]any{"taskDefinitions": deleted, "failures": failures}, nil
}

func (e *ecsService) listTaskDefinitions(call *request) (any, *apiError) {
	in, err := decode[struct {
		FamilyPrefix string  `json:"familyPrefix"`
		Status       string  `json:"status"`
		Sort         string  `json:"sort"`
		NextToken    *string `json:"nextToken"`
		MaxResults   int     `json:"maxResults"`
	}](call)
	if err != nil {
		return nil, err
	}
	if err := e.cloud.iam.authorize(call, "ecs:ListTaskDefinitions", "*", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	arns := []string{}
	families := []string{}
	for family := range e.definitions {
		families = append(families, family)
	}
	sort.Strings(families)
	for _, family := range families {
		if in.FamilyPrefix != "" && family != in.FamilyPrefix { // the whole name of the family, whatever it is called
			continue
		}
		for _, d := range e.definitions[family] {
			if d.status == in.Status || in.Status == "" && d.status == "ACTIVE" {
				arns = append(arns, d.arn)
			}
		}
	}
	if in.Sort == "DESC" {
		slices.Reverse(arns)
	}
	some, next, err := page(arns, in.NextToken, in.MaxResults)
	if err != nil {
		return nil, err
	}
	return withToken(map[string]any{"taskDefinitionArns": some}, next), nil
}

func (e *ecsService) listTaskDefinitionFamilies(call *request) (any, *apiError) {
	in, err := decode[struct {
		FamilyPrefix string  `json:"familyPrefix"`
		Status       string  `json:"status"`
		NextToken    *string `json:"nextToken"`
		MaxResults   int     `json:"maxResults"`
	}](call)
	if err != nil {
		return nil, err
	}
	if err := e.cloud.iam.authorize(call, "ecs:ListTaskDefinitionFamilies", "*", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	families := []string{}
	for family, all := range e.definitions {
		active := slices.ContainsFunc(all, func(d *ecsDefinition) bool { return d.status == "ACTIVE" })
		if strings.HasPrefix(family, in.FamilyPrefix) && (in.Status == "ALL" || in.Status == "" || active == (in.Status == "ACTIVE")) {
			families = append(families, family)
		}
	}
	sort.Strings(families)
	some, next, err := page(families, in.NextToken, in.MaxResults)
	if err != nil {
		return nil, err
	}
	return withToken(map[string]any{"families": some}, next), nil
}

func withToken(out map[string]any, next *string) map[string]any {
	if next != nil {
		out["nextToken"] = *next
	}
	return out
}
