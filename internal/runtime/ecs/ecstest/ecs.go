package ecstest

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ecsService is the API of ECS. Everything below it is guarded by mu.
type ecsService struct {
	cloud     *Cloud
	runner    Runner
	ctx       context.Context //nolint:containedctx // of the tasks, which outlive every request
	tasksWait sync.WaitGroup

	mu          sync.Mutex
	clusters    map[string]*ecsCluster      // by name
	definitions map[string][]*ecsDefinition // by family, by revision
	secrets     map[string]string           // by ARN
	digests     map[string]string           // of images, by name
	startDelay  time.Duration
	closing     bool
}

type ecsCluster struct {
	name, arn string
	capacity  int // how many tasks it can run; 0 is no limit
	tasks     map[string]*ecsTask
	services  map[string]*ecsSvc
	machines  []*ecsMachine
	tokens    map[string]runCall // by client token
}

// ecsMachine is a container instance.
type ecsMachine struct {
	arn, ec2 string
}

func newECS(ctx context.Context, c *Cloud, r Runner) *ecsService {
	e := &ecsService{
		cloud: c, runner: r, ctx: ctx, clusters: map[string]*ecsCluster{}, definitions: map[string][]*ecsDefinition{}, secrets: map[string]string{}, digests: map[string]string{},
	}
	e.clusters["default"] = e.newCluster("default")
	return e
}

func (e *ecsService) newCluster(name string) *ecsCluster {
	return &ecsCluster{
		name: name, arn: e.arn("cluster/" + name), tasks: map[string]*ecsTask{}, services: map[string]*ecsSvc{}, tokens: map[string]runCall{},
	}
}

func (e *ecsService) arn(resource string) string {
	return "arn:aws:ecs:" + e.cloud.region + ":" + e.cloud.account + ":" + resource
}

// close ends all tasks.
func (e *ecsService) close() error {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	var err error
	if e.runner != nil {
		err = e.runner.Close()
	}
	e.tasksWait.Wait()
	return err
}

// AddCluster makes a cluster.
func (c *Cloud) AddCluster(name string) {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	c.ecs.clusters[name] = c.ecs.newCluster(name)
}

// AddContainerInstance gives a cluster a machine, which EC2 knows by that id and address.
func (c *Cloud) AddContainerInstance(cluster, ec2ID, address string) {
	c.ecs.mu.Lock()
	cl := c.ecs.clusters[cluster]
	cl.machines = append(cl.machines, &ecsMachine{arn: c.ecs.arn("container-instance/" + cluster + "/" + newID()), ec2: ec2ID})
	c.ecs.mu.Unlock()
	c.AddInstance(ec2ID, address)
}

// SetCapacity bounds how many tasks a cluster can run; 0 is no limit.
func (c *Cloud) SetCapacity(cluster string, tasks int) {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	c.ecs.clusters[cluster].capacity = tasks
}

// SetStartDelay is how long tasks take from being asked for to running, beside what their containers take.
func (c *Cloud) SetStartDelay(d time.Duration) {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	c.ecs.startDelay = d
}

// AddSecret makes a secret that task definitions can name.
func (c *Cloud) AddSecret(arn, value string) {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	c.ecs.secrets[arn] = value
}

// Leftovers lists what there is in ECS that does not go away by itself, but for what is named: tasks that run, services
// that are active, and active task definitions.
func (c *Cloud) Leftovers(prefix string) []string {
	c.ecs.mu.Lock()
	defer c.ecs.mu.Unlock()
	var out []string
	for _, cl := range c.ecs.clusters {
		for _, t := range cl.tasks {
			if strings.HasPrefix(t.family(), prefix) && t.LastStatus != "STOPPED" {
				out = append(out, "task "+t.family()+" "+t.id+" "+t.LastStatus)
			}
		}
		for name, s := range cl.services {
			if strings.HasPrefix(name, prefix) && s.Status != "INACTIVE" {
				out = append(out, "service "+name+" "+s.Status)
			}
		}
	}
	for family, all := range c.ecs.definitions {
		for _, d := range all {
			if strings.HasPrefix(family, prefix) && d.status == "ACTIVE" {
				out = append(out, "definition "+shortName(d.arn))
			}
		}
	}
	sort.Strings(out)
	return out
}

// epoch is a time as the JSON protocol has it: seconds.
type epoch time.Time

func (e epoch) MarshalJSON() ([]byte, error) {
	return []byte(strconv.FormatFloat(float64(time.Time(e).UnixMilli())/1000, 'f', 3, 64)), nil
}

func now() *epoch {
	at := epoch(time.Now().Truncate(time.Millisecond))
	return &at
}

type tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type keyValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func shortName(arn string) string { return arn[strings.LastIndex(arn, "/")+1:] }

// decode reads the input of a call. The contract has checked its shape.
func decode[T any](call *request) (T, *apiError) {
	var in T
	if err := json.Unmarshal(call.body, &in); err != nil {
		return in, apiErrorf("SerializationException", "%v", err)
	}
	return in, nil
}

// call answers a call.
func (e *ecsService) call(call *request) (any, *apiError) {
	do, ok := map[string]func(*request) (any, *apiError){
		"CreateCluster": e.createCluster, "DeleteCluster": e.deleteCluster, "DescribeClusters": e.describeClusters,
		"RegisterTaskDefinition": e.registerTaskDefinition, "DescribeTaskDefinition": e.describeTaskDefinition,
		"DeregisterTaskDefinition": e.deregisterTaskDefinition, "DeleteTaskDefinitions": e.deleteTaskDefinitions,
		"ListTaskDefinitions": e.listTaskDefinitions, "ListTaskDefinitionFamilies": e.listTaskDefinitionFamilies,
		"RunTask": e.runTask, "StopTask": e.stopTask, "ListTasks": e.listTasks, "DescribeTasks": e.describeTasks,
		"CreateService": e.createService, "UpdateService": e.updateService, "DeleteService": e.deleteService,
		"DescribeServices": e.describeServices, "ListServices": e.listServices,
		"ListContainerInstances": e.listContainerInstances, "DescribeContainerInstances": e.describeContainerInstances,
		"ListClusters": e.listClusters,
	}[call.action]
	if !ok {
		return nil, apiErrorf("UnknownOperationException", "this fake has no ecs:%s", call.action)
	}
	return do(call)
}

// cluster finds a cluster by name or ARN. It is called with mu held.
func (e *ecsService) clusterLocked(name string) (*ecsCluster, *apiError) {
	if name == "" {
		name = "default"
	}
	c := e.clusters[shortName(name)]
	if c == nil || strings.HasPrefix(name, "arn:") && c.arn != name {
		return nil, apiErrorf("ClusterNotFoundException", "Cluster not found.")
	}
	return c, nil
}

func (c *ecsCluster) context() map[string][]string {
	return map[string][]string{"ecs:cluster": {c.arn}}
}

// tagContext is what a policy can say of tags at the creation of something.
func tagContext(context map[string][]string, action string, tags []tag) map[string][]string {
	out := maps.Clone(context)
	if out == nil {
		out = map[string][]string{}
	}
	for _, t := range tags {
		out["aws:RequestTag/"+t.Key] = []string{t.Value}
		out["aws:TagKeys"] = append(out["aws:TagKeys"], t.Key)
	}
	if action != "" {
		out["ecs:CreateAction"] = []string{action}
	}
	return out
}

// resourceContext adds the tags of what is there.
func resourceContext(context map[string][]string, tags []tag) map[string][]string {
	out := maps.Clone(context)
	if out == nil {
		out = map[string][]string{}
	}
	for _, t := range tags {
		out["aws:ResourceTag/"+t.Key] = []string{t.Value}
	}
	return out
}

// allowTags refuses to tag what the caller creates where it may not.
func (e *ecsService) allowTags(call *request, resource string, context map[string][]string, tags []tag) *apiError {
	if len(tags) == 0 {
		return nil
	}
	if len(tags) > 50 {
		return apiErrorf("InvalidParameterException", "Tags can not be more than 50.")
	}
	for i, t := range tags {
		if !tagText.MatchString(t.Key) || len(t.Key) > 128 || !tagText.MatchString(t.Value) && t.Value != "" || len(t.Value) > 256 || strings.HasPrefix(t.Key, "aws:") {
			return apiErrorf("InvalidParameterException", "Invalid tag %q.", t.Key)
		}
		if slices.ContainsFunc(tags[:i], func(o tag) bool { return o.Key == t.Key }) {
			return apiErrorf("InvalidParameterException", "Duplicate tag keys found.")
		}
	}
	return e.cloud.iam.authorize(call, "ecs:TagResource", resource, tagContext(context, call.action, tags))
}

