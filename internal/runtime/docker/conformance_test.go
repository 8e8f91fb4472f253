package docker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/logfile"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	engine := requireEngine(t)
	binary, err := os.ReadFile(runtimetest.BuildApp(t))
	require.NoError(t, err)
	image := importImage(t, engine, binary, `ENTRYPOINT ["/app"]`)
	dir := t.TempDir()
	archive := func(t *testing.T, environment string) *logfile.Archive {
		t.Helper()
		a, err := logfile.NewArchive(filepath.Join(dir, environment), 1<<20)
		require.NoError(t, err)
		return a
	}
	suite := t // a case uses its runtimes until all of its own clean-up is done
	runtimetest.Run(t, runtimetest.Harness{
		New: func(t *testing.T, environment string) control.Runtime {
			r, err := New(Options{Environment: environment, Archive: archive(t, environment), LogBytes: 3 << 20})
			require.NoError(t, err)
			suite.Cleanup(func() { require.NoError(suite, r.Close()) })
			return r
		},
		Run:      api.Run{Docker: &api.Docker{Image: image}},
		LogBytes: 3 << 20,
		Archive: func(t *testing.T, environment string) control.LogArchive {
			t.Helper()
			return archive(t, environment)
		},
		Bad: map[string]api.Run{
			"no image":             {Docker: &api.Docker{}},
			"image that is absent": {Docker: &api.Docker{Image: "layover-test-absent:v1", Pull: "never"}},
			"name that is none":    {Docker: &api.Docker{Image: "Not An Image"}},
			"memory that is none":  {Docker: &api.Docker{Image: image, Memory: "plenty"}},
		},
		Hanging: func(t *testing.T, environment string) (control.Runtime, api.Run) {
			r, err := New(Options{Environment: environment, Host: "unix://" + silentSocket(t)})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, r.Close()) })
			return r, api.Run{Docker: &api.Docker{Image: image}}
		},
		Leftovers: func(t *testing.T, environment string) []string {
			found, err := engine.ContainerList(context.Background(), client.ContainerListOptions{All: true})
			require.NoError(t, err)
			var names []string
			for _, c := range found.Items {
				for _, name := range c.Names {
					if strings.HasPrefix(name, "/layover-"+environment+"--") {
						names = append(names, name)
					}
				}
			}
			return names
		},
	})
}
