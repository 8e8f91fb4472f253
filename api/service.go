package api

// Service is one named application of the environment, with the template its
// versions run from.
type Service struct {
	Name     string            `json:"name" yaml:"-" required:"false" doc:"Name of the service. In a request it may be left out: the path has it" example:"cart"`
	Hosts    []string          `json:"hosts,omitempty" yaml:"hosts,omitempty" doc:"Hosts it is reached at: exact, or *.suffix. Default: <name>.<domain>"`
	Default  string            `json:"default,omitempty" yaml:"default,omitempty" doc:"The version that answers when a route names none. Default: main"`
	Protocol string            `json:"protocol,omitempty" yaml:"protocol,omitempty" enum:"http1,h2c" doc:"What instances speak: http1 (default), or h2c for gRPC"`
	Health   Health            `json:"health,omitzero" yaml:"health,omitempty" doc:"What makes an instance healthy. Default: it accepts TCP connections"`
	Run      Run               `json:"run,omitzero" yaml:"run,omitempty" doc:"The template versions run from; a version overrides what differs"`
	Env      map[string]string `json:"env,omitempty" yaml:"env,omitempty" doc:"Environment variables of its instances; {service}, {version}, {route}, {port} and {proxy} are filled in"`
	Setup    *Hook             `json:"setup,omitempty" yaml:"setup,omitempty" doc:"Runs before the instances of a generation start, once. Lines layover-output: KEY=VALUE of its output become environment variables of the instances"`
	Teardown *Hook             `json:"teardown,omitempty" yaml:"teardown,omitempty" doc:"Runs when a version is removed, behind the end of its instances, until it succeeds"`
	Replicas int               `json:"replicas,omitempty" yaml:"replicas,omitempty" minimum:"0" maximum:"100" doc:"How many instances each version has. An address that somebody else runs has none. Default: 1"`
	Timeout  Duration          `json:"timeout,omitzero" yaml:"timeout,omitempty" doc:"How long an instance may take to become healthy. Default: 2m"`
	Grace    Duration          `json:"grace,omitzero" yaml:"grace,omitempty" doc:"How long an instance may take to end after SIGTERM. Default: 10s"`
	Drain    Duration          `json:"drain,omitzero" yaml:"drain,omitempty" doc:"How long requests in flight may go on at an instance that leaves. Default: 10s"`

	IdleSleep Duration `json:"idle_sleep,omitzero" yaml:"idle_sleep,omitempty" doc:"After how long without activity a version falls asleep: its instance is stopped, and started again by the next request; the default version never does. Default: never" example:"30m"`
	TTL       Duration `json:"ttl,omitzero" yaml:"ttl,omitempty" doc:"How long a version may live without activity, before it is removed; the default version always stays. Default: never" example:"72h"`
	Held      Held     `json:"held,omitzero" yaml:"held,omitempty" doc:"How much may wait for versions that are asleep or starting, in each proxy"`
	Healing   Healing  `json:"healing,omitzero" yaml:"healing,omitempty" doc:"What becomes of requests to it that lost their route on the way"`
}

// Healing says what becomes of a request to a service that comes without a route and should have had one, as
// a service before it lost it (R6).
type Healing struct {
	Origin string `json:"origin,omitempty" yaml:"origin,omitempty" enum:"off,warn,heal" doc:"Where the instance that makes the call serves requests of one route alone at the time: off does not look, warn notes it, heal gives the request that route. Default: off"`
	Trace  string `json:"trace,omitempty" yaml:"trace,omitempty" enum:"off,warn,heal" doc:"Likewise where its trace was seen with a route. Default: off"`
}

// Held bounds the requests to a service that wait for versions that are not ready.
type Held struct {
	Requests int `json:"requests,omitempty" yaml:"requests,omitempty" minimum:"0" maximum:"4096" doc:"How many requests. Default: 1024"`
	Bytes    int `json:"bytes,omitempty" yaml:"bytes,omitempty" minimum:"0" maximum:"1073741824" doc:"How many bytes of memory they may take, together. Default: 67108864 (64 MiB)"`
}

// Health says when an instance is healthy.
type Health struct {
	Kind     string   `json:"kind,omitempty" yaml:"kind,omitempty" enum:"http,tcp,process" doc:"http asks Path, tcp connects, process is content when the process is alive. Default: http where a path is set, else tcp"`
	Path     string   `json:"path,omitempty" yaml:"path,omitempty" doc:"Path to GET; an answer of 200 to 399 is healthy" example:"/healthz"`
	Interval Duration `json:"interval,omitzero" yaml:"interval,omitempty" doc:"Time between checks of a healthy instance. Default: 5s"`
	Timeout  Duration `json:"timeout,omitzero" yaml:"timeout,omitempty" doc:"How long one check may take. Default: 2s"`
	Failures int      `json:"failures,omitempty" yaml:"failures,omitempty" minimum:"0" maximum:"100" doc:"Failed checks in a row that make a healthy instance unhealthy. Default: 3"`
}

