//go:build unix

package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// followInterval is how often a follower looks for new lines.
const followInterval = 50 * time.Millisecond

// logReader reads the files of a log one after the other.
type logReader struct {
	ctx    context.Context //nolint:containedctx // of one call of Logs: Next has none
	folder folder
	follow bool
	since  time.Time

	number int      // of the file that is read
	file   *os.File // nil where there was none yet
	buffer *bufio.Reader
	rest   []byte // of a line whose end was not written yet
	toEnd  bool   // the file gets no more lines: there is a newer one
	ended  bool   // the log gets no more lines
	time   time.Time

	lastNumber int   // where a reader that does not follow stops
	lastSize   int64 // and how much of that file there was
}

var _ control.LogReader = (*logReader)(nil)

func newLogReader(ctx context.Context, f folder, opts control.LogOptions) (*logReader, error) {
	r := &logReader{ctx: ctx, folder: f, follow: opts.Follow, since: opts.Since, buffer: bufio.NewReaderSize(nil, 32<<10)}
	numbers, err := logNumbers(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, control.ErrNoInstance
	}
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return r, nil
	}
	first, offset := numbers[0], int64(0)
	if opts.Tail > 0 {
		if first, offset, err = tailStart(f.path, numbers, opts.Tail); err != nil {
			return nil, err
		}
	}
	r.lastNumber = numbers[len(numbers)-1]
	if info, err := os.Stat(logFile(f.path, r.lastNumber)); err == nil {
		r.lastSize = info.Size()
	}
	return r, r.open(first, offset)
}

// Next returns the next line. See [control.LogReader].
func (r *logReader) Next() (api.LogLine, error) {
	for {
		line, err := r.nextRaw()
		if err != nil {
			return api.LogLine{}, err
		}
		parsed := r.parse(line)
		if !parsed.Time.Before(r.since) {
			return parsed, nil
		}
	}
}

// Close frees the file.
func (r *logReader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// nextRaw returns the next line as it was written, without its end.
func (r *logReader) nextRaw() ([]byte, error) {
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
func (r *logReader) atEnd() error {
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
	case r.instanceEnded():
		r.ended = true // read once more: lines may have come before the end
		return nil
	}
	if pause(r.ctx, followInterval) != nil {
		return io.EOF
	}
	return nil
}

// nextNumber returns the number of the file after this one, 0 where there is none.
func (r *logReader) nextNumber() (int, error) {
	numbers, err := logNumbers(r.folder.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // the instance was stopped
	}
	for _, number := range numbers {
		if number > r.number && (r.follow || number <= r.lastNumber) {
			return number, err
		}
	}
	return 0, err
}

func (r *logReader) instanceEnded() bool {
	if _, err := os.Stat(r.folder.file(exitFile)); err == nil {
		return true
	}
	held, err := r.folder.held()
	return err == nil && !held
}

func (r *logReader) open(number int, offset int64) error {
	file, err := os.Open(logFile(r.folder.path, number))
	if errors.Is(err, os.ErrNotExist) { // removed as the oldest, or with the instance
		r.number, r.toEnd = number, true
		return r.Close()
	}
	if err != nil {
		return err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := r.Close(); err != nil {
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

// parse reads a line. One that a crash left broken is text, of the time before.
func (r *logReader) parse(raw []byte) api.LogLine {
	line := api.LogLine{Time: r.time, Instance: r.folder.id}
	text := raw
	if len(raw) >= textAt && raw[len(logTime)] == ' ' && raw[textAt-1] == ' ' {
		if at, err := time.Parse(logTime, string(raw[:len(logTime)])); err == nil {
			line.Time, r.time = at, at
			line.Stream = streamName(raw[textAt-2])
			text = raw[textAt:]
		}
	}
	line.Text = strings.ToValidUTF8(string(text), "\uFFFD")
	return line
}

func streamName(stream byte) string {
	switch stream {
	case streamOut:
		return "stdout"
	case streamErr:
		return "stderr"
	}
	return ""
}

// tailStart returns the file and the place in it where the last n lines begin.
func tailStart(dir string, numbers []int, n int) (number int, offset int64, err error) {
	for _, number := range slices.Backward(numbers) {
		offset, found, err := tailOffset(logFile(dir, number), n)
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
func tailOffset(path string, n int) (offset int64, found int, err error) {
	file, err := os.Open(path)
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
	return 0, found, nil
}
