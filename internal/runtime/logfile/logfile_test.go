package logfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func read(t *testing.T, dir string, opts control.LogOptions, over func() bool) *Reader {
	t.Helper()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	reader, err := NewReader(t.Context(), root, "cart", opts, func(*os.Root) bool { return over == nil || over() })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reader.Close()) })
	return reader
}

// all reads to the end of a log, and returns its lines.
func all(t *testing.T, reader control.LogReader) []api.LogLine {
	t.Helper()
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

func say(w *Writer, from, to int) {
	for i := from; i < to; i++ {
		w.add(Stdout, nil, fmt.Appendf(nil, "line %d\n", i))
	}
}

// TestSlowFollower reads slower than the bound lets it: what it gets is whole and in order, and
// it is told exactly how much it missed.
func TestSlowFollower(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, 1000, 3)
	require.NoError(t, err)
	say(w, 0, 10)
	var over atomic.Bool
	reader := read(t, dir, control.LogOptions{Follow: true, Tail: 5}, over.Load)
	first, err := reader.Next()
	require.NoError(t, err)
	require.Equal(t, "line 5", first.Text)
	say(w, 10, 500)
	require.NoError(t, w.Close())
	over.Store(true)

	next, missed := 6, 0
	for _, line := range all(t, reader) {
		if line.Stream == api.StreamLayover {
			var n int
			_, err := fmt.Sscanf(line.Text, "layover: %d lines are missing here", &n)
			require.NoError(t, err, line.Text)
			missed, next = missed+n, next+n
			continue
		}
		require.Equal(t, fmt.Sprintf("line %d", next), line.Text)
		next++
	}
	require.Equal(t, 500, next, "the newest are there")
	require.Positive(t, missed)

	size := int64(0)
	files, err := filepath.Glob(filepath.Join(dir, "log.*"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(files), 3)
	for _, file := range files {
		info, err := os.Stat(file)
		require.NoError(t, err)
		size += info.Size()
	}
	require.LessOrEqual(t, size, int64(3000))
}

// TestResume goes on behind a line that was read: with the next one, or with how many are missing.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, 1000, 3)
	require.NoError(t, err)
	say(w, 0, 40)
	lines := all(t, read(t, dir, control.LogOptions{}, nil))
	at := lines[20].Time
	resumed := all(t, read(t, dir, control.LogOptions{Since: at, Resume: at}, nil))
	require.Equal(t, "line 20", resumed[0].Text)
	require.Len(t, resumed, 20)

	say(w, 40, 500)
	resumed = all(t, read(t, dir, control.LogOptions{Since: at, Resume: at}, nil))
	require.Equal(t, api.StreamLayover, resumed[0].Stream)
	require.Contains(t, resumed[0].Text, "lines are missing here")
	require.Equal(t, "line 499", resumed[len(resumed)-1].Text)
	require.NotEqual(t, api.StreamLayover, all(t, read(t, dir, control.LogOptions{Since: at}, nil))[0].Stream, "nobody missed what they did not begin with")
}

func run(instance string, began time.Time) control.LogRun {
	return control.LogRun{
		Instance: instance, Service: "cart", Version: "x", Generation: 1,
		StartedAt: began.UTC(), EndedAt: began.Add(time.Second).UTC(),
	}
}

// ended makes the folder of an instance that has written so many lines.
func ended(t *testing.T, dir string, lines int) string {
	t.Helper()
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(folder, 0o700))
	w, err := NewWriter(folder, 1000, 100)
	require.NoError(t, err)
	say(w, 0, lines)
	require.NoError(t, w.Close())
	require.NoError(t, os.WriteFile(filepath.Join(folder, "plan.json"), []byte("secret"), 0o600))
	return folder
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	a, err := NewArchive(filepath.Join(dir, "logs"), 10_000)
	require.NoError(t, err)
	began := time.Now().Round(0)
	reader := read(t, ended(t, dir, 5), control.LogOptions{}, nil)
	require.NoError(t, a.Take(filepath.Join(dir, "folder"), run("cart--x--1", began)))
	require.Len(t, all(t, reader), 5, "who reads it goes on")
	require.NoDirExists(t, filepath.Join(dir, "folder"))

	key := control.Key{Service: "cart", Version: "x"}
	runs, err := a.Runs(key)
	require.NoError(t, err)
	require.Equal(t, []control.LogRun{run("cart--x--1", began)}, runs)
	open, err := a.Open(t.Context(), runs[0], control.LogOptions{Tail: 2})
	require.NoError(t, err)
	require.Equal(t, "line 3", all(t, open)[0].Text)
	require.NoError(t, open.Close())
	secrets, err := filepath.Glob(filepath.Join(dir, "logs", "*", "*", "plan.json"))
	require.NoError(t, err)
	require.Empty(t, secrets)

	for i := range 30 {
		require.NoError(t, a.Take(ended(t, dir, 100), run(fmt.Sprintf("cart--x--%d", i+2), began.Add(time.Duration(i+1)*time.Second))))
		require.LessOrEqual(t, sizeOf(t, filepath.Join(dir, "logs")), int64(10_000+31*300), "log files and a few words about each")
	}
	runs, err = a.Runs(key)
	require.NoError(t, err)
	require.Equal(t, "cart--x--31", runs[len(runs)-1].Instance, "the newest stays")
	require.Less(t, len(runs), 30)
	_, err = a.Open(t.Context(), run("cart--x--1", began), control.LogOptions{})
	require.ErrorIs(t, err, control.ErrNoInstance)

	keys, err := a.Versions()
	require.NoError(t, err)
	require.Equal(t, []control.Key{key}, keys)
	require.NoError(t, a.Remove(key))
	runs, err = a.Runs(key)
	require.NoError(t, err)
	require.Empty(t, runs)
	_, err = a.Runs(control.Key{Service: "..", Version: "../x"})
	require.Error(t, err)
}

