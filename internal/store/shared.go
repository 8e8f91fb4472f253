package store

import (
	"context"
	"errors"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Shared is a PostgreSQL store that this server shares with others, and may have later. Until
// then it is only read. It is safe for concurrent use.
type Shared struct {
	p  *postgres
	db *DB
}

var _ control.Records = (*Shared)(nil)

// JoinPostgres opens the PostgreSQL store at address as [OpenPostgres] does, whoever has it.
func JoinPostgres(ctx context.Context, address string) (*Shared, error) {
	p, err := connectPostgres(address)
	if err != nil {
		return nil, err
	}
	if err := p.migrate(ctx, isNew); err != nil {
		return nil, errors.Join(p.explainOpen(ctx, err), p.pool.Close())
	}
	return &Shared{p, p.database()}, nil
}

// Take waits until no other server has the store, makes it this server's, and brings it up to date. Meanwhile it hears what the other
// tells, and calls seen with who that is, several times a second. The store that it returns stands for this one from then on.
func (s *Shared) Take(ctx context.Context, seen func(Holder)) (*DB, error) {
	err := s.p.wait(ctx, seen)
	if err == nil {
		err = s.p.migrate(ctx, isAny)
	}
	if err != nil {
		return nil, s.p.explainOpen(ctx, err)
	}
	return s.db, nil
}

// Close closes the store that [Shared.Take] has not returned.
func (s *Shared) Close() error { return s.db.Close() }

// Services is [DB.Services].
func (s *Shared) Services(ctx context.Context) ([]api.Service, error) { return s.db.Services(ctx) }

// Routes is [DB.Routes].
func (s *Shared) Routes(ctx context.Context) ([]api.NamedRoute, error) { return s.db.Routes(ctx) }

// Version is [DB.Version].
func (s *Shared) Version(ctx context.Context, key control.Key) (*control.VersionRecord, error) {
	return s.db.Version(ctx, key)
}

// Revision is [DB.Revision].
func (s *Shared) Revision(ctx context.Context) (uint64, error) { return s.db.Revision(ctx) }

// DeadLetters is [DB.DeadLetters].
func (s *Shared) DeadLetters(ctx context.Context) ([]api.DeadLetter, error) {
	return s.db.DeadLetters(ctx)
}

// Events is [DB.Events].
func (s *Shared) Events(ctx context.Context, after int64, limit int) ([]api.Event, error) {
	return s.db.Events(ctx, after, limit)
}

// LastEvent is [DB.LastEvent].
func (s *Shared) LastEvent(ctx context.Context) (int64, error) { return s.db.LastEvent(ctx) }

// WaitEvents returns when [Shared.Take] has heard of an event with an ID above after, or has seen it.
func (s *Shared) WaitEvents(ctx context.Context, after int64) error {
	return s.p.hearing.wait(ctx, after)
}
