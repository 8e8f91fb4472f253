//go:build unix

// Package process runs instances as processes of this machine.
//
// Each instance has a folder and a supervisor: a small process, the program itself
// called again (see [Supervise]), that starts the command, writes its log and
// records how it ended. The supervisor is in a session of its own, so it and the
// instance outlive the server, and a server that comes later finds them by the
// folders alone.
//
// Whether an instance runs is told by a lock on a file of its folder. The server takes the
// lock, hands the open file to the supervisor, and the kernel drops the lock
// when the last holder ends. So there is no moment at which a crash leaves a process
// that nobody knows, and process numbers that were used again deceive nobody.
//
// # What an instance gets
//
// The environment of the workload and, of the server's own, only PATH, HOME,
// USER, LOGNAME, SHELL, TMPDIR, TZ, LANG, LANGUAGE, LC_*, SSL_CERT_FILE and SSL_CERT_DIR. PORT is the port to
// listen on. LAYOVER_INSTANCE names the folder; it marks all that the
// instance starts, so that what escapes its process group is found and ended too.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/failpoint"
	"github.com/layover-dev/layover/internal/runtime/logfile"
)

// Options says where and how a runtime keeps its instances.
type Options struct {
	// Dir is the absolute path of the folder for the state and the logs of all
	// instances. It is made where it is missing. It holds the instances' environment: its mode is 0700.
	Dir string

	// Environment is the name of the environment. Environments in one Dir do not see each other.
	Environment string

	// Logger is told what was cleaned up after a crash. Nil is silence.
	Logger *slog.Logger

	// Supervisor is the command line of a program that calls [Supervise] first of
	// all, without the arguments for it. Nil means the program that runs.
	Supervisor []string

	// LogFileSize is the size in bytes at which a log file is closed and another begun. 0 means 10 MiB.
	LogFileSize int64

	// LogFiles is how many log files an instance keeps, the newest. 0 means 3.
	LogFiles int

	// Archive gets the logs of the instances that are stopped or started anew. Nil means that nothing is kept.
	Archive *logfile.Archive
}

// Runtime runs instances as processes. It implements [control.Runtime].
type Runtime struct {
	opts  Options
	dir   string // of the environment
	log   *slog.Logger
	ports ports

	mu       sync.Mutex
	watchers map[chan struct{}]bool // each is woken when an instance was started
}

var _ control.Runtime = (*Runtime)(nil)

// validName is what names a folder: environments and instances.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,199}$`)

// New returns the runtime of an environment, with the instances that are there already.
func New(opts Options) (*Runtime, error) {
	if !filepath.IsAbs(opts.Dir) {
		return nil, fmt.Errorf("process runtime: folder %q is not an absolute path", opts.Dir)
	}
	if !validName.MatchString(opts.Environment) {
		return nil, fmt.Errorf("process runtime: %q cannot name an environment", opts.Environment)
	}
	if opts.LogFileSize <= 0 {
		opts.LogFileSize = 10 << 20
	}
	if opts.LogFiles <= 0 {
		opts.LogFiles = 3
	}
	if len(opts.Supervisor) == 0 {
		self, err := ownProgram()
		if err != nil {
			return nil, fmt.Errorf("process runtime: find the program that runs: %w", err)
		}
		opts.Supervisor = []string{self}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Runtime{
		opts:     opts,
		dir:      filepath.Join(opts.Dir, opts.Environment),
		log:      opts.Logger,
		watchers: map[chan struct{}]bool{},
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("process runtime: %w", err)
	}
	if err := r.removeGone(); err != nil {
		return nil, fmt.Errorf("process runtime: %w", err)
	}
	if err := r.reservePorts(); err != nil {
		return nil, fmt.Errorf("process runtime: %w", err)
	}
	return r, nil
}

// Start starts an instance. See [control.Runtime].
func (r *Runtime) Start(ctx context.Context, w control.Workload, step func(api.Step, string)) (control.Status, error) {
	if err := ctx.Err(); err != nil {
		return control.Status{}, fmt.Errorf("start %s: %w", w.ID, err)
	}
	if !validName.MatchString(w.ID) {
		return control.Status{}, &control.Error{
			Code: api.CodeInvalid, Message: fmt.Sprintf("%q cannot name an instance", w.ID),
			Hint: "use letters, digits, '.', '_' and '-', and begin with a letter or digit",
		}
	}
	f := r.folder(w.ID)
	lock, running, err := r.claimNew(ctx, f)
	if err != nil {
		return control.Status{}, fmt.Errorf("start %s: %w", w.ID, err)
	}
	if lock == nil {
		return running, nil
	}
	defer lock.Close() //nolint:errcheck // closing drops the lock; nothing was written
	failpoint.Pass(failpoint.ProcessFolder)
	if step != nil {
		step(api.StepStart, "")
	}
	status, err := r.startLocked(ctx, f, lock, w)
	if err != nil {
		r.ports.release(w.ID)
		return control.Status{}, errors.Join(err, f.removeLocked())
	}
	r.wakeWatchers()
	return status, nil
}

// Stop ends an instance and removes its folder. See [control.Runtime].
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	if !validName.MatchString(id) {
		return nil // nothing can have this name
	}
	if err := r.stop(ctx, r.folder(id), grace); err != nil {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	r.ports.release(id)
	return nil
}

// List returns the instances of the environment. See [control.Runtime]. It also
// clears away what a crash of the server left half done.
func (r *Runtime) List(ctx context.Context) ([]control.Status, error) {
	folders, err := r.folders()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := make([]control.Status, 0, len(folders))
	for _, f := range folders {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		status, found, err := r.inspect(f)
		if err != nil {
			return nil, fmt.Errorf("list processes: %s: %w", f.id, err)
		}
		if found {
			all = append(all, status)
		}
	}
	return all, nil
}

// Logs reads the log of an instance. See [control.Runtime].
func (r *Runtime) Logs(ctx context.Context, id string, opts control.LogOptions) (control.LogReader, error) {
	if !validName.MatchString(id) {
		return nil, control.ErrNoInstance
	}
	reader, err := r.folder(id).openLog(ctx, opts)
	if err != nil && !errors.Is(err, control.ErrNoInstance) {
		return nil, fmt.Errorf("read the log of %s: %w", id, err)
	}
	return reader, err
}

func (r *Runtime) folder(id string) folder {
	return folder{id: id, path: filepath.Join(r.dir, id)}
}

// folders returns all there are. A missing environment is an error, not an empty one.
func (r *Runtime) folders() ([]folder, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	var all []folder
	for _, entry := range entries {
		if entry.IsDir() && validName.MatchString(entry.Name()) {
			all = append(all, r.folder(entry.Name()))
		}
	}
	return all, nil
}

// removeGone removes what a crash left of removed folders.
func (r *Runtime) removeGone() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), gonePrefix) {
			if err := os.RemoveAll(filepath.Join(r.dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// reservePorts keeps the ports of the instances that are there from being picked again.
func (r *Runtime) reservePorts() error {
	folders, err := r.folders()
	if err != nil {
		return err
	}
	for _, f := range folders {
		if p, err := f.plan(); err == nil { // List tells of the others
			r.ports.reserve(p.Port, f.id)
		}
	}
	return nil
}
