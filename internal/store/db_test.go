package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func TestDB_KeepsNewestEvents(t *testing.T) {
	db, _ := openCounted(t)
	db.keepEvents = 100
	const appended = 3*pruneEvents + 50
	for range appended {
		_, err := db.AppendEvent(t.Context(), api.Event{Message: "something"})
		require.NoError(t, err)
	}
	events, err := db.Events(t.Context(), 0, appended)
	require.NoError(t, err)
	require.Len(t, events, 100+50, "100 at the last deletion, and 50 since")
	require.EqualValues(t, appended, events[len(events)-1].ID)

	db.keepEvents = 0
	for range pruneEvents - 50 {
		_, err = db.AppendEvent(t.Context(), api.Event{})
		require.NoError(t, err)
	}
	last, err := db.LastEvent(t.Context())
	require.NoError(t, err)
	require.Zero(t, last)
	id, err := db.AppendEvent(t.Context(), api.Event{})
	require.NoError(t, err)
	require.EqualValues(t, 4*pruneEvents+1, id, "an ID comes once, also where no event is left")
}

// A list is one statement, and an update a few, however many versions there are.
func TestDB_StatementsDoNotGrowWithVersions(t *testing.T) {
	db, statements := openCounted(t)
	fillVersions(t, db, 10_000)
	_, err := db.Services(t.Context()) // opens the connection
	require.NoError(t, err)

	before := statements.Load()
	all, err := db.Versions(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 10_000)
	require.EqualValues(t, 1, statements.Load()-before)

	before = statements.Load()
	require.NoError(t, touch(t.Context(), db, all[5_000].Key))
	require.EqualValues(t, 2, statements.Load()-before, "beside begin and commit")
}

// No statement walks a table to find a row, or sorts what an index has in order.
func TestDB_UsesIndexes(t *testing.T) {
	db, _ := openCounted(t)
	for query, plan := range map[string]string{
		`SELECT name, spec FROM services ORDER BY name`:                         "SCAN services USING INDEX",
		`SELECT service, version, spec FROM versions ORDER BY service, version`: "SCAN versions USING INDEX",
		`SELECT spec FROM versions WHERE service = 'a' AND version = 'b'`:       "SEARCH versions USING INDEX",
		`DELETE FROM versions WHERE service = 'a'`:                              "SEARCH versions USING",
		`SELECT id, spec FROM events WHERE id > 5 ORDER BY id LIMIT 10`:         "SEARCH events USING INTEGER PRIMARY KEY",
		`SELECT COALESCE(MAX(id), 0) FROM events`:                               "SEARCH events",
		`DELETE FROM events WHERE id <= 5`:                                      "SEARCH events USING INTEGER PRIMARY KEY",
	} {
		var id, parent, unused int
		var detail string
		require.NoError(t, db.read.QueryRowContext(t.Context(), `EXPLAIN QUERY PLAN `+query).Scan(&id, &parent, &unused, &detail))
		require.True(t, strings.HasPrefix(detail, plan), "%s: %s", query, detail)
	}
}

func TestDB_Settings(t *testing.T) {
	db, _ := openCounted(t)
	_, err := db.NextRevision(t.Context()) // changes synchronous, and back
	require.NoError(t, err)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "1", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		require.NoError(t, db.write.QueryRowContext(t.Context(), `PRAGMA `+pragma).Scan(&got))
		require.Equal(t, want, got, pragma)
	}
	require.NoError(t, db.engine.inTx(t.Context(), durableTx, func(tx *sql.Tx) error {
		var level int
		require.NoError(t, tx.QueryRowContext(t.Context(), `PRAGMA synchronous`).Scan(&level))
		require.Equal(t, 2, level, "FULL, while a revision is counted")
		return nil
	}))
	_, err = db.read.ExecContext(t.Context(), `DELETE FROM services`)
	require.Error(t, err, "the read pool cannot write")
}

