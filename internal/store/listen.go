package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
)

const (
	// channel is where the servers that share a store tell each other what happened, by NOTIFY.
	channel    = `'layover_' || md5(current_schema())`
	newsHolder = "holder" // the store was given up, or the server that has it says where it is
	newsEvent  = "event " // and the ID of a new event
	listenSoon = 100 * time.Millisecond
	listenLate = 5 * time.Second // the longest pause before a connection that broke is made again
)

// hearing is what a server that waits for the store hears of the one that has it.
//
// What is heard comes as soon as the transaction that it tells of is kept, and may be lost where a
// connection breaks. So who waits looks now and then, too.
type hearing struct {
	holder chan struct{} // has an entry when there is news of the holder

	mu      sync.Mutex
	event   int64         // the newest that is known of
	changed chan struct{} // closed, and made anew, when that grew
}

func newHearing() *hearing {
	return &hearing{holder: make(chan struct{}, 1), changed: make(chan struct{})}
}

// take takes in what was told.
func (h *hearing) take(news string) {
	if id, ok := strings.CutPrefix(news, newsEvent); ok {
		if event, err := strconv.ParseInt(id, 10, 64); err == nil {
			h.newest(event)
		}
		return
	}
	select {
	case h.holder <- struct{}{}:
	default:
	}
}

// newest notes the ID of an event.
func (h *hearing) newest(event int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if event > h.event {
		h.event = event
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// wait returns when there is an event with an ID above after.
func (h *hearing) wait(ctx context.Context, after int64) error {
	for {
		h.mu.Lock()
		event, changed := h.event, h.changed
		h.mu.Unlock()
		if event > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell lets the servers that wait for the store know of something once the transaction is kept.
func tell(ctx context.Context, on execer, news string) error {
	_, err := on.ExecContext(ctx, `SELECT pg_notify(`+channel+`, $1)`, news)
	return err
}

// tellEvent is of [engine].
func (p *postgres) tellEvent(ctx context.Context, on execer, id int64) error {
	return tell(ctx, on, newsEvent+strconv.FormatInt(id, 10))
}

// listen takes in what is told until ctx ends, over a connection of its own, which it makes again where it breaks.
func (p *postgres) listen(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = listenSoon, listenLate
	for {
		began := time.Now()
		_ = p.listenOnce(ctx) // whoever waits looks, too, and has the error then
		if time.Since(began) > listenLate {
			pause.Reset()
		}
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
			return
		}
	}
}

func (p *postgres) listenOnce(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, p.config.Copy())
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ending)
	}()
	var name string
	if err := conn.QueryRow(ctx, `SELECT `+channel).Scan(&name); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	p.hearing.take(newsHolder) // what was told before is not heard: look
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		p.hearing.take(n.Payload)
	}
}
