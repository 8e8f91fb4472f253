package server_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestDrift(t *testing.T) {
	e := newEnv(t)
	client, err := api.NewClient(e.url)
	require.NoError(t, err)
	defer client.Close()
	e.SetDrift(
		api.Drift{Service: "cart", Version: "ghost", Runtime: api.RuntimeProcess, Instance: "cart--ghost--1", Has: api.HasRunning},
		api.Drift{Service: "cart", Version: "main", Runtime: api.RuntimeProcess, Instance: "cart--main--1", Has: api.HasExited, Wanted: true},
	)
	drift, err := client.Drift(t.Context(), api.VersionFilter{})
	require.NoError(t, err)
	require.Len(t, drift, 2)
	drift, err = client.Drift(t.Context(), api.VersionFilter{Service: "cart", Version: "main"})
	require.NoError(t, err)
	require.Len(t, drift, 1)
	require.True(t, drift[0].Wanted)

	for _, dry := range []bool{true, false} {
		left, err := client.Collect(t.Context(), dry)
		require.NoError(t, err)
		require.Len(t, left, 1)
		require.Equal(t, "cart--ghost--1", left[0].Instance)
		require.Equal(t, !dry, left[0].Removed)
	}
	left, err := client.Collect(t.Context(), false)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, 422, e.ask(t, "POST", "/api/v1/gc?dry_run=perhaps", "").problem(t).Status)
}
