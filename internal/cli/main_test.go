package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/runtime/process"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/server/servertest"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// asProgram is the variable that makes the program of the tests layover itself.
const asProgram = "LAYOVER_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if code, ok := process.Supervise(os.Args); ok {
		os.Exit(code)
	}
	if os.Getenv(asProgram) != "" {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(withPostgres{m},
		// Connections that the client of a command keeps for the next request end with the program.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

// withPostgres ends the PostgreSQL of the tests after them.
type withPostgres struct{ m *testing.M }

func (w withPostgres) Run() int {
	defer postgrestest.Stop()
	return w.m.Run()
}

// terminal is the command line with an environment in memory behind it.
type terminal struct {
	*servertest.Control
	app      *App
	out, err bytes.Buffer
}

// newTerminal returns a command line in a pipe, with the services cart and pricing.
func newTerminal(t *testing.T) *terminal {
	t.Helper()
	c := &terminal{Control: servertest.New()}
	s, err := server.New(server.Options{
		Control: c.Control, Build: api.Build{Version: "1.2.3"},
		Environment: api.Environment{Name: "shop", BaggageKey: "x_route", ProxyURL: "http://127.0.0.1:1"},
	})
	require.NoError(t, err)
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		s.CloseStreams()
		srv.CloseClientConnections()
		srv.Close()
	})
	c.app = newApp(strings.NewReader(""), &c.out, &c.err, []string{"LAYOVER_SERVER=" + srv.URL, "LAYOVER_OWNER=ana", "TOKEN=secret"})
	for _, name := range []string{"cart", "pricing"} {
		require.NoError(t, c.PutService(t.Context(), api.Service{Name: name, Hosts: []string{name + ".localhost"}}))
	}
	return c
}

// run runs one command and returns its exit code. What it wrote is in out and err.
func (c *terminal) run(ctx context.Context, args ...string) int {
	c.out.Reset()
	c.err.Reset()
	return execute(ctx, c.app, args)
}

// deployed makes a version run that a deployment asked for.
func (c *terminal) deployed(t *testing.T, service, version string) {
	t.Helper()
	key := control.Key{Service: service, Version: version}
	v, err := c.Deploy(t.Context(), key, api.Deployment{Owner: "ana", Source: "cli"})
	require.NoError(t, err)
	c.Settle(key, v.Generation, api.EventDeployDone, key.String()+" is up")
}

func TestExitCode(t *testing.T) {
	problem := func(code api.Code) error { return fmt.Errorf("do: %w", &api.Problem{Code: code, Detail: "no"}) }
	for name, test := range map[string]struct {
		err  error
		want int
	}{
		"of a command that it ran": {&silentError{code: 22}, 22},
		"bad flag":                 {usagef("", "no such flag"), exitUsage},
		"bad configuration":        {&config.Problems{}, exitUsage},
		"refused as invalid":       {problem(api.CodeInvalid), exitUsage},
		"not there":                {problem(api.CodeNotFound), exitUsage},
		"no room":                  {problem(api.CodeQuota), exitFailed},
		"in conflict":              {problem(api.CodeConflict), exitFailed},
		"forbidden":                {problem(api.CodeForbidden), exitFailed},
		"defect of the server":     {problem(api.CodeInternal), exitFailed},
		"no server":                {fmt.Errorf("list: %w", &api.UnreachableError{}), exitUnreachable},
		"failed deployment":        {&api.DeployError{}, exitFailed},
		"invalid in this process":  {&control.Error{Code: api.CodeInvalid}, exitUsage},
		"port in use":              {&control.Error{Code: api.CodeConflict}, exitFailed},
		"anything else":            {errors.New("disk on fire"), exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, exitCode(test.err))
		})
	}
}

func TestPrintError(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"nothing more to say": {&silentError{code: 1}, ""},
		"without a hint":      {errors.New("disk on fire"), "error: disk on fire\n"},
		"with a hint":         {usagef("try this", "no %s", "way"), "error: no way\nhint:  try this\n"},
		"wrapped":             {fmt.Errorf("open: %w", &control.Error{Message: "in use", Hint: "end it"}), "error: open: in use\nhint:  end it\n"},
		"several problems":    {&api.Problem{Detail: "not valid", Errors: []string{"a", "b"}}, "error: not valid\n  a\n  b\n"},
		"one problem, told":   {&api.Problem{Detail: "a", Errors: []string{"a"}}, "error: a\n"},
		"joined":              {errors.Join(errors.New("a"), usagef("c", "b")), "error: a\nerror: b\nhint:  c\n"},
		"no server": {
			&api.UnreachableError{URL: "http://x:1", Err: errors.New("refused")},
			"error: no Layover server answers at http://x:1: refused\n" +
				"hint:  start one with `layover up` or `layover demo`, or name it with --server or LAYOVER_SERVER\n",
		},
		"failed deployment": {
			&api.DeployError{Event: api.Event{
				Type: api.EventDeployFailed, Service: "cart", Version: "x",
				Message: "cart@x did not come up: exited with code 3", LogTail: []string{"oh", "no"},
			}},
			"error: cart@x did not come up: exited with code 3\n    | oh\n    | no\nhint:  more: layover status cart@x, layover logs cart@x\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			printError(&App{Err: &out}, test.err)
			require.Equal(t, test.want, out.String())
		})
	}
}

