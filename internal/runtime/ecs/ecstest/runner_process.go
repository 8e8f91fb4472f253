package ecstest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Program is what the process runner has for an image.
type Program struct {
	Path string
	Args []string // in front of the container's command

	// Env gives variables beside those of the container, which tell the program to listen on the address of its
	// task alone.
	Env func(address netip.Addr) map[string]string
}

// ProcessRunner runs containers as processes. Each task has an address of its own below 127.0.0.0/8.
type ProcessRunner struct {
	images map[string]Program

	mu        sync.Mutex
	addresses addresses
	running   map[*processTask]bool
}

// NewProcessRunner returns a runner of these images, by their names.
func NewProcessRunner(images map[string]Program) *ProcessRunner {
	return &ProcessRunner{images: images, running: map[*processTask]bool{}}
}

type processTask struct {
	runner   *ProcessRunner
	spec     TaskSpec
	address  netip.Addr
	bindings map[string][]Port
	exited   chan Exit
	stopping sync.Once

	mu       sync.Mutex
	commands map[string]*exec.Cmd
	over     bool
}

// taskVariable marks all processes of a task, also those that left their process group.
const taskVariable = "ECSTEST_TASK"

// Start starts a process for each container.
func (r *ProcessRunner) Start(ctx context.Context, spec TaskSpec) (Running, error) {
	for _, c := range spec.Containers {
		if _, ok := r.images[c.Image]; !ok {
			return nil, &ImageError{Image: c.Image}
		}
	}
	r.mu.Lock()
	t := &processTask{
		runner: r, spec: spec, address: r.addresses.take(), bindings: map[string][]Port{}, commands: map[string]*exec.Cmd{},
		exited: make(chan Exit, len(spec.Containers)),
	}
	r.running[t] = true
	r.mu.Unlock()
	var ended sync.WaitGroup
	for _, c := range spec.Containers {
		if err := t.start(ctx, c, &ended); err != nil {
			t.kill()
			ended.Wait()
			return nil, err
		}
	}
	go func() {
		ended.Wait()
		t.kill()
		t.mu.Lock()
		t.over = true
		t.mu.Unlock()
		r.mu.Lock()
		delete(r.running, t)
		r.mu.Unlock()
		close(t.exited)
	}()
	return t, nil
}

func (t *processTask) start(ctx context.Context, c ContainerSpec, ended *sync.WaitGroup) error {
	program := t.runner.images[c.Image]
	env := map[string]string{}
	maps.Copy(env, c.Env)
	if program.Env != nil {
		maps.Copy(env, program.Env(t.address))
	}
	env[taskVariable] = t.spec.ID
	for _, p := range c.Ports {
		host := p.Host
		if t.spec.NetworkMode == "bridge" && host == 0 { // a process cannot be forwarded to: it listens there itself
			free, err := freePort(ctx, t.address)
			if err != nil {
				return err
			}
			host = free
			env["PORT"] = strconv.Itoa(host)
		}
		if t.spec.NetworkMode != "awsvpc" {
			t.bindings[c.Name] = append(t.bindings[c.Name], Port{Container: p.Container, Host: max(host, 0)})
		}
	}
	command := exec.CommandContext(context.WithoutCancel(ctx), program.Path, append(append([]string{}, program.Args...), c.Command...)...)
	for name, value := range env {
		command.Env = append(command.Env, name+"="+value)
	}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	command.Stdout, command.Stderr = in, in
	err = command.Start()
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		return fmt.Errorf("start container %s: %w", c.Name, err)
	}
	t.mu.Lock()
	t.commands[c.Name] = command
	t.mu.Unlock()
	var read sync.WaitGroup
	read.Go(func() { copyLines(out, c.Log) })
	ended.Go(func() {
		code := exitCode(command.Wait())
		endMarked(t.spec.ID, c.Name, len(t.spec.Containers) == 1)
		read.Wait()
		t.exited <- Exit{Container: c.Name, Code: code}
		if c.Essential {
			t.Stop()
		}
	})
	return nil
}

func freePort(ctx context.Context, address netip.Addr) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		return 0, err
	}
	defer l.Close() //nolint:errcheck // nothing was sent
	return l.Addr().(*net.TCPAddr).Port, nil
}

func exitCode(err error) int {
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return 0
	}
	if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return failed.ExitCode()
}

// maxMessage is how long a message of CloudWatch Logs may be; the driver cuts longer lines.
const maxMessage = 256<<10 - 26

func copyLines(from io.ReadCloser, log func(time.Time, string)) {
	defer from.Close() //nolint:errcheck // only read
	in := bufio.NewReaderSize(from, maxMessage)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 && log != nil {
			log(time.Now(), strings.ToValidUTF8(string(bytes.TrimRight(line, "\r\n")), "\uFFFD"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// endMarked ends the processes of a task that its containers started and left behind, as the end of a container does.
func endMarked(id, _ string, whole bool) {
	if !whole {
		return
	}
	for _, pid := range marked(id) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// marked returns the processes that have the mark of a task.
func marked(id string) []int {
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	var out []int
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte(taskVariable+"="+id+"\x00")) && !bytes.HasSuffix(text, []byte(taskVariable+"="+id)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// Processes returns the processes of all tasks that go on.
func (r *ProcessRunner) Processes() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []int
	for t := range r.running {
		out = append(out, marked(t.spec.ID)...)
	}
	return out
}

// Close ends all tasks by force.
func (r *ProcessRunner) Close() error {
	r.mu.Lock()
	var all []*processTask
	for t := range r.running {
		all = append(all, t)
	}
	r.mu.Unlock()
	for _, t := range all {
		t.kill()
		for range t.exited {
		}
	}
	return nil
}

func (t *processTask) Address() netip.Addr              { return t.address }
func (t *processTask) Exited() <-chan Exit              { return t.exited }
func (t *processTask) Bindings(container string) []Port { return t.bindings[container] }

// Kill ends the task by force, as if it had died.
func (t *processTask) Kill(int) { t.kill() }

func (t *processTask) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return // its numbers may be those of others by now
	}
	for _, c := range t.commands {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
	for _, pid := range marked(t.spec.ID) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Stop asks all containers to end.
func (t *processTask) Stop() {
	t.stopping.Do(func() {
		longest := time.Duration(0)
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, c := range t.spec.Containers {
			longest = max(longest, c.StopTimeout)
			if command := t.commands[c.Name]; command != nil {
				_ = command.Process.Signal(syscall.SIGTERM)
			}
		}
		time.AfterFunc(longest, t.kill)
	})
}
