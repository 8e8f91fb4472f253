package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/store/postgrestest"
)

// A server whose store is PostgreSQL: what was deployed is there after its restart, another server is
// refused meanwhile, and nothing that is written has the password.
func TestServer_OverPostgres(t *testing.T) {
	address := postgrestest.URL(t)
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	s := startServer(t, dir, "LAYOVER_STORE="+address)
	s.table(t, ready)
	_, err := s.Deploy(t.Context(), "cart", "feature-1", api.Deployment{})
	require.NoError(t, err)

	other := t.TempDir()
	writeFile(t, other, serverFile, backend)
	var said lockedBuffer
	app := newApp(nil, &lockedBuffer{}, &said, []string{
		"LAYOVER_SERVER_LISTEN=127.0.0.1:0", "LAYOVER_PROXY_LISTEN=127.0.0.1:0", "LAYOVER_STORE=" + address,
	})
	require.Equal(t, exitFailed, execute(t.Context(), app, []string{"up", "--debug", "-f", filepath.Join(other, "layover.yaml")}))
	require.Contains(t, said.String(), "is in use by another layover server")
	require.NotContains(t, said.String(), postgrestest.Password)

	require.Zero(t, s.end(), s.said)
	require.NotContains(t, s.said.String(), postgrestest.Password)
	require.NoFileExists(t, filepath.Join(dir, ".layover", "layover.db"))
	s = startServer(t, dir, "LAYOVER_STORE="+address)
	versions, err := s.Versions(t.Context(), api.VersionFilter{Service: "cart"})
	require.NoError(t, err)
	require.Len(t, versions, 2)
}

// A server that lost its store to another says so, and stands by; where the other is gone it has it again.
func TestServer_LosesItsStore(t *testing.T) {
	address := postgrestest.URL(t)
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	s := startServer(t, dir, "LAYOVER_STORE="+address)
	s.table(t, ready)
	postgrestest.Exec(t, address, `UPDATE layover_holder SET number = number + 1`) // as one that takes it
	require.Eventually(t, func() bool { return strings.Contains(s.said.String(), "was taken over by another layover server") }, 20*time.Second, 10*time.Millisecond)
	started := regexp.MustCompile(`server  http://\S+\n`)
	require.Eventually(t, func() bool { return len(started.FindAllString(s.said.String(), -1)) == 2 }, 20*time.Second, 10*time.Millisecond)
	require.Contains(t, s.said.String(), "standing by")
	require.Equal(t, exitOK, s.end())
}

func TestStoreFlag_RefusesPassword(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, serverFile, "127.0.0.1:1")
	for _, address := range []string{
		"postgres://ana:s3cret@db/shop", "postgres://ana:s3c/ret@db/shop", "postgresql://db/shop?password=s3cret", "postgres://ana:s3cret%@db",
	} {
		var out, said lockedBuffer
		app := newApp(nil, &out, &said, nil)
		require.Equal(t, exitUsage, execute(t.Context(), app, []string{"server", "--store", address, "-f", filepath.Join(dir, "layover.yaml")}))
		require.Contains(t, said.String(), "a password on the command line can be read")
		require.Contains(t, said.String(), "PGPASSWORD")
		require.NotContains(t, said.String()+out.String(), "ret")
	}
}

// An environment moves from SQLite to PostgreSQL, and back up while its server runs.
func TestStoreCommands(t *testing.T) {
	address := postgrestest.URL(t)
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	config, moved := filepath.Join(dir, "layover.yaml"), filepath.Join(dir, "moved.jsonl")
	run := func(in string, args ...string) (code int, out, said string) {
		var outBuffer, errBuffer lockedBuffer
		app := newApp(strings.NewReader(in), &outBuffer, &errBuffer, []string{"PGPASSWORD=" + postgrestest.Password})
		code = execute(t.Context(), app, append([]string{"store"}, args...))
		require.NotContains(t, outBuffer.String()+errBuffer.String(), postgrestest.Password)
		return code, outBuffer.String(), errBuffer.String()
	}
	t.Setenv("PGPASSWORD", postgrestest.Password)
	bare := strings.Replace(address, ":"+postgrestest.Password+"@", "@", 1)

	s := startServer(t, dir)
	s.table(t, ready)
	_, err := s.Deploy(t.Context(), "cart", "feature-1", api.Deployment{Overrides: api.Overrides{Env: map[string]string{"TOKEN": "secret"}}})
	require.NoError(t, err)

	backup := filepath.Join(dir, "backup.db")
	code, _, said := run("", "backup", "-f", config, backup)
	require.Equal(t, exitOK, code, said)
	require.FileExists(t, backup)
	code, _, said = run("", "backup", "-f", config, backup)
	require.Equal(t, exitFailed, code)
	require.Contains(t, said, "is there already")
	code, _, said = run("", "backup", "--store", bare, filepath.Join(dir, "other.db"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, said, "pg_dump")
	code, _, said = run("", "import", "-f", config, backup)
	require.Equal(t, exitFailed, code)
	require.Contains(t, said, "is in use by another layover server")

	require.Equal(t, exitOK, s.end())
	code, _, said = run("", "export", "-f", config, moved)
	require.Equal(t, exitOK, code, said)
	require.Contains(t, said, "exported 1 services, 2 versions, 0 routes, ")
	info, err := os.Stat(moved)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	text, err := os.ReadFile(moved)
	require.NoError(t, err)
	code, out, said := run("", "export", "--data", filepath.Join(dir, ".layover"), "-f", filepath.Join(dir, "none.yaml"), "-")
	require.Equal(t, exitUsage, code, "a file that was named has to be there: %s", said)
	require.Empty(t, out)
	code, out, said = run("", "export", "--store", filepath.Join(dir, ".layover"), "-")
	require.Equal(t, exitOK, code, said)
	require.Equal(t, strings.Count(string(text), "\n"), strings.Count(out, "\n"))

	code, _, said = run(string(text[:len(text)-10]), "import", "--store", bare, "-")
	require.Equal(t, exitUsage, code)
	require.Contains(t, said, "nothing was imported")
	code, _, said = run("", "import", "--store", bare, filepath.Join(dir, "none.jsonl"))
	require.Equal(t, exitUsage, code, said)
	code, _, said = run(out, "import", "--store", bare, "-")
	require.Equal(t, exitOK, code, said)
	require.Contains(t, said, "imported 1 services, 2 versions, 0 routes, ")
	code, _, said = run(out, "import", "--store", bare, "-")
	require.Equal(t, exitFailed, code)
	require.Contains(t, said, "is not empty")

	s = startServer(t, dir, "LAYOVER_STORE="+bare)
	versions, err := s.Versions(t.Context(), api.VersionFilter{Version: "feature-1"})
	require.NoError(t, err)
	require.Len(t, versions, 1)
	require.Equal(t, exitOK, s.end())
}
