package control_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

// upWith deploys a version with that many instances, and waits until all of them serve.
func (b *bench) upWith(version string, replicas int, env map[string]string) api.Version {
	b.t.Helper()
	v, err := b.Deploy(b.t.Context(), key(version), api.Deployment{Overrides: api.Overrides{Env: env, Replicas: replicas}, Owner: "ana"})
	require.NoError(b.t, err)
	return b.full(version, v.Generation, replicas)
}

// full waits until a generation serves with that many healthy instances, and no others are left.
func (b *bench) full(version string, generation int64, replicas int) api.Version {
	b.t.Helper()
	return b.wait(version, fmt.Sprintf("to have %d instances of generation %d", replicas, generation), func(v api.Version) bool {
		return v.State == api.StateRunning && v.Serving == generation && v.Healthy == replicas && len(v.Instances) == replicas &&
			len(b.routed(version).Instances) == replicas
	})
}

// pids asks each instance of a version in the table who it is.
func (b *bench) pids(version string) map[int]string {
	b.t.Helper()
	out := map[int]string{}
	for _, i := range b.routed(version).Instances {
		out[runtimetest.Ask(b.t, control.Address{HostPort: i.Address}).PID] = i.ID
	}
	return out
}

func TestReplicasAreRoutedEach(t *testing.T) {
	b := newBench(t)
	v := b.upWith("main", 3, nil)
	require.Equal(t, 3, v.Replicas)
	require.Len(t, b.pids("main"), 3, "three processes")
	require.Equal(t, []string{"cart--main--1", "cart--main--1.2", "cart--main--1.3"}, slices.Sorted(maps.Values(b.pids("main"))))
}

