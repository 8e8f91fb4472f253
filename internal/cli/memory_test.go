package cli

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/telemetry/receiver"
)

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	t.Setenv("GOMEMLIMIT", "") // to be put back
	require.NoError(t, os.Unsetenv("GOMEMLIMIT"))
	log := slog.New(slog.DiscardHandler)

	limitMemory(log, memlimit.Limit(1<<30))
	require.EqualValues(t, 751619276, debug.SetMemoryLimit(-1), "70 %% of a gibibyte")
	require.EqualValues(t, receiver.DefaultMemory, receiverMemory())
	debug.SetMemoryLimit(400 << 20)
	require.EqualValues(t, 100<<20, receiverMemory(), "a quarter")
	debug.SetMemoryLimit(40 << 20)
	require.EqualValues(t, receiver.MinMemory, receiverMemory())
	debug.SetMemoryLimit(751619276)

	limitMemory(log, func() (uint64, error) { return 0, errors.New("no cgroups here") })
	require.EqualValues(t, 751619276, debug.SetMemoryLimit(-1), "what is not known changes nothing")

	limitMemory(log, func() (uint64, error) { return 0, memlimit.ErrNoLimit })
	require.EqualValues(t, math.MaxInt64, debug.SetMemoryLimit(-1))
	require.EqualValues(t, receiver.DefaultMemory, receiverMemory())

	t.Setenv("GOMEMLIMIT", "2GiB")
	limitMemory(log, memlimit.Limit(1<<30))
	require.EqualValues(t, math.MaxInt64, debug.SetMemoryLimit(-1), "the person knows better")
}
