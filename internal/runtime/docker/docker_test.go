package docker

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func TestNew_RefusesWhatCannotWork(t *testing.T) {
	for name, opts := range map[string]Options{
		"no environment":      {},
		"path as environment": {Environment: "../x"},
		"double hyphen":       {Environment: "a--b"},
		"proxy is a name":     {Environment: "dev", ProxyAddress: "proxy.example.com"},
		"host network":        {Environment: "dev", Network: "host"},
		"network of another":  {Environment: "dev", Network: "container:x"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(opts)
			require.Error(t, err)
		})
	}
}

func TestStart_RefusesBadInput(t *testing.T) {
	r, err := New(Options{Environment: "dev", Host: "unix:///nonexistent/docker.sock"})
	require.NoError(t, err)
	for name, change := range map[string]func(*control.Workload){
		"no image":             func(w *control.Workload) { w.Run.Docker.Image = "" },
		"image with a space":   func(w *control.Workload) { w.Run.Docker.Image = "a b" },
		"image in upper case":  func(w *control.Workload) { w.Run.Docker.Image = "Cart" },
		"pull policy":          func(w *control.Workload) { w.Run.Docker.Pull = "sometimes" },
		"memory":               func(w *control.Workload) { w.Run.Docker.Memory = "much" },
		"negative memory":      func(w *control.Workload) { w.Run.Docker.Memory = "-1m" },
		"negative CPUs":        func(w *control.Workload) { w.Run.Docker.CPUs = -1 },
		"port":                 func(w *control.Workload) { w.Port = 65536 },
		"negative port":        func(w *control.Workload) { w.Port = -1 },
		"variable with equals": func(w *control.Workload) { w.Env = map[string]string{"A=B": "secret"} },
		"variable with NUL":    func(w *control.Workload) { w.Env = map[string]string{"A": "secret\x00"} },
		"path as id":           func(w *control.Workload) { w.ID = "../x" },
	} {
		t.Run(name, func(t *testing.T) {
			w := workload("one", "cart:1")
			change(&w)
			_, err := r.Start(t.Context(), w, nil)
			known := userError(t, err)
			require.Equal(t, api.CodeInvalid, known.Code)
			require.NotEmpty(t, known.Hint)
			require.NotContains(t, known.Message, "secret")
		})
	}
}

func TestStatus_SaysWhichImageRuns(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	image := newImage(t, engine, `ENTRYPOINT ["/app"]`, `LABEL org.opencontainers.image.revision=0123abc`)
	status, err := r.Start(t.Context(), workload("cart-1", image), nil)
	require.NoError(t, err)
	found, err := engine.ImageInspect(t.Context(), image)
	require.NoError(t, err)
	want := []api.Image{{Name: image, Digest: found.ID, Commit: "0123abc", Copies: 1}}
	require.Equal(t, want, status.Images)
	for range 2 { // the second list inspects nothing
		listed, err := r.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, listed[0].Images)
	}
}

func TestStart_RunsTheContainerAsAsked(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	w := workload("cart-1", newImage(t, engine), "serve", "--port={port}")
	w.Run.Docker.Port = 9090
	w.Run.Docker.Memory = "64m"
	w.Run.Docker.CPUs = 0.5
	w.Env = map[string]string{"SELF": "http://localhost:{port}", "PORT": "1", "EMPTY": ""}
	var steps []string
	status, err := r.Start(t.Context(), w, func(step api.Step, detail string) { steps = append(steps, string(step)+" "+detail) })
	require.NoError(t, err)
	require.Equal(t, []string{"start container " + r.name("cart-1")}, steps)
	require.True(t, status.Running)
	require.Equal(t, "cart", status.Service)
	require.Equal(t, int64(3), status.Generation)
	require.WithinDuration(t, time.Now(), status.StartedAt, time.Minute)
	address := netip.MustParseAddrPort(status.Addresses[0].HostPort)
	require.True(t, address.Addr().IsLoopback())

	env := strings.Split(get(t, status, "/env"), "\n")
	require.Contains(t, env, "PORT=9090")
	require.Contains(t, env, "SELF=http://localhost:9090")
	require.Contains(t, env, "EMPTY=")
	require.Equal(t, "serve\n--port=9090", get(t, status, "/args"))

	found, err := r.find(t.Context(), "cart-1")
	require.NoError(t, err)
	require.Equal(t, int64(64<<20), found.HostConfig.Memory)
	require.Equal(t, int64(5e8), found.HostConfig.NanoCPUs)
	require.Equal(t, []string{"no-new-privileges"}, found.HostConfig.SecurityOpt)
	require.Equal(t, container.RestartPolicyDisabled, found.HostConfig.RestartPolicy.Name)
	require.Equal(t, map[string]string{"max-size": "10485760", "max-file": "3"}, found.HostConfig.LogConfig.Config)

	again, err := r.Start(t.Context(), w, nil)
	require.NoError(t, err)
	require.Equal(t, status, again)
	for range 2 { // first inspected, then from what is remembered
		listed, err := r.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, []control.Status{status}, listed)
	}
	adopted, err := New(Options{Environment: r.environment})
	require.NoError(t, err)
	defer adopted.Close() //nolint:errcheck // nothing follows from it
	listed, err := adopted.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []control.Status{status}, listed)
}

