package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

//go:embed migrations/sqlite/*.sql
var sqliteMigrations embed.FS

const (
	sqliteMagic   = "SQLite format 3\x00" // what each SQLite file begins with
	applicationID = 0x4c41594f            // "LAYO": marks the file as ours, see PRAGMA application_id
	checkTime     = 2 * time.Second       // how long the check at opening may take; it reads about 1 GB in that time
)

// The settings of connections. busy_timeout comes first, so that the others
// wait for a lock as well. synchronous NORMAL loses nothing when the process is killed.
const (
	writeSettings = "_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)" +
		"&_pragma=synchronous(NORMAL)&_pragma=foreign_keys(1)"
	readSettings    = "_pragma=busy_timeout(10000)&_pragma=query_only(1)"
	checkSettings   = "mode=ro&_pragma=busy_timeout(10000)"
	recoverSettings = "mode=rw&_pragma=busy_timeout(10000)"
)

// connect returns what opens connections; tests count statements through it.
type connect func(dsn string) (driver.Connector, error)

// OpenSQLite opens the store in the file at path, and makes it, with its folder,
// where there is none. Only the owner may read it: it can hold secrets.
//
// It fails where another process has the store open, and where the file is damaged, is of
// something else, has a newer schema than this program knows, or cannot
// be written; then the file is left as it was. Such errors are [control.Error] values with a hint.
func OpenSQLite(ctx context.Context, path string) (*DB, error) {
	return openSQLite(ctx, path, sqlite.NewConnector)
}

func openSQLite(ctx context.Context, path string, connect connect) (*DB, error) {
	file, err := makeFile(path)
	if err != nil {
		return nil, explainOpen(ctx, path, err)
	}
	lock, err := lockFile(ctx, file)
	if err != nil {
		return nil, explainOpen(ctx, file, err)
	}
	db, err := openLocked(ctx, file, connect)
	if err != nil {
		return nil, errors.Join(explainOpen(ctx, file, err), lock.release())
	}
	db.close = sync.OnceValue(func() error {
		return errors.Join(db.read.Close(), db.write.Close(), lock.release())
	})
	return db, nil
}

// openLocked opens the store whose lock is held: first the checks, which change nothing.
func openLocked(ctx context.Context, path string, connect connect) (_ *DB, err error) {
	db := &DB{path: path, keepEvents: keepEvents, appending: make(chan struct{}, 1)}
	if db.write, err = pool(path, writeSettings, 1, connect); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.write.Close())
		}
	}()
	migrations, err := migrator(db.write)
	if err != nil {
		return nil, err
	}
	if err := checkFile(ctx, path, newest(migrations), connect); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	if _, err := db.write.ExecContext(ctx, fmt.Sprintf(`PRAGMA application_id = %d`, applicationID)); err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx); err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	db.engine = sqliteEngine{path: path, write: db.write}
	db.read, err = pool(path, readSettings, max(4, runtime.NumCPU()), connect)
	return db, err
}

// pool returns a pool of at most size connections, which are opened when they are
// needed, and kept.
func pool(path, settings string, size int, connect connect) (*sql.DB, error) {
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // C:/folder
	}
	connector, err := connect("file:" + (&url.URL{Path: slashed}).EscapedPath() + "?" + settings)
	if err != nil {
		return nil, err
	}
	p := sql.OpenDB(connector)
	p.SetMaxOpenConns(size)
	p.SetMaxIdleConns(size)
	return p, nil
}

func migrator(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(sqliteMigrations, "migrations/sqlite")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
}

// newest returns the version of the schema that the migrations lead to.
func newest(migrations *goose.Provider) int64 {
	sources := migrations.ListSources()
	return sources[len(sources)-1].Version
}

