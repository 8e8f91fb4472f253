package control_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

func key(version string) control.Key { return control.Key{Service: "cart", Version: version} }

func TestDeployRoutesAHealthyInstance(t *testing.T) {
	b := newBench(t)
	v := b.up("feature-1", map[string]string{"COLOUR": "red"})
	require.Equal(t, "ana", v.Owner)
	require.Equal(t, api.RuntimeProcess, v.Runtime)
	require.True(t, v.Instances[0].Healthy)

	env := b.answer("feature-1").Env
	require.Equal(t, "red", env["COLOUR"])
	require.Equal(t, "cart", env["LAYOVER_SERVICE"])
	require.Equal(t, "feature-1", env["LAYOVER_VERSION"])
	require.Equal(t, "cart", env["OTEL_SERVICE_NAME"])
	require.Contains(t, env["OTEL_RESOURCE_ATTRIBUTES"], "service.version=feature-1")
	require.Contains(t, env["OTEL_RESOURCE_ATTRIBUTES"], "deployment.environment.name=test")
	require.Contains(t, env["OTEL_RESOURCE_ATTRIBUTES"], "layover.version=feature-1")
	require.Equal(t, "cart/feature-1/feature-1/"+env["PORT"], env["ROUTE"])

	var steps []api.Step
	b.until(func() bool { return b.hasEvent("feature-1", api.EventDeployDone) }, func() string { return "no deploy.done" })
	for _, e := range b.eventsOf("feature-1") {
		if e.Type == api.EventDeployStep {
			steps = append(steps, e.Step)
			require.Positive(t, e.Took, "a step has a duration")
		}
	}
	require.Equal(t, []api.Step{api.StepStart, api.StepHealthy, api.StepRouted}, steps)
}

func TestRequestsAreHeldFromTheMomentAVersionIsWanted(t *testing.T) {
	b := newBench(t)
	b.deploy("slow", map[string]string{"APP_LISTEN": "no"})
	entry := b.routed("slow")
	require.NotNil(t, entry, "the version exists as soon as Deploy returns")
	require.Equal(t, route.Starting, entry.State)
}

func TestFailedDeploySaysWhy(t *testing.T) {
	tests := map[string]struct {
		env     map[string]string
		timeout time.Duration
		reason  string
		tail    string
	}{
		"exits at once": {env: map[string]string{"APP_EXIT": "3"}, timeout: 20 * time.Second, reason: "code 3", tail: "exiting at once with code 3"},
		"never listens": {env: map[string]string{"APP_LISTEN": "no"}, timeout: 5 * time.Second, reason: "not healthy after 5s"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, err := b.Deploy(t.Context(), key("bad"), api.Deployment{
				Overrides: api.Overrides{Env: tt.env}, Timeout: api.Duration(tt.timeout),
			})
			require.NoError(t, err)
			v := b.wait("bad", "to fail", func(v api.Version) bool { return v.State == api.StateFailed && len(v.Instances) == 0 })
			require.Contains(t, v.Reason, tt.reason)
			if tt.tail != "" {
				require.Contains(t, strings.Join(v.LogTail, "\n"), tt.tail)
			}
			entry := b.routed("bad")
			require.Equal(t, route.Failed, entry.State, "it exists: never silently the default version")
			require.Contains(t, entry.Reason, tt.reason)
			statuses, err := b.runtime.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, statuses, "nothing is left of it")

			logs, err := b.Logs(t.Context(), logsOf("bad"))
			require.NoError(t, err)
			line, _ := logs.Next(t.Context())
			require.Contains(t, line.Text, tt.tail, "its last lines are kept")
			require.NoError(t, logs.Close())
		})
	}
}

func TestFailedDeployLeavesWhatServed(t *testing.T) {
	b := newBench(t)
	before := b.up("feature-1", map[string]string{"COLOUR": "red"})
	pid := b.answer("feature-1").PID
	tablesBefore := len(b.plane.tables)
	b.deploy("feature-1", map[string]string{"APP_EXIT": "3"})
	v := b.wait("feature-1", "to tell of the failure", func(v api.Version) bool { return v.Reason != "" })
	require.Equal(t, api.StateRunning, v.State)
	require.Equal(t, before.Serving, v.Serving)
	require.Contains(t, v.Reason, "code 3")
	require.Equal(t, pid, b.answer("feature-1").PID, "the same process answers")
	b.plane.mu.Lock()
	defer b.plane.mu.Unlock()
	for _, table := range b.plane.tables[tablesBefore:] {
		require.Equal(t, route.Ready, table.Service("cart").Version("feature-1").State, "in every table")
	}
}