func TestReplicaThatDiesIsReplacedAlone(t *testing.T) {
	b := newBench(t)
	b.upWith("main", 3, nil)
	before := b.pids("main")
	tablesBefore := len(b.plane.tables)
	for pid, id := range before {
		if id == "cart--main--1.2" {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	b.until(func() bool { return b.hasEvent("main", api.EventInstanceExited) }, func() string { return "nobody saw it end" })
	v := b.full("main", 1, 3)
	require.Empty(t, v.Reason)
	after := b.pids("main")
	kept := 0
	for pid, id := range before {
		if after[pid] == id {
			kept++
		}
	}
	require.Equal(t, 2, kept, "the others are the same processes")
	b.plane.mu.Lock()
	defer b.plane.mu.Unlock()
	for _, table := range b.plane.tables[tablesBefore:] {
		entry := table.Service("cart").Version("main")
		require.Equal(t, route.Ready, entry.State, "one instance less is no reason to hold requests")
		require.GreaterOrEqual(t, len(entry.Instances), 2)
	}
}

func TestReplicasReplaceReplicasInOneTable(t *testing.T) {
	b := newBench(t)
	b.upWith("main", 3, map[string]string{"COLOUR": "red"})
	tablesBefore := len(b.plane.tables)
	b.upWith("main", 3, map[string]string{"COLOUR": "blue"})
	b.plane.mu.Lock()
	defer b.plane.mu.Unlock()
	for _, table := range b.plane.tables[tablesBefore:] {
		entry := table.Service("cart").Version("main")
		require.Equal(t, route.Ready, entry.State)
		require.Len(t, entry.Instances, 3, "never fewer, never both generations")
		for _, i := range entry.Instances {
			require.Equal(t, entry.Instances[0].ID[:len("cart--main--1")], i.ID[:len("cart--main--1")])
		}
	}
}

func TestOneBadReplicaFailsAReplacement(t *testing.T) {
	b := newBench(t)
	b.upWith("main", 2, map[string]string{"COLOUR": "red"})
	before := b.pids("main")
	_, err := b.Deploy(t.Context(), key("main"), api.Deployment{Overrides: api.Overrides{Env: map[string]string{"APP_EXIT": "3"}, Replicas: 2}})
	require.NoError(t, err)
	v := b.wait("main", "to say why", func(v api.Version) bool { return v.Reason != "" && len(v.Instances) == 2 })
	require.Equal(t, api.StateRunning, v.State)
	require.Contains(t, v.Reason, "code 3")
	require.Equal(t, before, b.pids("main"), "what served serves on")
}

func TestScale(t *testing.T) {
	b := newBench(t)
	b.up("main", map[string]string{"COLOUR": "red"})
	first := b.answer("main").PID
	_, err := b.Scale(t.Context(), key("main"), 3, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.full("main", 1, 3)
	require.Contains(t, b.pids("main"), first, "what there was stays")
	require.True(t, b.hasEvent("main", api.EventVersionScaled))

	_, err = b.Scale(t.Context(), key("main"), 1, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.full("main", 1, 1)
	require.Equal(t, first, b.answer("main").PID)

	_, err = b.Scale(t.Context(), key("main"), 2, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.full("main", 1, 2)
	require.Equal(t, []string{"cart--main--1", "cart--main--1.4"}, slices.Sorted(maps.Values(b.pids("main"))), "no name is used twice")

	v := b.deploy("main", map[string]string{"COLOUR": "blue"})
	b.full("main", v.Generation, 2)
	b.end()
	b.open()
	b.full("main", v.Generation, 2)
	require.Zero(t, b.runtime.started(), "both are found again")
}

func TestScaleWhileItComesUp(t *testing.T) {
	b := newBench(t)
	b.deploy("main", nil)
	_, err := b.Scale(t.Context(), key("main"), 3, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.full("main", 1, 3)
}

func TestScaleOfAStoppedVersionIsForItsNextStart(t *testing.T) {
	b := newBench(t)
	b.up("main", nil)
	_, err := b.Stop(t.Context(), key("main"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("main", "to stop", func(v api.Version) bool { return v.State == api.StateStopped })
	v, err := b.Scale(t.Context(), key("main"), 2, control.By{Actor: "ben"})
	require.NoError(t, err)
	require.Equal(t, api.StateStopped, v.State)
	v, err = b.Start(t.Context(), key("main"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.full("main", v.Generation, 2)
	_, err = b.Stop(t.Context(), key("main"), control.By{Actor: "ben"})
	require.NoError(t, err)
	b.wait("main", "to stop", func(v api.Version) bool { return v.State == api.StateStopped && len(v.Instances) == 0 })
}

func TestReplicasThatCannotBe(t *testing.T) {
	b := newBench(t)
	b.up("main", nil)
	external := api.Overrides{URL: "http://127.0.0.1:1", Replicas: 2}
	for name, d := range map[string]api.Deployment{
		"external":   {Overrides: external},
		"fixed port": {Overrides: api.Overrides{Port: 12345, Replicas: 2}},
		"too many":   {Overrides: api.Overrides{Replicas: 101}},
	} {
		_, err := b.Deploy(t.Context(), key("main"), d)
		require.Equal(t, api.CodeInvalid, control.CodeOf(err), name)
	}
	for _, n := range []int{0, -1, 101} {
		_, err := b.Scale(t.Context(), key("main"), n, control.By{})
		require.Equal(t, api.CodeInvalid, control.CodeOf(err), n)
	}
	_, err := b.Scale(t.Context(), key("nobody"), 2, control.By{})
	require.Equal(t, api.CodeNotFound, control.CodeOf(err))
	v, err := b.Version(t.Context(), key("main"))
	require.NoError(t, err)
	require.Equal(t, int64(1), v.Generation, "nothing was recorded")

	s := cart()
	s.Replicas = 2 // is not meant for an address that somebody else runs
	require.NoError(t, b.PutService(t.Context(), s))
	v, err = b.Deploy(t.Context(), key("adopted"), api.Deployment{Overrides: api.Overrides{URL: "http://127.0.0.1:1"}})
	require.NoError(t, err)
	require.Equal(t, 1, v.Replicas)
}

func TestFileSaysHowManyReplicas(t *testing.T) {
	b := newBench(t)
	wanted := []control.Wanted{{Key: key("main"), Deployment: api.Deployment{Overrides: api.Overrides{Replicas: 2}}}}
	require.NoError(t, b.Apply(t.Context(), []api.Service{cart()}, nil, wanted))
	b.full("main", 1, 2)
	wanted[0].Deployment.Replicas = 3
	require.NoError(t, b.Apply(t.Context(), []api.Service{cart()}, nil, wanted))
	b.full("main", 1, 3)
	_, err := b.Scale(t.Context(), key("main"), 1, control.By{Actor: "ben"})
	require.NoError(t, err)
	b.full("main", 1, 1)
	wanted[0].Deployment.Replicas = 0
	require.NoError(t, b.Apply(t.Context(), []api.Service{cart()}, nil, wanted))
	b.full("main", 1, 1)
	wanted[0].Deployment.Replicas = 2
	require.NoError(t, b.Apply(t.Context(), []api.Service{cart()}, nil, wanted))
	b.full("main", 1, 2)
	require.Equal(t, 1, b.generation("main"), "nothing was deployed anew")
}

func (b *bench) generation(version string) int {
	v, err := b.Version(b.t.Context(), key(version))
	require.NoError(b.t, err)
	return int(v.Generation)
}

func TestLogsOfAllReplicas(t *testing.T) {
	b := newBench(t)
	b.upWith("main", 2, map[string]string{"APP_LOG_LINES": "20"})
	logs, err := b.Logs(t.Context(), logsOf("main"))
	require.NoError(t, err)
	lines, last := map[string]int{}, api.LogLine{}
	for {
		line, err := logs.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.False(t, line.Time.Before(last.Time), "in the order of their times")
		lines[line.Instance]++
		last = line
	}
	require.NoError(t, logs.Close())
	require.GreaterOrEqual(t, lines["cart--main--1"], 20)
	require.GreaterOrEqual(t, lines["cart--main--1.2"], 20)

	q := logsOf("main")
	q.Follow = true
	logs, err = b.Logs(t.Context(), q)
	require.NoError(t, err)
	seen := map[string]bool{}
	for len(seen) < 2 {
		line, err := logs.Next(t.Context())
		require.NoError(t, err)
		seen[line.Instance] = true
	}
	require.NoError(t, logs.Close(), "also while it follows")
}
