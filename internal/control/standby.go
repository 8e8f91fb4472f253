package control

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// Records are what a server reads of a store that another server has. WaitEvents returns when it
// has heard of an event with an ID above after; the other methods are as in [Store].
type Records interface {
	Services(ctx context.Context) ([]api.Service, error)
	Routes(ctx context.Context) ([]api.NamedRoute, error)
	// Version returns ErrNotStored for an unknown one.
	Version(ctx context.Context, key Key) (*VersionRecord, error)
	// Revision returns the one that NextRevision returned last.
	Revision(ctx context.Context) (uint64, error)
	Events(ctx context.Context, after int64, limit int) ([]api.Event, error)
	LastEvent(ctx context.Context) (int64, error)
	WaitEvents(ctx context.Context, after int64) error
	DeadLetters(ctx context.Context) ([]api.DeadLetter, error)
}

// Standby is what a server knows of an environment that another server leads: what the store has,
// and the tables that the leader makes. What only the leader knows, such as which instances are
// ready, it lacks. It is safe for concurrent use.
type Standby struct {
	Records
	table   atomic.Pointer[route.Table]
	history history
	tables  signal
}

// NewStandby returns a standby that has seen no table yet.
func NewStandby(records Records) *Standby {
	s := &Standby{Records: records}
	s.table.Store(route.EmptyTable())
	return s
}

// TakeTable takes up what leads to the leader's newest table. An error says that a change does not follow on
// the one before; then the way on is a whole table. It is called by one goroutine at a time.
func (s *Standby) TakeTable(update api.TableUpdate) error {
	switch {
	case update.Table != nil:
		table, err := route.Compile(*update.Table)
		if err != nil {
			return fmt.Errorf("the table of revision %d: %w", update.Table.Revision, err)
		}
		s.history.reset(table.Position())
		s.table.Store(table)
	case update.Change != nil:
		table, err := s.Table().Apply(*update.Change)
		if err != nil {
			return err
		}
		s.history.add(*update.Change)
		s.table.Store(table)
	}
	s.tables.raise()
	return nil
}

// Table returns the newest table that the leader made, as far as it is known here; an empty one of revision 0
// where none is.
func (s *Standby) Table() *route.Table { return s.table.Load() }

// TableChanges is [Control.TableChanges].
func (s *Standby) TableChanges(after route.Position) ([]TableChange, bool) {
	return s.history.since(after)
}

// WaitTable returns the newest table once it is of another epoch than after, or its revision is above. While no leader
// makes tables it waits. It waits, too, while the table here is older than the one at after: whoever asks has been at a
// server that was ahead of this one.
func (s *Standby) WaitTable(ctx context.Context, after route.Position) (*route.Table, error) {
	for {
		next := s.tables.next()
		t := s.Table()
		if t.Revision() > 0 && (t.Position().Epoch != after.Epoch || t.Revision() > after.Revision) && !s.lags(ctx, after) {
			return t, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lags says whether the store has given out the revision of after, and the table here is older. A higher
// revision than the store has given out is of a time before it was put back to an older state: no later table leads there.
func (s *Standby) lags(ctx context.Context, after route.Position) bool {
	if after.Revision <= s.Table().Revision() {
		return false
	}
	given, err := s.Revision(ctx)
	return err != nil || after.Revision <= given
}

// Ready returns nil when the store answers.
func (s *Standby) Ready(ctx context.Context) error {
	if _, err := s.LastEvent(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// History is [Control.History].
func (s *Standby) History(ctx context.Context, key Key) ([]api.Generation, error) {
	r, err := s.Version(ctx, key)
	if errors.Is(err, ErrNotStored) {
		return nil, notFoundf("see: layover ls", "there is no version %s", key)
	}
	if err != nil {
		return nil, err
	}
	return r.history(), nil
}
