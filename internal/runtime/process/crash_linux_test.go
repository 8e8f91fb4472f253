package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/runtime/runtimetest"
)

// However a server is killed while it starts and stops instances, the next one
// knows all that live, once each, and can end them.
func TestServerKilled(t *testing.T) {
	dir := t.TempDir()
	newRuntime(t, func(o *Options) { o.Dir = dir }) // stops all at the end, even of a test that fails
	const rounds = 12
	for round := range rounds {
		killServer(t, dir, time.Duration(rand.IntN(400))*time.Millisecond)

		living := instanceProcesses(t, filepath.Join(dir, "shop"))
		r, err := New(options(dir, "shop"))
		require.NoError(t, err)
		all, err := r.List(t.Context())
		require.NoError(t, err)
		listed := map[string]control.Status{}
		for _, status := range all {
			require.NotContains(t, listed, status.ID)
			listed[status.ID] = status
		}
		for id := range living {
			require.Contains(t, listed, id, "an orphan in round %d", round)
			require.True(t, listed[id].Running)
		}
		for id, status := range listed {
			if status.Running {
				again, err := r.Start(t.Context(), appWorkload(id, nil), nil)
				require.NoError(t, err)
				if !slices.Equal(status.Addresses, again.Addresses) {
					// It has ended, and was started anew: the killed server may have told it to, or
					// something else on the machine took its port before it listened.
					now := instanceProcesses(t, filepath.Join(dir, "shop"))
					require.NotEqual(t, living[id], now[id], "a living process is said to be elsewhere")
				}
				runtimetest.Ask(t, again.Addresses[0])
			}
		}
		instanceProcesses(t, filepath.Join(dir, "shop")) // of each instance only one
		for id := range listed {
			require.NoError(t, r.Stop(t.Context(), id, time.Second))
		}
		require.Empty(t, leftovers(t, filepath.Join(dir, "shop")))
	}
}

// killServer runs a server, and kills it some time after it began to start instances.
func killServer(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), serverVariable+"="+dir)
	out, err := server.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	_, err = io.ReadFull(out, make([]byte, len("starting\n")))
	require.NoError(t, err)
	<-time.After(after)
	require.NoError(t, server.Process.Kill())
	require.Error(t, server.Wait())
}

func TestSupervisorKilled(t *testing.T) {
	for name, fork := range map[string]string{"alone": "", "with a child": "1", "with a child in a session": "session"} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, nil)
			status := start(t, r, "cart", map[string]string{"APP_FORK": fork})
			runtimetest.Ask(t, status.Addresses[0])
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			changes := make(chan control.Status, 1)
			ended := make(chan error)
			go func() { ended <- r.Watch(ctx, func(s control.Status) { changes <- s }) }()

			s, err := r.folder("cart").state()
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(s.Supervisor, syscall.SIGKILL))

			changed := <-changes
			require.False(t, changed.Running)
			require.Equal(t, -1, changed.ExitCode)
			require.Equal(t, "its supervisor was killed", changed.Reason)
			left := 0
			processes(t, func(pid int, _ string) {
				if isMarked(pid, []byte(marker+"="+r.folder("cart").path)) {
					left++
				}
			})
			require.Zero(t, left, "processes of the instance live on")
			all, err := r.List(t.Context())
			require.NoError(t, err)
			require.Equal(t, []control.Status{changed}, all)
			cancel()
			require.ErrorIs(t, <-ended, context.Canceled)
		})
	}
}

func TestStopEndsOtherSessions(t *testing.T) {
	r := newRuntime(t, nil)
	status := start(t, r, "cart", map[string]string{"APP_FORK": "session"})
	runtimetest.Ask(t, status.Addresses[0])
	require.NoError(t, r.Stop(t.Context(), "cart", time.Second))
	require.Empty(t, leftovers(t, r.dir))
}

func TestKilledBySignal(t *testing.T) {
	r := newRuntime(t, nil)
	status := start(t, r, "cart", nil)
	pid := runtimetest.Ask(t, status.Addresses[0]).PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	ended := awaitExit(t, r, "cart")
	require.Equal(t, 137, ended.ExitCode)
	require.Equal(t, "killed by SIGKILL (signal 9)", ended.Reason)
}

// A terminal's Ctrl-C and the end of a session reach neither supervisor nor instance.
func TestSessionsApart(t *testing.T) {
	r := newRuntime(t, nil)
	status := start(t, r, "cart", nil)
	runtimetest.Ask(t, status.Addresses[0])
	s, err := r.folder("cart").state()
	require.NoError(t, err)
	mine, err := sessionOf(os.Getpid())
	require.NoError(t, err)
	for _, pid := range []int{s.Supervisor, s.Command} {
		session, err := sessionOf(pid)
		require.NoError(t, err)
		require.NotEqual(t, mine, session)
		require.Equal(t, strconv.Itoa(s.Supervisor), session)
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		require.NoError(t, syscall.Kill(s.Supervisor, signal))
	}
	runtimetest.Tell(t, status.Addresses[0], "/")
	held, err := r.folder("cart").held()
	require.NoError(t, err)
	require.True(t, held)
}

