package runtimetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// lifeCases are about starting and stopping.
func lifeCases() map[string]testCase {
	return map[string]testCase{
		"start answers at its address":           {run: startAnswers},
		"environment arrives":                    {run: environmentArrives, owned: true},
		"steps are told":                         {run: stepsAreTold, owned: true},
		"starting twice gives the same instance": {run: startTwice},
		"starting at once gives one instance":    {run: startAtOnce},
		"many starts in parallel":                {run: manyStarts},
		"stop leaves nothing":                    {run: stopLeavesNothing},
		"stop ends what the app started":         {run: stopEndsDescendants, owned: true},
		"stop of an unknown instance":            {run: stopUnknown},
		"SIGTERM ignored":                        {run: termIgnored, owned: true},
		"never listens":                          {run: neverListens, owned: true},
		"bad run":                                {run: badRun, bad: true},
		"bad identifier":                         {run: badID},
		"port taken":                             {run: portTaken, owned: true, fixedPort: true},
		"start that hangs":                       {run: startHangs, hanging: true},
		"start with an ended context":            {run: startEnded},
		"environments apart":                     {run: environmentsApart},
		"list with an ended context":             {run: listEnded},
	}
}

func startAnswers(t *testing.T, s *suite) {
	before := time.Now().Add(-2 * time.Second)
	status := s.start(t, "cart-1", nil)
	require.True(t, status.Running)
	require.Equal(t, "cart", status.Service)
	require.Equal(t, "pr-1", status.Version)
	require.Equal(t, int64(7), status.Generation)
	require.WithinRange(t, status.StartedAt, before, time.Now().Add(2*time.Second))
	require.NotEmpty(t, status.Addresses)
	Ask(t, status.Addresses[0])

	listed := s.list(t, s.runtime)
	require.Len(t, listed, 1)
	sameStatus(t, status, listed["cart-1"])
}

func environmentArrives(t *testing.T, s *suite) {
	odd := "a=b \"quoted\" $HOME 'é' \n second line"
	status := s.start(t, "cart-1", map[string]string{"SHOP_COLOR": "green", "ODD": odd, "EMPTY": ""})
	answer := Ask(t, status.Addresses[0])
	require.Equal(t, "green", answer.Env["SHOP_COLOR"])
	require.Equal(t, odd, answer.Env["ODD"])
	require.Contains(t, answer.Env, "EMPTY")
	_, port, err := net.SplitHostPort(status.Addresses[0].HostPort)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Env["PORT"])
	if s.FixedPort {
		require.Equal(t, port, answer.Env["PORT"])
	}
}

func stepsAreTold(t *testing.T, s *suite) {
	var steps []api.Step
	_, err := s.runtime.Start(t.Context(), s.workload("cart-1", nil), func(step api.Step, _ string) {
		steps = append(steps, step)
	})
	require.NoError(t, err)
	require.Contains(t, steps, api.StepStart)
}

func startTwice(t *testing.T, s *suite) {
	first := s.start(t, "cart-1", nil)
	second := s.start(t, "cart-1", nil)
	sameStatus(t, first, second)
	require.Len(t, s.list(t, s.runtime), 1)
	if !s.External {
		pid := Ask(t, first.Addresses[0]).PID
		third := s.start(t, "cart-1", nil)
		require.Equal(t, pid, Ask(t, third.Addresses[0]).PID)
	}
}

func startAtOnce(t *testing.T, s *suite) {
	const calls = 4
	var got [calls]control.Status
	var errs [calls]error
	var wait sync.WaitGroup
	for i := range calls {
		wait.Go(func() {
			got[i], errs[i] = s.runtime.Start(t.Context(), s.workload("cart-1", nil), nil)
		})
	}
	wait.Wait()
	for i := range calls {
		require.NoError(t, errs[i])
		sameStatus(t, got[0], got[i])
	}
	require.Len(t, s.list(t, s.runtime), 1)
	Ask(t, got[0].Addresses[0])
}

func manyStarts(t *testing.T, s *suite) {
	const count = 8
	var got [count]control.Status
	var errs [count]error
	var wait sync.WaitGroup
	for i := range count {
		wait.Go(func() {
			id := fmt.Sprintf("cart-%d", i)
			got[i], errs[i] = s.runtime.Start(t.Context(), s.workload(id, map[string]string{"WHO": id}), nil)
		})
	}
	wait.Wait()
	seen := map[string]bool{}
	for i := range count {
		require.NoError(t, errs[i])
		answer := Ask(t, got[i].Addresses[0])
		if s.External {
			continue
		}
		require.Equal(t, got[i].ID, answer.Env["WHO"])
		require.False(t, seen[got[i].Addresses[0].HostPort], "two instances with one address")
		seen[got[i].Addresses[0].HostPort] = true
	}
	require.Len(t, s.list(t, s.runtime), count)

	for i := range count {
		wait.Go(func() { errs[i] = s.runtime.Stop(t.Context(), got[i].ID, 10*time.Second) })
	}
	wait.Wait()
	for i := range count {
		require.NoError(t, errs[i])
	}
	s.nothingLeft(t)
}

func stopLeavesNothing(t *testing.T, s *suite) {
	me := rand.Text()
	status := s.start(t, "cart-1", map[string]string{"WHO": me})
	Ask(t, status.Addresses[0])
	s.stop(t, "cart-1")
	s.nothingLeft(t)
	if !s.External {
		if body, err := get(status.Addresses[0], "/"); err == nil { // the address may be another's by now
			require.NotContains(t, string(body), me, "it still answers")
		}
	}
	s.stop(t, "cart-1")
	_, err := s.runtime.Logs(t.Context(), "cart-1", control.LogOptions{})
	require.ErrorIs(t, err, control.ErrNoInstance)

	again := s.start(t, "cart-1", nil)
	Ask(t, again.Addresses[0])
}