func TestStart_ConcurrentlyForOneIDMakesOneContainer(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	w := workload("cart-1", newImage(t, engine))
	results := make([]control.Status, 4)
	var wait sync.WaitGroup
	for i := range results {
		wait.Go(func() {
			var err error
			results[i], err = r.Start(t.Context(), w, nil)
			if err != nil {
				t.Errorf("start: %v", err)
			}
		})
	}
	wait.Wait()
	for _, result := range results {
		require.Equal(t, results[0], result)
	}
	listed, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 1)
}

func TestStart_SaysWhyAContainerCannotStart(t *testing.T) {
	engine := requireEngine(t)
	image := newImage(t, engine)
	bare := newImage(t, engine, "ENV A=b")
	for name, test := range map[string]struct {
		image   string
		command []string
		change  func(*control.Workload)
		message string
	}{
		"no such program":     {image: bare, command: []string{"/bin/nothing"}, message: `has no command "/bin/nothing"`},
		"no such name":        {image: bare, command: []string{"node", "x.js"}, message: `has no command "node"`},
		"no program":          {image: bare, command: []string{"/notes.txt"}, message: "is no program"},
		"folder":              {image: bare, command: []string{"/"}, message: "is no program"},
		"nothing to run":      {image: bare, message: "says no command to run"},
		"too little memory":   {image: image, change: func(w *control.Workload) { w.Run.Docker.Memory = "1m" }, message: "emory limit"},
		"too many processors": {image: image, change: func(w *control.Workload) { w.Run.Docker.CPUs = 4096 }, message: "CPUs"},
		"image never pulled":  {image: "layover-test-absent:v1", change: func(w *control.Workload) { w.Run.Docker.Pull = "never" }, message: "is not on this machine"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, engine, Options{})
			w := workload("cart-1", test.image, test.command...)
			if test.change != nil {
				test.change(&w)
			}
			_, err := r.Start(t.Context(), w, nil)
			known := userError(t, err)
			require.Contains(t, known.Message, test.message)
			require.NotEmpty(t, known.Hint)
			listed, err := r.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, listed)
		})
	}
}

func TestStart_UnknownNetwork(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{Network: "layover-test-absent"})
	_, err := r.Start(t.Context(), workload("cart-1", newImage(t, engine)), nil)
	require.Contains(t, userError(t, err).Hint, "docker network create layover-test-absent")
	_, err = r.Gateway(t.Context())
	require.Contains(t, userError(t, err).Hint, "docker network create layover-test-absent")
	listed, err := r.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, listed)
}

// A start that is called off at any moment leaves nothing behind.
func TestStart_CalledOffLeavesNothing(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	image := newImage(t, engine)
	for delay := time.Duration(0); delay < 120*time.Millisecond; delay += 12 * time.Millisecond {
		ctx, cancel := context.WithTimeout(t.Context(), delay)
		_, err := r.Start(ctx, workload("cart-1", image), nil)
		cancel()
		if err == nil {
			require.NoError(t, r.Stop(t.Context(), "cart-1", 0))
			continue
		}
		require.ErrorIs(t, err, context.DeadlineExceeded, "after %v", delay)
		listed, err := r.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, listed, "after %v", delay)
	}
}

