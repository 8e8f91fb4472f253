package config

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Telemetry is what applications and others tell of the environment.
type Telemetry struct {
	Requests     bool     `yaml:"requests,omitempty" env:"LAYOVER_TELEMETRY_REQUESTS" default:"true" doc:"Proxies tell the server of requests: for receipts, layover requests and the X-ray"`
	KeptRequests int      `yaml:"kept_requests,omitempty" env:"LAYOVER_TELEMETRY_KEPT_REQUESTS" default:"200000" minimum:"1000" maximum:"10000000" doc:"How many requests a server keeps, the newest of each version; about 400 bytes each"`
	Env          []string `yaml:"env,omitempty" env:"LAYOVER_TELEMETRY_ENV" default:"opentelemetry,datadog,sentry,new_relic" doc:"Tracers whose variables instances get, so that what applications tell of themselves names their version: opentelemetry (OTEL_*), datadog (DD_*), sentry (SENTRY_*), new_relic (NEW_RELIC_*). An empty list is none. What a service sets itself stays" example:"opentelemetry"`
	Metrics      Metrics  `yaml:"metrics,omitempty" doc:"Metrics of requests, by service and version: at /metrics of the server and of each proxy, and by otlp"`
	OTLP         OTLP     `yaml:"otlp,omitempty" doc:"Where traces, metrics and logs are sent to: a Collector, Jaeger, or the OTLP intake of a vendor"`
	Receiver     Receiver `yaml:"receiver,omitempty" doc:"Where applications send their own telemetry by OTLP: each proxy says of it which version it is from and which route its traces are on, and passes it on to otlp"`
	Traces       Traces   `yaml:"traces,omitempty" doc:"Spans of the requests that pass the proxies; they are made where otlp has an endpoint"`
}

// Metrics bounds metrics, and says how often they are sent.
type Metrics struct {
	Versions int          `yaml:"versions,omitempty" env:"LAYOVER_TELEMETRY_METRICS_VERSIONS" default:"1000" minimum:"0" maximum:"100000" doc:"How many versions have series of their own in each proxy. Further ones are counted together, as (other). Those of a version end within a minute of the version. 0: requests are not counted"`
	Every    api.Duration `yaml:"every,omitempty" env:"LAYOVER_TELEMETRY_METRICS_EVERY" default:"30s" doc:"How often they are sent by otlp"`
}

// OTLP is a receiver of telemetry.
type OTLP struct {
	Endpoint    string   `yaml:"endpoint,omitempty" env:"LAYOVER_TELEMETRY_OTLP_ENDPOINT" doc:"URL of the receiver; https encrypts. With the protocol http, /v1/traces and the like is put behind its path. Default: none, and nothing is sent" example:"http://127.0.0.1:4317"`
	Protocol    string   `yaml:"protocol,omitempty" env:"LAYOVER_TELEMETRY_OTLP_PROTOCOL" default:"grpc" enum:"grpc,http" doc:"grpc is mostly at port 4317, http (with protobuf) at 4318"`
	HeadersFile string   `yaml:"headers_file,omitempty" env:"LAYOVER_TELEMETRY_OTLP_HEADERS_FILE" doc:"File with headers to send, such as the key of a vendor: a line for each, name: value. Relative to the folder of this one; read for each request" example:"otlp.headers"`
	HeadersEnv  string   `yaml:"headers_env,omitempty" env:"LAYOVER_TELEMETRY_OTLP_HEADERS_ENV" doc:"Environment variable that has the headers instead, as name=value with commas between them, as OTEL_EXPORTER_OTLP_HEADERS has" example:"OTEL_EXPORTER_OTLP_HEADERS"`
	CAFile      string   `yaml:"ca_file,omitempty" env:"LAYOVER_TELEMETRY_OTLP_CA_FILE" doc:"PEM file with the authorities that the receiver's certificate may be of, relative to the folder of this one. Default: those of the system" example:"collector-ca.pem"`
	Signals     []string `yaml:"signals,omitempty" env:"LAYOVER_TELEMETRY_OTLP_SIGNALS" default:"traces,metrics,logs" doc:"What is sent of the environment's own: traces, metrics, logs" example:"traces"`
}

// Receiver is where applications send telemetry.
type Receiver struct {
	Listen  []string `yaml:"listen,omitempty" env:"LAYOVER_TELEMETRY_RECEIVER_LISTEN" doc:"Addresses to listen on, as host:port, for OTLP over HTTP and gRPC. The host may be empty or docker, as in proxy.listen. Default: none" example:"127.0.0.1:4318"`
	Address string   `yaml:"address,omitempty" env:"LAYOVER_TELEMETRY_RECEIVER_ADDRESS" doc:"Where instances reach the receiver of a proxy that runs apart, or of a load balancer before several, as host:port: they get it as OTEL_EXPORTER_OTLP_ENDPOINT. layover up knows where its own listens. Containers need an IP address" example:"10.0.0.7:4318"`
}