func stopEndsDescendants(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", map[string]string{"APP_FORK": "1"})
	Ask(t, status.Addresses[0])
	s.stop(t, "cart-1")
	s.nothingLeft(t)
}

func stopUnknown(t *testing.T, s *suite) {
	s.stop(t, "never-started")
	s.stop(t, "../escape")
	s.stop(t, "")
	s.nothingLeft(t)
}

func termIgnored(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", map[string]string{"APP_IGNORE_TERM": "1"})
	Ask(t, status.Addresses[0])
	// Docker counts its grace in whole seconds.
	grace := time.Second
	begin := time.Now()
	require.NoError(t, s.runtime.Stop(t.Context(), "cart-1", grace))
	took := time.Since(begin)
	require.GreaterOrEqual(t, took, grace)
	require.Less(t, took, grace+10*time.Second)
	s.nothingLeft(t)
}

func neverListens(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", map[string]string{"APP_LISTEN": "no"})
	require.True(t, status.Running)
	require.NotEmpty(t, status.Addresses)
	s.logged(t, "cart-1", "not listening")
	require.True(t, s.list(t, s.runtime)["cart-1"].Running)
	s.stop(t, "cart-1")
	s.nothingLeft(t)
}

func badRun(t *testing.T, s *suite) {
	for name, run := range s.Bad {
		t.Run(name, func(t *testing.T) {
			w := s.workload("cart-1", nil)
			w.Run = run
			_, err := s.runtime.Start(t.Context(), w, nil)
			requireHint(t, err, api.CodeInvalid, api.CodeNotFound)
			s.nothingLeft(t)
		})
	}
}

func badID(t *testing.T, s *suite) {
	for _, id := range []string{"", ".", "..", "a/b", "../escape", "a\x00b", "-rm"} {
		_, err := s.runtime.Start(t.Context(), s.workload(id, nil), nil)
		require.Error(t, err, "%q", id)
		_, err = s.runtime.Logs(t.Context(), id, control.LogOptions{})
		require.ErrorIs(t, err, control.ErrNoInstance, "%q", id)
	}
	s.nothingLeft(t)
}

func portTaken(t *testing.T, s *suite) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close() //nolint:errcheck // a listener of this test
	w := s.workload("cart-1", nil)
	w.Port = listener.Addr().(*net.TCPAddr).Port
	_, err = s.runtime.Start(t.Context(), w, nil)
	requireHint(t, err, api.CodeConflict, api.CodeInvalid)
	require.ErrorContains(t, err, strconv.Itoa(w.Port))
	s.nothingLeft(t)

	require.NoError(t, listener.Close())
	status, err := s.runtime.Start(t.Context(), w, nil)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(w.Port), Ask(t, status.Addresses[0]).Env["PORT"])
}

func startHangs(t *testing.T, s *suite) {
	runtime, run := s.Hanging(t, s.environment)
	w := s.workload("cart-1", nil)
	w.Run = run
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := runtime.Start(ctx, w, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begin), 10*time.Second)
	s.nothingLeft(t)
}

func startEnded(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.runtime.Start(ctx, s.workload("cart-1", nil), nil)
	require.ErrorIs(t, err, context.Canceled)
	s.nothingLeft(t)
}

func environmentsApart(t *testing.T, s *suite) {
	other := &suite{Harness: s.Harness, environment: s.environment + "x"}
	other.runtime = s.New(t, other.environment)
	t.Cleanup(func() { other.stopAll(t) })

	mine := s.start(t, "cart-1", map[string]string{"WHO": "mine"})
	theirs := other.start(t, "cart-1", map[string]string{"WHO": "theirs"})
	other.start(t, "cart-2", nil)
	require.Len(t, s.list(t, s.runtime), 1)
	require.Len(t, other.list(t, other.runtime), 2)
	if !s.External {
		require.Equal(t, "mine", Ask(t, mine.Addresses[0]).Env["WHO"])
		require.Equal(t, "theirs", Ask(t, theirs.Addresses[0]).Env["WHO"])
	}
	s.stop(t, "cart-2")
	s.stop(t, "cart-1")
	s.nothingLeft(t)
	require.Len(t, other.list(t, other.runtime), 2)
	Ask(t, theirs.Addresses[0])
}

func listEnded(t *testing.T, s *suite) {
	s.start(t, "cart-1", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all, err := s.runtime.List(ctx)
	if err == nil {
		require.Len(t, all, 1, "a part of the instances, and no error")
		return
	}
	require.Empty(t, all)
}

func sameStatus(t *testing.T, want, got control.Status) {
	t.Helper()
	require.True(t, want.StartedAt.Equal(got.StartedAt), "started at %s and %s", want.StartedAt, got.StartedAt)
	want.StartedAt, got.StartedAt = time.Time{}, time.Time{}
	want.Images, want.Base, got.Images, got.Base = nil, nil, nil, nil // a new runtime may have to find out first
	require.Equal(t, want, got)
}

// requireHint requires an error for people: with one of the codes, and a hint.
func requireHint(t *testing.T, err error, codes ...api.Code) {
	t.Helper()
	var told *control.Error
	require.ErrorAs(t, err, &told)
	require.Contains(t, codes, told.Code)
	require.NotEmpty(t, told.Message)
	require.NotEmpty(t, told.Hint)
}
