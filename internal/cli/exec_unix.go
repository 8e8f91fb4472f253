//go:build unix

package cli

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// endGently puts a command into a process group of its own, and makes all of that end by SIGTERM when it is no longer wanted.
func endGently(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
}

// runWithSignals runs a command, and passes on to it the signals that come meanwhile. Without a terminal it has a process group
// of its own, all of which gets them. At a terminal it stays in ours, so that it can read from there and be stopped and
// continued: then the terminal's own signals, as of Ctrl-C, have reached it already.
func runWithSignals(cmd *exec.Cmd) error {
	signals := make(chan os.Signal, 8)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		if !signal.Ignored(s) { // by nohup, for example
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		terminal = nil
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	} else {
		defer func() { _ = terminal.Close() }()
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case <-ended:
				return
			case s := <-signals:
				pass(cmd, s.(syscall.Signal), terminal)
			}
		}
	})
	err = cmd.Wait()
	close(ended)
	passing.Wait()
	return err
}

// pass gives a signal to a command, unless the terminal did.
func pass(cmd *exec.Cmd, s syscall.Signal, terminal *os.File) {
	if terminal == nil {
		_ = syscall.Kill(-cmd.Process.Pid, s)
		return
	}
	front, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	if ofTerminal := s == syscall.SIGINT || s == syscall.SIGQUIT; ofTerminal && err == nil && front == unix.Getpgrp() {
		return
	}
	_ = cmd.Process.Signal(s)
}

// exitOfSignal is the exit code of a command that a signal ended, as shells have it.
func exitOfSignal(err *exec.ExitError) int {
	if status, ok := err.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exitFailed
}
