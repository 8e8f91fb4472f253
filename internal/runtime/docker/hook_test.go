package docker

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
	"github.com/layover-dev/layover/internal/store"
)

// TestHooksAsContainers runs a version with a setup and a teardown in containers, as the control plane does.
func TestHooksAsContainers(t *testing.T) {
	engine := requireEngine(t)
	binary, err := os.ReadFile(runtimetest.BuildApp(t))
	require.NoError(t, err)
	image := importImage(t, engine, binary, `ENTRYPOINT ["/app"]`)
	db, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "layover.db"))
	require.NoError(t, err)
	rt, err := New(Options{Environment: "hooks-" + strings.ToLower(rand.Text()[:8])})
	require.NoError(t, err)
	c, err := control.New(t.Context(), control.Options{
		Environment: "hooks", Store: db, Runtimes: map[string]control.Runtime{api.RuntimeDocker: rt},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		ending, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, c.StopInstances(ending))
		require.NoError(t, db.Close())
		require.NoError(t, rt.Close())
	})

	require.NoError(t, c.PutService(t.Context(), api.Service{
		Name: "cart", Run: api.Run{Docker: &api.Docker{Image: image, Pull: "never"}}, Timeout: api.Duration(time.Minute), Drain: api.Duration(time.Millisecond),
		Setup:    &api.Hook{Image: image, Env: map[string]string{"APP_SAY": "layover-output: COLOUR=red-of-the-setup", "APP_DONE": "0"}},
		Teardown: &api.Hook{Image: image, Env: map[string]string{"APP_SAY": "bye", "APP_DONE": "0"}},
	}))
	key := control.Key{Service: "cart", Version: "pr-1"}
	_, err = c.Deploy(t.Context(), key, api.Deployment{})
	require.NoError(t, err)
	var v api.Version
	require.Eventually(t, func() bool {
		v, err = c.Version(t.Context(), key)
		return err == nil && (v.State == api.StateRunning || v.State == api.StateFailed)
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, api.StateRunning, v.State, v.Reason)
	require.Equal(t, "red-of-the-setup", runtimetest.Ask(t, control.Address{HostPort: v.Instances[0].Addresses[0]}).Env["COLOUR"])
	require.Len(t, v.Instances, 1)
	statuses, err := rt.List(t.Context())
	require.NoError(t, err)
	require.Len(t, statuses, 1, "the container of the setup is gone")

	_, err = c.Remove(t.Context(), key, control.By{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := c.Version(t.Context(), key)
		return control.CodeOf(err) == api.CodeNotFound
	}, time.Minute, 20*time.Millisecond)
	events, err := c.Events(t.Context(), 0, 1000)
	require.NoError(t, err)
	var kinds []api.EventType
	for _, e := range events {
		kinds = append(kinds, e.Type)
	}
	require.Contains(t, kinds, api.EventTeardownDone)
	statuses, err = rt.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, statuses)
}
