package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/store"
)

// hooked is a bench whose service has hooks that note what they do in files.
type hooked struct {
	*bench
	notes string // folder
}

func newHooked(t *testing.T, setup, teardown string) *hooked {
	t.Helper()
	b := &hooked{bench: newBench(t), notes: t.TempDir()}
	b.hooks(setup, teardown)
	return b
}

// hooks gives the service hooks; "" for none. $NOTES is the folder of the notes.
func (b *hooked) hooks(setup, teardown string) {
	b.t.Helper()
	s := cart()
	s.Grace = api.Duration(time.Second)
	s.Setup, s.Teardown = b.shell(setup), b.shell(teardown)
	require.NoError(b.t, b.PutService(b.t.Context(), s))
}

func (b *hooked) shell(script string) *api.Hook {
	if script == "" {
		return nil
	}
	return &api.Hook{Command: []string{"/bin/sh", "-c", script}, Env: map[string]string{"NOTES": b.notes}}
}

// note returns the lines of a file of the notes.
func (b *hooked) note(name string) []string {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.notes, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(b.t, err)
	return strings.Fields(string(data))
}

// let makes a file that hooks wait for, or look at.
func (b *hooked) let(name string) {
	b.t.Helper()
	require.NoError(b.t, os.WriteFile(filepath.Join(b.notes, name), nil, 0o600))
}

func (b *hooked) remove(version string, skip bool) {
	b.t.Helper()
	_, err := b.Remove(b.t.Context(), key(version), control.By{Actor: "ben", SkipTeardown: skip})
	require.NoError(b.t, err)
}

// gone waits until the version is removed, and requires that nothing of it is left.
func (b *hooked) gone(version string) {
	b.t.Helper()
	b.until(func() bool {
		_, err := b.Version(b.t.Context(), key(version))
		return control.CodeOf(err) == api.CodeNotFound
	}, func() string { return version + " is not removed" })
	b.until(func() bool {
		statuses, err := b.runtime.List(b.t.Context())
		require.NoError(b.t, err)
		return !slices.ContainsFunc(statuses, func(s control.Status) bool { return s.Version == version })
	}, func() string { return "something of " + version + " is left" })
}

func (b *hooked) log(version string) []api.LogLine {
	b.t.Helper()
	logs, err := b.Logs(b.t.Context(), control.LogQuery{Targets: []control.LogTarget{{Service: "cart", Version: version}}})
	require.NoError(b.t, err)
	defer func() { require.NoError(b.t, logs.Close()) }()
	var lines []api.LogLine
	for {
		line, err := logs.Next(b.t.Context())
		if errors.Is(err, io.EOF) {
			return lines
		}
		require.NoError(b.t, err)
		lines = append(lines, line)
	}
}

const countsSetups = `echo $LAYOVER_SETUP-$LAYOVER_GENERATION >>$NOTES/setups; echo "layover-output: DATABASE_URL=postgres://cart:s3cret-$LAYOVER_GENERATION@db/$LAYOVER_ID"`

