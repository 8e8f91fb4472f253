// Package config reads layover.yaml.
//
// [Default] holds every default, [Load] decodes a file over it and reports all
// of its problems in one go, each with line and caret, [File.ApplyEnv] and
// [File.Set] put environment variables and flags over that, and [File.Validate]
// checks the result.
//
// The Go types are the one source: what the loader accepts, the JSON Schema for
// editors ([Schema]) and docs/configuration.md all come from their tags.
package config

import (
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// FileName is the name of the file in a project.
const FileName = "layover.yaml"

// File is the content of layover.yaml. Fields with an env tag can also be set
// by that environment variable, and by [File.Set].
type File struct {
	Environment    string             `yaml:"environment,omitempty" env:"LAYOVER_ENVIRONMENT" default:"local" doc:"Name of the environment. It keeps what runs here apart from other environments on the same machine" example:"dev"`
	Domain         string             `yaml:"domain,omitempty" env:"LAYOVER_DOMAIN" default:"localhost" doc:"Domain of the services: each is reached at <service>.<domain>, and previews at <route>--<service>.<domain>" example:"shop.example.com"`
	Proxy          Proxy              `yaml:"proxy,omitempty" doc:"The proxy: it accepts requests and forwards each to the version that the request names"`
	Server         Server             `yaml:"server,omitempty" doc:"The server: API and documentation"`
	Store          string             `yaml:"store,omitempty" env:"LAYOVER_STORE" doc:"Where the environment is kept: a folder, a file whose name ends in .db, or the address of a PostgreSQL database. Its password is better in PGPASSWORD or PGPASSFILE. A path is relative to the folder of layover.yaml. Default: the data folder" example:"postgres://layover@db.example.com/layover"`
	BaggageKey     string             `yaml:"baggage_key,omitempty" env:"LAYOVER_BAGGAGE_KEY" default:"dynamic_route" doc:"Key of the W3C Baggage member that carries the route. Keys are case-sensitive"`
	RouteHeader    string             `yaml:"route_header,omitempty" env:"LAYOVER_ROUTE_HEADER" doc:"Another request header that carries the route, for callers that cannot send baggage. Default: none" example:"X-Route"`
	Hold           api.Duration       `yaml:"hold,omitempty" env:"LAYOVER_HOLD" default:"30s" doc:"How long a request waits for a version that is starting, before it is answered with 503"`
	Quotas         Quotas             `yaml:"quotas,omitempty" doc:"How many versions may run at a time. Default versions and those of this file count, and are never refused"`
	Gateway        Gateway            `yaml:"gateway,omitempty" doc:"Other data planes, which get their configuration from the server"`
	ECS            ECS                `yaml:"ecs,omitempty" doc:"Amazon ECS, for services whose run block is ecs"`
	Telemetry      Telemetry          `yaml:"telemetry,omitempty" doc:"What is told of requests, versions and instances, and to whom"`
	Logs           Logs               `yaml:"logs,omitempty" doc:"How much is kept of what instances write"`
	Webhooks       []Webhook          `yaml:"webhooks,omitempty" doc:"Where events are sent to"`
	Forges         []Forge            `yaml:"forges,omitempty" doc:"GitHub, GitLab and Bitbucket: versions end with their branches, and changes are told of their versions"`
	LeaseWarning   api.Duration       `yaml:"lease_warning,omitempty" env:"LAYOVER_LEASE_WARNING" default:"24h" doc:"How long before the end of its lease a version is warned of, as an event; at most half of the lease"`
	Defaults       Defaults           `yaml:"defaults,omitempty" doc:"Settings of every service that does not set its own"`
	ServicesByName map[string]Service `yaml:"services,omitempty" name:"service" doc:"The services, by name"`
	RoutesByName   map[string]Route   `yaml:"routes,omitempty" name:"route" doc:"Named routes, by name"`

	source *source // where it was read from; nil where it was not
}

// Proxy is the data plane of the environment.
type Proxy struct {
	Listen            []string  `yaml:"listen,omitempty" env:"LAYOVER_PROXY_LISTEN" default:"127.0.0.1:8080" doc:"Addresses to listen on, as host:port. The host may be empty (every interface), or the word docker (the gateway of the Docker bridge, so that containers reach the proxy)" example:"docker:8080"`
	ListenTLS         []string  `yaml:"listen_tls,omitempty" env:"LAYOVER_PROXY_LISTEN_TLS" doc:"Addresses to listen on with TLS, as host:port. Needs tls" example:":8443"`
	TLS               []KeyPair `yaml:"tls,omitempty" doc:"The certificates of listen_tls. Each connection gets the one of the name that its client asks for, *.domain included, else the first. Files that change are read again within seconds"`
	TrustedListen     []string  `yaml:"trusted_listen,omitempty" env:"LAYOVER_PROXY_TRUSTED_LISTEN" doc:"The entries of listen and listen_tls whose callers may be told names of services and versions in error answers. Default: those on a loopback address and on docker" example:"127.0.0.1:8080"`
	Address           string    `yaml:"address,omitempty" env:"LAYOVER_PROXY_ADDRESS" doc:"Where instances and previews reach a stand-alone proxy, as host:port; it fills {proxy}. For layover server, whose proxies run apart; layover up knows where its own listens. Containers need an IP address" example:"10.0.0.7:8080"`
	TrustForwarded    []string  `yaml:"trust_forwarded,omitempty" env:"LAYOVER_PROXY_TRUST_FORWARDED" doc:"Networks of the proxies in front of this one: of requests from there, the headers X-Forwarded-* and Forwarded are kept and appended to. Default: none" example:"10.0.0.0/8"`
	ProxyProtocolFrom []string  `yaml:"proxy_protocol_from,omitempty" env:"LAYOVER_PROXY_PROXY_PROTOCOL_FROM" doc:"Networks of load balancers that speak the PROXY protocol (version 1 or 2): every connection from there has to begin with its header. Default: none" example:"10.0.0.7"`

	Limits        Limits        `yaml:"limits,omitempty" doc:"What the proxy takes from clients at most"`
	PassiveHealth PassiveHealth `yaml:"passive_health,omitempty" doc:"When the proxy takes an instance out because of what requests meet; never the last one of a version"`
	LostRoutes    LostRoutes    `yaml:"lost_routes,omitempty" doc:"What the proxy remembers in order to know routes again that services lost; whether it does, services say (healing)"`
	AccessLog     AccessLog     `yaml:"access_log,omitempty" doc:"A line for each request"`
}

// KeyPair is a certificate and its key. Files are relative to the folder of layover.yaml.
type KeyPair struct {
	CertFile string `yaml:"cert_file" doc:"PEM file with the certificate, and the chain behind it" example:"tls/shop.crt"`
	KeyFile  string `yaml:"key_file" doc:"PEM file with the private key, without a passphrase" example:"tls/shop.key"`
}

// Server is the control plane of the environment.
type Server struct {
	Listen         string   `yaml:"listen,omitempty" env:"LAYOVER_SERVER_LISTEN" default:"127.0.0.1:7070" doc:"Address to listen on, as host:port"`
	Address        string   `yaml:"address,omitempty" env:"LAYOVER_SERVER_ADDRESS" doc:"Where the other servers of a PostgreSQL store reach this one, as host:port. Default: the address of listen" example:"10.0.0.5:7070"`
	AllowedHosts   []string `yaml:"allowed_hosts,omitempty" env:"LAYOVER_SERVER_ALLOWED_HOSTS" doc:"Hosts a request may name, besides loopback names and the address of listen" example:"layover.example.com"`
	AllowedOrigins []string `yaml:"allowed_origins,omitempty" env:"LAYOVER_SERVER_ALLOWED_ORIGINS" doc:"Origins of web pages that may call the API, besides its own" example:"https://tools.example.com"`

	OrphanGrace api.Duration `yaml:"orphan_grace,omitempty" env:"LAYOVER_SERVER_ORPHAN_GRACE" default:"5m" doc:"How long a process or container of this environment stays of which no version is known, before it is removed"`
}

// Quotas bound how many versions run.
type Quotas struct {
	Running         int `yaml:"running,omitempty" env:"LAYOVER_QUOTAS_RUNNING" default:"0" minimum:"0" doc:"In the environment; 0 for no limit" example:"200"`
	RunningPerOwner int `yaml:"running_per_owner,omitempty" env:"LAYOVER_QUOTAS_RUNNING_PER_OWNER" default:"0" minimum:"0" doc:"Of one owner; 0 for no limit" example:"10"`
}

// Logs bound what is kept of the logs of instances.
type Logs struct {
	Running string `yaml:"running,omitempty" env:"LAYOVER_LOGS_RUNNING" default:"30m" doc:"Of each instance that runs, at most, on disk; it counts for instances that are started from then on. At least 64k" example:"100m"`
	Ended   string `yaml:"ended,omitempty" env:"LAYOVER_LOGS_ENDED" default:"30m" doc:"Of all ended instances of a version together, at most, on disk: the newest; of a container at most its last 20,000 lines. At least 64k" example:"100m"`
}

// Defaults are settings of every service that does not set its own.
type Defaults struct {
	Health  api.Health        `yaml:"health,omitempty" doc:"What makes an instance healthy"`
	Env     map[string]string `yaml:"env,omitempty" name:"variable" doc:"Environment variables of every instance; those of the service and of the version go over them"`
	Timeout api.Duration      `yaml:"timeout,omitempty" default:"2m" doc:"How long an instance may take to become healthy"`
	Grace   api.Duration      `yaml:"grace,omitempty" default:"10s" doc:"How long an instance may take to end after SIGTERM"`
	Drain   api.Duration      `yaml:"drain,omitempty" default:"10s" doc:"How long requests in flight may go on at an instance that leaves"`

	IdleSleep api.Duration `yaml:"idle_sleep,omitempty" doc:"After how long without activity a version falls asleep: its instance is stopped, and started again by the next request. Default versions never do. Default: never" example:"30m"`
	TTL       api.Duration `yaml:"ttl,omitempty" doc:"How long a version may live without activity, before it is removed. Default versions always stay. Default: never" example:"72h"`
	Held      api.Held     `yaml:"held,omitempty" doc:"How much may wait for versions that are asleep or starting, in each proxy"`
	Healing   api.Healing  `yaml:"healing,omitempty" doc:"What becomes of requests that lost their route on the way"`
}

// Service is one service with the versions the file asks for.
type Service struct {
	api.Service `yaml:",inline"`
	Versions    map[string]Version `yaml:"versions,omitempty" name:"version" doc:"Versions to run, by name. The default version is always run where there is a run block, and needs no entry"`
}

// Version is one version, as far as it differs from the template of its service.
type Version struct {
	api.Overrides `yaml:",inline"`
	Branch        string       `yaml:"branch,omitempty" doc:"The Git branch the version was named after" example:"feature/2981"`
	Owner         string       `yaml:"owner,omitempty" doc:"Who it belongs to" example:"ana"`
	Timeout       api.Duration `yaml:"timeout,omitempty" doc:"How long it may take to become healthy. Default: the service's"`
	IdleSleep     api.Duration `yaml:"idle_sleep,omitempty" doc:"After how long without activity it falls asleep. Default: the service's" example:"30m"`
	TTL           api.Duration `yaml:"ttl,omitempty" doc:"How long it may live without activity, before it is removed; the next start with this file brings it back. Default: the service's" example:"72h"`
}

// Route is a named route.
type Route struct {
	Parent string            `yaml:"parent,omitempty" doc:"Another named route, whose picks hold where this one has none" example:"team-a"`
	Picks  map[string]string `yaml:"picks,omitempty" name:"service" doc:"The version to use, by service" example:"cart: pr-88"`
}

// Default returns the settings of an empty file.
func Default() *File {
	return &File{
		Environment: "local",
		Domain:      route.DefaultDomain,
		Proxy:       defaultProxy(),
		Gateway:     defaultGateway(),
		Telemetry:   defaultTelemetry(),
		Server:      Server{Listen: "127.0.0.1:7070", OrphanGrace: api.Duration(5 * time.Minute)},
		ECS:         ECS{Poll: api.Duration(5 * time.Second), CallsPerSecond: 4},
		BaggageKey:  route.DefaultBaggageKey,
		Hold:        api.Duration(route.DefaultHold),

		LeaseWarning: api.Duration(24 * time.Hour),
		Logs:         Logs{Running: "30m", Ended: "30m"},
		Defaults: Defaults{
			Timeout: api.Duration(2 * time.Minute),
			Grace:   api.Duration(10 * time.Second),
			Drain:   api.Duration(10 * time.Second),
		},
	}
}
