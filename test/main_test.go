//go:build unix

// Package test drives the real program from end to end, by scripts that read
// like what a person types. Each script in testdata/script has a folder of its
// own as $WORK, and an environment of its own on free ports.
package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/layover-dev/layover/internal/cli"
	"github.com/layover-dev/layover/internal/runtime/process"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	// The program under test is this one, under the name layover: supervisors of
	// instances are too.
	if code, ok := process.Supervise(os.Args); ok {
		os.Exit(code)
	}
	testscript.Main(withApp{m}, map[string]func(){
		"layover": func() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// withApp runs the tests with the test app of runtimes in the PATH, as app.
type withApp struct{ m *testing.M }

func (w withApp) Run() int {
	code, err := w.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func (w withApp) run() (int, error) {
	dir, err := os.MkdirTemp("", "layover-test-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := runtimetest.BuildAppTo(filepath.Join(dir, "app")); err != nil {
		return 0, err
	}
	if err := os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH")); err != nil {
		return 0, err
	}
	return w.m.Run(), nil
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUp,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"up":        cmdUp,
			"interrupt": cmdInterrupt,
			"hangup":    cmdHangup,
			"crash":     cmdCrash,
			"becomes":   cmdBecomes,
			"happens":   cmdHappens,
			"ask":       cmdAsk,
			"exits":     cmdExits,
			"processes": cmdProcesses,
			"sql":       cmdSQL,
			"listing":   cmdListing,

			"postgres":   cmdPostgres, // see database_test.go
			"nopostgres": cmdNoPostgres,
			"example":    cmdExample,
			"databases":  cmdDatabases,
			"post":       cmdPost,

			"docker": cmdDocker, // see docker_test.go
			"says":   cmdSays,

			"cloud": cmdCloud, // see ecs_test.go
			"shows": cmdShows,
		},
	})
}

// setUp keeps a script away from whatever runs on this machine.
func setUp(env *testscript.Env) error {
	for name, value := range map[string]string{
		"LAYOVER_SERVER":        "http://127.0.0.1:1", // nothing answers there
		"LAYOVER_SERVER_LISTEN": "127.0.0.1:0",
		"LAYOVER_PROXY_LISTEN":  "127.0.0.1:0",
		"LAYOVER_USER":          "ana",
		"DOCKER_HOST":           "unix://" + env.WorkDir + "/no-docker.sock",
		"GORACE":                "atexit_sleep_ms=0", // of every command; the default is a second
	} {
		env.Setenv(name, value)
	}
	s := &script{work: env.WorkDir}
	for _, v := range env.Vars {
		name, _, _ := strings.Cut(v, "=")
		s.variables = append(s.variables, name)
	}
	env.Values[scriptKey{}] = s
	env.Defer(func() { s.end() })
	return nil
}

// condition knows [root] and [docker].
func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Getuid() == 0, nil
	case "docker":
		return dockerAnswers(), nil
	}
	return false, fmt.Errorf("there is no condition %q", name)
}
