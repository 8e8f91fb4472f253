package ecs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/internal/control"
)

// plan is everything that an instance is started from.
type plan struct {
	workload  control.Workload
	template  *template
	container string
	port      int
	origin    string            // what it is a copy of, see originOf
	base      string            // the definition that this had when it was copied
	own       map[string]string // variables of this instance alone
	family    string
	input     *ecs.RegisterTaskDefinitionInput // without family and tags
	hash      string                           // of input
}

// plan copies the template of a workload and puts in what the workload says.
func (c *cluster) plan(ctx context.Context, w control.Workload) (plan, error) {
	e := w.Run.ECS
	t, err := c.template(ctx, e, templateAge)
	if err != nil {
		return plan{}, err
	}
	routed, port, err := t.routed(e)
	if err != nil {
		return plan{}, err
	}
	p := plan{workload: w, template: t, container: aws.ToString(routed.Name), port: port, origin: originOf(e), base: t.definition.label()}
	p.input, err = copyDefinition(&t.definition.TaskDefinition)
	if err != nil {
		return plan{}, err
	}
	shared := p.variables()
	for i := range p.input.ContainerDefinitions {
		d := &p.input.ContainerDefinitions[i]
		if aws.ToString(d.Name) == p.container {
			p.change(d, shared)
		}
		if w.Grace > 0 {
			d.StopTimeout = aws.Int32(int32(min(maxStopTimeout, max(1, math.Ceil(w.Grace.Seconds())))))
		}
		freePorts(d, p.input.NetworkMode)
		keepFromTraefik(d)
	}
	if e.CPU > 0 {
		p.input.Cpu = aws.String(strconv.Itoa(e.CPU))
	}
	if e.Memory > 0 {
		p.input.Memory = aws.String(strconv.Itoa(e.Memory))
		if len(p.input.ContainerDefinitions) == 1 { // else it is said of each container what it may have of that
			p.input.ContainerDefinitions[0].Memory = nil
			p.input.ContainerDefinitions[0].MemoryReservation = nil
		}
	}
	p.hash, err = hashOf(p.input)
	p.family = c.family(w)
	return p, err
}

// planLike plans one more instance beside the task like, from the same definition: whatever became of the template
// since, all instances of a deployment are of one kind, and ECS is asked nothing.
func (c *cluster) planLike(ctx context.Context, w control.Workload, like *task) (plan, error) {
	t, err := c.template(ctx, w.Run.ECS, math.MaxInt64)
	if err != nil {
		return plan{}, err
	}
	p := plan{
		workload: w, template: t, container: like.container, port: like.port, origin: like.origin, base: like.base, family: c.family(w),
	}
	p.variables()
	return p, nil
}

// like returns a task of the same deployment whose definition tasks can be run from, nil where none is known. The definition
// is not deregistered before done is called.
func (c *cluster) like(w control.Workload) (found *task, done func()) {
	family, hash := c.family(w), workloadHash(w)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, last, _ := strings.Cut(c.last[family], " ")
	for _, t := range c.tasks {
		definition := aws.ToString(t.TaskDefinitionArn)
		if t.ofService == w.Service && t.ofVersion == w.Version && t.Generation == w.Generation && t.workload == hash &&
			strings.HasPrefix(shortARN(definition), family+":") && (definition == last || !t.ended()) {
			one := *t
			return &one, c.holdLocked(definition)
		}
	}
	return nil, nil
}

// variables takes those of the workload's variables that only this instance has into own, and returns the others.
func (p *plan) variables() map[string]string {
	port := strconv.Itoa(p.port)
	p.own = map[string]string{}
	shared := map[string]string{"PORT": port}
	for name, value := range p.workload.Env {
		value = strings.ReplaceAll(value, "{port}", port)
		switch {
		case name == "PORT":
		case strings.Contains(value, p.workload.ID) && p.workload.Run.ECS.Mode != modeService:
			p.own[name] = value
		default:
			shared[name] = value
		}
	}
	return shared
}

// change puts into the routed container what the workload says of it.
func (p *plan) change(d *types.ContainerDefinition, env map[string]string) {
	e := p.workload.Run.ECS
	d.Image = aws.String(cmp.Or(e.Image, aws.ToString(d.Image)))
	if len(e.Command) > 0 {
		d.Command = nil
		for _, word := range e.Command {
			d.Command = append(d.Command, strings.ReplaceAll(word, "{port}", strconv.Itoa(p.port)))
		}
	}
	all := map[string]string{}
	for _, v := range d.Environment {
		all[aws.ToString(v.Name)] = aws.ToString(v.Value)
	}
	for _, name := range p.workload.Yields {
		if all[name] != "" || slices.ContainsFunc(d.Secrets, func(s types.Secret) bool { return aws.ToString(s.Name) == name }) {
			delete(env, name)
		}
	}
	maps.Copy(all, env)
	d.Environment = variables(all)
	// ECS refuses a name that is a variable and a secret: what the version says wins.
	d.Secrets = slices.DeleteFunc(d.Secrets, func(s types.Secret) bool {
		_, given := env[aws.ToString(s.Name)]
		_, own := p.own[aws.ToString(s.Name)]
		return given || own
	})
	if !slices.ContainsFunc(d.PortMappings, func(m types.PortMapping) bool { return int(aws.ToInt32(m.ContainerPort)) == p.port }) {
		d.PortMappings = append(d.PortMappings, types.PortMapping{ContainerPort: aws.Int32(int32(p.port)) /* #nosec G115: a port */, Protocol: types.TransportProtocolTcp})
	}
}

