package runtimetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/control"
)

// adoptCases are about a server that was restarted.
func adoptCases() map[string]testCase {
	return map[string]testCase{
		"adopts what runs":                 {run: adoptsRunning, owned: true},
		"adopts and sees the exit":         {run: adoptsAndSeesExit, owned: true, exits: true},
		"adopts what exited":               {run: adoptsExited, owned: true, exits: true},
		"starting an adopted one again":    {run: startAdopted, owned: true},
		"external ones are started again":  {run: externalStartedAgain, external: true},
		"adopted ones are stopped for all": {run: stoppedForAll, owned: true},
	}
}

func adoptsRunning(t *testing.T, s *suite) {
	before := s.start(t, "cart-1", nil)
	pid := Ask(t, before.Addresses[0]).PID
	s.logged(t, "cart-1", "listening on")

	s.runtime = s.New(t, s.environment)
	after := s.list(t, s.runtime)
	require.Len(t, after, 1)
	sameStatus(t, before, after["cart-1"])
	require.Equal(t, pid, Ask(t, after["cart-1"].Addresses[0]).PID)
	s.logged(t, "cart-1", "listening on")

	s.stop(t, "cart-1")
	s.nothingLeft(t)
}

func adoptsAndSeesExit(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", nil)
	Ask(t, status.Addresses[0])

	s.runtime = s.New(t, s.environment)
	changes, _ := watch(t, s.runtime)
	Tell(t, status.Addresses[0], "/exit?code=9")
	require.Equal(t, 9, awaitExit(t, changes, "cart-1").ExitCode)
	require.Equal(t, 9, s.exited(t, "cart-1").ExitCode)
}

func adoptsExited(t *testing.T, s *suite) {
	s.start(t, "cart-1", map[string]string{"APP_EXIT": "5"})
	before := s.exited(t, "cart-1")

	s.runtime = s.New(t, s.environment)
	sameStatus(t, before, s.list(t, s.runtime)["cart-1"])
	s.logged(t, "cart-1", "exiting at once with code 5")
}

func startAdopted(t *testing.T, s *suite) {
	before := s.start(t, "cart-1", nil)
	pid := Ask(t, before.Addresses[0]).PID

	s.runtime = s.New(t, s.environment)
	after := s.start(t, "cart-1", nil)
	sameStatus(t, before, after)
	require.Equal(t, pid, Ask(t, after.Addresses[0]).PID)
}

func stoppedForAll(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", nil)
	Ask(t, status.Addresses[0])
	other := s.New(t, s.environment)
	s.stop(t, "cart-1")
	require.Empty(t, s.list(t, other))
	_, err := other.Logs(t.Context(), "cart-1", control.LogOptions{})
	require.ErrorIs(t, err, control.ErrNoInstance)
	require.NoError(t, other.Stop(t.Context(), "cart-1", 0))
}

// externalStartedAgain is what becomes of adoption where a runtime forgets:
// nothing is listed, and starting the same again gives the same.
func externalStartedAgain(t *testing.T, s *suite) {
	before := s.start(t, "cart-1", nil)
	s.runtime = s.New(t, s.environment)
	require.Empty(t, s.list(t, s.runtime))
	after := s.start(t, "cart-1", nil)
	require.Equal(t, before.Addresses, after.Addresses)
	Ask(t, after.Addresses[0])
}
