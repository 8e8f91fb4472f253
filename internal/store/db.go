// Package store keeps the desired state and the events of an environment in a
// SQL database: [DB] implements [control.Store].
//
// One SQL text serves SQLite and PostgreSQL: parameters are $1, $2, …, rows are put
// with ON CONFLICT … DO UPDATE, and specs are JSON in text columns. Only the
// migrations, and how a database is opened and held, are per database.
package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/layover-dev/layover/internal/control"
)

// DB is an open store. It is safe for concurrent use.
type DB struct {
	path       string  // of the file, or the address of the database without its password
	write      *sql.DB // SQLite: one connection, because it allows one writer
	read       *sql.DB
	engine     engine
	keepEvents int64
	appending  chan struct{} // has an entry while an event is appended, see [DB.AppendEvent]
	close      func() error
}

var _ control.Store = (*DB)(nil)

// engine is what differs between databases, once a store is open.
type engine interface {
	// inTx runs work in a write transaction of this server's, and commits it where work returns
	// nil. An error means that nothing is kept.
	inTx(ctx context.Context, kind txKind, work func(*sql.Tx) error) error
	// lockVersion lets the transactions that change one version, which may be new, wait for each other.
	lockVersion(ctx context.Context, tx *sql.Tx, key control.Key) error
	// bound returns a context for one call: a database far away may stop to answer.
	bound(ctx context.Context) (context.Context, context.CancelFunc)
	// explain returns err, as a [control.Error] where a person can do something about it.
	explain(err error) error
	// tellEvent lets other servers know of a new event once the transaction is kept.
	tellEvent(ctx context.Context, on execer, id int64) error
	// hold is [DB.Hold], waitProof is [DB.WaitProof], announce is [DB.Announce].
	announce(ctx context.Context, url, identity string) (string, error)
	hold(ctx context.Context) error
	waitProof(ctx context.Context) error
}

// txKind says what a write transaction needs.
type txKind int

const (
	quickTx   txKind = iota // a few statements
	durableTx               // those, on the disk when it returns
	longTx                  // as many as it takes, on the disk when it returns
)

// Path returns the absolute path of the database file, symbolic links resolved. Of a
// PostgreSQL database it is the address, without a password.
func (db *DB) Path() string { return db.path }

// Close waits for the calls in progress, closes the database and gives up its
// lock. Further calls of Close return the same error.
func (db *DB) Close() error { return db.close() }

// Hold keeps the store this server's own until ctx ends. It returns an error where another
// server has it now; nothing can be written then any more.
func (db *DB) Hold(ctx context.Context) error { return db.engine.hold(ctx) }

// Announce tells the servers that wait for the store where the API of this one is. It returns by what name the
// instances of the environment are known: identity, unless a server that had the store before has given another.
func (db *DB) Announce(ctx context.Context, url, identity string) (string, error) {
	identity, err := db.engine.announce(ctx, url, identity)
	return identity, db.explain("announce this server", err)
}

// WaitProof returns nil while it is certain that no other server has the store. Where that is not
// certain it waits until [DB.Hold] has found out. It returns an error where another server has it. What acts on
// anything but the store asks this first.
func (db *DB) WaitProof(ctx context.Context) error { return db.engine.waitProof(ctx) }

// inTx runs work in a write transaction, see [engine].
//
// Single statements are written through it too: a statement outside of a
// transaction may have taken effect although its context ended and it returned an error.
func (db *DB) inTx(ctx context.Context, work func(*sql.Tx) error) error {
	return db.engine.inTx(ctx, quickTx, work)
}

// execer is a transaction, a pool or one connection of it.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// beginner is a pool or one connection of it.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// runTx runs work in a transaction, and commits it where work returns nil.
func runTx(ctx context.Context, on beginner, work func(*sql.Tx) error) error {
	tx, err := on.BeginTx(ctx, nil)
	if err != nil {
		return endOf(ctx, err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := work(tx); err != nil {
		return endOf(ctx, err)
	}
	return endOf(ctx, tx.Commit())
}

// exec runs one statement in a transaction of its own.
func (db *DB) exec(ctx context.Context, query string, args ...any) error {
	return db.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
}

// list returns a value for each row of a query, never nil without an error.
func list[T any](ctx context.Context, db *DB, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	ctx, cancel := db.engine.bound(ctx)
	defer cancel()
	rows, err := db.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, endOf(ctx, err)
	}
	defer func() { _ = rows.Close() }() // rows.Err has told it all
	all := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, endOf(ctx, err)
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return nil, endOf(ctx, err)
	}
	return all, nil
}

// deleted returns [control.ErrNotStored] where a DELETE found nothing.
func deleted(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		return control.ErrNotStored
	}
	return err
}

// encode returns v as JSON. A value that could not be read back is refused now,
// by its writer, instead of failing every later reader.
func encode[T any](v T) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	var back T
	if err := json.Unmarshal(data, &back); err != nil {
		return "", fmt.Errorf("it could not be read back: %w", err)
	}
	return string(data), nil
}

// decode reads what encode wrote.
func decode[T any](spec string) (T, error) {
	var v T
	if err := json.Unmarshal([]byte(spec), &v); err != nil {
		return v, &specError{err}
	}
	return v, nil
}

// specError says that a stored spec is not what encode writes.
type specError struct{ err error }

func (e *specError) Error() string { return fmt.Sprintf("read a stored record: %v", e.err) }
func (e *specError) Unwrap() error { return e.err }

// endOf returns the error of a context that ended in place of what its end
// caused in the database, so that callers find it with errors.Is.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, sql.ErrTxDone) || interrupted(err)) {
		if errors.Is(context.Cause(ctx), errNoAnswer) {
			return errNoAnswer
		}
		return ctx.Err()
	}
	return err
}
