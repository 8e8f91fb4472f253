package docker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const (
	frameHeader = 8
	maxFrame    = 1 << 20  // the Engine sends at most 16 KiB of text in one
	maxLine     = 64 << 10 // a longer line is cut into several
)

// Logs reads the log the Engine keeps of an instance; see [control.Runtime].
func (r *Runtime) Logs(ctx context.Context, id string, opts control.LogOptions) (control.LogReader, error) {
	found, err := r.find(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return nil, control.ErrNoInstance
	}
	if err != nil {
		return nil, r.fail(ctx, "look for container "+r.name(id), err)
	}
	if !opts.Run.IsZero() && !opts.Run.Equal(parseTime(found.State.StartedAt)) {
		return nil, control.ErrNoInstance
	}
	return r.openLog(ctx, id, found.ID, opts)
}

// openLog reads the log of one container.
func (r *Runtime) openLog(ctx context.Context, id, containerID string, opts control.LogOptions) (control.LogReader, error) {
	query := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opts.Follow}
	if !opts.Since.IsZero() {
		query.Since = unixTime(opts.Since)
	}
	if opts.Tail > 0 {
		query.Tail = strconv.Itoa(opts.Tail)
	}
	stream, err := r.engine.ContainerLogs(ctx, containerID, query)
	if cerrdefs.IsNotFound(err) {
		return nil, control.ErrNoInstance
	}
	if err != nil {
		return nil, r.fail(ctx, "read the log of container "+r.name(id), err)
	}
	return &logReader{
		ctx: ctx, runtime: r, instance: id, container: containerID, query: query,
		stream: stream, in: bufio.NewReader(stream),
		open: make(map[stdcopy.StdType]api.LogLine), seen: make(map[stdcopy.StdType]mark),
		last: make(map[stdcopy.StdType]time.Time),
	}, nil
}

// What is kept of a container's log when it is removed.
const (
	keptLines   = 20_000           // its last
	keepTimeout = 20 * time.Second // for which a container that is to go waits for that
)

// keepLog keeps the log of a container that is to be removed. That it could not be kept stops nothing.
func (r *Runtime) keepLog(ctx context.Context, found container.InspectResponse) {
	began := parseTime(found.State.StartedAt)
	if r.archive == nil || began.IsZero() || found.State.Status == container.StateCreated || control.IsHook(labelled(found.Config.Labels).ID) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	status := labelled(found.Config.Labels)
	run := control.LogRun{
		Instance: status.ID, Service: status.Service, Version: status.Version, Generation: status.Generation,
		StartedAt: began, EndedAt: time.Now().UTC().Round(0),
	}
	err := r.end(ctx, found.ID)
	if now, inspectErr := r.inspect(ctx, found.ID); inspectErr == nil {
		if at := parseTime(now.State.FinishedAt); at.After(began) {
			run.EndedAt = at
		}
	}
	if err == nil {
		var lines control.LogReader
		if lines, err = r.openLog(ctx, status.ID, found.ID, control.LogOptions{Tail: keptLines}); err == nil {
			err = r.archive.Write(run, lines)
		}
	}
	if err != nil && !errors.Is(err, control.ErrNoInstance) {
		r.log.WarnContext(ctx, "log not kept", "service", status.Service, "version", status.Version, "instance", status.ID, "err", err)
	}
}

// end ends a container that may still run by force, so that its log is whole.
func (r *Runtime) end(ctx context.Context, id string) error {
	if err := r.signal(ctx, id, "SIGKILL"); err != nil {
		return err
	}
	r.awaitExit(ctx, id, keepTimeout)
	return ctx.Err()
}

// logReader takes the Engine's multiplexed stream apart. A frame holds one line with
// its time before it, or a piece of one: the Engine cuts long lines, and only the last piece
// ends in a line feed.
type logReader struct {
	ctx       context.Context //nolint:containedctx // a reader lives as long as the request that made it
	runtime   *Runtime
	instance  string
	container string
	query     client.ContainerLogsOptions
	stream    io.ReadCloser
	in        *bufio.Reader
	open      map[stdcopy.StdType]api.LogLine // lines of which the end has not come yet
	seen      map[stdcopy.StdType]mark        // how far each stream was read
	last      map[stdcopy.StdType]time.Time   // of each stream's last line
	catchUp   bool                            // reading again what a followed stream may have left out
	passed    map[stdcopy.StdType]int         // while catching up: how many frames of the last time were passed
}

// mark is a place in a stream: the time of its last frame, and how many frames have that time.
type mark struct {
	stamp  string
	frames int
}

