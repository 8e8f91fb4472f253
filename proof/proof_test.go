package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
	"github.com/layover-dev/layover/internal/runtime/process"
)

func TestMain(m *testing.M) {
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

func TestKill(t *testing.T) {
	r, err := kill(t.Context(), 3)
	require.NoError(t, err)
	require.Contains(t, r.figure, ": 0 faults")
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

func TestResolveAllocatesNothing(t *testing.T) {
	table, err := route.Compile(routetest.Spec(routetest.Shape(10_000)))
	require.NoError(t, err)
	require.Zero(t, allocsPerResolve(table))
}

func TestUnknownPromise(t *testing.T) {
	require.Equal(t, 2, run(t.Context(), []string{"perpetual-motion"}))
	require.Equal(t, 0, run(t.Context(), nil))
}
