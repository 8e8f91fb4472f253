package control

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/layover-dev/layover/api"
)

// A hook has a log as an instance has, as a run of its own. It may have secrets; so it is shown
// without them, and no archive has it: what is left of one that ended is in the record.

// HookLog is what is kept of the output of a hook: its last lines, without the values that were given.
type HookLog struct {
	ID         string        `json:"id"` // of the run, with its runtime
	Generation int64         `json:"generation"`
	StartedAt  time.Time     `json:"started_at"`
	Lines      []api.LogLine `json:"lines"`
}

// kept returns what is kept of a run that has ended.
func (h *hookRun) kept() *HookLog {
	h.k.c.mu.Lock()
	started := h.startedAt
	h.k.c.mu.Unlock()
	return &HookLog{ID: h.workload.ID, Generation: h.workload.Generation, StartedAt: started, Lines: h.output.shown()}
}

func onlyInstances(runs []logRun) []logRun {
	return slices.DeleteFunc(slices.Clone(runs), func(r logRun) bool { return IsHook(r.Instance) })
}

// lastHookRun returns the run of a hook that was started last, if there is one.
func lastHookRun(runs []logRun) []logRun {
	for _, r := range slices.Backward(runs) { // by their starts
		if IsHook(r.Instance) {
			return []logRun{r}
		}
	}
	return nil
}

// hookLogRuns returns the hooks of a version that there is a log of: that which ran last, and that which runs.
func (c *Control) hookLogRuns(key Key) []logRun {
	c.mu.Lock()
	defer c.mu.Unlock()
	var runs []logRun
	if rec := c.records[key]; rec != nil && rec.Hooks.Log != nil && len(rec.Hooks.Log.Lines) > 0 {
		kept := rec.Hooks.Log
		runs = append(runs, logRun{LogRun: LogRun{
			Instance: kept.ID, Service: key.Service, Version: key.Version, Generation: kept.Generation,
			StartedAt: kept.StartedAt, EndedAt: kept.Lines[len(kept.Lines)-1].Time,
		}})
	}
	k := c.keepers[key]
	if k == nil || k.hook == nil || k.hook.startedAt.IsZero() {
		return runs
	}
	h := k.hook
	runs = slices.DeleteFunc(runs, func(r logRun) bool { return r.Instance == h.workload.ID && r.StartedAt.Equal(h.startedAt) })
	return append(runs, logRun{
		LogRun: LogRun{
			Instance: h.workload.ID, Service: key.Service, Version: key.Version, Generation: h.workload.Generation, StartedAt: h.startedAt,
		},
		runtime: h.workload.Run.Runtime(), running: true,
	})
}

// openHookLog opens the log of the run of a hook from its start: the lines that gave values are needed to
// hide those in later ones. It returns ErrNoInstance where that run is not known any more.
func (c *Control) openHookLog(ctx context.Context, run *logRun, opts LogOptions) (LogReader, error) {
	c.mu.Lock()
	var running *hookRun
	if k := c.keepers[run.key()]; k != nil {
		running = k.hook
	}
	var kept *HookLog
	if rec := c.records[run.key()]; rec != nil {
		kept = rec.Hooks.Log
	}
	isIt := running != nil && running.workload.ID == run.Instance && running.startedAt.Equal(run.StartedAt)
	c.mu.Unlock()
	switch {
	case isIt:
		logs, err := running.rt.Logs(ctx, run.Instance, LogOptions{Follow: opts.Follow, Run: run.StartedAt})
		if err != nil {
			return nil, err
		}
		return &maskedLog{LogReader: logs, output: newHookOutput(running.output.known)}, nil
	case kept != nil && kept.ID == run.Instance && kept.StartedAt.Equal(run.StartedAt):
		return &lineLog{lines: kept.Lines}, nil
	}
	return nil, ErrNoInstance
}

// maskedLog is the log of a hook that runs, as it may be shown.
type maskedLog struct {
	LogReader
	output *hookOutput
}

// Next is of [LogReader].
func (l *maskedLog) Next() (api.LogLine, error) {
	line, err := l.LogReader.Next()
	if err == nil {
		line = l.output.take(line)
	}
	return line, err
}

// lineLog gives lines that were kept.
type lineLog struct{ lines []api.LogLine }

// Next is of [LogReader].
func (l *lineLog) Next() (api.LogLine, error) {
	if len(l.lines) == 0 {
		return api.LogLine{}, io.EOF
	}
	line := l.lines[0]
	l.lines = l.lines[1:]
	return line, nil
}

// Close is of [LogReader].
func (l *lineLog) Close() error { return nil }
