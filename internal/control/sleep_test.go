package control_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

// asleep puts a version to sleep and waits until it has no instance.
func (b *bench) asleep(version string) {
	b.t.Helper()
	_, err := b.Sleep(b.t.Context(), key(version), control.By{Actor: "ana"})
	require.NoError(b.t, err)
	b.wait(version, "to sleep", isAsleep)
}

func isAsleep(v api.Version) bool { return v.State == api.StateAsleep && len(v.Instances) == 0 }

func isRunning(v api.Version) bool { return v.State == api.StateRunning }

func TestASleepingVersionKeepsItsRouteAndWakesOnce(t *testing.T) {
	b := newBench(t)
	before := b.up("feature-1", map[string]string{"COLOUR": "red"})
	b.asleep("feature-1")
	require.Equal(t, route.Asleep, b.routed("feature-1").State)
	require.Empty(t, b.routed("feature-1").Instances)
	b.until(func() bool { return b.hasEvent("feature-1", api.EventVersionAsleep) }, func() string { return "no version.asleep" })
	starts := b.runtime.started()

	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			if _, err := b.Wake(t.Context(), key("feature-1"), control.By{}); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	after := b.wait("feature-1", "to wake", isRunning)
	require.Equal(t, before.Generation, after.Generation, "it is no deployment")
	require.Equal(t, "red", b.answer("feature-1").Env["COLOUR"])
	b.until(func() bool { return b.hasEvent("feature-1", api.EventVersionAwake) }, func() string { return "no version.awake" })
	require.Equal(t, starts+1, b.runtime.started())
	woken := slices.DeleteFunc(b.eventsOf("feature-1"), func(e api.Event) bool { return e.Type != api.EventVersionWaking })
	require.Len(t, woken, 1)
}