func TestSetupRunsOnceForEachGeneration(t *testing.T) {
	b := newHooked(t, countsSetups, "")
	v, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: api.Overrides{Replicas: 2, Env: map[string]string{"DATABASE_URL": "none"}}})
	require.NoError(t, err)
	b.wait("feature-1", "to serve twice", func(v api.Version) bool { return v.Healthy == 2 })
	require.Equal(t, []string{"first-1"}, b.note("setups"), "not once for each instance")
	const first = "postgres://cart:s3cret-1@db/cart_feature_1"
	for range 2 {
		require.Equal(t, first, b.answer("feature-1").Env["DATABASE_URL"])
	}
	require.Equal(t, []api.Step{api.StepSetup, api.StepStart, api.StepHealthy, api.StepRouted}, b.stepsOf("feature-1", v.Generation))

	require.NoError(t, syscall.Kill(b.answer("feature-1").PID, syscall.SIGKILL))
	b.until(func() bool { return b.runtime.cameUp() == 4 }, func() string { return "the instance is not started again" })
	b.wait("feature-1", "to serve twice again", func(v api.Version) bool { return v.Healthy == 2 })
	b.end()
	b.open()
	b.wait("feature-1", "to be adopted", func(v api.Version) bool { return v.Healthy == 2 })
	_, err = b.Sleep(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	b.wait("feature-1", "to sleep", func(v api.Version) bool { return v.State == api.StateAsleep && len(v.Instances) == 0 })
	_, err = b.Wake(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	b.wait("feature-1", "to wake up", func(v api.Version) bool { return v.Healthy == 2 })
	require.Equal(t, first, b.answer("feature-1").Env["DATABASE_URL"])
	require.Equal(t, []string{"first-1"}, b.note("setups"), "a restart and a wake set up nothing")

	_, err = b.Stop(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	b.wait("feature-1", "to stop", func(v api.Version) bool { return v.State == api.StateStopped && len(v.Instances) == 0 })
	_, err = b.Start(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	b.wait("feature-1", "to serve anew", func(v api.Version) bool { return v.Serving == 2 })
	_, err = b.Rollback(t.Context(), key("feature-1"), 1, control.By{})
	require.NoError(t, err)
	b.wait("feature-1", "to serve as before", func(v api.Version) bool { return v.Serving == 3 })
	require.Equal(t, []string{"first-1", "again-2", "again-3"}, b.note("setups"))
	require.Equal(t, "postgres://cart:s3cret-3@db/cart_feature_1", b.answer("feature-1").Env["DATABASE_URL"])
}

func (b *bench) stepsOf(version string, generation int64) []api.Step {
	b.t.Helper()
	var steps []api.Step
	for _, e := range b.eventsOf(version) {
		if e.Type == api.EventDeployStep && e.Generation == generation && e.Took > 0 {
			steps = append(steps, e.Step)
		}
	}
	return steps
}

func TestWhatASetupGivesIsShownNowhere(t *testing.T) {
	b := newHooked(t, `set -x; URL=postgres://cart:s3cret-word@db; echo "layover-output: DATABASE_URL=$URL"; echo connecting to $URL; echo fine >&2`, "")
	b.up("feature-1", nil)
	require.Equal(t, "postgres://cart:s3cret-word@db", b.answer("feature-1").Env["DATABASE_URL"])

	v, err := b.Version(t.Context(), key("feature-1"))
	require.NoError(t, err)
	require.Equal(t, []string{"DATABASE_URL"}, v.OutputNames)
	history, err := b.History(t.Context(), key("feature-1"))
	require.NoError(t, err)
	log := b.log("feature-1")
	answers, err := json.Marshal([]any{v, history, log, b.eventsOf("feature-1")})
	require.NoError(t, err)
	// The first line that a shell traces comes before anybody knows the value.
	shown := strings.ReplaceAll(string(answers), "URL=postgres://cart:s3cret-word@db", "")
	require.NotContains(t, shown, "s3cret-word")

	var setup []string
	for _, line := range log {
		if line.Instance == "cart--feature-1--1.setup" {
			setup = append(setup, line.Stream+" "+line.Text)
		}
	}
	require.Contains(t, setup, "stdout layover-output: DATABASE_URL=***")
	require.Contains(t, setup, "stdout connecting to ***")
	require.Contains(t, setup, "stderr fine")
	require.True(t, slices.ContainsFunc(log, func(l api.LogLine) bool { return l.Instance == "cart--feature-1--1" }), "the instance has its log as well")
	kept, err := os.ReadDir(filepath.Join(b.dir, "logs"))
	require.NoError(t, err)
	require.Empty(t, kept, "no archive has what a setup wrote")
}

// TestLogsFollowASetup has one who follows read what a setup says, while it runs and behind its end, once each.
func TestLogsFollowASetup(t *testing.T) {
	b := newHooked(t, `echo "layover-output: DATABASE_URL=postgres://s3cret-word"; echo one s3cret; until [ -e $NOTES/go ]; do sleep 0.01; done; echo two postgres://s3cret-word; echo three`, "")
	b.deploy("feature-1", nil)
	logs, err := b.Logs(t.Context(), control.LogQuery{Targets: []control.LogTarget{{Service: "cart", Version: "feature-1"}}, Follow: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, logs.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var said []string
	for len(said) < 4 {
		line, err := logs.Next(ctx)
		require.NoError(t, err, said)
		if line.Instance == "cart--feature-1--1.setup" {
			said = append(said, line.Text)
		}
		if line.Text == "one s3cret" {
			b.let("go")
		}
	}
	require.Equal(t, []string{"layover-output: DATABASE_URL=***", "one s3cret", "two ***", "three"}, said)
	b.wait("feature-1", "to serve", func(v api.Version) bool { return v.State == api.StateRunning })
	b.answer("feature-1")
	quiet, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	for {
		line, err := logs.Next(quiet)
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			break
		}
		require.NotEqual(t, "cart--feature-1--1.setup", line.Instance, "again: "+line.Text)
	}
	last := b.log("feature-1")
	require.True(t, slices.ContainsFunc(last, func(l api.LogLine) bool { return l.Text == "two ***" && l.Version == "feature-1" }), "what is kept is shown, too")
}

func TestSetupThatFails(t *testing.T) {
	b := newHooked(t, countsSetups, `echo "torn $MADE" >>$NOTES/teardowns`)
	b.up("feature-1", map[string]string{"COLOUR": "red"})
	b.hooks(`echo "layover-output: MADE=half"; echo no such table >&2; exit 3`, `echo "torn $MADE" >>$NOTES/teardowns`)
	b.deploy("feature-1", map[string]string{"COLOUR": "blue"})
	v := b.wait("feature-1", "to fail", func(v api.Version) bool { return v.Reason != "" })
	require.Equal(t, api.StateRunning, v.State)
	require.Contains(t, v.Reason, "the setup failed: exited with code 3")
	require.Contains(t, v.LogTail, "no such table")
	require.Equal(t, "red", b.answer("feature-1").Env["COLOUR"], "what served serves on")
	require.Equal(t, 2, b.instanceStarts(), "one instance and its setup before, and nothing behind the setup that failed")
	b.until(func() bool { return b.hasEvent("feature-1", api.EventDeployFailed) }, func() string { return "nobody is told" })

	b.remove("feature-1", false)
	b.gone("feature-1")
	require.Equal(t, []string{"torn", "half"}, b.note("teardowns"), "a setup that half worked is torn down with what it gave")
}

// rawStore opens the store as it is between two servers.
func (b *bench) rawStore(use func(control.Store) error) error {
	db, err := store.OpenSQLite(b.t.Context(), filepath.Join(b.dir, "layover.db"))
	if err != nil {
		return err
	}
	return errors.Join(use(db), db.Close())
}

// instanceStarts counts the starts but for those of the last setup.
func (b *hooked) instanceStarts() int { return b.runtime.started() - 1 }

func TestSetupWithABadOutputFails(t *testing.T) {
	tests := map[string]struct{ line, why string }{
		"no key":        {"layover-output: =x", "KEY=VALUE"},
		"no value":      {"layover-output: KEY", "KEY=VALUE"},
		"a bad key":     {"layover-output: A-B=s3cret-word", "KEY=VALUE"},
		"reserved":      {"layover-output: LAYOVER_VERSION=x", "LAYOVER_VERSION is not a variable that a setup may give"},
		"the port":      {"layover-output: PORT=1", "PORT is not"},
		"the loader's":  {"layover-output: LD_PRELOAD=x", "LD_PRELOAD is not"},
		"a long value":  {"layover-output: A=" + strings.Repeat("x", 9<<10), "more than 8192 bytes"},
		"many together": {manyOutputs(65), "more than 64 variables"},
	}
	b := newHooked(t, "", "")
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			version := strings.ReplaceAll(name, " ", "-")
			version = strings.ReplaceAll(version, "'", "")
			require.NoError(t, os.WriteFile(filepath.Join(b.notes, version), []byte(tt.line+"\n"), 0o600))
			_, err := b.Deploy(t.Context(), key(version), api.Deployment{Overrides: api.Overrides{Setup: b.shell("cat $NOTES/" + version)}})
			require.NoError(t, err)
			v := b.wait(version, "to fail", func(v api.Version) bool { return v.State == api.StateFailed })
			require.Contains(t, v.Reason, tt.why)
			shown, err := json.Marshal([]any{v, b.log(version), b.eventsOf(version)})
			require.NoError(t, err)
			require.NotContains(t, string(shown), "s3cret-word", "what cannot be used is not shown either")
		})
	}
}

func manyOutputs(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "layover-output: V%d=x\n", i)
	}
	return out.String()
}

