package ecstest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// HTTPRunner runs each container with a port as an HTTP server in this process, on an address of its own: for
// many tasks.
type HTTPRunner struct {
	handler func(TaskSpec, ContainerSpec) http.Handler

	mu        sync.Mutex
	addresses addresses
	running   map[*httpTask]bool
}

// NewHTTPRunner returns a runner. handler gives what a container answers with, nil where it answers nothing.
func NewHTTPRunner(handler func(TaskSpec, ContainerSpec) http.Handler) *HTTPRunner {
	return &HTTPRunner{handler: handler, running: map[*httpTask]bool{}}
}

type httpTask struct {
	runner  *HTTPRunner
	address netip.Addr
	spec    TaskSpec
	servers []*http.Server
	exited  chan Exit
	once    sync.Once
}

// Start opens the ports of a task.
func (r *HTTPRunner) Start(ctx context.Context, spec TaskSpec) (Running, error) {
	r.mu.Lock()
	t := &httpTask{runner: r, spec: spec, address: r.addresses.take(), exited: make(chan Exit, len(spec.Containers))}
	r.running[t] = true
	r.mu.Unlock()
	for _, c := range spec.Containers {
		handler := r.handler(spec, c)
		for _, p := range c.Ports {
			if handler == nil {
				continue
			}
			address := net.JoinHostPort(t.address.String(), strconv.Itoa(p.Container))
			listener, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(ctx), "tcp", address)
			if err != nil {
				t.exit(1)
				return nil, err
			}
			server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
			t.servers = append(t.servers, server)
			go func() { _ = server.Serve(listener) }()
		}
	}
	return t, nil
}

// Close ends all.
func (r *HTTPRunner) Close() error {
	r.mu.Lock()
	var all []*httpTask
	for t := range r.running {
		all = append(all, t)
	}
	r.mu.Unlock()
	for _, t := range all {
		t.exit(0)
	}
	return nil
}

func (t *httpTask) Address() netip.Addr    { return t.address }
func (t *httpTask) Exited() <-chan Exit    { return t.exited }
func (t *httpTask) Bindings(string) []Port { return nil }
func (t *httpTask) Stop()                  { t.exit(0) }

// Kill ends the task by itself.
func (t *httpTask) Kill(code int) { t.exit(code) }

func (t *httpTask) exit(code int) {
	t.once.Do(func() {
		for _, s := range t.servers {
			if err := s.Close(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				continue // it is on its way out in any case
			}
		}
		for _, c := range t.spec.Containers {
			t.exited <- Exit{Container: c.Name, Code: code}
		}
		close(t.exited)
		t.runner.mu.Lock()
		delete(t.runner.running, t)
		t.runner.mu.Unlock()
	})
}
