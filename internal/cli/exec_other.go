//go:build !unix

package cli

import "os/exec"

func endGently(*exec.Cmd, bool) {}

func exitOfSignal(*exec.ExitError) int { return exitFailed }
