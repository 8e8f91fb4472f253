package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// kind is a database to copy from and to.
type kind struct {
	open   func(t *testing.T) *store.DB // always the same store
	export func(ctx context.Context, w io.Writer) (store.Counts, error)
}

func kinds() map[string]func(t *testing.T) kind {
	return map[string]func(t *testing.T) kind{
		"SQLite": func(t *testing.T) kind {
			path := filepath.Join(t.TempDir(), "layover.db")
			return kind{
				open:   func(t *testing.T) *store.DB { return open(t, path) },
				export: func(ctx context.Context, w io.Writer) (store.Counts, error) { return store.ExportSQLite(ctx, path, w) },
			}
		},
		"PostgreSQL": func(t *testing.T) kind {
			address := postgrestest.URL(t)
			return kind{
				open: func(t *testing.T) *store.DB { return openPostgres(t, address) },
				export: func(ctx context.Context, w io.Writer) (store.Counts, error) {
					return store.ExportPostgres(ctx, address, w)
				},
			}
		},
	}
}

// What an environment is comes over whole, whichever way, while a server has the store: the same export comes out
// of the copy, and what is counted is counted on.
func TestCopy_BetweenAll(t *testing.T) {
	t.Parallel()
	for from, makeFrom := range kinds() {
		for to, makeTo := range kinds() {
			t.Run(from+" to "+to, func(t *testing.T) {
				source, target := makeFrom(t), makeTo(t)
				db := source.open(t)
				fillStore(t, db)
				require.NoError(t, db.PutWebhookPosition(t.Context(), "audit", 1))
				require.NoError(t, db.AddDeadLetter(t.Context(), api.DeadLetter{Webhook: "chat", Event: api.Event{ID: 2}}, 10))
				_, err := db.AddTestRun(t.Context(), api.TestRun{ID: "ci-1", Cases: []api.TestCase{{Name: "adds"}}}, 10)
				require.NoError(t, err)
				require.NoError(t, db.UpdateTestHistory(t.Context(), "checkout", []string{"adds"}, func(h *api.TestHistory) { h.Runs = 1 }))
				require.NoError(t, db.PutSuite(t.Context(), api.Suite{Name: "checkout", Ref: "v1"}))
				require.NoError(t, db.TouchServices(t.Context(), "checkout", []string{"cart"}, func(*api.TouchedByTest) {}))
				require.NoError(t, db.PutDeliveries(t.Context(), []string{"a", "b"}, 10))
				var exported, again bytes.Buffer
				counts, err := source.export(t.Context(), &exported)
				require.NoError(t, err)
				require.Equal(t, store.Counts{"services": 1, "versions": 120, "routes": 1, "events": 3, "counters": 5, "webhooks": 2, "dead_letters": 1, "test_runs": 1, "test_history": 1, "suites": 1, "suite_touches": 1, "forge_deliveries": 2}, counts)
				require.Equal(t, "1 services, 120 versions, 1 routes, 3 events", counts.String())

				copied := target.open(t)
				counts, err = copied.Import(t.Context(), bytes.NewReader(exported.Bytes()))
				require.NoError(t, err)
				require.EqualValues(t, 120, counts["versions"])
				_, err = target.export(t.Context(), &again)
				require.NoError(t, err)
				require.Equal(t, rowsOf(exported.String()), rowsOf(again.String()))

				want, err := db.Versions(t.Context())
				require.NoError(t, err)
				got, err := copied.Versions(t.Context())
				require.NoError(t, err)
				require.Equal(t, want, got)
				revision, err := copied.NextRevision(t.Context())
				require.NoError(t, err)
				require.EqualValues(t, 3, revision)
				event, err := copied.AppendEvent(t.Context(), api.Event{})
				require.NoError(t, err)
				require.EqualValues(t, 4, event)
				position, _, err := copied.WebhookPosition(t.Context(), "chat")
				require.NoError(t, err)
				require.EqualValues(t, 2, position)
				letters, err := copied.DeadLetters(t.Context())
				require.NoError(t, err)
				require.Len(t, letters, 1)
			})
		}
	}
}

