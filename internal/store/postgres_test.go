package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/store/postgrestest"
	"github.com/layover-dev/layover/internal/store/storetest"
)

func TestPostgres_Conformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Open {
		address := postgrestest.URL(t)
		return func(t *testing.T) storetest.Store {
			db, err := store.OpenPostgres(t.Context(), address)
			require.NoError(t, err)
			return db
		}
	})
}

func TestPostgres_OneServerAtATime(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	ctx, stop := context.WithCancel(t.Context())
	var holding errgroup.Group
	holding.Go(func() error { return first.Hold(ctx) })
	_, err := store.OpenPostgres(t.Context(), address)
	e := requireError(t, err, api.CodeConflict)
	require.Contains(t, e.Message, "is in use by another layover server: process ")
	require.Contains(t, e.Message, ", since 2")
	require.NotEmpty(t, e.Hint)
	require.NoError(t, first.PutService(t.Context(), api.Service{Name: "cart"}), "the attempt took nothing away")

	stop()
	require.ErrorIs(t, holding.Wait(), context.Canceled)
	require.NoError(t, first.Close())
	require.NoError(t, first.Close(), "closing again")
	services, err := openPostgres(t, address).Services(t.Context())
	require.NoError(t, err)
	require.Len(t, services, 1)
}

// Servers that start at once over an empty schema make it once, and one of them gets it.
func TestPostgres_StartsAtOnce(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	const servers = 4
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	opened, refused := make(chan *store.DB, servers), make(chan error, servers)
	var group errgroup.Group
	for range servers {
		group.Go(func() error {
			db, err := store.OpenPostgres(t.Context(), address)
			if err != nil {
				refused <- err
				return nil
			}
			opened <- db
			if err := db.Hold(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}
	for range servers - 1 {
		require.Contains(t, requireError(t, <-refused, api.CodeConflict).Message, "in use")
	}
	stop()
	require.NoError(t, group.Wait())
	require.Len(t, opened, 1)
	db := <-opened
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}))
	require.NoError(t, db.Close())
}

// A server that was cut off while another took the store writes nothing, and is told.
func TestPostgres_ExHolderWritesNothing(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	key := control.Key{Service: "cart", Version: "main"}
	require.NoError(t, first.PutService(t.Context(), api.Service{Name: "cart"}))
	expire(t, address)
	second := openPostgres(t, address)

	writes := map[string]func() error{
		"PutService":    func() error { return first.PutService(t.Context(), api.Service{Name: "late"}) },
		"DeleteService": func() error { return first.DeleteService(t.Context(), "cart") },
		"PutRoute":      func() error { return first.PutRoute(t.Context(), api.NamedRoute{Name: "late"}) },
		"DeleteRoute":   func() error { return first.DeleteRoute(t.Context(), "late") },
		"AppendEvent":   func() error { _, err := first.AppendEvent(t.Context(), api.Event{}); return err },
		"NextRevision":  func() error { _, err := first.NextRevision(t.Context()); return err },
		"UpdateVersion": func() error {
			return first.UpdateVersion(t.Context(), key, func(*control.VersionRecord) (*control.VersionRecord, error) {
				t.Error("edit is called")
				return &control.VersionRecord{Key: key}, nil
			})
		},
	}
	for name, write := range writes {
		require.Contains(t, requireError(t, write(), api.CodeConflict).Message, "taken over", name)
	}
	services, err := second.Services(t.Context())
	require.NoError(t, err)
	require.Len(t, services, 1)
	revision, err := second.NextRevision(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, revision)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.Contains(t, requireError(t, first.Hold(ctx), api.CodeConflict).Message, "taken over")
}

// A transaction that has begun is waited for: it is not broken off, and does not come later.
func TestPostgres_TakingWaitsForTransactions(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	key := control.Key{Service: "cart", Version: "main"}
	inside, goOn := make(chan struct{}), make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		return first.UpdateVersion(t.Context(), key, func(*control.VersionRecord) (*control.VersionRecord, error) {
			close(inside)
			<-goOn
			return &control.VersionRecord{Key: key}, nil
		})
	})
	<-inside
	expire(t, address)
	taken := make(chan []control.VersionRecord, 1)
	group.Go(func() error {
		second, err := store.OpenPostgres(t.Context(), address)
		if err != nil {
			return err
		}
		all, err := second.Versions(t.Context())
		taken <- all
		return errors.Join(err, second.Close())
	})
	waitForLock(t, address, "UPDATE layover_holder SET number")
	require.Empty(t, taken)
	close(goOn)
	require.NoError(t, group.Wait())
	require.Len(t, <-taken, 1)
}

