package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

func logsOf(versions ...string) control.LogQuery {
	var q control.LogQuery
	for _, v := range versions {
		q.Targets = append(q.Targets, control.LogTarget(key(v)))
	}
	return q
}

// texts reads a log that does not follow.
func (b *bench) texts(q control.LogQuery) (texts []string) {
	b.t.Helper()
	for _, line := range b.lines(q) {
		texts = append(texts, line.Text)
	}
	return texts
}

func (b *bench) lines(q control.LogQuery) (lines []api.LogLine) {
	b.t.Helper()
	log, err := b.Logs(b.t.Context(), q)
	require.NoError(b.t, err)
	defer func() { require.NoError(b.t, log.Close()) }()
	for {
		line, err := log.Next(b.t.Context())
		if errors.Is(err, io.EOF) {
			return lines
		}
		require.NoError(b.t, err)
		lines = append(lines, line)
	}
}

// follower follows a log, and requires what comes.
type follower struct {
	b   *bench
	q   control.LogQuery
	log control.Log
}

func (b *bench) follow(q control.LogQuery) *follower {
	b.t.Helper()
	q.Follow = true
	log, err := b.Logs(b.t.Context(), q)
	require.NoError(b.t, err)
	f := &follower{b: b, q: q, log: log}
	b.t.Cleanup(func() { require.NoError(b.t, f.log.Close()) })
	return f
}

// until returns the lines up to the one with text; the end of the log is an error unless text is "".
func (f *follower) until(text string) (lines []api.LogLine) {
	f.b.t.Helper()
	ctx, cancel := context.WithTimeout(f.b.t.Context(), 20*time.Second)
	defer cancel()
	for {
		line, err := f.log.Next(ctx)
		if text == "" && errors.Is(err, io.EOF) {
			return lines
		}
		require.NoError(f.b.t, err, "%q did not come", text)
		lines = append(lines, line)
		if line.Text == text {
			return lines
		}
	}
}

// says has the version write a line.
func (b *bench) says(version, text string) {
	b.t.Helper()
	entry := b.routed(version)
	require.NotEmpty(b.t, entry.Instances)
	address := control.Address{HostPort: entry.Instances[0].Address}
	runtimetest.Tell(b.t, address, "/log?"+url.Values{"stream": {"stdout"}, "text": {text}}.Encode())
}

func (b *bench) exits(version string) {
	b.t.Helper()
	runtimetest.Tell(b.t, control.Address{HostPort: b.routed(version).Instances[0].Address}, "/exit?code=3")
}

// once requires that of the lines that say "word N" each came once, in order.
func once(t *testing.T, lines []api.LogLine, words int) {
	t.Helper()
	next := 0
	for _, line := range lines {
		var n int
		if _, err := fmt.Sscanf(line.Text, "word %d", &n); err == nil {
			require.Equal(t, next, n, "lost or doubled")
			next++
		}
	}
	require.Equal(t, words, next)
}

