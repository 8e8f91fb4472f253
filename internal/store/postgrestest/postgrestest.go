// Package postgrestest gives tests a real PostgreSQL: one cluster of their own for each
// test binary, made in a temporary folder when the first test asks for it, and a schema of
// its own for each test.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// User and Password are those of every cluster. Password appears in no other text, so that
// a test can look for it where it must not be.
const (
	User     = "layover"
	Password = "pw-5ecr3t-of-the-test"
)

// variable names a server to use in place of a cluster of one's own: a URL of a superuser.
const variable = "LAYOVER_TEST_POSTGRES"

// startTime is how long a cluster may take to be made and to answer.
const startTime = time.Minute

// shared is the cluster of this test binary.
var shared struct { //nolint:gochecknoglobals // one for the process, as the process has one TestMain
	once    sync.Once
	cluster *cluster
	err     error
	count   atomic.Int64
}

// errMissing says that PostgreSQL is not installed.
var errMissing = errors.New("PostgreSQL is not installed (apt-get install postgresql), and " + variable + " is not set")

// URL returns the URL of an empty schema in the cluster of this test binary, which
// is deleted when the test ends. Where there is no PostgreSQL, the test is skipped.
func URL(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() { shared.cluster, shared.err = start() })
	if errors.Is(shared.err, errMissing) {
		t.Skip(shared.err)
	}
	require.NoError(t, shared.err)
	schema := fmt.Sprintf("test_%d_%d", os.Getpid(), shared.count.Add(1))
	Exec(t, shared.cluster.url, `CREATE SCHEMA `+schema)
	t.Cleanup(func() { Exec(t, shared.cluster.url, `DROP SCHEMA `+schema+` CASCADE`) })
	return With(t, shared.cluster.url, "search_path", schema)
}

// Start makes a cluster that is nobody else's, for a program that is no test. stop ends and removes it.
func Start() (address string, stop func(), err error) {
	c, err := start()
	if err != nil {
		return "", nil, err
	}
	return c.url, c.stop, nil
}

// With returns address with a parameter set.
func With(t testing.TB, address, name, value string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = query.Encode()
	return u.String()
}

// Exec runs a statement.
func Exec(t testing.TB, address, statement string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), startTime)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, statement, args...)
	require.NoError(t, err, statement)
}

// Stop ends the cluster of this test binary, and removes its folder. TestMain calls it
// when all tests are done.
func Stop() {
	shared.once.Do(func() {})
	if shared.cluster != nil {
		shared.cluster.stop()
	}
}

// cluster is a PostgreSQL that runs; only its URL is set where somebody else runs it.
type cluster struct {
	url    string
	dir    string
	server *exec.Cmd
	ended  chan struct{}
}

func start() (_ *cluster, err error) {
	if address := os.Getenv(variable); address != "" {
		return &cluster{url: address}, nil
	}
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	c := &cluster{ended: make(chan struct{})}
	if c.dir, err = os.MkdirTemp("", "layover-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	passwords := filepath.Join(c.dir, "pw")
	if err := os.WriteFile(passwords, []byte(Password+"\n"), 0o600); err != nil {
		return nil, err
	}
	data := filepath.Join(c.dir, "data")
	making := exec.Command(filepath.Join(programs, "initdb"), "-D", data, "-U", User, "--pwfile", passwords,
		"-A", "md5", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err := runAsOther(making, c.dir, passwords); err != nil {
		return nil, err
	}
	making.Dir = c.dir
	if out, err := making.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", making, err, out)
	}
	// Nothing has to survive a loss of power: without fsync the tests take a fraction of the time.
	c.server = exec.Command(filepath.Join(programs, "postgres"), "-D", data, "-k", c.dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "max_connections=200", "-c", "logging_collector=off")
	if err := runAsOther(c.server, c.dir); err != nil {
		return nil, err
	}
	c.server.Dir = c.dir
	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the server has its own
	c.server.Stdout, c.server.Stderr = log, log
	if err := startTied(c.server, c.ended); err != nil {
		c.server = nil
		return nil, err
	}
	c.url = (&url.URL{Scheme: "postgres", User: url.UserPassword(User, Password), Path: "/postgres", RawQuery: url.Values{"host": {c.dir}}.Encode()}).String()
	return c, c.wait(log.Name())
}

// wait returns when the server answers.
func (c *cluster) wait(log string) error {
	deadline := time.Now().Add(startTime)
	for {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		conn, err := pgx.Connect(ctx, c.url)
		if err == nil {
			err = conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-c.ended:
			text, _ := os.ReadFile(log)
			return fmt.Errorf("postgres ended: %w\n%s", err, text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

func (c *cluster) stop() {
	if c.server != nil {
		_ = c.server.Process.Signal(os.Interrupt) // ends at once, whoever is connected
		select {
		case <-c.ended:
		case <-time.After(10 * time.Second):
			_ = c.server.Process.Kill()
			<-c.ended
		}
	}
	if c.dir != "" {
		_ = os.RemoveAll(c.dir)
	}
}

// findPrograms returns the folder of initdb and postgres. Debian keeps them out of PATH.
func findPrograms() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errMissing
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return len(a) - len(b) + strings.Compare(a, b) })), nil
}
