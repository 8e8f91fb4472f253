//go:build !linux

package postgrestest

import "os/exec"

func runAsOther(*exec.Cmd, ...string) error { return nil }

func startTied(command *exec.Cmd, ended chan<- struct{}) error {
	if err := command.Start(); err != nil {
		return err
	}
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	return nil
}
