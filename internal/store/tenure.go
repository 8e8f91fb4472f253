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
	leaseTime  = 3 * time.Second        // after the last renewal another server may take the store
	provenTime = 2 * time.Second        // after the start of the last renewal this server acts as the holder
	renewEvery = 500 * time.Millisecond // of the lease
	renewTime  = time.Second            // how long one renewal may take
	takeEvery  = 200 * time.Millisecond // how often a store that another server has is tried
)

// tenure makes a PostgreSQL store one server's own, by one row of the database.
//
// A lease, by the clock of the database, keeps others away while the server renews it. A number, which
// grows with each server that takes the store, keeps a server from writing that was paused or cut off while
// another took over: each transaction that writes checks it. And what is not a transaction, such as
// a start of an instance, waits for the proof that the lease was renewed a moment ago. That moment is
// taken before the renewal is sent and by this machine's own clock, and lasts less than the lease: so the proof
// has ended before another server can have taken the store.
type tenure struct {
	number int64

	mu      sync.Mutex
	proven  time.Time     // until then the store is this server's, for certain
	taken   bool          // another server has it, for ever
	changed chan struct{} // closed, and made anew, when one of those changed
	conn    *sql.Conn     // renews the lease; nil where there is none
}

// ErrTaken says that another server has the store now.
var ErrTaken = errors.New("the store was taken over")

