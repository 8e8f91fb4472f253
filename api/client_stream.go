package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	silence    = time.Minute // the server says something at least every 15 s
	maxBackoff = 5 * time.Second
)

// FollowEvents gives the events that the filter selects, from the log first and
// then as they happen, until ctx ends or the caller stops. A connection that breaks is
// taken up again where it broke; nothing is lost or given twice. The last pair
// has the error, if there is one; the end of ctx is one.
func (c *Client) FollowEvents(ctx context.Context, f EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		q := f.query()
		err := c.follow(ctx, call{method: http.MethodGet, path: []string{"events", "stream"}, query: q}, maxAnswer, func(m message) (bool, error) {
			if m.event != "event" {
				return true, nil
			}
			var e Event
			if err := json.Unmarshal(m.data, &e); err != nil {
				return false, fmt.Errorf("read an event: %w", err)
			}
			return yield(e, nil), nil
		})
		if err != nil {
			yield(Event{}, err)
		}
	}
}

// FollowTable gives what leads from the table at a position to the one in force, and
// then each change as it happens, until ctx ends or the caller stops: changes that follow
// one another without a gap, and a whole table at first and wherever they do not. The zero
// position begins with a whole table, and so does one without an epoch. A table
// replaces what came before, whatever its revision. A connection that breaks is taken up
// again where it broke. The last pair has the error, if there is one; the end of ctx is one.
func (c *Client) FollowTable(ctx context.Context, after TablePosition) iter.Seq2[TableUpdate, error] {
	return tableUpdates(func(use func(message) (bool, error)) error {
		return c.follow(ctx, tableCall(after), maxTable, use)
	})
}

// FollowTableOnce is [Client.FollowTable] over one connection, for those who decide
// themselves when to connect anew, and where: that it could not be made, or broke, is the
// error of the last pair, always an [*UnreachableError] where a later try may go better or a
// [*Problem] where the server refuses.
func (c *Client) FollowTableOnce(ctx context.Context, after TablePosition) iter.Seq2[TableUpdate, error] {
	return tableUpdates(func(use func(message) (bool, error)) error {
		var lastID string
		_, more, err := c.followOnce(ctx, tableCall(after), maxTable, &lastID, use)
		if more && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	})
}

func tableCall(after TablePosition) call {
	return call{
		method: http.MethodGet, path: []string{"table", "watch"},
		query: url.Values{"after": {after.String()}},
	}
}

// tableUpdates reads the messages of the table's stream that follow gives.
func tableUpdates(follow func(use func(message) (more bool, err error)) error) iter.Seq2[TableUpdate, error] {
	return func(yield func(TableUpdate, error) bool) {
		err := follow(func(m message) (bool, error) {
			var u TableUpdate
			var err error
			switch m.event {
			case "table":
				u.Table = &Table{}
				err = json.Unmarshal(m.data, u.Table)
			case "change":
				u.Change = &TableChange{}
				err = json.Unmarshal(m.data, u.Change)
			default:
				return true, nil
			}
			if err != nil {
				return false, fmt.Errorf("read the stream of the table: %w", err)
			}
			return yield(u, nil), nil
		})
		if err != nil {
			yield(TableUpdate{}, err)
		}
	}
}

// MaxLogTail bounds LogFilter.Tail.
const MaxLogTail = 100_000

// LogFilter selects a part of a log. Without Since, Until and Previous that is what the newest
// instances wrote.
type LogFilter struct {
	Follow   bool      // go on, until the versions are removed
	Since    time.Time // only lines since then, of all instances that are kept; zero means no bound
	Until    time.Time // only lines before then, of all instances that are kept; zero means no bound
	Tail     int       // only the last lines, at most MaxLogTail; 0 means all
	Trace    string    // only lines that name it, as 32 hex digits
	Previous bool      // what ended last, besides what is given without it
}

// Logs gives the log of a version, oldest line first. A following log goes on over restarts and new
// generations of the version, and restarts of the server: a connection that breaks is taken up again where it
// broke, and no line is lost or given twice. It ends when the version is removed. Without
// following, a connection that breaks is an error.
func (c *Client) Logs(ctx context.Context, service, version string, f LogFilter) iter.Seq2[LogLine, error] {
	return c.logLines(ctx, call{method: http.MethodGet, path: append(versionPath(service, version), "logs"), query: f.query()}, f.Follow)
}

// LogsOf is [Client.Logs] of several versions, in the order of the lines' times. A target is SERVICE@VERSION, or
// @VERSION for every service that has it; a following log has those that are deployed later, too, and does not end.
func (c *Client) LogsOf(ctx context.Context, targets []string, f LogFilter) iter.Seq2[LogLine, error] {
	q := f.query()
	q["target"] = targets
	return c.logLines(ctx, call{method: http.MethodGet, path: []string{"logs"}, query: q}, f.Follow)
}

func (f LogFilter) query() url.Values {
	q := url.Values{}
	if f.Follow {
		q.Set("follow", "true")
	}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		q.Set("until", f.Until.UTC().Format(time.RFC3339Nano))
	}
	if f.Tail != 0 {
		q.Set("tail", strconv.Itoa(f.Tail))
	}
	if f.Trace != "" {
		q.Set("trace", f.Trace)
	}
	if f.Previous {
		q.Set("previous", "true")
	}
	return q
}

func (c *Client) logLines(ctx context.Context, k call, follow bool) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		read := c.logs
		if follow {
			read = c.followLogs
		}
		if err := read(ctx, k, func(l LogLine) bool { return yield(l, nil) }); err != nil {
			yield(LogLine{}, err)
		}
	}
}

