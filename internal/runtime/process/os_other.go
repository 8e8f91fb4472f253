//go:build unix && !linux

package process

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// ownProgram returns the program that runs.
func ownProgram() (string, error) { return os.Executable() }

// commandAttributes puts a command in a process group of its own. Only Linux can
// end it with its supervisor.
func commandAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// processExit tells when a process ends. Here nothing does: callers look at the lock from time to time.
type processExit struct{}

func openExit(int) (*processExit, error) { return nil, errors.ErrUnsupported }

func (*processExit) wait(context.Context) error { return errors.ErrUnsupported }

// Close frees what openExit took.
func (*processExit) Close() error { return nil }

// endMarked ends the processes that bear the marker of a folder. Only Linux shows the environment of others.
func endMarked(string) {}
