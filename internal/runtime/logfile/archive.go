package logfile

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/failpoint"
)

// maxRuns is how many ended runs of a version are kept at most, however little they said.
const maxRuns = 100

const (
	aboutFile   = "about.json" // the control.LogRun
	draftPrefix = ".draft-"    // begins the name of a folder that is not whole yet
	draftAge    = time.Hour    // after which nobody works at a draft any more
)

// Archive keeps the logs of instances that are gone, within a bound for each version. It
// implements [control.LogArchive], and is safe for concurrent use.
//
// It is a folder of versions, SERVICE@VERSION, with a folder for each run of an instance:
// its ID and when it began.
type Archive struct {
	dir     string
	version int64 // bytes

	mu sync.Mutex // pruning and removing take turns
}

var _ control.LogArchive = (*Archive)(nil)

// NewArchive returns the archive in a folder, which is made where it is missing. Of each
// version it keeps the newest bytes, and at most 100 runs.
func NewArchive(dir string, bytes int64) (*Archive, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Archive{dir: dir, version: bytes}
	return a, a.tidy()
}

// tidy removes what a crash left behind.
func (a *Archive) tidy() error {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(a.dir, entry.Name())
		if strings.HasPrefix(entry.Name(), draftPrefix) {
			if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > draftAge {
				if err := os.RemoveAll(path); err != nil {
					return err
				}
			}
			continue
		}
		runs, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, run := range runs {
			if err := onlyLogs(filepath.Join(path, run.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Take moves the folder of a run that has ended into the archive, with its log files and without all
// else. From then on there is no folder of that name, also where it is told of an error.
func (a *Archive) Take(folder string, run control.LogRun) error {
	target, err := a.path(run)
	if err != nil {
		return errors.Join(err, os.RemoveAll(folder))
	}
	data, err := json.Marshal(run)
	if err != nil {
		return err
	}
	// Where the disk is full, the run is still known by its name.
	aboutErr := os.WriteFile(filepath.Join(folder, aboutFile), data, 0o600)
	a.mu.Lock()
	defer a.mu.Unlock()
	err = errors.Join(os.MkdirAll(filepath.Dir(target), 0o700), os.RemoveAll(target))
	if err == nil {
		err = os.Rename(folder, target)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(folder))
	}
	failpoint.Pass(failpoint.LogKept)
	return errors.Join(aboutErr, onlyLogs(target), a.pruneLocked(filepath.Dir(target)))
}

// Write keeps the lines of a log as that of a run that has ended. It closes lines.
func (a *Archive) Write(run control.LogRun, lines control.LogReader) error {
	draft, err := os.MkdirTemp(a.dir, draftPrefix)
	if err != nil {
		return errors.Join(err, lines.Close())
	}
	err = a.fill(draft, lines)
	return errors.Join(err, lines.Close(), a.Take(draft, run))
}

func (a *Archive) fill(folder string, lines control.LogReader) error {
	const files = 4
	w, err := NewWriter(folder, max(a.version/files, 1), files)
	if err != nil {
		return err
	}
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return w.Close()
		}
		if err != nil {
			return errors.Join(err, w.Close())
		}
		w.Line(line)
	}
}

// Runs returns the runs of a version that are kept, the oldest first.
func (a *Archive) Runs(key control.Key) ([]control.LogRun, error) {
	dir, err := a.versionDir(key)
	if err != nil {
		return nil, err
	}
	folders, err := runFolders(dir)
	if err != nil {
		return nil, err
	}
	var runs []control.LogRun
	for _, f := range folders {
		run, err := f.about()
		if errors.Is(err, fs.ErrNotExist) {
			run = control.LogRun{Instance: f.instance, StartedAt: f.began}
		} else if err != nil {
			return nil, err
		}
		run.Service, run.Version = key.Service, key.Version
		runs = append(runs, run)
	}
	return runs, nil
}

// Open reads the log of a run. It returns [control.ErrNoInstance] where it is not kept.
func (a *Archive) Open(ctx context.Context, run control.LogRun, opts control.LogOptions) (control.LogReader, error) {
	path, err := a.path(run)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, control.ErrNoInstance
	}
	if err != nil {
		return nil, err
	}
	return NewReader(ctx, root, run.Instance, opts, func(*os.Root) bool { return true })
}

