package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const (
	takeTime  = time.Second           // how long a store that somebody has is waited for: they may be ending
	takeEvery = 50 * time.Millisecond // how often it is tried meanwhile
	holdEvery = time.Second           // how often the holder looks whether it still is
)

// tenure makes a PostgreSQL store one server's own, in two ways. An advisory lock of a
// connection that does nothing else keeps others away while the server is there. A number, which
// grows with each server that takes the store, keeps a server from writing that was paused or cut off
// while another took over: each transaction that writes checks it.
type tenure struct {
	number int64

	mu   sync.Mutex
	conn *sql.Conn // has the lock; nil once it is given up
}

// take makes the store this server's, or returns the error that names who has it.
func (p *postgres) take(ctx context.Context) error {
	deadline := time.Now().Add(takeTime)
	for {
		err := p.lock(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, errHeld) {
			return err
		}
		if time.Now().After(deadline) {
			return p.heldBy(ctx, "%s is in use by another layover server: %s, since %s")
		}
		select {
		case <-time.After(takeEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// This waits for the transactions of an earlier holder that have checked their number.
	return p.pool.QueryRowContext(ctx, `
		UPDATE layover_holder SET number = number + 1, holder = $1, since = now() RETURNING number`,
		thisServer()).Scan(&p.number)
}

// errHeld says that another connection has the lock.
var errHeld = errors.New("the store is held")

// lock takes the lock on a connection of its own, without waiting.
func (p *postgres) lock(ctx context.Context) (err error) {
	conn, err := p.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			discard(conn)
		}
	}()
	var locked bool
	err = conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1, hashtext(current_schema()))`, lockHolding).Scan(&locked)
	if err != nil {
		return err
	}
	if !locked {
		return errHeld
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = conn
	return nil
}

// release gives the lock up.
func (p *postgres) release() {
	p.mu.Lock()
	conn := p.conn
	p.conn = nil
	p.mu.Unlock()
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTime)
	defer cancel()
	_, _ = conn.ExecContext(ctx, `SELECT pg_advisory_unlock_all()`) // so that it is free when this returns; else soon
	discard(conn)
}

// heldBy returns the error that names the server which has the store.
func (p *postgres) heldBy(ctx context.Context, format string) error {
	var who string
	var since time.Time
	err := p.pool.QueryRowContext(ctx, `SELECT holder, since FROM layover_holder`).Scan(&who, &since)
	if err != nil {
		return err
	}
	return conflict("end that server first; one whose machine is gone holds the store for at most half a minute",
		format, p.name, who, since.Local().Format(time.DateTime))
}

// check lets a transaction go on only while the store is this server's. The row stays locked
// until the transaction ends, so that a server which takes the store waits for it.
func (p *postgres) check(ctx context.Context, tx *sql.Tx) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM layover_holder WHERE number = $1 FOR SHARE`, p.number).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return p.lost()
	}
	return err
}

// ErrTaken says that another server has the store now.
var ErrTaken = errors.New("the store was taken over")

func (p *postgres) lost() error {
	return &control.Error{
		Code:    api.CodeConflict,
		Message: fmt.Sprintf("the store %s was taken over by another layover server; this one writes nothing any more", p.name),
		Hint:    "end one of the two: one server at a time has a store",
		Err:     ErrTaken,
	}
}

// hold looks after the lock: where its connection broke, it is taken again. A database that
// does not answer is waited for; nothing can be written meanwhile by anybody.
func (p *postgres) hold(ctx context.Context) error {
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		err := p.holds(ctx)
		if _, ok := errors.AsType[*control.Error](err); ok {
			return err
		}
	}
}

// holds returns nil where the lock is there, or is there again, and a [control.Error]
// where another server has the store.
func (p *postgres) holds(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	p.mu.Lock()
	conn := p.conn
	p.mu.Unlock()
	if conn != nil {
		if _, err := conn.ExecContext(ctx, `SELECT 1`); err == nil {
			return nil
		}
		p.mu.Lock()
		p.conn = nil
		p.mu.Unlock()
		discard(conn) // it is broken
	}
	if err := p.lock(ctx); err != nil && !errors.Is(err, errHeld) {
		return fmt.Errorf("take the lock of the store again: %w", err)
	}
	// Somebody else's lock alone says nothing: it may be that of the connection that broke, and which
	// PostgreSQL has not missed yet.
	var number int64
	if err := p.pool.QueryRowContext(ctx, `SELECT number FROM layover_holder`).Scan(&number); err != nil {
		return err
	}
	if number != p.number {
		p.release()
		return p.lost()
	}
	return nil
}
