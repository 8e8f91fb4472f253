package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"go/build"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
)

func TestOpenSQLite_MakesFolderAndPrivateFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "deep", "layover.db")
	db := open(t, path)
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}))
	require.Equal(t, realPath(t, path), db.Path())
	for _, name := range []string{path, path + "-wal", path + "-shm", path + ".lock"} {
		require.Equal(t, os.FileMode(0o600), mode(t, name), name)
	}
	require.Equal(t, os.FileMode(0o700), mode(t, filepath.Dir(path)))
	require.NoError(t, db.Close())
	require.NoError(t, db.Close(), "closing again")
	require.Equal(t, []string{"layover.db", "layover.db.lock"}, fileNames(t, filepath.Dir(path)))
}

func TestOpenSQLite_TakesReadingFromOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layover.db")
	require.NoError(t, open(t, path).Close())
	require.NoError(t, os.Chmod(path, 0o644))
	open(t, path)
	require.Equal(t, os.FileMode(0o600), mode(t, path))
}

func TestOpenSQLite_AnyPath(t *testing.T) {
	for name, file := range map[string]string{
		"marks of a URL":  "a?b#c%20d&e=f;g.db",
		"spaces, Unicode": " große Ablage 漢.db",
		"quotes":          `it's "it".db`,
		"no suffix":       "store",
		"a memory name":   ":memory:",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), file)
			db := open(t, path)
			require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}))
			require.NoError(t, db.Close())
			require.Equal(t, []string{file, file + ".lock"}, fileNames(t, filepath.Dir(path)))
			services, err := open(t, path).Services(t.Context())
			require.NoError(t, err)
			require.Len(t, services, 1)
		})
	}
}

func TestOpenSQLite_RelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	db := open(t, "layover.db")
	require.Equal(t, realPath(t, "layover.db"), db.Path())
}

