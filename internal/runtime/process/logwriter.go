//go:build unix

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A log is a row of files, log.000001 and so on: the newest is written, the
// oldest are removed. A line of it is the time, the stream and the text:
//
//	2026-11-23T10:04:05.000000000Z o listening on :4711
const (
	logPrefix = "log."
	logTime   = "2006-01-02T15:04:05.000000000Z" // always as long, always UTC
	textAt    = len(logTime) + 3

	// maxLine is where longer lines are split into several, in bytes.
	maxLine = 16 << 10
)

// The streams of a log line, as they are written.
const (
	streamOut  = 'o'
	streamErr  = 'e'
	streamNote = 'n' // the supervisor's own words
)

// logWriter writes the log of an instance. What cannot be written is dropped and
// counted: the instance is never held up or ended because a disk is full.
type logWriter struct {
	dir   string
	size  int64 // at which a file is full
	files int

	mu      sync.Mutex
	number  int
	file    *os.File
	written int64
	batch   []byte // lines that are about to be written, kept for its space
	lines   int    // in batch
	last    time.Time
	dropped int
	problem error // why lines were dropped
}

// openLogWriter goes on behind the last file there is.
func openLogWriter(dir string, size int64, files int) (*logWriter, error) {
	w := &logWriter{dir: dir, size: size, files: files}
	numbers, err := logNumbers(dir)
	if err != nil {
		return nil, err
	}
	if len(numbers) > 0 {
		w.number = numbers[len(numbers)-1]
	}
	return w, w.nextLocked()
}

// pump copies a stream to the log, line by line, until it ends.
func (w *logWriter) pump(stream io.Reader, name byte) {
	chunk := make([]byte, 8<<10)
	var rest []byte // of a line whose end did not come yet
	for {
		n, err := stream.Read(chunk)
		rest = w.add(name, rest, chunk[:n])
		if err != nil {
			break
		}
	}
	if len(rest) > 0 {
		w.add(name, rest, []byte("\n"))
	}
}

// add writes the lines that rest and chunk make, and returns the new rest.
func (w *logWriter) add(stream byte, rest, chunk []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(chunk) > 0 {
		piece, after, complete := bytes.Cut(chunk, []byte("\n"))
		if room := maxLine - len(rest); len(piece) > room {
			piece, after, complete = chunk[:room], chunk[room:], true
		}
		rest = append(rest, piece...)
		chunk = after
		if complete {
			w.lineLocked(stream, bytes.TrimSuffix(rest, []byte("\r")))
			rest = rest[:0]
		}
	}
	w.flushLocked()
	return rest
}

// close writes the last words.
func (w *logWriter) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushLocked()
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

// lineLocked adds a line to the batch. Each line is later than the one before, so
// that a reader can go on from the time of a line.
func (w *logWriter) lineLocked(stream byte, text []byte) {
	now := time.Now().Round(0) // the clock of the wall, which may go back
	if !now.After(w.last) {
		now = w.last.Add(time.Nanosecond)
	}
	w.last = now
	w.batch = now.UTC().AppendFormat(w.batch, logTime)
	w.batch = append(w.batch, ' ', stream, ' ')
	w.batch = append(w.batch, text...)
	w.batch = append(w.batch, '\n')
	w.lines++
}

// flushLocked writes the batch whole, or not at all. Where lines were dropped before, it says so first.
func (w *logWriter) flushLocked() {
	lines := w.lines
	if w.dropped > 0 {
		batch := w.batch
		w.batch = nil
		w.lineLocked(streamNote, fmt.Appendf(nil, "layover: %d lines are missing here: %v", w.dropped, w.problem))
		w.batch = append(w.batch, batch...)
	}
	if err := w.writeLocked(); err != nil {
		w.dropped += lines
		w.problem = reason(err)
	} else {
		w.dropped = 0
	}
	w.batch, w.lines = w.batch[:0], 0
}

func (w *logWriter) writeLocked() error {
	if len(w.batch) == 0 {
		return nil
	}
	if w.file == nil || w.written > 0 && w.written+int64(len(w.batch)) > w.size {
		if err := w.nextLocked(); err != nil {
			return err
		}
	}
	if _, err := w.file.Write(w.batch); err != nil {
		return errors.Join(err, w.file.Truncate(w.written)) // no half lines
	}
	w.written += int64(len(w.batch))
	return nil
}

// nextLocked begins a new file, and removes the oldest before, which may make room for it.
func (w *logWriter) nextLocked() error {
	numbers, err := logNumbers(w.dir)
	if err != nil {
		return err
	}
	for len(numbers) >= w.files {
		if err := os.Remove(logFile(w.dir, numbers[0])); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		numbers = numbers[1:]
	}
	file, err := os.OpenFile(logFile(w.dir, w.number+1), os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if w.file != nil {
		_ = w.file.Close() // all of it was written
	}
	w.number++
	w.file, w.written = file, 0
	return nil
}

// reason is the innermost part of an error: "no space left on device".
func reason(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// logNumbers returns the numbers of the log files, oldest first.
func logNumbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		if text, ok := strings.CutPrefix(entry.Name(), logPrefix); ok {
			if number, err := strconv.Atoi(text); err == nil {
				numbers = append(numbers, number)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func logFile(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%s%06d", logPrefix, number))
}
