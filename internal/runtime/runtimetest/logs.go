package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// logCases are about what instances write.
func logCases() map[string]testCase {
	return map[string]testCase{
		"log of an unknown instance":    {run: logUnknown},
		"log has both streams":          {run: logStreams, owned: true},
		"log tail":                      {run: logTail, owned: true},
		"log since":                     {run: logSince, owned: true},
		"log follow":                    {run: logFollow, owned: true},
		"log follow ends with the exit": {run: logFollowExit, owned: true, exits: true},
		"log follow ends with the stop": {run: logFollowStop, owned: true},
		"log follow ends with ctx":      {run: logFollowCtx, owned: true},
		"log of very much":              {run: logMuch, owned: true},
		"log of a very long line":       {run: logLongLine, owned: true},
		"log of bytes that are no text": {run: logBinary, owned: true, exits: true},
		"log of one run only":           {run: logRun, owned: true, archive: true, exits: true},
		"log is kept after a stop":      {run: logKept, owned: true, archive: true},
		"log is bounded":                {run: logBounded, owned: true, archive: true, bounded: true},
	}
}

func logUnknown(t *testing.T, s *suite) {
	_, err := s.runtime.Logs(t.Context(), "never-started", control.LogOptions{})
	require.ErrorIs(t, err, control.ErrNoInstance)
}

func logStreams(t *testing.T, s *suite) {
	address := s.talker(t, "cart-1")
	say(t, address, "stdout", "good news")
	good := s.logged(t, "cart-1", "good news") // streams may overtake each other
	say(t, address, "stderr", "bad news")
	bad := s.logged(t, "cart-1", "bad news")
	require.Equal(t, "stdout", good.Stream)
	if !s.OneLog {
		require.Equal(t, "stderr", bad.Stream)
	}
	require.Equal(t, "cart-1", good.Instance)
	require.Equal(t, "good news", good.Text)
	require.WithinDuration(t, time.Now(), good.Time, time.Minute)
	require.False(t, bad.Time.Before(good.Time))
}

func logTail(t *testing.T, s *suite) {
	address := s.talker(t, "cart-1")
	for i := range 5 {
		say(t, address, "stdout", fmt.Sprintf("word %d", i))
	}
	s.logged(t, "cart-1", "word 4")
	require.Equal(t, []string{"word 3", "word 4"}, s.texts(t, "cart-1", control.LogOptions{Tail: 2}))
	require.Equal(t, []string{"word 4"}, s.texts(t, "cart-1", control.LogOptions{Tail: 1}))
	all := s.texts(t, "cart-1", control.LogOptions{})
	require.Equal(t, all, s.texts(t, "cart-1", control.LogOptions{Tail: 1000}))
	require.Equal(t, []string{"word 0", "word 1", "word 2", "word 3", "word 4"}, all[len(all)-5:])
}

func logSince(t *testing.T, s *suite) {
	address := s.talker(t, "cart-1")
	for i := range 4 {
		say(t, address, "stdout", fmt.Sprintf("word %d", i))
		s.logged(t, "cart-1", fmt.Sprintf("word %d", i)) // so that their times differ
	}
	second := s.logged(t, "cart-1", "word 2")
	s.logged(t, "cart-1", "word 3")
	require.Equal(t, []string{"word 2", "word 3"}, s.texts(t, "cart-1", control.LogOptions{Since: second.Time}))
	require.Equal(t, []string{"word 3"}, s.texts(t, "cart-1", control.LogOptions{Since: second.Time, Tail: 1}))
	require.Empty(t, s.texts(t, "cart-1", control.LogOptions{Since: time.Now().Add(time.Hour)}))
	require.NotEmpty(t, s.texts(t, "cart-1", control.LogOptions{Since: time.Now().Add(-time.Hour)}))
}

func logFollow(t *testing.T, s *suite) {
	address := s.talker(t, "cart-1")
	say(t, address, "stdout", "old 1")
	say(t, address, "stdout", "old 2")
	s.logged(t, "cart-1", "old 2")

	lines := s.follow(t, t.Context(), "cart-1", control.LogOptions{Tail: 1})
	require.Equal(t, "old 2", nextLine(t, lines))
	for i := range 3 {
		text := fmt.Sprintf("new %d", i)
		say(t, address, "stderr", text)
		require.Equal(t, text, nextLine(t, lines))
	}
}

func logFollowExit(t *testing.T, s *suite) {
	address := s.talker(t, "cart-1")
	lines := s.follow(t, t.Context(), "cart-1", control.LogOptions{})
	say(t, address, "stdout", "last words")
	Tell(t, address, "/exit?code=1")
	var last string
	for text := range untilEnd(t, lines) {
		last = text
	}
	require.Equal(t, "last words", last)
}

