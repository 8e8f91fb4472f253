//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/logfile"
)

// openLog opens the log of the run that has the folder. The reader holds on to the folder: another
// run under the same ID has another one.
func (f folder) openLog(ctx context.Context, opts control.LogOptions) (control.LogReader, error) {
	root, err := os.OpenRoot(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, control.ErrNoInstance
	}
	if err != nil {
		return nil, err
	}
	data, err := root.ReadFile(planFile)
	if errors.Is(err, os.ErrNotExist) { // just being started, or removed
		return nil, errors.Join(control.ErrNoInstance, root.Close())
	}
	var p plan
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if !opts.Run.IsZero() && !opts.Run.Equal(p.StartedAt) {
		return nil, errors.Join(control.ErrNoInstance, root.Close())
	}
	reader, err := logfile.NewReader(ctx, root, f.id, opts, runOver)
	if err != nil {
		return nil, err
	}
	return reader, nil
}

// runOver says whether the run that has a folder has ended: it says so, or nobody holds its lock.
func runOver(root *os.Root) bool {
	if _, err := root.Stat(exitFile); err == nil {
		return true
	}
	lock, err := root.Open(lockFile)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) // it was moved to the archive, or removed
	}
	defer lock.Close() //nolint:errcheck // only looked at
	return !errors.Is(flock(lock, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
