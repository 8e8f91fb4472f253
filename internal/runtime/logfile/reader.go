package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// followInterval is how often a follower looks for new lines.
const followInterval = 50 * time.Millisecond

// Reader reads the files of a log one after the other. It holds on to the folder,
// wherever that is moved meanwhile. It implements [control.LogReader].
type Reader struct {
	ctx      context.Context //nolint:containedctx // of one call of Logs: Next has none
	root     *os.Root
	instance string
	follow   bool
	since    time.Time
	over     func(*os.Root) bool

	number int      // of the file that is read
	file   *os.File // nil where there was none yet
	buffer *bufio.Reader
	rest   []byte // of a line whose end was not written yet
	toEnd  bool   // the file gets no more lines: there is a newer one
	ended  bool   // the log gets no more lines
	time   time.Time
	gone   bool  // lines are missing before the first one
	passed int64 // lines of the log before the next one; -1 where unknown

	lastNumber int   // where a reader that does not follow stops
	lastSize   int64 // and how much of that file there was
}

var _ control.LogReader = (*Reader)(nil)

// NewReader reads the log in the folder root, which it closes at its end. over says whether
// the log gets no more lines.
func NewReader(ctx context.Context, root *os.Root, instance string, opts control.LogOptions, over func(*os.Root) bool) (*Reader, error) {
	r := &Reader{
		ctx: ctx, root: root, instance: instance, follow: opts.Follow, since: opts.Since, over: over,
		buffer: bufio.NewReaderSize(nil, 32<<10), passed: -1,
	}
	if err := r.begin(opts); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// begin opens the file with the first line that is wanted.
func (r *Reader) begin(opts control.LogOptions) error {
	numbers, err := r.numbers()
	if err != nil || len(numbers) == 0 {
		return err
	}
	r.lastNumber = numbers[len(numbers)-1]
	if info, err := r.root.Stat(fileName(r.lastNumber)); err == nil {
		r.lastSize = info.Size()
	}
	first, offset := numbers[0], int64(0)
	switch {
	case opts.Tail > 0:
		if first, offset, err = r.tailStart(numbers, opts.Tail); err != nil {
			return err
		}
	case !r.since.IsZero():
		first = r.sinceStart(numbers)
	}
	if err := r.open(first, offset); err != nil || r.file == nil {
		return err
	}
	r.passed = r.passedBefore(first)
	r.gone = !opts.Resume.IsZero() && r.passed > 0 && r.firstTime(first).After(opts.Resume)
	if offset > 0 {
		r.passed, err = r.linesUpTo(first, offset)
	}
	return err
}

// Next returns the next line. See [control.LogReader].
func (r *Reader) Next() (api.LogLine, error) {
	if r.gone {
		r.gone = false
		return r.missing("lines"), nil
	}
	for {
		raw, err := r.nextRaw()
		if err != nil {
			return api.LogLine{}, err
		}
		line, isCount := r.parse(raw)
		if isCount {
			if gap, ok := r.gap(line.Text); ok {
				return gap, nil
			}
			continue
		}
		r.passed++
		if !line.Time.Before(r.since) {
			return line, nil
		}
	}
}

// gap reads the count at the begin of a file, and returns what to say where lines were missed.
func (r *Reader) gap(text string) (api.LogLine, bool) {
	before, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return api.LogLine{}, false
	}
	missed := before - r.passed
	known := r.passed >= 0
	r.passed = before
	if !known || missed <= 0 {
		return api.LogLine{}, false
	}
	return r.missing(fmt.Sprintf("%d lines", missed)), true
}

func (r *Reader) missing(what string) api.LogLine {
	return api.LogLine{
		Instance: r.instance, Stream: api.StreamLayover,
		Text: "layover: " + what + " are missing here: they were removed before they were read, because the log is bounded",
	}
}

// Close lets go of the folder.
func (r *Reader) Close() error {
	err := r.closeFile()
	return errors.Join(err, r.root.Close())
}

