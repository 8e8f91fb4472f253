package store_test

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// What the test binary does instead of testing, where this variable says so;
// its first argument is then a path.
const childVariable = "LAYOVER_STORE_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "":
		code := m.Run()
		postgrestest.Stop()
		os.Exit(code)
	case "write":
		childWrites(os.Args[1])
	case "create":
		childCreates(os.Args[1])
	}
	os.Exit(1) // a child is killed; it does not end
}

// A process that writes is killed again and again. Each time, the store is intact
// and has all that the process was told is stored.
func TestCrash_KeepsWhatWasAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layover.db")
	var told acknowledged
	for round := range rounds(10) {
		child := startChild(t, "write", path)
		acks := 1 + rand.IntN(150)
		for range acks {
			child.read(t, &told)
		}
		child.kill(t, &told)
		told.check(t, open(t, path))
		checkPagesOf(t, path)
		require.False(t, t.Failed(), "round %d, killed after %d acknowledgements", round, acks)
	}
}

// A process that makes new stores is killed: each store it began can be opened.
func TestCrash_WhileCreating(t *testing.T) {
	for range rounds(6) {
		folder := t.TempDir()
		child := startChild(t, "create", folder)
		var told acknowledged
		for range 1 + rand.IntN(4) {
			child.read(t, &told)
		}
		select { // somewhere in the next creation, which takes some milliseconds
		case <-time.After(time.Duration(rand.IntN(10_000)) * time.Microsecond):
		case <-t.Context().Done():
		}
		child.kill(t, &told)
		stores, err := filepath.Glob(filepath.Join(folder, "*.db"))
		require.NoError(t, err)
		require.NotEmpty(t, stores)
		for _, path := range stores {
			require.NoError(t, open(t, path).PutService(t.Context(), api.Service{Name: "cart"}), path)
		}
	}
}

func TestCrash_FreesLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layover.db")
	child := startChild(t, "write", path)
	var told acknowledged
	child.read(t, &told)
	_, err := store.OpenSQLite(t.Context(), path)
	e := requireError(t, err, api.CodeConflict)
	require.Contains(t, e.Message, fmt.Sprintf("process %d, since ", child.command.Process.Pid))
	child.kill(t, &told)
	told.check(t, open(t, path))
}

// acknowledged is the most that the children said is stored.
type acknowledged struct {
	generation [writers]int64
	event      int64
	revision   uint64
}

const writers = 3

// check holds the store against what was acknowledged.
func (a *acknowledged) check(t *testing.T, db *store.DB) {
	t.Helper()
	versions, err := db.Versions(t.Context())
	require.NoError(t, err)
	for w, want := range a.generation {
		var got control.VersionRecord
		for _, v := range versions {
			if v.Key == writerKey(w) {
				got = v
			}
		}
		require.GreaterOrEqual(t, generationOf(got), want, "writer %d", w)
		require.Equal(t, fmt.Sprint(generationOf(got)), cmp.Or(got.Owner, "0"), "half an update of writer %d", w)
	}

	last, err := db.LastEvent(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, last, a.event)
	events, err := db.Events(t.Context(), 0, int(last)+1)
	require.NoError(t, err)
	require.Len(t, events, int(last))
	for i, e := range events {
		require.EqualValues(t, i+1, e.ID)
	}
	a.event, err = db.AppendEvent(t.Context(), api.Event{})
	require.NoError(t, err)
	require.Equal(t, last+1, a.event)

	revision, err := db.NextRevision(t.Context())
	require.NoError(t, err)
	require.Greater(t, revision, a.revision)
	a.revision = revision
	require.NoError(t, db.Close())
}

// child is a process that uses a store, and writes a line for each thing it was told is stored.
type child struct {
	command *exec.Cmd
	lines   *bufio.Reader
}

func startChild(t *testing.T, work, path string) *child {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a child that hangs fails the test
	t.Cleanup(cancel)
	command := exec.CommandContext(ctx, os.Args[0], path)
	command.Env = append(os.Environ(), childVariable+"="+work)
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	return &child{command, bufio.NewReader(out)}
}

// read takes one line of the child into account.
func (c *child) read(t *testing.T, told *acknowledged) {
	t.Helper()
	line, err := c.lines.ReadString('\n')
	require.NoError(t, err, "the child ended")
	told.note(t, line)
}

// kill ends the child at once, and takes into account what it wrote until then.
func (c *child) kill(t *testing.T, told *acknowledged) {
	t.Helper()
	require.NoError(t, c.command.Process.Kill())
	for {
		line, err := c.lines.ReadString('\n')
		if err != nil { // what is left is not a whole line
			require.ErrorIs(t, err, io.EOF)
			break
		}
		told.note(t, line)
	}
	require.Error(t, c.command.Wait())
}

func (a *acknowledged) note(t *testing.T, line string) {
	t.Helper()
	var what string
	var n, writer int64
	_, err := fmt.Sscan(line, &what, &n, &writer)
	require.NoError(t, err, line)
	switch what {
	case "generation":
		a.generation[writer] = max(a.generation[writer], n)
	case "event":
		a.event = max(a.event, n)
	case "revision":
		a.revision = max(a.revision, uint64(n))
	case "created":
	default:
		require.FailNow(t, "unknown line", line)
	}
}

// childWrites writes from several goroutines, without end.
func childWrites(path string) {
	db, err := store.OpenSQLite(context.Background(), path)
	childMust(err)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for {
				var generation int64
				err := db.UpdateVersion(context.Background(), writerKey(w), func(r *control.VersionRecord) (*control.VersionRecord, error) {
					if r == nil {
						r = &control.VersionRecord{Key: writerKey(w)}
					}
					generation = generationOf(*r) + 1
					r.Generations = []control.Generation{{Number: generation, LogTail: []string{fmt.Sprintf("%4000d", generation)}}}
					r.Owner = fmt.Sprint(generation)
					return r, nil
				})
				childMust(err)
				childSays("generation", generation, w)
				id, err := db.AppendEvent(context.Background(), api.Event{Message: "written"})
				childMust(err)
				childSays("event", id, w)
				revision, err := db.NextRevision(context.Background())
				childMust(err)
				childSays("revision", revision, w)
			}
		})
	}
	group.Wait()
}

// childCreates makes one store after the other.
func childCreates(folder string) {
	for i := 0; ; i++ {
		db, err := store.OpenSQLite(context.Background(), filepath.Join(folder, fmt.Sprint(i, ".db")))
		childMust(err)
		childMust(db.Close())
		childSays("created", i, 0)
	}
}

func childSays(what string, n any, writer int) {
	_, err := fmt.Printf("%s %v %d\n", what, n, writer)
	childMust(err)
}

func childMust(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

func writerKey(w int) control.Key {
	return control.Key{Service: "cart", Version: fmt.Sprint("writer-", w)}
}

func generationOf(r control.VersionRecord) int64 {
	if len(r.Generations) == 0 {
		return 0
	}
	return r.Generations[0].Number
}

// checkPagesOf runs SQLite's full check, which opening leaves out.
func checkPagesOf(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	var verdict string
	require.NoError(t, db.QueryRowContext(t.Context(), `PRAGMA integrity_check`).Scan(&verdict))
	require.Equal(t, "ok", verdict)
	require.NoError(t, db.Close())
}

// rounds returns how often to do what is different each time.
func rounds(n int) int {
	if testing.Short() {
		return min(n, 3)
	}
	return n
}
