//go:build !linux

package harness

import (
	"errors"
	"os/exec"
	"time"
)

var errLinux = errors.New("measures on Linux only")

// Memory is what a process has in memory, in bytes.
type Memory struct{ Resident, Peak int64 }

// MB is a number of bytes as megabytes of 1,000,000.
func MB(bytes int64) float64 { return float64(bytes) / 1e6 }

// MemoryOf fails: it is read from /proc.
func MemoryOf(int) (Memory, error) { return Memory{}, errLinux }

func startPinned(*exec.Cmd, int) error { return errLinux }

// RaiseFileLimit fails.
func RaiseFileLimit(uint64) error           { return errLinux }
func tree(pid int) []int                    { return []int{pid} }
func cpuTime([]int) (time.Duration, error)  { return 0, errLinux }
func closedOrOpenLoop(Load) (Result, error) { return Result{}, errLinux }
func peekEnd(int) bool                      { return true }
