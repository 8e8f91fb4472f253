package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// noLossPlan says how much the proof does.
type noLossPlan struct {
	rate     int           // requests a second
	quiet    time.Duration // at first, and behind each phase
	down     time.Duration // how long the server is away after a kill
	stream   time.Duration // how long a stream lasts
	linger   time.Duration // of the proxy after a hand-over
	kills    int
	replaced int
	sabotage bool // kill the proxy where it should be handed over
}

func noLossFull() noLossPlan {
	return noLossPlan{
		rate: 400, quiet: 3 * time.Second, down: 3 * time.Second, stream: 3 * time.Second, linger: 5 * time.Second,
		kills: 2, replaced: 10,
	}
}

func noLossSmall() noLossPlan {
	return noLossPlan{
		rate: 100, quiet: 300 * time.Millisecond, down: 300 * time.Millisecond, stream: 500 * time.Millisecond, linger: time.Second,
		kills: 1, replaced: 2,
	}
}

// proveNoLoss sends requests at a constant rate through a stand-alone proxy while the
// server is killed and started again, the proxy is replaced by hand-over, and a version is
// deployed again and again.
func proveNoLoss(plan noLossPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return noLoss(ctx, plan) }
}

func noLoss(ctx context.Context, plan noLossPlan) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	n := &losing{environment: e, plan: plan}
	total, err := n.underLoad(ctx, "", n.phases)
	if err != nil {
		return result{}, err
	}
	figure := fmt.Sprintf("%d requests at %d/s (%d on new connections, %d on kept ones, %d with a body, %d streams of %s), %d kills, %d hand-overs, %d replacements: %d failed, %d sent twice, %d wrong version",
		total.sent, plan.rate, total.byKind[kindNew], total.byKind[kindKept], total.byKind[kindPost], total.byKind[kindStream], plan.stream,
		plan.kills, n.handedOver, plan.replaced, total.failed, total.again, total.wrong)
	return result{figure: figure, bar: "0 failed, 0 sent twice, 0 wrong", ok: total.failed+total.again+total.wrong == 0}, nil
}

// underLoad prepares the environment, of which service are further lines, and sends
// requests while do goes on. It returns what became of them.
func (n *losing) underLoad(ctx context.Context, service string, do func(context.Context) error) (counts, error) {
	if err := n.prepare(ctx, service); err != nil {
		return counts{}, err
	}
	defer n.endProxy()
	n.load = newLoad(n.address, n.plan)
	loading, endLoad := context.WithCancel(ctx)
	defer endLoad()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.load.run(loading)
	}()
	err := do(ctx)
	endLoad()
	<-ended
	if err != nil {
		return counts{}, errors.Join(err, errors.New("the proxy said:\n"+n.proxySaid.String()))
	}
	total := n.load.total()
	if total.sent == 0 || total.byKind[kindStream] == 0 {
		return counts{}, errors.New("nothing was sent")
	}
	for _, fault := range n.load.faults {
		fmt.Println("  fault:", fault)
	}
	return total, nil
}

type losing struct {
	*environment
	plan       noLossPlan
	load       *load
	address    string // of the stand-alone proxy
	admin      string
	proxyPID   int
	proxySaid  lockedBuffer
	handedOver int
	generation int
}

