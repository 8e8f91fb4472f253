//go:build !unix

package cli

import "os/exec"

func endGently(*exec.Cmd) {}

// runWithSignals runs a command: the system itself tells it of Ctrl-C.
func runWithSignals(cmd *exec.Cmd) error { return cmd.Run() }

func exitOfSignal(*exec.ExitError) int { return exitFailed }