// An import that is not wholly good, or not wanted, stores nothing.
func TestImport_RefusesAndStoresNothing(t *testing.T) {
	t.Parallel()
	source := kinds()["SQLite"](t)
	fillStore(t, source.open(t))
	var exported bytes.Buffer
	_, err := source.export(t.Context(), &exported)
	require.NoError(t, err)
	good := exported.String()
	lines := strings.SplitAfter(good, "\n")
	lines = lines[:len(lines)-1]
	resigned := func(text string) string { // with a checksum that is right
		body := strings.Join(strings.SplitAfter(text, "\n")[:strings.Count(text, "\n")-1], "")
		sum := sha256.Sum256([]byte(body))
		return body + fmt.Sprintf(`{"rows":%d,"sha256":"%s"}`+"\n", strings.Count(body, "\n")-1, hex.EncodeToString(sum[:]))
	}
	require.Equal(t, good, resigned(good))
	tests := map[string]struct {
		text, says string
		code       api.Code
	}{
		"nothing":                     {"", "cut short", api.CodeInvalid},
		"a text":                      {"hello\n", "line 1 of the export: this is not a line", api.CodeInvalid},
		"another JSON":                {"{}\n", "not an export", api.CodeInvalid},
		"a newer format":              {strings.Replace(good, `"layover_store":1`, `"layover_store":2`, 1), "has format 2", api.CodeConflict},
		"a newer schema":              {strings.Replace(good, `"schema":`, `"schema":9`, 1), "and schema 9", api.CodeConflict},
		"no end":                      {strings.Join(lines[:len(lines)-1], ""), "cut short", api.CodeInvalid},
		"cut in a line":               {good[:len(good)/2], "not a line", api.CodeInvalid},
		"a line is missing":           {strings.Join(append(lines[:5:5], lines[6:]...), ""), "checksum", api.CodeInvalid},
		"a byte is another":           {strings.Replace(good, `"owner":"ada"`, `"owner":"bob"`, 1), "checksum", api.CodeInvalid},
		"more behind the end":         {good + "{}\n", "behind the end", api.CodeInvalid},
		"a table that is not":         {resigned(strings.Replace(good, `"table":"routes"`, `"table":"sqlite_schema"`, 1)), "no table", api.CodeInvalid},
		"a column that is not":        {resigned(strings.Replace(good, `{"name":"team"`, `{"id":1,"name":"team"`, 1)), "has not", api.CodeInvalid},
		"a record that is not":        {resigned(strings.Replace(good, `"spec":{`, `"spec":{"hosts":7,`, 1)), "read a stored record", api.CodeInvalid},
		"a row twice, signed anew":    {resigned(strings.Join(append(lines[:3:3], lines[2:]...), "")), "", ""},
		"a number that is not of one": {resigned(strings.Replace(good, `"value":`, `"value":1.5e3`, 1)), "whole number", api.CodeInvalid},
	}
	for database, kind := range kinds() {
		t.Run(database, func(t *testing.T) {
			target := kind(t)
			db := target.open(t)
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					_, err := db.Import(t.Context(), strings.NewReader(test.text))
					require.Error(t, err)
					if test.code != "" {
						e := requireError(t, err, test.code)
						require.Contains(t, e.Message, test.says)
						require.NotEmpty(t, e.Hint)
					}
					counts, err := target.export(t.Context(), io.Discard)
					require.NoError(t, err)
					require.Equal(t, store.Counts{"services": 0, "versions": 0, "routes": 0, "events": 0, "counters": 0, "webhooks": 0, "dead_letters": 0, "test_runs": 0, "test_history": 0, "suites": 0, "suite_touches": 0, "forge_deliveries": 0}, counts)
				})
			}
			_, err = db.Import(t.Context(), strings.NewReader(good))
			require.NoError(t, err, "it can be filled after all")
			_, err = db.Import(t.Context(), strings.NewReader(good))
			require.Contains(t, requireError(t, err, api.CodeConflict).Message, "is not empty: it has services already")
		})
	}
}

func TestImport_EndsWithItsContext(t *testing.T) {
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			db := kind(t).open(t)
			ctx, cancel := context.WithCancel(t.Context())
			_, err := db.Import(ctx, io.MultiReader(strings.NewReader(`{"layover_store":1,"schema":1,"at":"2026-01-01T00:00:00Z"}`+"\n"+
				`{"table":"services","row":{"name":"cart","spec":{}}}`+"\n"), cancelReader(cancel)))
			require.ErrorIs(t, err, context.Canceled)
			services, err := db.Services(t.Context())
			require.NoError(t, err)
			require.Empty(t, services)
		})
	}
}

// cancelReader gives a good end, after it has cancelled.
type cancelReader func()

func (c cancelReader) Read(p []byte) (int, error) {
	c()
	body := `{"layover_store":1,"schema":1,"at":"2026-01-01T00:00:00Z"}` + "\n" + `{"table":"services","row":{"name":"cart","spec":{}}}` + "\n"
	sum := sha256.Sum256([]byte(body))
	return copy(p, fmt.Sprintf(`{"rows":1,"sha256":"%s"}`+"\n", hex.EncodeToString(sum[:]))), io.EOF
}

