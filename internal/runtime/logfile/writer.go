// Package logfile keeps logs in files: what an instance writes while it runs, and, in an
// [Archive], what is left of it when it is gone. Both are bounded.
package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

// A log is a row of files in a folder, log.000001 and so on: the newest is written, the
// oldest are removed. A line of it is the time, the stream and the text:
//
//	2026-11-23T10:04:05.000000000Z o listening on :4711
//
// The first line of a file counts the lines before it, so that a reader knows what it missed.
const (
	filePrefix = "log."
	timeFormat = "2006-01-02T15:04:05.000000000Z" // always as long, always UTC
	textAt     = len(timeFormat) + 3

	// maxLine is where longer lines are split into several, in bytes.
	maxLine = 16 << 10
)

// The streams of a log line, as they are written.
const (
	Stdout = 'o'
	Stderr = 'e'

	note  = 'n' // Layover's own words
	count = 'c' // how many lines were written before this file

	partial = 'a' - 'A' // is taken from the letter of a piece that the next one goes on with
)

// Writer writes the log of an instance. What cannot be written is dropped and
// counted: the instance is never held up or ended because a disk is full.
type Writer struct {
	dir   string
	size  int64 // at which a file is full
	files int

	mu      sync.Mutex
	number  int
	file    *os.File
	written int64
	head    int64  // of it, what is no line of the log
	total   int64  // lines written to all files
	batch   []byte // lines that are about to be written, kept for its space
	lines   int    // in batch
	last    time.Time
	dropped int
	problem error // why lines were dropped
}

// NewWriter returns a writer of the log in a folder. It goes on behind the last file there is, keeps
// the newest files, and begins another where one has reached size bytes.
func NewWriter(dir string, size int64, files int) (*Writer, error) {
	w := &Writer{dir: dir, size: size, files: files}
	numbers, err := logNumbers(dir)
	if err != nil {
		return nil, err
	}
	if len(numbers) > 0 {
		w.number = numbers[len(numbers)-1]
		if w.total, err = linesUpTo(filepath.Join(dir, fileName(w.number)), -1); err != nil {
			return nil, err
		}
	}
	return w, w.nextLocked()
}

// Pump copies a stream to the log, line by line, until it ends.
func (w *Writer) Pump(stream io.Reader, name byte) {
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
func (w *Writer) add(stream byte, rest, chunk []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(chunk) > 0 {
		piece, after, complete := bytes.Cut(chunk, []byte("\n"))
		long := false
		if room := maxLine - len(rest); len(piece) > room {
			piece, after, long = chunk[:room], chunk[room:], true
		}
		rest = append(rest, piece...)
		chunk = after
		switch {
		case long:
			w.lineLocked(stream-partial, rest)
			rest = rest[:0]
		case complete:
			w.lineLocked(stream, bytes.TrimSuffix(rest, []byte("\r")))
			rest = rest[:0]
		}
	}
	w.flushLocked()
	return rest
}

// Line writes one line that was written before, at its own time.
func (w *Writer) Line(line api.LogLine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stream := byte(Stdout)
	switch line.Stream {
	case api.StreamStderr:
		stream = Stderr
	case api.StreamLayover:
		stream = note
	}
	text := []byte(line.Text)
	for len(text) > maxLine {
		w.stampedLocked(line.Time, stream-partial, text[:maxLine])
		text = text[maxLine:]
	}
	if line.Partial {
		stream -= partial
	}
	w.stampedLocked(line.Time, stream, text)
	if len(w.batch) > 64<<10 {
		w.flushLocked()
	}
}

// Close writes the last words.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushLocked()
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

// lineLocked adds a line to the batch, at the time of the wall clock.
func (w *Writer) lineLocked(stream byte, text []byte) {
	w.stampedLocked(time.Now().Round(0), stream, text) // without the monotonic clock: that of the wall may go back
}

// stampedLocked adds a line to the batch. Each line is later than the one before, so
// that a reader can go on from the time of a line.
func (w *Writer) stampedLocked(at time.Time, stream byte, text []byte) {
	if !at.After(w.last) {
		at = w.last.Add(time.Nanosecond)
	}
	w.last = at
	w.batch = appendLine(w.batch, at, stream, text)
	w.lines++
}

func appendLine(to []byte, at time.Time, stream byte, text []byte) []byte {
	to = at.UTC().AppendFormat(to, timeFormat)
	to = append(to, ' ', stream, ' ')
	to = append(to, text...)
	return append(to, '\n')
}

// flushLocked writes the batch whole, or not at all. Where lines were dropped before, it says so first.
func (w *Writer) flushLocked() {
	lines := w.lines
	if w.dropped > 0 {
		batch := w.batch
		w.batch = nil
		w.lineLocked(note, fmt.Appendf(nil, "layover: %d lines are missing here: %v", w.dropped, w.problem))
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

func (w *Writer) writeLocked() error {
	if len(w.batch) == 0 {
		return nil
	}
	if w.file == nil || w.written > w.head && w.written+int64(len(w.batch)) > w.size {
		if err := w.nextLocked(); err != nil {
			return err
		}
	}
	if _, err := w.file.Write(w.batch); err != nil {
		return errors.Join(err, w.file.Truncate(w.written)) // no half lines
	}
	w.written += int64(len(w.batch))
	w.total += int64(w.lines)
	return nil
}

// nextLocked begins a new file, and removes the oldest before, which may make room for it.
func (w *Writer) nextLocked() error {
	numbers, err := logNumbers(w.dir)
	if err != nil {
		return err
	}
	for len(numbers) >= w.files {
		if err := os.Remove(filepath.Join(w.dir, fileName(numbers[0]))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		numbers = numbers[1:]
	}
	file, err := os.OpenFile(filepath.Join(w.dir, fileName(w.number+1)), os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	head := appendLine(nil, time.Now(), count, strconv.AppendInt(nil, w.total, 10))
	if _, err := file.Write(head); err != nil {
		return errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	if w.file != nil {
		_ = w.file.Close() // all of it was written
	}
	w.number++
	w.file, w.head, w.written = file, int64(len(head)), int64(len(head))
	return nil
}

// reason is the innermost part of an error: "no space left on device".
func reason(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// logNumbers returns the numbers of the log files in a folder, oldest first.
func logNumbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	return numbersOf(entries), nil
}

func numbersOf(entries []fs.DirEntry) []int {
	var numbers []int
	for _, entry := range entries {
		if text, ok := strings.CutPrefix(entry.Name(), filePrefix); ok {
			if number, err := strconv.Atoi(text); err == nil {
				numbers = append(numbers, number)
			}
		}
	}
	slices.Sort(numbers)
	return numbers
}

func fileName(number int) string { return fmt.Sprintf("%s%06d", filePrefix, number) }
