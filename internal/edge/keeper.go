package edge

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

const (
	keepEvery = time.Second // at most so often is the table written
	keepShare = 20          // and for at most one part in so many of the time
)

// keeper writes the newest table to disk, off the way of tables and requests.
type keeper struct {
	path  string // empty: nothing is written
	log   *slog.Logger
	dirty chan struct{}

	writing sync.Mutex // one writes at a time

	mu      sync.Mutex
	newest  *route.Table // to be written; nil where there is none
	written uint64       // revision on disk
	errors  uint64
	failing bool
	stopped bool
}

func newKeeper(path string, log *slog.Logger) *keeper {
	return &keeper{path: path, log: log, dirty: make(chan struct{}, 1)}
}

// put makes table the one to write.
func (k *keeper) put(table *route.Table) {
	if k.path == "" {
		return
	}
	k.mu.Lock()
	k.newest = table
	k.mu.Unlock()
	select {
	case k.dirty <- struct{}{}:
	default:
	}
}

// has notes what is on disk already.
func (k *keeper) has(revision uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written = revision
}

// stop ends all writing, for somebody else to do it.
func (k *keeper) stop() {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
}

func (k *keeper) figures() (revision, errors uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.written, k.errors
}

// run writes what is put until ctx ends, and then what is left. That a table cannot be
// written is in the log, and ends nothing.
func (k *keeper) run(ctx context.Context) error {
	for {
		select {
		case <-k.dirty:
		case <-ctx.Done():
			_ = k.save()
			return nil
		}
		began := time.Now()
		if err := k.save(); err != nil {
			k.retry()
		}
		select {
		case <-time.After(max(keepEvery, (keepShare-1)*time.Since(began))):
		case <-ctx.Done():
		}
	}
}

// retry makes a table that could not be written the one to write again.
func (k *keeper) retry() {
	select {
	case k.dirty <- struct{}{}:
	default:
	}
}

// save writes the newest table, where that is not on disk.
func (k *keeper) save() error {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	table, stopped := k.newest, k.stopped
	k.newest = nil
	k.mu.Unlock()
	if table == nil || stopped {
		return nil
	}
	err := WriteCache(k.path, table.Spec())
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		if k.failing {
			k.log.Info("the table is written to disk again", "revision", table.Revision())
		}
		k.written, k.failing = table.Revision(), false
		return nil
	}
	k.errors++
	if k.newest == nil {
		k.newest = table
	}
	if !k.failing {
		k.log.Error("the table is not on disk for the next start", "err", err, "revision", table.Revision())
	}
	k.failing = true
	return err
}