func TestSleepOutlivesTheServer(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	b.asleep("feature-1")
	b.end()
	b.open()
	require.Equal(t, route.Asleep, b.routed("feature-1").State)
	require.NoError(t, b.Apply(t.Context(), nil, nil, []control.Wanted{{Key: key("feature-1")}}))
	b.wait("feature-1", "to sleep on", isAsleep)
	_, err := b.Wake(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	b.wait("feature-1", "to wake", isRunning)
}

func TestSleepEndsNoStream(t *testing.T) {
	b := newBench(t)
	s := cart()
	s.Drain = api.Duration(time.Millisecond)
	require.NoError(t, b.PutService(t.Context(), s))
	b.up("feature-1", nil)
	idle := b.plane.makeBusy("cart--feature-1--1")
	_, err := b.Sleep(t.Context(), key("feature-1"), control.By{Actor: "ana"})
	require.NoError(t, err)
	v := b.wait("feature-1", "to begin its sleep", func(v api.Version) bool { return v.State == api.StateAsleep })
	require.Len(t, v.Instances, 1)
	waits := func() bool { return b.plane.waitsWithoutLimit("cart--feature-1--1") }
	b.until(waits, func() string { return "the stream has a time limit, or is not waited for" })
	starts := b.runtime.started()

	// A request that comes meanwhile gets the same instance back.
	pid := v.Instances[0].StartedAt
	_, err = b.Wake(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	v = b.wait("feature-1", "to wake", isRunning)
	require.Equal(t, pid, v.Instances[0].StartedAt)
	back := func() bool { return b.routed("feature-1").State == route.Ready }
	b.until(back, func() string { return "it gets no requests before its stream ends" })
	require.Equal(t, starts, b.runtime.started())

	_, err = b.Sleep(t.Context(), key("feature-1"), control.By{Actor: "ana"})
	require.NoError(t, err)
	b.wait("feature-1", "to begin its sleep", func(v api.Version) bool { return v.State == api.StateAsleep && len(v.Instances) == 1 })
	idle()
	b.wait("feature-1", "to sleep", isAsleep)
}

func TestStoppingOneThatGoesToSleepLeavesLessTime(t *testing.T) {
	b := newBench(t)
	s := cart()
	s.Drain = api.Duration(10 * time.Millisecond)
	require.NoError(t, b.PutService(t.Context(), s))
	b.up("feature-1", nil)
	defer b.plane.makeBusy("cart--feature-1--1")()
	_, err := b.Sleep(t.Context(), key("feature-1"), control.By{Actor: "ana"})
	require.NoError(t, err)
	b.wait("feature-1", "to begin its sleep", func(v api.Version) bool { return v.State == api.StateAsleep })
	_, err = b.Stop(t.Context(), key("feature-1"), control.By{Actor: "ana"})
	require.NoError(t, err)
	b.wait("feature-1", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
}

func TestDeployingOverASleepingVersionDoesNotWakeIt(t *testing.T) {
	b := newBench(t)
	first := b.up("feature-1", nil)
	b.asleep("feature-1")
	starts := b.runtime.started()
	second := b.up("feature-1", map[string]string{"COLOUR": "red"})
	require.Equal(t, first.Generation+1, second.Serving)
	require.Equal(t, starts+1, b.runtime.started(), "the old generation need not run for that")

	b.asleep("feature-1")
	v, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: api.Overrides{Command: []string{"sh", "-c", "exit 7"}}})
	require.NoError(t, err)
	b.wait("feature-1", "to go on with what slept", func(now api.Version) bool {
		return now.Generation == v.Generation && now.Serving == second.Generation && len(now.Instances) == 1 && isRunning(now)
	})
	require.Equal(t, "red", b.answer("feature-1").Env["COLOUR"])
}

func TestAWakeThatFailsSaysWhy(t *testing.T) {
	b := newBench(t)
	fails := t.TempDir() + "/fails"
	v, err := b.Deploy(t.Context(), key("feature-1"), api.Deployment{Overrides: api.Overrides{
		Command: []string{"sh", "-c", `[ ! -e "$FAILS" ] || { echo no database; exit 7; }; exec "$APP"`},
		Env:     map[string]string{"FAILS": fails, "APP": cart().Run.Process.Command[0]},
	}})
	require.NoError(t, err)
	b.wait("feature-1", "to serve", func(now api.Version) bool { return now.Serving == v.Generation && isRunning(now) })
	b.asleep("feature-1")
	touch(t, fails)
	_, err = b.Wake(t.Context(), key("feature-1"), control.By{})
	require.NoError(t, err)
	v = b.wait("feature-1", "to fail", func(v api.Version) bool { return v.State == api.StateFailed })
	require.Contains(t, v.Reason, "exited with code 7")
	require.Contains(t, b.routed("feature-1").Reason, "exited with code 7")
	b.until(func() bool { return b.hasEvent("feature-1", api.EventVersionNotAwake) }, func() string { return "no version.not_awake" })

	_, err = b.Sleep(t.Context(), key("feature-1"), control.By{Actor: "ana"})
	require.NoError(t, err, "one that fails may sleep, to be tried anew")
	b.wait("feature-1", "to sleep", isAsleep)
}

func TestWhatDoesNotSleep(t *testing.T) {
	b := newBench(t)
	b.up("main", nil)
	b.deploy("slow", map[string]string{"APP_LISTEN": "no"})
	b.up("stopped", nil)
	_, err := b.Stop(t.Context(), key("stopped"), control.By{Actor: "ana"})
	require.NoError(t, err)
	for version, says := range map[string]string{
		"main": "default version", "slow": "being deployed", "stopped": "is stopped",
	} {
		_, err := b.Sleep(t.Context(), key(version), control.By{Actor: "ana"})
		require.ErrorContains(t, err, says)
		require.Equal(t, api.CodeConflict, control.CodeOf(err))
	}
	_, err = b.Sleep(t.Context(), key("nothing"), control.By{Actor: "ana"})
	require.Equal(t, api.CodeNotFound, control.CodeOf(err))
	_, err = b.Wake(t.Context(), key("stopped"), control.By{})
	require.Equal(t, api.CodeConflict, control.CodeOf(err))
	_, err = b.Wake(t.Context(), key("nothing"), control.By{})
	require.Equal(t, api.CodeNotFound, control.CodeOf(err))
}
