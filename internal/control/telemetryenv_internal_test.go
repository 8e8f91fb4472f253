package control

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestTelemetryEnv(t *testing.T) {
	workload := func(vendors []string, env map[string]string) Workload {
		c := &Control{opts: Options{Environment: "dev", TelemetryEnv: vendors}}
		w := Workload{ID: "cart--pr-1--2", Service: "cart", Version: "pr-1", Env: env}
		c.setTelemetryEnv(&w, api.Origin{Commit: "4c1f2e"})
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
}
