//go:build unix

package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/logfile"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

// appVariable names the test app to the tests, which run after it was built.
const appVariable = "LAYOVER_TEST_APP"

// serverVariable makes the test program a server that starts instances in the
// folder it names, until it is killed.
const serverVariable = "LAYOVER_TEST_SERVER"

func serveForever(dir string) int {
	r, err := New(options(dir, "shop"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var starters sync.WaitGroup
	for worker := range 3 {
		starters.Go(func() {
			for i := range 6 {
				id := fmt.Sprintf("cart-%d-%d-%d", os.Getpid(), worker, i)
				_, _ = r.Start(context.Background(), appWorkload(id, nil), nil)
				if isStopped(id) {
					_ = r.Stop(context.Background(), id, 0)
				}
			}
		})
	}
	fmt.Println("starting")
	starters.Wait()
	select {} // until killed
}

// isStopped says whether the server stops the instances it started under this ID.
func isStopped(id string) bool { return strings.HasSuffix(id, "2") || strings.HasSuffix(id, "5") }

func TestMain(m *testing.M) {
	if code, ok := Supervise(os.Args); ok {
		os.Exit(code)
	}
	if dir := os.Getenv(serverVariable); dir != "" {
		os.Exit(serveForever(dir))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "layover-process-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder of this test
	app := filepath.Join(dir, "app")
	if err := runtimetest.BuildAppTo(app); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.Setenv(appVariable, app); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left:", err)
		return 1
	}
	return code
}

func TestRuntime(t *testing.T) {
	dir := t.TempDir()
	archive := func(t *testing.T, environment string) *logfile.Archive {
		t.Helper()
		a, err := logfile.NewArchive(filepath.Join(dir, "logs-"+environment), 1<<20)
		require.NoError(t, err)
		return a
	}
	newOne := func(t *testing.T, environment string, change func(*Options)) *Runtime {
		t.Helper()
		opts := options(dir, environment)
		opts.Archive = archive(t, environment)
		opts.LogFileSize = 1 << 20
		if change != nil {
			change(&opts)
		}
		r, err := New(opts)
		require.NoError(t, err)
		return r
	}
	runtimetest.Run(t, runtimetest.Harness{
		New: func(t *testing.T, environment string) control.Runtime {
			t.Helper()
			return newOne(t, environment, nil)
		},
		Run:       appRun(),
		Env:       map[string]string{"APP_HOST": "127.0.0.1"},
		FixedPort: true,
		LogBytes:  3 << 20,
		Archive: func(t *testing.T, environment string) control.LogArchive {
			t.Helper()
			return archive(t, environment)
		},
		Bad: map[string]api.Run{
			"no such command in PATH": {Process: &api.Process{Command: []string{"layover-no-such-command"}}},
			"no such path":            {Process: &api.Process{Command: []string{"./no-such-command"}, Dir: t.TempDir()}},
			"no command":              {Process: &api.Process{}},
			"of another runtime":      {Docker: &api.Docker{Image: "cart"}},
		},
		Hanging: func(t *testing.T, environment string) (control.Runtime, api.Run) {
			t.Helper()
			return newOne(t, environment, func(o *Options) {
				o.Supervisor = []string{"/bin/sh", "-c", "exec sleep 60"}
			}), appRun()
		},
		Leftovers: func(t *testing.T, environment string) []string {
			t.Helper()
			return leftovers(t, filepath.Join(dir, environment))
		},
	})
}

func appRun() api.Run {
	return api.Run{Process: &api.Process{Command: []string{os.Getenv(appVariable), "--port={port}"}}}
}

// options are those of the tests: supervisors run the test program, without the
// second that the race detector waits at the end of a process.
func options(dir, environment string) Options {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Options{
		Dir: dir, Environment: environment,
		Supervisor: []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0", self},
	}
}