func (n *losing) prepare(ctx context.Context, service string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	yaml := fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
services:
  pricing:
    run: {process: {command: [%q, %s, "1"]}}
    versions: {x: {command: [%q, %s, "1"]}}
%s`, n.proxyPort, self, backendCommand, self, backendCommand, service)
	if err := n.write(yaml); err != nil {
		return err
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	n.address, n.admin = "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1]
	if err := n.start(ctx); err != nil {
		return err
	}
	if err := n.allRun(ctx); err != nil {
		return err
	}
	n.generation = 1
	return n.startProxy(ctx)
}

// startProxy runs a stand-alone proxy, which takes over from the one that runs, if one does.
func (n *losing) startProxy(ctx context.Context) error {
	cmd := exec.Command(n.binary, "proxy", "--server", n.serverURL, "--listen", n.address, "--admin", n.admin,
		"--table-cache", filepath.Join(n.dir, "table"), "--handover", filepath.Join(n.dir, "handover"), "--linger", n.plan.linger.String(), "--id", "edge-1")
	cmd.Stdout, cmd.Stderr = &n.proxySaid, &n.proxySaid
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it ends when another one takes over
	return n.otherProxy(ctx)
}

// otherProxy waits until another process than the last one serves.
func (n *losing) otherProxy(ctx context.Context) error {
	return until(ctx, time.Minute, func() (bool, error) {
		ready := n.readyz(ctx)
		if !ready.Ready || ready.PID == n.proxyPID || ready.Server == "" {
			return false, nil
		}
		n.proxyPID = ready.PID
		return true, nil
	}, func() string { return "no other proxy gets ready" })
}

type readyz struct {
	Ready  bool   `json:"ready"`
	PID    int    `json:"pid"`
	Server string `json:"server"`
}

func (n *losing) readyz(ctx context.Context) readyz {
	var out readyz
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/readyz", nil)
	if err != nil {
		return out
	}
	req.Close = true // the next one may be another process
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return out
	}
	defer func() { _ = res.Body.Close() }()
	_ = json.NewDecoder(res.Body).Decode(&out) // zero where it is none
	return out
}

func (n *losing) endProxy() {
	if n.proxyPID != 0 {
		_ = signalTo(n.proxyPID, syscall.SIGTERM)
	}
}

// phases does to the environment what must lose nothing.
func (n *losing) phases(ctx context.Context) error {
	if err := n.phase(ctx, "quiet", func() error { return nil }); err != nil {
		return err
	}
	for range n.plan.kills {
		if err := n.phase(ctx, "server killed", func() error { n.kill(); return pause(ctx, n.plan.down) }); err != nil {
			return err
		}
		if err := n.phase(ctx, "server started", func() error { return errors.Join(n.start(ctx), n.allRun(ctx)) }); err != nil {
			return err
		}
	}
	if err := n.phase(ctx, "hand-over by SIGHUP", func() error { return n.handOver(ctx, n.hangUp) }); err != nil {
		return err
	}
	if err := n.phase(ctx, "hand-over by socket", func() error { return n.handOver(ctx, n.startProxy) }); err != nil {
		return err
	}
	return n.phase(ctx, "version replaced", func() error {
		for range n.plan.replaced {
			if err := n.replace(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

func (n *losing) phase(ctx context.Context, name string, do func() error) error {
	before, began := n.load.total(), time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := pause(ctx, n.plan.quiet); err != nil {
		return err
	}
	after := n.load.total()
	fmt.Printf("  %-20s %5.1f s  %5d requests  %d failed  %d sent twice  %d wrong\n", name, time.Since(began).Seconds(),
		after.sent-before.sent, after.failed-before.failed, after.again-before.again, after.wrong-before.wrong)
	return nil
}

func (n *losing) handOver(ctx context.Context, do func(context.Context) error) error {
	if n.plan.sabotage {
		_ = signalTo(n.proxyPID, syscall.SIGKILL)
		return n.startProxy(ctx)
	}
	if err := do(ctx); err != nil {
		return err
	}
	n.handedOver++
	return pause(ctx, n.plan.linger) // the old one is still there
}

func (n *losing) hangUp(ctx context.Context) error {
	if err := signalTo(n.proxyPID, syscall.SIGHUP); err != nil {
		return err
	}
	return n.otherProxy(ctx)
}

// replace deploys the version again. Requests that are sent when that is done must be
// answered by the new generation.
func (n *losing) replace(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n.generation++
	if _, err := n.cli(ctx, "deploy", "pricing@x", "--command", fmt.Sprintf("%s %s %d", self, backendCommand, n.generation)); err != nil {
		return err
	}
	n.load.generation.Store(int64(n.generation))
	return nil
}

func signalTo(pid int, signal os.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(signal)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The kinds of requests.
const (
	kindNew    = iota // on a connection of its own
	kindKept          // on a kept one
	kindPost          // with a body, on a kept one: no client sends it twice by itself
	kindStream        // an answer that takes long
	kinds
)

// load sends requests in an open loop: at its times, whatever becomes of those before.
type load struct {
	plan       noLossPlan
	kept, once *http.Client
	generation atomic.Int64 // at least which an answer must come from

	mu     sync.Mutex
	sum    counts
	faults []string // the first ones
}

type counts struct {
	sent, failed, again, wrong int
	byKind                     [kinds]int
}

func newLoad(address string, plan noLossPlan) *load {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	l := &load{
		plan: plan,
		kept: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}, Timeout: time.Minute},
		once: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: time.Minute},
	}
	l.generation.Store(1)
	return l
}

// run sends until ctx ends, and waits for the answers of what was sent.
func (l *load) run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	tick := time.NewTicker(time.Second / time.Duration(l.plan.rate))
	defer tick.Stop()
	began, sent := time.Now(), 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		// A ticker leaves out what its reader was too late for.
		for due := int(time.Since(began).Seconds() * float64(l.plan.rate)); sent < due; sent++ {
			kind := [...]int{kindNew, kindKept, kindKept, kindPost}[sent%4]
			if sent%(l.plan.rate/4) == 0 {
				kind = kindStream
			}
			route := [...]string{"x", "x", "main"}[sent%3]
			group.Go(func() { l.request(kind, route) })
		}
	}
}

func (l *load) request(kind int, route string) {
	least := l.generation.Load()
	if route == "main" {
		least = 1
	}
	again, err := l.ask(kind, route, least)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum.sent++
	l.sum.byKind[kind]++
	if again {
		l.sum.again++
		err = errors.Join(err, errors.New("the client had to send it twice"))
	}
	if _, ok := errors.AsType[*wrongError](err); ok {
		l.sum.wrong++
	} else if err != nil && !again {
		l.sum.failed++
	}
	if err != nil && len(l.faults) < 10 {
		l.faults = append(l.faults, fmt.Sprintf("kind %d, route %s: %v", kind, route, err))
	}
}

func (l *load) total() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// wrongError is an answer by something else than was asked for.
type wrongError struct{ by string }

func (e *wrongError) Error() string { return "answered by " + e.by }

// ask makes one request. again says that the client got no answer on the first connection and
// took another: clients may do so by themselves, and not all do.
func (l *load) ask(kind int, route string, least int64) (again bool, err error) {
	connections := 0
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connections++ }}
	method, body, client := http.MethodGet, io.Reader(nil), l.kept
	target := url.URL{Scheme: "http", Host: "pricing.localhost", Path: "/"}
	switch kind {
	case kindNew:
		client = l.once
	case kindPost:
		method, body = http.MethodPost, bytes.NewReader(make([]byte, 20_000))
	case kindStream:
		target.Path, target.RawQuery = "/stream", url.Values{"for": {l.plan.stream.String()}}.Encode()
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), method, target.String(), body)
	if err != nil {
		return false, err
	}
	req.Header.Set("Baggage", "dynamic_route="+route)
	res, err := client.Do(req)
	if err != nil {
		return connections > 1, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	again = connections > 1
	if err != nil {
		return again, fmt.Errorf("after %d bytes: %w", len(text), err)
	}
	if res.StatusCode != http.StatusOK {
		return again, fmt.Errorf("%s: %s", res.Status, text)
	}
	return again, checkAnswer(kind, string(text), route, least)
}

// checkAnswer sees that an answer is whole, and by whom each part of it is.
func checkAnswer(kind int, text, route string, least int64) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if kind == kindStream {
		if lines[len(lines)-1] != streamEnd {
			return fmt.Errorf("the stream has no end after %d lines", len(lines))
		}
		lines = lines[:len(lines)-1]
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if len(words) < 2 {
			return fmt.Errorf("the answer is %q", line)
		}
		generation, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || words[0] != route || generation < least {
			return &wrongError{fmt.Sprintf("%q instead of %s, generation %d or later", line, route, least)}
		}
		if kind == kindPost && (len(words) != 3 || words[2] != "20000") {
			return fmt.Errorf("of 20000 bytes of a body the instance got %q", line)
		}
	}
	return nil
}

// lockedBuffer is written by one process after another.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