func TestOutputOfStderrGivesNothing(t *testing.T) {
	b := newHooked(t, `echo "layover-output: COLOUR=red" >&2`, "")
	v := b.up("feature-1", nil)
	require.Empty(t, v.OutputNames)
	require.NotContains(t, b.answer("feature-1").Env, "COLOUR")
}

func TestDeploymentWithoutHooks(t *testing.T) {
	b := newHooked(t, countsSetups, `echo torn >>$NOTES/teardowns`)
	b.up("feature-1", nil)
	off := api.Overrides{Setup: &api.Hook{Off: true}, Teardown: &api.Hook{Off: true}}
	_, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: off})
	require.NoError(t, err)
	b.wait("feature-1", "to serve anew", func(v api.Version) bool { return v.Serving == 2 })
	require.Equal(t, []string{"first-1"}, b.note("setups"))
	require.Equal(t, "postgres://cart:s3cret-1@db/cart_feature_1", b.answer("feature-1").Env["DATABASE_URL"], "what is set up stays")
	b.remove("feature-1", false)
	b.gone("feature-1")
	require.Equal(t, []string{"torn"}, b.note("teardowns"), "and is torn down")
}

func TestSetupThatHangs(t *testing.T) {
	b := newHooked(t, "", "")
	hanging := b.shell(`trap '' TERM; echo $$ >$NOTES/pid; sleep 600 & sleep 600`)
	hanging.Timeout = api.Duration(2 * time.Second)
	_, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: api.Overrides{Setup: hanging}})
	require.NoError(t, err)
	v := b.wait("feature-1", "to fail", func(v api.Version) bool { return v.State == api.StateFailed })
	require.Contains(t, v.Reason, "the setup failed: it did not end within 2s, and was ended")
	pid, err := strconv.Atoi(b.note("pid")[0])
	require.NoError(t, err)
	b.until(func() bool { return errors.Is(syscall.Kill(-pid, 0), syscall.ESRCH) }, func() string { return "something of it still runs" })
}

