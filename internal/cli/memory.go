package cli

import (
	"log/slog"

	"github.com/KimMachineGun/automemlimit/memlimit"
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