// Neither the command lines that all users see nor files that others may read have the environment.
func TestSecretsAreKept(t *testing.T) {
	t.Setenv("SERVER_SECRET", "s3cr3t-of-the-server")
	r := newRuntime(t, nil)
	status := start(t, r, "cart", map[string]string{"DB_PASSWORD": "s3cr3t-of-the-app"})
	answer := runtimetest.Ask(t, status.Addresses[0])
	require.Equal(t, "s3cr3t-of-the-app", answer.Env["DB_PASSWORD"])
	require.NotContains(t, answer.Env, "SERVER_SECRET")
	require.Equal(t, os.Getenv("PATH"), answer.Env["PATH"])

	s, err := r.folder("cart").state()
	require.NoError(t, err)
	for _, file := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.Supervisor), file))
		require.NoError(t, err)
		require.NotContains(t, string(data), "s3cr3t")
	}
	require.NoError(t, filepath.WalkDir(r.dir, func(path string, _ os.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, path)
		return nil
	}))
}

// A full disk costs lines of the log, and nothing else.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no small disk to fill: mounting tmpfs:", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	r := newRuntime(t, func(o *Options) { o.Dir = dir })
	status := start(t, r, "cart", nil)
	runtimetest.Ask(t, status.Addresses[0])
	runtimetest.Tell(t, status.Addresses[0], "/log?text=before")
	awaitLine(t, r, "cart", "before")

	ballast := filepath.Join(dir, "ballast")
	fillDisk(t, ballast)
	text := strings.Repeat("y", 5000)
	for range 5 {
		runtimetest.Tell(t, status.Addresses[0], "/log?text="+text)
	}
	_, err := r.Start(t.Context(), appWorkload("other", nil), nil)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, "unavailable", string(control.CodeOf(err)))
	all, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.True(t, all[0].Running)

	require.NoError(t, os.Remove(ballast))
	runtimetest.Tell(t, status.Addresses[0], "/log?text=after")
	awaitLine(t, r, "cart", "after")
	note := awaitLine(t, r, "cart", "lines are missing here")
	require.Contains(t, note.Text, "no space left on device")
	require.Equal(t, api.StreamLayover, note.Stream)

	fillDisk(t, ballast)
	runtimetest.Tell(t, status.Addresses[0], "/exit?code=3")
	require.Equal(t, 3, awaitExit(t, r, "cart").ExitCode, "the exit is recorded in spite of it")
	require.NoError(t, r.Stop(t.Context(), "cart", 0))
	require.NoError(t, os.Remove(ballast))
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	require.NoError(t, err)
	for _, size := range []int{4096, 1} {
		for block := bytes.Repeat([]byte("z"), size); err == nil; {
			_, err = file.Write(block)
		}
		require.ErrorIs(t, err, syscall.ENOSPC, err)
		err = nil
	}
	require.NoError(t, file.Close())
}

// leftovers lists the folders of an environment, its supervisors and its instances.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	for id, pid := range instanceProcesses(t, dir) {
		left = append(left, fmt.Sprintf("process %d of %s", pid, id))
	}
	processes(t, func(pid int, proc string) {
		line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		if err == nil && bytes.Contains(line, []byte(superviseArg+"\x00"+dir+"/")) {
			left = append(left, "supervisor "+strconv.Itoa(pid))
		}
	})
	return left
}

// instanceProcesses are the processes that run the test app, by instance.
func instanceProcesses(t *testing.T, dir string) map[string]int {
	t.Helper()
	found := map[string]int{}
	processes(t, func(pid int, proc string) {
		if exe, err := os.Readlink(filepath.Join(proc, "exe")); err != nil || exe != os.Getenv(appVariable) {
			return
		}
		env, err := os.ReadFile(filepath.Join(proc, "environ"))
		if err != nil {
			return
		}
		for kv := range strings.SplitSeq(string(env), "\x00") {
			if id, ok := strings.CutPrefix(kv, marker+"="+dir+"/"); ok {
				require.NotContains(t, found, id, "two processes of one instance")
				found[id] = pid
			}
		}
	})
	return found
}

func processes(t *testing.T, each func(pid int, proc string)) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			each(pid, filepath.Join("/proc", entry.Name()))
		}
	}
}

// sessionOf returns the session of a process: the sixth field of its stat.
func sessionOf(pid int) (string, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	_, fields, _ := bytes.Cut(stat, []byte(") "))
	return string(bytes.Fields(fields)[3]), nil
}