// followLogs follows a log. Positions come behind several lines: where a connection breaks
// between, the next one repeats some, which are left out.
func (c *Client) followLogs(ctx context.Context, k call, yield func(LogLine) bool) error {
	last := map[[2]string]time.Time{} // by instance and stream
	return c.follow(ctx, k, maxAnswer, func(m message) (bool, error) {
		if m.event == "end" {
			return false, nil
		}
		if m.event != "log" {
			return true, nil
		}
		var l LogLine
		if err := json.Unmarshal(m.data, &l); err != nil {
			return false, fmt.Errorf("read a line of the log: %w", err)
		}
		if of := [2]string{l.Instance, l.Stream}; l.Stream != StreamLayover {
			if !l.Time.After(last[of]) {
				return true, nil
			}
			last[of] = l.Time
		}
		return yield(l), nil
	})
}

func (c *Client) logs(ctx context.Context, k call, yield func(LogLine) bool) error {
	ctx, dog := newWatchdog(ctx)
	defer dog.stop()
	k.header = http.Header{"Accept": {"application/x-ndjson"}}
	resp, err := c.send(ctx, k)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := newLineReader(resp.Body, maxAnswer, dog)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.broken(ctx, err)
		}
		if len(line) == 0 {
			continue // keeps the connection alive
		}
		var l LogLine
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("read a line of the log: %w", err)
		}
		if !yield(l) {
			return nil
		}
	}
}

// message is one server-sent event.
type message struct {
	event string
	data  []byte
}

// follow reads a stream of server-sent events, and takes it up again with
// Last-Event-ID when it breaks, until use says false, ctx ends, the server refuses,
// or no server answers for the client's patience. The first connection is not tried again.
func (c *Client) follow(ctx context.Context, k call, limit int, use func(message) (more bool, err error)) error {
	var lastID string
	var lastSeen time.Time // when a connection was there last; zero before the first
	backoff := c.backoff
	lost := false
	k.opened = func() {
		if lost {
			lost = false
			c.lost(nil)
		}
	}
	for {
		began := time.Now()
		connected, more, err := c.followOnce(ctx, k, limit, &lastID, use)
		switch {
		case !more:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !isTransient(err):
			return err
		case connected:
			lastSeen = time.Now()
			if lastSeen.Sub(began) > maxBackoff {
				backoff = c.backoff
			}
		case time.Since(lastSeen) > c.patience:
			return err
		case !lost:
			lost = true
			c.lost(err)
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// followOnce reads one connection to its end. more says whether the caller wants to go on.
func (c *Client) followOnce(ctx context.Context, k call, limit int, lastID *string, use func(message) (bool, error)) (connected, more bool, err error) {
	ctx, dog := newWatchdog(ctx)
	defer dog.stop()
	k.header = http.Header{"Accept": {"text/event-stream"}}
	if *lastID != "" {
		k.header.Set("Last-Event-ID", *lastID)
	}
	resp, err := c.send(ctx, k)
	if err != nil {
		return false, true, err
	}
	defer func() { _ = resp.Body.Close() }()
	if k.opened != nil {
		k.opened()
	}
	lines := newLineReader(resp.Body, limit, dog)
	var m message
	id := *lastID
	for {
		line, err := lines.next()
		if err != nil {
			return true, true, c.broken(ctx, err)
		}
		if len(line) > 0 {
			m, id = m.field(line, id)
			continue
		}
		// An empty line ends a message. One without data only moves the ID on.
		if len(m.data) > 0 {
			more, err := use(m)
			if err != nil || !more {
				return true, false, err
			}
		}
		*lastID, m = id, message{}
	}
}

// field takes one line of a message, as the HTML standard says it
// (section 9.2.6, interpreting an event stream).
func (m message) field(line []byte, id string) (message, string) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "event":
		m.event = string(value)
	case "id":
		id = string(value)
	case "data":
		if m.data != nil {
			m.data = append(m.data, '\n')
		}
		m.data = append(m.data, value...)
	}
	return m, id
}

func (c *Client) broken(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, errSilence) {
			return &UnreachableError{URL: c.URL(), Err: errSilence}
		}
		return cause
	}
	if errors.Is(err, errLongLine) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the connection was closed")
	}
	return &UnreachableError{URL: c.URL(), Err: err}
}

// isTransient says whether a later try may go better.
func isTransient(err error) bool {
	if _, ok := errors.AsType[*UnreachableError](err); ok {
		return true
	}
	p, ok := errors.AsType[*Problem](err)
	return ok && p.Status >= 500
}

var (
	errSilence  = errors.New("the server has said nothing for a minute")
	errLongLine = errors.New("the server sent a line that is too long")
)

// watchdog ends a context when the server is silent for too long while the
// client listens.
type watchdog struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newWatchdog(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{cancel: cancel, timer: time.AfterFunc(silence, func() { cancel(errSilence) })}
	w.timer.Stop()
	return ctx, w
}

// listen and rest are called around each read.
func (w *watchdog) listen() { w.timer.Reset(silence) }
func (w *watchdog) rest()   { w.timer.Stop() }

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// lineReader reads lines of bounded length.
type lineReader struct {
	r     *bufio.Reader
	limit int
	dog   *watchdog
}

func newLineReader(r io.Reader, limit int, dog *watchdog) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 16<<10), limit: limit, dog: dog}
}

// next returns the next line without its end. A last line that was cut short is an error.
func (l *lineReader) next() ([]byte, error) {
	var line []byte
	for {
		l.dog.listen()
		part, err := l.r.ReadSlice('\n')
		l.dog.rest()
		line = append(line, part...)
		switch {
		case len(line) > l.limit:
			return nil, errLongLine
		case err == nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
}
