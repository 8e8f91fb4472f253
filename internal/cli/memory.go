package cli

import (
	"log/slog"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/layover-dev/layover/internal/telemetry/receiver"
)

// memoryShare is the part of a container's memory that goes to Go. The rest is for the pages of
// the program file, and for what the kernel keeps of connections.
const memoryShare = 0.7

// limitMemory keeps the process within the memory that its container has, instead of letting it
// grow to twice what it needs. GOMEMLIMIT, where it is set, counts instead.
func limitMemory(log *slog.Logger, container memlimit.Provider) {
	if _, err := memlimit.Set(memlimit.WithProvider(container), memlimit.WithRatio(memoryShare)); err != nil {
		log.Debug("the memory limit of the container is not known, and not kept to", "err", err)
	}
}

// receiverMemory is what telemetry of applications may take while it is taken in: no more than a quarter of what the process may
// have, where that is bounded.
func receiverMemory() int64 {
	return max(receiver.MinMemory, min(receiver.DefaultMemory, debug.SetMemoryLimit(-1)/4))
}