// The kinds of health check.
const (
	HealthHTTP    = "http"
	HealthTCP     = "tcp"
	HealthProcess = "process"
)

// Run says how instances are run: exactly one of its fields is set.
type Run struct {
	Process  *Process  `json:"process,omitempty" yaml:"process,omitempty" doc:"Run a command on the server's machine"`
	Docker   *Docker   `json:"docker,omitempty" yaml:"docker,omitempty" doc:"Run a container"`
	ECS      *ECS      `json:"ecs,omitempty" yaml:"ecs,omitempty" doc:"Run tasks of Amazon ECS"`
	External *External `json:"external,omitempty" yaml:"external,omitempty" doc:"Adopt an address that somebody else runs"`
}

// The names of the runtimes.
const (
	RuntimeProcess  = "process"
	RuntimeDocker   = "docker"
	RuntimeECS      = "ecs"
	RuntimeExternal = "external"
)

// Runtime returns the name of the runtime that r asks for, or "" where r is empty.
func (r Run) Runtime() string {
	switch {
	case r.Process != nil:
		return RuntimeProcess
	case r.Docker != nil:
		return RuntimeDocker
	case r.ECS != nil:
		return RuntimeECS
	case r.External != nil:
		return RuntimeExternal
	}
	return ""
}

// Adopted says whether somebody else runs the instances: Layover sends requests to them, and neither
// starts nor ends anything.
func (r Run) Adopted() bool { return r.External != nil || r.ECS != nil && r.ECS.Adopt }

// Process runs a command on the server's machine. The command gets a free port in PORT.
type Process struct {
	Command []string `json:"command" yaml:"command" doc:"Program and arguments; {port} and the other placeholders are filled in"`
	Dir     string   `json:"dir,omitempty" yaml:"dir,omitempty" doc:"Working directory, absolute. In layover.yaml it is relative to the file"`
}

// Docker runs a container on the server's Docker Engine.
type Docker struct {
	Image   string   `json:"image" yaml:"image" doc:"Image reference; placeholders are filled in" example:"registry.example.com/cart:{version}"`
	Command []string `json:"command,omitempty" yaml:"command,omitempty" doc:"Replaces the image's command"`
	Port    int      `json:"port,omitempty" yaml:"port,omitempty" minimum:"0" maximum:"65535" doc:"Port the container listens on, handed over as PORT. Default: 8080"`
	Memory  string   `json:"memory,omitempty" yaml:"memory,omitempty" doc:"Memory limit" example:"256m"`
	CPUs    float64  `json:"cpus,omitempty" yaml:"cpus,omitempty" minimum:"0" doc:"CPU limit in cores" example:"0.5"`
	Pull    string   `json:"pull,omitempty" yaml:"pull,omitempty" enum:"missing,always,never" doc:"When to pull the image. Default: missing"`
}

