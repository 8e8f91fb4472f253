package control

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestTelemetryEnv(t *testing.T) {
	runtime := "process"
	workload := func(vendors []string, env map[string]string) Workload {
		c := &Control{opts: Options{Environment: "dev", TelemetryEnv: vendors, TelemetryAddress: map[string]string{"docker": "172.17.0.1:4318"}, TelemetryHeader: "layover-instance"}}
		w := Workload{ID: "cart--pr-1--2", Service: "cart", Version: "pr-1", Env: env}
		c.setTelemetryEnv(&w, api.Origin{Commit: "4c1f2e"}, runtime)
		return w
	}
	all := workload(nil, map[string]string{})
	require.Equal(t, map[string]string{
		"OTEL_SERVICE_NAME": "cart",
		"OTEL_RESOURCE_ATTRIBUTES": "service.version=pr-1,service.instance.id=cart--pr-1--2,deployment.environment.name=dev," +
			"vcs.ref.head.revision=4c1f2e,layover.version=pr-1",
		"DD_SERVICE": "cart", "DD_ENV": "dev", "DD_VERSION": "pr-1", "DD_GIT_COMMIT_SHA": "4c1f2e",
		"SENTRY_ENVIRONMENT": "dev", "SENTRY_RELEASE": "cart@pr-1",
		"NEW_RELIC_APP_NAME": "cart", "NEW_RELIC_LABELS": "environment:dev;version:pr-1",
		"NEW_RELIC_METADATA_SERVICE_VERSION": "pr-1", "NEW_RELIC_METADATA_COMMIT": "4c1f2e",
	}, all.Env)
	require.Equal(t, []string{"DD_ENV", "DD_SERVICE", "NEW_RELIC_APP_NAME", "OTEL_SERVICE_NAME", "SENTRY_ENVIRONMENT"}, all.Yields,
		"the names that a template knows the service by stay")

	own := workload(nil, map[string]string{"DD_SERVICE": "shop-cart", "DD_VERSION": "7", "OTEL_RESOURCE_ATTRIBUTES": "team=red,service.version=7"})
	require.Equal(t, "shop-cart", own.Env["DD_SERVICE"])
	require.Equal(t, "7", own.Env["DD_VERSION"])
	require.NotContains(t, own.Yields, "DD_SERVICE", "what the service says goes over a template")
	require.Regexp(t, `^team=red,service.version=7,service.instance.id=`, own.Env["OTEL_RESOURCE_ATTRIBUTES"])

	one := workload([]string{TelemetryDatadog}, map[string]string{})
	require.Len(t, one.Env, 4)
	require.Empty(t, workload([]string{}, map[string]string{}).Env)

	runtime = "docker"
	sends := workload(nil, map[string]string{}).Env
	require.Equal(t, "http://172.17.0.1:4318", sends["OTEL_EXPORTER_OTLP_ENDPOINT"])
	require.Equal(t, "http/protobuf", sends["OTEL_EXPORTER_OTLP_PROTOCOL"])
	require.Equal(t, "layover-instance=cart@pr-1/cart--pr-1--2", sends["OTEL_EXPORTER_OTLP_HEADERS"])
	elsewhere := workload(nil, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://agent:4318"}).Env
	require.Equal(t, "http://agent:4318", elsewhere["OTEL_EXPORTER_OTLP_ENDPOINT"])
	require.NotContains(t, elsewhere, "OTEL_EXPORTER_OTLP_HEADERS", "what the service sends elsewhere is its own affair")
	require.NotContains(t, workload([]string{TelemetryDatadog}, map[string]string{}).Env, "OTEL_EXPORTER_OTLP_ENDPOINT")
}