// A server that is paused in the middle of a transaction keeps the store from nobody, and
// stores nothing when it goes on.
func TestPostgres_PausedInTransaction(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	key := control.Key{Service: "cart", Version: "main"}
	err := first.UpdateVersion(t.Context(), key, func(*control.VersionRecord) (*control.VersionRecord, error) {
		began := time.Now()
		second, err := store.OpenPostgres(t.Context(), address) // nobody renews the lease of the first
		require.NoError(t, err)
		require.Less(t, time.Since(began), 15*time.Second)
		require.NoError(t, second.Close())
		return &control.VersionRecord{Key: key}, nil
	})
	require.Error(t, err)
	all, err := openPostgres(t, address).Versions(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
}

// Connections that break, as when PostgreSQL starts again, lose the store to nobody.
func TestPostgres_HoldsAgain(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	address = postgrestest.With(t, address, "application_name", "holds-again")
	db := openPostgres(t, address)
	hold(t, db)
	require.Eventually(t, func() bool { return cutOff(t, address) }, 20*time.Second, 20*time.Millisecond)
	before := count(t, address, renewed)
	require.Eventually(t, func() bool { return count(t, address, renewed) > before }, 20*time.Second, 20*time.Millisecond)
	_, err := store.OpenPostgres(t.Context(), address)
	require.Contains(t, requireError(t, err, api.CodeConflict).Message, "in use")
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}))
}

// What acts outside of the database is let through only while the lease was renewed a moment ago, and
// never by a server whose store another one has taken.
func TestPostgres_WaitProof(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	require.NoError(t, first.WaitProof(t.Context()), "it has just been taken")
	require.Eventually(t, func() bool { // nobody renews the lease
		ended, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		return first.WaitProof(ended) != nil
	}, 20*time.Second, 20*time.Millisecond)
	_, err := first.LastEvent(t.Context())
	require.NoError(t, err)
	require.Less(t, count(t, address, `SELECT extract(epoch FROM clock_timestamp() - renewed) * 1000 FROM layover_holder`), 3000,
		"the proof ends before the lease")

	ctx, stop := context.WithCancel(t.Context())
	var holding errgroup.Group
	holding.Go(func() error { return first.Hold(ctx) })
	require.NoError(t, first.WaitProof(t.Context()), "it is renewed")
	stop()
	require.ErrorIs(t, holding.Wait(), context.Canceled)

	second := openPostgres(t, address)
	hold(t, second)
	waiting := make(chan error, 1)
	go func() { waiting <- first.WaitProof(t.Context()) }()
	require.ErrorIs(t, first.Hold(t.Context()), store.ErrTaken)
	require.ErrorIs(t, <-waiting, store.ErrTaken)
	require.NoError(t, second.WaitProof(t.Context()))
}