func (r *Reader) closeFile() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// nextRaw returns the next line as it was written, without its end.
func (r *Reader) nextRaw() ([]byte, error) {
	for {
		if r.ctx.Err() != nil {
			return nil, io.EOF
		}
		if r.file != nil {
			piece, err := r.buffer.ReadBytes('\n')
			r.rest = append(r.rest, piece...)
			if err == nil {
				line := r.rest[:len(r.rest)-1]
				r.rest = nil
				return line, nil
			}
			if !errors.Is(err, io.EOF) {
				return nil, err
			}
		}
		if err := r.atEnd(); err != nil {
			return nil, err
		}
	}
}

// atEnd goes on where a file has no more lines: to those that were written
// meanwhile, to the next file, or to the end.
func (r *Reader) atEnd() error {
	next, err := r.nextNumber()
	switch {
	case err != nil:
		return err
	case next != 0 && !r.toEnd:
		r.toEnd = true // read once more: lines may have come before the next file did
		return nil
	case next != 0:
		r.rest = nil
		return r.open(next, 0)
	case !r.follow || r.ended:
		return io.EOF
	case r.over(r.root):
		r.ended = true // read once more: lines may have come before the end
		return nil
	}
	timer := time.NewTimer(followInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		return io.EOF
	}
}

// nextNumber returns the number of the file after this one, 0 where there is none.
func (r *Reader) nextNumber() (int, error) {
	numbers, err := r.numbers()
	for _, number := range numbers {
		if number > r.number && (r.follow || number <= r.lastNumber) {
			return number, err
		}
	}
	return 0, err
}

// numbers returns the numbers of the files there are, none where the folder was removed.
func (r *Reader) numbers() ([]int, error) {
	dir, err := r.root.Open(".")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return numbersOf(entries), errors.Join(err, dir.Close())
}

func (r *Reader) open(number int, offset int64) error {
	file, err := r.root.Open(fileName(number))
	if errors.Is(err, os.ErrNotExist) { // removed as the oldest, or with the instance
		r.number, r.toEnd = number, true
		return r.closeFile()
	}
	if err != nil {
		return err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := r.closeFile(); err != nil {
		return errors.Join(err, file.Close())
	}
	r.file, r.number, r.toEnd = file, number, false
	var lines io.Reader = file
	if !r.follow && number == r.lastNumber {
		lines = io.LimitReader(file, r.lastSize-offset)
	}
	r.buffer.Reset(lines)
	return nil
}

// parse reads a line, and says whether it is the count at the begin of a file. One that a
// crash left broken is text, of the time before.
func (r *Reader) parse(raw []byte) (line api.LogLine, isCount bool) {
	line = api.LogLine{Time: r.time, Instance: r.instance}
	at, stream, text, ok := cutLine(raw)
	if ok {
		if stream == count {
			return api.LogLine{Text: string(text)}, true
		}
		line.Time, r.time = at, at
		line.Stream, line.Partial = streamName(stream)
	}
	line.Text = strings.ToValidUTF8(string(text), "\uFFFD")
	return line, false
}

// cutLine takes a line apart. One that is none is text.
func cutLine(raw []byte) (at time.Time, stream byte, text []byte, ok bool) {
	if len(raw) < textAt || raw[len(timeFormat)] != ' ' || raw[textAt-1] != ' ' {
		return time.Time{}, 0, raw, false
	}
	at, err := time.Parse(timeFormat, string(raw[:len(timeFormat)]))
	if err != nil {
		return time.Time{}, 0, raw, false
	}
	return at, raw[textAt-2], raw[textAt:], true
}

func streamName(stream byte) (name string, isPartial bool) {
	switch stream {
	case Stdout, Stdout - partial:
		return api.StreamStdout, stream != Stdout
	case Stderr, Stderr - partial:
		return api.StreamStderr, stream != Stderr
	case note:
		return api.StreamLayover, false
	}
	return "", false
}

// sinceStart returns the last file of which all files before it are older than what is wanted.
func (r *Reader) sinceStart(numbers []int) int {
	for _, number := range slices.Backward(numbers) {
		if at := r.firstTime(number); !at.IsZero() && !at.After(r.since) {
			return number
		}
	}
	return numbers[0]
}

// firstTime returns the time of the first line of a file, zero where there is none.
func (r *Reader) firstTime(number int) time.Time {
	for line := range r.firstLines(number) {
		if at, stream, _, ok := cutLine(line); ok && stream != count {
			return at
		}
	}
	return time.Time{}
}

// passedBefore returns how many lines were written before a file, 0 where that is not known.
func (r *Reader) passedBefore(number int) int64 {
	for line := range r.firstLines(number) {
		if _, stream, text, ok := cutLine(line); ok && stream == count {
			before, _ := strconv.ParseInt(string(text), 10, 64)
			return before
		}
	}
	return 0
}

// firstLines gives the first two lines of a file, as far as times are in them.
func (r *Reader) firstLines(number int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		file, err := r.root.Open(fileName(number))
		if err != nil {
			return // removed meanwhile
		}
		defer file.Close() //nolint:errcheck // only read
		begin, err := io.ReadAll(io.LimitReader(file, 4*int64(textAt)))
		if err != nil {
			return
		}
		first, rest, _ := bytes.Cut(begin, []byte("\n"))
		if yield(first) {
			yield(rest)
		}
	}
}