// makeFile makes the file and its folder where they are missing, and returns the
// path by which everybody knows the file.
func makeFile(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("make its folder: %w", err)
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return "", &control.Error{
			Code:    api.CodeInvalid,
			Message: fmt.Sprintf("the store %s is a folder or a device, not a file", path),
			Hint:    "name the folder that the store's file shall be in with --data",
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := checkLog(path); err != nil {
			return "", err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// checkLog refuses a store without content that has a log with content: SQLite
// would take it for a new one, and delete the log.
func checkLog(path string) error {
	info, err := os.Stat(path + "-wal")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Size() > 0:
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("the store %s is missing or empty, but its log %[1]s-wal is not", path),
			Hint:    "put the store's file back, or move the log away to start with an empty store",
		}
	}
	return nil
}

// checkFile says whether the file is a sound store that this program can use.
// It changes nothing, except that SQLite takes a transaction back that a crash cut short.
func checkFile(ctx context.Context, path string, known int64, connect connect) error {
	head, err := readHead(path)
	if err != nil {
		return err
	}
	if len(head) == 0 {
		return checkLog(path)
	}
	if string(head) != sqliteMagic {
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: path + " is not a store of layover, or is damaged",
			Hint:    hintDamaged,
		}
	}
	err = checkDatabase(ctx, path, checkSettings, known, connect)
	if sqliteCode(err)&0xff == sqlite3.SQLITE_READONLY {
		// A creation was cut short before the log was in use: its journal has to be
		// rolled back first, which a connection that only reads cannot do.
		err = checkDatabase(ctx, path, recoverSettings, known, connect)
	}
	return err
}

func checkDatabase(ctx context.Context, path, settings string, known int64, connect connect) (err error) {
	db, err := pool(path, settings, 1, connect)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := checkSchema(ctx, db, path, known); err != nil {
		return err
	}
	return checkPages(ctx, db, path)
}

func readHead(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, int64(len(sqliteMagic))))
}

// checkSchema refuses the database of another program, and a schema that is newer than known.
func checkSchema(ctx context.Context, db *sql.DB, path string, known int64) error {
	var id, tables, versioned int64
	err := db.QueryRowContext(ctx, `
		SELECT application_id, (SELECT COUNT(*) FROM sqlite_schema),
			(SELECT COUNT(*) FROM sqlite_schema WHERE name = 'goose_db_version')
		FROM pragma_application_id`).Scan(&id, &tables, &versioned)
	if err != nil {
		return err
	}
	if id != applicationID && (id != 0 || tables != 0) { // neither is set where its creation was cut short
		return &control.Error{
			Code:    api.CodeConflict,
			Message: path + " is the database of another program",
			Hint:    "name another folder for the store with --data",
		}
	}
	if versioned == 0 {
		return nil
	}
	var found int64
	if err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version`).Scan(&found); err != nil {
		return err
	}
	if found > known {
		return &control.Error{
			Code:    api.CodeConflict,
			Message: fmt.Sprintf("the store %s has schema %d, and this layover knows schemas up to %d", path, found, known),
			Hint:    "use a newer layover, or name another folder with --data",
		}
	}
	return nil
}

// checkPages looks for damaged pages, for as long as checkTime.
func checkPages(ctx context.Context, db *sql.DB, path string) error {
	limited, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var verdict string
	err := db.QueryRowContext(limited, `PRAGMA quick_check(1)`).Scan(&verdict)
	switch {
	case err != nil && ctx.Err() == nil && limited.Err() != nil:
		return nil // no damage in as much as there was time for
	case err != nil:
		return err
	case verdict != "ok":
		return &control.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("the store %s is damaged", path),
			Hint:    hintDamaged,
			Err:     errors.New(verdict),
		}
	}
	return nil
}

// sqliteEngine is the SQLite half of a store. The lock of the file makes it this server's.
type sqliteEngine struct {
	path  string
	write *sql.DB
}

func (e sqliteEngine) inTx(ctx context.Context, kind txKind, work func(*sql.Tx) error) (err error) {
	if kind == quickTx {
		return runTx(ctx, e.write, work)
	}
	conn, err := e.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, `PRAGMA synchronous = FULL`); err != nil {
		return endOf(ctx, err)
	}
	defer func() { // where this fails, commits are slower, not less safe
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `PRAGMA synchronous = NORMAL`)
	}()
	return runTx(ctx, conn, work)
}

// lockVersion does nothing: there is one writer.
func (e sqliteEngine) lockVersion(context.Context, *sql.Tx, control.Key) error { return nil }

func (e sqliteEngine) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return ctx, func() {}
}

func (e sqliteEngine) explain(err error) error { return explain(e.path, err) }

func (e sqliteEngine) hold(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (e sqliteEngine) waitProof(context.Context) error { return nil }

// tellEvent tells nobody: no other server may open the file.
func (e sqliteEngine) tellEvent(context.Context, execer, int64) error { return nil }

func (e sqliteEngine) announce(_ context.Context, _, identity string) (string, error) {
	return identity, nil
}