const waits = `echo $LAYOVER_GENERATION >>$NOTES/begun; while ! test -e $NOTES/go; do sleep 0.02; done; echo $LAYOVER_GENERATION >>$NOTES/ended; echo "layover-output: COLOUR=red"`

func TestSetupGoesOnWhileNoServerIsThere(t *testing.T) {
	for name, endsBetween := range map[string]bool{"and ends with the next one": false, "and ends": true} {
		t.Run(name, func(t *testing.T) {
			b := newHooked(t, waits, "")
			b.deploy("feature-1", nil)
			b.wait("feature-1", "to be set up", func(v api.Version) bool { return v.Reason == "its setup runs" })
			b.until(func() bool { return b.routed("feature-1").Reason == "its setup runs" }, func() string { return "who waits for it does not see that" })
			b.until(func() bool { return len(b.note("begun")) == 1 && b.runtime.cameUp() == 1 }, func() string { return "the setup does not run" })
			b.end()
			if endsBetween {
				b.let("go")
				b.until(func() bool { return len(b.note("ended")) == 1 }, func() string { return "the setup does not end" })
			}
			b.open()
			if !endsBetween {
				b.wait("feature-1", "to be set up still", func(v api.Version) bool { return v.State == api.StateStarting })
				timeToErr()
				require.Equal(t, []string{"1"}, b.note("begun"))
				b.let("go")
			}
			b.wait("feature-1", "to serve", func(v api.Version) bool { return v.State == api.StateRunning })
			require.Equal(t, "red", b.answer("feature-1").Env["COLOUR"])
			require.Equal(t, []string{"1"}, b.note("begun"), "it is not run twice")
			require.False(t, b.hasEvent("feature-1", api.EventOrphanEnded))
		})
	}
}

func TestLaterWishEndsTheSetup(t *testing.T) {
	b := newHooked(t, waits, `echo torn >>$NOTES/teardowns`)
	b.deploy("feature-1", nil)
	b.until(func() bool { return len(b.note("begun")) == 1 }, func() string { return "the setup does not run" })
	b.deploy("feature-1", nil)
	b.until(func() bool { return len(b.note("begun")) == 2 }, func() string { return "the next setup does not run" })
	statuses, err := b.runtime.List(t.Context())
	require.NoError(t, err)
	require.Len(t, statuses, 1, "one is ended before the other is started: %v", statuses)

	b.remove("feature-1", false)
	b.gone("feature-1")
	require.Empty(t, b.note("ended"))
	require.Equal(t, []string{"torn"}, b.note("teardowns"))
}

