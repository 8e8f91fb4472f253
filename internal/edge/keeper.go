package edge

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

const (
	keepEvery   = time.Second // at most so often is something written
	keepShare   = 20          // and for at most one part in so many of the time
	keepChanges = 16 << 10    // that wait at most; with more, the table is written whole
)

// keeper brings the newest table to disk, off the way of tables and requests.
type keeper struct {
	log   *slog.Logger
	dirty chan struct{}
	hurry atomic.Int32 // who waits for the end of a write

	writing sync.Mutex // one writes at a time
	file    cacheFile  // guarded by writing; without a path, nothing is written

	mu      sync.Mutex
	newest  *route.Table   // to be written; nil where there is none
	changes []route.Change // that lead to newest from what was to be written before
	whole   bool           // no changes lead there
	written uint64         // revision on disk
	errors  uint64
	failing bool
	stopped bool
}

func newKeeper(path string, log *slog.Logger) *keeper {
	return &keeper{file: cacheFile{path: path}, log: log, dirty: make(chan struct{}, 1)}
}

// load returns the table on disk; see [cacheFile.read].
func (k *keeper) load() (table *route.Table, lost, err error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	if table, lost, err = k.file.read(); err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written = table.Revision()
	return table, lost, nil
}

// setAside is [cacheFile.setAside].
func (k *keeper) setAside() (string, error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	return k.file.setAside()
}

// put makes table the one to write. Change is what made it of the one before, nil where nothing did.
func (k *keeper) put(table *route.Table, change *route.Change) {
	if k.file.path == "" {
		return
	}
	k.mu.Lock()
	k.newest = table
	if change == nil || len(k.changes) == keepChanges {
		k.whole, k.changes = true, nil
	}
	if !k.whole {
		k.changes = append(k.changes, *change)
	}
	k.mu.Unlock()
	k.retry()
}

// stop ends all writing, for somebody else to do it.
func (k *keeper) stop() {
	defer k.hasten()()
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
}

// hasten makes a write take no rests until done is called.
func (k *keeper) hasten() (done func()) {
	k.hurry.Add(1)
	return func() { k.hurry.Add(-1) }
}

func (k *keeper) figures() (revision, errors uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.written, k.errors
}

// run writes what is put until ctx ends, and then what is left. That a table cannot be
// written is in the log, and ends nothing.
func (k *keeper) run(ctx context.Context) error {
	hastened := context.AfterFunc(ctx, func() { k.hasten() }) // for good
	defer hastened()
	for {
		select {
		case <-k.dirty:
		case <-ctx.Done():
			_ = k.save() // the log has the error
			return nil
		}
		p := &pace{hurry: &k.hurry}
		began := time.Now()
		if err := k.write(p); err != nil {
			k.retry()
		}
		select {
		case <-time.After(max(keepEvery, (keepShare-1)*(time.Since(began)-p.rested))):
		case <-ctx.Done():
		}
	}
}

// retry makes what could not be written be written again.
func (k *keeper) retry() {
	select {
	case k.dirty <- struct{}{}:
	default:
	}
}

// save writes the newest table at once, where that is not on disk, and waits for the disk.
func (k *keeper) save() error {
	defer k.hasten()()
	if err := k.write(nil); err != nil {
		return err
	}
	k.writing.Lock()
	defer k.writing.Unlock()
	if err := k.file.sync(); err != nil {
		k.log.Error("the table on disk may not outlive a loss of power", "err", err)
		return err
	}
	return nil
}

// write writes the newest table, where that is not on disk.
func (k *keeper) write(p *pace) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	table, changes, whole, stopped := k.newest, k.changes, k.whole, k.stopped
	k.newest, k.changes, k.whole = nil, nil, false
	k.mu.Unlock()
	if table == nil || stopped {
		return nil
	}
	err := errWriteWhole
	if !whole {
		err = k.file.add(changes, p)
	}
	if errors.Is(err, errWriteWhole) {
		err = k.file.write(table, p)
	}
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