// What cannot be used is refused with a hint. No text about it has the password.
func TestOpenPostgres_Refuses(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	port := func() string { // where nobody listens
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		return l.Addr().String()
	}
	secret := postgrestest.Password
	tests := map[string]struct {
		address string
		make    string // a statement
		code    api.Code
		says    string
	}{
		"nobody listens":    {address: "postgres://u:" + secret + "@" + port() + "/x", code: api.CodeUnavailable, says: "does not answer"},
		"an unknown host":   {address: "postgres://u:" + secret + "@no-such-host.invalid/x", code: api.CodeUnavailable, says: "does not answer"},
		"no such database":  {address: strings.Replace(address, "/postgres?", "/none?", 1), code: api.CodeUnavailable, says: "there is no database"},
		"a wrong password":  {address: strings.Replace(address, secret, secret+"x", 1), code: api.CodeUnavailable, says: "refuses the user"},
		"a bad port":        {address: "postgres://u:" + secret + "@h:99999999/x", code: api.CodeInvalid, says: "port"},
		"a bare %":          {address: "postgres://u:" + secret + "%@h/x", code: api.CodeInvalid, says: "is not valid"},
		"a / in a password": {address: "postgres://u:" + secret + "/y@h/x", code: api.CodeInvalid, says: "is not valid"},
		"a bad sslmode":     {address: "postgres://u:" + secret + "@h/x?sslmode=maybe", code: api.CodeInvalid, says: "sslmode"},
		"no such schema":    {address: postgrestest.With(t, address, "search_path", "none"), code: api.CodeConflict, says: "no schema"},
		"tables of another program": {
			address: address, make: `CREATE TABLE orders (id INT)`,
			code: api.CodeConflict, says: "has tables of another program",
		},
		"a newer schema": {
			address: address, make: `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`,
			code: api.CodeConflict, says: "has schema 999",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.address == address {
				test.address = postgrestest.URL(t)
				if strings.Contains(test.make, "goose") {
					require.NoError(t, openPostgres(t, test.address).Close())
				}
				postgrestest.Exec(t, test.address, test.make)
			}
			_, err := store.OpenPostgres(t.Context(), test.address)
			e := requireError(t, err, test.code)
			require.Contains(t, e.Message, test.says)
			require.NotEmpty(t, e.Hint)
			for inner := error(e); inner != nil; {
				require.NotContains(t, inner.Error(), secret)
				unwrapped, ok := inner.(interface{ Unwrap() error })
				if !ok {
					break
				}
				inner = unwrapped.Unwrap()
			}
			require.NotContains(t, e.Hint, secret)
		})
	}
}

// The password can come from where PostgreSQL's own programs take it; Path has none.
func TestOpenPostgres_Password(t *testing.T) {
	address := postgrestest.URL(t)
	bare := strings.Replace(address, ":"+postgrestest.Password+"@", "@", 1)
	require.NotEqual(t, address, bare)
	t.Run("PGPASSWORD", func(t *testing.T) {
		t.Setenv("PGPASSWORD", postgrestest.Password)
		require.NoError(t, openPostgres(t, bare).Close())
	})
	t.Run("PGPASSFILE", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "pass")
		require.NoError(t, os.WriteFile(file, []byte("*:*:*:"+postgrestest.User+":"+postgrestest.Password+"\n"), 0o600))
		t.Setenv("PGPASSFILE", file)
		require.NoError(t, openPostgres(t, bare).Close())
	})
	t.Run("in the address", func(t *testing.T) {
		db := openPostgres(t, address)
		require.NotContains(t, db.Path(), postgrestest.Password)
		require.Contains(t, db.Path(), "postgres://"+postgrestest.User+"@")
	})
}

// Both databases have the same tables and columns, by the same migrations: what one keeps, the other
// can take over.
func TestSchemas_AreTheSame(t *testing.T) {
	require.Equal(t, fileNames(t, "migrations/sqlite"), fileNames(t, "migrations/postgres"))

	path := filepath.Join(t.TempDir(), "layover.db")
	require.NoError(t, open(t, path).Close())
	sqlite := columns(t, "sqlite", path, `
		SELECT m.name || '.' || c.name || CASE WHEN c."notnull" THEN ' NOT NULL' ELSE '' END
		FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'`)
	address := postgrestest.URL(t)
	require.NoError(t, openPostgres(t, address).Close())
	postgres := columns(t, "pgx", address, `
		SELECT table_name || '.' || column_name || CASE WHEN is_nullable = 'NO' THEN ' NOT NULL' ELSE '' END
		FROM information_schema.columns WHERE table_schema = current_schema()`)
	require.NotEmpty(t, sqlite)
	require.Equal(t, sqlite, postgres)
}

// columns returns what a query lists, but for the tables that are per database.
func columns(t *testing.T, driver, name, query string) []string {
	t.Helper()
	db, err := sql.Open(driver, name)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	rows, err := db.QueryContext(t.Context(), query)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	var all []string
	for rows.Next() {
		var column string
		require.NoError(t, rows.Scan(&column))
		if table, _, _ := strings.Cut(column, "."); table != "goose_db_version" && table != "layover_holder" && table != "sqlite_sequence" {
			all = append(all, column)
		}
	}
	require.NoError(t, rows.Err())
	slices.Sort(all)
	return all
}

