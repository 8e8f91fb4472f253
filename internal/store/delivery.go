package store

import (
	"context"
	"database/sql"
)

// HasDelivery says whether one of the given webhooks of a forge is stored.
func (db *DB) HasDelivery(ctx context.Context, ids []string) (bool, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	for _, id := range ids {
		var stored bool
		if err := db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM forge_deliveries WHERE id = $1)`, id).Scan(&stored); err != nil {
			return false, db.explain("find a webhook of a forge", endOf(ctx, err))
		}
		if stored {
			return true, nil
		}
	}
	return false, nil
}

// PutDeliveries stores webhooks of a forge, all or none. Of all of them the newest keep stay.
func (db *DB) PutDeliveries(ctx context.Context, ids []string, keep int) error {
	return db.explain("store a webhook of a forge", db.inTx(ctx, func(tx *sql.Tx) error {
		for _, id := range ids {
			number, err := next(ctx, tx, "forge_delivery")
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `
				INSERT INTO forge_deliveries (id, number) VALUES ($1, $2)
				ON CONFLICT (id) DO UPDATE SET number = excluded.number`, id, number); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `
			DELETE FROM forge_deliveries WHERE number <= (SELECT number FROM forge_deliveries ORDER BY number DESC LIMIT 1 OFFSET $1)`, max(keep, 1))
		return err
	}))
}
