package store_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// A server that waits for the store reads it, hears of each event and of who has the store, and has it when the other gives it up.
func TestShared(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	hold(t, first)
	shared, err := store.JoinPostgres(t.Context(), address)
	require.NoError(t, err)
	holders := make(chan store.Holder, 1000)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var second *store.DB
	var taking errgroup.Group
	taking.Go(func() (err error) {
		second, err = shared.Take(ctx, func(h store.Holder) { holders <- h })
		return err
	})
	h := <-holders
	require.Regexp(t, `^process \d+ on \S+$`, h.Name)
	require.Empty(t, h.URL)
	require.True(t, h.Known)

	require.NoError(t, first.PutService(ctx, api.Service{Name: "cart"}))
	key := control.Key{Service: "cart", Version: "one"}
	_, err = shared.Version(ctx, key)
	require.ErrorIs(t, err, control.ErrNotStored)
	require.NoError(t, first.UpdateVersion(ctx, key, func(*control.VersionRecord) (*control.VersionRecord, error) {
		return &control.VersionRecord{Key: key, Owner: "ana"}, nil
	}))
	revision, err := first.NextRevision(ctx)
	require.NoError(t, err)
	record, err := shared.Version(ctx, key)
	require.NoError(t, err)
	require.Equal(t, "ana", record.Owner)
	seen, err := shared.Revision(ctx)
	require.NoError(t, err)
	require.Equal(t, revision, seen)

	for id := int64(1); id <= 20; id++ {
		waiting := make(chan error, 1)
		go func() { waiting <- shared.WaitEvents(ctx, id-1) }()
		_, err := first.AppendEvent(ctx, api.Event{Type: api.EventRouteChanged})
		require.NoError(t, err)
		require.NoError(t, <-waiting)
		events, err := shared.Events(ctx, id-1, 10)
		require.NoError(t, err)
		require.Len(t, events, 1, "what was heard of can be read")
	}
	soon, end := context.WithTimeout(ctx, 10*time.Millisecond)
	defer end()
	require.ErrorIs(t, shared.WaitEvents(soon, 20), context.DeadlineExceeded)

	_, err = first.Announce(ctx, "http://10.0.0.5:7070", "shop-1")
	require.NoError(t, err)
	for h := range holders {
		if h.URL == "http://10.0.0.5:7070" {
			break
		}
	}
	require.NoError(t, first.Close())
	require.NoError(t, taking.Wait())
	require.NoError(t, second.WaitProof(ctx))
	require.NoError(t, second.PutService(ctx, api.Service{Name: "pricing"}))
	require.NoError(t, second.Close())
}

// What is told comes without a look at the store: LISTEN is what brings it, and a look is the net where its connection breaks.
func TestShared_ListensAgain(t *testing.T) {
	t.Parallel()
	address := postgrestest.With(t, postgrestest.URL(t), "application_name", "listens-again")
	first := openPostgres(t, address)
	hold(t, first)
	shared, err := store.JoinPostgres(t.Context(), address)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var taking errgroup.Group
	taking.Go(func() error {
		_, err := shared.Take(ctx, func(store.Holder) {})
		return err
	})
	const listeners = `SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'listens-again' AND query LIKE 'LISTEN %'`
	for range 2 {
		require.Eventually(t, func() bool { return count(t, address, listeners) == 1 }, 20*time.Second, 10*time.Millisecond)
		count(t, address, strings.Replace(listeners, "COUNT(*)", "COUNT(pg_terminate_backend(pid, 10000))", 1))
		id, err := first.AppendEvent(ctx, api.Event{Type: api.EventRouteChanged})
		require.NoError(t, err)
		require.NoError(t, shared.WaitEvents(ctx, id-1))
	}
	require.Eventually(t, func() bool { return count(t, address, listeners) == 1 }, 20*time.Second, 10*time.Millisecond)
	postgrestest.Exec(t, address, `SELECT pg_notify('layover_' || md5(current_schema()), 'event 1000')`) // that no look finds
	require.NoError(t, shared.WaitEvents(ctx, 999))
	cancel()
	require.Error(t, taking.Wait())
	require.Eventually(t, func() bool { return count(t, address, listeners) == 0 }, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, shared.Close())
}

