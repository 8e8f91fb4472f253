package ecs

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
	"github.com/layover-dev/layover/internal/runtime/logfile"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

// TestConformance runs tasks as processes.
func TestConformance(t *testing.T) {
	runner := ecstest.NewProcessRunner(map[string]ecstest.Program{"cart:main": appProgram(runtimetest.BuildApp(t))})
	c := newCloud(t, runner)
	t.Run("task", func(t *testing.T) { conform(t, c, api.ECSTask, runner.Processes) })
	t.Run("service", func(t *testing.T) { conform(t, c, api.ECSService, runner.Processes) })
}

func conform(t *testing.T, c *ecstest.Cloud, mode string, left func() []int) {
	createService(t, "cart-"+mode, register(t, cartDefinition("cart:main")), 0)
	dir := t.TempDir()
	archive := func(t *testing.T, environment string) *logfile.Archive {
		t.Helper()
		a, err := logfile.NewArchive(filepath.Join(dir, environment), 1<<20)
		require.NoError(t, err)
		return a
	}
	run := api.Run{ECS: &api.ECS{Service: "cart-" + mode, Mode: mode}}
	with := func(change func(*api.ECS)) api.Run {
		e := *run.ECS
		change(&e)
		return api.Run{ECS: &e}
	}
	suite := t // a case uses its runtimes until all of its own clean-up is done
	runtimetest.Run(t, runtimetest.Harness{
		New: func(t *testing.T, environment string) control.Runtime {
			r, err := New(Options{
				Environment: environment, Cluster: testCluster, Poll: 50 * time.Millisecond, CallsPerSecond: 1000,
				Runs: func() []api.Run { return []api.Run{run} }, Archive: archive(t, environment),
			})
			require.NoError(t, err)
			suite.Cleanup(func() { require.NoError(suite, r.Close()) })
			return r
		},
		Run:      run,
		OneLog:   true,
		Restarts: mode == api.ECSService,
		Archive: func(t *testing.T, environment string) control.LogArchive {
			t.Helper()
			return archive(t, environment)
		},
		Bad: map[string]api.Run{
			"no such service":    with(func(e *api.ECS) { e.Service = "nobody" }),
			"no such definition": with(func(e *api.ECS) { e.TaskDefinition = "nobody:7" }),
			"no such container":  with(func(e *api.ECS) { e.Container = "nobody" }),
			"no such image":      with(func(e *api.ECS) { e.Image = "absent:v1" }),
			"no such size":       with(func(e *api.ECS) { e.CPU, e.Memory = 256, 77_777 }),
			"no such cluster":    with(func(e *api.ECS) { e.Cluster = "nowhere" }),
		},
		Leftovers: func(_ *testing.T, environment string) []string {
			found := c.Leftovers("layover-" + environment + "--")
			if left != nil && len(found) == 0 && len(c.Leftovers("layover-suite")) == 0 {
				for _, pid := range left() {
					found = append(found, fmt.Sprintf("process %d", pid))
				}
			}
			return found
		},
	})
}