// TestFollowGoesOn follows a version over all that may happen to it.
func TestFollowGoesOn(t *testing.T) {
	b := newBench(t)
	first := b.up("x", nil)
	f := b.follow(logsOf("x"))
	b.says("x", "word 0")
	all := f.until("word 0")

	began := first.Instances[0].StartedAt
	b.exits("x")
	b.wait("x", "to be started again", func(v api.Version) bool {
		return v.State == api.StateRunning && len(v.Instances) == 1 && v.Instances[0].Healthy && v.Instances[0].StartedAt.After(began)
	})
	b.says("x", "word 1")
	all = append(all, f.until("word 1")...)
	require.True(t, begins(all, 1), "it is told that another run begins")

	b.up("x", map[string]string{"COLOUR": "red"})
	b.says("x", "word 2")
	second := f.until("word 2")
	require.True(t, begins(second, 2))
	require.Equal(t, int64(2), second[len(second)-1].Generation)
	all = append(all, second...)

	_, err := b.Rollback(t.Context(), key("x"), 0, control.By{})
	require.NoError(t, err)
	b.wait("x", "to be rolled back", func(v api.Version) bool { return v.Serving == 3 && v.State == api.StateRunning })
	b.says("x", "word 3")
	all = append(all, f.until("word 3")...)

	_, err = b.Sleep(t.Context(), key("x"), control.By{})
	require.NoError(t, err)
	b.wait("x", "to sleep", func(v api.Version) bool { return v.State == api.StateAsleep })
	_, err = b.Wake(t.Context(), key("x"), control.By{})
	require.NoError(t, err)
	b.wait("x", "to wake", func(v api.Version) bool { return v.State == api.StateRunning })
	b.says("x", "word 4")
	all = append(all, f.until("word 4")...)
	once(t, all, 5)

	_, err = b.Remove(t.Context(), key("x"), control.By{})
	require.NoError(t, err)
	last := f.until("")
	require.Equal(t, "cart@x is removed", last[len(last)-1].Text)
	require.Equal(t, api.StreamLayover, last[len(last)-1].Stream)
	require.Contains(t, fmt.Sprint(last), "terminated", "its last words are there")
}

// begins says whether a line tells that a generation begins.
func begins(lines []api.LogLine, generation int64) bool {
	for _, line := range lines {
		if line.Stream == api.StreamLayover && line.Generation == generation {
			return true
		}
	}
	return false
}

// TestFollowerResumes goes on at another server, behind the last line it had.
func TestFollowerResumes(t *testing.T) {
	b := newBench(t)
	b.up("x", nil)
	f := b.follow(logsOf("x"))
	b.says("x", "word 0")
	all := f.until("word 0")
	b.says("x", "word 1")
	b.says("x", "word 2")
	all = append(all, f.until("word 2")...)
	place := f.log.Position()
	require.NotEmpty(t, place)
	b.says("x", "word 3") // nobody reads it now
	b.end()
	b.open()
	b.wait("x", "to be adopted", func(v api.Version) bool { return v.State == api.StateRunning && len(b.routed("x").Instances) == 1 })
	b.says("x", "word 4")
	q := logsOf("x")
	q.After = place
	again := b.follow(q)
	resumed := again.until("word 4")
	require.False(t, begins(resumed, 1), "it is the same run")
	once(t, append(all, resumed...), 5)

	place = again.log.Position()
	_, err := b.Remove(t.Context(), key("x"), control.By{})
	require.NoError(t, err)
	b.until(func() bool { _, err := b.Version(t.Context(), key("x")); return err != nil }, func() string { return "it is still there" })
	q.After = place
	last := b.follow(q).until("")
	require.Equal(t, "cart@x is removed", last[len(last)-1].Text, "also where that happened meanwhile")

	q.After = "nonsense"
	_, err = b.Logs(t.Context(), q)
	require.Equal(t, api.CodeInvalid, control.CodeOf(err))
}

// TestFollowerIsToldOfAGap comes back when the log has lost what follows its place, and again when all is there.
func TestFollowerIsToldOfAGap(t *testing.T) {
	b := newBench(t)
	b.up("x", nil)
	f := b.follow(logsOf("x"))
	b.says("x", "word 0")
	before := f.until("word 0")
	q := logsOf("x")
	q.After = f.log.Position()
	filler := strings.Repeat("y", 8<<10)
	for range 3 * logFileSize / len(filler) {
		b.says("x", filler)
	}
	b.says("x", "word 1")

	again := b.follow(q)
	lines := again.until("word 1")
	require.Equal(t, api.StreamLayover, lines[0].Stream)
	require.Contains(t, lines[0].Text, "lines are missing here")
	require.Equal(t, before[len(before)-1].Time, lines[0].Time, "behind the last line that was read")
	require.Equal(t, filler, lines[1].Text, "then what there is")
	once(t, append(before, lines...), 2)

	q.After = again.log.Position()
	b.says("x", "word 2")
	lines = b.follow(q).until("word 2")
	require.Len(t, lines, 1, "nothing is missing now, and nothing is doubled")
}

