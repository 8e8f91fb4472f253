package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const (
	hintDamaged  = "put a backup in its place, or move it and its -wal and -shm files away and start again with an empty store"
	hintReadOnly = "run layover as the user who owns it, make it writable, or name another folder with --data"
	hintFull     = "free some space on that disk, then try again"
	hintPath     = "check the path, or name another folder with --data"
	hintLocal    = "check the disk and the system's log; a store belongs on a local disk"
)

// explain wraps an error of the database with what was being done. Where its
// cause is one a person can do something about, it becomes a [control.Error] with a hint.
func (db *DB) explain(action string, err error) error {
	if err == nil {
		return nil
	}
	return db.engine.explain(fmt.Errorf("%s: %w", action, err))
}

// explain returns err, as a [control.Error] about the store at path where a
// person can do something about it.
func explain(path string, err error) error {
	if explained(err) {
		return err
	}
	unavailable := func(hint, format string, args ...any) error {
		return &control.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf(format, args...), Hint: hint, Err: err}
	}
	if _, ok := errors.AsType[*specError](err); ok {
		return unavailable(hintDamaged, "the store %s is damaged: %v", path, err)
	}
	switch sqliteCode(err) & 0xff { // the primary code is the low byte
	case sqlite3.SQLITE_CORRUPT:
		return unavailable(hintDamaged, "the store %s is damaged", path)
	case sqlite3.SQLITE_NOTADB:
		return unavailable(hintDamaged, "%s is not a store of layover, or is damaged", path)
	case sqlite3.SQLITE_FULL:
		return unavailable(hintFull, "the disk of the store %s is full", path)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return unavailable(hintReadOnly, "the store %s cannot be written", path)
	case sqlite3.SQLITE_IOERR:
		return unavailable(hintLocal, "the disk of the store %s gives an error", path)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return unavailable("end the other program that has it open, such as a database browser", "the store %s is locked by another program", path)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return unavailable(hintFull, "the disk of the store %s is full", path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return unavailable(hintReadOnly, "the store %s cannot be written", path)
	case errors.Is(err, syscall.ENOTDIR):
		return &control.Error{
			Code:    api.CodeInvalid, // as where the store itself is a folder
			Message: fmt.Sprintf("the store's folder %s is a file, or is below one", filepath.Dir(path)),
			Hint:    hintPath, Err: err,
		}
	}
	return err
}

// explained says whether nothing can be added to err: there is none, it has a hint, or the
// caller gave up.
func explained(err error) bool {
	_, ok := errors.AsType[*control.Error](err)
	return ok || err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// explainOpen is explain for an error of opening the store: unless it is that the
// context ended, it always has a hint.
func explainOpen(ctx context.Context, path string, err error) error {
	err = explain(path, endOf(ctx, err))
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		return fmt.Errorf("open the store %s: %w", path, err)
	}
	return &control.Error{
		Code:    api.CodeUnavailable,
		Message: fmt.Sprintf("open the store %s: %v", path, err),
		Hint:    hintPath,
		Err:     err,
	}
}

// interrupted says whether the database gave up a statement because its context ended.
func interrupted(err error) bool {
	return sqliteCode(err)&0xff == sqlite3.SQLITE_INTERRUPT || postgresInterrupted(err)
}

// sqliteCode returns the extended result code of SQLite, 0 where err has none.
func sqliteCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}
