package store

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

//go:embed migrations/postgres/*.sql
var postgresMigrations embed.FS

const (
	callTime        = 30 * time.Second // how long one call may take, with all it waits for
	connectTime     = 5 * time.Second  // how long a connection may take to come up, unless the address says
	connections     = 16               // of one server at most
	idleTime        = 2 * time.Second  // how long a transaction may lie idle: a paused server must not keep its locks
	aliveEvery      = 5 * time.Second  // how often TCP asks whether an idle other side is still there
	aliveMisses     = 3                // how many times without an answer
	lockOpening     = 0x4c41594f       // "LAYO": the first number of our advisory locks; while the schema is made
	lockVersion     = lockOpening + 1  // while a version is changed
	holderTable     = "layover_holder" // what marks a database as ours
	hintOwnDatabase = "give it a database of its own (createdb layover), or a schema (?search_path=layover)"
)

// OpenPostgres opens the store in the PostgreSQL database at address, a URL that begins with
// postgres:// or postgresql://, and makes its tables where there are none. What the
// address leaves out comes from the variables of PostgreSQL's own programs (PGPASSWORD, PGPASSFILE,
// PGSSLMODE and so on).
//
// It fails where another server has the store, and where the database is of something else, or has a newer
// schema than this program knows. Such errors are [control.Error] values with a hint, and none has the password.
func OpenPostgres(ctx context.Context, address string) (*DB, error) {
	return openPostgresStore(ctx, address, func(ctx context.Context, p *postgres) error {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		return p.take(ctx)
	})
}

func openPostgresStore(ctx context.Context, address string, take func(context.Context, *postgres) error) (*DB, error) {
	p, err := connectPostgres(address)
	if err != nil {
		return nil, err
	}
	if err := p.open(ctx, take); err != nil {
		p.release()
		return nil, errors.Join(p.explainOpen(ctx, err), p.pool.Close())
	}
	return p.database(), nil
}

// database returns the store as the rest of the program knows it.
func (p *postgres) database() *DB {
	return &DB{
		path: p.name, write: p.pool, read: p.pool, engine: p, keepEvents: keepEvents, appending: make(chan struct{}, 1),
		close: sync.OnceValue(func() error {
			p.release()
			return p.pool.Close()
		}),
	}
}

// postgres is the PostgreSQL half of a store.
type postgres struct {
	name    string // its address without the password
	config  *pgx.ConnConfig
	pool    *sql.DB
	tenure  // that it is this server's
	hearing *hearing
}

// connectPostgres reads the address. Connections are made when they are needed.
func connectPostgres(address string) (*postgres, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, &control.Error{
			Code:    api.CodeInvalid,
			Message: "the address of the PostgreSQL database is not valid" + addressDetail(err),
			Hint:    "write postgres://user@host:5432/database, with special characters as %XX; the password can be in PGPASSWORD or PGPASSFILE",
		}
	}
	config.ConnectTimeout = cmp.Or(config.ConnectTimeout, connectTime)
	dialer := &net.Dialer{Timeout: config.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: aliveEvery, Interval: aliveEvery, Count: aliveMisses,
	}}
	config.DialFunc = dialer.DialContext
	seconds := strconv.Itoa(int(aliveEvery.Seconds()))
	for name, value := range map[string]string{
		"application_name": "layover",
		// So that a server which is paused, or whose machine is gone, keeps nothing locked for long.
		"idle_in_transaction_session_timeout": strconv.Itoa(int(idleTime.Milliseconds())),
		"tcp_keepalives_idle":                 seconds, "tcp_keepalives_interval": seconds, "tcp_keepalives_count": strconv.Itoa(aliveMisses),
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	p := &postgres{name: publicAddress(config), config: config, pool: stdlib.OpenDB(*config), hearing: newHearing()}
	p.changed = make(chan struct{})
	p.pool.SetMaxOpenConns(connections)
	p.pool.SetMaxIdleConns(connections)
	p.pool.SetConnMaxIdleTime(5 * time.Minute)
	return p, nil
}

// addressDetail says what is wrong with an address, without any of its text: it may
// hold a password in a place that nobody expects.
func addressDetail(err error) string {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return ": a file that it names cannot be read"
	}
	if strings.Contains(err.Error(), "sslmode") {
		return ": sslmode is one of disable, allow, prefer, require, verify-ca and verify-full"
	}
	if strings.Contains(err.Error(), "port") {
		return ": the port is not a number from 1 to 65535"
	}
	return ""
}

// publicAddress returns what may be told of an address.
func publicAddress(config *pgx.ConnConfig) string {
	u := url.URL{Scheme: "postgres", User: url.User(config.User), Path: "/" + config.Database}
	if strings.HasPrefix(config.Host, "/") {
		u.RawQuery = "host=" + config.Host
	} else {
		u.Host = net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	}
	return u.String()
}