// Traces says which requests get a span, and what is in it.
type Traces struct {
	Sample       float64       `yaml:"sample,omitempty" env:"LAYOVER_TELEMETRY_TRACES_SAMPLE" default:"0.01" minimum:"0" maximum:"1" doc:"Share of the traces without a route that is recorded, by their trace ids: all proxies agree. What a caller records is recorded in any case, see follow_untrusted"`
	SampleRouted float64       `yaml:"sample_routed,omitempty" env:"LAYOVER_TELEMETRY_TRACES_SAMPLE_ROUTED" default:"1" minimum:"0" maximum:"1" doc:"Share of the traces with a route"`
	Routes       []TracedRoute `yaml:"routes,omitempty" doc:"Routes with a share of their own; the first that fits counts"`
	Untrusted    bool          `yaml:"follow_untrusted,omitempty" env:"LAYOVER_TELEMETRY_TRACES_FOLLOW_UNTRUSTED" default:"false" doc:"Record what a caller records also where it comes to a listener that is not trusted (proxy.trusted_listen), and not from an instance whose address is known. Then whoever reaches the proxy can have everything recorded"`
	Baggage      []string      `yaml:"baggage,omitempty" env:"LAYOVER_TELEMETRY_TRACES_BAGGAGE" doc:"Keys of baggage members that become attributes of spans, as baggage.KEY" example:"tenant"`
}

// TracedRoute is the share of a route.
type TracedRoute struct {
	Route  string  `yaml:"route" doc:"The route, or with a star at the end all that begin so" example:"load-*"`
	Sample float64 `yaml:"sample" minimum:"0" maximum:"1" doc:"Share of its traces that is recorded" example:"0.001"`
}

// The signals of [OTLP].
const (
	SignalTraces  = "traces"
	SignalMetrics = "metrics"
	SignalLogs    = "logs"
)

func signals() []string { return []string{SignalTraces, SignalMetrics, SignalLogs} }

func defaultTelemetry() Telemetry {
	return Telemetry{
		Requests: true, KeptRequests: 200_000, Env: vendors(),
		Metrics: Metrics{Versions: 1000, Every: api.Duration(30 * time.Second)},
		OTLP:    OTLP{Protocol: "grpc", Signals: signals()},
		Traces:  Traces{Sample: 0.01, SampleRouted: 1},
	}
}

// Sends says whether a signal goes to a receiver of OTLP.
func (t *Telemetry) Sends(signal string) bool {
	return t.OTLP.Endpoint != "" && slices.Contains(t.OTLP.Signals, signal)
}

// OTLPHeadersFile returns the path of the headers' file, "" where there is none.
func (f *File) OTLPHeadersFile() string { return f.absoluteOrNone(f.Telemetry.OTLP.HeadersFile) }

// OTLPCAFile returns the path of the authorities' file, "" where there is none.
func (f *File) OTLPCAFile() string { return f.absoluteOrNone(f.Telemetry.OTLP.CAFile) }

func (f *File) absoluteOrNone(path string) string {
	if path == "" {
		return ""
	}
	return f.absolute(path)
}

// vendors are the words of [Telemetry].Env; control knows the same.
func vendors() []string { return []string{"opentelemetry", "datadog", "sentry", "new_relic"} }

func (k checker) telemetry() {
	p, t := path{"telemetry"}, k.file.Telemetry
	for i, name := range t.Env {
		if !slices.Contains(vendors(), name) {
			k.value(p.with("env", strconv.Itoa(i)), "known are "+strings.Join(vendors(), ", "), "%q is no tracer whose variables are known", clip(name))
		}
	}
	for i, name := range t.OTLP.Signals {
		if !slices.Contains(signals(), name) {
			k.value(p.with("otlp", "signals", strconv.Itoa(i)), "known are "+strings.Join(signals(), ", "), "%q is nothing that can be sent", clip(name))
		}
	}
	k.endpoint(p.with("otlp"), t.OTLP)
	if t.Metrics.Every < api.Duration(time.Second) {
		k.value(p.with("metrics", "every"), "write at least 1s, such as 30s", "%s is too often", time.Duration(t.Metrics.Every))
	}
	receives := p.with("receiver")
	for i, address := range t.Receiver.Listen {
		k.address(address, receives.with("listen", strconv.Itoa(i)), true)
	}
	if t.Receiver.Address != "" {
		k.reachable(t.Receiver.Address, receives.with("address"))
	}
	if t.OTLP.Endpoint == "" && len(t.Receiver.Listen) > 0 {
		k.key(receives.with("listen"), "add telemetry.otlp.endpoint", "there is nobody to pass on to what is received")
	}
	for i, r := range t.Traces.Routes {
		at := p.with("traces", "routes", strconv.Itoa(i), "route")
		if beginning, isMany := strings.CutSuffix(r.Route, "*"); isMany && route.CheckName("route", beginning+"x") == nil {
			continue
		}
		k.name(r.Route, k.source.value(at), "route")
	}
	for i, key := range t.Traces.Baggage {
		if !isToken(key) {
			k.value(p.with("traces", "baggage", strconv.Itoa(i)), "write a key such as tenant", "%q cannot be the key of a baggage member", clip(key))
		}
	}
}

func (k checker) endpoint(p path, o OTLP) {
	if o.HeadersFile != "" && o.HeadersEnv != "" {
		k.value(p.with("headers_env"), "keep one of the two", "headers_file and headers_env exclude each other")
	}
	if o.Endpoint == "" {
		return
	}
	u, err := url.Parse(o.Endpoint)
	at := p.with("endpoint")
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		k.value(at, "write a URL such as http://127.0.0.1:4317", "it is no URL of a receiver")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		k.value(at, "send keys as headers, by headers_file or headers_env", "the URL has a user, a query or a fragment")
	case o.Protocol == "grpc" && strings.Trim(u.Path, "/") != "":
		k.value(at, "leave the path out, or set protocol: http", "gRPC has no use for the path %q", clip(u.Path))
	}
}
