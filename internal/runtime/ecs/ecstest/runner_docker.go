package ecstest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// DockerRunner runs containers on the Docker Engine of this machine: a task with a network interface has the
// address of its first container, which its others share.
type DockerRunner struct {
	engine *client.Client

	mu      sync.Mutex
	running map[*dockerTask]bool
}

// dockerLabel marks the containers of tasks.
const dockerLabel = "ecstest.task"

// NewDockerRunner returns a runner. It is an error where no Engine answers.
func NewDockerRunner(ctx context.Context) (*DockerRunner, error) {
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return nil, err
	}
	if _, err := engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		_ = engine.Close()
		return nil, err
	}
	return &DockerRunner{engine: engine, running: map[*dockerTask]bool{}}, nil
}

type dockerTask struct {
	runner   *DockerRunner
	spec     TaskSpec
	ids      map[string]string
	address  netip.Addr
	bindings map[string][]Port
	exited   chan Exit
	stopping sync.Once
}

// Start creates and starts the containers of a task.
func (r *DockerRunner) Start(ctx context.Context, spec TaskSpec) (Running, error) {
	for _, c := range spec.Containers {
		if _, err := r.engine.ImageInspect(ctx, c.Image); err != nil {
			if cerrdefs.IsNotFound(err) || cerrdefs.IsInvalidArgument(err) {
				return nil, &ImageError{Image: c.Image}
			}
			return nil, err
		}
	}
	t := &dockerTask{
		runner: r, spec: spec, ids: map[string]string{}, bindings: map[string][]Port{}, exited: make(chan Exit, len(spec.Containers)),
		address: netip.AddrFrom4([4]byte{127, 0, 0, 1}),
	}
	first := ""
	for _, c := range spec.Containers {
		if err := t.start(ctx, c, first); err != nil {
			t.remove()
			return nil, err
		}
		if first == "" {
			first = t.ids[c.Name]
		}
	}
	r.mu.Lock()
	r.running[t] = true
	r.mu.Unlock()
	var ended sync.WaitGroup
	for _, c := range spec.Containers {
		ended.Go(func() { t.follow(c) })
	}
	go func() {
		ended.Wait()
		t.remove()
		r.mu.Lock()
		delete(r.running, t)
		r.mu.Unlock()
		close(t.exited)
	}()
	return t, nil
}

func (t *dockerTask) start(ctx context.Context, c ContainerSpec, first string) error {
	config := &container.Config{Image: c.Image, Labels: map[string]string{dockerLabel: t.spec.ID}, Cmd: c.Command}
	if len(c.EntryPoint) > 0 {
		config.Entrypoint = c.EntryPoint
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		config.Env = append(config.Env, name+"="+c.Env[name])
	}
	host := &container.HostConfig{}
	if c.MemoryMiB > 0 {
		host.Memory = int64(c.MemoryMiB) << 20
		host.MemorySwap = host.Memory
	}
	switch {
	case t.spec.NetworkMode == "host":
		host.NetworkMode = "host"
	case t.spec.NetworkMode == "awsvpc" && first != "":
		host.NetworkMode = container.NetworkMode("container:" + first)
	case t.spec.NetworkMode == "bridge":
		config.ExposedPorts, host.PortBindings = network.PortSet{}, network.PortMap{}
		for _, p := range c.Ports {
			port, err := network.ParsePort(strconv.Itoa(p.Container) + "/tcp")
			if err != nil {
				return err
			}
			config.ExposedPorts[port] = struct{}{}
			published := ""
			if p.Host > 0 {
				published = strconv.Itoa(p.Host)
			}
			host.PortBindings[port] = []network.PortBinding{{HostIP: t.address, HostPort: published}}
		}
	}
	created, err := t.runner.engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: "ecstest-" + t.spec.ID + "-" + c.Name, Config: config, HostConfig: host,
	})
	if err != nil {
		return fmt.Errorf("create container %s: %w", c.Name, err)
	}
	t.ids[c.Name] = created.ID
	if _, err := t.runner.engine.ContainerStart(ctx, created.ID, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start container %s: %w", c.Name, err)
	}
	found, err := t.runner.engine.ContainerInspect(ctx, created.ID, client.ContainerInspectOptions{})
	if err != nil || found.Container.NetworkSettings == nil {
		return fmt.Errorf("look at container %s: %w", c.Name, err)
	}
	if t.spec.NetworkMode == "awsvpc" && first == "" {
		for _, n := range found.Container.NetworkSettings.Networks {
			t.address = n.IPAddress
		}
	}
	for port, bindings := range found.Container.NetworkSettings.Ports {
		for _, b := range bindings {
			published, _ := strconv.Atoi(b.HostPort)
			t.bindings[c.Name] = append(t.bindings[c.Name], Port{Container: int(port.Num()), Host: published})
		}
	}
	return nil
}

