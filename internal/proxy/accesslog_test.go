package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/route"
)

const sampleLine = `{"time":"2026-05-04T03:02:01.987Z","method":"GET","host":"cart.localhost","path":"/a/b","status":200,` +
	`"service":"cart","version":"pr-1","instance":"cart-7","upstream":"127.0.0.1:9000","route":"pr-1~x","by":"baggage","fallback":"unknown",` +
	`"revision":9,"bytes_in":3,"bytes_out":5,"held_ms":1000,"first_byte_ms":1.234,"duration_ms":2,"peer":"10.1.2.3:4567","caller":"web-1",` +
	`"trace":"010200000000000000000000000000ff"}` + "\n"

const sampleLogfmt = `time=2026-05-04T03:02:01.987Z method=GET host=cart.localhost path="/a b" status=200 ` +
	`service=cart version=pr-1 instance=cart-7 upstream=127.0.0.1:9000 route=pr-1~x by=baggage fallback=unknown ` +
	`revision=9 bytes_in=3 bytes_out=5 held_ms=1000 first_byte_ms=1.234 duration_ms=2 peer="10.1.2.3:4567" caller=web-1 ` +
	`trace=010200000000000000000000000000ff` + "\n"

func TestAppendLine(t *testing.T) {
	r := sample()
	require.Equal(t, sampleLine, string(appendLine(nil, r, LinesJSON))) //nolint:testifylint // byte for byte
	r.Path = "/a b"
	require.Equal(t, sampleLogfmt, string(appendLine(nil, r, LinesLogfmt)))
	require.True(t, json.Valid(appendLine(nil, &Record{}, LinesJSON)))
	for d, want := range map[time.Duration]string{
		0: "0", 999: "0", time.Microsecond: "0.001", 20 * time.Microsecond: "0.02", 1500 * time.Microsecond: "1.5", time.Hour: "3600000",
	} {
		w := lineWriter{}
		w.milliseconds("x", d)
		require.Equal(t, "x="+want, string(w.dst))
	}
	buf := make([]byte, 0, maxLine)
	require.Zero(t, testing.AllocsPerRun(100, func() { appendLine(buf, r, LinesJSON) }))
}

// FuzzAppendLine holds that a line of any record is one line, in both formats, and is read
// back as what was written.
func FuzzAppendLine(f *testing.F) {
	f.Add("GET", "cart.localhost", "/a b=\"c\"\\", "é\x7f\u0085\u2028")
	f.Add("\xff", "\n", "\x00", " ")
	f.Fuzz(func(t *testing.T, method, host, path, sent string) {
		r := &Record{Method: method, Host: host, Path: path, Route: sent, Peer: netip.MustParseAddrPort("[::1]:80")}
		want := map[string]string{"method": method, "host": host, "path": path, "route": sent}

		line := appendLine(nil, r, LinesJSON)
		oneLine(t, line)
		var read map[string]any
		require.NoError(t, json.Unmarshal(line, &read), "%s", line)
		fromLogfmt := appendLine(nil, r, LinesLogfmt)
		oneLine(t, fromLogfmt)
		readLogfmt := parseLogfmt(t, string(fromLogfmt))
		require.Len(t, readLogfmt, len(read))
		for key, value := range want {
			if value == "" {
				require.NotContains(t, read, key)
				continue
			}
			require.Equal(t, []rune(value), []rune(read[key].(string)), "%s", line)
			require.Equal(t, []rune(value), []rune(readLogfmt[key]), "%s", fromLogfmt)
		}
	})
}

func oneLine(t *testing.T, line []byte) {
	t.Helper()
	require.True(t, utf8.Valid(line))
	require.Equal(t, len(line)-1, bytes.IndexFunc(line, unicode.IsControl), "%q", line)
	require.Equal(t, byte('\n'), line[len(line)-1])
}

// parseLogfmt reads key=value pairs, with values as they are or as JSON strings.
func parseLogfmt(t *testing.T, line string) map[string]string {
	t.Helper()
	read := map[string]string{}
	line, _ = strings.CutSuffix(line, "\n")
	for line != "" {
		key, rest, found := strings.Cut(line, "=")
		require.True(t, found, line)
		value := ""
		if strings.HasPrefix(rest, `"`) {
			decoder := json.NewDecoder(strings.NewReader(rest))
			require.NoError(t, decoder.Decode(&value), rest)
			rest = rest[decoder.InputOffset():]
			require.True(t, rest == "" || rest[0] == ' ', rest)
			line = strings.TrimPrefix(rest, " ")
		} else {
			value, line, _ = strings.Cut(rest, " ")
		}
		require.NotContains(t, read, key)
		read[key] = value
	}
	return read
}

