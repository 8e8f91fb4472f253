package store

import (
	"context"
	"database/sql"
)

const revisionCounter = "revision"

// NextRevision adds one to the revision of the table and returns it.
//
// With SQLite it is the only write that waits for the disk. Proxies keep the revisions they
// have seen, so that after a loss of power a number must not come twice, while the
// other tables may then lack what was written in the last moments.
func (db *DB) NextRevision(ctx context.Context) (uint64, error) {
	var revision int64
	err := db.engine.inTx(ctx, durableTx, func(tx *sql.Tx) (err error) {
		revision, err = next(ctx, tx, revisionCounter)
		return err
	})
	if err != nil {
		return 0, db.explain("count the table's revision", err)
	}
	return uint64(revision), nil //nolint:gosec // counts up from 1
}

// Revision returns what NextRevision returned last, 0 where it never did.
func (db *DB) Revision(ctx context.Context) (uint64, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	var revision int64
	err := db.read.QueryRowContext(ctx, `SELECT COALESCE(MAX(value), 0) FROM counters WHERE name = $1`, revisionCounter).Scan(&revision)
	if err != nil {
		return 0, db.explain("read the table's revision", endOf(ctx, err))
	}
	return uint64(revision), nil //nolint:gosec // counts up from 1
}
