//go:build unix

package process

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/failpoint"
)

// folder is where an instance is known: what is planned, whether it runs, how it
// ended, and its log. Files that are written by one process and read by another
// are replaced whole.
type folder struct {
	id   string
	path string
}

// The files of a folder. A folder without a plan is rubbish of a crash.
const (
	lockFile    = "lock"           // locked while the instance runs, is started or removed
	planFile    = "plan.json"      // written by the server before anything runs
	stateFile   = "state.json"     // written by the supervisor once the command runs
	exitFile    = "exit.json"      // written by the supervisor once it has ended
	exitReserve = "exit.reserve"   // the space for exitFile, should the disk be full then
	stderrFile  = "supervisor.log" // what the supervisor itself has to say, in a crash
)

// gonePrefix begins the name of a folder that is being removed. No instance has such a name.
const gonePrefix = ".gone-"

// state says which processes run an instance. It holds only while the folder is locked.
type state struct {
	Supervisor int `json:"supervisor"` // process numbers
	Command    int `json:"command"`
}

// exit says how an instance ended.
type exit struct {
	Code   int       `json:"code"` // -1 where unknown
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// errHeld says that a folder is locked: its instance runs, or is being started or removed.
var errHeld = errors.New("the folder is locked")

// lock locks the folder; closing the file, in every process that has it, unlocks.
// It returns errHeld, and os.ErrNotExist where there is no folder.
func (f folder) lock() (*os.File, error) {
	for {
		lock, err := os.OpenFile(f.file(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(lock, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && f.isLockFile(lock) {
			return lock, nil
		}
		held := false
		if errors.Is(err, unix.EWOULDBLOCK) {
			// Who only looks (see held) shares its lock with us, and is gone at once.
			err = flock(lock, unix.LOCK_SH|unix.LOCK_NB)
			held = errors.Is(err, unix.EWOULDBLOCK)
		}
		if closeErr := lock.Close(); held || err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, err
		}
		if held {
			return nil, errHeld
		}
	}
}

// held says whether somebody has the lock.
func (f folder) held() (bool, error) {
	lock, err := os.Open(f.file(lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close() //nolint:errcheck // only looked at
	err = flock(lock, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// isLockFile says whether an open file is still the lock, and not that of a
// folder that was removed before it was locked.
func (f folder) isLockFile(lock *os.File) bool {
	mine, err := lock.Stat()
	if err != nil {
		return false
	}
	current, err := os.Stat(f.file(lockFile))
	return err == nil && os.SameFile(mine, current)
}

func flock(file *os.File, how int) error {
	for {
		if err := unix.Flock(int(file.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// inspect returns the status of an instance, and whether there is one. What a
// crash left half done is cleared away first.
func (r *Runtime) inspect(f folder) (control.Status, bool, error) {
	for {
		held, err := f.held()
		if err != nil {
			return control.Status{}, false, err
		}
		status, err := f.status()
		switch {
		case err == nil && (held || !status.Running):
			return status, true, nil
		case err != nil && held:
			if errors.Is(err, os.ErrNotExist) { // just being started or removed
				return control.Status{}, false, nil
			}
			return control.Status{}, false, err
		}
		// Nobody runs it, and nobody wrote how it ended.
		switch err := r.settle(f); {
		case errors.Is(err, os.ErrNotExist):
			return control.Status{}, false, nil
		case err != nil && !errors.Is(err, errHeld):
			return control.Status{}, false, err
		}
	}
}

// status reads the files: an instance that has not exited is taken to run.
func (f folder) status() (control.Status, error) {
	var ended exit
	exitErr := f.read(exitFile, &ended)
	if exitErr != nil && !errors.Is(exitErr, os.ErrNotExist) {
		return control.Status{}, exitErr
	}
	p, err := f.plan()
	if err != nil {
		return control.Status{}, err
	}
	status := p.status()
	if exitErr == nil {
		status.Running, status.Addresses = false, nil
		status.ExitCode, status.Reason = ended.Code, ended.Reason
	}
	return status, nil
}

// settle ends what is left of an instance whose supervisor was killed, and of one
// that was never started. The first is then an instance that exited, the
// second is no more: os.ErrNotExist.
func (r *Runtime) settle(f folder) error {
	lock, err := f.lock()
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // closing drops the lock; nothing was written
	if status, err := f.status(); err == nil && !status.Running {
		return nil // it was settled meanwhile
	}
	endMarked(f.path)
	_, planErr := f.plan()
	_, stateErr := f.state()
	if planErr == nil && stateErr == nil {
		r.log.Warn("supervisor was killed", "instance", f.id)
		return f.recordExit(exit{Code: -1, Reason: "its supervisor was killed", At: time.Now().UTC()})
	}
	r.log.Warn("start was cut short", "instance", f.id)
	if err := f.removeLocked(); err != nil {
		return err
	}
	return os.ErrNotExist
}

// stop ends the instance, keeps its log and removes the folder.
func (r *Runtime) stop(ctx context.Context, f folder, grace time.Duration) error {
	asked := false
	deadline := time.Now().Add(grace)
	for {
		lock, err := f.lock()
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err == nil:
			endMarked(f.path)
			failpoint.Pass(failpoint.ProcessEnded)
			return errors.Join(r.archiveLocked(f), lock.Close())
		case !errors.Is(err, errHeld):
			return err
		}
		switch late := time.Since(deadline); {
		case late > 5*time.Second: // the supervisor does not answer
			f.signal(syscall.SIGKILL)
		case late >= 0:
			f.signal(signalKill)
		case !asked:
			asked = f.signal(signalTerm)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// signal sends a signal to the supervisor, and says whether it could.
func (f folder) signal(signal syscall.Signal) bool {
	s, err := f.state()
	if err != nil {
		return false
	}
	process, err := os.FindProcess(s.Supervisor)
	if err != nil {
		return false
	}
	defer process.Release() //nolint:errcheck // never fails here
	// The lock proves that the number, which is held on to now, is that of the supervisor.
	if held, err := f.held(); err != nil || !held {
		return false
	}
	return process.Signal(signal) == nil
}

// archiveLocked removes the folder of a run that has ended, and keeps its log. That the log
// could not be kept stops nothing.
func (r *Runtime) archiveLocked(f folder) error {
	p, err := f.plan()
	if _, stateErr := f.state(); r.opts.Archive == nil || err != nil || stateErr != nil || control.IsHook(f.id) {
		return f.removeLocked() // nothing ran, or what nobody may read
	}
	run := control.LogRun{
		Instance: f.id, Service: p.Service, Version: p.Version, Generation: p.Generation,
		StartedAt: p.StartedAt, EndedAt: time.Now().UTC().Round(0),
	}
	var how exit
	if f.read(exitFile, &how) == nil {
		run.EndedAt = how.At
	}
	if err := r.opts.Archive.Take(f.path, run); err != nil {
		r.log.Warn("log not kept", "service", p.Service, "version", p.Version, "instance", f.id, "err", err)
	}
	if _, err := os.Stat(f.path); err == nil {
		return f.removeLocked()
	}
	return nil
}

// removeLocked removes the folder: at once under its name, and then in fact.
func (f folder) removeLocked() error {
	gone := filepath.Join(filepath.Dir(f.path), gonePrefix+rand.Text()[:8]+"-"+f.id)
	if err := os.Rename(f.path, gone); err != nil {
		return err
	}
	failpoint.Pass(failpoint.ProcessRenamed)
	return os.RemoveAll(gone)
}

func (f folder) plan() (p plan, err error) {
	return p, f.read(planFile, &p)
}

func (f folder) state() (s state, err error) {
	return s, f.read(stateFile, &s)
}

func (f folder) writePlan(p plan) error { return f.write(planFile, p) }

func (f folder) file(name string) string { return filepath.Join(f.path, name) }

func (f folder) read(name string, value any) error {
	data, err := os.ReadFile(f.file(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("read %s: %w", f.file(name), err)
	}
	return nil
}

// write replaces a file whole.
func (f folder) write(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	draft := f.file(name + ".draft")
	if err := os.WriteFile(draft, data, 0o600); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	return os.Rename(draft, f.file(name))
}
