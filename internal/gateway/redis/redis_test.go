package redis_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	redigo "github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/internal/gateway/redis"
	"github.com/layover-dev/layover/internal/gateway/redis/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a Redis of the test.
type server struct {
	*redistest.Server
	t *testing.T
}

func startRedis(t *testing.T) *server {
	t.Helper()
	s, err := redistest.Start(t.TempDir())
	if errors.Is(err, redistest.ErrMissing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return &server{s, t}
}

func (s *server) do(command string, args ...any) any {
	s.t.Helper()
	reply, err := s.Do(command, args...)
	require.NoError(s.t, err)
	return reply
}

// all are the keys of the server, but for the stamp.
func (s *server) all() map[string]string {
	s.t.Helper()
	found, err := s.Keys("*")
	require.NoError(s.t, err)
	delete(found, "stamp")
	return found
}

// wish is what a writer is to write.
type wish struct {
	mu      sync.Mutex
	id      int
	pairs   map[string]string
	changed chan struct{}
}

func newWish(pairs map[string]string) *wish { return &wish{pairs: pairs, changed: make(chan struct{})} }

func (w *wish) set(pairs map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id++
	w.pairs = pairs
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *wish) wanted(context.Context) (string, func() map[string]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pairs := maps.Clone(w.pairs)
	return fmt.Sprint(w.id), func() map[string]string { return pairs }, nil
}

func (w *wish) wait(ctx context.Context) {
	w.mu.Lock()
	changed := w.changed
	w.mu.Unlock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

func run(t *testing.T, s *server, w *wish, change func(*redis.Options)) *redis.Writer {
	t.Helper()
	opts := redis.Options{
		Address: s.Address, Own: []string{"t/a/layover--shop--", "t/b/layover--shop--"}, Stamp: "stamp",
		Password: func() (string, error) { return redistest.Password, nil }, Wanted: w.wanted, Wait: w.wait,
	}
	if change != nil {
		change(&opts)
	}
	writer := redis.New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- writer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return writer
}

func (s *server) becomes(want map[string]string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return maps.Equal(s.all(), want) }, 20*time.Second, 5*time.Millisecond, "%v", s.all())
}

func with(base map[string]string, more ...string) map[string]string {
	out := maps.Clone(base)
	for i := 0; i < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}

func TestKeepsItsKeysAndNoOthers(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	others := map[string]string{"t/a/layover--shop-2--x": "1", "t/a/mine": "2", "t/c/layover--shop--x": "3", "u": "4"}
	for key, value := range others {
		s.do("SET", key, value)
	}
	s.do("SET", "t/a/layover--shop--left", "from before")
	w := newWish(map[string]string{"t/a/layover--shop--r/rule": "R", "t/b/layover--shop--s/0": "S"})
	writer := run(t, s, w, nil)
	s.becomes(with(others, "t/a/layover--shop--r/rule", "R", "t/b/layover--shop--s/0", "S"))
	require.Eventually(t, func() bool { return writer.Status().Written }, 10*time.Second, time.Millisecond)

	// Only what changed is written.
	s.do("CONFIG", "RESETSTAT")
	w.set(map[string]string{"t/a/layover--shop--r/rule": "R2", "t/b/layover--shop--s/0": "S", "t/b/layover--shop--s/1": "S1"})
	s.becomes(with(others, "t/a/layover--shop--r/rule", "R2", "t/b/layover--shop--s/0", "S", "t/b/layover--shop--s/1", "S1"))
	stats, err := redigo.String(s.do("INFO", "commandstats"), nil)
	require.NoError(t, err)
	require.Contains(t, stats, "cmdstat_set:calls=3,", "two keys and the stamp")
	require.NotContains(t, stats, "cmdstat_scan")
	w.set(map[string]string{})
	s.becomes(others)
}