// maxStopTimeout is for how many seconds Fargate waits at most for a container to end.
const maxStopTimeout = 120

// variables are environment variables as ECS has them, in order.
func variables(env map[string]string) []types.KeyValuePair {
	var out []types.KeyValuePair
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, types.KeyValuePair{Name: aws.String(name), Value: aws.String(env[name])})
	}
	return out
}

// freePorts lets the machine choose the host port where the template names one, which its own task has there.
func freePorts(d *types.ContainerDefinition, mode types.NetworkMode) {
	if mode == types.NetworkModeAwsvpc || mode == types.NetworkModeHost {
		return
	}
	for i := range d.PortMappings {
		d.PortMappings[i].HostPort = aws.Int32(0)
	}
}

// keepFromTraefik has Traefik's own ECS provider leave a version out. It would read the labels of the template,
// take the version for one more instance of main, and send it requests that asked for none.
func keepFromTraefik(d *types.ContainerDefinition) {
	for name := range d.DockerLabels {
		if strings.HasPrefix(name, "traefik.") {
			d.DockerLabels["traefik.enable"] = "false"
			return
		}
	}
}

// copyDefinition copies all of a definition that can be registered. It goes by JSON: a copy shares nothing.
func copyDefinition(d *types.TaskDefinition) (*ecs.RegisterTaskDefinitionInput, error) {
	text, err := json.Marshal(ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: d.ContainerDefinitions, Cpu: d.Cpu, EnableFaultInjection: d.EnableFaultInjection,
		EphemeralStorage: d.EphemeralStorage, ExecutionRoleArn: d.ExecutionRoleArn,
		IpcMode: d.IpcMode, Memory: d.Memory, NetworkMode: d.NetworkMode, PidMode: d.PidMode,
		PlacementConstraints: d.PlacementConstraints, ProxyConfiguration: d.ProxyConfiguration,
		RequiresCompatibilities: d.RequiresCompatibilities, RuntimePlatform: d.RuntimePlatform, TaskRoleArn: d.TaskRoleArn, Volumes: d.Volumes,
	})
	if err != nil {
		return nil, fmt.Errorf("copy a task definition: %w", err)
	}
	out := &ecs.RegisterTaskDefinitionInput{}
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("copy a task definition: %w", err)
	}
	return out, nil
}

// hashOf is the hash of what is to be registered, by which it is known again.
func hashOf(in *ecs.RegisterTaskDefinitionInput) (string, error) {
	text, err := json.Marshal(in)
	if err != nil {
		return "", fmt.Errorf("hash a task definition: %w", err)
	}
	return shortHash(text), nil
}

// workloadHash is the hash of what a workload runs: the same for all instances of a deployment.
func workloadHash(w control.Workload) string {
	text := []any{w.Run.ECS, w.Grace}
	for _, name := range slices.Sorted(maps.Keys(w.Env)) {
		text = append(text, name, strings.ReplaceAll(w.Env[name], w.ID, "{instance}"))
	}
	out, _ := json.Marshal(text) // all of it can be written
	return shortHash(out)
}

func shortHash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

var notInNames = regexp.MustCompile(`[^a-zA-Z0-9_-]+`)

// family is the family of the definitions of a version: of each instance of its own where the definition has what
// only that instance has.
func (c *cluster) family(w control.Workload) string {
	of := w.Service + "--" + w.Version
	if w.Run.ECS.Mode == modeService || control.IsHook(w.ID) {
		of = w.ID
	}
	return c.runtime.prefix() + ecsName(of)
}

// maxECSName is how long a part of ours in a name of ECS may be; those have 255 characters.
const maxECSName = 180

// ecsName makes a name of what ECS takes: letters, digits, - and _. Where something had to be changed
// it gets a hash of the whole, so that no two names become one.
func ecsName(name string) string {
	out := notInNames.ReplaceAllString(name, "_")
	if out == name && len(out) <= maxECSName {
		return out
	}
	sum := sha256.Sum256([]byte(name))
	return out[:min(len(out), maxECSName)] + "-" + hex.EncodeToString(sum[:4])
}

// tagHash is the tag of a definition that has the hash of its content.
const tagHash = "layover:hash"

