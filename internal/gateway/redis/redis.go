// Package redis keeps a set of keys in Redis as they are wanted: it writes what differs, in one transaction, and
// nothing else.
package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gomodule/redigo/redis"
)

// Options are what a Writer is made from.
type Options struct {
	Address  string // host:port
	Username string
	Password func() (string, error) // asked at each connection; nil where there is none
	Database int
	TLS      bool

	// Own are the beginnings of the keys that are this writer's. It removes those that are not wanted, and reads
	// or writes no others but Stamp.
	Own []string
	// Stamp is the key that says what was written last. Where it does not say so any more, Redis has lost its data
	// or somebody else has written, and all is compared anew.
	Stamp string

	// Wanted and Wait are called in turn, by one goroutine. Wanted returns the keys that are to be there, and a text that is another one whenever they are others.
	Wanted func(ctx context.Context) (id string, pairs func() map[string]string, err error)
	// Wait returns when something may have changed, or ctx has ended.
	Wait func(ctx context.Context)
	// Fence returns an error where this process may not write; nil where it always may.
	Fence func(ctx context.Context) error
	// Tell is called when it has not worked for a while, with the reason, and when it works again, with nil.
	Tell func(ctx context.Context, err error)
	// Told says that Tell was called with a reason last, by a writer before this one.
	Told bool
	// ReadEvery is how often all keys are read again: Redis may have dropped some to make room, and kept the stamp. 0 means each minute.
	ReadEvery time.Duration

	Logger *slog.Logger // nil means none
}

// Writer keeps the keys.
type Writer struct {
	opts Options
	id   string // of this writer, in the stamp

	// Of the goroutine of Run.
	conn  redis.Conn
	known map[string]string // what is in Redis; nil where that is not known
	stamp string            // what the stamp says then
	read  time.Time         // when known was read last
	told  bool              // that it does not work

	mu     sync.Mutex
	status Status
}

// Status says how far a writer is.
type Status struct {
	Written bool      // what was wanted last is there
	Err     error     // why it is not
	Since   time.Time // from when on it has been so; zero before the first try
}

const (
	// lookEvery is how often it is looked whether Redis still has what was written.
	lookEvery = time.Second
	// tellAfter is for how long it may not work before somebody is told: a connection that is made anew is no news.
	tellAfter  = 3 * time.Second
	ioTimeout  = 10 * time.Second
	firstRetry = 200 * time.Millisecond
	longRetry  = 15 * time.Second
	scanCount  = 1000
)

// New returns a writer. It connects to nothing before [Writer.Run].
func New(opts Options) *Writer {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Writer{opts: opts, id: rand.Text(), told: opts.Told}
}

// Status says how far the writer is.
func (w *Writer) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Run writes until ctx ends. What it wrote stays: requests go on being routed.
func (w *Writer) Run(ctx context.Context) error {
	defer w.forget()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = firstRetry, longRetry
	for ctx.Err() == nil {
		err := w.step(ctx)
		if ctx.Err() != nil {
			break
		}
		w.tell(ctx, err)
		if err == nil {
			pause.Reset()
			w.wait(ctx, lookEvery)
			continue
		}
		w.forget()
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
		}
	}
	return nil
}

func (w *Writer) wait(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w.opts.Wait(ctx)
}

// tell keeps, logs and tells how it went, where that is news.
func (w *Writer) tell(ctx context.Context, err error) {
	now := time.Now()
	w.mu.Lock()
	before := w.status
	w.status = Status{Written: err == nil, Err: err, Since: before.Since}
	if before.Since.IsZero() || (before.Err == nil) != (err == nil) {
		w.status.Since = now
	}
	since := w.status.Since
	w.mu.Unlock()
	switch {
	case err != nil && (before.Err == nil || before.Err.Error() != err.Error()):
		w.opts.Logger.Warn("configuration is not written to redis", "address", w.opts.Address, "err", err)
	case err == nil && before.Err != nil:
		w.opts.Logger.Info("configuration is written to redis again", "address", w.opts.Address)
	}
	if failing := err != nil; failing != w.told && (!failing || now.Sub(since) >= tellAfter) && w.opts.Tell != nil {
		w.told = failing
		w.opts.Tell(ctx, err)
	}
}