func openPostgres(t *testing.T, address string) *store.DB {
	t.Helper()
	db, err := store.OpenPostgres(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// hold renews the lease of db until the test ends.
func hold(t *testing.T, db *store.DB) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- db.Hold(ctx) }()
	t.Cleanup(func() {
		stop()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// renewed is when the lease was renewed, in milliseconds.
const renewed = `SELECT extract(epoch FROM renewed) * 1000 FROM layover_holder`

// expire lets the lease end, as if its holder had been paused or cut off for as long.
func expire(t *testing.T, address string) {
	t.Helper()
	postgrestest.Exec(t, address, `UPDATE layover_holder SET renewed = clock_timestamp() - interval '1 hour'`)
}

// cutOff breaks the connections to the schema of address, as a lost network does, and says whether there
// was one that renews the lease.
func cutOff(t *testing.T, address string) bool {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return count(t, address, `SELECT COUNT(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND query LIKE 'UPDATE layover_holder SET renewed%' AND application_name = '`+u.Query().Get("application_name")+`'`) > 0
}

// waitForLock returns when a statement that begins with text waits for another transaction.
func waitForLock(t *testing.T, address, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return count(t, address, `SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%`+text+`%'`) > 0
	}, 20*time.Second, 10*time.Millisecond)
}

func count(t *testing.T, address, query string) int {
	t.Helper()
	db, err := sql.Open("pgx", address)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	var n float64
	require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&n))
	return int(n)
}

// A call whose context ends while its commit is under way is told what became of it: an error
// means that nothing was stored.
func TestPostgres_ContextEndsDuringCommit(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	slow := newSlowCommits(t, address)
	db := openPostgres(t, postgrestest.With(t, address, "host", slow.dir))
	ctx, cancel := context.WithCancel(t.Context())
	slow.armed.Store(true)
	stored := make(chan error, 1)
	go func() { stored <- db.PutRoute(ctx, api.NamedRoute{Name: "team"}) }()
	<-slow.committed
	require.Eventually(t, func() bool { return count(t, address, `SELECT COUNT(*) FROM routes`) == 1 }, 20*time.Second, time.Millisecond)
	cancel()
	runtime.Gosched()
	close(slow.goOn)
	require.NoError(t, <-stored)
}

// slowCommits passes PostgreSQL's protocol on. Once it is armed it keeps back the answer to the next commit.
type slowCommits struct {
	dir       string
	armed     atomic.Bool
	committed chan struct{} // closed when that commit was passed on
	goOn      chan struct{}
}

func newSlowCommits(t *testing.T, address string) *slowCommits {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	s := &slowCommits{committed: make(chan struct{}), goOn: make(chan struct{})}
	s.dir, err = os.MkdirTemp("", "pg") // the name of a socket is short
	require.NoError(t, err)
	l, err := net.Listen("unix", filepath.Join(s.dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	var all sync.WaitGroup
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		all.Wait()
		require.NoError(t, os.RemoveAll(s.dir))
	})
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"))
			if err != nil {
				_ = client.Close()
				continue
			}
			held := make(chan struct{})
			all.Go(func() {
				s.pass(server, client, func(data []byte) {
					if bytes.Contains(data, []byte("commit")) && s.armed.CompareAndSwap(true, false) {
						close(held)
						close(s.committed)
					}
				})
			})
			all.Go(func() {
				s.pass(client, server, func([]byte) {
					select {
					case <-held:
						<-s.goOn
					default:
					}
				})
			})
		}
	})
	return s
}

// pass copies until a side ends; look sees the data before they are passed on.
func (s *slowCommits) pass(to, from net.Conn, look func([]byte)) {
	defer func() { _, _ = to.Close(), from.Close() }()
	data := make([]byte, 64<<10)
	for {
		n, err := from.Read(data)
		if err != nil {
			return
		}
		look(data[:n])
		if _, err := to.Write(data[:n]); err != nil {
			return
		}
	}
}