// ECS runs tasks of Amazon ECS from a copy of a task definition that is there already: the template. It
// takes from an ECS service also where its tasks run: network, launch type or capacity providers.
type ECS struct {
	Cluster        string   `json:"cluster,omitempty" yaml:"cluster,omitempty" doc:"Name or ARN of the cluster. Default: ecs.cluster" example:"dev"`
	Service        string   `json:"service,omitempty" yaml:"service,omitempty" doc:"The ECS service that is the template; placeholders are filled in" example:"cart"`
	TaskDefinition string   `json:"task_definition,omitempty" yaml:"task_definition,omitempty" doc:"The task definition that is the template: a family, of which the newest revision counts, or family:revision. Default: the one that the ECS service has" example:"cart"`
	Container      string   `json:"container,omitempty" yaml:"container,omitempty" doc:"The container that gets the requests, the image and the environment. Default: the one behind the service's load balancer, else the only one with a port" example:"app"`
	Port           int      `json:"port,omitempty" yaml:"port,omitempty" minimum:"0" maximum:"65535" doc:"Port it listens on, handed over as PORT. Default: its first port mapping"`
	Image          string   `json:"image,omitempty" yaml:"image,omitempty" doc:"Image of the container, by tag or digest; placeholders are filled in. Default: the template's" example:"111122223333.dkr.ecr.eu-central-1.amazonaws.com/cart:{version}"`
	Command        []string `json:"command,omitempty" yaml:"command,omitempty" doc:"Replaces the container's command"`
	CPU            int      `json:"cpu,omitempty" yaml:"cpu,omitempty" minimum:"0" maximum:"196608" doc:"CPU units of a task; 1024 are one core. Default: the template's" example:"256"`
	Memory         int      `json:"memory,omitempty" yaml:"memory,omitempty" minimum:"0" maximum:"3145728" doc:"Memory of a task in MiB. Default: the template's" example:"512"`
	Mode           string   `json:"mode,omitempty" yaml:"mode,omitempty" enum:"task,service" doc:"task: Layover runs a task for each instance, and another where it ends. service: an ECS service for each instance keeps one task running. Default: task"`
	LaunchType     string   `json:"launch_type,omitempty" yaml:"launch_type,omitempty" enum:"FARGATE,EC2,EXTERNAL" doc:"Where tasks run. Default: as the ECS service has it, else what the cluster does by default"`
	Capacity       []string `json:"capacity_providers,omitempty" yaml:"capacity_providers,omitempty" doc:"Capacity providers in place of a launch type, as name or name:weight. Default: as the ECS service has it" example:"FARGATE_SPOT"`
	Subnets        []string `json:"subnets,omitempty" yaml:"subnets,omitempty" doc:"Subnets of tasks with a network of their own (awsvpc). Default: as the ECS service has it" example:"subnet-0a1b2c3d"`
	SecurityGroups []string `json:"security_groups,omitempty" yaml:"security_groups,omitempty" doc:"Their security groups, which let the proxies in. Default: as the ECS service has it" example:"sg-0a1b2c3d"`
	PublicIP       bool     `json:"public_ip,omitempty" yaml:"public_ip,omitempty" doc:"They get public addresses too: to pull images from a subnet without NAT. Only with subnets"`
	Region         string   `json:"region,omitempty" yaml:"region,omitempty" doc:"Region of the cluster. Default: ecs.region" example:"eu-central-1"`
	Role           string   `json:"role,omitempty" yaml:"role,omitempty" doc:"ARN of the IAM role to take on, for a cluster of another account. Default: ecs.role" example:"arn:aws:iam::444455556666:role/layover"`
	Adopt          bool     `json:"adopt,omitempty" yaml:"adopt,omitempty" doc:"The ECS service itself is what answers: its tasks get the requests, and nothing of it is changed"`
}

// The modes of ECS.
const (
	ECSTask    = "task"
	ECSService = "service"
)

// External adopts an address that somebody else runs. A name is resolved again and
// again; each of its addresses is an instance.
type External struct {
	URL         string `json:"url" yaml:"url" doc:"http or https URL without path" example:"http://cart.internal:8080"`
	RewriteHost bool   `json:"rewrite_host,omitempty" yaml:"rewrite_host,omitempty" doc:"Send the URL's host as Host instead of the client's"`
}

// Overrides is what a version may change of its service's template. At most one
// of Image, Command, URL and Adopt may be set; it also selects the runtime.
type Overrides struct {
	Image   string            `json:"image,omitempty" yaml:"image,omitempty" doc:"Run this image: with Docker, or with ECS where the service's template is one of ECS"`
	Command []string          `json:"command,omitempty" yaml:"command,omitempty" doc:"Run this command as a process"`
	Dir     string            `json:"dir,omitempty" yaml:"dir,omitempty" doc:"Working directory of the command"`
	URL     string            `json:"url,omitempty" yaml:"url,omitempty" doc:"Adopt this address"`
	Adopt   bool              `json:"adopt,omitempty" yaml:"adopt,omitempty" doc:"It is the ECS service of the template itself, which goes on as it is"`
	Port    int               `json:"port,omitempty" yaml:"port,omitempty" minimum:"0" maximum:"65535" doc:"Port to listen on: of a container, or a fixed one for a process"`
	Env     map[string]string `json:"env,omitempty" yaml:"env,omitempty" doc:"Environment variables, over those of the service"`

	Setup    *Hook `json:"setup,omitempty" yaml:"setup,omitempty" doc:"Runs before its instances start, in place of the service's setup"`
	Teardown *Hook `json:"teardown,omitempty" yaml:"teardown,omitempty" doc:"Runs when it is removed, in place of the service's teardown"`

	Replicas int `json:"replicas,omitempty" yaml:"replicas,omitempty" minimum:"0" maximum:"100" doc:"How many instances it has. Default: as many as it was scaled to, else the service's"`
}

// MaxReplicas is how many instances a version may have.
const MaxReplicas = 100