func TestSetupOfAnotherWishIsEndedByTheNextServer(t *testing.T) {
	b := newHooked(t, waits, `test ! -e $NOTES/running; echo torn-$? >>$NOTES/teardowns`)
	b.hooks(`trap 'sleep 0.1; rm $NOTES/running; exit 1' TERM; touch $NOTES/running; while true; do sleep 0.02; done`, `test ! -e $NOTES/running; echo torn-$? >>$NOTES/teardowns`)
	b.deploy("feature-1", nil)
	b.until(func() bool { _, err := os.Stat(filepath.Join(b.notes, "running")); return err == nil }, func() string { return "the setup does not run" })
	b.end()
	// The wish was recorded, and the server killed before it did anything about it.
	require.NoError(t, b.rawStore(func(s control.Store) error {
		return s.UpdateVersion(t.Context(), key("feature-1"), func(r *control.VersionRecord) (*control.VersionRecord, error) {
			r.Desired = control.DesiredRemoved
			r.Generations[0].State = control.GenerationSuperseded
			return r, nil
		})
	}))
	b.open()
	b.gone("feature-1")
	require.Equal(t, []string{"torn-0"}, b.note("teardowns"), "the teardown runs behind the end of the setup")
}

func TestTeardownThatFails(t *testing.T) {
	b := newHooked(t, countsSetups, `echo $DATABASE_URL >>$NOTES/teardowns; echo server is away; test -e $NOTES/fine || exit 7`)
	b.up("feature-1", nil)
	b.remove("feature-1", false)
	v := b.wait("feature-1", "to fail", func(v api.Version) bool {
		return v.Teardown != nil && v.Teardown.Failure != "" && !v.Teardown.NextTry.IsZero()
	})
	require.Equal(t, api.StateRemoving, v.State)
	require.Contains(t, v.Reason, "the teardown failed: exited with code 7; next try in ")
	require.Empty(t, v.Instances)
	require.Contains(t, b.log("feature-1")[len(b.log("feature-1"))-1].Text, "server is away")
	require.Nil(t, b.routed("feature-1"))
	b.until(func() bool { return b.hasEvent("feature-1", api.EventTeardownFailed) }, func() string { return "nobody is told" })
	require.Equal(t, []string{"postgres://cart:s3cret-1@db/cart_feature_1"}, b.note("teardowns"), "it has what the setup gave")

	_, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{})
	require.Equal(t, api.CodeConflict, control.CodeOf(err))
	require.ErrorContains(t, err, "its teardown is not done: the teardown failed: exited with code 7")
	_, err = b.Stop(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	v, err = b.Version(t.Context(), key("feature-1"))
	require.NoError(t, err)
	require.Equal(t, api.StateRemoving, v.State, "nothing but its end is left for it")

	b.end()
	b.open()
	b.until(func() bool { return len(b.note("teardowns")) >= 2 }, func() string { return "the next server does not try" })
	b.wait("feature-1", "to fail again", func(v api.Version) bool { return v.Teardown != nil && v.Teardown.Tries == 2 })
	b.let("fine")
	b.gone("feature-1") // without anybody asking
	require.Len(t, b.note("teardowns"), 3)
	require.True(t, b.hasEvent("feature-1", api.EventTeardownDone))

	b.up("feature-1", nil)
	require.Equal(t, []string{"first-1", "first-1"}, b.note("setups"), "a new life begins anew")
}

func TestAskingAgainTriesTheTeardownAtOnce(t *testing.T) {
	b := newHooked(t, "", `echo x >>$NOTES/teardowns; test -e $NOTES/fine`)
	b.up("feature-1", nil)
	b.remove("feature-1", false)
	b.wait("feature-1", "to fail", func(v api.Version) bool { return v.Teardown != nil && v.Teardown.Failure != "" })
	b.let("fine")
	b.remove("feature-1", false)
	b.gone("feature-1")
	require.Len(t, b.note("teardowns"), 2)
}

func TestTeardownGivenUp(t *testing.T) {
	for name, script := range map[string]string{
		"that fails": `exit 1`,
		"that runs":  `echo x >>$NOTES/teardowns; sleep 600`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newHooked(t, "", script)
			b.up("feature-1", nil)
			b.remove("feature-1", false)
			b.wait("feature-1", "to be torn down", func(v api.Version) bool {
				return v.State == api.StateRemoving && (v.Teardown.Failure != "" || len(b.note("teardowns")) > 0)
			})
			b.remove("feature-1", true)
			b.gone("feature-1")
			b.until(func() bool { return b.hasEvent("feature-1", api.EventVersionRemoved) }, func() string { return "nobody is told" })
			events := b.eventsOf("feature-1")
			i := slices.IndexFunc(events, func(e api.Event) bool { return e.Type == api.EventTeardownSkipped })
			require.GreaterOrEqual(t, i, 0)
			require.Equal(t, "ben", events[i].Actor)
		})
	}
}

