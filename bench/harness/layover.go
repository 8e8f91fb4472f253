package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
)

// Layover is ours, with every feature on.
type Layover struct {
	// Env is added to the environment of the proxy, as NAME=value.
	Env []string

	// CPU is where it runs; nil is [ProxyCPU], a negative one anywhere.
	CPU *int
}

// Name is "layover".
func (Layover) Name() string { return "layover" }

// Install has nothing to do.
func (Layover) Install(context.Context) error { return nil }

// Start runs the proxy in a process of its own. A change goes to it as one
// [route.Change]; the answer says that the table with it is in place.
func (l Layover) Start(ctx context.Context, s Setup) (*Running, error) {
	cpu := ProxyCPU
	if l.CPU != nil {
		cpu = *l.CPU
	}
	p, err := startRole("layover", cpu, layoverOrder{Routes: s.Routes, Ports: s.Backend.ports}, l.Env...)
	if err != nil {
		return nil, err
	}
	running, err := bareRunning(ctx, p)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	revision := uint64(1)
	running.Quick = true
	running.Route = func(ctx context.Context, a Added) error {
		mu.Lock()
		defer mu.Unlock()
		version := ready(a.Name, "added-"+a.Name, s.Backend.Address(s.Routes.Protocol, a.Backend))
		change := route.Change{Base: revision, Revision: revision + 1, Versions: []route.VersionChange{
			{Service: fmt.Sprintf("service-%d", a.Service), Name: a.Name, Version: &version},
		}}
		if err := json.NewEncoder(p.stdin).Encode(change); err != nil {
			return err
		}
		// The answer belongs to this change, and is waited for whatever becomes of ctx.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
		defer cancel()
		var at uint64
		if err := p.answer(ctx, &at); err != nil {
			return err
		}
		revision = at
		return nil
	}
	return running, nil
}

type layoverOrder struct {
	Routes Routes `json:"routes"`
	Ports  ports  `json:"ports"`
}

// serveLayover is the role.
func serveLayover(in io.Reader, out io.Writer) error {
	var order layoverOrder
	if err := readOrder(in, &order); err != nil {
		return err
	}
	table, err := route.Compile(order.Routes.Spec(&Backend{ports: order.Ports}))
	if err != nil {
		return err
	}
	var records ring
	p := proxy.New(proxy.Options{
		Recorder: records.keep,
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	p.SetTable(table)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(l.Addr().String()); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	changes := make(chan error, 1)
	go func() {
		defer stop()
		changes <- relay(in, func(c route.Change) error {
			next, err := p.Table().Apply(c)
			if err != nil {
				return err
			}
			p.SetTable(next)
			return json.NewEncoder(out).Encode(next.Revision())
		})
	}()
	if err := p.Run(ctx, proxy.Listener{Listener: l}); err != nil {
		return err
	}
	return <-changes
}

// ring keeps the last records, as an access log in memory does.
type ring struct {
	next atomic.Uint64
	mu   sync.Mutex
	last [4096]proxy.Record
}

func (r *ring) keep(record *proxy.Record) {
	at := r.next.Add(1) % uint64(len(r.last))
	r.mu.Lock()
	r.last[at] = *record
	r.mu.Unlock()
}
