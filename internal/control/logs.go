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

// Logs opens the log of the version's newest instances. Where its newest generation
// failed and left no instance, the lines kept of it are all there is.
func (c *Control) Logs(ctx context.Context, key Key, opts LogOptions) (LogReader, error) {
	c.mu.Lock()
	rec, k := c.records[key], c.keepers[key]
	if rec == nil || k == nil {
		c.mu.Unlock()
		return nil, c.unknownVersion(key)
	}
	var newest []*instance // of one generation
	for _, id := range slices.Sorted(maps.Keys(k.instances)) {
		i := k.instances[id]
		if len(newest) > 0 && i.Generation > newest[0].Generation {
			newest = nil
		}
		if len(newest) == 0 || i.Generation == newest[0].Generation {
			newest = append(newest, i)
		}
	}
	last := rec.newest()
	c.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	logs := mergedLog{cancel: cancel, follow: opts.Follow}
	for _, inst := range newest {
		one, err := c.opts.Runtimes[inst.runtime].Logs(ctx, inst.ID, opts)
		if errors.Is(err, ErrNoInstance) {
			continue // it has just ended
		}
		if err != nil {
			return nil, errors.Join(err, logs.Close())
		}
		logs.readers = append(logs.readers, one)
	}
	if len(logs.readers) == 0 && last.cameUpToStart() {
		logs.readers = append(logs.readers, keptLogOf(key, last, opts))
	}
	hook, err := c.hookLogs(ctx, key, opts)
	if err != nil {
		return nil, errors.Join(err, logs.Close())
	}
	if hook != nil {
		logs.readers = append(logs.readers, hook)
	}
	if len(logs.readers) == 0 {
		cancel()
		return keptLogOf(key, last, opts), nil
	}
	if opts.Follow {
		logs.begin()
	}
	return &logs, nil
}

// keptLogOf returns the lines that were kept of a generation, which may be nil.
func keptLogOf(key Key, g *Generation, opts LogOptions) *keptLog {
	if g == nil {
		return &keptLog{}
	}
	kept := &keptLog{at: g.At, instance: instanceID(key, g.Number, 1), lines: g.LogTail}
	if opts.Tail > 0 {
		kept.lines = kept.lines[max(0, len(kept.lines)-opts.Tail):]
	}
	return kept
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
