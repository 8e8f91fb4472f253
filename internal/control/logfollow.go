package control

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

// How the logs of all instances are followed.
const (
	followInterval = time.Second // for instances that are new
	maxFollowed    = 5000        // instances at a time
	lastWords      = 5 * time.Second
)

// FollowInstances hands what instances write from now on to each, until ctx ends: of those that run, and of those that are started
// later, however short they live. Where ended is closed by then, all instances have ended, and their last words are handed over, too.
// Runtimes in skip keep the logs of their instances elsewhere. each is called by many goroutines at a time. It returns how many
// instances there was no room for, at most.
func (c *Control) FollowInstances(ctx context.Context, ended <-chan struct{}, skip []string, each func(api.LogLine)) (left int) {
	f := &instanceFollower{c: c, skip: map[string]bool{"": true}, each: each, since: time.Now(), known: map[followedRun]bool{}, again: map[followedRun]time.Time{}}
	for _, runtime := range skip {
		f.skip[runtime] = true
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var reading sync.WaitGroup
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		left = max(left, f.look(following, &reading))
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		select {
		case <-ended:
			left = max(left, f.look(following, &reading)) // those that came last
			defer time.AfterFunc(lastWords, stop).Stop()
		default:
			stop()
		}
		reading.Wait()
		return left
	}
}

// instanceFollower reads the logs of instances.
type instanceFollower struct {
	c     *Control
	skip  map[string]bool // runtimes
	each  func(api.LogLine)
	since time.Time // what was written before is not told

	mu    sync.Mutex
	known map[followedRun]bool      // whether it is read now; those that there are
	again map[followedRun]time.Time // behind which line to go on, of those whose log broke off
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
		since, broke := f.again[id]
		if !broke && run.StartedAt.Before(f.since) {
			since = f.since
		}
		delete(f.again, id)
		reading.Go(func() {
			last, err := f.read(ctx, run, since)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.known[id] = false
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, ErrNoInstance) && ctx.Err() == nil {
				f.c.log.Warn("the log of an instance broke off; it is followed again", "instance", run.Instance, "err", err)
				delete(f.known, id)
				f.again[id] = last
			}
		})
	}
	for id, isRead := range f.known {
		if !isRead && !there[id] {
			delete(f.known, id)
		}
	}
	for id := range f.again {
		if !there[id] {
			delete(f.again, id)
		}
	}
	return left
}

// read hands on the log of a run, to its end: io.EOF. It returns behind which line to go on after another error.
func (f *instanceFollower) read(ctx context.Context, run *logRun, since time.Time) (next time.Time, err error) {
	reader, err := f.c.openRun(ctx, run, LogOptions{Follow: run.running, Since: since})
	if err != nil {
		return since, err
	}
	defer func() { _ = reader.Close() }()
	for {
		line, err := reader.Next()
		if err != nil {
			return since, err
		}
		if line.Time.IsZero() {
			line.Time = time.Now() // it says that lines are missing
		} else {
			since = line.Time.Add(1)
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