func TestInterrupted(t *testing.T) {
	c := newTerminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, exitInterrupted, c.run(ctx, "ls"))
	require.Empty(t, c.err.String())
}

func TestListVersions(t *testing.T) {
	c := newTerminal(t)
	require.Equal(t, exitOK, c.run(t.Context(), "ls"))
	require.Contains(t, c.err.String(), "no versions")
	require.Equal(t, exitOK, c.run(t.Context(), "ls", "--json"))
	require.Equal(t, "[]\n", c.out.String(), "an empty list is no null")

	c.deployed(t, "cart", "main")
	c.deployed(t, "pricing", "pr-88")
	require.Equal(t, exitOK, c.run(t.Context(), "ls"))
	require.Regexp(t, `^cart\tmain\trunning\tana\tcli\t20[0-9T:-]+Z\t-\t0\t-\t\npricing\tpr-88\trunning\t.*\n$`, c.out.String())
	require.Equal(t, exitOK, c.run(t.Context(), "ls", "--service", "cart"))
	require.NotContains(t, c.out.String(), "pricing")
	require.Equal(t, exitUsage, c.run(t.Context(), "ls", "--service", "nope"))
	require.Contains(t, c.err.String(), `there is no service "nope"`)
	require.Equal(t, exitUsage, c.run(t.Context(), "ls", "--route", "a~~b"))

	c.app.Terminal = true
	require.Equal(t, exitOK, c.run(t.Context(), "ls"))
	require.Contains(t, c.out.String(), "SERVICE  VERSION  STATE    OWNER  SOURCE  AGE  LEFT  REQUESTS  ADDRESS  WHY\n")
	require.Contains(t, c.out.String(), "\npricing  pr-88    running  ana    cli     0s   -     0         -\n")
}

func TestListRoute(t *testing.T) {
	c := newTerminal(t)
	version := func(name string) route.Version {
		return route.Version{Name: name, State: route.Ready, Instances: []route.Instance{{ID: name, Address: "127.0.0.1:1"}}}
	}
	c.SetTable(route.Spec{Revision: 9, BaggageKey: "x_route", Services: []route.Service{
		{Name: "cart", Hosts: []string{"cart.localhost"}, Versions: []route.Version{version("main"), version("pr-88")}},
		{Name: "pricing", Hosts: []string{"pricing.localhost"}, Versions: []route.Version{version("main")}},
	}})
	require.Equal(t, exitOK, c.run(t.Context(), "ls", "--route", "pr-88"))
	require.Equal(t, "cart\tpr-88\tready\tname\t-\npricing\tmain\tready\t-\tdefault\n", c.out.String())
	require.Equal(t, exitOK, c.run(t.Context(), "explain", "cart.localhost", "--route", "pr-88"))
	require.Contains(t, c.out.String(), "=>  cart@pr-88")
}

func TestDeploy(t *testing.T) {
	c := newTerminal(t)
	key := control.Key{Service: "cart", Version: "feature-x"}
	require.Equal(t, exitOK, c.run(t.Context(), "deploy", "cart@feature/x", "--command", "./cart -v", "--env", "A=b", "--env", "TOKEN", "--no-wait"))
	require.Equal(t, "cart@feature-x generation 1 is recorded; follow it with: layover status cart@feature-x\n", c.out.String())
	d := c.Deployment(key)
	require.Equal(t, []string{"./cart", "-v"}, d.Command)
	require.Equal(t, map[string]string{"A": "b", "TOKEN": "secret"}, d.Env)
	require.Equal(t, "ana", d.Owner)

	// The next generation is waited for, step by step.
	go func() {
		for v, err := c.Version(t.Context(), key); v.Generation < 2; v, err = c.Version(t.Context(), key) {
			if err != nil || c.WaitEvents(t.Context(), v.Generation) != nil {
				return
			}
		}
		c.Emit(api.Event{Type: api.EventDeployStep, Service: "cart", Version: "feature-x", Generation: 2, Step: api.StepPull, Message: "cart@feature-x: 1 MiB of 4 MiB"})
		c.Emit(api.Event{Type: api.EventDeployStep, Service: "cart", Version: "feature-x", Generation: 2, Step: api.StepStart, Took: api.Duration(1234 * time.Microsecond)})
		c.Settle(key, 2, api.EventDeployDone, "up")
	}()
	require.Equal(t, exitOK, c.run(t.Context(), "deploy", "cart@feature-x"), &c.err)
	require.Equal(t, "  · pull     1 MiB of 4 MiB\n  ✓ start    1ms\n", c.err.String())
	require.Regexp(t, `^cart@feature-x is up after [0-9.]+[mµ]?s\n`, c.out.String())
	require.Contains(t, c.out.String(), "  from a program  baggage: x_route=feature-x\n", "the key of this environment")
}

