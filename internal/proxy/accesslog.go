package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// AccessLogOptions says what an access log holds, and where.
type AccessLogOptions struct {
	Format LineFormat
	Sample float64   // the share of requests that it has, from 0 to 1; errors are always in it
	Writer io.Writer // nil where Path is set
	Path   string    // of a file, which is appended to; where it is moved away, a new one is made
	Ring   int       // records that may wait to be written; 0 means DefaultRing

	// Logger is told when records are lost. Nil means [slog.Default].
	Logger *slog.Logger
}

// AccessLog writes a line for each request. Requests hand over their records to
// [AccessLog.Record] and never wait: what a slow or full disk does not take is lost and counted.
type AccessLog struct {
	options AccessLogOptions
	ring    *Ring
	lost    atomic.Uint64 // behind the ring
	ran     atomic.Bool   // the file is Run's to close, or closed

	// Of the goroutine that writes.
	file    *os.File // nil where the writer is not a file of Path
	checked time.Time
	told    time.Time // when the loss of records was last logged
	known   uint64    // records lost by then
	lines   []byte
	count   uint64 // of the records in lines
	broken  bool   // the last write ended within a line
}

const (
	gatherFor    = 20 * time.Millisecond // records come in batches, so that the reader seldom wakes
	flushAt      = 64 << 10
	reopenEach   = time.Second
	tellLossEach = time.Minute
	lastWrite    = 2 * time.Second // for what is left at the end
)

// OpenAccessLog opens an access log. Nothing is written before [AccessLog.Run], which
// closes it; call [AccessLog.Close] where it may not come to that.
func OpenAccessLog(options AccessLogOptions) (*AccessLog, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	l := &AccessLog{options: options, ring: NewRing(options.Ring), lines: make([]byte, 0, flushAt+maxLine)}
	if options.Path != "" {
		if err := l.open(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Record is a [Options.Recorder].
func (l *AccessLog) Record(r *Record) {
	failed := r.Error != "" || r.Status >= http.StatusInternalServerError
	if !failed && l.options.Sample < 1 && rand.Float64() >= l.options.Sample { //nolint:gosec // nothing depends on nobody guessing it
		return
	}
	l.ring.Add(r)
}

// Lost returns how many records should have been written and were not.
func (l *AccessLog) Lost() uint64 { return l.ring.Dropped() + l.lost.Load() }

// Run writes until ctx ends, then what is left, and closes the log. A writer that
// takes nothing any more does not keep it from returning.
func (l *AccessLog) Run(ctx context.Context) error {
	l.ran.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.write(ctx)
	}()
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(lastWrite):
		l.options.Logger.Warn("access log is stuck, its last lines are lost")
	}
	return nil
}

// Close closes a log that was never run; of one that was, [AccessLog.Run] does.
func (l *AccessLog) Close() error {
	if l.ran.Swap(true) {
		return nil
	}
	return l.closeFile()
}

func (l *AccessLog) closeFile() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

func (l *AccessLog) write(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for l.ring.Wait(ctx) == nil {
		timer.Reset(gatherFor)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		l.drain()
	}
	l.drain()
	if err := l.closeFile(); err != nil {
		l.options.Logger.Warn("access log was not closed", "err", err)
	}
}

// drain writes the records that are there.
func (l *AccessLog) drain() {
	l.reopen()
	l.ring.Drain(func(r *Record) {
		l.lines = appendLine(l.lines, r, l.options.Format)
		l.count++
		if len(l.lines) >= flushAt {
			l.flush()
		}
	})
	l.flush()
	if lost := l.Lost(); lost > l.known && time.Since(l.told) >= tellLossEach {
		l.options.Logger.Warn("records were lost to the access log", "records", lost-l.known)
		l.known, l.told = lost, time.Now()
	}
}

// flush writes the lines that were made. Those of a write that fails are lost.
func (l *AccessLog) flush() {
	if len(l.lines) == 0 {
		return
	}
	defer func() { l.lines, l.count = l.lines[:0], 0 }()
	to := l.options.Writer
	if l.options.Path != "" {
		if l.file == nil {
			l.lost.Add(l.count)
			return
		}
		to = l.file
	}
	if l.broken { // what follows is a line of its own again
		if _, err := io.WriteString(to, "\n"); err != nil {
			l.lost.Add(l.count)
			return
		}
		l.broken = false
	}
	if n, err := to.Write(l.lines); err != nil {
		whole := uint64(0)
		for _, c := range l.lines[:n] {
			if c == '\n' {
				whole++
			}
		}
		l.broken = n > 0 && l.lines[n-1] != '\n'
		l.lost.Add(l.count - whole)
		if time.Since(l.told) >= tellLossEach {
			l.options.Logger.Warn("access log cannot be written", "err", err)
		}
	}
}

// reopen opens the file anew where another one, or none, is at its path.
func (l *AccessLog) reopen() {
	if l.options.Path == "" || time.Since(l.checked) < reopenEach {
		return
	}
	l.checked = time.Now()
	if l.file != nil {
		there, err := os.Stat(l.options.Path)
		ours, errOurs := l.file.Stat()
		if errors.Join(err, errOurs) == nil && os.SameFile(there, ours) {
			return
		}
		_ = l.file.Close()
	}
	l.file, l.broken = nil, false
	if err := l.open(); err != nil {
		l.options.Logger.Warn("access log cannot be opened again", "err", err)
	}
}

func (l *AccessLog) open() (err error) {
	l.file, err = os.OpenFile(l.options.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		l.file = nil
		return fmt.Errorf("open the access log: %w", err)
	}
	l.checked = time.Now()
	return nil
}
