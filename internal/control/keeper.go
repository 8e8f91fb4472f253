package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/failpoint"
)

// keeper keeps one version as it is wanted. Its goroutine is the only one that
// starts instances of that version, and decides which of them end.
type keeper struct {
	c         *Control
	key       Key
	wake      chan struct{} // something changed: look again
	inherited []string      // runtimes that may have instances of an earlier server's

	// Guarded by c.mu.
	instances map[string]*instance
	starting  map[string]bool         // IDs of the instances that are being started
	cancel    context.CancelCauseFunc // of the attempt in progress; nil where there is none
	told      int64                   // the newest generation whose beginning is among the events
	places    map[string]*place       // of the serving generation's instances, by their IDs
	halting   *halt                   // who asked to stop or to sleep; nil where that is told already
	waking    *halt                   // who asked to wake up; nil where that is told already
	crowded   string                  // why it was not woken; "" where nobody tried, or it was
	progress  string                  // what the start in progress does, in words; "" where none is
	active    time.Time               // when a request was last seen
	unseen    bool                    // an earlier server left it serving, and it was not looked at yet
	hook      *hookRun                // the setup or teardown in progress; nil where there is none
	tearsAt   time.Time               // when a teardown that failed is tried again
}

// halt is a wish that a version stops or sleeps, or no longer does.
type halt struct {
	actor string
	why   string // "" where a person wants it
	at    time.Time
}

// errSuperseded is why an attempt ends when something else is wanted now.
var errSuperseded = errors.New("something else is wanted now")

const (
	restartDelay    = time.Second      // before the second restart in a row; doubles
	maxRestartDelay = time.Minute      // where the doubling ends
	stableAfter     = 30 * time.Second // an instance that ran so long starts the count anew
)

func newKeeper(c *Control, key Key) *keeper {
	return &keeper{
		c: c, key: key, wake: make(chan struct{}, 1),
		instances: map[string]*instance{}, starting: map[string]bool{}, places: map[string]*place{},
	}
}

// inherit notes what an earlier server left to do for the version.
func (k *keeper) inherit(rec *VersionRecord) {
	for i := range rec.Generations {
		g := &rec.Generations[i]
		k.told = g.Number
		if name := g.Run.Runtime(); g.State != GenerationFailed && !slices.Contains(k.inherited, name) {
			k.inherited = append(k.inherited, name)
		}
	}
	if h := rec.dueHook(); h != nil {
		k.inherited = append(k.inherited, h.Run.Runtime())
	}
}

// run takes one step after another until ctx ends or the version is removed.
func (k *keeper) run(ctx context.Context) error {
	for {
		again := k.step(ctx)
		if k.retired() || !k.sleep(ctx, again) {
			return nil
		}
	}
}

// sleep waits until the keeper is woken or d is over; 0 means when woken. It returns
// false where ctx ends before.
func (k *keeper) sleep(ctx context.Context, d time.Duration) bool {
	var over <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-k.wake:
	case <-over:
	}
	return true
}

// look wakes the keeper to look at the facts again.
func (k *keeper) look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// step brings the version one step closer to what is wanted, and returns after
// which time to look again; 0 means when woken.
func (k *keeper) step(ctx context.Context) time.Duration {
	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k.c.mu.Lock()
	k.cancel = cancel // together with reading the record, so that no change is missed
	rec, told := k.c.records[k.key], k.told
	k.c.mu.Unlock()
	defer func() {
		k.c.mu.Lock()
		k.cancel = nil
		k.c.mu.Unlock()
	}()

	if rec == nil || rec.Desired != DesiredRunning || rec.serving() == nil {
		k.seen() // nothing to find again
	}
	if rec == nil {
		return 0
	}
	left := k.release(rec)
	newest, serving := rec.newest(), rec.serving()
	switch {
	case rec.Desired != DesiredRunning:
		if left > 0 {
			return 0 // woken when they are gone
		}
		return k.halt(attempt, rec)
	case newest != nil && newest.State == GenerationPending:
		if told < newest.Number {
			return 0 // woken when its beginning has been told
		}
		return k.deploy(attempt, newest, serving)
	case serving != nil:
		return k.keep(attempt, serving)
	}
	return 0
}