// What is not a store that this program can use is refused with a hint, and left as it was.
func TestOpenSQLite_Refuses(t *testing.T) {
	tests := map[string]struct {
		make func(t *testing.T, path string)
		code api.Code
		says string
		hint string
	}{
		"a text file": {
			make: func(t *testing.T, path string) { write(t, path, []byte("services:\n  cart: {}\n")) },
			code: api.CodeUnavailable, says: "is not a store of layover", hint: "start again with an empty store",
		},
		"a file of one byte": {
			make: func(t *testing.T, path string) { write(t, path, []byte("S")) },
			code: api.CodeUnavailable, says: "is not a store of layover", hint: "backup",
		},
		"a store whose first bytes are gone": {
			make: func(t *testing.T, path string) { damage(t, path, func(b []byte) []byte { clear(b[:100]); return b }) },
			code: api.CodeUnavailable, says: "or is damaged", hint: "backup",
		},
		"a store cut in the middle": {
			make: func(t *testing.T, path string) { damage(t, path, func(b []byte) []byte { return b[:len(b)/2] }) },
			code: api.CodeUnavailable, says: "is damaged", hint: "backup",
		},
		"a store cut in its first page": {
			make: func(t *testing.T, path string) { damage(t, path, func(b []byte) []byte { return b[:1000] }) },
			code: api.CodeUnavailable, says: "damaged", hint: "backup",
		},
		"a store with garbled pages": {
			make: func(t *testing.T, path string) {
				damage(t, path, func(b []byte) []byte {
					for i := 4096; i < len(b); i++ {
						b[i] ^= 0x5a
					}
					return b
				})
			},
			code: api.CodeUnavailable, says: "is damaged", hint: "backup",
		},
		"a store with one garbled page at its end": {
			make: func(t *testing.T, path string) {
				damage(t, path, func(b []byte) []byte {
					copy(b[len(b)-4096:], bytes.Repeat([]byte{0xff}, 4096))
					return b
				})
			},
			code: api.CodeUnavailable, says: "is damaged", hint: "backup",
		},
		"the database of another program": {
			make: func(t *testing.T, path string) { raw(t, path, `CREATE TABLE notes (text TEXT)`) },
			code: api.CodeConflict, says: "is the database of another program", hint: "--data",
		},
		"a newer schema": {
			make: func(t *testing.T, path string) {
				require.NoError(t, open(t, path).Close())
				raw(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (7001, 1)`)
			},
			code: api.CodeConflict, says: "has schema 7001, and this layover knows schemas up to ", hint: "use a newer layover",
		},
		"an emptied store with a log": {
			make: func(t *testing.T, path string) {
				write(t, path, nil)
				write(t, path+"-wal", []byte("something"))
			},
			code: api.CodeUnavailable, says: "is missing or empty, but its log", hint: "move the log away",
		},
		"a folder": {
			make: func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o700)) },
			code: api.CodeInvalid, says: "is a folder", hint: "--data",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "layover.db")
			test.make(t, path)
			before := contents(t, filepath.Dir(path), "layover.db", "layover.db-wal")
			for range 2 {
				_, err := store.OpenSQLite(t.Context(), path)
				e := requireError(t, err, test.code)
				require.Contains(t, e.Message, test.says)
				require.Contains(t, e.Message, path)
				require.Contains(t, e.Hint, test.hint)
			}
			require.Equal(t, before, contents(t, filepath.Dir(path), "layover.db", "layover.db-wal"))
		})
	}
}

func TestOpenSQLite_RefusesLostFileWithLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layover.db")
	write(t, path+"-wal", []byte("something"))
	_, err := store.OpenSQLite(t.Context(), path)
	_ = requireError(t, err, api.CodeUnavailable)
	require.NoFileExists(t, path)
	require.FileExists(t, path+"-wal")
}

func TestOpenSQLite_RefusesFileAsFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	for _, path := range []string{filepath.Join(file, "layover.db"), filepath.Join(file, "more", "layover.db")} {
		_, err := store.OpenSQLite(t.Context(), path)
		require.Contains(t, requireError(t, err, api.CodeInvalid).Message, "is a file")
	}
}

func TestOpenSQLite_RefusesNameTooLong(t *testing.T) {
	_, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), string(bytes.Repeat([]byte("n"), 300))))
	_ = requireError(t, err, api.CodeUnavailable)
}

// A creation that was cut short is finished by the next opening.
func TestOpenSQLite_GoesOnWithCreation(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, path string){
		"an empty file": func(t *testing.T, path string) { write(t, path, nil) },
		"no table yet":  func(t *testing.T, path string) { raw(t, path, `PRAGMA journal_mode = WAL`) },
		"only marked":   func(t *testing.T, path string) { raw(t, path, `PRAGMA application_id = 1279351119`) },
		"nothing migrated": func(t *testing.T, path string) {
			require.NoError(t, open(t, path).Close())
			for _, table := range []string{"services", "versions", "routes", "events", "counters", "webhooks", "dead_letters", "test_runs", "test_history", "suites", "suite_touches", "forge_deliveries"} {
				raw(t, path, `DROP TABLE `+table)
			}
			raw(t, path, `DELETE FROM goose_db_version WHERE version_id > 0`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "layover.db")
			begin(t, path)
			require.NoError(t, open(t, path).PutService(t.Context(), api.Service{Name: "cart"}))
		})
	}
}

// A transaction that a crash cut short before the write-ahead log was in use is taken back.
func TestOpenSQLite_RollsBackJournal(t *testing.T) {
	folder := t.TempDir()
	path, crashed := filepath.Join(folder, "layover.db"), filepath.Join(folder, "crashed.db")
	db := open(t, path)
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}))
	require.NoError(t, db.Close())
	plain, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	plain.SetMaxOpenConns(1)
	for _, statement := range []string{
		`PRAGMA journal_mode = DELETE`, `PRAGMA cache_size = 1`, `BEGIN`, `DELETE FROM services`, // and much more than the cache holds:
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
			INSERT INTO routes SELECT printf('%0500d', i), '{}' FROM n`,
	} {
		_, err := plain.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	for _, suffix := range []string{"", "-journal"} {
		data, err := os.ReadFile(path + suffix)
		require.NoError(t, err)
		require.NotEmpty(t, data)
		write(t, crashed+suffix, data)
	}
	require.NoError(t, plain.Close())

	db = open(t, crashed)
	services, err := db.Services(t.Context())
	require.NoError(t, err)
	require.Len(t, services, 1)
	routes, err := db.Routes(t.Context())
	require.NoError(t, err)
	require.Empty(t, routes)
}

func TestOpenSQLite_EndedContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layover.db")
	ended, end := context.WithCancel(t.Context())
	end()
	_, err := store.OpenSQLite(ended, path)
	require.ErrorIs(t, err, context.Canceled)
	open(t, path) // nothing is held
}

func TestOpenSQLite_RefusesSecondOpening(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "layover.db")
	db := open(t, path)
	link := filepath.Join(folder, "link.db")
	require.NoError(t, os.Symlink(path, link))
	for name, same := range map[string]string{"the path": path, "a symbolic link": link, "another spelling": folder + "/./x/../layover.db"} {
		_, err := store.OpenSQLite(t.Context(), same)
		e := requireError(t, err, api.CodeConflict)
		require.Contains(t, e.Message, fmt.Sprintf("is in use by another layover server: process %d, since ", os.Getpid()), name)
		require.Contains(t, e.Hint, fmt.Sprintf("kill %d", os.Getpid()), name)
	}
	require.NoError(t, db.PutService(t.Context(), api.Service{Name: "cart"}), "the first is not disturbed")
	require.NoError(t, db.Close())
	open(t, link)
}

func TestDB_UseAfterClose(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "layover.db"))
	require.NoError(t, db.Close())
	require.Error(t, db.PutService(t.Context(), api.Service{Name: "cart"}))
	_, err := db.Services(t.Context())
	require.Error(t, err)
}