func TestExport_Refuses(t *testing.T) {
	_, err := store.ExportSQLite(t.Context(), filepath.Join(t.TempDir(), "none.db"), io.Discard)
	require.Contains(t, requireError(t, err, api.CodeNotFound).Message, "there is no store")
	_, err = store.ExportPostgres(t.Context(), postgrestest.URL(t), io.Discard)
	require.Contains(t, requireError(t, err, api.CodeConflict).Hint, "start layover with it once")

	full := kinds()["SQLite"](t)
	fillStore(t, full.open(t))
	broken := errors.New("no space")
	_, err = full.export(t.Context(), failingWriter{broken})
	require.ErrorIs(t, err, broken)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// A backup that is made while a server writes is a store, of one moment: what belongs together is together.
func TestBackup_WhileWriting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, copied := filepath.Join(dir, "layover.db"), filepath.Join(dir, "backup.db")
	db := open(t, path)
	fillStore(t, db)
	ctx, stop := context.WithCancel(t.Context())
	var group errgroup.Group
	begun := make(chan struct{})
	group.Go(func() error { // the event comes first, so a copy never has more records than events
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := db.AppendEvent(t.Context(), api.Event{}); err != nil {
				return err
			}
			if err := db.PutRoute(t.Context(), api.NamedRoute{Name: fmt.Sprintf("r%06d", i)}); err != nil {
				return err
			}
			if i == 10 {
				close(begun)
			}
		}
		return nil
	})
	<-begun
	require.NoError(t, store.BackupSQLite(t.Context(), path, copied))
	stop()
	require.NoError(t, group.Wait())

	require.Equal(t, os.FileMode(0o600), mode(t, copied))
	require.Equal(t, []string{"backup.db", "layover.db", "layover.db-shm", "layover.db-wal", "layover.db.lock"}, fileNames(t, dir))
	restored := open(t, copied)
	versions, err := restored.Versions(t.Context())
	require.NoError(t, err)
	require.Len(t, versions, 120)
	routes, err := restored.Routes(t.Context())
	require.NoError(t, err)
	last, err := restored.LastEvent(t.Context())
	require.NoError(t, err)
	require.Greater(t, len(routes), 10)
	require.InDelta(t, float64(last-3), float64(len(routes)-1), 1)
}

func TestBackup_Refuses(t *testing.T) {
	dir := t.TempDir()
	path, there := filepath.Join(dir, "layover.db"), filepath.Join(dir, "there")
	require.NoError(t, open(t, path).Close())
	write(t, there, []byte("precious"))
	tests := map[string]struct {
		from, to string
		code     api.Code
		says     string
	}{
		"a file that is there":       {path, there, api.CodeConflict, "is there already"},
		"the store itself":           {path, path, api.CodeConflict, "is there already"},
		"a folder that is not there": {path, filepath.Join(dir, "no", "x.db"), api.CodeInvalid, "no such file"},
		"a store that is not there":  {filepath.Join(dir, "none.db"), filepath.Join(dir, "x.db"), api.CodeNotFound, "there is no store"},
		"a file that is no store":    {there, filepath.Join(dir, "x.db"), api.CodeUnavailable, "is not a store"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e := requireError(t, store.BackupSQLite(t.Context(), test.from, test.to), test.code)
			require.Contains(t, e.Message, test.says)
			require.NotEmpty(t, e.Hint)
		})
	}
	require.Empty(t, slices.DeleteFunc(fileNames(t, dir), func(name string) bool {
		return name == "there" || strings.HasPrefix(name, "layover.db")
	}))
	text, err := os.ReadFile(there)
	require.NoError(t, err)
	require.Equal(t, "precious", string(text))
}

// fillStore stores something of everything, with characters that texts of databases and JSON treat in their own ways.
func fillStore(t *testing.T, db *store.DB) {
	t.Helper()
	odd := "<a href=\"x\">&\u2028 é 漢 🚀 \x00 \\ '"
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart", Hosts: []string{odd}}))
	require.NoError(t, db.PutRoute(t.Context(), api.NamedRoute{Name: "team", Picks: map[string]string{"cart": odd}}))
	for i := range 120 {
		key := control.Key{Service: "cart", Version: fmt.Sprintf("pr-%d", i)}
		require.NoError(t, db.UpdateVersion(t.Context(), key, func(*control.VersionRecord) (*control.VersionRecord, error) {
			return &control.VersionRecord{Key: key, Owner: "ada", Branch: odd, Generations: []control.Generation{{Number: 1, Reason: odd}}}, nil
		}))
	}
	for range 3 {
		_, err := db.AppendEvent(t.Context(), api.Event{Message: odd})
		require.NoError(t, err)
	}
	for range 2 {
		_, err := db.NextRevision(t.Context())
		require.NoError(t, err)
	}
}

// rowsOf returns an export without its first line, which has the time, and its last, which has the checksum.
func rowsOf(export string) []string {
	lines := strings.Split(strings.TrimSuffix(export, "\n"), "\n")
	return lines[1 : len(lines)-1]
}
