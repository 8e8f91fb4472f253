package control

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

// mergeWindow is how long a line waits for an earlier one of another log, where that is followed.
const mergeWindow = 100 * time.Millisecond

// logMerge gives the lines of several logs in the order of their times. Logs that are followed
// may say nothing for hours; what comes too late then comes late.
type logMerge struct {
	sources []*logSource
	arrived chan struct{} // a source has something
	group   sync.WaitGroup
}

// logSource is one log, that a goroutine of its own reads.
type logSource struct {
	run    logRun
	follow bool
	reader LogReader
	cancel context.CancelFunc
	lines  chan logItem
	over   chan struct{}
	head   *logItem
	idle   time.Time // since when it has nothing; zero where it has
}

// logItem is a line, or why there is none.
type logItem struct {
	line api.LogLine
	err  error
}

func newLogMerge() *logMerge { return &logMerge{arrived: make(chan struct{}, 1)} }

// add has the merge read reader, which it closes; cancel ends a read.
func (m *logMerge) add(run logRun, follow bool, reader LogReader, cancel context.CancelFunc) {
	s := &logSource{
		run: run, follow: follow, reader: reader, cancel: cancel,
		lines: make(chan logItem, 32), over: make(chan struct{}),
	}
	m.sources = append(m.sources, s)
	m.group.Go(func() {
		for {
			line, err := reader.Next()
			select {
			case s.lines <- logItem{line, err}:
			case <-s.over:
				return
			}
			select {
			case m.arrived <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	})
}

// reads says whether a log of the instance is being read.
func (m *logMerge) reads(instance string) bool {
	return slices.ContainsFunc(m.sources, func(s *logSource) bool { return s.run.Instance == instance })
}

// readsOf says whether a log of the version is being read.
func (m *logMerge) readsOf(key Key) bool {
	return slices.ContainsFunc(m.sources, func(s *logSource) bool { return s.run.key() == key })
}

// next returns the next line with its source, or the end of a source, io.EOF or another error, with that
// source, which is no more then. Where there is no source at all, or ctx ends, the source is nil.
func (m *logMerge) next(ctx context.Context) (*logSource, api.LogLine, error) {
	for {
		first, wait := m.look()
		if first != nil && wait == 0 {
			item := *first.head
			first.head = nil
			if item.err != nil {
				m.remove(first)
			}
			return first, item.line, item.err
		}
		if len(m.sources) == 0 {
			return nil, api.LogLine{}, io.EOF
		}
		var late <-chan time.Time
		if first != nil && wait > 0 {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-m.arrived:
		case <-late:
		case <-ctx.Done():
			return nil, api.LogLine{}, ctx.Err()
		}
	}
}

// ready says whether next would not wait.
func (m *logMerge) ready() bool {
	first, wait := m.look()
	return first != nil && wait == 0
}

// look returns the source with the earliest line, if there is one, and how long others should be waited
// for first: not at all (0), or, negative, until they have something.
func (m *logMerge) look() (first *logSource, wait time.Duration) {
	now := time.Now()
	for _, s := range m.sources {
		s.receive(now)
		switch {
		case s.head == nil && !s.follow:
			wait = -1
		case s.head == nil:
			if left := mergeWindow - now.Sub(s.idle); left > 0 && wait >= 0 {
				wait = max(wait, left)
			}
		case s.head.err != nil:
			return s, 0
		case first == nil || s.head.line.Time.Before(first.head.line.Time):
			first = s
		}
	}
	return first, wait
}

func (s *logSource) receive(now time.Time) {
	if s.head != nil {
		return
	}
	select {
	case item := <-s.lines:
		s.head, s.idle = &item, time.Time{}
	default:
		if s.idle.IsZero() {
			s.idle = now
		}
	}
}

// remove closes a source whose reader has come to its end.
func (m *logMerge) remove(s *logSource) {
	m.sources = slices.DeleteFunc(m.sources, func(o *logSource) bool { return o == s })
	s.cancel()
	_ = s.reader.Close() // only read
}

// close ends all reading.
func (m *logMerge) close() {
	for _, s := range m.sources {
		s.cancel()
		close(s.over)
	}
	m.group.Wait()
	for _, s := range m.sources {
		_ = s.reader.Close() // only read
	}
	m.sources = nil
}