// TestArchiveOfReader keeps what a reader gives, with its times.
func TestArchiveOfReader(t *testing.T) {
	dir := t.TempDir()
	a, err := NewArchive(filepath.Join(dir, "logs"), 100_000)
	require.NoError(t, err)
	folder := ended(t, dir, 50)
	before := all(t, read(t, folder, control.LogOptions{}, nil))
	require.NoError(t, a.Write(run("cart--x--1", time.Now().Round(0)), read2(t, folder)))
	runs, err := a.Runs(control.Key{Service: "cart", Version: "x"})
	require.NoError(t, err)
	open, err := a.Open(t.Context(), runs[0], control.LogOptions{})
	require.NoError(t, err)
	after := all(t, open)
	require.NoError(t, open.Close())
	for i := range before {
		before[i].Instance = after[i].Instance
	}
	require.Equal(t, before, after)
}

// TestTidy clears away what a crash between moving a folder and emptying it left.
func TestTidy(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "cart@x", "cart--x--1~5")
	require.NoError(t, os.MkdirAll(left, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(left, "plan.json"), []byte("secret"), 0o600))
	_, err := NewArchive(dir, 1000)
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(left, "plan.json"))
}

func read2(t *testing.T, dir string) control.LogReader {
	t.Helper()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	reader, err := NewReader(t.Context(), root, "cart", control.LogOptions{}, func(*os.Root) bool { return true })
	require.NoError(t, err)
	return reader
}

func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	}))
	return size
}

func TestFollowsRotation(t *testing.T) {
	const count = 300
	dir := t.TempDir()
	w, err := NewWriter(dir, 1000, 1000)
	require.NoError(t, err)
	var over atomic.Bool
	reader := read(t, dir, control.LogOptions{Follow: true}, over.Load)
	go func() {
		for i := range count {
			w.add(Stdout, nil, fmt.Appendf(nil, "line %d\n", i))
		}
		_ = w.Close()
		over.Store(true)
	}()
	for i := range count {
		line, err := reader.Next()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("line %d", i), line.Text)
	}
	_, err = reader.Next()
	require.ErrorIs(t, err, io.EOF)
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := map[string]struct {
		written []string
		want    []string
	}{
		"nothing":                  {nil, nil},
		"one":                      {[]string{"a\n"}, []string{"a"}},
		"in pieces":                {[]string{"a", "b", "\nc\n"}, []string{"ab", "c"}},
		"no end":                   {[]string{"a\nb"}, []string{"a", "b"}},
		"empty lines":              {[]string{"\n\n"}, []string{"", ""}},
		"windows":                  {[]string{"a\r\nb\r\n"}, []string{"a", "b"}},
		"carriage return inside":   {[]string{"10%\r20%\n"}, []string{"10%\r20%"}},
		"no text":                  {[]string{"\xff\x00\n"}, []string{"\uFFFD\x00"}},
		"as long as may be":        {[]string{long + "\n"}, []string{long}},
		"too long":                 {[]string{long + "y\n"}, []string{long, "y"}},
		"much too long, in pieces": {[]string{long, long, "y"}, []string{long, long, "y"}},
		"like a line of the log":   {[]string{"2026-01-02T15:04:05.000000000Z o x\n"}, []string{"2026-01-02T15:04:05.000000000Z o x"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w, err := NewWriter(dir, 1<<20, 3)
			require.NoError(t, err)
			var pieces []io.Reader
			for _, piece := range test.written {
				pieces = append(pieces, strings.NewReader(piece))
			}
			w.Pump(io.MultiReader(pieces...), Stderr)
			require.NoError(t, w.Close())

			reader := read(t, dir, control.LogOptions{}, nil)
			for i, want := range test.want {
				line, err := reader.Next()
				require.NoError(t, err)
				require.Equal(t, want, line.Text)
				require.Equal(t, "stderr", line.Stream)
				require.Equal(t, len(want) == maxLine && i < len(test.want)-1, line.Partial)
			}
			_, err = reader.Next()
			require.ErrorIs(t, err, io.EOF)
		})
	}
}