func TestTeardownOfAServerThatWasKilled(t *testing.T) {
	b := newHooked(t, "", `echo x >>$NOTES/begun; while ! test -e $NOTES/go; do sleep 0.02; done; echo x >>$NOTES/ended`)
	b.up("feature-1", nil)
	b.remove("feature-1", false)
	b.until(func() bool { return len(b.note("begun")) == 1 && b.runtime.cameUp() == 2 }, func() string { return "the teardown does not run" })
	b.end()
	b.open()
	b.wait("feature-1", "to be removed still", func(v api.Version) bool { return v.State == api.StateRemoving && v.Reason == "its teardown runs" })
	timeToErr()
	b.let("go")
	b.gone("feature-1")
	require.Equal(t, []string{"x"}, b.note("begun"), "it is not run beside itself")
	require.Equal(t, []string{"x"}, b.note("ended"))
}

func TestFileWaitsForTheRemoval(t *testing.T) {
	b := newHooked(t, "", `test -e $NOTES/fine`)
	b.up("feature-1", nil)
	b.remove("feature-1", false)
	b.wait("feature-1", "to fail", func(v api.Version) bool { return v.Teardown != nil && v.Teardown.Failure != "" })
	wanted := []control.Wanted{{Key: key("feature-1"), Deployment: api.Deployment{Source: "file"}}}
	require.NoError(t, b.Apply(t.Context(), nil, nil, wanted), "one version keeps the others from nothing")
	b.let("fine")
	b.remove("feature-1", false)
	b.wait("feature-1", "to come back", func(v api.Version) bool { return v.State == api.StateRunning && v.Serving == 1 })
	require.True(t, b.hasEvent("feature-1", api.EventVersionRemoved))
}

func TestFileWithAnotherSetupIsDeployed(t *testing.T) {
	b := newHooked(t, countsSetups, "")
	wanted := []control.Wanted{{Key: key("feature-1"), Deployment: api.Deployment{Source: "file"}}}
	require.NoError(t, b.Apply(t.Context(), nil, nil, wanted))
	b.wait("feature-1", "to serve", func(v api.Version) bool { return v.Serving == 1 })
	require.NoError(t, b.Apply(t.Context(), nil, nil, wanted))
	b.hooks(countsSetups+" # changed", "")
	require.NoError(t, b.Apply(t.Context(), nil, nil, wanted))
	b.wait("feature-1", "to serve anew", func(v api.Version) bool { return v.Serving == 2 })
	require.Equal(t, []string{"first-1", "again-2"}, b.note("setups"))
}

func TestHookWithoutItsRuntime(t *testing.T) {
	b := newHooked(t, "", "")
	_, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: api.Overrides{Setup: &api.Hook{Image: "migrate:1"}}})
	require.NoError(t, err)
	v := b.wait("feature-1", "to fail", func(v api.Version) bool { return v.State == api.StateFailed })
	require.Contains(t, v.Reason, errNoDocker.Message)
	require.Equal(t, route.Failed, b.routed("feature-1").State)
}

func TestHooksThatCannotBe(t *testing.T) {
	b := newHooked(t, "", "")
	tests := map[string]struct {
		hook api.Hook
		why  string
	}{
		"nothing to run":          {api.Hook{}, "the setup has nothing to run"},
		"two runtimes":            {api.Hook{Image: "a", Runtime: "process"}, "to run as a process"},
		"no image":                {api.Hook{Command: []string{"a"}, Runtime: "docker"}, "nothing says of which image"},
		"a bad image":             {api.Hook{Image: "A B"}, "is not an image reference"},
		"a relative folder":       {api.Hook{Command: []string{"a"}, Dir: "sub"}, "is not absolute"},
		"a folder in a container": {api.Hook{Image: "a", Dir: "/sub"}, "is for a process"},
		"too long":                {api.Hook{Command: []string{"a"}, Timeout: api.Duration(25 * time.Hour)}, "at most 24h"},
		"a bad variable":          {api.Hook{Command: []string{"a"}, Env: map[string]string{"A B": ""}}, "cannot be the name"},
		"a bad placeholder":       {api.Hook{Command: []string{"{branch}"}}, "unknown placeholder branch"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: api.Overrides{Setup: &tt.hook}})
			require.Equal(t, api.CodeInvalid, control.CodeOf(err))
			require.ErrorContains(t, err, tt.why)
		})
	}
	s := cart()
	s.Teardown = &api.Hook{Runtime: "process"}
	require.ErrorContains(t, b.PutService(t.Context(), s), "the teardown has nothing to run")
}
