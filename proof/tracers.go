package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/receipt"
	"github.com/layover-dev/layover/internal/receipt/sender"
	"github.com/layover-dev/layover/internal/route"
)

// tracerFiles are a service in Node, and which tracers it is started with.
//
//go:embed tracers/package.json tracers/package-lock.json tracers/middle.js tracers/sentry.js
var tracerFiles embed.FS

// tracer is a set-up of a service in Node, as its makers describe it, with default settings and no key that counts.
type tracer struct {
	name string
	args []string
	env  []string
	// What it does, as the table in docs/howto/send-the-route.md has it.
	keepsBaggage, keepsTrace bool
	xray                     string // what the X-ray says of it
}

func tracers() []tracer {
	return []tracer{
		{"OpenTelemetry", []string{"--require", "@opentelemetry/auto-instrumentations-node/register"}, []string{"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none"}, true, true, "carries"},
		{"dd-trace", []string{"--require", "dd-trace/init"}, nil, true, true, "carries"},
		{"elastic-apm-node", []string{"--require", "elastic-apm-node/start.js"}, nil, false, true, "drops: " + api.LossBaggage},
		{"newrelic", []string{"--require", "newrelic"}, []string{"NEW_RELIC_APP_NAME=middle", "NEW_RELIC_LICENSE_KEY=" + strings.Repeat("0", 40), "NEW_RELIC_LOG_ENABLED=false"}, false, true, "drops: " + api.LossBaggage},
		{"@sentry/node", []string{"--require", "./sentry.js"}, []string{"SENTRY_DSN=http://key@127.0.0.1:9/1"}, false, false, "drops: " + api.LossReplaced},
		{"none", nil, nil, false, false, "drops: " + api.LossBoth},
	}
}

// proveTracers has a request pass through a service in Node under each tracer, and looks what arrives behind it; then it has the proxy
// heal by the trace alone, and by the origin alone.
func proveTracers(ctx context.Context) (result, error) {
	dir, err := installTracers(ctx)
	if err != nil {
		return result{}, err
	}
	healed, possible, other := 0, 0, 0
	fmt.Printf("  %-18s %-42s %-38s %-16s %-16s\n", "tracer", "baggage behind it", "X-ray", "healed by trace", "healed by origin")
	for _, t := range tracers() {
		seen, err := passThrough(ctx, dir, t)
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", t.name, err)
		}
		fmt.Printf("  %-18s %-42s %-38s %-16s %-16s\n", t.name, seen.words(), seen.xray, seen.byTrace, seen.byOrigin)
		if seen.keepsBaggage != t.keepsBaggage || seen.keepsTrace != t.keepsTrace || seen.xray != t.xray {
			other++
		}
		if seen.keepsTrace {
			possible++
			if seen.byTrace == healedAnswer(seen, "healed-trace") {
				healed++
			}
		}
		possible++ // its calls come from its address, whatever it does
		if seen.byOrigin == healedAnswer(seen, "healed-origin") {
			healed++
		}
	}
	return result{
		figure: fmt.Sprintf("%d tracers: the version answered in %d of %d cases in which trace or origin survived; of %d the X-ray says, or they do, something else than the table of the guide", len(tracers()), healed, possible, other),
		bar:    "all; 0",
		ok:     healed == possible && possible > len(tracers()) && other == 0,
	}, nil
}

func healedAnswer(seen seenBehind, by string) string {
	if seen.keepsBaggage {
		return "baggage"
	}
	return by
}

// installTracers has npm install what the lock file says, once for each.
func installTracers(ctx context.Context) (dir string, err error) {
	if _, err := exec.LookPath("npm"); err != nil {
		return "", errors.New("this proof needs Node.js and npm: apt-get install nodejs npm, or https://nodejs.org")
	}
	lock, err := tracerFiles.ReadFile("tracers/package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	dir = filepath.Join(cache, "layover", "tracers-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{"package.json", "package-lock.json", "middle.js", "sentry.js"} {
		text, err := tracerFiles.ReadFile("tracers/" + name)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return "", err
		}
	}
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	fmt.Println("  installing the tracers by npm")
	install := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund")
	install.Dir = dir
	if text, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, text)
	}
	return dir, os.WriteFile(done, nil, 0o600)
}

// seenBehind is what arrived behind a service.
type seenBehind struct {
	keepsBaggage, keepsTrace bool
	baggage                  string // what came in the place of the route
	xray                     string // its verdict, with the reason
	byTrace, byOrigin        string // how the version was found, where that alone is healed by
}

func (s seenBehind) words() string {
	words := "lost"
	switch {
	case s.keepsBaggage:
		words = "kept"
	case s.baggage != "":
		words = "lost, there are others"
	}
	if s.keepsTrace {
		return words + ", traceparent kept"
	}
	return words + ", traceparent lost"
}

const (
	middleAddress = "127.78.0.1"
	tracedTrace   = "4bf92f3577b34da6a3ce929d0e0e4736"
)