// wait makes the store this server's as soon as no other server has it. It calls seen with who has it, again
// and again. That the database does not answer for a time is waited out, too.
func (p *postgres) wait(ctx context.Context, seen func(Holder)) error {
	known := newestSchema()
	listening, endListening := context.WithCancel(ctx)
	var listener sync.WaitGroup
	defer listener.Wait()
	defer endListening()
	listen := sync.OnceFunc(func() { listener.Go(func() { p.listen(listening) }) })
	last := nobody
	for {
		err := p.tryTake(ctx, last)
		if err == nil || ctx.Err() != nil {
			return err
		}
		listen()
		if h, err := p.holder(ctx); err == nil {
			p.hearing.newest(h.event)
			seen(Holder{Name: withoutMark(h.name), URL: h.url, Known: h.schema == known})
			if ended := h.ended(); ended != last {
				last = ended
				continue
			}
		}
		select {
		case <-p.hearing.holder:
		case <-time.After(takeEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errHeld says that another server has the store.
var errHeld = errors.New("another server has the store")

// nobody is the number of no holder.
const nobody = int64(-1)

// tryTake makes the store this server's where the lease of another has ended, or that other is the
// one of the number gone, which has ended itself. It waits for the transactions of an earlier holder that have checked their number.
func (p *postgres) tryTake(ctx context.Context, gone int64) error {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	begin := time.Now()
	err := p.pool.QueryRowContext(ctx, `
		UPDATE layover_holder SET number = number + 1, holder = $1, url = '', since = clock_timestamp(), renewed = clock_timestamp()
		WHERE renewed < clock_timestamp() - make_interval(secs => $2) OR number = $3 RETURNING number`,
		thisServer(), leaseTime.Seconds(), gone).Scan(&p.number)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return errHeld
	case err == nil:
		p.prove(begin)
	}
	return err
}

// take makes the store this server's, or returns the error that names who has it: another
// server that renews its lease while this one looks.
func (p *postgres) take(ctx context.Context) error {
	first, err := p.holder(ctx)
	if err != nil {
		return err
	}
	last := first.ended()
	for {
		err := p.tryTake(ctx, last)
		if !errors.Is(err, errHeld) {
			return err
		}
		select {
		case <-time.After(takeEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
		now, err := p.holder(ctx)
		if err != nil {
			return err
		}
		if now.number == first.number && now.renewed.After(first.renewed) || now.number > first.number+1 {
			return conflict("end that server first; one that was killed holds the store for some seconds",
				"%s is in use by another layover server: %s, since %s", p.name, withoutMark(now.name), now.since.Local().Format(time.DateTime))
		}
		if now.number != first.number {
			first = now
		}
		last = now.ended()
	}
}

// announce is [DB.Announce].
func (p *postgres) announce(ctx context.Context, url, identity string) (string, error) {
	err := p.inTx(ctx, quickTx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `
			UPDATE layover_holder SET url = $1, identity = CASE WHEN identity = '' THEN $2 ELSE identity END
			RETURNING identity`, url, identity).Scan(&identity); err != nil {
			return err
		}
		return tell(ctx, tx, newsHolder)
	})
	return identity, err
}

// Holder is the server that has a store.
type Holder struct {
	Name  string // for people
	URL   string // of its API; "" where it has not said so yet
	Known bool   // the store has the schema that this program knows
}

type holderRow struct {
	number         int64
	name, url      string
	since, renewed time.Time
	schema         int64
	event          int64 // ID of the newest
}

// ended returns the number of the holder where it is certain that its process has ended, else [nobody].
func (h holderRow) ended() int64 {
	if isGone(h.name) {
		return h.number
	}
	return nobody
}

// holder returns who has the store, or had it last.
func (p *postgres) holder(ctx context.Context) (h holderRow, err error) {
	var renewed float64 // a server that ended has given the store up at minus infinity, which is no time
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	err = p.pool.QueryRowContext(ctx, `
		SELECT number, holder, url, since, GREATEST(extract(epoch FROM renewed), 0)::float8,
			(SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version), (SELECT COALESCE(MAX(id), 0) FROM events)
		FROM layover_holder`).
		Scan(&h.number, &h.name, &h.url, &h.since, &renewed, &h.schema, &h.event)
	h.renewed = time.UnixMicro(int64(renewed * 1e6))
	return h, err
}

// release lets another server take the store at once.
func (p *postgres) release() {
	p.mu.Lock()
	conn := p.conn
	p.conn, p.proven = nil, time.Time{}
	p.mu.Unlock()
	if conn != nil {
		discard(conn)
	}
	if p.number == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTime)
	defer cancel()
	// Where this fails, the lease ends by itself.
	_, _ = p.pool.ExecContext(ctx, `
		WITH given_up AS (UPDATE layover_holder SET renewed = '-infinity' WHERE number = $1 RETURNING 1)
		SELECT pg_notify(`+channel+`, $2) FROM given_up`, p.number, newsHolder)
}

// check lets a transaction go on only while the store is this server's. The key of the row stays locked
// until the transaction ends, so that a server which takes the store waits for it. Renewing the
// lease does not change the key, and waits for nobody.
func (p *postgres) check(ctx context.Context, tx *sql.Tx) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM layover_holder WHERE number = $1 FOR KEY SHARE`, p.number).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		p.lose()
		return p.lost()
	}
	return err
}

func (p *postgres) lost() error {
	return &control.Error{
		Code:    api.CodeConflict,
		Message: fmt.Sprintf("the store %s was taken over by another layover server; this one writes nothing any more", p.name),
		Hint:    "end one of the two: one server at a time has a store",
		Err:     ErrTaken,
	}
}

// hold renews the lease. A database that does not answer is waited for.
func (p *postgres) hold(ctx context.Context) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		if err := p.renew(ctx); errors.Is(err, ErrTaken) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// renew renews the lease once, over a connection that nothing else waits for.
func (p *postgres) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	p.mu.Lock()
	conn, taken := p.conn, p.taken
	p.conn = nil
	p.mu.Unlock()
	if taken {
		return p.lost()
	}
	if conn == nil {
		var err error
		if conn, err = p.pool.Conn(ctx); err != nil {
			return err
		}
	}
	begin := time.Now()
	result, err := conn.ExecContext(ctx, `UPDATE layover_holder SET renewed = clock_timestamp() WHERE number = $1`, p.number)
	if err != nil {
		discard(conn)
		return err
	}
	p.mu.Lock()
	p.conn = conn
	p.mu.Unlock()
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		p.lose()
		return p.lost()
	}
	p.prove(begin)
	return nil
}

// prove notes that the lease was renewed by a call that began then.
func (p *postgres) prove(began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proven = began.Add(provenTime)
	p.tellLocked()
}

// lose notes that another server has the store.
func (p *postgres) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken, p.proven = true, time.Time{}
	p.tellLocked()
}

func (p *postgres) tellLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// waitProof is [DB.WaitProof].
func (p *postgres) waitProof(ctx context.Context) error {
	for {
		p.mu.Lock()
		proven, taken, changed := p.proven, p.taken, p.changed
		p.mu.Unlock()
		if taken {
			return p.lost()
		}
		if time.Now().Before(proven) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