func TestStatus(t *testing.T) {
	c := newTerminal(t)
	key := control.Key{Service: "cart", Version: "x"}
	_, err := c.Deploy(t.Context(), key, api.Deployment{Owner: "ana"})
	require.NoError(t, err)
	c.Settle(key, 1, api.EventDeployFailed, "cart@x did not come up: exited with code 3")
	require.Equal(t, exitOK, c.run(t.Context(), "status", "cart@x"))
	for _, want := range []string{"cart@x  failed\n", "owner       ana\n", "cart@x did not come up", "next        layover logs cart@x"} {
		require.Contains(t, c.out.String(), want)
	}
	require.Equal(t, exitUsage, c.run(t.Context(), "status", "cart@nope"))
	require.Equal(t, exitUsage, c.run(t.Context(), "status", "cart"))
}

func TestLogs(t *testing.T) {
	c := newTerminal(t)
	c.deployed(t, "cart", "main")
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	c.SetLog(nil, api.LogLine{Time: at, Instance: "cart--main--1", Stream: "stdout", Text: "hello\tworld"})
	require.Equal(t, exitOK, c.run(t.Context(), "logs", "cart@main"))
	require.Equal(t, "2026-01-02T03:04:05.000006Z\thello\tworld\n", c.out.String())
	require.Equal(t, exitOK, c.run(t.Context(), "logs", "cart@main", "--json", "--tail", "1"))
	require.JSONEq(t, `{"time":"2026-01-02T03:04:05.000006Z","instance":"cart--main--1","stream":"stdout","text":"hello\tworld"}`, c.out.String())
	require.Equal(t, 1, c.LogQuery().Tail)
	require.Equal(t, exitUsage, c.run(t.Context(), "logs", "cart@nope"))
}

func TestEventsLooksBackFarEnough(t *testing.T) {
	c := newTerminal(t)
	c.deployed(t, "cart", "old")
	for range 300 {
		c.Emit(api.Event{Type: api.EventInstanceHealth, Service: "cart", Version: "busy", Message: "blinks"})
	}
	require.Equal(t, exitOK, c.run(t.Context(), "events", "-n", "2", "--version", "old"))
	require.Regexp(t, `^20.*\tdeploy.started\tdeploying cart@old, by ana\n20.*\tdeploy.done\tcart@old is up\n$`, c.out.String())
	require.Equal(t, exitOK, c.run(t.Context(), "events", "-n", "1"))
	require.Equal(t, 1, strings.Count(c.out.String(), "\n"))
	require.Equal(t, exitUsage, c.run(t.Context(), "events", "-n", "1001"))
}

func TestRoutes(t *testing.T) {
	c := newTerminal(t)
	require.Equal(t, exitOK, c.run(t.Context(), "route", "create", "team-a", "pricing=b", "cart=a"))
	require.Equal(t, "route team-a: cart=a pricing=b\n", c.out.String())
	require.Equal(t, exitOK, c.run(t.Context(), "route", "ls"))
	require.Equal(t, "team-a\t-\tcart=a pricing=b\n", c.out.String())
	require.Equal(t, exitOK, c.run(t.Context(), "route", "rm", "team-a"))
	for _, bad := range [][]string{
		{"create"},
		{"create", "Team"},
		{"create", "a"},
		{"create", "a", "cart"},
		{"create", "a", "cart="},
		{"create", "a", "=x"},
		{"create", "a", "cart=x", "cart=y"},
		{"rm"},
		{"rm", "a/b"},
		{"rm", "nope"},
		{"crate"},
	} {
		require.Equal(t, exitUsage, c.run(t.Context(), append([]string{"route"}, bad...)...), "%s", bad)
		require.Contains(t, c.err.String(), "error: ")
	}
}
