//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

// newRuntime makes a runtime of which nothing is left when t has ended.
func newRuntime(t *testing.T, change func(*Options)) *Runtime {
	t.Helper()
	opts := options(t.TempDir(), "shop")
	if change != nil {
		change(&opts)
	}
	r, err := New(opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		all, err := r.List(ctx)
		require.NoError(t, err)
		for _, status := range all {
			require.NoError(t, r.Stop(ctx, status.ID, 0))
		}
	})
	return r
}

func appWorkload(id string, env map[string]string) control.Workload {
	w := control.Workload{
		ID: id, Environment: "shop", Service: "cart", Version: "main", Generation: 1, Run: appRun(),
		Env: map[string]string{"APP_HOST": "127.0.0.1"},
	}
	maps.Copy(w.Env, env)
	return w
}

func start(t *testing.T, r *Runtime, id string, env map[string]string) control.Status {
	t.Helper()
	status, err := r.Start(t.Context(), appWorkload(id, env), nil)
	require.NoError(t, err)
	return status
}

func awaitExit(t *testing.T, r *Runtime, id string) control.Status {
	t.Helper()
	var status control.Status
	require.Eventually(t, func() bool {
		all, err := r.List(t.Context())
		for _, s := range all {
			if s.ID == id && err == nil {
				status = s
			}
		}
		return status.ID == id && !status.Running
	}, 30*time.Second, 10*time.Millisecond)
	return status
}

func awaitLine(t *testing.T, r *Runtime, id, text string) api.LogLine {
	t.Helper()
	var found api.LogLine
	require.Eventually(t, func() bool {
		for _, line := range readLog(t, r, id, control.LogOptions{}) {
			if strings.Contains(line.Text, text) {
				found = line
				return true
			}
		}
		return false
	}, 30*time.Second, 10*time.Millisecond, "the log gets %q", text)
	return found
}

func readLog(t *testing.T, r *Runtime, id string, opts control.LogOptions) []api.LogLine {
	t.Helper()
	reader, err := r.Logs(t.Context(), id, opts)
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

func TestNewRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	tests := map[string]Options{
		"relative folder":     {Dir: "state", Environment: "shop"},
		"no folder":           {Environment: "shop"},
		"no environment":      {Dir: t.TempDir()},
		"path as environment": {Dir: t.TempDir(), Environment: "../shop"},
		"file as folder":      {Dir: file, Environment: "shop"},
		"name of a file":      {Dir: filepath.Dir(file), Environment: "file"},
	}
	for name, opts := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := New(opts)
			require.Error(t, err)
		})
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), mode))
	}
	write("plain", "#!/bin/sh\n", 0o600)
	write("no-shebang", "\x01\x02\x03", 0o700)
	write("no-interpreter", "#!/no/such/interpreter\n", 0o700)
	tests := map[string]struct {
		run     api.Process
		env     map[string]string
		port    int
		message string
		hint    string
	}{
		"no working directory":       {run: api.Process{Command: []string{"./x"}, Dir: dir + "/none"}, message: "there is no working directory", hint: "make it"},
		"relative working directory": {run: api.Process{Command: []string{"./x"}, Dir: "shop"}, message: "not an absolute path", hint: "from the root"},
		"file as working directory":  {run: api.Process{Command: []string{"./x"}, Dir: dir + "/plain"}, message: "is not a folder", hint: "folder"},
		"no program":                 {run: api.Process{Command: []string{"./x"}, Dir: dir}, message: "there is no command", hint: "build it"},
		"below a file":               {run: api.Process{Command: []string{"./plain/x"}, Dir: dir}, message: "there is no command", hint: "build it"},
		"not executable":             {run: api.Process{Command: []string{"./plain"}, Dir: dir}, message: "is not executable", hint: "chmod +x"},
		"folder as program":          {run: api.Process{Command: []string{dir}}, message: "is not a file", hint: "program"},
		"not a program":              {run: api.Process{Command: []string{"./no-shebang"}, Dir: dir}, message: "exec format error", hint: "built for this machine"},
		"no interpreter":             {run: api.Process{Command: []string{"./no-interpreter"}, Dir: dir}, message: "no such file", hint: "first line"},
		"not in PATH":                {run: api.Process{Command: []string{"plain"}}, env: map[string]string{"PATH": dir}, message: `no command "plain" in PATH`, hint: "./plain"},
		"empty PATH":                 {run: api.Process{Command: []string{"sh"}}, env: map[string]string{"PATH": ""}, message: `no command "sh" in PATH`, hint: "./sh"},
		"empty program":              {run: api.Process{Command: []string{""}}, message: "the command is empty", hint: "give"},
		"zero byte in argument":      {run: api.Process{Command: []string{"sh", "a\x00b"}}, message: "zero byte", hint: "remove"},
		"zero byte in value":         {run: api.Process{Command: []string{"sh"}}, env: map[string]string{"A": "\x00"}, message: "zero byte", hint: "remove"},
		"odd variable":               {run: api.Process{Command: []string{"sh"}}, env: map[string]string{"A=B": "c"}, message: "cannot name", hint: "letters"},
		"too long":                   {run: api.Process{Command: []string{"sh", strings.Repeat("x", 3<<20)}}, message: "argument list too long", hint: "shorter"},
		"no such port":               {run: api.Process{Command: []string{"sh"}}, port: 70000, message: "port 70000", hint: "PORT"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, nil)
			w := appWorkload("cart", test.env)
			w.Run.Process, w.Port = &test.run, test.port
			_, err := r.Start(t.Context(), w, nil)
			var told *control.Error
			require.ErrorAs(t, err, &told)
			require.Equal(t, api.CodeInvalid, told.Code)
			require.Contains(t, told.Message, test.message)
			require.Contains(t, told.Hint, test.hint)
			require.Empty(t, leftovers(t, r.dir))
		})
	}
}