func TestStart_LeavesContainersOfOthersAlone(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	image := newImage(t, engine)
	foreign, err := engine.ContainerCreate(t.Context(), client.ContainerCreateOptions{Name: r.name("cart-1"), Image: image})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.remove(context.Background(), foreign.ID)) }()
	_, err = r.Start(t.Context(), workload("cart-1", image), nil)
	require.Equal(t, api.CodeConflict, userError(t, err).Code)
	require.Error(t, r.Stop(t.Context(), "cart-1", 0))
	_, err = r.inspect(t.Context(), foreign.ID)
	require.NoError(t, err)
}

func TestStart_AnewAfterExit(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	image := newImage(t, engine)
	_, err := r.Start(t.Context(), workload("cart-1", image, "exit", "7"), nil)
	require.NoError(t, err)
	var listed []control.Status
	eventually(t, "the exit", func() bool {
		listed, err = r.List(t.Context())
		return err == nil && len(listed) == 1 && !listed[0].Running
	})
	require.Equal(t, 7, listed[0].ExitCode)
	require.Empty(t, listed[0].Addresses)
	log, err := r.Logs(t.Context(), "cart-1", control.LogOptions{})
	require.NoError(t, err)
	require.Equal(t, "ending with 7", lines(t, log)[0].Text)

	status, err := r.Start(t.Context(), workload("cart-1", image), nil)
	require.NoError(t, err)
	require.Equal(t, "hello", get(t, status, "/"))
}

// What a server leaves that ends between creating and starting a container.
func TestList_CreatedAndNeverStarted(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	w := workload("cart-1", newImage(t, engine))
	p, err := r.plan(w)
	require.NoError(t, err)
	_, err = r.create(t.Context(), p)
	require.NoError(t, err)
	listed, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.False(t, listed[0].Running)
	require.Equal(t, -1, listed[0].ExitCode)
	require.Contains(t, listed[0].Reason, "never started")

	// A watch that begins between the two tells of no end.
	_, err = r.Start(t.Context(), workload("cart-2", w.Run.Docker.Image, "exit", "3"), nil)
	require.NoError(t, err)
	changes := make(chan control.Status, 16)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- r.Watch(ctx, func(s control.Status) { changes <- s }) }()
	for ended := false; !ended; {
		change := <-changes
		require.Equal(t, "cart-2", change.ID)
		ended = !change.Running
	}
	cancel()
	require.NoError(t, <-watched)

	status, err := r.Start(t.Context(), w, nil)
	require.NoError(t, err)
	require.True(t, status.Running)
}

func TestStop_KillsWhatIgnoresTheSignal(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	status, err := r.Start(t.Context(), workload("cart-1", newImage(t, engine), "stubborn"), nil)
	require.NoError(t, err)
	get(t, status, "/")
	began := time.Now()
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			if err := r.Stop(t.Context(), "cart-1", 300*time.Millisecond); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
	wait.Wait()
	require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
	require.Less(t, time.Since(began), 10*time.Second)
	listed, err := r.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, listed)
	require.NoError(t, r.Stop(t.Context(), "cart-1", time.Second))
	_, err = r.Logs(t.Context(), "cart-1", control.LogOptions{})
	require.ErrorIs(t, err, control.ErrNoInstance)
}

func TestStop_RemovesAnonymousVolumes(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	_, err := r.Start(t.Context(), workload("cart-1", newImage(t, engine, `ENTRYPOINT ["/app"]`, "VOLUME /data")), nil)
	require.NoError(t, err)
	found, err := r.find(t.Context(), "cart-1")
	require.NoError(t, err)
	require.Len(t, found.Mounts, 1)
	require.NoError(t, r.Stop(t.Context(), "cart-1", 5*time.Second))
	_, err = engine.VolumeInspect(t.Context(), found.Mounts[0].Name, client.VolumeInspectOptions{})
	require.Error(t, err)
}

