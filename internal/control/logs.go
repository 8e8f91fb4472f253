package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// LogTarget names whose log is wanted: one version, or, without a service, all of that name,
// also those that are deployed later.
type LogTarget struct{ Service, Version string }

// LogQuery says which logs are wanted. Without Since, Until and Previous it is what the newest instances
// wrote that there are: those that run, else those that ended last.
type LogQuery struct {
	Targets  []LogTarget
	Follow   bool      // go on over restarts, generations and sleep, until the versions are removed
	Since    time.Time // only lines since then, of all instances; zero means no bound
	Until    time.Time // only lines before then, of all instances; zero means no bound
	Tail     int       // only the last lines of all; 0 means all
	Trace    string    // only lines that name it, as 32 hex digits
	Previous bool      // of what ended last, besides what is shown without it
	After    string    // where to go on; see [Log].Position. The other bounds count no more then
}

// Log gives lines in the order of their times, as far as they come in time.
type Log interface {
	// Next returns the next line: io.EOF at the end, ctx's error where ctx ends before; it
	// may be called again then.
	Next(ctx context.Context) (api.LogLine, error)
	// Ready says whether Next would have to wait, as far as is known.
	Ready() bool
	// Position is the place behind the last line of Next, from which another Log goes on
	// without a loss. It is "" where there is none yet.
	Position() string
	io.Closer
}

// maxLogSources bounds how many instances one Log reads at a time.
const maxLogSources = 300

