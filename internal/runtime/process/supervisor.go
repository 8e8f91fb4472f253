//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layover-dev/layover/internal/runtime/logfile"
)

// superviseArg is the argument that makes the program a supervisor.
const superviseArg = "__supervise"

// What a supervisor is told by signals: to ask its command to end, and to end it by force.
const (
	signalTerm = syscall.SIGTERM
	signalKill = syscall.SIGUSR1
)

// The files a supervisor gets from the server.
const (
	lockFD   = 3
	reportFD = 4
)

// exitSpace is how much of the disk is kept free for the record of the exit.
const exitSpace = 1024

// Supervise makes the process the supervisor of an instance where its command
// line (os.Args) says so; it then returns the code to exit with, once the
// instance has ended. Programs that make a [Runtime] call it before anything else:
//
//	if code, ok := process.Supervise(os.Args); ok {
//		os.Exit(code)
//	}
func Supervise(args []string) (exitCode int, isSupervisor bool) {
	if len(args) != 3 || args[1] != superviseArg {
		return 0, false
	}
	if err := supervise(folder{path: args[2]}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// supervise starts the command of a folder, and returns when it has ended and that is recorded.
func supervise(f folder) error {
	// The kernel ends the command with the thread that started it.
	runtime.LockOSThread()
	syscall.CloseOnExec(lockFD)
	syscall.CloseOnExec(reportFD)
	lock := os.NewFile(lockFD, "lock") // held until the process ends
	defer runtime.KeepAlive(lock)
	reports := os.NewFile(reportFD, "report")
	if lock == nil || reports == nil {
		return errors.New("this command is for the server only")
	}
	signals := catchSignals()

	c, failure := startCommand(f)
	if failure != nil {
		return errors.Join(fmt.Errorf("%s: %s: %w", failure.Step, failure.Reason, failure.Errno), tell(reports, *failure))
	}
	// Where the server has ended meanwhile nobody reads the report; a later server finds the state.
	_ = tell(reports, report{})
	return c.run(signals)
}

// catchSignals also catches what a terminal or a dying session sends: the
// instance is to go on. Signals that are caught here are not ignored by the command.
func catchSignals() <-chan os.Signal {
	told := make(chan os.Signal, 4)
	signal.Notify(told, signalTerm, signalKill)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
	return told
}

func tell(reports *os.File, r report) error {
	return errors.Join(json.NewEncoder(reports).Encode(r), reports.Close())
}

// command is a command that was started, as its supervisor sees it.
type command struct {
	folder  folder
	process *os.Process
	log     *logfile.Writer
	outputs []*os.File
	pumps   sync.WaitGroup
}

// startCommand starts the command of a folder and records that it runs. After a
// failure nothing runs.
func startCommand(f folder) (*command, *report) {
	p, err := f.plan()
	if err != nil {
		return nil, failed(stepFiles, err)
	}
	if err := os.WriteFile(f.file(exitReserve), slices.Repeat([]byte(" "), exitSpace), 0o600); err != nil {
		return nil, failed(stepFiles, err)
	}
	log, err := logfile.NewWriter(f.path, p.LogFileSize, p.LogFiles)
	if err != nil {
		return nil, failed(stepFiles, err)
	}
	c := &command{folder: f, log: log}
	if err := c.start(p); err != nil {
		return nil, failed(stepCommand, err)
	}
	if err := f.write(stateFile, state{Supervisor: os.Getpid(), Command: c.process.Pid}); err != nil {
		c.signal(syscall.SIGKILL)
		_, _ = c.process.Wait() // the error that counts is the other
		return nil, failed(stepFiles, err)
	}
	return c, nil
}

func failed(step string, err error) *report {
	r := &report{Step: step, Reason: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		r.Errno = errno
	}
	return r
}

// start starts the command in a process group of its own, with its output into the log.
func (c *command) start(p plan) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close() //nolint:errcheck // only read
	files := []*os.File{null}
	for range 2 {
		out, in, err := os.Pipe()
		if err != nil {
			return err
		}
		defer in.Close() //nolint:errcheck // the command has its own
		files = append(files, in)
		c.outputs = append(c.outputs, out)
	}
	c.process, err = os.StartProcess(p.Path, p.Args, &os.ProcAttr{
		Dir: p.Dir, Env: p.Env, Files: files, Sys: commandAttributes(),
	})
	if err != nil {
		return err
	}
	for i, stream := range []byte{logfile.Stdout, logfile.Stderr} {
		c.pumps.Go(func() { c.log.Pump(c.outputs[i], stream) })
	}
	return nil
}

// run hands on what the server says until the command has ended, ends what is
// left of its group, and records how it ended.
func (c *command) run(signals <-chan os.Signal) error {
	ended := make(chan struct{})
	var state *os.ProcessState
	var waitErr error
	go func() {
		defer close(ended)
		state, waitErr = c.wait()
	}()
	for running := true; running; {
		select {
		case told := <-signals:
			if told == signalKill {
				c.signal(syscall.SIGKILL)
			} else {
				c.signal(syscall.SIGTERM)
			}
		case <-ended:
			running = false
		}
	}
	c.drain()
	how := exit{Code: -1, Reason: "how it ended could not be told", At: time.Now().UTC()}
	if waitErr == nil {
		how.Code, how.Reason = describe(state)
	}
	return errors.Join(waitErr, c.log.Close(), c.folder.recordExit(how))
}

// wait waits for the end of the command, and then ends its group.
func (c *command) wait() (*os.ProcessState, error) {
	// Until Wait frees it, the number of the group cannot be that of another.
	if exit, err := openExit(c.process.Pid); err == nil {
		if exit.wait(context.Background()) == nil {
			c.signal(syscall.SIGKILL)
		}
		_ = exit.Close()
		return c.process.Wait()
	}
	state, err := c.process.Wait()
	c.signal(syscall.SIGKILL)
	return state, err
}

// signal sends a signal to the whole group. An error means that nothing of it is left.
func (c *command) signal(s syscall.Signal) { _ = syscall.Kill(-c.process.Pid, s) }

// drain reads what is left of the output. A process that left the group may hold
// its ends open for ever.
func (c *command) drain() {
	for _, out := range c.outputs {
		_ = out.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // a pipe has deadlines
	}
	c.pumps.Wait()
}

// describe gives the exit code as shells do: 128 and the number for a signal.
func describe(state *os.ProcessState) (code int, reason string) {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return state.ExitCode(), ""
	}
	return 128 + int(status.Signal()), fmt.Sprintf("killed by %s (signal %d)", unix.SignalName(status.Signal()), int(status.Signal()))
}

// recordExit writes the record into the space that was reserved for it.
func (f folder) recordExit(how exit) error {
	data, err := json.Marshal(how)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(f.file(exitReserve), os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(f.file(exitReserve), f.file(exitFile))
}
