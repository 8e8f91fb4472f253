// Package runtimetest is the conformance suite of [control.Runtime]: every
// runtime passes [Run]. The instances it starts run the test app in its folder app.
package runtimetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Harness says how the suite makes and uses one kind of runtime. Only New and
// Run are needed; a case that needs a field which is not set is not run.
type Harness struct {
	// New makes a Runtime over an environment. Every call makes a new value, as a
	// server that was restarted does: two values over one environment see the
	// same instances.
	New func(t *testing.T, environment string) control.Runtime

	// Run runs the test app, as built by BuildApp.
	Run api.Run

	// Env is given to every instance beside what a case asks for.
	Env map[string]string

	// Bad are runs that cannot start for a reason that a person can put right, by name.
	Bad map[string]api.Run

	// Hanging makes a runtime, and a run of which Start does not return before ctx ends.
	Hanging func(t *testing.T, environment string) (control.Runtime, api.Run)

	// Leftovers lists what there is of an environment outside the runtime's own
	// memory: processes, containers, files.
	Leftovers func(t *testing.T, environment string) []string

	// External says that the runtime neither starts nor ends what it adopts, and
	// knows its instances only as long as its value lives: there are no exits, no
	// logs and no adoption, and the instances get no environment.
	External bool

	// LogBytes is what the log of an instance of New may have on disk at most.
	LogBytes int64

	// Archive opens the archive that New has in an environment.
	Archive func(t *testing.T, environment string) control.LogArchive

	// OneLog says that the log has both streams in one, and does not tell them apart.
	OneLog bool

	// Restarts says that what ends is run again by what the runtime runs it with, so that no instance exits.
	Restarts bool

	// FixedPort says that Workload.Port takes a port of this machine.
	FixedPort bool
}

// Run runs the suite, each case in an environment of its own.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for name, c := range cases() {
		if reason := c.beside(h); reason != "" {
			t.Logf("%s is beside the point: %s", name, reason)
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := &suite{Harness: h, environment: "suite-" + strings.ToLower(rand.Text()[:8])}
			s.runtime = h.New(t, s.environment)
			t.Cleanup(func() { s.stopAll(t) })
			c.run(t, s)
		})
	}
}

// testCase is one case of the suite, with what it needs of a runtime.
type testCase struct {
	run       func(t *testing.T, s *suite)
	owned     bool // the runtime starts and ends the app itself
	external  bool // somebody else does
	bad       bool
	hanging   bool
	fixedPort bool
	archive   bool
	exits     bool // its end is seen
	bounded   bool // there is a bound for the log of what runs
}

func cases() map[string]testCase {
	all := map[string]testCase{}
	maps.Copy(all, lifeCases())
	maps.Copy(all, exitCases())
	maps.Copy(all, adoptCases())
	maps.Copy(all, logCases())
	maps.Copy(all, hookCases())
	return all
}

// beside says why a case is not one for this kind of runtime, or "".
func (c testCase) beside(h Harness) string {
	switch {
	case c.owned && h.External:
		return "somebody else runs the instances"
	case c.external && !h.External:
		return "this runtime adopts"
	case c.bad && len(h.Bad) == 0:
		return "no runs that cannot start"
	case c.hanging && h.Hanging == nil:
		return "no start that hangs"
	case c.archive && h.Archive == nil:
		return "nothing is kept of ended instances"
	case c.exits && h.Restarts:
		return "what ends is run again"
	case c.bounded && h.LogBytes == 0:
		return "the log of what runs is kept elsewhere"
	case c.fixedPort && !h.FixedPort:
		return "ports are not of this machine"
	}
	return ""
}

// suite is the environment of one case.
type suite struct {
	Harness
	environment string
	runtime     control.Runtime
}

// workload is the app under an ID, told by env how to behave.
func (s *suite) workload(id string, env map[string]string) control.Workload {
	all := maps.Clone(s.Env)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, env)
	return control.Workload{
		ID: id, Environment: s.environment, Service: "cart", Version: "pr-1", Generation: 7,
		Run: s.Run, Grace: time.Second, Env: all,
	}
}

func (s *suite) start(t *testing.T, id string, env map[string]string) control.Status {
	t.Helper()
	status, err := s.runtime.Start(t.Context(), s.workload(id, env), nil)
	require.NoError(t, err)
	require.Equal(t, id, status.ID)
	return status
}

func (s *suite) stop(t *testing.T, id string) {
	t.Helper()
	require.NoError(t, s.runtime.Stop(t.Context(), id, 10*time.Second))
}

// list returns the instances by ID.
func (s *suite) list(t *testing.T, runtime control.Runtime) map[string]control.Status {
	t.Helper()
	all, err := runtime.List(t.Context())
	require.NoError(t, err)
	byID := map[string]control.Status{}
	for _, status := range all {
		require.NotContains(t, byID, status.ID, "listed twice")
		byID[status.ID] = status
	}
	return byID
}

// exited waits until List shows that an instance has exited.
func (s *suite) exited(t *testing.T, id string) control.Status {
	t.Helper()
	var status control.Status
	eventually(t, id+" to exit", func() error {
		var ok bool
		if status, ok = s.list(t, s.runtime)[id]; !ok {
			return fmt.Errorf("%s is not listed", id)
		}
		if status.Running {
			return fmt.Errorf("%s still runs", id)
		}
		return nil
	})
	return status
}

// nothingLeft requires that there is nothing of the environment any more.
func (s *suite) nothingLeft(t *testing.T) {
	t.Helper()
	require.Empty(t, s.list(t, s.runtime))
	s.tidied(t)
}

// tidied waits until a runtime that asks others for it has taken away what its instances were made from.
func (s *suite) tidied(t *testing.T) {
	t.Helper()
	if s.Leftovers == nil {
		return
	}
	var left []string
	require.Eventually(t, func() bool {
		_, _ = s.runtime.List(context.WithoutCancel(t.Context())) // which looks after what was left
		left = s.Leftovers(t, s.environment)
		return len(left) == 0
	}, 30*time.Second, 20*time.Millisecond, "it is not tidied up")
	require.Empty(t, left)
}

func (s *suite) stopAll(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	all, err := s.runtime.List(ctx)
	require.NoError(t, err)
	for _, status := range all {
		require.NoError(t, s.runtime.Stop(ctx, status.ID, 0))
	}
	s.tidied(t)
}

// watch watches a runtime until t ends or stop is called, and gives what it reports.
func watch(t *testing.T, runtime control.Runtime) (changes <-chan control.Status, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reported := make(chan control.Status, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- runtime.Watch(ctx, func(status control.Status) { reported <- status })
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				require.ErrorIs(t, err, context.Canceled)
			}
		case <-time.After(10 * time.Second):
			require.FailNow(t, "Watch goes on after its context ended")
		}
	}
	t.Cleanup(stop)
	return reported, stop
}

// awaitExit waits until Watch reports that an instance exited.
func awaitExit(t *testing.T, changes <-chan control.Status, id string) control.Status {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case status := <-changes:
			if status.ID == id && !status.Running {
				return status
			}
		case <-timeout:
			require.FailNow(t, "Watch did not report the exit of "+id)
		}
	}
}
