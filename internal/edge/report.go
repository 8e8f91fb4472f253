package edge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// news wakes the reporter. It never waits; news that come together are told together.
func (f *Follower) news() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// watch reports the instances that left as draining until they have gone idle.
func (f *Follower) watch(left []string) {
	for _, id := range left {
		if f.idle(id) {
			continue
		}
		f.mu.Lock()
		_, watched := f.leave[id]
		f.leave[id] = struct{}{}
		f.mu.Unlock()
		if watched {
			continue
		}
		go func() {
			_ = f.opts.DataPlane.WaitIdle(f.ended, id) // or the proxy ends, and all requests with it
			f.mu.Lock()
			delete(f.leave, id)
			f.mu.Unlock()
			f.news()
		}()
	}
}

// Draining returns the instances that have left the table and have requests in flight.
func (f *Follower) Draining() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.leave))
}

var errNow = errors.New("now")

// idle says whether nothing is in flight to an instance at this moment.
func (f *Follower) idle(id string) bool {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errNow)
	return f.opts.DataPlane.WaitIdle(ctx, id) == nil
}

// report tells the server that is followed about this proxy: when there is news, and
// every few seconds.
func (f *Follower) report(ctx context.Context) {
	tick := time.NewTicker(f.opts.ReportEvery)
	defer tick.Stop()
	var told told
	failed := 0
	for {
		counted := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			counted = true
		case <-f.wake: // quickly, without a look at every version
		}
		server, session, drop := f.link()
		if server == nil {
			continue
		}
		report := f.compose()
		if counted {
			report.Requests = told.news(f.opts.DataPlane.Requests(), session, report.Epoch)
			busy := f.opts.DataPlane.Busy()
			report.Busy = busy[:min(len(busy), maxBusy)]
		}
		err := f.send(ctx, server, report)
		_, unreachable := errors.AsType[*api.UnreachableError](err)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failed = 0
			told.add(report.Requests)
			f.contact()
		case unreachable || errors.Is(err, context.DeadlineExceeded):
			// The stream may stay open and silent for a minute: a machine that is gone closes nothing.
			if failed++; failed >= lostReports {
				failed = 0
				drop(fmt.Errorf("the server has not taken %d reports in a row: %w", lostReports, err))
			}
		default:
			f.log.Warn("the server does not take the proxy's report", "server", server.URL(), "err", err)
		}
	}
}

// Wake asks the server that is followed to start a version that sleeps, "cart@feature-1".
func (f *Follower) Wake(ctx context.Context, version string) error {
	server, _, _ := f.link()
	if server == nil {
		return errors.New("no server answers this proxy")
	}
	service, name, _ := strings.Cut(version, "@")
	_, err := server.Wake(ctx, service, name, "")
	return err
}

// SendHops tells the server that is followed what the proxy saw of requests.
func (f *Follower) SendHops(ctx context.Context, batch api.HopBatch) error {
	server, _, _ := f.link()
	if server == nil {
		return errors.New("no server answers this proxy")
	}
	return server.SendHops(ctx, batch)
}

// Receipt asks the server that is followed what it knows of a trace.
func (f *Follower) Receipt(ctx context.Context, trace string) (api.Receipt, error) {
	server, _, _ := f.link()
	if server == nil {
		return api.Receipt{}, errors.New("no server answers this proxy")
	}
	return server.Receipt(ctx, trace)
}

func (f *Follower) send(ctx context.Context, server Server, report api.ProxyReport) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return server.ReportProxy(ctx, report)
}

// link returns the server that is followed, for the how manyth time one is, and what ends that.
func (f *Follower) link() (Server, uint64, context.CancelCauseFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server, f.session, f.drop
}

func (f *Follower) compose() api.ProxyReport {
	at := f.position()
	draining := f.Draining() // read later: no instance is left out that at lacks
	return api.ProxyReport{
		ID:        f.opts.ID,
		Addresses: f.opts.Addresses,
		Build:     f.opts.Build,
		StartedAt: f.started,
		Epoch:     at.Epoch,
		Revision:  at.Revision,
		Draining:  draining[:min(len(draining), maxDraining)],
	}
}

// Bounds of a report, which servers refuse beyond.
const (
	maxDraining = 4096
	maxCounts   = 4096
	maxBusy     = 2048 // versions; what is in progress is never ended for being left out
)

// told is what a server knows of the numbers of requests: only what differs is sent, and
// what is too much for one report waits for the next.
type told struct {
	session uint64
	epoch   string // of the tables: behind one address, another server may make them now
	counts  map[string]uint64
}

func (t *told) news(counts map[string]uint64, session uint64, epoch string) map[string]uint64 {
	if t.session != session || t.epoch != epoch { // it may have begun anew
		t.session, t.epoch, t.counts = session, epoch, nil
	}
	changed := map[string]uint64{}
	for version, n := range counts {
		if len(changed) == maxCounts {
			break
		}
		if t.counts[version] != n {
			changed[version] = n
		}
	}
	maps.DeleteFunc(t.counts, func(version string, _ uint64) bool { _, there := counts[version]; return !there })
	return changed
}

func (t *told) add(counts map[string]uint64) {
	if t.counts == nil {
		t.counts = make(map[string]uint64, len(counts))
	}
	maps.Copy(t.counts, counts)
}
