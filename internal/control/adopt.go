package control

import (
	"context"
	"sync"
	"time"
)

// adoption tells when everything that should serve, as an earlier server left it, has been
// looked at: its runtime has been listed, and its instance, if there is one, has been
// checked once. Until then the table says "starting" of versions that do answer.
type adoption struct {
	left int // versions that were not looked at; guarded by Control.mu
	once sync.Once
	over time.Time     // when it ended; set before done is closed
	done chan struct{} // closed when it has ended
}

// adoptTimeout is how long the table is kept from other proxies at most, where a
// runtime does not answer.
const adoptTimeout = 10 * time.Second

func (a *adoption) end() {
	a.once.Do(func() {
		a.over = time.Now()
		close(a.done)
	})
}

// wait returns when the adoption is over, or with ctx's error.
func (a *adoption) wait(ctx context.Context) error {
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run ends the adoption when it takes too long.
func (a *adoption) run(ctx context.Context) error {
	limit := time.NewTimer(adoptTimeout)
	defer limit.Stop()
	select {
	case <-limit.C:
		a.end()
	case <-a.done:
	case <-ctx.Done():
	}
	return nil
}

// seen notes that what an earlier server left of the version has been looked at.
func (k *keeper) seen() {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if !k.unseen {
		return
	}
	k.unseen = false
	if k.c.adopted.left--; k.c.adopted.left == 0 {
		k.c.adopted.end()
	}
}

// proxiesBack returns when the proxies that had their table from an earlier server have
// had the time to come back to this one and to tell what they still need. It returns false
// where ctx ends before. Nothing that was there before this server may be ended sooner.
func (c *Control) proxiesBack(ctx context.Context) bool {
	if c.adopted.wait(ctx) != nil {
		return false
	}
	wait := time.Until(c.adopted.over.Add(c.opts.ProxyGrace))
	return wait <= 0 || pause(ctx, wait)
}