// open makes the tables where there are none, takes the store, and then brings tables that were there up
// to date: a server that has the store may not know the newer ones.
func (p *postgres) open(ctx context.Context, take func(context.Context, *postgres) error) error {
	if err := p.migrate(ctx, isNew); err != nil {
		return err
	}
	if err := take(ctx, p); err != nil {
		return err
	}
	return p.migrate(ctx, isAny)
}

// The schemas that [postgres.migrate] may bring up to date.
func isNew(found int64) bool { return found == 0 }
func isAny(int64) bool       { return true }

// migrate brings the schema to what this program knows, where wanted says so of the version that it has. Servers
// that start at once do it one after another.
func (p *postgres) migrate(ctx context.Context, wanted func(found int64) bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	conn, err := p.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer discard(conn) // with it ends the lock
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1, hashtext(current_schema()))`, lockOpening); err != nil {
		return err
	}
	files, err := fs.Sub(postgresMigrations, "migrations/postgres")
	if err != nil {
		return err
	}
	migrations, err := goose.NewProvider(goose.DialectPostgres, p.pool, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	found, err := p.checkSchema(ctx, conn, newest(migrations))
	if err != nil || found == newest(migrations) || !wanted(found) {
		return err
	}
	if _, err := migrations.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// checkSchema returns the version of the schema, 0 where there is none yet. It refuses the
// database of another program, and a schema that is newer than known.
func (p *postgres) checkSchema(ctx context.Context, conn *sql.Conn, known int64) (found int64, err error) {
	var encoding, schema string
	var ours, versioned bool
	var others int
	err = conn.QueryRowContext(ctx, `
		SELECT current_setting('server_encoding'), COALESCE(current_schema(), ''),
			COALESCE(bool_or(tablename = $1), false), COALESCE(bool_or(tablename = 'goose_db_version'), false),
			COUNT(*) FILTER (WHERE tablename <> 'goose_db_version')
		FROM pg_tables WHERE schemaname = current_schema()`, holderTable).Scan(&encoding, &schema, &ours, &versioned, &others)
	switch {
	case err != nil:
		return 0, err
	case encoding != "UTF8":
		return 0, conflict("create one with: createdb --encoding UTF8 --template template0 layover",
			"the database %s has the encoding %s, not UTF8", p.name, encoding)
	case schema == "":
		return 0, conflict("create it with: CREATE SCHEMA …, or correct search_path in the address",
			"the database %s has no schema that its search_path names", p.name)
	case !ours && others > 0:
		return 0, conflict(hintOwnDatabase, "the schema %s of %s has tables of another program", schema, p.name)
	case !versioned:
		return 0, nil
	}
	err = conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version`).Scan(&found)
	if err == nil && found > known {
		return 0, conflict("use a newer layover, or another database",
			"the store %s has schema %d, and this layover knows schemas up to %d", p.name, found, known)
	}
	return found, err
}

func conflict(hint, format string, args ...any) error {
	return &control.Error{Code: api.CodeConflict, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// inTx runs work in a transaction that holds only as long as the store is this server's.
//
// The transaction itself does not end with ctx, the statements in it do: a commit that
// was broken off may have taken effect, and would be reported as one that has not.
func (p *postgres) inTx(ctx context.Context, kind txKind, work func(*sql.Tx) error) error {
	whole := context.WithoutCancel(ctx)
	if kind != longTx {
		var cancel, cancelWhole context.CancelFunc
		ctx, cancel = p.bound(ctx)
		defer cancel()
		whole, cancelWhole = context.WithTimeout(whole, callTime+connectTime)
		defer cancelWhole()
	}
	conn, err := p.pool.Conn(ctx)
	if err != nil {
		return endOf(ctx, err)
	}
	defer func() { _ = conn.Close() }() // goes back to the pool
	err = runTx(whole, conn, func(tx *sql.Tx) error {
		if err := p.check(ctx, tx); err != nil {
			return err
		}
		if kind == longTx { // it may wait for its input
			if _, err := tx.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
				return err
			}
		}
		if kind != quickTx { // whatever the database's setting is
			if _, err := tx.ExecContext(ctx, `SET LOCAL synchronous_commit = on`); err != nil {
				return err
			}
		}
		if err := work(tx); err != nil {
			return err
		}
		return ctx.Err()
	})
	return endOf(ctx, err)
}

func (p *postgres) lockVersion(ctx context.Context, tx *sql.Tx, key control.Key) error {
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1, hashtext(current_schema() || '/' || $2))`, lockVersion, key.String())
	return err
}

func (p *postgres) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, callTime, errNoAnswer)
}

// discard closes the connection itself, instead of giving it back to its pool. That it is broken
// or closed already does not matter.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // database/sql closes what it is told is bad
	_ = conn.Close()
}