// ensureDefinition registers the definition of p where the last one of its family is not the same, and returns its
// ARN, which is not deregistered before done is called.
func (c *cluster) ensureDefinition(ctx context.Context, p plan) (arn string, done func(), err error) {
	free, err := c.runtime.turn(ctx, "definition "+p.family)
	if err != nil {
		return "", nil, err
	}
	defer free()
	c.mu.Lock()
	last, known := c.last[p.family]
	if hash, arn, _ := strings.Cut(last, " "); known && hash == p.hash {
		defer c.mu.Unlock()
		return arn, c.holdLocked(arn), nil
	}
	c.mu.Unlock()
	if !known {
		if arn, hash := c.newest(ctx, p.family); hash == p.hash {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.last[p.family] = hash + " " + arn
			return arn, c.holdLocked(arn), nil
		}
	}
	in := *p.input
	in.Family = &p.family
	in.Tags = append(c.runtime.tags(p.workload), types.Tag{Key: aws.String(tagHash), Value: &p.hash})
	out, err := change(ctx, c.account, c.registerTaskDefinition, &in)
	if err != nil {
		return "", nil, c.fail(ctx, "register a task definition for "+p.workload.ID, err)
	}
	arn = aws.ToString(out.TaskDefinition.TaskDefinitionArn)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.definitions[shortARN(arn)] = &definition{TaskDefinition: *out.TaskDefinition, tags: in.Tags}
	c.last[p.family] = p.hash + " " + arn
	return arn, c.holdLocked(arn), nil
}

// holdLocked has a definition not be deregistered before done is called.
func (c *cluster) holdLocked(arn string) (done func()) {
	c.using[arn]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.using[arn]--; c.using[arn] == 0 {
			delete(c.using, arn)
		}
	}
}

// newest returns the newest active definition of a family, and the hash it was registered with; both are empty where
// there is none, or none can be read.
func (c *cluster) newest(ctx context.Context, family string) (arn, hash string) {
	out, err := ask(ctx, c.account, c.describeTaskDefinition, &ecs.DescribeTaskDefinitionInput{
		TaskDefinition: &family, Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags},
	})
	if err != nil || out.TaskDefinition == nil || out.TaskDefinition.Status != types.TaskDefinitionStatusActive {
		return "", ""
	}
	return aws.ToString(out.TaskDefinition.TaskDefinitionArn), tagOf(out.Tags, tagHash)
}

// drop deregisters a definition of ours that nothing is run from any more, and has AWS delete it. What
// cannot be dropped now is found again by sweep.
func (c *cluster) drop(ctx context.Context, arn string) {
	if !strings.HasPrefix(shortARN(arn), c.runtime.prefix()) {
		return
	}
	family, _, _ := strings.Cut(shortARN(arn), ":")
	free, err := c.runtime.turn(ctx, "definition "+family)
	if err != nil {
		return
	}
	defer free()
	c.mu.Lock()
	used := c.using[arn] > 0
	for _, t := range c.tasks {
		used = used || aws.ToString(t.TaskDefinitionArn) == arn && !t.ended()
	}
	for _, s := range c.services {
		used = used || aws.ToString(s.TaskDefinition) == arn && !s.ended
	}
	if !used {
		delete(c.definitions, shortARN(arn))
		for family, last := range c.last {
			if strings.HasSuffix(last, " "+arn) {
				delete(c.last, family)
			}
		}
	}
	c.mu.Unlock()
	if used {
		return
	}
	_, err = change(ctx, c.account, c.deregisterTaskDefinition, &ecs.DeregisterTaskDefinitionInput{TaskDefinition: &arn})
	if err != nil && strings.Contains(err.Error(), "is inactive") {
		return // somebody else was faster
	}
	if err == nil {
		_, err = change(ctx, c.account, c.deleteTaskDefinitions, &ecs.DeleteTaskDefinitionsInput{TaskDefinitions: []string{arn}})
	}
	c.mu.Lock()
	c.untidy = err
	c.mu.Unlock()
	if err != nil {
		c.runtime.log.WarnContext(ctx, "task definition not removed", "definition", shortARN(arn), "err", err)
	}
}

// sweep drops the definitions of ours that nothing runs from: of servers that ended in the middle of something.
func (c *cluster) sweep(ctx context.Context) error {
	prefix := c.runtime.prefix()
	in := &ecs.ListTaskDefinitionFamiliesInput{FamilyPrefix: &prefix, Status: types.TaskDefinitionFamilyStatusActive}
	for {
		families, err := ask(ctx, c.account, c.listTaskDefinitionFamilies, in)
		if err != nil {
			return c.fail(ctx, "list the task definitions of environment "+c.runtime.environment, err)
		}
		for _, family := range families.Families {
			all, err := c.active(ctx, family)
			if err != nil {
				return err
			}
			for _, arn := range all {
				c.drop(ctx, arn)
			}
		}
		if families.NextToken == nil {
			return nil
		}
		in.NextToken = families.NextToken
	}
}

// active returns the definitions of a family that tasks can be run from.
func (c *cluster) active(ctx context.Context, family string) ([]string, error) {
	out, err := ask(ctx, c.account, c.listTaskDefinitions, &ecs.ListTaskDefinitionsInput{FamilyPrefix: &family, Status: types.TaskDefinitionStatusActive})
	if err != nil {
		return nil, c.fail(ctx, "list the task definitions of "+family, err)
	}
	return out.TaskDefinitionArns, nil
}
