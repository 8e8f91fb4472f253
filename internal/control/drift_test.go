package control_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

const ghostID = "cart--ghost--1"

// ghost starts an instance of a version that nobody knows.
func (b *bench) ghost() {
	b.t.Helper()
	_, err := b.runtime.Start(b.t.Context(), control.Workload{
		ID: ghostID, Environment: "test", Service: "cart", Version: "ghost", Generation: 1,
		Run: cart().Run, Env: map[string]string{"APP_HOST": "127.0.0.1"},
	}, nil)
	require.NoError(b.t, err)
}

func (b *bench) drift() []api.Drift {
	b.t.Helper()
	drift, err := b.Drift(b.t.Context())
	require.NoError(b.t, err)
	return drift
}

func TestRuntimeThatGivesHalfAList(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	b.up("feature-2", nil)
	pid := b.answer("feature-1").PID
	tablesBefore := len(b.plane.tables)
	listed := b.runtime.hide("cart--feature-1--1")
	b.until(func() bool { return listed() >= 5 }, func() string { return "nobody lists the runtime" })
	require.Equal(t, pid, b.answer("feature-1").PID)
	require.Equal(t, 2, b.runtime.started(), "what answers is not started again")
	require.False(t, b.hasEvent("feature-1", api.EventInstanceExited))
	b.plane.mu.Lock()
	for _, table := range b.plane.tables[tablesBefore:] {
		require.Equal(t, route.Ready, table.Service("cart").Version("feature-1").State, "no route is removed")
	}
	b.plane.mu.Unlock()

	// What it hides, and what is gone in fact, is started again.
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	b.until(func() bool { return b.hasEvent("feature-1", api.EventInstanceExited) }, func() string { return "nobody saw it end" })
	b.wait("feature-1", "to be started again", func(v api.Version) bool { return v.State == api.StateRunning && b.runtime.started() == 3 })
	require.NotEqual(t, pid, b.answer("feature-1").PID)
}

func TestInstanceThatSomebodyElseRemovedIsStartedAgain(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	pid := b.answer("feature-1").PID
	require.NoError(t, b.runtime.Runtime.Stop(t.Context(), "cart--feature-1--1", time.Second))
	b.until(func() bool { return b.hasEvent("feature-1", api.EventInstanceExited) }, func() string { return "nobody saw it go" })
	b.wait("feature-1", "to be started again", func(v api.Version) bool { return v.State == api.StateRunning && b.runtime.started() >= 2 })
	require.NotEqual(t, pid, b.answer("feature-1").PID)
}

func TestOrphanIsReportedAndKeptForAWhile(t *testing.T) {
	b := newBench(t)
	b.end()
	b.orphans = time.Hour
	b.open()
	b.ghost()
	b.until(func() bool { return b.hasEvent("ghost", api.EventOrphanFound) }, func() string { return "nobody tells of it" })
	drift := b.drift()
	require.Len(t, drift, 1)
	require.Equal(t, ghostID, drift[0].Instance)
	require.False(t, drift[0].Wanted)
	require.Equal(t, api.HasRunning, drift[0].Has)
	require.Greater(t, time.Until(drift[0].RemoveAt), 50*time.Minute)

	left, err := b.Collect(t.Context(), true)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.False(t, left[0].Removed)
	require.True(t, b.runs(ghostID), "a dry run removes nothing")
	require.False(t, b.hasEvent("ghost", api.EventOrphanEnded))

	b.runtime.breakList(errors.New("half of it is missing"))
	left, err = b.Collect(t.Context(), false)
	require.NoError(t, err)
	require.True(t, b.runs(ghostID), "of a runtime that does not answer nothing is removed")
	require.False(t, slices.ContainsFunc(left, func(d api.Drift) bool { return d.Removed }))
	b.runtime.breakList(nil)

	left, err = b.Collect(t.Context(), false)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.True(t, left[0].Removed, left[0].Message)
	require.False(t, b.runs(ghostID))
	require.True(t, b.hasEvent("ghost", api.EventOrphanEnded))
	b.until(func() bool { return len(b.drift()) == 0 }, func() string { return "it is still reported" })
}

func TestOrphanThatGetsARecordIsNone(t *testing.T) {
	b := newBench(t)
	b.end()
	b.orphans = time.Hour
	b.open()
	b.ghost()
	b.until(func() bool { return len(b.drift()) == 1 }, func() string { return "nobody tells of it" })
	b.up("ghost", nil) // takes over the instance of that very name, or replaces it
	b.until(func() bool { return len(b.drift()) == 0 }, func() string { return "it is still reported" })
}

func TestDriftTellsOfWhatIsMissing(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	require.Empty(t, b.drift())
	s := cart()
	s.Run.Process.Command = []string{"/bin/sh", "-c", "exit 3"}
	require.NoError(t, b.PutService(t.Context(), s))
	_, err := b.Deploy(t.Context(), key("feature-2"), api.Deployment{Timeout: api.Duration(time.Minute)})
	require.NoError(t, err)
	b.wait("feature-2", "to fail", func(v api.Version) bool { return v.State == api.StateFailed && len(v.Instances) == 0 })
	require.Empty(t, b.drift(), "what failed is not wanted")

	require.NoError(t, syscall.Kill(b.answer("feature-1").PID, syscall.SIGKILL))
	b.runtime.breakStart(errors.New("no memory"))
	b.until(func() bool {
		drift := b.drift()
		return len(drift) == 1 && drift[0].Wanted && drift[0].Has != api.HasRunning && strings.HasPrefix(drift[0].Message, "no memory; started again") && strings.Contains(drift[0].Message, "; next try in ")
	}, func() string { return fmt.Sprintf("it says %+v", b.drift()) })
	b.runtime.breakStart(nil)
	b.until(func() bool { return len(b.drift()) == 0 }, func() string { return fmt.Sprintf("it says %+v", b.drift()) })

	b.runtime.breakList(errors.New("throttled"))
	b.until(func() bool {
		return slices.ContainsFunc(b.drift(), func(d api.Drift) bool { return d.Has == api.HasUnknown && d.Runtime == api.RuntimeProcess })
	}, func() string { return "nobody tells that the runtime does not answer" })
}
