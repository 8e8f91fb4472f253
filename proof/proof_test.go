package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/bench/harness"
	fp "github.com/layover-dev/layover/internal/failpoint"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
	"github.com/layover-dev/layover/internal/runtime/process"
)

func TestMain(m *testing.M) {
	if code, ok := harness.Role(); ok {
		os.Exit(code)
	}
	if code, ok := process.Supervise(os.Args); ok {
		os.Exit(code)
	}
	if code, ok := backend(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// The proofs without their figures: a machine that is busy must not fail a test.

func TestDeployTime(t *testing.T) {
	r, err := deployTime(t.Context(), 1)
	require.NoError(t, err)
	t.Log(r.figure)
}

func TestWake(t *testing.T) {
	r, err := wake(t.Context(), 1)
	require.NoError(t, err)
	require.Contains(t, r.figure, "1 start and 50 answers from it each")
	t.Log(r.figure)
}

func TestECSChurn(t *testing.T) {
	r, err := ecsChurn(t.Context(), churnSmall())
	require.NoError(t, err)
	require.Regexp(t, ` 0 wrong, [0-2] failed.* 0 routes lost`, r.figure) // beside all other tests one may take too long; the proof wants none
	t.Log(r.figure)
}

func TestXRay(t *testing.T) {
	r, err := xrayProof(t.Context(), xraySmall())
	require.NoError(t, err)
	require.True(t, r.ok, r.figure)
}

func TestLabelLeak(t *testing.T) {
	r, err := labelLeak(t.Context(), leakSmall())
	require.NoError(t, err)
	require.Contains(t, r.figure, "60 versions were created, called and removed 0 have any left")
	t.Log(r.figure)
}

func TestHealing(t *testing.T) {
	r, err := healing(t.Context(), healingSmall(), route.HealOn)
	require.NoError(t, err)
	require.Contains(t, r.figure, "0 not though trace or origin survived; 0 by a wrong version; 0 failed")
	t.Log(r.figure)
	r, err = healing(t.Context(), healingSmall(), route.HealWarn)
	require.NoError(t, err)
	require.False(t, r.ok, "without healing it fails")
}

func TestSleepers(t *testing.T) {
	needsLinux(t)
	r, err := sleepers(t.Context(), sleeperPlan{100, 1000, time.Second})
	require.NoError(t, err)
	require.Contains(t, r.figure, "100 asleep")
	t.Log(r.figure)
}

func TestRunning(t *testing.T) {
	needsLinux(t)
	r, err := running(t.Context(), runningPlan{100, 5, 6 * time.Second})
	require.NoError(t, err)
	require.Contains(t, r.figure, "105 running")
	require.Contains(t, r.figure, "0 of 200 answers by a wrong version")
	t.Log(r.figure)
}

func TestKill(t *testing.T) {
	r, err := kill(t.Context(), 3)
	require.NoError(t, err)
	require.Contains(t, r.figure, ": 0 faults")
}

func TestCrashMatrix(t *testing.T) {
	r, err := crashMatrix(t.Context(), crashSmall())
	require.NoError(t, err)
	t.Log(r.figure)
	require.True(t, r.ok, r.figure)
}

// TestCrashMatrixCanFail holds that the proof sees a process that nobody knows.
func TestCrashMatrixCanFail(t *testing.T) {
	plan := crashSmall()
	plan.workers, plan.sabotage = 1, true
	plan.cases = func(bool) []crashCase {
		return []crashCase{{what: "deploy", runtime: api.RuntimeProcess, point: fp.DeployRecorded}}
	}
	r, err := crashMatrix(t.Context(), plan)
	require.NoError(t, err)
	require.Contains(t, r.figure, "0 converged, 1 orphans")
}

func TestInterop(t *testing.T) {
	passed, failures, err := interopAll(t.Context(), interopRounds()[:2])
	require.NoError(t, err)
	require.Empty(t, failures)
	require.Equal(t, 2*len(interopCases())-1, passed)
}

func TestNoLoss(t *testing.T) {
	r, err := noLoss(t.Context(), noLossSmall())
	require.NoError(t, err)
	t.Log(r.figure)
	require.True(t, r.ok, r.figure)
}

// TestNoLossCanFail holds that the proof sees losses: the proxy is killed instead of handed over.
func TestNoLossCanFail(t *testing.T) {
	plan := noLossSmall()
	plan.sabotage = true
	r, err := noLoss(t.Context(), plan)
	require.NoError(t, err)
	t.Log(r.figure)
	require.False(t, r.ok, r.figure)
}

func TestReplace(t *testing.T) {
	r, err := replace(t.Context(), replaceSmall())
	require.NoError(t, err)
	t.Log(r.figure)
	require.True(t, r.ok, r.figure)
}

// TestReplaceCanFail holds that the proof sees a bad build that gets requests.
func TestReplaceCanFail(t *testing.T) {
	plan := replaceSmall()
	plan.rounds, plan.sabotage = 2, true
	r, err := replace(t.Context(), plan)
	require.NoError(t, err)
	t.Log(r.figure)
	require.False(t, r.ok, r.figure)
	require.NotContains(t, r.figure, " 0 wrong version")
}

func TestResolveAllocatesNothing(t *testing.T) {
	table, err := route.Compile(routetest.Spec(routetest.Shape(10_000)))
	require.NoError(t, err)
	require.Zero(t, allocsPerResolve(table))
}

func TestStreams(t *testing.T) {
	needsLinux(t)
	r, err := streams(t.Context(), 16<<20, harness.Layover{})
	require.NoError(t, err)
	require.Contains(t, r.figure, "whole and in order")
}

func TestSlowloris(t *testing.T) {
	needsLinux(t)
	r, err := slowloris(t.Context(), 300, 3*time.Second, harness.Layover{})
	require.NoError(t, err)
	require.Regexp(t, `^0 of \d+ normal requests failed beside [3-9]\d\d slow connections`, r.figure)
}

func TestUnknownPromise(t *testing.T) {
	require.Equal(t, 2, run(t.Context(), []string{"perpetual-motion"}))
	require.Equal(t, 0, run(t.Context(), nil))
}

func needsLinux(t *testing.T) {
	t.Helper()
	if err := harness.Supported(); err != nil {
		t.Skip(err)
	}
}

func TestECSLatency(t *testing.T) {
	r, err := ecsLatency(t.Context(), latencySmall())
	require.NoError(t, err)
	t.Log(r.figure)
}

// TestECSLatencyCanFail holds that the proof sees that events do not come.
func TestECSLatencyCanFail(t *testing.T) {
	plan := latencySmall()
	plan.sabotage = true
	r, err := ecsLatency(t.Context(), plan)
	require.NoError(t, err)
	t.Log(r.figure)
	require.False(t, r.ok, r.figure)
}

func TestNotExercised(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := notExercised(t.Context(), "1")
	require.NoError(t, err)
	require.True(t, r.ok, r.figure)
}

// TestNotExercisedCanFail holds that the proof sees that nothing loses the route.
func TestNotExercisedCanFail(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := notExercised(t.Context(), "")
	require.NoError(t, err)
	require.False(t, r.ok, r.figure)
}

func TestVerdicts(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := verdicts(t.Context(), verdictsSmall())
	require.NoError(t, err)
	t.Log(r.figure) // of so few cases one flaky one more or less decides
	require.Contains(t, r.figure, "yours 2 of 2, main is broken 2 of 2, theirs 2 of 2, only together 2 of 2")
}

// TestVerdictsCanFail holds that the proof sees a bug that is not where it is said to be.
func TestVerdictsCanFail(t *testing.T) {
	t.Parallel() // it waits most of the time
	plan := verdictsSmall()
	plan.sabotage = true
	r, err := verdicts(t.Context(), plan)
	require.NoError(t, err)
	require.False(t, r.ok, r.figure)
}

func TestParallelRuns(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := parallelRuns(t.Context(), parallelSmall())
	require.NoError(t, err)
	require.Contains(t, r.figure, "200 requests of 5 runs at once: 0 runs got an answer that was not theirs, 0 requests are in the receipts")
}

// TestParallelRunsCanFail holds that the proof sees an answer that was meant for another run.
func TestParallelRunsCanFail(t *testing.T) {
	t.Parallel() // it waits most of the time
	plan := parallelSmall()
	plan.sabotage = true
	r, err := parallelRuns(t.Context(), plan)
	require.NoError(t, err)
	require.False(t, r.ok, r.figure)
}

func TestRunners(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := runnersProof(t.Context(), "feature")
	require.NoError(t, err)
	t.Log(r.figure)
	require.NotContains(t, r.figure, "missed")
}

// TestRunnersCanFail holds that the proof sees requests that carry no route.
func TestRunnersCanFail(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := runnersProof(t.Context(), "")
	require.NoError(t, err)
	require.False(t, r.ok, r.figure)
	require.Contains(t, r.figure, "missed")
}

func TestCIJourney(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := ciJourney(t.Context(), false)
	require.NoError(t, err)
	require.True(t, r.ok, r.figure)
}

// TestCIJourneyCanFail holds that the proof sees what is left where no webhook comes.
func TestCIJourneyCanFail(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := ciJourney(t.Context(), true)
	require.NoError(t, err)
	require.False(t, r.ok, r.figure)
}

func TestWebhookFuzz(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := webhookFuzz(t.Context(), 100, false)
	require.NoError(t, err)
	require.True(t, r.ok, r.figure)
}

// TestWebhookFuzzCanFail holds that the proof sees a version that is lost.
func TestWebhookFuzzCanFail(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, err := webhookFuzz(t.Context(), 100, true)
	require.NoError(t, err)
	require.False(t, r.ok, r.figure)
}
