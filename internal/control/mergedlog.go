package control

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/layover-dev/layover/api"
)

// mergedLog gives the lines of several instances: in the order of their times, or as they
// come where it follows.
type mergedLog struct {
	readers []LogReader
	cancel  context.CancelFunc // ends those that follow
	follow  bool

	heads []*mergedLine // the next line of each reader; nil where it has none
	read  bool          // heads are filled

	lines chan mergedLine // of those that follow
	left  int             // readers that have not ended
	over  chan struct{}   // closed by Close
	group sync.WaitGroup
}

type mergedLine struct {
	line api.LogLine
	err  error
}

// begin reads from all at once: one that follows may have nothing to say for hours.
func (l *mergedLog) begin() {
	l.lines, l.left, l.over = make(chan mergedLine), len(l.readers), make(chan struct{})
	for _, r := range l.readers {
		l.group.Go(func() {
			for {
				line, err := r.Next()
				select {
				case l.lines <- mergedLine{line, err}:
				case <-l.over:
					return
				}
				if err != nil {
					return
				}
			}
		})
	}
}

// Next is of [LogReader].
func (l *mergedLog) Next() (api.LogLine, error) {
	if l.follow {
		return l.nextFollowed()
	}
	if !l.read {
		l.read = true
		l.heads = make([]*mergedLine, len(l.readers))
		for i := range l.readers {
			l.advance(i)
		}
	}
	first := -1
	for i, head := range l.heads {
		switch {
		case head == nil:
		case head.err != nil:
			return api.LogLine{}, head.err
		case first < 0 || head.line.Time.Before(l.heads[first].line.Time):
			first = i
		}
	}
	if first < 0 {
		return api.LogLine{}, io.EOF
	}
	line := l.heads[first].line
	l.advance(first)
	return line, nil
}

// advance reads the next line of one reader.
func (l *mergedLog) advance(i int) {
	line, err := l.readers[i].Next()
	if errors.Is(err, io.EOF) {
		l.heads[i] = nil
		return
	}
	l.heads[i] = &mergedLine{line, err}
}

// nextFollowed returns the next line of any reader; io.EOF where all have ended.
func (l *mergedLog) nextFollowed() (api.LogLine, error) {
	for l.left > 0 {
		m := <-l.lines
		switch {
		case m.err == nil:
			return m.line, nil
		case !errors.Is(m.err, io.EOF):
			return api.LogLine{}, m.err
		}
		l.left--
	}
	return api.LogLine{}, io.EOF
}

// Close closes the logs of all instances.
func (l *mergedLog) Close() error {
	l.cancel()
	if l.over != nil {
		close(l.over)
		l.group.Wait()
	}
	var errs []error
	for _, r := range l.readers {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}