// Logs opens the log of versions. Of an instance that did not come up, and of which nothing else is
// kept, the last lines are all there is. The caller closes the Log.
func (c *Control) Logs(ctx context.Context, q LogQuery) (Log, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &versionLog{c: c, q: q, ctx: ctx, cancel: cancel, merge: newLogMerge(), known: map[Key]bool{}, told: map[Key]string{}}
	if err := l.begin(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (q LogQuery) check() error {
	switch {
	case len(q.Targets) == 0:
		return invalidf("name a version, such as cart@feature-2981", "no version is named")
	case len(q.Targets) > 50:
		return invalidf("name at most 50", "%d versions are named", len(q.Targets))
	case q.Follow && (q.Previous || !q.Until.IsZero()):
		return invalidf("leave out one of the two", "what has ended cannot be followed")
	case q.Tail < 0 || q.Tail > api.MaxLogTail:
		return invalidf("", "tail is a number from 0 to %d", api.MaxLogTail)
	}
	for _, t := range q.Targets {
		if t.Service != "" {
			if err := route.CheckName("service", t.Service); err != nil {
				return invalidf("", "%s", err)
			}
		}
		if err := route.CheckName("version", t.Version); err != nil {
			return invalidf("", "%s", err)
		}
	}
	return nil
}

// logRun is a run with the runtime that has it, "" where it is in the archive.
type logRun struct {
	LogRun
	runtime string
	running bool
}

func (r *logRun) key() Key { return Key{Service: r.Service, Version: r.Version} }

// logKeys returns the versions that targets name and that there are.
func (c *Control) logKeys(targets []LogTarget) []Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[Key]bool{}
	for _, t := range targets {
		services := []string{t.Service}
		if t.Service == "" {
			services = slices.Collect(maps.Keys(c.services))
		}
		for _, service := range services {
			key := Key{Service: service, Version: t.Version}
			if c.records[key] != nil {
				found[key] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), compareKeys)
}

// logRuns returns the runs of a version of which there is a log, by their starts, those of hooks among them.
func (c *Control) logRuns(key Key) ([]logRun, error) {
	runs := append(c.liveRuns(key), c.hookLogRuns(key)...) // before those of the archive, so that none is in neither
	if c.opts.LogArchive != nil {
		kept, err := c.opts.LogArchive.Runs(key)
		if err != nil {
			return nil, fmt.Errorf("look for the logs of %s: %w", key, err)
		}
		for _, run := range kept {
			runs = slices.DeleteFunc(runs, func(r logRun) bool {
				return r.Instance == run.Instance && r.StartedAt.Equal(run.StartedAt)
			})
			runs = append(runs, logRun{LogRun: run})
		}
	}
	slices.SortStableFunc(runs, func(a, b logRun) int { return a.StartedAt.Compare(b.StartedAt) })
	return runs, nil
}

func (c *Control) liveRuns(key Key) []logRun {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.keepers[key]
	if k == nil {
		return nil
	}
	var runs []logRun
	for _, id := range slices.Sorted(maps.Keys(k.instances)) {
		runs = append(runs, k.instances[id].logRun(key, id))
	}
	return runs
}

// newestRuns returns the last run of each instance of the newest generation: of those that runtimes have,
// where there are any.
func newestRuns(runs []logRun) []logRun {
	live := slices.DeleteFunc(slices.Clone(runs), func(r logRun) bool { return r.runtime == "" })
	if len(live) > 0 {
		runs = live
	}
	if len(runs) == 0 {
		return nil
	}
	newest := slices.MaxFunc(runs, func(a, b logRun) int { return int(a.Generation - b.Generation) }).Generation
	return lastRuns(runs, newest)
}

// previousRuns returns what ended last besides what [newestRuns] has: the last runs of the instances of that
// generation.
func previousRuns(runs []logRun) []logRun {
	shown := newestRuns(runs)
	rest := slices.DeleteFunc(slices.Clone(runs), func(r logRun) bool {
		return r.running || slices.ContainsFunc(shown, func(s logRun) bool {
			return s.Instance == r.Instance && s.StartedAt.Equal(r.StartedAt)
		})
	})
	if len(rest) == 0 {
		return nil
	}
	last := slices.MaxFunc(rest, func(a, b logRun) int { return a.ended().Compare(b.ended()) })
	return lastRuns(rest, last.Generation)
}

func (r *logRun) ended() time.Time {
	if r.EndedAt.IsZero() {
		return r.StartedAt
	}
	return r.EndedAt
}

// lastRuns returns the last run of each instance of a generation.
func lastRuns(runs []logRun, generation int64) []logRun {
	last := map[string]logRun{}
	for _, r := range runs { // by their starts
		if r.Generation == generation {
			last[r.Instance] = r
		}
	}
	return slices.SortedFunc(maps.Values(last), func(a, b logRun) int { return a.StartedAt.Compare(b.StartedAt) })
}

// openRun opens the log of a run. It returns ErrNoInstance where that is neither with its
// runtime nor in the archive.
func (c *Control) openRun(ctx context.Context, run *logRun, opts LogOptions) (LogReader, error) {
	if IsHook(run.Instance) {
		return c.openHookLog(ctx, run, opts)
	}
	if run.runtime != "" {
		opts.Run = run.StartedAt
		rt := c.opts.Runtimes[run.runtime]
		if rt == nil {
			return nil, ErrNoInstance
		}
		return rt.Logs(ctx, run.Instance, opts)
	}
	return c.opts.LogArchive.Open(ctx, run.LogRun, opts)
}

// keptTail gives the lines that were kept of a generation that failed.
type keptTail struct {
	at    time.Time
	lines []string
}

// Next is of [LogReader].
func (l *keptTail) Next() (api.LogLine, error) {
	if len(l.lines) == 0 {
		return api.LogLine{}, io.EOF
	}
	line := api.LogLine{Time: l.at, Text: l.lines[0]}
	l.lines, l.at = l.lines[1:], l.at.Add(time.Nanosecond)
	return line, nil
}

// Close is of [LogReader].
func (l *keptTail) Close() error { return nil }

// forgetLogs removes the logs of a version that is no more.
func (c *Control) forgetLogs(key Key) {
	if c.opts.LogArchive == nil {
		return
	}
	if err := c.opts.LogArchive.Remove(key); err != nil {
		c.log.Warn("logs not removed", "service", key.Service, "version", key.Version, "err", err)
	}
}

// sweepLogs removes the logs of all versions that are no more.
func (c *Control) sweepLogs() {
	if c.opts.LogArchive == nil {
		return
	}
	keys, err := c.opts.LogArchive.Versions()
	if err != nil {
		c.log.Warn("logs not looked at", "err", err)
	}
	for _, key := range keys {
		if c.record(key) == nil {
			c.forgetLogs(key)
		}
	}
}
