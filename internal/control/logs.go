package control

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/layover-dev/layover/api"
)

// Logs opens the log of the version's newest instance. Where its newest generation
// failed and left no instance, the lines kept of it are all there is.
func (c *Control) Logs(ctx context.Context, key Key, opts LogOptions) (LogReader, error) {
	c.mu.Lock()
	rec, k := c.records[key], c.keepers[key]
	if rec == nil || k == nil {
		c.mu.Unlock()
		return nil, c.unknownVersion(key)
	}
	var inst *instance
	for _, id := range slices.Sorted(maps.Keys(k.instances)) {
		if i := k.instances[id]; inst == nil || i.Generation > inst.Generation {
			inst = i
		}
	}
	newest := rec.newest()
	c.mu.Unlock()

	if inst != nil {
		logs, err := c.opts.Runtimes[inst.runtime].Logs(ctx, inst.ID, opts)
		if !errors.Is(err, ErrNoInstance) {
			return logs, err
		}
	}
	if newest == nil {
		return &keptLog{}, nil
	}
	kept := &keptLog{at: newest.At, instance: instanceID(key, newest.Number), lines: newest.LogTail}
	if opts.Tail > 0 {
		kept.lines = kept.lines[max(0, len(kept.lines)-opts.Tail):]
	}
	return kept, nil
}

// keptLog gives the lines that were kept of a failed instance.
type keptLog struct {
	at       time.Time
	instance string
	lines    []string
}

func (l *keptLog) Next() (api.LogLine, error) {
	if len(l.lines) == 0 {
		return api.LogLine{}, io.EOF
	}
	line := api.LogLine{Time: l.at, Instance: l.instance, Text: l.lines[0]}
	l.lines = l.lines[1:]
	return line, nil
}

func (l *keptLog) Close() error { return nil }