// deploy brings up generation g beside what serves, and swaps it in; the next
// step lets go of the rest. Where g does not become healthy, what served before goes on.
func (k *keeper) deploy(ctx context.Context, g, serving *Generation) time.Duration {
	// A first look at the runtime may find what is to be started. Where it fails, the start says why.
	if w := k.c.watchers[g.Run.Runtime()]; w != nil && !w.waitLooked(ctx) {
		return 0
	}
	began := time.Now()
	d := &deployment{k: k, generation: g, stepBegan: began}
	kept := func() {}
	if serving != nil && !g.FromSleep { // what slept need not wake up to be replaced
		kept = k.keepMeanwhile(ctx, serving)
	}
	inst, err := d.setUpAndStart(ctx, serving)
	d.stepBegan = time.Now()
	if err == nil {
		failpoint.Pass(failpoint.InstanceHealthy)
		err = k.store(ctx, func(r *VersionRecord) (*VersionRecord, error) { return r.promote(g.Number) })
	}
	kept()
	if err != nil {
		return k.deployFailed(ctx, g, inst, err)
	}
	failpoint.Pass(failpoint.DeployPromoted)
	k.settled()
	if k.c.publishAtLast(ctx) != nil {
		return 0 // something else is wanted, or the next server goes on here
	}
	failpoint.Pass(failpoint.DeployPublished)
	d.routed(ctx)
	failpoint.Pass(failpoint.DeployRouted)
	k.conclude(ctx, api.Event{
		Type: api.EventDeployDone, Generation: g.Number, Took: api.Duration(time.Since(began)),
		Message: fmt.Sprintf("%s is up (generation %d)", k.key, g.Number),
	})
	failpoint.Pass(failpoint.DeployTold)
	k.look()
	return 0
}

// enough returns how many instances of g have to be healthy before it takes over: all, where
// the other one answers; the first, where nothing does.
func (k *keeper) enough(g, serving *Generation) int {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if serving == nil {
		return 1
	}
	if _, healthy := k.answeringLocked(serving); healthy == 0 {
		return 1
	}
	return len(g.slots())
}

// keepMeanwhile keeps the serving generation while another is brought up, until the
// returned function is called.
func (k *keeper) keepMeanwhile(ctx context.Context, serving *Generation) (enough func()) {
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() {
		for k.sleep(ctx, k.keep(ctx, serving)) {
		}
	})
	return func() {
		cancel()
		keeping.Wait()
		k.look() // what woke it may concern others
	}
}

// deployFailed records why generation g did not come up, unless something else
// is wanted by now or the server is ending: then nothing failed.
func (k *keeper) deployFailed(ctx context.Context, g *Generation, inst *instance, err error) time.Duration {
	defer k.look() // what served before still needs care, and g's instance has to go
	if errors.Is(err, errSuperseded) || ctx.Err() != nil {
		return 0
	}
	reason, tail := explained(err), k.logTail(ctx, g, inst)
	if failed, ok := errors.AsType[*hookError](err); ok {
		tail = failed.tail
	}
	err = k.store(ctx, func(r *VersionRecord) (*VersionRecord, error) { return r.fail(g.Number, reason, tail) })
	if err != nil {
		return 0
	}
	k.c.changed(ctx)
	k.conclude(ctx, api.Event{
		Type: api.EventDeployFailed, Generation: g.Number, LogTail: tail,
		Message: fmt.Sprintf("%s did not come up: %s", k.key, reason),
	})
	return 0
}