// start runs a log until the test stops it, with the function it returns.
func start(t *testing.T, options AccessLogOptions) (*AccessLog, func()) {
	t.Helper()
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := OpenAccessLog(options)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

func TestAccessLog_Samples(t *testing.T) {
	for name, c := range map[string]struct {
		share       float64
		least, most int
	}{"all": {1, 1000, 1000}, "none but errors": {0, 0, 0}, "some": {0.5, 300, 700}} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l, stop := start(t, AccessLogOptions{Format: LinesJSON, Sample: c.share, Writer: &out})
			for range 1000 {
				l.Record(&Record{Status: http.StatusOK})
			}
			l.Record(&Record{Status: http.StatusInternalServerError})
			l.Record(&Record{Status: http.StatusNotFound, Error: string(CodeUnknownHost)})
			stop()
			lines := strings.Count(out.String(), "\n")
			require.GreaterOrEqual(t, lines, c.least+2)
			require.LessOrEqual(t, lines, c.most+2)
			require.Contains(t, out.String(), `"status":500`)
			require.Contains(t, out.String(), `"error":"unknown-host"`)
			require.Zero(t, l.Lost())
		})
	}
}

func TestAccessLog_OfAProxy(t *testing.T) {
	var out bytes.Buffer
	l, stop := start(t, AccessLogOptions{Format: LinesLogfmt, Sample: 1, Writer: &out})
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main"))), service("web", from(ready("main", says(t, "web")), "127.0.0.1")))
	w.get(t, "web.localhost", "/")
	w.records.wait(t, 1)
	w.options.Recorder = l.Record
	w.get(t, "cart.localhost", "/a=b?secret=1", "Baggage", "dynamic_route=x y")
	w.stop()
	stop()
	read := parseLogfmt(t, out.String())
	require.Equal(t, "/a=b", read["path"])
	require.Contains(t, read["caller"], "main-127.0.0.1:")
	require.Equal(t, "main", read["version"])
	require.NotContains(t, out.String(), "secret")
}

// stuck is a writer that takes nothing until it is let go.
type stuck struct {
	entered, proceed chan struct{}
	once             sync.Once
}

// Write waits.
func (s *stuck) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.entered) })
	<-s.proceed
	return len(p), nil
}

func TestAccessLog_NeverBlocksARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &stuck{entered: make(chan struct{}), proceed: make(chan struct{})}
		l, stop := start(t, AccessLogOptions{Format: LinesJSON, Sample: 1, Writer: disk, Ring: 16})
		l.Record(sample())
		<-disk.entered
		for range 100 {
			l.Record(sample())
		}
		require.EqualValues(t, 100-16, l.Lost())
		before := time.Now()
		stop() // though the disk still takes nothing
		require.Equal(t, lastWrite, time.Since(before))
		close(disk.proceed)
		synctest.Wait()
	})
}

// full is a disk that takes so many bytes.
type full struct {
	bytes.Buffer
	room int
}

// Write writes what there is room for.
func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.room)
	f.room -= n
	f.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

func TestAccessLog_AFullDiskLosesLines(t *testing.T) {
	disk := &full{room: len(sampleLine)*2 + 10}
	l, err := OpenAccessLog(AccessLogOptions{Format: LinesJSON, Sample: 1, Writer: disk, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	for range 5 {
		l.Record(sample())
	}
	l.drain()
	require.EqualValues(t, 3, l.Lost())
	disk.room = 1 << 20
	l.Record(sample())
	l.drain()
	require.EqualValues(t, 3, l.Lost())
	lines := strings.Split(disk.String(), "\n")
	require.Len(t, lines, 5)
	require.Equal(t, sampleLine, lines[3]+"\n", "whole, though a line was cut before it") //nolint:testifylint // byte for byte
}

func TestAccessLog_FileThatIsMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	require.NoError(t, os.WriteFile(path, []byte("old\n"), 0o600))
	l, stop := start(t, AccessLogOptions{Format: LinesJSON, Sample: 1, Path: path})
	l.Record(sample())
	has := func(path, want string) func() bool {
		return func() bool {
			text, err := os.ReadFile(path)
			return err == nil && string(text) == want
		}
	}
	eventually(t, has(path, "old\n"+sampleLine))
	require.NoError(t, os.Rename(path, path+".1"))
	other := sample()
	other.Status, other.Error = http.StatusBadGateway, "instance-unreachable"
	eventually(t, func() bool {
		l.Record(other)
		text, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(text), "instance-unreachable")
	})
	stop()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(text), `"status":200`)
	require.Zero(t, l.Lost())

	_, err = OpenAccessLog(AccessLogOptions{Path: filepath.Join(path, "below-a-file")})
	require.ErrorContains(t, err, "open the access log")
}

func BenchmarkAccessLog(b *testing.B) {
	l, err := OpenAccessLog(AccessLogOptions{Format: LinesJSON, Sample: 1, Writer: io.Discard})
	require.NoError(b, err)
	r := sample()
	r.By = route.ByBaggage
	b.ReportAllocs()
	for b.Loop() {
		l.Record(r)
		l.drain()
	}
}