// forget closes the connection, after which nothing is known of Redis.
func (w *Writer) forget() {
	if w.conn != nil {
		_ = w.conn.Close() // it has failed, or is not needed
	}
	w.conn, w.known = nil, nil
}

// step makes Redis have what is wanted now.
func (w *Writer) step(ctx context.Context) error {
	id, pairs, err := w.opts.Wanted(ctx)
	if err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	// Whoever else changes the stamp from here on makes the transaction void.
	if _, err := w.do(ctx, "WATCH", w.opts.Stamp); err != nil {
		return err
	}
	stamp, err := redis.String(w.do(ctx, "GET", w.opts.Stamp))
	if err != nil && !errors.Is(err, redis.ErrNil) {
		return err
	}
	wanted := w.id + " " + id
	if w.known == nil || stamp != w.stamp || time.Since(w.read) > cmp.Or(w.opts.ReadEvery, time.Minute) {
		if w.known, err = w.find(ctx); err != nil {
			return err
		}
		w.read = time.Now()
	} else if stamp == wanted {
		_, err := w.do(ctx, "UNWATCH")
		return err
	}
	return w.write(ctx, wanted, pairs())
}

func (w *Writer) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	options := []redis.DialOption{
		redis.DialConnectTimeout(ioTimeout), redis.DialReadTimeout(ioTimeout), redis.DialWriteTimeout(ioTimeout),
		redis.DialDatabase(w.opts.Database), redis.DialUseTLS(w.opts.TLS), redis.DialUsername(w.opts.Username),
	}
	if w.opts.Password != nil {
		password, err := w.opts.Password()
		if err != nil {
			return fmt.Errorf("read the password of redis: %w", err)
		}
		options = append(options, redis.DialPassword(password))
	}
	conn, err := redis.DialContext(ctx, "tcp", w.opts.Address, options...)
	if err != nil {
		return fmt.Errorf("connect to redis: %w", err)
	}
	w.conn = conn
	return nil
}

func (w *Writer) do(ctx context.Context, command string, args ...any) (any, error) {
	reply, err := redis.DoContext(w.conn, ctx, command, args...)
	if err != nil {
		return nil, fmt.Errorf("redis: %s: %w", command, err)
	}
	return reply, nil
}

// find returns all keys that are this writer's.
func (w *Writer) find(ctx context.Context) (map[string]string, error) {
	found := map[string]string{}
	for _, own := range w.opts.Own {
		for cursor := "0"; ; {
			page, err := redis.Values(w.do(ctx, "SCAN", cursor, "MATCH", own+"*", "COUNT", scanCount))
			if err != nil {
				return nil, err
			}
			var keys []string
			if _, err := redis.Scan(page, &cursor, &keys); err != nil {
				return nil, fmt.Errorf("redis: SCAN: %w", err)
			}
			if err := w.get(ctx, keys, found); err != nil {
				return nil, err
			}
			if cursor == "0" {
				break
			}
		}
	}
	return found, nil
}

func (w *Writer) get(ctx context.Context, keys []string, found map[string]string) error {
	if len(keys) == 0 {
		return nil
	}
	values, err := redis.Values(w.do(ctx, "MGET", redis.Args{}.AddFlat(keys)...))
	if err != nil {
		return err
	}
	for i, v := range values {
		text, _ := v.([]byte) // one of another type, or that has just gone, is nil: it is written over
		found[keys[i]] = string(text)
	}
	return nil
}

// write sends what differs from what is known.
func (w *Writer) write(ctx context.Context, stamp string, pairs map[string]string) error {
	if w.opts.Fence != nil {
		if err := w.opts.Fence(ctx); err != nil {
			return err
		}
	}
	if err := w.conn.Send("MULTI"); err != nil {
		return fmt.Errorf("redis: MULTI: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		if _, ok := pairs[key]; !ok {
			_ = w.conn.Send("DEL", key) // EXEC says what went wrong
		}
	}
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		if old, ok := w.known[key]; !ok || old != pairs[key] {
			_ = w.conn.Send("SET", key, pairs[key])
		}
	}
	_ = w.conn.Send("SET", w.opts.Stamp, stamp)
	reply, err := w.do(ctx, "EXEC")
	if err != nil {
		return err
	}
	if reply == nil {
		return errors.New("redis: EXEC: somebody else has written the same keys just now")
	}
	w.known, w.stamp = pairs, stamp
	return nil
}