// A spec that somebody changed by hand is an error that names the store, not a panic or a gap.
func TestDB_UnreadableRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layover.db")
	require.NoError(t, open(t, path).Close())
	raw(t, path, `INSERT INTO services VALUES ('cart', '{"name": 1')`)
	raw(t, path, `INSERT INTO versions VALUES ('cart', 'main', '[]')`)
	db := open(t, path)
	_, err := db.Services(t.Context())
	require.Contains(t, requireError(t, err, api.CodeUnavailable).Message, "is damaged")
	err = db.UpdateVersion(t.Context(), control.Key{Service: "cart", Version: "main"},
		func(*control.VersionRecord) (*control.VersionRecord, error) {
			return nil, errors.New("edit was called")
		})
	_ = requireError(t, err, api.CodeUnavailable)
}

// The store knows the domain, and nothing else of ours: no runtime, no server.
func TestImports(t *testing.T) {
	pkg, err := build.ImportDir(".", 0)
	require.NoError(t, err)
	const ours = "github.com/layover-dev/layover/"
	for _, path := range pkg.Imports {
		if strings.HasPrefix(path, ours) {
			require.Contains(t, []string{ours + "api", ours + "internal/control"}, path)
		}
	}
}

func open(t testing.TB, path string) *store.DB {
	t.Helper()
	db, err := store.OpenSQLite(t.Context(), path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// requireError fails the test where err is not for people, with a hint.
func requireError(t testing.TB, err error, code api.Code) *control.Error {
	t.Helper()
	require.Error(t, err)
	e, ok := errors.AsType[*control.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, code, e.Code)
	require.NotEmpty(t, e.Hint)
	return e
}

// raw runs SQL on a file without this package.
func raw(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), query)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

// damage makes a store with some content, and changes its bytes.
func damage(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	db := open(t, path)
	for i := range 50 {
		service := api.Service{Name: fmt.Sprint("service-", i), Hosts: []string{string(bytes.Repeat([]byte("h"), 2000))}}
		require.NoError(t, db.PutService(t.Context(), service))
	}
	require.NoError(t, db.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	write(t, path, change(data))
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

// contents returns what those files of a folder hold which are there.
func contents(t *testing.T, folder string, names ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range fileNames(t, folder) {
		if info, err := os.Stat(filepath.Join(folder, name)); err == nil && info.Mode().IsRegular() && slices.Contains(names, name) {
			data, err := os.ReadFile(filepath.Join(folder, name))
			require.NoError(t, err)
			if len(data) > 0 {
				all[name] = string(data)
			}
		}
	}
	return all
}

func fileNames(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

func realPath(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	path, err = filepath.EvalSymlinks(path)
	require.NoError(t, err)
	return path
}
