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
	External *External `json:"external,omitempty" yaml:"external,omitempty" doc:"Adopt an address that somebody else runs"`
}

// The names of the runtimes.
const (
	RuntimeProcess  = "process"
	RuntimeDocker   = "docker"
	RuntimeExternal = "external"
)

// Runtime returns the name of the runtime that r asks for, or "" where r is empty.
func (r Run) Runtime() string {
	switch {
	case r.Process != nil:
		return RuntimeProcess
	case r.Docker != nil:
		return RuntimeDocker
	case r.External != nil:
		return RuntimeExternal
	}
	return ""
}

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

// External adopts an address that somebody else runs. A name is resolved again and
// again; each of its addresses is an instance.
type External struct {
	URL         string `json:"url" yaml:"url" doc:"http or https URL without path" example:"http://cart.internal:8080"`
	RewriteHost bool   `json:"rewrite_host,omitempty" yaml:"rewrite_host,omitempty" doc:"Send the URL's host as Host instead of the client's"`
}

// Overrides is what a version may change of its service's template. At most one
// of Image, Command and URL may be set; it also selects the runtime.
type Overrides struct {
	Image   string            `json:"image,omitempty" yaml:"image,omitempty" doc:"Run this image with Docker"`
	Command []string          `json:"command,omitempty" yaml:"command,omitempty" doc:"Run this command as a process"`
	Dir     string            `json:"dir,omitempty" yaml:"dir,omitempty" doc:"Working directory of the command"`
	URL     string            `json:"url,omitempty" yaml:"url,omitempty" doc:"Adopt this address"`
	Port    int               `json:"port,omitempty" yaml:"port,omitempty" minimum:"0" maximum:"65535" doc:"Port to listen on: of a container, or a fixed one for a process"`
	Env     map[string]string `json:"env,omitempty" yaml:"env,omitempty" doc:"Environment variables, over those of the service"`

	Setup    *Hook `json:"setup,omitempty" yaml:"setup,omitempty" doc:"Runs before its instances start, in place of the service's setup"`
	Teardown *Hook `json:"teardown,omitempty" yaml:"teardown,omitempty" doc:"Runs when it is removed, in place of the service's teardown"`

	Replicas int `json:"replicas,omitempty" yaml:"replicas,omitempty" minimum:"0" maximum:"100" doc:"How many instances it has. Default: as many as it was scaled to, else the service's"`
}

// MaxReplicas is how many instances a version may have.
const MaxReplicas = 100