// follow reads the log of a container to its end, and tells how it ended.
func (t *dockerTask) follow(c ContainerSpec) {
	ctx, id := context.Background(), t.ids[c.Name]
	// An Engine ends a log that is followed with the container, and may leave out what that wrote last.
	told := t.copyLog(ctx, c, true, 0)
	wait := t.runner.engine.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	code := -1
	select {
	case result := <-wait.Result:
		code = int(result.StatusCode)
	case err := <-wait.Error:
		_ = err // it was removed: the code is not known
	}
	t.copyLog(ctx, c, false, told)
	oom := false
	if found, err := t.runner.engine.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); err == nil {
		oom = found.Container.State.OOMKilled
	}
	t.exited <- Exit{Container: c.Name, Code: code, OutOfMemory: oom}
	if c.Essential {
		t.Stop()
	}
}

// copyLog hands on the log of a container but for its first lines, and returns how many lines it has.
func (t *dockerTask) copyLog(ctx context.Context, c ContainerSpec, follow bool, skip int) int {
	if c.Log == nil {
		return 0
	}
	logs, err := t.runner.engine.ContainerLogs(ctx, t.ids[c.Name], client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: follow})
	if err != nil {
		return 0
	}
	defer logs.Close() //nolint:errcheck // only read
	lines := 0
	out, in := io.Pipe()
	var read sync.WaitGroup
	read.Go(func() {
		copyLines(out, func(at time.Time, line string) {
			if lines++; lines > skip {
				c.Log(at, line)
			}
		})
	})
	_, err = stdcopy.StdCopy(in, in, bufio.NewReader(logs))
	_ = in.CloseWithError(err)
	read.Wait()
	return lines
}

func (t *dockerTask) remove() {
	for _, id := range t.ids {
		_, _ = t.runner.engine.ContainerRemove(context.Background(), id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	}
}

func (t *dockerTask) Address() netip.Addr              { return t.address }
func (t *dockerTask) Exited() <-chan Exit              { return t.exited }
func (t *dockerTask) Bindings(container string) []Port { return t.bindings[container] }

// Kill ends the task by force, as if it had died.
func (t *dockerTask) Kill(int) {
	for _, id := range t.ids {
		_, _ = t.runner.engine.ContainerKill(context.Background(), id, client.ContainerKillOptions{Signal: "SIGKILL"})
	}
}

// Stop asks all containers to end.
func (t *dockerTask) Stop() {
	t.stopping.Do(func() {
		longest := time.Duration(0)
		for _, c := range t.spec.Containers {
			longest = max(longest, c.StopTimeout)
			_, _ = t.runner.engine.ContainerKill(context.Background(), t.ids[c.Name], client.ContainerKillOptions{Signal: "SIGTERM"})
		}
		time.AfterFunc(longest, func() {
			t.runner.mu.Lock()
			goesOn := t.runner.running[t]
			t.runner.mu.Unlock()
			if goesOn {
				t.Kill(137)
			}
		})
	})
}

// Containers returns the names of the containers of all tasks.
func (r *DockerRunner) Containers(ctx context.Context) ([]string, error) {
	found, err := r.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", dockerLabel)})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range found.Items {
		out = append(out, strings.Join(c.Names, " "))
	}
	return out, nil
}

// Close removes all containers.
func (r *DockerRunner) Close() error {
	r.mu.Lock()
	all := slices.Collect(maps.Keys(r.running))
	r.mu.Unlock()
	for _, t := range all {
		t.remove()
		for range t.exited {
		}
	}
	return r.engine.Close()
}