// An event is told of as soon as it is kept, and so is that the store was given up.
func TestPostgres_Tells(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	db := openPostgres(t, address)
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	var channel string
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT 'layover_' || md5(current_schema())`).Scan(&channel))
	_, err = conn.Exec(t.Context(), `LISTEN `+channel)
	require.NoError(t, err)
	told := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		n, err := conn.WaitForNotification(ctx)
		require.NoError(t, err)
		return n.Payload
	}
	_, err = db.AppendEvent(t.Context(), api.Event{})
	require.NoError(t, err)
	require.Equal(t, "event 1", told())
	_, err = db.Announce(t.Context(), "http://10.0.0.5:7070", "shop-1")
	require.NoError(t, err)
	require.Equal(t, "holder", told())
	require.NoError(t, db.Close())
	require.Equal(t, "holder", told())
}

// A transaction that is not kept tells nobody of its event.
func TestShared_HearsOfNoEventThatIsNotKept(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	expire(t, address)
	second := openPostgres(t, address)
	hold(t, second)
	shared, err := store.JoinPostgres(t.Context(), address)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var taking errgroup.Group
	taking.Go(func() error {
		_, err := shared.Take(ctx, func(store.Holder) {})
		return err
	})
	_, err = first.AppendEvent(ctx, api.Event{})
	require.Error(t, err)
	soon, end := context.WithTimeout(ctx, 300*time.Millisecond)
	defer end()
	require.ErrorIs(t, shared.WaitEvents(soon, 0), context.DeadlineExceeded)
	cancel()
	require.Error(t, taking.Wait())
	require.NoError(t, shared.Close())
}

// A store whose schema this program does not know is not read by who waits for it.
func TestShared_AnotherSchema(t *testing.T) {
	t.Parallel()
	address := postgrestest.URL(t)
	first := openPostgres(t, address)
	hold(t, first)
	shared, err := store.JoinPostgres(t.Context(), address)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	known := make(chan bool, 1000)
	var taking errgroup.Group
	taking.Go(func() error {
		defer close(known)
		_, err := shared.Take(ctx, func(h store.Holder) { known <- h.Known })
		return err
	})
	require.True(t, <-known)
	postgrestest.Exec(t, address, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`)
	for is := range known {
		if !is {
			cancel()
		}
	}
	require.ErrorIs(t, ctx.Err(), context.Canceled, "it was seen in time")
	require.Error(t, taking.Wait())
	require.NoError(t, shared.Close())
}

// A server that was killed on this machine is not waited for, and one that is paused here is.
func TestPostgres_TakesFromOneThatWasKilled(t *testing.T) {
	t.Parallel()
	if os.Getenv(asHolder) != "" {
		db, err := store.OpenPostgres(t.Context(), os.Getenv(asHolder))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it is killed
		defer cancel()
		err = db.Hold(ctx)
		require.NoError(t, errors.Join(err, db.Close()))
		return
	}
	address := postgrestest.URL(t)
	self, err := os.Executable()
	require.NoError(t, err)
	holder := exec.Command(self, "-test.run=^TestPostgres_TakesFromOneThatWasKilled$", "-test.count=1")
	holder.Env = append(os.Environ(), asHolder+"="+address)
	require.NoError(t, holder.Start())
	killed := false
	defer func() {
		if !killed {
			_ = holder.Process.Kill()
			_ = holder.Wait()
		}
	}()
	const held = `SELECT COUNT(*) FROM pg_tables WHERE tablename = 'layover_holder' AND schemaname = current_schema()`
	require.Eventually(t, func() bool {
		return count(t, address, held) == 1 && count(t, address, `SELECT number FROM layover_holder`) == 1
	}, 20*time.Second, 10*time.Millisecond)
	_, err = store.OpenPostgres(t.Context(), address)
	require.Contains(t, requireError(t, err, api.CodeConflict).Message, "in use")

	require.NoError(t, holder.Process.Kill())
	_ = holder.Wait()
	killed = true
	// As if it had renewed the lease a moment ago, however long this takes.
	postgrestest.Exec(t, address, `UPDATE layover_holder SET renewed = clock_timestamp() + interval '1 hour'`)
	db := openPostgres(t, address)
	require.Equal(t, 2, count(t, address, `SELECT number FROM layover_holder`))
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}))

	postgrestest.Exec(t, address, `UPDATE layover_holder SET renewed = clock_timestamp() + interval '1 hour', number = number + 1,
		holder = regexp_replace(holder, '#[0-9a-f]+', '#0123456789abcdef')`) // of another machine
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = store.OpenPostgres(ctx, address)
	require.Error(t, err)
	require.Equal(t, 3, count(t, address, `SELECT number FROM layover_holder`))
}

// asHolder has the address of a store that this program holds, until it is killed.
const asHolder = "LAYOVER_TEST_AS_HOLDER"

// Of all who append events at a server one at a time waits in the database: each that waits there would get the lock in turn
// while the server is paused, and keep the store from the next for as long.
func TestPostgres_AppendsOneAfterAnother(t *testing.T) {
	t.Parallel()
	address := postgrestest.With(t, postgrestest.URL(t), "application_name", "one-after-another")
	db := openPostgres(t, address)
	_, err := db.AppendEvent(t.Context(), api.Event{})
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	_, err = conn.Exec(t.Context(), `BEGIN; UPDATE counters SET value = value`)
	require.NoError(t, err)
	var appending errgroup.Group
	for range 5 {
		appending.Go(func() error {
			_, err := db.AppendEvent(t.Context(), api.Event{})
			return err
		})
	}
	const waiting = `SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'one-after-another'`
	require.Eventually(t, func() bool { return count(t, address, waiting) == 1 }, 20*time.Second, time.Millisecond)
	for range 20 { // each look takes some milliseconds
		require.Equal(t, 1, count(t, address, waiting))
	}
	_, err = conn.Exec(t.Context(), `ROLLBACK`)
	require.NoError(t, err)
	require.NoError(t, appending.Wait())
	last, err := db.LastEvent(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 6, last)
}
