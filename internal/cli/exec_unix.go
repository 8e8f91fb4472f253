//go:build unix

package cli

import (
	"os/exec"
	"syscall"
)

// endGently makes a command that is no longer wanted end by SIGTERM: it alone, or with all that it started.
func endGently(cmd *exec.Cmd, group bool) {
	if group {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	cmd.Cancel = func() error {
		if group {
			return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		}
		return cmd.Process.Signal(syscall.SIGTERM)
	}
}

// exitOfSignal is the exit code of a command that a signal ended, as shells have it.
func exitOfSignal(err *exec.ExitError) int {
	if status, ok := err.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exitFailed
}