// TestFollowABranch waits for versions that are deployed later.
func TestFollowABranch(t *testing.T) {
	b := newBench(t)
	q := control.LogQuery{Targets: []control.LogTarget{{Version: "feature-1"}}}
	_, err := b.Logs(t.Context(), q)
	require.Equal(t, api.CodeNotFound, control.CodeOf(err), "without following there is nothing")
	f := b.follow(q)
	b.up("feature-1", nil)
	b.says("feature-1", "at last")
	lines := f.until("at last")
	require.Equal(t, "cart", lines[len(lines)-1].Service)
	require.Equal(t, "feature-1", lines[len(lines)-1].Version)
}

func TestPreviousLogs(t *testing.T) {
	b := newBench(t)
	b.up("x", nil)
	b.says("x", "of generation 1")
	previous, now := logsOf("x"), logsOf("x")
	previous.Previous = true
	require.Empty(t, b.texts(previous))
	b.up("x", map[string]string{"COLOUR": "red"})
	b.until(func() bool { return len(b.texts(previous)) > 0 }, func() string { return "generation 1 does not end" })
	b.says("x", "of generation 2")
	require.Contains(t, b.texts(previous), "of generation 1")
	require.NotContains(t, b.texts(now), "of generation 1")
	b.until(func() bool { return len(b.texts(now)) > 0 && b.texts(now)[len(b.texts(now))-1] == "of generation 2" }, func() string { return "the line does not come" })

	all := logsOf("x")
	all.Since = time.Now().Add(-time.Hour)
	require.Contains(t, b.texts(all), "of generation 1")
	require.Contains(t, b.texts(all), "of generation 2")
	all.Tail = 1
	require.Equal(t, []string{"of generation 2"}, b.texts(all))
	all.Tail, all.Until = 0, time.Now().Add(-time.Minute)
	require.Empty(t, b.texts(all))

	_, err := b.Remove(t.Context(), key("x"), control.By{})
	require.NoError(t, err)
	b.until(func() bool { _, err := b.Version(t.Context(), key("x")); return err != nil }, func() string { return "it is still there" })
	b.up("x", nil)
	require.Empty(t, b.texts(previous), "the logs went with the version")
}

func TestLogsOfExternalInstances(t *testing.T) {
	b := newBench(t)
	_, err := b.Deploy(t.Context(), key("ext"), api.Deployment{Overrides: api.Overrides{URL: "http://127.0.0.1:1"}})
	require.NoError(t, err)
	b.until(func() bool {
		_, err := b.Logs(t.Context(), logsOf("ext"))
		return err != nil
	}, func() string { return "it is not there" })
	_, err = b.Logs(t.Context(), logsOf("ext"))
	require.ErrorContains(t, err, "there is no log of cart@ext here")
}

// TestFollowingIsNoActivity has a version fall asleep while its log is followed.
func TestFollowingIsNoActivity(t *testing.T) {
	b := newBench(t)
	v, err := b.Deploy(t.Context(), key("x"), api.Deployment{IdleSleep: api.Duration(time.Second)})
	require.NoError(t, err)
	require.NotZero(t, v.Generation)
	f := b.follow(logsOf("x"))
	ctx, cancel := context.WithCancel(t.Context())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, err := f.log.Next(ctx); err != nil {
				return
			}
		}
	}()
	b.wait("x", "to fall asleep", func(v api.Version) bool { return v.State == api.StateAsleep })
	cancel()
	<-read
}

