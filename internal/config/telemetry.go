package config

import (
	"slices"
	"strconv"
	"strings"
)

// Telemetry is what applications and others tell of the environment.
type Telemetry struct {
	Requests     bool     `yaml:"requests,omitempty" env:"LAYOVER_TELEMETRY_REQUESTS" default:"true" doc:"Proxies tell the server of requests: for receipts, layover requests and the X-ray"`
	KeptRequests int      `yaml:"kept_requests,omitempty" env:"LAYOVER_TELEMETRY_KEPT_REQUESTS" default:"200000" minimum:"1000" maximum:"10000000" doc:"How many requests a server keeps, the newest of each version; about 400 bytes each"`
	Env          []string `yaml:"env,omitempty" env:"LAYOVER_TELEMETRY_ENV" default:"opentelemetry,datadog,sentry,new_relic" doc:"Tracers whose variables instances get, so that what applications tell of themselves names their version: opentelemetry (OTEL_*), datadog (DD_*), sentry (SENTRY_*), new_relic (NEW_RELIC_*). An empty list is none. What a service sets itself stays" example:"opentelemetry"`
}

// vendors are the words of [Telemetry].Env; control knows the same.
func vendors() []string { return []string{"opentelemetry", "datadog", "sentry", "new_relic"} }

func (k checker) telemetry() {
	for i, name := range k.file.Telemetry.Env {
		if !slices.Contains(vendors(), name) {
			k.value(path{"telemetry", "env", strconv.Itoa(i)}, "known are "+strings.Join(vendors(), ", "), "%q is no tracer whose variables are known", clip(name))
		}
	}
}
