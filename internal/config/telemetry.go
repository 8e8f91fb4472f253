package config

import (
	"slices"
	"strconv"
	"strings"
)

// Telemetry is what applications and others tell of the environment.
type Telemetry struct {
	Env []string `yaml:"env,omitempty" env:"LAYOVER_TELEMETRY_ENV" default:"opentelemetry,datadog,sentry,new_relic" doc:"Tracers whose variables instances get, so that what applications tell of themselves names their version: opentelemetry (OTEL_*), datadog (DD_*), sentry (SENTRY_*), new_relic (NEW_RELIC_*). An empty list is none. What a service sets itself stays" example:"opentelemetry"`
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