// halt says that a version without instances is stopped, or deletes its record
// where it is to be removed.
func (k *keeper) halt(ctx context.Context, rec *VersionRecord) time.Duration {
	// What an earlier server started is not gone before its runtime says so.
	for _, name := range k.inherited {
		if w := k.c.watchers[name]; w != nil && !w.waitListed(ctx) {
			return 0
		}
	}
	k.settled()
	switch rec.Desired {
	case DesiredAsleep:
		k.asleep(ctx)
		return 0
	case DesiredStopped:
		if by := k.takeHalting(); by != nil {
			k.conclude(ctx, api.Event{Type: api.EventVersionStopped, Actor: by.actor, Message: k.key.String() + " is stopped"})
			failpoint.Pass(failpoint.StopTold)
		}
		return 0
	}
	if again, done := k.tearDown(ctx, rec); !done {
		return again
	}
	err := k.store(ctx, func(r *VersionRecord) (*VersionRecord, error) {
		if r != nil && r.Desired != DesiredRemoved {
			return nil, errSuperseded // wanted again
		}
		return nil, nil
	})
	if err != nil {
		return 0
	}
	failpoint.Pass(failpoint.RemoveDeleted)
	k.c.forgetLogs(k.key)
	e := api.Event{Type: api.EventVersionRemoved, Owner: rec.Owner, Message: k.key.String() + " is removed"}
	if by := k.takeHalting(); by != nil {
		e.Actor = by.actor
		if by.why != "" {
			e.Message += ": " + by.why
		}
	}
	k.conclude(ctx, e)
	k.deployNext(ctx)
	return 0
}

// store changes the record, and tries again while the store refuses to. It returns
// errSuperseded where edit does, or where something else is wanted meanwhile.
func (k *keeper) store(ctx context.Context, edit func(*VersionRecord) (*VersionRecord, error)) error {
	for {
		err := k.c.update(ctx, k.key, edit)
		if err == nil || errors.Is(err, errSuperseded) {
			return err
		}
		k.c.log.Error("version not stored", "service", k.key.Service, "version", k.key.Version, "err", err)
		if !pause(ctx, retryDelay) {
			return context.Cause(ctx)
		}
	}
}

// retired says whether the version is gone for good, and forgets the keeper then.
func (k *keeper) retired() bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if _, ok := k.c.records[k.key]; ok || len(k.instances) > 0 || k.revivingLocked() {
		return false
	}
	delete(k.c.keepers, k.key)
	return true
}

// settled forgets earlier failures: something else runs now.
func (k *keeper) settled() {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	for id, p := range k.places {
		p.forget()
		if p.cancel == nil {
			delete(k.places, id)
		}
	}
	k.c.touchLocked(k.key)
}

func (k *keeper) takeHalting() *halt {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	by := k.halting
	k.halting = nil
	return by
}

// conclude stores the event that ends something that people wait for, and tries
// again while the store refuses it.
func (k *keeper) conclude(ctx context.Context, e api.Event) {
	for !k.event(ctx, e) && pause(ctx, retryDelay) {
	}
}

// event stores an event of this version, and says whether that worked.
func (k *keeper) event(ctx context.Context, e api.Event) bool {
	e.Service, e.Version = k.key.Service, k.key.Version
	return k.c.note(ctx, e)
}

// logTail returns the last lines of generation g's instance.
func (k *keeper) logTail(ctx context.Context, g *Generation, inst *instance) []string {
	rt := k.c.opts.Runtimes[g.Run.Runtime()]
	if inst == nil || rt == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	logs, err := rt.Logs(ctx, inst.ID, LogOptions{Tail: tailLines})
	if err != nil {
		return nil
	}
	defer func() { _ = logs.Close() }()
	var tail []string
	for {
		line, err := logs.Next()
		if err != nil {
			break
		}
		tail = append(tail, bounded(line.Text, maxTailLine))
		tail = tail[max(0, len(tail)-tailLines):]
	}
	return tail
}

// How much is kept of why a deployment failed.
const (
	tailLines   = 20      // the last of its log
	maxTailLine = 1 << 10 // bytes of each
	maxReason   = 2 << 10 // bytes
)

// bounded cuts text to at most limit bytes, between two characters.
func bounded(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const cut = " …"
	return strings.ToValidUTF8(text[:limit-len(cut)], "") + cut
}

func hintOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}