// tailStart returns the file and the place in it where the last n lines begin.
func (r *Reader) tailStart(numbers []int, n int) (number int, offset int64, err error) {
	for _, number := range slices.Backward(numbers) {
		offset, found, err := r.tailOffset(number, n)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return 0, 0, err
		}
		if found >= n {
			return number, offset, nil
		}
		n -= found
	}
	return numbers[0], 0, nil
}

// tailOffset returns where the last n lines of a file begin, and how many of them it has.
func (r *Reader) tailOffset(number, n int) (offset int64, found int, err error) {
	file, err := r.root.Open(fileName(number))
	if err != nil {
		return 0, 0, err
	}
	defer file.Close() //nolint:errcheck // only read
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	block := make([]byte, 32<<10)
	for end > 0 {
		start := max(0, end-int64(len(block)))
		part := block[:end-start]
		if _, err := file.ReadAt(part, start); err != nil {
			return 0, 0, err
		}
		for at := bytes.LastIndexByte(part, '\n'); at >= 0; at = bytes.LastIndexByte(part[:at], '\n') {
			if found == n {
				return start + int64(at) + 1, n, nil
			}
			found++
		}
		end = start
	}
	for line := range r.firstLines(number) {
		if _, stream, _, ok := cutLine(line); ok && stream == count {
			found-- // the first line is none of the log
		}
		break
	}
	return 0, max(found, 0), nil
}

// linesUpTo returns how many lines of the log there are before a place in a file.
func (r *Reader) linesUpTo(number int, offset int64) (int64, error) {
	file, err := r.root.Open(fileName(number))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	return linesOf(file, offset)
}

// linesUpTo is [Reader.linesUpTo] of a path; a negative offset means its end.
func linesUpTo(path string, offset int64) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	return linesOf(file, offset)
}

// linesOf counts the lines of a log before a place in a file, and closes it.
func linesOf(file *os.File, offset int64) (lines int64, err error) {
	defer file.Close() //nolint:errcheck // only read
	var in io.Reader = file
	if offset >= 0 {
		in = io.LimitReader(file, offset)
	}
	buffer := bufio.NewReaderSize(in, 32<<10)
	first, err := buffer.ReadBytes('\n')
	if _, stream, text, ok := cutLine(bytes.TrimSuffix(first, []byte("\n"))); ok && stream == count {
		lines, _ = strconv.ParseInt(string(text), 10, 64)
	} else if err == nil {
		lines = 1
	}
	chunk := make([]byte, 32<<10)
	for err == nil {
		var n int
		n, err = buffer.Read(chunk)
		lines += int64(bytes.Count(chunk[:n], []byte("\n")))
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return lines, err
}