func TestPlaceholdersAndPaths(t *testing.T) {
	r := newRuntime(t, nil)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Symlink(os.Getenv(appVariable), filepath.Join(dir, "app")))
	for name, program := range map[string]string{"relative": "./app", "from PATH": "app"} {
		t.Run(name, func(t *testing.T) {
			id := strings.ReplaceAll(name, " ", "-")
			w := appWorkload(id, map[string]string{"URL": "http://x:{port}/${port}", "PATH": dir})
			w.Run.Process = &api.Process{Command: []string{program, "--listen=:{port}", "{service}"}, Dir: dir}
			status, err := r.Start(t.Context(), w, nil)
			require.NoError(t, err)
			_, port, err := net.SplitHostPort(status.Addresses[0].HostPort)
			require.NoError(t, err)
			answer := runtimetest.Ask(t, status.Addresses[0])
			require.Equal(t, []string{program, "--listen=:" + port, "{service}"}, answer.Args)
			require.Equal(t, "http://x:"+port+"/${port}", answer.Env["URL"])
			require.Equal(t, port, answer.Env["PORT"])
			require.Equal(t, dir, answer.Dir)
		})
	}
}

// A List that cannot see all is an error: an empty answer would end what runs.
func TestListSeesAllOrNothing(t *testing.T) {
	r := newRuntime(t, nil)
	start(t, r, "cart", nil)
	p, err := os.ReadFile(r.folder("cart").file(planFile))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(r.folder("cart").file(planFile), []byte("{"), 0o600))
	_, err = r.List(t.Context())
	require.ErrorContains(t, err, "plan.json")
	require.NoError(t, os.WriteFile(r.folder("cart").file(planFile), p, 0o600))

	moved := r.dir + "-moved"
	require.NoError(t, os.Rename(r.dir, moved))
	_, err = r.List(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist)
	err = r.Watch(t.Context(), func(control.Status) {})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = r.Start(t.Context(), appWorkload("other", nil), nil)
	require.Equal(t, api.CodeUnavailable, control.CodeOf(err))
	require.NoError(t, os.Rename(moved, r.dir))
}

func TestRubbishIsCleared(t *testing.T) {
	tests := map[string]map[string]string{
		"only the folder":    {},
		"only the lock":      {lockFile: ""},
		"plan, not started":  {lockFile: "", planFile: `{"id":"cart","port":4711}`},
		"plan cut short":     {lockFile: "", planFile: `{"id":"ca`},
		"draft of a plan":    {lockFile: "", planFile + ".draft": `{"id":"cart"}`},
		"plan of an old run": {planFile: `{"id":"cart"}`, "log.000001": "text"},
	}
	for name, files := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, nil)
			require.NoError(t, os.Mkdir(r.folder("cart").path, 0o700))
			require.NoError(t, os.MkdirAll(filepath.Join(r.dir, gonePrefix+"x-cart", "sub"), 0o700))
			for file, content := range files {
				require.NoError(t, os.WriteFile(r.folder("cart").file(file), []byte(content), 0o600))
			}
			r, err := New(r.opts)
			require.NoError(t, err)
			all, err := r.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, all)
			require.Empty(t, leftovers(t, r.dir))
		})
	}
}

func TestPorts(t *testing.T) {
	var p ports
	seen := map[int]bool{}
	for i := range 300 {
		port, err := p.pick(t.Context(), strconv.Itoa(i), 0)
		require.NoError(t, err)
		require.False(t, seen[port], "port %d twice", port)
		require.GreaterOrEqual(t, port, lowestPort)
		require.Less(t, port, highestPort)
		seen[port] = true
	}
	require.Len(t, p.owner, 300)
	for i := range 300 {
		p.release(strconv.Itoa(i))
	}
	require.Empty(t, p.owner)
}

// TestLogRotation reads a log while its files come and go.
func TestLogRotation(t *testing.T) {
	const count = 3000
	r := newRuntime(t, func(o *Options) { o.LogFileSize, o.LogFiles = 40_000, 3 })
	start(t, r, "cart", map[string]string{"APP_LOG_LINES": fmt.Sprint(count), "APP_LISTEN": "no"})
	awaitLine(t, r, "cart", "not listening")

	files, err := filepath.Glob(filepath.Join(r.folder("cart").path, "log.*"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	require.NotContains(t, files[0], "log.000001", "the oldest were removed")

	all := readLog(t, r, "cart", control.LogOptions{})
	require.Less(t, len(all), count)
	first := count + 1 - len(all) + 1
	for i, line := range all[:len(all)-1] {
		require.Equal(t, fmt.Sprintf("line %d of %d", first+i, count), line.Text)
	}
	for _, n := range []int{1, 2, len(all) / 2, len(all) - 1, len(all), len(all) + 1} {
		require.Equal(t, all[max(0, len(all)-n):], readLog(t, r, "cart", control.LogOptions{Tail: n}), "tail %d", n)
	}
}