var tagText = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]+$`)

// page cuts a list into pages. A token is where the next one begins.
func page(all []string, token *string, size int) (some []string, next *string, err *apiError) {
	from := 0
	if token != nil {
		n, convErr := strconv.Atoi(*token)
		if convErr != nil || n < 0 || n > len(all) {
			return nil, nil, apiErrorf("InvalidParameterException", "Invalid token.")
		}
		from = n
	}
	if size <= 0 || size > 100 {
		size = 100
	}
	to := min(len(all), from+size)
	if to < len(all) {
		text := strconv.Itoa(to)
		next = &text
	}
	return all[from:to], next, nil
}

func (e *ecsService) createCluster(call *request) (any, *apiError) {
	in, err := decode[struct {
		ClusterName string `json:"clusterName"`
	}](call)
	if err != nil {
		return nil, err
	}
	if in.ClusterName == "" {
		in.ClusterName = "default"
	}
	if err := e.cloud.iam.authorize(call, "ecs:CreateCluster", "*", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.clusters[in.ClusterName] == nil {
		e.clusters[in.ClusterName] = e.newCluster(in.ClusterName)
	}
	return map[string]any{"cluster": e.clusters[in.ClusterName].describe()}, nil
}

func (e *ecsService) deleteCluster(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster string `json:"cluster"`
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
	if err := e.cloud.iam.authorize(call, "ecs:DeleteCluster", c.arn, nil); err != nil {
		return nil, err
	}
	for _, t := range c.tasks {
		if t.LastStatus != "STOPPED" {
			return nil, apiErrorf("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")
		}
	}
	delete(e.clusters, c.name)
	return map[string]any{"cluster": c.describe()}, nil
}

func (c *ecsCluster) describe() map[string]any {
	running, active := 0, 0
	for _, t := range c.tasks {
		if t.LastStatus == "RUNNING" {
			running++
		}
	}
	for _, s := range c.services {
		if s.Status == "ACTIVE" {
			active++
		}
	}
	return map[string]any{
		"clusterArn": c.arn, "clusterName": c.name, "status": "ACTIVE", "runningTasksCount": running, "activeServicesCount": active,
		"pendingTasksCount": 0, "registeredContainerInstancesCount": len(c.machines), "capacityProviders": []string{"FARGATE", "FARGATE_SPOT"},
	}
}

func (e *ecsService) listClusters(call *request) (any, *apiError) {
	if err := e.cloud.iam.authorize(call, "ecs:ListClusters", "*", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	arns := []string{}
	for _, c := range e.clusters {
		arns = append(arns, c.arn)
	}
	sort.Strings(arns)
	return map[string]any{"clusterArns": arns}, nil
}

func (e *ecsService) describeClusters(call *request) (any, *apiError) {
	in, err := decode[struct {
		Clusters []string `json:"clusters"`
	}](call)
	if err != nil {
		return nil, err
	}
	if len(in.Clusters) == 0 {
		in.Clusters = []string{"default"}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	found, failures := []any{}, []any{}
	for _, name := range in.Clusters {
		arn := e.arn("cluster/" + shortName(name))
		if err := e.cloud.iam.authorize(call, "ecs:DescribeClusters", arn, nil); err != nil {
			return nil, err
		}
		if c, err := e.clusterLocked(name); err == nil {
			found = append(found, c.describe())
		} else {
			failures = append(failures, map[string]any{"arn": arn, "reason": "MISSING"})
		}
	}
	return map[string]any{"clusters": found, "failures": failures}, nil
}

func (e *ecsService) listContainerInstances(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster string `json:"cluster"`
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
	if err := e.cloud.iam.authorize(call, "ecs:ListContainerInstances", c.arn, nil); err != nil {
		return nil, err
	}
	arns := []string{}
	for _, m := range c.machines {
		arns = append(arns, m.arn)
	}
	return map[string]any{"containerInstanceArns": arns}, nil
}

func (e *ecsService) describeContainerInstances(call *request) (any, *apiError) {
	in, err := decode[struct {
		Cluster            string   `json:"cluster"`
		ContainerInstances []string `json:"containerInstances"`
	}](call)
	if err != nil {
		return nil, err
	}
	if len(in.ContainerInstances) > 100 {
		return nil, apiErrorf("InvalidParameterException", "Too many container instances.")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.clusterLocked(in.Cluster)
	if err != nil {
		return nil, err
	}
	found, failures := []any{}, []any{}
	for _, arn := range in.ContainerInstances {
		if err := e.cloud.iam.authorize(call, "ecs:DescribeContainerInstances", arn, c.context()); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(c.machines, func(m *ecsMachine) bool { return m.arn == arn || shortName(m.arn) == arn })
		if i < 0 {
			failures = append(failures, map[string]any{"arn": arn, "reason": "MISSING"})
			continue
		}
		found = append(found, map[string]any{
			"containerInstanceArn": c.machines[i].arn, "ec2InstanceId": c.machines[i].ec2, "status": "ACTIVE", "agentConnected": true,
		})
	}
	return map[string]any{"containerInstances": found, "failures": failures}, nil
}

// missing says that something is not there.
func missing(arn string) map[string]any { return map[string]any{"arn": arn, "reason": "MISSING"} }
