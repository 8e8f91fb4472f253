package store

import (
	"context"
	"database/sql"

	"github.com/layover-dev/layover/api"
)

// How many events are kept: the newest keepEvents, and up to pruneEvents more
// until the next append that deletes the others.
const (
	keepEvents  = 100_000
	pruneEvents = 256
)

// AppendEvent stores e under the next ID, which it returns; the ID in e does not
// matter. IDs have no gaps, and are never used again. Of the events, the newest
// 100,000 are kept.
//
// Events are appended one after another here already, and not only by the lock of their counter: of those who wait there, each would
// get the lock in turn also while this server is paused, and keep it from the one that takes over until the database notices.
func (db *DB) AppendEvent(ctx context.Context, e api.Event) (int64, error) {
	select {
	case db.appending <- struct{}{}:
		defer func() { <-db.appending }()
	case <-ctx.Done():
		return 0, db.explain("store event "+string(e.Type), ctx.Err())
	}
	err := db.inTx(ctx, func(tx *sql.Tx) (err error) {
		if e.ID, err = next(ctx, tx, "event"); err != nil {
			return err
		}
		spec, err := encode(e)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO events (id, spec) VALUES ($1, $2)`, e.ID, spec); err != nil {
			return err
		}
		if e.ID%pruneEvents == 0 {
			if _, err := tx.ExecContext(ctx, `DELETE FROM events WHERE id <= $1`, e.ID-db.keepEvents); err != nil {
				return err
			}
		}
		return db.engine.tellEvent(ctx, tx, e.ID)
	})
	if err != nil {
		return 0, db.explain("store event "+string(e.Type), err)
	}
	return e.ID, nil
}

// Events returns at most limit events with an ID above after, oldest first.
func (db *DB) Events(ctx context.Context, after int64, limit int) ([]api.Event, error) {
	events, err := list(ctx, db, func(rows *sql.Rows) (api.Event, error) {
		var id int64
		var spec string
		if err := rows.Scan(&id, &spec); err != nil {
			return api.Event{}, err
		}
		e, err := decode[api.Event](spec)
		e.ID = id
		return e, err
	}, `SELECT id, spec FROM events WHERE id > $1 ORDER BY id LIMIT $2`, after, max(limit, 0))
	return events, db.explain("list events", err)
}

// LastEvent returns the highest ID of an event, 0 where there is none.
func (db *DB) LastEvent(ctx context.Context) (int64, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	var id int64
	err := db.read.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM events`).Scan(&id)
	return id, db.explain("find the last event", endOf(ctx, err))
}

// next adds one to a counter and returns it. The counter's row stays locked until the
// transaction ends, so numbers become visible in their order.
func next(ctx context.Context, tx *sql.Tx, counter string) (int64, error) {
	var n int64
	err := tx.QueryRowContext(ctx, `
		INSERT INTO counters (name, value) VALUES ($1, 1)
		ON CONFLICT (name) DO UPDATE SET value = counters.value + 1
		RETURNING value`, counter).Scan(&n)
	return n, err
}
