//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/failpoint"
)

// claimNew is claim with a folder of its own for each run: that of one that has ended makes room.
func (r *Runtime) claimNew(ctx context.Context, f folder) (*os.File, control.Status, error) {
	for {
		lock, running, err := r.claim(ctx, f)
		if lock == nil || err != nil {
			return lock, running, err
		}
		if _, err := os.Stat(f.file(planFile)); errors.Is(err, os.ErrNotExist) {
			return lock, running, nil
		}
		endMarked(f.path)
		if err := errors.Join(r.archiveLocked(f), lock.Close()); err != nil {
			return nil, running, diskError(r.dir, err)
		}
	}
}

// claim takes the lock of an instance that does not run, and makes its folder.
// Where it does run, claim returns its status and no lock.
func (r *Runtime) claim(ctx context.Context, f folder) (*os.File, control.Status, error) {
	for {
		switch err := os.Mkdir(f.path, 0o700); {
		case errors.Is(err, os.ErrNotExist):
			return nil, control.Status{}, &control.Error{
				Code: api.CodeUnavailable, Err: err,
				Message: fmt.Sprintf("the folder of the process runtime, %s, is gone", r.dir),
				Hint:    "restart the server, which makes it anew",
			}
		case err != nil && !errors.Is(err, os.ErrExist):
			return nil, control.Status{}, diskError(r.dir, err)
		}
		lock, err := f.lock()
		switch {
		case err == nil:
			return lock, control.Status{}, nil
		case errors.Is(err, errHeld):
			// It runs, or somebody else is just starting or removing it.
			if _, err := f.state(); err == nil {
				status, found, err := r.inspect(f)
				if err != nil || found && status.Running {
					return nil, status, err
				}
			}
		case !errors.Is(err, os.ErrNotExist): // removed meanwhile
			return nil, control.Status{}, diskError(r.dir, err)
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return nil, control.Status{}, err
		}
	}
}

// startLocked starts the supervisor of an instance and waits for its word that
// the command runs. After an error nothing runs, but the folder is still there.
func (r *Runtime) startLocked(ctx context.Context, f folder, lock *os.File, w control.Workload) (control.Status, error) {
	p, err := r.newPlan(ctx, f, w)
	if err != nil {
		return control.Status{}, err
	}
	if err := f.writePlan(p); err != nil {
		return control.Status{}, diskError(r.dir, err)
	}
	failpoint.Pass(failpoint.ProcessPlanned)
	s, err := r.startSupervisor(f, lock)
	if err != nil {
		return control.Status{}, diskError(r.dir, fmt.Errorf("start the supervisor of %s: %w", w.ID, err))
	}
	failpoint.Pass(failpoint.ProcessForked)
	report, err := s.report(ctx)
	if err == nil && report.Step == "" {
		return p.status(), nil
	}
	s.kill()
	endMarked(f.path)
	if err != nil {
		return control.Status{}, fmt.Errorf("start %s: %w", w.ID, err)
	}
	return control.Status{}, report.explain(p, r.dir)
}

// supervisor is a supervisor while it starts.
type supervisor struct {
	folder  folder
	command *exec.Cmd
	reports *os.File
	ended   chan struct{} // closed when it has ended
}

