package route_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

func TestRunOf(t *testing.T) {
	for want, lines := range map[string][]string{
		"ci-8812": {"dynamic_route=feature-1, layover_run=ci-8812;p=1"},
		"b":       {"layover_run=a", "layover_run=b"},
		"":        {"layover_run=Not%20one"},
	} {
		require.Equal(t, want, route.RunOf(lines))
	}
	for _, lines := range [][]string{nil, {""}, {"layover_run="}, {"xlayover_run=a"}, {"layover_runs=a"}, {"layover_run=UPPER"}} {
		require.Empty(t, route.RunOf(lines))
	}
	lines := []string{"dynamic_route=feature-1,layover_run=ci-8812"}
	require.Zero(t, testing.AllocsPerRun(100, func() { route.RunOf(lines) }))
}