// TestFollowInstances: all that is written from then on is handed over once, of instances that come later too, and of none that is to
// be left out.
func TestFollowInstances(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	b.says("feature-1", "before")
	b.until(func() bool { return slices.Contains(b.texts(logsOf("feature-1")), "before") }, func() string { return "it is not in the log" })
	var mu sync.Mutex
	var got []api.LogLine
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- b.FollowInstances(ctx, nil, nil, func(line api.LogLine) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, line)
		})
	}()
	came := func(text string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, line := range got {
			if line.Text == text {
				n++
			}
		}
		return n
	}
	b.until(func() bool { b.says("feature-1", "now"); return came("now") > 0 }, func() string { return "what an instance writes is not handed over" })
	b.up("feature-2", nil)
	b.says("feature-2", "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 later")
	const later = "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 later"
	b.until(func() bool { return came(later) == 1 }, func() string { return "what a later instance writes is not handed over" })
	cancel()
	require.Zero(t, <-done)
	require.Zero(t, came("before"))
	require.Equal(t, 1, came(later))
	for _, line := range got {
		if line.Text == later {
			require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", line.Trace)
			require.Equal(t, "feature-2", line.Version)
			require.NotEmpty(t, line.Instance)
			require.EqualValues(t, 1, line.Generation)
		}
	}

	q := logsOf("feature-2")
	q.Trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	require.Equal(t, []string{later}, b.texts(q), "only what names the trace")
	b.says("feature-2", "behind it")
	b.until(func() bool { return slices.Contains(b.texts(logsOf("feature-2")), "behind it") }, func() string { return "it is not in the log" })
	q.Tail = 1
	require.Equal(t, []string{later}, b.texts(q), "the last of those")
	q.Tail = 0
	q.Trace = "00000000000000000000000000000001"
	require.Empty(t, b.texts(q))

	skipping, end := context.WithCancel(t.Context())
	skipped := make(chan int, 1)
	go func() {
		skipped <- b.FollowInstances(skipping, nil, []string{api.RuntimeProcess}, func(line api.LogLine) { t.Errorf("%q of a runtime that is to be left out", line.Text) })
	}()
	b.says("feature-2", "unseen")
	b.until(func() bool { return slices.Contains(b.texts(logsOf("feature-2")), "unseen") }, func() string { return "it is not in the log" })
	end()
	require.Zero(t, <-skipped)
}

// TestFollowInstances_LastWords: what instances write while they are ended is handed over, where it is said that they have ended.
func TestFollowInstances_LastWords(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	var mu sync.Mutex
	var got []string
	ctx, cancel := context.WithCancel(t.Context())
	ended, done := make(chan struct{}), make(chan int, 1)
	go func() {
		done <- b.FollowInstances(ctx, ended, nil, func(line api.LogLine) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, line.Text)
		})
	}()
	came := func(text string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, text) })
		}
	}
	b.until(func() bool { b.says("feature-1", "now"); return came("now")() }, func() string { return "what an instance writes is not handed over" })
	b.end()
	b.says("feature-1", "last words")
	b.exits("feature-1")
	close(ended)
	cancel()
	require.Zero(t, <-done)
	require.True(t, came("last words")(), "there are: %s", got)
}

// TestFollowInstances_ALogBreaksOff: what was written meanwhile comes later, and nothing twice.
func TestFollowInstances_ALogBreaksOff(t *testing.T) {
	b := newBench(t)
	b.up("feature-1", nil)
	tears := make(chan struct{})
	b.runtime.mu.Lock()
	b.runtime.tears = tears
	b.runtime.mu.Unlock()
	var mu sync.Mutex
	got := map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- b.FollowInstances(ctx, nil, nil, func(line api.LogLine) {
			mu.Lock()
			defer mu.Unlock()
			got[line.Text]++
		})
	}()
	came := func(text string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return got[text] > 0
		}
	}
	missing := func() string { return fmt.Sprint("a line does not come; there are: ", got) }
	b.until(func() bool { b.runtime.mu.Lock(); defer b.runtime.mu.Unlock(); return b.runtime.tears == nil }, missing)
	b.says("feature-1", "word 0")
	b.until(came("word 0"), missing)
	close(tears)
	for i := 1; i < 20; i++ {
		b.says("feature-1", fmt.Sprint("word ", i))
	}
	b.until(came("word 19"), missing)
	cancel()
	<-done
	for i := range 20 {
		require.Equal(t, 1, got[fmt.Sprint("word ", i)], "word %d", i)
	}
}