func TestComesBackAfterLosses(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	want := map[string]string{"t/a/layover--shop--r/rule": "R"}
	writer := run(t, s, newWish(want), nil)
	s.becomes(want)
	s.do("FLUSHALL")
	s.becomes(want)
	s.Stop()
	require.Eventually(t, func() bool { return writer.Status().Err != nil }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.Restart()) // without its data
	s.becomes(want)
}

// Redis may drop keys to make room, and keep the stamp.
func TestFindsWhatRedisDropped(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	want := map[string]string{"t/a/layover--shop--r/rule": "R", "t/b/layover--shop--s/0": "S"}
	run(t, s, newWish(want), func(o *redis.Options) { o.ReadEvery = time.Millisecond })
	s.becomes(want)
	s.do("DEL", "t/b/layover--shop--s/0")
	s.becomes(want)
}

// Who reads the log of events learns once that it does not work, and once that it does again: not of a connection that breaks.
func TestTellsOnce(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	told := make(chan error, 100)
	want := map[string]string{"t/a/layover--shop--r/rule": "R"}
	writer := run(t, s, newWish(want), func(o *redis.Options) { o.Tell = func(_ context.Context, err error) { told <- err } })
	s.becomes(want)
	s.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	require.Eventually(t, func() bool { return writer.Status().Err == nil && writer.Status().Written }, 10*time.Second, time.Millisecond)
	s.Stop()
	select {
	case err := <-told:
		require.Error(t, err)
		require.Greater(t, time.Since(writer.Status().Since), 2*time.Second)
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told")
	}
	require.NoError(t, s.Restart())
	select {
	case err := <-told:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told that it works again")
	}
	s.becomes(want)
	require.Empty(t, told)

	// One that starts where another told that it does not work.
	again := make(chan error, 100)
	run(t, s, newWish(want), func(o *redis.Options) {
		o.Told, o.Stamp, o.Own = true, "other", []string{"t/z/"}
		o.Tell = func(_ context.Context, err error) { again <- err }
	})
	require.NoError(t, <-again)
}

// A server that was replaced while it was stopped does not write over what its successor wrote.
func TestOnlyWhoMayWrites(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	may := errors.New("another server has the store")
	writer := run(t, s, newWish(map[string]string{"t/a/layover--shop--r/rule": "old"}), func(o *redis.Options) {
		o.Fence = func(context.Context) error { return may }
	})
	require.Eventually(t, func() bool { return errors.Is(writer.Status().Err, may) }, 10*time.Second, time.Millisecond)
	require.Empty(t, s.all())

	// What stands between the look at Redis and the transaction makes that void.
	tries, afterFirst := 0, make(chan map[string]string, 1)
	run(t, s, newWish(map[string]string{"t/a/layover--shop--r/rule": "old"}), func(o *redis.Options) {
		o.Fence = func(context.Context) error {
			switch tries++; tries {
			case 1:
				s.do("SET", "stamp", "of the successor")
			case 2:
				afterFirst <- s.all()
			}
			return nil
		}
	})
	select {
	case there := <-afterFirst:
		require.Empty(t, there)
	case <-time.After(10 * time.Second):
		t.Fatal("it did not try again")
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	file := filepath.Join(t.TempDir(), "secret")
	want := map[string]string{"t/a/layover--shop--r/rule": "R"}
	writer := run(t, s, newWish(want), func(o *redis.Options) {
		o.Password = func() (string, error) {
			data, err := os.ReadFile(file)
			return string(data), err
		}
	})
	require.Eventually(t, func() bool { return errors.Is(writer.Status().Err, os.ErrNotExist) }, 10*time.Second, time.Millisecond)
	require.NoError(t, os.WriteFile(file, []byte("guessed-wrong"), 0o600))
	require.Eventually(t, func() bool {
		err := writer.Status().Err
		return err != nil && !errors.Is(err, os.ErrNotExist)
	}, 10*time.Second, time.Millisecond)
	require.NotContains(t, writer.Status().Err.Error(), "guessed-wrong")
	require.NoError(t, os.WriteFile(file+".new", []byte(redistest.Password), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
	s.becomes(want)
}
