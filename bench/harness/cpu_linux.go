package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc/PID/stat. Linux fixes it for all architectures that Go runs on.
const tick = 10 * time.Millisecond

// startPinned starts a command on one processor. The command inherits the mask of the
// thread that starts it, so that Go programs see one processor from their start.
func startPinned(cmd *exec.Cmd, cpu int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cpu < 0 {
		return cmd.Start()
	}
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the processors of this thread: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to processor %d: %w", cpu, err)
	}
	return errors.Join(cmd.Start(), unix.SchedSetaffinity(0, &before))
}

// RaiseFileLimit lets this process and its children have so many open files.
func RaiseFileLimit(n uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur >= n {
		return nil
	}
	limit.Cur, limit.Max = n, max(limit.Max, n)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("%d open files are needed: raise the limit (ulimit -n): %w", n, err)
	}
	return nil
}

// tree is a process and all below it.
func tree(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		fields, err := statFields(path)
		if err != nil {
			continue // it has ended
		}
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	found := []int{pid}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

// statFields are the fields of /proc/PID/stat behind the name: the state is the first.
func statFields(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	at := bytes.LastIndexByte(text, ')') // a name may have spaces and parentheses
	fields := strings.Fields(string(text[at+1:]))
	if len(fields) < 13 {
		return nil, fmt.Errorf("%s is not as expected: %s", path, text)
	}
	return fields, nil
}

// cpuTime is what the processes have spent, in user and system mode, all threads.
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		fields, err := statFields(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		user, err1 := strconv.ParseInt(fields[11], 10, 64)
		system, err2 := strconv.ParseInt(fields[12], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, err
		}
		sum += time.Duration(user+system) * tick
	}
	return sum, nil
}

// Memory is what a process has in memory, in bytes.
type Memory struct {
	Resident int64 // VmRSS
	Peak     int64 // VmHWM, since its start
}

// MB is a number of bytes as megabytes of 1,000,000.
func MB(bytes int64) float64 { return float64(bytes) / 1e6 }

// MemoryOf reads it. With several processes (a master and its workers) pages that they
// share are counted for each.
func MemoryOf(pid int) (Memory, error) {
	var sum Memory
	for _, one := range tree(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", one))
		if err != nil {
			return sum, err
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			var into *int64
			switch name {
			case "VmRSS":
				into = &sum.Resident
			case "VmHWM":
				into = &sum.Peak
			default:
				continue
			}
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return sum, err
			}
			*into += kb << 10
		}
	}
	return sum, nil
}

// peekEnd says whether the other side of a connection has closed it; what it sent stays unread.
func peekEnd(fd int) bool {
	var one [1]byte
	n, _, err := unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == nil && n == 0 || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
}
