// Package harness runs proxies side by side, under the same routes, against the
// same backend, and measures them: what `bench` compares and the proofs about cost share.
//
// Everything runs as a process of its own, so that one does not spend the other's
// time: the proxy on one processor, backend and load generator on another. The
// backend and the generators are this very program, called again; see [Role].
//
// It measures on Linux only.
package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Where things run. Interrupts come to the first processor, which leaves the
// second one quiet for what is measured.
const (
	LoadCPU  = 0 // backend and generator
	ProxyCPU = 1
)

// roleVariable says, in the environment of a child, which part it plays.
const roleVariable = "LAYOVER_BENCH_ROLE"

const (
	startTimeout = 2 * time.Minute // Traefik needs seconds for 10,000 routers
	stopTimeout  = 5 * time.Second
)

// Role plays the part that this process was started for, and says whether there was
// one. Programs that use this package call it first.
func Role() (code int, ok bool) {
	roles := map[string]func(io.Reader, io.Writer) error{
		"backend": serveBackend, "load": generate,
		"reverseproxy": serveReverseProxy, "slow": crawl, "transfer": transfer,
	}
	name := os.Getenv(roleVariable)
	run, ok := roles[name]
	if !ok {
		return 0, false
	}
	if err := run(bufio.NewReader(os.Stdin), os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1, true
	}
	return 0, true
}

// Supported says why this machine cannot measure; nil where it can.
func Supported() error {
	switch {
	case runtime.GOOS != "linux":
		return fmt.Errorf("measures on Linux only, as it reads /proc and pins processes; this is %s", runtime.GOOS)
	case runtime.NumCPU() < 2:
		return errors.New("needs two processors: one for the proxy, one for backend and load")
	}
	return nil
}

// Process is a child. It ends when its standard input closes, or with [Process.Stop].
type Process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	said  *tail // on standard error
	dead  chan struct{}
	stop  sync.Once
}

// start starts a command on one processor; cpu < 0 is any.
func start(cmd *exec.Cmd, cpu int) (*Process, error) {
	p := &Process{cmd: cmd, said: &tail{}, dead: make(chan struct{})}
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		p.out = bufio.NewReaderSize(stdout, 1<<16)
	}
	cmd.Stderr = p.said
	if err := startPinned(cmd, cpu); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() {
		defer close(p.dead)
		_ = cmd.Wait() // how it ended is asked of ProcessState
	}()
	return p, nil
}

// startRole starts this program in a role, and hands it its order as a line of JSON.
func startRole(role string, cpu int, order any) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p, err := start(cmd, cpu)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(p.stdin).Encode(order); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start the %s: %w: %s", role, err, p.said)
	}
	return p, nil
}

// answer reads one line of JSON that the process writes.
func (p *Process) answer(ctx context.Context, into any) error {
	done := make(chan error, 1)
	go func() {
		line, err := p.out.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, into)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%w: %s", err, p.said)
		}
		return nil
	case <-ctx.Done():
		p.Stop()
		return context.Cause(ctx)
	}
}

// PID is the process's number; it may have children.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Said is the last of what it wrote to standard error.
func (p *Process) Said() string { return p.said.String() }

// Stop ends the process, by force where it does not go by itself.
func (p *Process) Stop() {
	p.stop.Do(func() {
		_ = p.stdin.Close()
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.dead:
		case <-time.After(stopTimeout):
			for _, pid := range tree(p.PID()) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			<-p.dead
		}
	})
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write appends.
func (t *tail) Write(b []byte) (int, error) {
	const keep = 4096
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - keep; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(b), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// CacheDir is where binaries are kept that take long to build: outside the repository.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "layover")
	return dir, os.MkdirAll(dir, 0o750)
}

// moduleDir is the folder of a package of this module.
func moduleDir(ctx context.Context, folder string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/layover-dev/layover").Output()
	if err != nil {
		return "", fmt.Errorf("find the module; run this in its folder: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), folder), nil
}

// poll calls ready every few milliseconds until it says yes.
func poll(ctx context.Context, limit time.Duration, what string, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		ok, err := ready()
		if ok {
			return nil
		}
		last = err
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: not within %s", what, limit), last)
		case <-ticker.C:
		}
	}
}