func TestReplaceHasNoGap(t *testing.T) {
	b := newBench(t)
	first := b.up("feature-1", map[string]string{"COLOUR": "red"})
	tablesBefore := len(b.plane.tables)
	idle := b.plane.makeBusy(first.Instances[0].ID)
	defer idle()
	v := b.deploy("feature-1", map[string]string{"COLOUR": "blue"})
	b.wait("feature-1", "to be replaced", func(now api.Version) bool { return now.Serving == v.Generation })
	require.Equal(t, "blue", b.answer("feature-1").Env["COLOUR"])

	b.plane.mu.Lock()
	for _, table := range b.plane.tables[tablesBefore:] {
		entry := table.Service("cart").Version("feature-1")
		require.Equal(t, route.Ready, entry.State, "it answers in every table")
		require.Len(t, entry.Instances, 1)
	}
	b.plane.mu.Unlock()

	b.wait("feature-1", "to drain", func(v api.Version) bool {
		return len(v.Instances) == 2 && slices.ContainsFunc(v.Instances, func(i api.Instance) bool { return i.Health == "leaving" })
	})
	idle()
	b.wait("feature-1", "to let go of the old instance", func(v api.Version) bool { return len(v.Instances) == 1 })
}

func TestDeploysOfDifferentVersionsDoNotWaitForEachOther(t *testing.T) {
	b := newBench(t)
	b.deploy("stuck", map[string]string{"APP_LISTEN": "no"})
	var group sync.WaitGroup
	for i := range 5 {
		group.Go(func() { b.deploy(fmt.Sprintf("quick-%d", i), nil) })
	}
	group.Wait()
	for i := range 5 {
		b.wait(fmt.Sprintf("quick-%d", i), "to serve", func(v api.Version) bool { return v.State == api.StateRunning })
	}
	v, err := b.Version(t.Context(), key("stuck"))
	require.NoError(t, err)
	require.Equal(t, api.StateStarting, v.State, "the one that hangs still does")
}

func TestLaterDeployOfTheSameVersionWins(t *testing.T) {
	b := newBench(t)
	first := b.deploy("feature-1", map[string]string{"APP_LISTEN": "no"})
	b.wait("feature-1", "to have an instance", func(v api.Version) bool { return len(v.Instances) == 1 })
	b.up("feature-1", map[string]string{"COLOUR": "blue"})
	require.Equal(t, "blue", b.answer("feature-1").Env["COLOUR"])
	require.True(t, slices.ContainsFunc(b.eventsOf("feature-1"), func(e api.Event) bool {
		return e.Type == api.EventDeploySuperseded && e.Generation == first.Generation
	}))
	statuses, err := b.runtime.List(t.Context())
	require.NoError(t, err)
	require.Len(t, statuses, 1)
}

