package control

import (
	"context"
	"time"

	"github.com/layover-dev/layover/api"
)

// Events returns at most limit events with an ID above after, oldest first.
func (c *Control) Events(ctx context.Context, after int64, limit int) ([]api.Event, error) {
	return c.opts.Store.Events(ctx, after, limit)
}

// LastEvent returns the ID of the newest event, 0 where there is none.
func (c *Control) LastEvent(context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, nil
}

// WaitEvents returns when there is an event with an ID above after.
func (c *Control) WaitEvents(ctx context.Context, after int64) error {
	for {
		next := c.events.next()
		if last, _ := c.LastEvent(ctx); last > after {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Tell stores an event that another part of the server has found out.
func (c *Control) Tell(ctx context.Context, e api.Event) bool { return c.note(ctx, e) }

// note stores an event, and says whether that worked. The work it tells of is done,
// so it is stored even where ctx has ended, and a store that refuses it stops nothing.
func (c *Control) note(ctx context.Context, e api.Event) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	e.Time = time.Now().UTC()
	if rec := c.record(Key{Service: e.Service, Version: e.Version}); e.Owner == "" && rec != nil {
		e.Owner = rec.Owner
	}
	id, err := c.opts.Store.AppendEvent(ctx, e)
	if err != nil {
		c.log.Error("event not stored", "type", string(e.Type), "service", e.Service, "version", e.Version, "err", err)
		return false
	}
	c.log.Info(e.Message, "type", string(e.Type), "service", e.Service, "version", e.Version) //nolint:sloglint // the event's own words
	c.mu.Lock()
	c.last = max(c.last, id)
	c.mu.Unlock()
	c.events.raise()
	return true
}