// passThrough starts the service with a tracer, and sends requests through it.
func passThrough(ctx context.Context, dir string, t tracer) (seen seenBehind, err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return seen, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return seen, err
	}
	proxyHost, proxyPort, _ := net.SplitHostPort(listener.Addr().String())
	said := &lockedBuffer{}
	node := exec.Command("node", append(t.args, "middle.js", middleAddress, ports[0], proxyHost, proxyPort, "last.localhost")...)
	node.Dir, node.Stdout, node.Stderr = dir, said, said
	node.Env = append(os.Environ(), t.env...)
	if err := node.Start(); err != nil {
		return seen, err
	}
	defer func() {
		_ = node.Process.Signal(syscall.SIGKILL)
		_ = node.Wait() // it was killed
	}()
	last := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "last") })}
	lastListener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return seen, err
	}
	go func() { _ = last.Serve(lastListener) }()
	defer func() { _ = last.Close() }()

	records := &recordsOf{service: "last"}
	store := receipt.New(receipt.Options{Settle: 300 * time.Millisecond})
	tell := sender.New("proof", func(_ context.Context, b api.HopBatch) error {
		store.Add(b)
		return nil
	}, slog.New(slog.DiscardHandler))
	p := proxy.New(proxy.Options{Recorder: func(r *proxy.Record) {
		records.add(r)
		tell.Record(r)
	}})
	running, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.Run(running, proxy.Listener{Listener: listener}) }) // they end with their context
	parts.Go(func() { _ = tell.Run(running) })
	defer parts.Wait()
	defer cancel()
	pass := func(healing route.Healing) (*proxy.Record, error) {
		table, err := route.Compile(route.Spec{Environment: "proof", Services: []route.Service{
			{Name: "middle", Versions: []route.Version{{Name: "feature-1", State: route.Ready, Instances: []route.Instance{
				{ID: "middle--feature-1", Address: net.JoinHostPort(middleAddress, ports[0]), From: middleAddress},
			}}}},
			{Name: "last", Healing: healing, Versions: []route.Version{
				{Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "last--main", Address: lastListener.Addr().String()}}},
				{Name: "feature-1", State: route.Ready, Instances: []route.Instance{{ID: "last--feature-1", Address: lastListener.Addr().String()}}},
			}},
		}})
		if err != nil {
			return nil, err
		}
		p.SetTable(table)
		return records.next(ctx, listener.Addr().String(), said)
	}
	var plain *proxy.Record
	for range 5 { // what only the origin proves wants some calls
		if plain, err = pass(route.Healing{}); err != nil {
			return seen, err
		}
	}
	seen.keepsBaggage, seen.keepsTrace = plain.By == route.ByBaggage, plain.TraceID.String() == tracedTrace
	seen.baggage = strings.Join(plain.Baggage, ",")
	if seen.xray, err = verdictOn(ctx, store); err != nil {
		return seen, err
	}
	byTrace, err := pass(route.Healing{Trace: route.HealOn})
	if err != nil {
		return seen, err
	}
	byOrigin, err := pass(route.Healing{Origin: route.HealOn})
	if err != nil {
		return seen, err
	}
	seen.byTrace, seen.byOrigin = byTrace.By.String(), byOrigin.By.String()
	return seen, nil
}

// verdictOn waits for what the X-ray says of the service in the middle.
func verdictOn(ctx context.Context, store *receipt.Store) (says string, err error) {
	err = until(ctx, time.Minute, func() (bool, error) {
		for _, edge := range store.XRay().Edges {
			if edge.Caller != "middle@feature-1" || edge.Callee != "last" {
				return false, fmt.Errorf("the X-ray has an edge from %s to %s", edge.Caller, edge.Callee)
			}
			if edge.Verdict == api.VerdictUnknown {
				continue
			}
			says = string(edge.Verdict)
			for reason := range edge.Reasons {
				says += ": " + reason
			}
			return true, nil
		}
		return false, nil
	}, func() string { return "the X-ray says nothing" })
	return says, err
}

// recordsOf keeps the last record of the requests to one service.
type recordsOf struct {
	service string
	mu      sync.Mutex
	last    *proxy.Record
}

func (r *recordsOf) add(of *proxy.Record) {
	if of.Service == r.service {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.last = of.Clone()
	}
}

// next sends a request through the service in the middle, and returns the record of the one that it makes.
func (r *recordsOf) next(ctx context.Context, address string, said *lockedBuffer) (*proxy.Record, error) {
	var found *proxy.Record
	var last error
	err := until(ctx, time.Minute, func() (bool, error) {
		r.mu.Lock()
		r.last = nil
		r.mu.Unlock()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			return false, err
		}
		req.Host = "middle.localhost"
		req.Header.Set("Baggage", "dynamic_route=feature-1,userId=alice;p=1")
		req.Header.Set("Traceparent", "00-"+tracedTrace+"-00f067aa0ba902b7-01")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			last = err
			return false, nil
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(res.Body, 10_000))
		if err != nil || res.StatusCode != http.StatusOK { // it may still be starting
			last = errors.Join(err, fmt.Errorf("%d: %s", res.StatusCode, firstLine(string(body))))
			return false, nil
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		found = r.last
		return found != nil, nil
	}, func() string {
		return fmt.Sprintf("no request came through: %v; it said:\n%s", last, lastLines(said, 20))
	})
	return found, err
}