func TestStopAndStart(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", map[string]string{"COLOUR": "red"})
	_, err := b.Stop(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	require.Nil(t, b.routed("feature-1"), "it leaves the table at once")
	b.wait("feature-1", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
	b.until(func() bool { return b.hasEvent("feature-1", api.EventVersionStopped) }, func() string { return "nobody told of it" })

	_, err = b.Start(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("feature-1", "to serve again", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Equal(t, "red", b.answer("feature-1").Env["COLOUR"], "as it was deployed")
}

func TestStopInTheMiddleOfADeploy(t *testing.T) {
	b := newBench(t)
	b.deploy("feature-1", map[string]string{"APP_LISTEN": "no"})
	b.wait("feature-1", "to have an instance", func(v api.Version) bool { return len(v.Instances) == 1 })
	_, err := b.Stop(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("feature-1", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
	require.True(t, b.hasEvent("feature-1", api.EventDeploySuperseded))
}

func TestRestartMakesANewInstance(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", map[string]string{"COLOUR": "red"})
	pid := b.answer("feature-1").PID
	v, err := b.Restart(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("feature-1", "to serve anew", func(now api.Version) bool { return now.Serving == v.Generation })
	answer := b.answer("feature-1")
	require.NotEqual(t, pid, answer.PID)
	require.Equal(t, "red", answer.Env["COLOUR"])
}

func TestRemoveForgets(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	_, err := b.Remove(t.Context(), key("feature-1"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.until(func() bool {
		_, err := b.Version(t.Context(), key("feature-1"))
		return control.CodeOf(err) == api.CodeNotFound
	}, func() string { return "cart@feature-1 is still there" })
	require.Nil(t, b.routed("feature-1"))
	b.up("feature-1", nil) // the name is free again
}

func TestInstanceThatDiesIsStartedAgain(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	pid := b.answer("feature-1").PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	b.until(func() bool { return b.hasEvent("feature-1", api.EventInstanceExited) }, func() string { return "nobody told of the end" })
	b.wait("feature-1", "to serve again", func(v api.Version) bool { return v.State == api.StateRunning })
	require.NotEqual(t, pid, b.answer("feature-1").PID)
	for _, table := range b.plane.tables {
		if s := table.Service("cart"); s != nil && s.Version("feature-1") != nil {
			require.NotEqual(t, route.Failed, s.Version("feature-1").State, "the first restart is at once, and held for")
		}
	}
}

func TestCrashLoopIsSlowedDownAndShown(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", map[string]string{"APP_EXIT_AFTER": "3"}) // every health check counts
	v := b.wait("feature-1", "to loop", func(v api.Version) bool { return v.State == api.StateFailed })
	require.Contains(t, v.Reason, "next try in")
	require.Contains(t, v.Reason, "code 4")
	require.Less(t, b.runtime.started(), 6, "restarts are slowed down")
}

func TestUnhealthyInstanceLeavesTheTable(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	pid := b.answer("feature-1").PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	s := cart()
	s.Health.Timeout = api.Duration(100 * time.Millisecond)
	require.NoError(t, b.PutService(t.Context(), s))
	v := b.wait("feature-1", "to be taken out", func(v api.Version) bool { return v.State == api.StateStarting })
	require.Contains(t, v.Reason, "unhealthy")
	require.Equal(t, route.Starting, b.routed("feature-1").State, "requests are held, none goes to main")
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	b.wait("feature-1", "to recover", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Equal(t, pid, b.answer("feature-1").PID)
}

func TestNextServerAdoptsWhatRuns(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	pid := b.answer("feature-1").PID
	b.end()
	b.open()
	b.wait("feature-1", "to be adopted", func(v api.Version) bool { return v.State == api.StateRunning })
	require.Equal(t, pid, b.answer("feature-1").PID)
	require.Zero(t, b.runtime.started())
}

func TestNextServerFinishesADeploy(t *testing.T) {
	b := newBench(t)
	b.deploy("feature-1", map[string]string{"APP_LISTEN": "no"})
	b.wait("feature-1", "to have an instance", func(v api.Version) bool { return len(v.Instances) == 1 })
	b.end()
	b.open()
	b.wait("feature-1", "to go on", func(v api.Version) bool { return v.State == api.StateStarting && len(v.Instances) == 1 })
	require.Zero(t, b.runtime.started(), "the instance that was started is taken")
	b.up("feature-1", nil)
}

func TestOrphanIsEnded(t *testing.T) {
	b := newBench(t)
	_, err := b.runtime.Start(t.Context(), control.Workload{
		ID: "cart--ghost--1", Environment: "test", Service: "cart", Version: "ghost", Generation: 1,
		Run: cart().Run, Env: map[string]string{"APP_HOST": "127.0.0.1"},
	}, nil)
	require.NoError(t, err)
	b.until(func() bool {
		statuses, err := b.runtime.List(t.Context())
		require.NoError(t, err)
		return len(statuses) == 0
	}, func() string { return "the orphan is still there" })
	b.until(func() bool { return b.hasEvent("ghost", api.EventOrphanEnded) }, func() string { return "nobody told of it" })
}

// A list that was under way while a keeper started and ended an instance still has it.
func TestWhatAKeeperEndedIsNoOrphan(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	listed := b.runtime.listOnce(control.Status{ID: "cart--feature-1--7", Service: "cart", Version: "feature-1", Generation: 7, Running: true})
	b.until(listed, func() string { return "nobody listed the runtime" })
	listed = b.runtime.listOnce(control.Status{ID: "cart--feature-1--1", Service: "cart", Version: "feature-1", Generation: 1})
	b.until(listed, func() string { return "nobody listed the runtime again" }) // what the first list led to is over
	require.False(t, b.hasEvent("feature-1", api.EventOrphanEnded))
}

func TestRuntimeThatDoesNotAnswerRemovesNothing(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	b.runtime.breakList(errors.New("throttled"))
	b.until(func() bool { return b.Ready(t.Context()) != nil }, func() string { return "readiness does not tell" })
	require.Equal(t, route.Ready, b.routed("feature-1").State)
	b.runtime.breakList(nil)
	b.until(func() bool { return b.Ready(t.Context()) == nil }, func() string { return "readiness does not recover" })
}

// TestBranches holds that no branch is deployed over another that comes out as the same
// name, in whatever order and way they are named.
func TestBranches(t *testing.T) {
	for name, tt := range map[string]struct {
		version  string
		branches []string // of the deployments, in this order; "" names none
		want     string   // of the version
		says     string   // of the refusal of the last one
	}{
		"the name again":                   {"foo-1", []string{"", ""}, "", ""},
		"the name, said as its branch":     {"foo-1", []string{"", "foo-1", ""}, "", ""},
		"the branch again":                 {"foo-1", []string{"foo/1", "foo/1"}, "foo/1", ""},
		"a branch over the name":           {"foo-1", []string{"", "foo/1"}, "", "under that very name"},
		"the name over a branch":           {"foo-1", []string{"foo/1", ""}, "foo/1", `belongs to branch "foo/1"`},
		"a branch over a branch":           {"foo-1", []string{"foo/1", "Foo/1"}, "foo/1", `belongs to branch "foo/1"`},
		"a name of its own":                {"pr-88", []string{"foo/1", "", "foo/1"}, "foo/1", ""},
		"a name of its own, branch later":  {"pr-88", []string{"", "foo/1", ""}, "foo/1", ""},
		"a name of its own, two branches":  {"pr-88", []string{"foo/1", "foo/2"}, "foo/1", `belongs to branch "foo/1"`},
		"a branch over one that was given": {"foo-1", []string{"", "bar", "foo/1"}, "bar", `belongs to branch "bar"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			for i, branch := range tt.branches {
				_, err := b.Deploy(t.Context(), key(tt.version), api.Deployment{Branch: branch})
				if tt.says == "" || i < len(tt.branches)-1 {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, tt.says)
				require.Equal(t, api.CodeConflict, control.CodeOf(err))
			}
			v, err := b.Version(t.Context(), key(tt.version))
			require.NoError(t, err)
			require.Equal(t, tt.want, v.Branch)
		})
	}
}

// TestActingOnABranch holds that who names a branch never acts on the version of another.
func TestActingOnABranch(t *testing.T) {
	for name, tt := range map[string]struct {
		version string
		was     string // branch of its deployment
		meant   string
		says    string // why it is refused; "" where it is not
	}{
		"the branch":                      {"foo-1", "foo/1", "foo/1", ""},
		"the name of a branch":            {"foo-1", "foo/1", "", ""},
		"another branch":                  {"foo-1", "foo/1", "Foo/1", `belongs to branch "foo/1", and branch "Foo/1" comes out as the same name`},
		"the name, said as its branch":    {"foo-1", "foo/1", "foo-1", `belongs to branch "foo/1", which comes out as the same name`},
		"a branch, and it was the name":   {"foo-1", "", "foo/1", "was deployed under that very name"},
		"a name of its own":               {"pr-88", "foo/1", "foo/1", ""},
		"a name of its own, no branch":    {"pr-88", "", "foo/1", ""},
		"a name of its own, other branch": {"pr-88", "foo/1", "foo/2", `belongs to branch "foo/1"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, err := b.Deploy(t.Context(), key(tt.version), api.Deployment{Branch: tt.was})
			require.NoError(t, err)
			b.wait(tt.version, "to run", func(v api.Version) bool { return v.State == api.StateRunning })
			b.until(func() bool { return b.hasEvent(tt.version, api.EventDeployDone) }, func() string { return "its deployment does not end" })
			act := func(do func(context.Context, control.Key, control.By) (api.Version, error), what string) {
				before, err := b.Version(t.Context(), key(tt.version))
				require.NoError(t, err)
				events := len(b.eventsOf(tt.version))
				_, err = do(t.Context(), key(tt.version), control.By{Actor: "ben", Branch: tt.meant})
				if tt.says == "" {
					require.NoError(t, err, what)
					return
				}
				require.ErrorContains(t, err, tt.says, what)
				require.Equal(t, api.CodeConflict, control.CodeOf(err), what)
				require.Contains(t, hint(err), "write its name: cart@"+tt.version)
				after, err := b.Version(t.Context(), key(tt.version))
				require.NoError(t, err)
				require.Equal(t, before.Generation, after.Generation, what)
				require.Equal(t, before.State, after.State, what)
				require.Len(t, b.eventsOf(tt.version), events, what)
			}
			act(b.Start, "start of one that runs")
			act(b.Restart, "restart")
			act(b.Stop, "stop")
			_, err = b.Stop(t.Context(), key(tt.version), control.By{Actor: "ada"})
			require.NoError(t, err)
			b.wait(tt.version, "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
			b.until(func() bool { return b.hasEvent(tt.version, api.EventVersionStopped) }, func() string { return "nothing tells of it" })
			act(b.Start, "start")
			act(b.Remove, "remove")
		})
	}
}

func hint(err error) string {
	e, ok := errors.AsType[*control.Error](err)
	if !ok {
		return ""
	}
	return e.Hint
}

func TestUnknownNamesHaveHints(t *testing.T) {
	b := newBench(t)
	hintOf := func(k control.Key) string {
		_, err := b.Version(t.Context(), k)
		var e *control.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, api.CodeNotFound, e.Code)
		return e.Message + "; " + e.Hint
	}
	require.Equal(t, "there is no version cart@nope; deploy it with: layover deploy cart@nope", hintOf(key("nope")))
	for i := range 12 {
		_, err := b.Deploy(t.Context(), key(fmt.Sprintf("feature-%02d", i)), api.Deployment{})
		require.NoError(t, err)
	}
	require.Equal(t, "there is no version cart@nope; cart has feature-00, feature-01, feature-02, feature-03, feature-04, "+
		"feature-05, feature-06, feature-07, feature-08, feature-09 and 2 more: layover ls --service cart", hintOf(key("nope")))
	require.Contains(t, hintOf(key("featrue-11")), "did you mean cart@feature-11")
	require.Equal(t, `there is no service "nope"; known are cart`, hintOf(control.Key{Service: "nope", Version: "main"}))
}

func TestBadInput(t *testing.T) {
	b := newBench(t)
	b.up("taken", nil)
	_, err := b.Deploy(t.Context(), key("from-branch"), api.Deployment{Branch: "from/branch"})
	require.NoError(t, err)
	deploy := func(service, version string, d api.Deployment) error {
		_, err := b.Deploy(t.Context(), control.Key{Service: service, Version: version}, d)
		return err
	}
	tests := map[string]struct {
		err  error
		code api.Code
		says string
	}{
		"unknown service":    {deploy("carts", "a", api.Deployment{}), api.CodeNotFound, "carts"},
		"no version":         {deploy("cart", "", api.Deployment{}), api.CodeInvalid, "version"},
		"long version":       {deploy("cart", strings.Repeat("a", 64), api.Deployment{}), api.CodeInvalid, "version"},
		"unicode version":    {deploy("cart", "grün", api.Deployment{}), api.CodeInvalid, "version"},
		"path as version":    {deploy("cart", "../etc", api.Deployment{}), api.CodeInvalid, "version"},
		"two ways to run":    {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Image: "i", URL: "http://x"}}), api.CodeInvalid, "exclude"},
		"URL with path":      {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{URL: "http://x/y"}}), api.CodeInvalid, "http://x/y"},
		"relative directory": {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Dir: "here"}}), api.CodeInvalid, "here"},
		"placeholder":        {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Env: map[string]string{"A": "{serivce}"}}}), api.CodeInvalid, "serivce"},
		"another branch":     {deploy("cart", "from-branch", api.Deployment{Branch: "from_branch"}), api.CodeConflict, "from/branch"},
		"image":              {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Image: "BAD IMAGE::"}}), api.CodeInvalid, `"BAD IMAGE::" is not an image reference`},
		"image of a service": {b.PutService(t.Context(), api.Service{Name: "boxed", Run: api.Run{Docker: &api.Docker{Image: "Upper"}}}), api.CodeInvalid, "lowercase"},
		"name of a variable": {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Env: map[string]string{"A B": "x"}}}), api.CodeInvalid, `"A B" cannot be the name`},
		"NUL in a variable":  {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Env: map[string]string{"A": "x\x00"}}}), api.CodeInvalid, "NUL"},
		"endless variable":   {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Env: map[string]string{"A": strings.Repeat("a", 200_000)}}}), api.CodeInvalid, "200"},
		"port":               {deploy("cart", "a", api.Deployment{Overrides: api.Overrides{Port: 70000}}), api.CodeInvalid, "70000"},
		"control bytes":      {deploy("cart", "a", api.Deployment{Owner: "a\nb"}), api.CodeInvalid, "owner"},
		"host taken":         {b.PutService(t.Context(), api.Service{Name: "other", Hosts: []string{"cart.localhost"}}), api.CodeInvalid, "cart.localhost"},
		"service name":       {b.PutService(t.Context(), api.Service{Name: "No Name"}), api.CodeInvalid, "No Name"},
		"service in use":     {b.RemoveService(t.Context(), "cart", ""), api.CodeConflict, "cart"},
		"no such service":    {b.RemoveService(t.Context(), "nope", ""), api.CodeNotFound, "nope"},
		"route to nowhere":   {b.PutRoute(t.Context(), api.NamedRoute{Name: "r", Picks: map[string]string{"nope": "a"}}, ""), api.CodeInvalid, "nope"},
		"route of itself":    {b.PutRoute(t.Context(), api.NamedRoute{Name: "r", Parent: "r"}, ""), api.CodeInvalid, "r"},
		"no such route":      {b.RemoveRoute(t.Context(), "nope", ""), api.CodeNotFound, "nope"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Error(t, tt.err)
			require.Equal(t, tt.code, control.CodeOf(tt.err), tt.err.Error())
			require.Contains(t, tt.err.Error(), tt.says)
		})
	}
	for name, act := range map[string]func(context.Context, control.Key, control.By) (api.Version, error){
		"start": b.Start, "stop": b.Stop, "restart": b.Restart, "remove": b.Remove,
	} {
		_, err := act(t.Context(), key("nope"), control.By{Actor: "ben"})
		require.Equal(t, api.CodeNotFound, control.CodeOf(err), name)
	}
	_, err = b.Version(t.Context(), key("a"))
	require.Equal(t, api.CodeNotFound, control.CodeOf(err), "nothing of it is recorded")
	require.Equal(t, route.Ready, b.routed("taken").State, "nothing of it changed what serves")
}

