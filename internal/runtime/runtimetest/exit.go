package runtimetest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// exitCases are about instances that end by themselves.
func exitCases() map[string]testCase {
	return map[string]testCase{
		"exit is watched and listed": {run: exitWatched, owned: true, exits: true},
		"exit before the watch":      {run: exitBeforeWatch, owned: true, exits: true},
		"exits at once":              {run: exitsAtOnce, owned: true, exits: true},
		"exits after some requests":  {run: exitsAfterRequests, owned: true, exits: true},
		"exit ends what it started":  {run: exitEndsDescendants, owned: true, exits: true},
		"exited is started again":    {run: exitedStartedAgain, owned: true, exits: true},
		"watch ends with its context": {run: func(t *testing.T, s *suite) {
			s.start(t, "cart-1", nil)
			_, stop := watch(t, s.runtime)
			stop()
		}},
	}
}

func exitWatched(t *testing.T, s *suite) {
	changes, _ := watch(t, s.runtime)
	status := s.start(t, "cart-1", nil)
	Ask(t, status.Addresses[0])
	Tell(t, status.Addresses[0], "/exit?code=3")

	seen := awaitExit(t, changes, "cart-1")
	require.Equal(t, 3, seen.ExitCode)
	require.Empty(t, seen.Addresses)
	require.Equal(t, int64(7), seen.Generation)

	listed := s.list(t, s.runtime)["cart-1"]
	require.False(t, listed.Running)
	require.Equal(t, 3, listed.ExitCode)
	require.Empty(t, listed.Addresses)
	s.logged(t, "cart-1", "listening on")

	s.stop(t, "cart-1")
	s.nothingLeft(t)
}

func exitBeforeWatch(t *testing.T, s *suite) {
	s.start(t, "cart-1", map[string]string{"APP_EXIT": "5"})
	s.exited(t, "cart-1")
	status := s.start(t, "cart-2", nil)
	changes, _ := watch(t, s.runtime)
	Ask(t, status.Addresses[0])
	Tell(t, status.Addresses[0], "/exit?code=6")
	require.Equal(t, 6, awaitExit(t, changes, "cart-2").ExitCode)
}

func exitsAtOnce(t *testing.T, s *suite) {
	changes, _ := watch(t, s.runtime)
	s.start(t, "cart-1", map[string]string{"APP_EXIT": "5"})
	require.Equal(t, 5, awaitExit(t, changes, "cart-1").ExitCode)
	require.Equal(t, 5, s.exited(t, "cart-1").ExitCode)
	s.logged(t, "cart-1", "exiting at once with code 5")
}

func exitsAfterRequests(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", map[string]string{"APP_EXIT_AFTER": "2"})
	Ask(t, status.Addresses[0])
	require.True(t, s.list(t, s.runtime)["cart-1"].Running)
	Tell(t, status.Addresses[0], "/")
	require.Equal(t, 4, s.exited(t, "cart-1").ExitCode)
}

func exitEndsDescendants(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", map[string]string{"APP_FORK": "1"})
	Ask(t, status.Addresses[0])
	Tell(t, status.Addresses[0], "/exit?code=0")
	require.Equal(t, 0, s.exited(t, "cart-1").ExitCode)
	s.stop(t, "cart-1")
	s.nothingLeft(t)
}

func exitedStartedAgain(t *testing.T, s *suite) {
	first := s.start(t, "cart-1", map[string]string{"APP_EXIT": "5"})
	s.exited(t, "cart-1")
	changes, _ := watch(t, s.runtime)
	second := s.start(t, "cart-1", nil)
	require.True(t, second.Running)
	require.False(t, second.StartedAt.Before(first.StartedAt))
	Ask(t, second.Addresses[0])
	require.True(t, s.list(t, s.runtime)["cart-1"].Running)

	Tell(t, second.Addresses[0], "/exit?code=6")
	for awaitExit(t, changes, "cart-1").ExitCode != 6 {
		continue // the first exit may be told as well
	}
}
