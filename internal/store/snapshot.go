package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"modernc.org/sqlite"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// ExportSQLite writes all that the store in the file at path has to w, as [DB.Import] reads it. A server may
// have the store at the same time; what is written is the state of one moment.
func ExportSQLite(ctx context.Context, path string, w io.Writer) (Counts, error) {
	path, db, err := readSQLite(ctx, path)
	if err != nil {
		return nil, explainOpen(ctx, path, err)
	}
	counts, err := exportFrom(ctx, db, nil, w)
	return counts, errors.Join(explain(path, err), db.Close())
}

// ExportPostgres is [ExportSQLite] for the PostgreSQL database at address.
func ExportPostgres(ctx context.Context, address string, w io.Writer) (Counts, error) {
	p, err := connectPostgres(address)
	if err != nil {
		return nil, err
	}
	counts, err := p.export(ctx, w)
	return counts, errors.Join(err, p.pool.Close())
}

func (p *postgres) export(ctx context.Context, w io.Writer) (Counts, error) {
	conn, err := p.pool.Conn(ctx)
	if err != nil {
		return nil, p.explainOpen(ctx, err)
	}
	defer func() { _ = conn.Close() }() // goes back to the pool
	known := newestSchema()
	found, err := p.checkSchema(ctx, conn, known)
	if err != nil {
		return nil, p.explainOpen(ctx, err)
	}
	if found != known {
		return nil, notCurrent(p.name, found, known)
	}
	counts, err := exportFrom(ctx, conn, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, w)
	return counts, p.explain(err)
}

func exportFrom(ctx context.Context, on beginner, options *sql.TxOptions, w io.Writer) (Counts, error) {
	tx, err := on.BeginTx(ctx, options)
	if err != nil {
		return nil, endOf(ctx, err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was changed
	counts, err := export(ctx, tx, newestSchema(), w)
	return counts, endOf(ctx, err)
}

// BackupSQLite copies the store in the file at path to a new file, which is a store too. A server
// may have the store at the same time; the copy is the state of one moment. The new file is there whole or not at all.
func BackupSQLite(ctx context.Context, path, to string) error {
	path, db, err := readSQLite(ctx, path)
	if err != nil {
		return explainOpen(ctx, path, err)
	}
	return errors.Join(backup(ctx, path, db, to), db.Close())
}

func backup(ctx context.Context, path string, db *sql.DB, to string) error {
	return NewFile(to, func(f *os.File) error {
		if _, err := db.ExecContext(ctx, `VACUUM INTO $1`, f.Name()); err != nil { // an empty file is taken
			return explain(path, fmt.Errorf("copy the store: %w", endOf(ctx, err)))
		}
		return checkDatabase(ctx, f.Name(), checkSettings, newestSchema(), sqlite.NewConnector)
	})
}

// NewFile makes a file that only its owner may read. write fills it, under another name; when it has returned
// nil, and all is on the disk, the file gets its name. It refuses to replace one.
func NewFile(path string, write func(*os.File) error) (err error) {
	explained := func(err error) error {
		if err == nil || !isFileError(err) {
			return err
		}
		return &control.Error{
			Code: api.CodeInvalid, Message: fmt.Sprintf("write %s: %v", path, err),
			Hint: "name a file in a folder that is there and can be written", Err: err,
		}
	}
	if _, err := os.Lstat(path); err == nil {
		return exists(path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".layover-*")
	if err != nil {
		return explained(err)
	}
	defer func() {
		_ = f.Close()           // it was synced, or is not wanted
		_ = os.Remove(f.Name()) // the other name stays
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return explained(err)
	}
	err = os.Link(f.Name(), path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return exists(path)
	case err != nil: // a file system without links
		err = os.Rename(f.Name(), path)
	}
	return explained(err)
}

func isFileError(err error) bool {
	_, isPath := errors.AsType[*fs.PathError](err)
	_, isLink := errors.AsType[*os.LinkError](err)
	return isPath || isLink
}

func exists(path string) error {
	return conflict("name a new file, or move that one away", "%s is there already", path)
}

// readSQLite opens the store at path for reading, beside a server that may have it.
func readSQLite(ctx context.Context, path string) (string, *sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return path, nil, err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil, &control.Error{
			Code: api.CodeNotFound, Message: fmt.Sprintf("there is no store %s", path),
			Hint: "name it with --store, its folder with --data, or the configuration with -f",
		}
	case err != nil:
		return path, nil, err
	case info.Size() == 0:
		return path, nil, notCurrent(path, 0, newestSchema())
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return path, nil, err
	}
	known := newestSchema()
	if err := checkFile(ctx, path, known, sqlite.NewConnector); err != nil {
		return path, nil, err
	}
	db, err := pool(path, checkSettings, 1, sqlite.NewConnector)
	if err != nil {
		return path, nil, err
	}
	var found int64
	err = db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version`).Scan(&found)
	if err == nil && found != known {
		err = notCurrent(path, found, known)
	}
	if err != nil {
		return path, nil, errors.Join(err, db.Close())
	}
	return path, db, nil
}

func notCurrent(path string, found, known int64) error {
	return conflict("start layover with it once, which brings it up to date", "the store %s has schema %d, and this layover wants %d", path, found, known)
}

// newestSchema returns the version of the schema that this program makes, in every database.
func newestSchema() int64 {
	names, _ := fs.Glob(sqliteMigrations, "migrations/sqlite/*.sql") // the pattern is valid
	newest := int64(0)
	for _, name := range names {
		number, _, _ := strings.Cut(filepath.Base(name), "_")
		n, _ := strconv.ParseInt(number, 10, 64) // goose reads them the same way, and refuses others
		newest = max(newest, n)
	}
	return newest
}