// Next returns the next line.
func (l *logReader) Next() (api.LogLine, error) {
	for {
		stream, frame, err := l.frame()
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && l.query.Follow && !l.catchUp:
			if err := l.again(); err != nil {
				return api.LogLine{}, err
			}
			continue
		case errors.Is(err, io.EOF):
			return l.rest()
		case l.ctx.Err() != nil:
			return api.LogLine{}, l.ctx.Err()
		case l.gone():
			return l.rest()
		default:
			return api.LogLine{}, l.runtime.fail(l.ctx, "read the log of container "+l.runtime.name(l.instance), err)
		}
		stamp, text, _ := bytes.Cut(frame, []byte(" "))
		if !l.isNew(stream, string(stamp)) {
			continue
		}
		if line, ok := l.line(stream, string(stamp), text); ok {
			return line, nil
		}
	}
}

// Close ends the reading.
func (l *logReader) Close() error { return l.stream.Close() }

// frame reads one frame: which stream it is of, and what it holds.
func (l *logReader) frame() (stdcopy.StdType, []byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(l.in, header[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes is no log line", size)
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(l.in, frame); err != nil {
		return 0, nil, err
	}
	stream := stdcopy.StdType(header[0])
	if stream == stdcopy.Systemerr {
		return 0, nil, fmt.Errorf("the engine stopped reading: %s", bytes.TrimSpace(frame))
	}
	return stream, frame, nil
}

// again opens the log anew where a followed one has ended. Engines end it with the
// container, and may leave out what that wrote last.
func (l *logReader) again() error {
	l.catchUp = true
	query := l.query
	query.Follow, query.Tail = false, ""
	for _, at := range l.seen { // from the earlier of the two places
		since, err := time.Parse(time.RFC3339Nano, at.stamp)
		if err != nil {
			continue
		}
		if text := unixTime(since); query.Tail == "" || text < query.Since {
			query.Since, query.Tail = text, "all"
		}
	}
	if len(l.seen) == 0 {
		query.Tail = l.query.Tail
	}
	stream, err := l.runtime.engine.ContainerLogs(l.ctx, l.container, query)
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) { // stopped and removed: there is no more
		stream, err = io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return l.runtime.fail(l.ctx, "read the log of container "+l.runtime.name(l.instance), err)
	}
	if err := l.stream.Close(); err != nil {
		l.runtime.log.DebugContext(l.ctx, "close log", "err", err)
	}
	l.stream = stream
	l.in.Reset(stream)
	l.passed = make(map[stdcopy.StdType]int)
	return nil
}

// isNew says whether a frame was not read before, and notes that it is read now.
// Within a stream time only grows; the pieces of a long line have the same.
func (l *logReader) isNew(stream stdcopy.StdType, stamp string) bool {
	last := l.seen[stream]
	if l.catchUp {
		if stamp < last.stamp {
			return false
		}
		if stamp == last.stamp && l.passed[stream] < last.frames {
			l.passed[stream]++
			return false
		}
	}
	if stamp != last.stamp {
		last = mark{stamp: stamp}
		delete(l.passed, stream)
	}
	last.frames++
	if l.catchUp {
		l.passed[stream] = last.frames
	}
	l.seen[stream] = last
	return true
}

// line adds a frame to its line, and returns the line once it is whole.
func (l *logReader) line(stream stdcopy.StdType, stamp string, text []byte) (api.LogLine, bool) {
	line, begun := l.open[stream]
	if !begun {
		line = api.LogLine{Instance: l.instance, Stream: "stdout"}
		line.Time, _ = time.Parse(time.RFC3339Nano, stamp) // none where the Engine gave none
		if stream == stdcopy.Stderr {
			line.Stream = "stderr"
		}
	}
	whole, ended := bytes.CutSuffix(text, []byte("\n"))
	line.Text += string(bytes.TrimSuffix(whole, []byte("\r")))
	if !ended && len(line.Text) < maxLine {
		l.open[stream] = line
		return api.LogLine{}, false
	}
	delete(l.open, stream)
	line.Partial = !ended
	return l.later(stream, line), true
}

// later makes a line later than the one before of its stream: the parts of a long line all have the
// same time.
func (l *logReader) later(stream stdcopy.StdType, line api.LogLine) api.LogLine {
	if last := l.last[stream]; !line.Time.After(last) {
		line.Time = last.Add(time.Nanosecond)
	}
	l.last[stream] = line.Time
	return valid(line)
}

// valid makes the text of a line UTF-8. Only a whole line can be: a piece may end
// within a character.
func valid(line api.LogLine) api.LogLine {
	line.Text = strings.ToValidUTF8(line.Text, "\uFFFD")
	return line
}

// rest returns a last line that ends without a line feed, then io.EOF.
func (l *logReader) rest() (api.LogLine, error) {
	for stream, line := range l.open {
		delete(l.open, stream)
		return l.later(stream, line), nil
	}
	return api.LogLine{}, io.EOF
}

// gone says whether the container was removed while its log was read.
func (l *logReader) gone() bool {
	_, err := l.runtime.inspect(l.ctx, l.container)
	return cerrdefs.IsNotFound(err)
}
