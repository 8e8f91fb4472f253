package control

import (
	"net/url"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
)

// The tracers whose variables instances get, see [Options].TelemetryEnv.
const (
	TelemetryOpenTelemetry = "opentelemetry"
	TelemetryDatadog       = "datadog"
	TelemetrySentry        = "sentry"
	TelemetryNewRelic      = "new_relic"
)

// TelemetryVendors returns all of them.
func TelemetryVendors() []string {
	return []string{TelemetryOpenTelemetry, TelemetryDatadog, TelemetrySentry, TelemetryNewRelic}
}

// setTelemetryEnv adds the variables by which the tracer of an application learns which version it is in. What the service
// sets itself stays.
//
// Of what names the service and the environment, that of a template that is copied goes before ours: its dashboards know it by that
// name. The version is never the template's.
func (c *Control) setTelemetryEnv(w *Workload, origin api.Origin, runtime string) {
	own := map[string]bool{}
	for name, value := range w.Env {
		own[name] = value != ""
	}
	set := func(yields bool, name, value string) {
		if value == "" || own[name] {
			return
		}
		w.Env[name] = value
		if yields {
			w.Yields = append(w.Yields, name)
		}
	}
	wants := func(vendor string) bool {
		return c.opts.TelemetryEnv == nil || slices.Contains(c.opts.TelemetryEnv, vendor)
	}
	if wants(TelemetryOpenTelemetry) {
		set(true, "OTEL_SERVICE_NAME", w.Service)
		w.Env["OTEL_RESOURCE_ATTRIBUTES"] = resourceAttributes(w.Env["OTEL_RESOURCE_ATTRIBUTES"], [][2]string{
			{"service.version", w.Version},
			{"service.instance.id", w.ID},
			{"deployment.environment.name", c.opts.Environment},
			{"vcs.ref.head.revision", origin.Commit},
			{"layover.version", w.Version},
		})
	}
	if receiver := c.opts.TelemetryAddress[runtime]; receiver != "" && wants(TelemetryOpenTelemetry) && !own["OTEL_EXPORTER_OTLP_ENDPOINT"] {
		set(false, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+receiver)
		set(false, "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
		set(false, "OTEL_EXPORTER_OTLP_HEADERS", c.opts.TelemetryHeader+"="+w.Service+"@"+w.Version+"/"+w.ID)
	}
	if wants(TelemetryDatadog) {
		set(true, "DD_SERVICE", w.Service)
		set(true, "DD_ENV", c.opts.Environment)
		set(false, "DD_VERSION", w.Version)
		set(false, "DD_GIT_COMMIT_SHA", origin.Commit)
	}
	if wants(TelemetrySentry) {
		set(true, "SENTRY_ENVIRONMENT", c.opts.Environment)
		set(false, "SENTRY_RELEASE", w.Service+"@"+w.Version)
	}
	if wants(TelemetryNewRelic) {
		set(true, "NEW_RELIC_APP_NAME", w.Service)
		set(false, "NEW_RELIC_LABELS", "environment:"+c.opts.Environment+";version:"+w.Version)
		set(false, "NEW_RELIC_METADATA_SERVICE_VERSION", w.Version)
		set(false, "NEW_RELIC_METADATA_COMMIT", origin.Commit)
	}
	slices.Sort(w.Yields)
}

// resourceAttributes adds to the attributes that the service sets itself, which win, those
// that name the version (OpenTelemetry resource semantic conventions).
func resourceAttributes(own string, add [][2]string) string {
	var list []string
	if own != "" {
		list = append(list, own)
	}
	for _, a := range add {
		if !strings.Contains(","+own, ","+a[0]+"=") && a[1] != "" {
			list = append(list, a[0]+"="+url.PathEscape(a[1]))
		}
	}
	return strings.Join(list, ",")
}