func TestOutOfMemory(t *testing.T) {
	engine := requireEngine(t)
	info, err := engine.Info(t.Context(), client.InfoOptions{})
	require.NoError(t, err)
	if !info.Info.MemoryLimit {
		t.Skip("left out: the reason of an instance that is killed for its memory; this kernel does not limit memory")
	}
	r := newRuntime(t, engine, Options{})
	w := workload("cart-1", newImage(t, engine), "eat")
	w.Run.Docker.Memory = "64m"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan control.Status, 16)
	watched := make(chan error, 1)
	go func() { watched <- r.Watch(ctx, func(s control.Status) { changes <- s }) }()
	_, err = r.Start(t.Context(), w, nil)
	require.NoError(t, err)
	for ended := (control.Status{}); ended.Reason == ""; {
		select {
		case ended = <-changes:
		case <-time.After(20 * time.Second):
			require.Fail(t, "nothing was said of the kill")
		}
		if ended.Reason != "" {
			require.Equal(t, "killed: out of memory (limit 64 MiB)", ended.Reason)
			require.Equal(t, 137, ended.ExitCode)
		}
	}
	listed, err := r.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, "killed: out of memory (limit 64 MiB)", listed[0].Reason)
	cancel()
	require.NoError(t, <-watched)
}

func TestWatch_MissesNoExit(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	image := newImage(t, engine)
	status, err := r.Start(t.Context(), workload("cart-1", image), nil)
	require.NoError(t, err)
	get(t, status, "/")
	_, err = r.Start(t.Context(), workload("cart-2", image, "exit", "3"), nil)
	require.NoError(t, err)
	eventually(t, "the first exit", func() bool {
		found, err := r.find(t.Context(), "cart-2")
		return err == nil && !running(found.State)
	})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan control.Status, 16)
	watched := make(chan error, 1)
	go func() { watched <- r.Watch(ctx, func(s control.Status) { changes <- s }) }()
	first := <-changes // ended before there was a watch
	require.Equal(t, "cart-2", first.ID)
	require.Equal(t, 3, first.ExitCode)

	require.NoError(t, r.signal(t.Context(), status.ID, "SIGKILL")) // no such container: nothing happens
	require.NoError(t, r.signal(t.Context(), r.name("cart-1"), "SIGKILL"))
	for {
		select {
		case change := <-changes:
			if change.ID == "cart-1" && !change.Running {
				require.Equal(t, 137, change.ExitCode)
				cancel()
				require.NoError(t, <-watched)
				return
			}
		case <-time.After(20 * time.Second):
			require.Fail(t, "nothing was said of the exit")
		}
	}
}

func TestLogs(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	image := newImage(t, engine)
	_, err := r.Start(t.Context(), workload("cart-1", image, "log"), nil)
	require.NoError(t, err)
	log, err := r.Logs(t.Context(), "cart-1", control.LogOptions{Follow: true})
	require.NoError(t, err)
	all := lines(t, log) // a followed log ends with its instance
	require.Len(t, all, 4)
	require.Equal(t, "first", all[0].Text)
	require.Equal(t, "stdout", all[0].Stream)
	require.Equal(t, "cart-1", all[0].Instance)
	require.WithinDuration(t, time.Now(), all[0].Time, time.Minute)
	require.Equal(t, "second", all[1].Text)
	require.Equal(t, "stderr", all[1].Stream)
	require.Equal(t, strings.Repeat("x", 40<<10), all[2].Text)
	require.Equal(t, "last, without an end", all[3].Text)

	log, err = r.Logs(t.Context(), "cart-1", control.LogOptions{Tail: 1})
	require.NoError(t, err)
	require.Equal(t, all[3:], lines(t, log))
	log, err = r.Logs(t.Context(), "cart-1", control.LogOptions{Since: all[1].Time})
	require.NoError(t, err)
	require.Equal(t, all[1:], lines(t, log))
}

func TestLogs_FollowedUntilStopOrContextEnds(t *testing.T) {
	engine := requireEngine(t)
	r := newRuntime(t, engine, Options{})
	status, err := r.Start(t.Context(), workload("cart-1", newImage(t, engine)), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	brief, err := r.Logs(ctx, "cart-1", control.LogOptions{Follow: true})
	require.NoError(t, err)
	long, err := r.Logs(t.Context(), "cart-1", control.LogOptions{Follow: true})
	require.NoError(t, err)
	get(t, status, "/x")
	line, err := brief.Next()
	require.NoError(t, err)
	require.Equal(t, "asked for /x", line.Text)
	cancel()
	_, err = brief.Next()
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, brief.Close())

	require.NoError(t, r.Stop(t.Context(), "cart-1", 5*time.Second))
	rest := lines(t, long)
	require.Equal(t, "asked for /x", rest[0].Text)
	require.NoError(t, long.Close())
	_, err = long.Next()
	require.Error(t, err)
}
