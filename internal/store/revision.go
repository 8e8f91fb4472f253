package store

import (
	"context"
	"database/sql"
)

// NextRevision adds one to the revision of the table and returns it.
//
// With SQLite it is the only write that waits for the disk. Proxies keep the revisions they
// have seen, so that after a loss of power a number must not come twice, while the
// other tables may then lack what was written in the last moments.
func (db *DB) NextRevision(ctx context.Context) (uint64, error) {
	var revision int64
	err := db.engine.inTx(ctx, durableTx, func(tx *sql.Tx) (err error) {
		revision, err = next(ctx, tx, "revision")
		return err
	})
	if err != nil {
		return 0, db.explain("count the table's revision", err)
	}
	return uint64(revision), nil //nolint:gosec // counts up from 1
}
