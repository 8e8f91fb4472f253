package ecs

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	createService(t, "cart", register(t, cartDefinition("cart:main")), 0)
	t.Run("task", func(t *testing.T) { conform(t, c, api.ECS{Service: "cart"}, runner.Processes) })
	t.Run("service", func(t *testing.T) { conform(t, c, api.ECS{Service: "cart", Mode: api.ECSService}, runner.Processes) })
}

// TestConformance_Docker runs tasks as containers.
func TestConformance_Docker(t *testing.T) {
	runner, err := ecstest.NewDockerRunner(t.Context())
	if err != nil {
		t.Skipf("left out: %s needs a Docker Engine, and none answers: %v", t.Name(), err)
	}
	c := newCloud(t, runner)
	image := dockerImage(t)
	t.Run("awsvpc", func(t *testing.T) {
		createService(t, "cart", register(t, cartDefinition(image)), 0)
		conform(t, c, api.ECS{Service: "cart"}, nil)
	})
	t.Run("bridge", func(t *testing.T) {
		c.AddContainerInstance(testCluster, "i-0a1b2c3d", "127.0.0.1")
		register(t, bridgeDefinition(image))
		conform(t, c, api.ECS{TaskDefinition: "cart-bridge", LaunchType: "EC2"}, nil)
	})
}

// dockerImage makes an image of the test app and nothing else, and removes it when t ends.
func dockerImage(t *testing.T) string {
	t.Helper()
	dir, name := t.TempDir(), "layover-ecstest-"+strings.ToLower(rand.Text()[:8])+":main"
	app, err := os.ReadFile(runtimetest.BuildApp(t))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "app"), app, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n"), 0o600))
	out, err := exec.Command("docker", "build", "-q", "-t", name, dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "-f", name).Run() })
	return name
}

func conform(t *testing.T, c *ecstest.Cloud, template api.ECS, left func() []int) {
	dir := t.TempDir()
	archive := func(t *testing.T, environment string) *logfile.Archive {
		t.Helper()
		a, err := logfile.NewArchive(filepath.Join(dir, environment), 1<<20)
		require.NoError(t, err)
		return a
	}
	run := api.Run{ECS: &template}
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
		Restarts: template.Mode == api.ECSService,
		Archive: func(t *testing.T, environment string) control.LogArchive {
			t.Helper()
			return archive(t, environment)
		},
		Bad: map[string]api.Run{
			"no such service":    with(func(e *api.ECS) { e.Service = "nobody" }),
			"no such definition": with(func(e *api.ECS) { e.TaskDefinition = "nobody:7" }),
			"no such container":  with(func(e *api.ECS) { e.Container = "nobody" }),
			"no such image":      with(func(e *api.ECS) { e.Image = "absent:v1" }),
			"no such size":       with(func(e *api.ECS) { e.Mode, e.TaskDefinition, e.CPU, e.Memory = "", "cart", 256, 77_777 }),
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