// startSupervisor starts a supervisor with the lock as file 3 and a pipe for its
// report as file 4, apart from the terminal and the process group of the server.
func (r *Runtime) startSupervisor(f folder, lock *os.File) (*supervisor, error) {
	stderr, err := os.OpenFile(f.file(stderrFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close() //nolint:errcheck // the supervisor writes to it
	reports, reportTo, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reportTo.Close() //nolint:errcheck // the supervisor writes to it

	argv := append(r.opts.Supervisor[1:len(r.opts.Supervisor):len(r.opts.Supervisor)], superviseArg, f.path)
	command := exec.Command(r.opts.Supervisor[0], argv...) //nolint:gosec // the program itself
	command.Args[0] = "layover"
	command.Dir = "/"
	command.Env = []string{"GOMAXPROCS=1", "GOGC=25", "GOMEMLIMIT=16MiB"} // it is small, and there are many
	command.Stderr = stderr
	command.ExtraFiles = []*os.File{lock, reportTo}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return nil, errors.Join(err, reports.Close())
	}
	s := &supervisor{folder: f, command: command, reports: reports, ended: make(chan struct{})}
	go s.reap()
	return s, nil
}

// reap waits for the end of a supervisor, which may be days away, without a thread of its own.
func (s *supervisor) reap() {
	defer close(s.ended)
	if exit, err := openExit(s.command.Process.Pid); err == nil {
		_ = exit.wait(context.Background()) // Wait below tells
		_ = exit.Close()
	}
	_ = s.command.Wait() // how it ended is in the folder
}

// report waits for the first and only report of the supervisor.
func (s *supervisor) report(ctx context.Context) (report, error) {
	defer s.reports.Close() //nolint:errcheck // only read
	defer context.AfterFunc(ctx, func() { _ = s.reports.SetReadDeadline(time.Unix(1, 0)) })()
	data, err := io.ReadAll(s.reports)
	if ctx.Err() != nil {
		return report{}, context.Cause(ctx)
	}
	if err != nil {
		return report{}, err
	}
	var got report
	if err := json.Unmarshal(data, &got); err != nil {
		stderr, _ := os.ReadFile(s.folder.file(stderrFile))
		return report{}, fmt.Errorf("the supervisor ended without a word: %s", strings.TrimSpace(string(stderr[:min(len(stderr), 2000)])))
	}
	return got, nil
}

// kill ends the supervisor; the kernel ends its child with it.
func (s *supervisor) kill() {
	_ = s.command.Process.Kill()
	<-s.ended
}

// report is what a supervisor says when it has started the command, or could not.
type report struct {
	Step   string        `json:"step,omitempty"` // what failed, empty where nothing did
	Reason string        `json:"reason,omitempty"`
	Errno  syscall.Errno `json:"errno,omitempty"`
}

// The steps at which a supervisor can fail.
const (
	stepCommand = "command" // the command could not be executed
	stepFiles   = "files"   // the folder could not be written
)

// explain turns a report of failure into an error for people.
func (p report) explain(plan plan, dir string) error {
	cause := error(errors.New(p.Reason))
	if p.Errno != 0 {
		cause = fmt.Errorf("%s: %w", p.Reason, p.Errno)
	}
	if p.Step != stepCommand {
		return diskError(dir, cause)
	}
	hint := "run the command by hand in " + plan.workDir() + " to see what is wrong with it"
	switch p.Errno { //nolint:exhaustive // the others have no better hint
	case syscall.ENOEXEC:
		hint = "is it built for this machine, and does a script begin with a line such as #!/bin/sh?"
	case syscall.ENOENT:
		hint = "the file is there, but not what runs it: check the first line of a script, or the loader of a binary"
	case syscall.E2BIG:
		hint = "make the arguments and environment variables shorter"
	case syscall.EAGAIN, syscall.ENOMEM:
		hint = "this machine is at its limit of processes or memory: stop something"
	}
	return &control.Error{
		Code: api.CodeInvalid, Err: cause, Hint: hint,
		Message: fmt.Sprintf("cannot run %s: %s", strconv.Quote(plan.Path), p.Errno.Error()),
	}
}

// diskError adds a hint to an error that the folder of the runtime caused.
func diskError(dir string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "free some space on the disk of " + dir
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		hint = "make " + dir + " writable for the server"
	default:
		return err
	}
	return &control.Error{Code: api.CodeUnavailable, Message: "the process runtime cannot keep its state: " + err.Error(), Hint: hint, Err: err}
}

// pause waits, or returns the cause of ctx's end.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