// A full disk is an error that says so; what was there is intact, and the store
// goes on when there is room again.
func TestDB_FullDisk(t *testing.T) {
	db, _ := openCounted(t)
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}))
	limitPages := func(limit string) {
		var pages int
		require.NoError(t, db.write.QueryRowContext(t.Context(), `PRAGMA max_page_count = `+limit).Scan(&pages))
	}
	limitPages("20")
	big := api.Service{Name: "big", Default: strings.Repeat("x", 1<<20)}
	err := db.PutService(t.Context(), big)
	e, ok := errors.AsType[*control.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, api.CodeUnavailable, e.Code)
	require.Contains(t, e.Message, "is full")
	require.Contains(t, e.Hint, "free some space")
	require.ErrorContains(t, e.Err, "store service big")

	services, err := db.Services(t.Context())
	require.NoError(t, err)
	require.Len(t, services, 1)
	limitPages("1000000")
	require.NoError(t, db.PutService(t.Context(), big))
}

func BenchmarkDB_UpdateVersion(b *testing.B) {
	db, _ := openCounted(b)
	fillVersions(b, db, 10_000)
	key := control.Key{Service: "service-042", Version: "version-0042"}
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, touch(b.Context(), db, key))
	}
}

func BenchmarkDB_Versions(b *testing.B) {
	db, _ := openCounted(b)
	fillVersions(b, db, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		all, err := db.Versions(b.Context())
		require.NoError(b, err)
		require.Len(b, all, 10_000)
	}
}

func BenchmarkDB_AppendEvent(b *testing.B) {
	db, _ := openCounted(b)
	b.ReportAllocs()
	for b.Loop() {
		_, err := db.AppendEvent(b.Context(), api.Event{Type: api.EventDeployStep, Service: "cart", Version: "main", Message: "healthy"})
		require.NoError(b, err)
	}
}

func BenchmarkDB_NextRevision(b *testing.B) {
	db, _ := openCounted(b)
	for b.Loop() {
		_, err := db.NextRevision(b.Context())
		require.NoError(b, err)
	}
}

func touch(ctx context.Context, db *DB, key control.Key) error {
	return db.UpdateVersion(ctx, key, func(r *control.VersionRecord) (*control.VersionRecord, error) {
		r.Desired = control.DesiredStopped
		return r, nil
	})
}

// fillVersions stores versions of 100 services.
func fillVersions(t testing.TB, db *DB, count int) {
	t.Helper()
	deployment := api.Deployment{Owner: "ada", Source: "cli"}
	deployment.Env = map[string]string{"COLOUR": "blue"}
	spec, err := encode(control.VersionRecord{
		Desired: control.DesiredRunning, Branch: "feature/one", Owner: "ada",
		Generations: []control.Generation{{Number: 1, Deployment: deployment, State: control.GenerationServing}},
	})
	require.NoError(t, err)
	require.NoError(t, db.exec(t.Context(), `
		WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $1)
		INSERT INTO versions SELECT printf('service-%03d', i % 100), printf('version-%04d', i / 100), $2 FROM n`, count, spec))
}

// openCounted opens an empty store, and counts the statements it runs.
func openCounted(t testing.TB) (*DB, *atomic.Int64) {
	t.Helper()
	statements := new(atomic.Int64)
	db, err := openSQLite(t.Context(), filepath.Join(t.TempDir(), "layover.db"), func(dsn string) (driver.Connector, error) {
		c, err := sqlite.NewConnector(dsn)
		return &countingConnector{c, statements}, err
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db, statements
}

type countingConnector struct {
	driver.Connector
	statements *atomic.Int64
}

func (c *countingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &countingConn{conn.(sqliteConn), c.statements}, nil
}

// sqliteConn is what every connection of the driver implements.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type countingConn struct {
	sqliteConn
	statements *atomic.Int64
}

func (c *countingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.statements.Add(1)
	return c.sqliteConn.ExecContext(ctx, query, args)
}

func (c *countingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.statements.Add(1)
	return c.sqliteConn.QueryContext(ctx, query, args)
}

func (c *countingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.statements.Add(1)
	return c.sqliteConn.PrepareContext(ctx, query)
}
