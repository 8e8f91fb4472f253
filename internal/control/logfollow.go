package control

import (
	"context"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

// How the logs of all instances are followed.
const (
	followInterval = time.Second // for instances that are new
	maxFollowed    = 5000        // instances at a time
)

// FollowInstances hands what instances write from now on to each, until ctx ends: of those that run, and of those that are started
// later, however short they live. Runtimes in skip keep the logs of their instances elsewhere. each is called by many goroutines at a
// time. It returns how many instances there was no room for, at most.
func (c *Control) FollowInstances(ctx context.Context, skip []string, each func(api.LogLine)) (left int) {
	f := &instanceFollower{c: c, skip: map[string]bool{"": true}, each: each, since: time.Now(), known: map[followedRun]bool{}}
	for _, runtime := range skip {
		f.skip[runtime] = true
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		left = max(left, f.look(ctx, &reading))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return left
		}
	}
}

// instanceFollower reads the logs of instances.
type instanceFollower struct {
	c     *Control
	skip  map[string]bool // runtimes
	each  func(api.LogLine)
	since time.Time // what was written before is not told

	mu    sync.Mutex
	known map[followedRun]bool // whether it is read now; those that there are
}

type followedRun struct {
	instance string
	started  int64
}

// look begins with instances that are new, and returns for how many there is no room.
func (f *instanceFollower) look(ctx context.Context, reading *sync.WaitGroup) (left int) {
	runs := f.c.allRuns()
	there := make(map[followedRun]bool, len(runs))
	f.mu.Lock()
	defer f.mu.Unlock()
	open := 0
	for _, isRead := range f.known {
		if isRead {
			open++
		}
	}
	for i := range runs {
		run := &runs[i]
		id := followedRun{run.Instance, run.StartedAt.UnixNano()}
		there[id] = true
		_, had := f.known[id]
		if had || f.skip[run.runtime] || !run.running && run.StartedAt.Before(f.since) {
			continue
		}
		if open == maxFollowed {
			left++
			continue
		}
		open++
		f.known[id] = true
		reading.Go(func() {
			f.read(ctx, run)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.known[id] = false
		})
	}
	for id, isRead := range f.known {
		if !isRead && !there[id] {
			delete(f.known, id)
		}
	}
	return left
}

// read hands on the log of a run, to its end.
func (f *instanceFollower) read(ctx context.Context, run *logRun) {
	opts := LogOptions{Follow: run.running}
	if run.StartedAt.Before(f.since) {
		opts.Since = f.since
	}
	reader, err := f.c.openRun(ctx, run, opts)
	if err != nil {
		f.c.log.Debug("log not followed", "instance", run.Instance, "err", err)
		return
	}
	defer func() { _ = reader.Close() }()
	for {
		line, err := reader.Next()
		if err != nil {
			return // it has ended, or what reads it has: the next run is another one
		}
		if line.Time.IsZero() {
			line.Time = time.Now() // it says that lines are missing
		}
		line.Service, line.Version, line.Generation, line.Instance = run.Service, run.Version, run.Generation, run.Instance
		f.each(f.c.describe(line))
	}
}

// allRuns returns the runs of all instances that runtimes have.
func (c *Control) allRuns() []logRun {
	c.mu.Lock()
	defer c.mu.Unlock()
	var runs []logRun
	for key, k := range c.keepers {
		for id, i := range k.instances {
			if !IsHook(id) {
				runs = append(runs, i.logRun(key, id))
			}
		}
	}
	return runs
}

// describe adds to a line what it says of the trace that it is of.
func (c *Control) describe(line api.LogLine) api.LogLine {
	if line.Stream == api.StreamLayover {
		return line
	}
	line.Trace, line.Span = traceIn(line.Text)
	if line.Trace != "" && c.opts.RouteOfTrace != nil {
		line.Route = c.opts.RouteOfTrace(line.Trace)
	}
	return line
}