// Remove forgets all runs of a version.
func (a *Archive) Remove(key control.Key) error {
	dir, err := a.versionDir(key)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return os.RemoveAll(dir)
}

// Versions returns the versions of which something is kept.
func (a *Archive) Versions() ([]control.Key, error) {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return nil, err
	}
	var keys []control.Key
	for _, entry := range entries {
		if service, version, ok := strings.Cut(entry.Name(), "@"); ok {
			keys = append(keys, control.Key{Service: service, Version: version})
		}
	}
	return keys, nil
}

func (a *Archive) versionDir(key control.Key) (string, error) {
	name := key.Service + "@" + key.Version
	if key.Service == "" || key.Version == "" || strings.HasPrefix(name, ".") || filepath.Base(name) != name {
		return "", errors.New("no folder can be named " + strconv.Quote(name))
	}
	return filepath.Join(a.dir, name), nil
}

func (a *Archive) path(run control.LogRun) (string, error) {
	dir, err := a.versionDir(control.Key{Service: run.Service, Version: run.Version})
	if err != nil {
		return "", err
	}
	name := run.Instance + beganMark + strconv.FormatInt(run.StartedAt.UnixNano(), 10)
	if filepath.Base(name) != name {
		return "", errors.New("no folder can be named " + strconv.Quote(name))
	}
	return filepath.Join(dir, name), nil
}

// pruneLocked removes the oldest files of a version until the rest is within the bound.
func (a *Archive) pruneLocked(dir string) error {
	folders, err := runFolders(dir)
	if err != nil {
		return err
	}
	left := a.version
	for i, f := range slices.Backward(folders) {
		if left <= 0 || len(folders)-i > maxRuns {
			if err := os.RemoveAll(f.path); err != nil {
				return err
			}
			continue
		}
		if left, err = pruneFiles(f.path, left); err != nil {
			return err
		}
	}
	return nil
}

// pruneFiles keeps the newest files of a log that fit, and returns how many bytes are left.
func pruneFiles(dir string, left int64) (int64, error) {
	numbers, err := logNumbers(dir)
	if err != nil {
		return 0, err
	}
	for _, number := range slices.Backward(numbers) {
		path := filepath.Join(dir, fileName(number))
		info, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		if left -= info.Size(); left < 0 {
			if err := os.Remove(path); err != nil {
				return 0, err
			}
		}
	}
	return left, nil
}

// onlyLogs removes all of a folder that is not of a log.
func onlyLogs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == aboutFile || strings.HasPrefix(entry.Name(), filePrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// runFolder is the folder of a run.
type runFolder struct {
	path     string
	instance string
	began    time.Time
}

const beganMark = "~" // is in no ID of an instance

// runFolders returns the runs of a version, the oldest first.
func runFolders(dir string) ([]runFolder, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []runFolder
	for _, entry := range entries {
		instance, text, _ := strings.Cut(entry.Name(), beganMark)
		if nano, err := strconv.ParseInt(text, 10, 64); err == nil {
			all = append(all, runFolder{filepath.Join(dir, entry.Name()), instance, time.Unix(0, nano).UTC()})
		}
	}
	slices.SortFunc(all, func(a, b runFolder) int {
		return cmp.Or(a.began.Compare(b.began), cmp.Compare(a.instance, b.instance))
	})
	return all, nil
}

func (f runFolder) about() (run control.LogRun, err error) {
	data, err := os.ReadFile(filepath.Join(f.path, aboutFile))
	if err != nil {
		return run, err
	}
	if json.Unmarshal(data, &run) != nil || !run.StartedAt.Equal(f.began) {
		return run, fs.ErrNotExist // a crash left it half
	}
	return run, nil
}
