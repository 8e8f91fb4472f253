//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/layover-dev/layover/internal/control"
)

var _ control.Sweeper = (*Runtime)(nil)

// Leftovers returns folders without an instance: those that a crash kept from being
// removed, and those of an environment that had another identity, which is gone with its
// file. See [control.Sweeper].
func (r *Runtime) Leftovers(ctx context.Context, remove bool) ([]control.Leftover, error) {
	var left []control.Leftover
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), gonePrefix) {
			left = append(left, control.Leftover{Path: filepath.Join(r.dir, entry.Name()), Why: "its instance is removed"})
		}
	}
	others, err := os.ReadDir(r.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("list environments: %w", err)
	}
	for _, entry := range others {
		if !entry.IsDir() || entry.Name() == r.opts.Environment || !validName.MatchString(entry.Name()) {
			continue
		}
		l := control.Leftover{Path: filepath.Join(r.opts.Dir, entry.Name()), Why: "it is of an environment with another identity, and nothing runs there"}
		if l.Kept, err = anyHeld(l.Path); err != nil {
			return nil, fmt.Errorf("look at %s: %w", l.Path, err)
		}
		if l.Kept {
			l.Why = "it is of an environment with another identity, of which a process runs: end that first"
		}
		left = append(left, l)
	}
	for i := range left {
		if !remove || left[i].Kept {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := os.RemoveAll(left[i].Path); err != nil {
			left[i].Kept, left[i].Why = true, err.Error()
		}
	}
	return left, nil
}

// anyHeld says whether an instance runs in a folder of instances.
func anyHeld(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		held, err := folder{id: entry.Name(), path: filepath.Join(dir, entry.Name())}.held()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || held {
			return held, err
		}
	}
	return false, nil
}
