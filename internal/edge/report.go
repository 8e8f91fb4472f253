package edge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	failed := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.wake:
		}
		server, report, drop := f.compose()
		if server == nil {
			continue
		}
		err := f.send(ctx, server, report)
		_, unreachable := errors.AsType[*api.UnreachableError](err)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failed = 0
			f.contact()
		case unreachable || errors.Is(err, context.DeadlineExceeded):
			// The stream may stay open and silent for a minute: a machine that is gone closes nothing.
			if failed++; failed >= lostReports {
				failed = 0
				drop(fmt.Errorf("the server has not taken %d reports in a row: %w", lostReports, err))
			}
		default:
			f.log.Debug("the server does not take the proxy's report", "server", server.URL(), "err", err)
		}
	}
}

func (f *Follower) send(ctx context.Context, server Server, report api.ProxyReport) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return server.ReportProxy(ctx, report)
}

func (f *Follower) compose() (Server, api.ProxyReport, context.CancelCauseFunc) {
	f.mu.Lock()
	server, drop := f.server, f.drop
	report := api.ProxyReport{
		ID:        f.id,
		Addresses: f.opts.Addresses,
		Build:     f.opts.Build,
		StartedAt: f.started,
		Revision:  f.status.Revision,
		Draining:  slices.Sorted(maps.Keys(f.leave)),
	}
	f.mu.Unlock()
	if server != nil {
		report.Requests = f.opts.DataPlane.Requests()
	}
	return server, report, drop
}