func logFollowStop(t *testing.T, s *suite) {
	s.talker(t, "cart-1")
	lines := s.follow(t, t.Context(), "cart-1", control.LogOptions{})
	nextLine(t, lines)
	s.stop(t, "cart-1")
	for range untilEnd(t, lines) {
		continue
	}
	s.nothingLeft(t)
}

func logFollowCtx(t *testing.T, s *suite) {
	s.talker(t, "cart-1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := s.follow(t, ctx, "cart-1", control.LogOptions{})
	nextLine(t, lines)
	cancel()
	for range untilEnd(t, lines) {
		continue
	}
	require.True(t, s.list(t, s.runtime)["cart-1"].Running)
}

func logMuch(t *testing.T, s *suite) {
	const count = 20_000
	s.start(t, "cart-1", map[string]string{"APP_LOG_LINES": fmt.Sprint(count), "APP_LISTEN": "no"})
	s.logged(t, "cart-1", "not listening")
	all := s.texts(t, "cart-1", control.LogOptions{})
	require.Len(t, all, count+1)
	for i, text := range all[:count] {
		require.Equal(t, fmt.Sprintf("line %d of %d", i+1, count), text)
	}
	require.Equal(t, []string{fmt.Sprintf("line %d of %d", count, count), "not listening"},
		s.texts(t, "cart-1", control.LogOptions{Tail: 2}))
}

// logRun starts an instance again that has ended: each run has its own log.
func logRun(t *testing.T, s *suite) {
	first := s.start(t, "cart-1", nil)
	Ask(t, first.Addresses[0])
	say(t, first.Addresses[0], "stdout", "of the first run")
	Tell(t, first.Addresses[0], "/exit?code=3")
	s.exited(t, "cart-1")
	s.logged(t, "cart-1", "of the first run")

	second := s.start(t, "cart-1", nil)
	Ask(t, second.Addresses[0])
	say(t, second.Addresses[0], "stdout", "of the second run")
	s.logged(t, "cart-1", "of the second run")
	require.NotContains(t, s.texts(t, "cart-1", control.LogOptions{Run: second.StartedAt}), "of the first run")
	_, err := s.runtime.Logs(t.Context(), "cart-1", control.LogOptions{Run: first.StartedAt})
	require.ErrorIs(t, err, control.ErrNoInstance)

	run, kept := s.keptRun(t)
	require.True(t, run.StartedAt.Equal(first.StartedAt), "%s is not %s", run.StartedAt, first.StartedAt)
	require.Contains(t, kept, "of the first run")
}

func logKept(t *testing.T, s *suite) {
	status := s.start(t, "cart-1", nil)
	Ask(t, status.Addresses[0])
	say(t, status.Addresses[0], "stderr", "nearly over")
	s.logged(t, "cart-1", "nearly over")
	s.stop(t, "cart-1")
	s.nothingLeft(t)
	run, kept := s.keptRun(t)
	require.Equal(t, "cart-1", run.Instance)
	require.Equal(t, int64(7), run.Generation)
	require.True(t, run.EndedAt.After(run.StartedAt))
	require.Contains(t, kept, "nearly over")

	archive := s.Archive(t, s.environment)
	require.NoError(t, archive.Remove(control.Key{Service: "cart", Version: "pr-1"}))
	runs, err := archive.Runs(control.Key{Service: "cart", Version: "pr-1"})
	require.NoError(t, err)
	require.Empty(t, runs)
}

// logBounded writes far more than the bound: the newest lines are there, whole and in order.
func logBounded(t *testing.T, s *suite) {
	const count = 300_000 // some 7 MB, and more with the time before each
	s.start(t, "cart-1", map[string]string{"APP_LOG_LINES": fmt.Sprint(count), "APP_LISTEN": "no"})
	s.logged(t, "cart-1", "not listening")
	all := s.texts(t, "cart-1", control.LogOptions{})
	size, first := 0, count-len(all)+1
	require.Positive(t, first)
	for i, text := range all[:len(all)-1] {
		size += len(text)
		require.Equal(t, fmt.Sprintf("line %d of %d", first+i+1, count), text)
	}
	require.Less(t, len(all), count)
	require.LessOrEqual(t, int64(size), s.LogBytes)
	s.stop(t, "cart-1")
	_, kept := s.keptRun(t)
	require.Contains(t, kept[max(0, len(kept)-3):], "not listening")
}

// keptRun returns the only run that is kept, and its lines.
func (s *suite) keptRun(t *testing.T) (control.LogRun, []string) {
	t.Helper()
	archive := s.Archive(t, s.environment)
	runs, err := archive.Runs(control.Key{Service: "cart", Version: "pr-1"})
	require.NoError(t, err)
	require.Len(t, runs, 1)
	reader, err := archive.Open(t.Context(), runs[0], control.LogOptions{})
	require.NoError(t, err)
	var texts []string
	for {
		line, err := reader.Next()
		if errors.Is(err, io.EOF) {
			require.NoError(t, reader.Close())
			return runs[0], texts
		}
		require.NoError(t, err)
		texts = append(texts, line.Text)
	}
}

// logLongLine allows a runtime to cut a line, or to split it into several.
func logLongLine(t *testing.T, s *suite) {
	const size = 300_000
	s.start(t, "cart-1", map[string]string{"APP_LONG_LINE": fmt.Sprint(size), "APP_LISTEN": "no"})
	s.logged(t, "cart-1", "not listening")
	all := s.texts(t, "cart-1", control.LogOptions{})
	require.Contains(t, all, "after the long line")
	length := 0
	for _, text := range all {
		length += strings.Count(text, "x")
	}
	require.Greater(t, length, 10_000)
	require.LessOrEqual(t, length, size)
}

func logBinary(t *testing.T, s *suite) {
	s.start(t, "cart-1", map[string]string{"APP_BINARY": "1"})
	require.Equal(t, 0, s.exited(t, "cart-1").ExitCode)
	s.logged(t, "cart-1", "no end")
	all := s.texts(t, "cart-1", control.LogOptions{})
	require.Len(t, all, 3)
	require.Equal(t, "before", all[0])
	require.Contains(t, all[1], " binary ")
	require.Equal(t, "no end", all[2])
	for _, text := range all {
		require.True(t, utf8.ValidString(text), "%q goes into JSON", text)
	}
}

// talker starts an app that listens, and returns its address.
func (s *suite) talker(t *testing.T, id string) control.Address {
	t.Helper()
	address := s.start(t, id, nil).Addresses[0]
	Ask(t, address)
	return address
}

func say(t *testing.T, address control.Address, stream, text string) {
	t.Helper()
	Tell(t, address, "/log?"+url.Values{"stream": {stream}, "text": {text}}.Encode())
}

// logged waits until a line with the text is in the log, and returns it.
func (s *suite) logged(t *testing.T, id, text string) api.LogLine {
	t.Helper()
	var found api.LogLine
	eventually(t, "the log of "+id+" to have "+text, func() error {
		all := s.lines(t, id, control.LogOptions{})
		for _, line := range all {
			if strings.Contains(line.Text, text) {
				found = line
				return nil
			}
		}
		return fmt.Errorf("%d lines without it", len(all))
	})
	return found
}

func (s *suite) texts(t *testing.T, id string, opts control.LogOptions) []string {
	t.Helper()
	var texts []string
	for _, line := range s.lines(t, id, opts) {
		texts = append(texts, line.Text)
	}
	return texts
}

func (s *suite) lines(t *testing.T, id string, opts control.LogOptions) []api.LogLine {
	t.Helper()
	reader, err := s.runtime.Logs(t.Context(), id, opts)
	require.NoError(t, err)
	defer func() { require.NoError(t, reader.Close()) }()
	var lines []api.LogLine
	for {
		line, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		require.NoError(t, err)
		lines = append(lines, line)
	}
}

// follow gives the lines of a log as they come, on a channel that is closed when the log ends.
func (s *suite) follow(t *testing.T, ctx context.Context, id string, opts control.LogOptions) <-chan string { //nolint:revive // t first, as everywhere
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	opts.Follow = true
	reader, err := s.runtime.Logs(ctx, id, opts)
	require.NoError(t, err)
	lines := make(chan string)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(lines)
		for {
			line, err := reader.Next()
			if err != nil {
				return
			}
			select {
			case lines <- line.Text:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		require.NoError(t, reader.Close())
	})
	return lines
}

func nextLine(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case text, ok := <-lines:
		require.True(t, ok, "the log ended")
		return text
	case <-time.After(30 * time.Second):
		require.FailNow(t, "no line came")
		return ""
	}
}

// untilEnd gives the lines until the log ends, and fails t where it does not.
func untilEnd(t *testing.T, lines <-chan string) func(yield func(string) bool) {
	t.Helper()
	return func(yield func(string) bool) {
		timeout := time.After(30 * time.Second)
		for {
			select {
			case text, ok := <-lines:
				if !ok || !yield(text) {
					return
				}
			case <-timeout:
				require.FailNow(t, "the log does not end")
			}
		}
	}
}
