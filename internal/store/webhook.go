package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// WebhookPosition returns the ID of the last event that the webhook is done with, and false
// where none was ever stored.
func (db *DB) WebhookPosition(ctx context.Context, webhook string) (int64, bool, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	var position int64
	err := db.read.QueryRowContext(ctx, `SELECT position FROM webhooks WHERE name = $1`, webhook).Scan(&position)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return position, err == nil, db.explain("find the position of webhook "+webhook, endOf(ctx, err))
}

// PutWebhookPosition stores how far the webhook is.
func (db *DB) PutWebhookPosition(ctx context.Context, webhook string, position int64) error {
	return db.explain("store the position of webhook "+webhook, db.inTx(ctx, func(tx *sql.Tx) error {
		return putPosition(ctx, tx, webhook, position)
	}))
}

// AddDeadLetter keeps a delivery that was given up under the next ID, and moves the webhook
// behind its event, both or neither. Of one webhook at most keep letters stay, the newest.
func (db *DB) AddDeadLetter(ctx context.Context, d api.DeadLetter, keep int) error {
	return db.explain("store a dead letter of webhook "+d.Webhook, db.inTx(ctx, func(tx *sql.Tx) error {
		id, err := next(ctx, tx, "dead_letter")
		if err != nil {
			return err
		}
		spec, err := encode(d)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO dead_letters (id, webhook, spec) VALUES ($1, $2, $3)`, id, d.Webhook, spec); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `
			DELETE FROM dead_letters WHERE webhook = $1 AND id NOT IN (
				SELECT id FROM dead_letters WHERE webhook = $1 ORDER BY id DESC LIMIT $2)`, d.Webhook, max(keep, 0)); err != nil {
			return err
		}
		return putPosition(ctx, tx, d.Webhook, d.Event.ID)
	}))
}

// DeadLetters returns the deliveries that were given up, oldest first.
func (db *DB) DeadLetters(ctx context.Context) ([]api.DeadLetter, error) {
	letters, err := list(ctx, db, func(rows *sql.Rows) (api.DeadLetter, error) {
		var id int64
		var spec string
		if err := rows.Scan(&id, &spec); err != nil {
			return api.DeadLetter{}, err
		}
		d, err := decode[api.DeadLetter](spec)
		d.ID = id
		return d, err
	}, `SELECT id, spec FROM dead_letters ORDER BY id`)
	return letters, db.explain("list dead letters", err)
}

// DeadLetter returns one of them, or [control.ErrNotStored].
func (db *DB) DeadLetter(ctx context.Context, id int64) (api.DeadLetter, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	var spec string
	err := db.read.QueryRowContext(ctx, `SELECT spec FROM dead_letters WHERE id = $1`, id).Scan(&spec)
	if errors.Is(err, sql.ErrNoRows) {
		return api.DeadLetter{}, control.ErrNotStored
	}
	if err != nil {
		return api.DeadLetter{}, db.explain("find a dead letter", endOf(ctx, err))
	}
	d, err := decode[api.DeadLetter](spec)
	d.ID = id
	return d, db.explain("find a dead letter", err)
}

// PutDeadLetter replaces one of them. It returns [control.ErrNotStored] where it is gone.
func (db *DB) PutDeadLetter(ctx context.Context, d api.DeadLetter) error {
	return db.explain(fmt.Sprintf("store dead letter %d", d.ID), db.inTx(ctx, func(tx *sql.Tx) error {
		spec, err := encode(d)
		if err != nil {
			return err
		}
		return deleted(tx.ExecContext(ctx, `UPDATE dead_letters SET spec = $2 WHERE id = $1`, d.ID, spec))
	}))
}

// DeleteDeadLetter deletes one of them. It returns [control.ErrNotStored] where it is gone.
func (db *DB) DeleteDeadLetter(ctx context.Context, id int64) error {
	return db.explain(fmt.Sprintf("delete dead letter %d", id), db.inTx(ctx, func(tx *sql.Tx) error {
		return deleted(tx.ExecContext(ctx, `DELETE FROM dead_letters WHERE id = $1`, id))
	}))
}

func putPosition(ctx context.Context, tx *sql.Tx, webhook string, position int64) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO webhooks (name, position) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET position = excluded.position`, webhook, position)
	return err
}