func TestCommandThatDoesNotExist(t *testing.T) {
	b := newBench(t)
	_, err := b.Deploy(t.Context(), key("typo"), api.Deployment{Overrides: api.Overrides{Command: []string{"layover-no-such-command"}}})
	require.NoError(t, err)
	v := b.wait("typo", "to fail", func(v api.Version) bool { return v.State == api.StateFailed })
	require.Contains(t, v.Reason, "layover-no-such-command")
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	b := newBench(t)
	services := []api.Service{cart()}
	routes := []api.NamedRoute{{Name: "team", Picks: map[string]string{"cart": "feature-1"}}}
	wanted := []control.Wanted{
		{Key: key("main"), Deployment: api.Deployment{Source: "file"}},
		{Key: key("feature-1"), Deployment: api.Deployment{Source: "file", Overrides: api.Overrides{Env: map[string]string{"A": "1"}}}},
	}
	require.NoError(t, b.Apply(t.Context(), services, routes, wanted))
	for _, w := range wanted {
		b.wait(w.Version, "to serve", func(v api.Version) bool { return v.State == api.StateRunning })
	}
	require.NoError(t, b.Apply(t.Context(), services, routes, wanted))
	for _, w := range wanted {
		v, err := b.Version(t.Context(), w.Key)
		require.NoError(t, err)
		require.EqualValues(t, 1, v.Generation)
	}
	wanted[1].Deployment.Env = maps.Clone(wanted[1].Deployment.Env)
	wanted[1].Deployment.Env["A"] = "2"
	require.NoError(t, b.Apply(t.Context(), services, routes, wanted))
	b.wait("feature-1", "to be replaced", func(v api.Version) bool { return v.Serving == 2 })
	require.Equal(t, "2", b.answer("feature-1").Env["A"])
}

func TestWaitTableAndWaitEvents(t *testing.T) {
	b := newBench(t)
	before := b.Table().Position()
	last, err := b.LastEvent(t.Context())
	require.NoError(t, err)
	b.deploy("feature-1", nil)
	table, err := b.WaitTable(t.Context(), before)
	require.NoError(t, err)
	require.Greater(t, table.Revision(), before.Revision)
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	table, err = b.WaitTable(soon, route.Position{Epoch: "another", Revision: 1 << 60})
	require.NoError(t, err)
	require.Same(t, b.Table(), table, "where the epoch is another, revisions do not compare")
	require.NoError(t, b.WaitEvents(t.Context(), last))
	ctx, end := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer end()
	_, err = b.WaitTable(ctx, route.Position{Epoch: before.Epoch, Revision: 1 << 60})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, b.WaitEvents(ctx, 1<<60), context.DeadlineExceeded)
}
