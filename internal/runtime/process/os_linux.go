package process

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownProgram returns the program that runs, even where its file was replaced or removed.
func ownProgram() (string, error) {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self, nil
	}
	return os.Executable()
}

// commandAttributes puts a command in a process group of its own, and has the
// kernel end it with its supervisor.
func commandAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// processExit tells when a process ends, by a pidfd in Go's poller: it takes
// neither a thread nor a timer.
type processExit struct{ pidfd *os.File }

// openExit returns the exit of the process that has the number now.
func openExit(pid int) (*processExit, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	// Only non-blocking files get into the poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &processExit{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// wait returns nil when the process has ended; it may be a zombie still.
func (e *processExit) wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = e.pidfd.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := e.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a file number fits
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
}

// Close frees what openExit took.
func (e *processExit) Close() error { return e.pidfd.Close() }

// endMarked ends every process that bears the marker of a folder: those of an
// instance whose supervisor was killed, and those that left its process group. It
// returns when there are none, or none that can be ended.
func endMarked(folder string) {
	mark := []byte(marker + "=" + folder)
	for range 200 {
		if !killMarked(mark) {
			return
		}
		time.Sleep(10 * time.Millisecond) // until the kernel has ended them
	}
}

// killMarked says whether there were any.
func killMarked(mark []byte) bool {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	found := false
	for _, entry := range processes {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !isMarked(pid, mark) {
			continue
		}
		process, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		// The number is held on to now; is it still the same process?
		if isMarked(pid, mark) {
			found = process.Signal(syscall.SIGKILL) == nil || found
		}
		_ = process.Release()
	}
	return found
}

func isMarked(pid int, mark []byte) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	return err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}), func(kv []byte) bool { return bytes.Equal(kv, mark) })
}
