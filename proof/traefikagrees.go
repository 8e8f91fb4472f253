package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/gateway/redis"
	"github.com/layover-dev/layover/internal/gateway/redis/redistest"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/proxy"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/route/routetest"
)

// hops is the field that Layover's proxy adds to what it forwards: who has it came through the proxy.
const hops = "Layover-Hops"

// proveTraefikAgrees sends every routing case of package route through the real Traefik, with Layover's proxy behind
// it, and compares what answers with what the table decides.
func proveTraefikAgrees(ctx context.Context) (result, error) {
	cases := agreeCases()
	a := &agreement{cases: cases, seen: make([][]string, len(cases))}
	for _, mode := range []traefik.Mode{traefik.Full, traefik.Hybrid} {
		for _, provider := range []string{"http", "redis"} {
			for _, noHeader := range []bool{false, true} {
				if err := a.run(ctx, mode, provider, noHeader); err != nil {
					return result{}, fmt.Errorf("mode %s on the %s provider: %w", mode, provider, err)
				}
			}
		}
	}
	if err := proveTraefikTakesAll(ctx); err != nil {
		return result{}, err
	}
	a.print()
	return result{
		figure: fmt.Sprintf("%d cases, each in 2 modes on 2 providers: %d requests answered by Traefik itself, %d by way of Layover's proxy, %d untouched; %d could not be sent, %d have a limit that `layover gateway check` lists; %d disagree",
			len(cases), a.count["direct"], a.count["proxy"], a.count["none"], a.count["n.a."], a.count["limit"], a.wrong),
		bar: "none disagrees",
		ok:  a.wrong == 0 && a.count["direct"] > 100,
	}, nil
}

// agreeCases are those of the tests of package route that have a request.
func agreeCases() []routetest.Case {
	all := routetest.Cases("")
	for _, m := range routetest.MemberCases() {
		all = append(all, routetest.Case{Group: "member", Name: m.Name, Request: route.Request{Host: "cart.localhost", Baggage: m.Lines}})
	}
	return all
}

// agreeSpec is the environment of the cases; the values of the members are versions of it.
func agreeSpec(noHeader bool) route.Spec {
	spec := routetest.Shop()
	spec.Environment, spec.Hold = "shop", 300*time.Millisecond
	if noHeader {
		spec.RouteHeader = ""
	}
	for _, name := range []string{"x", "y"} {
		spec.Services[0].Versions = append(spec.Services[0].Versions, route.Version{
			Name: name, State: route.Ready, Instances: []route.Instance{{ID: "i", Address: "127.0.0.1:9000"}},
		})
	}
	return spec
}

// agreement collects what came of the cases.
type agreement struct {
	cases []routetest.Case
	seen  [][]string // of each case: how it was answered
	count map[string]int
	wrong int
}

// run sends all cases of one environment through one Traefik.
func (a *agreement) run(ctx context.Context, mode traefik.Mode, provider string, noHeader bool) (err error) {
	s, err := newAgreeScene(ctx, mode, provider, agreeSpec(noHeader))
	if err != nil {
		return err
	}
	defer s.stop()
	if a.count == nil {
		a.count = map[string]int{}
	}
	for i, c := range a.cases {
		if c.NoHeader != noHeader {
			continue
		}
		how, problem, err := s.check(ctx, c)
		if err != nil {
			return fmt.Errorf("%s %q: %w", c.Group, c.Name, err)
		}
		a.count[how]++
		if problem != "" {
			a.wrong++
			how = "WRONG: " + problem
		}
		a.seen[i] = append(a.seen[i], fmt.Sprintf("%s/%s %s", mode, provider, how))
	}
	return nil
}

// print prints a line for each case, with what is the same on both providers once.
func (a *agreement) print() {
	for i, c := range a.cases {
		fmt.Printf("  %-8s %-42q %s\n", c.Group, c.Name, strings.Join(a.seen[i], ", "))
	}
}

// agreeScene is Traefik, Layover's proxy, and an instance of each version.
type agreeScene struct {
	table     *route.Table
	config    *traefik.Config
	evaluator *traefik.Evaluator
	address   string // of Traefik
	fallBack  string // address of Layover's proxy
	labels    string // path of the file that has what was there before Layover
	offered   atomic.Pointer[[]byte]
	stops     []func()
}

func (s *agreeScene) stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
}

func newAgreeScene(ctx context.Context, mode traefik.Mode, provider string, spec route.Spec, more ...string) (s *agreeScene, err error) {
	s = &agreeScene{}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if err := s.startInstances(&spec); err != nil {
		return s, err
	}
	if s.table, err = route.Compile(spec); err != nil {
		return s, err
	}
	if s.fallBack, err = s.startProxy(ctx); err != nil {
		return s, err
	}
	if s.config, err = traefik.Build(s.table, traefik.Settings{Mode: mode, Proxies: []string{"http://" + s.fallBack}}); err != nil {
		return s, err
	}
	if s.evaluator, err = traefik.Compile(s.config); err != nil {
		return s, err
	}
	start := s.provideHTTP
	if provider == "redis" {
		start = s.provideRedis
	}
	args, err := start(ctx)
	if err != nil {
		return s, err
	}
	process, address, err := harness.StartTraefik(ctx, append(args, more...)...)
	if err != nil {
		return s, err
	}
	s.stops = append(s.stops, process.Stop)
	s.address = address
	if err := s.ready(ctx); err != nil {
		return s, fmt.Errorf("%w; Traefik said: %s", err, process.Said())
	}
	return s, nil
}

// startInstances gives each version an instance that says which it is.
func (s *agreeScene) startInstances(spec *route.Spec) error {
	for i := range spec.Services {
		for j := range spec.Services[i].Versions {
			v := &spec.Services[i].Versions[j]
			if len(v.Instances) == 0 {
				continue
			}
			id := spec.Services[i].Name + "@" + v.Name
			address, err := s.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Proof-Instance", id)
				w.Header().Set("Proof-Hops", r.Header.Get(hops))
			}))
			if err != nil {
				return err
			}
			v.Instances = []route.Instance{{ID: "i-" + id, Address: address}}
		}
	}
	return nil
}

// serve serves at a loopback address until the scene ends.
func (s *agreeScene) serve(h http.Handler) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var group sync.WaitGroup
	group.Go(func() { _ = srv.Serve(l) }) // it is closed below
	s.stops = append(s.stops, func() {
		_ = srv.Close()
		group.Wait()
	})
	return l.Addr().String(), nil
}

func (s *agreeScene) startProxy(ctx context.Context) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	p := proxy.New(proxy.Options{Logger: slog.New(slog.DiscardHandler), DrainTimeout: time.Second})
	p.SetTable(s.table)
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Run(running, proxy.Listener{Listener: l}) }()
	s.stops = append(s.stops, func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			fmt.Println("  the proxy ended:", err)
		}
	})
	return l.Addr().String(), nil
}

// labelled answers for what Traefik routes by a rule that was there before Layover.
const labelled = "labels"

// provideHTTP serves the configuration as Layover's server does, beside a router without a priority such as a label makes.
func (s *agreeScene) provideHTTP(context.Context) ([]string, error) {
	if err := s.offer(s.config); err != nil {
		return nil, err
	}
	old, err := s.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Proof-Instance", labelled) }))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "layover-proof-traefik-")
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() { _ = os.RemoveAll(dir) })
	s.labels = filepath.Join(dir, "labels.yaml")
	text := "http:\n  routers: {old: {rule: 'Host(`cart.localhost`)', service: old}}\n  services: {old: {loadBalancer: {servers: [{url: 'http://" + old + "'}]}}}\n"
	if err := os.WriteFile(s.labels, []byte(text), 0o600); err != nil {
		return nil, err
	}
	endpoint, err := s.serveOffered()
	return []string{
		"--providers.http.endpoint=" + endpoint, "--providers.http.pollinterval=500ms", "--providers.file.filename=" + s.labels,
	}, err
}

// serveOffered serves the configuration that is offered, and returns its URL.
func (s *agreeScene) serveOffered() (string, error) {
	address, err := s.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(*s.offered.Load())
	}))
	return "http://" + address + "/gateway/traefik", err
}

// offer makes a configuration the one that is served from now on.
func (s *agreeScene) offer(c *traefik.Config) error {
	text, err := c.JSON()
	s.offered.Store(&text)
	return err
}

// proveTraefikTakesAll has Layover's routers run beside those of labels, which go first then, and goes through configurations
// that lack something: nothing that answers, then no service at all.
func proveTraefikTakesAll(ctx context.Context) error {
	s, err := newAgreeScene(ctx, traefik.Hybrid, "http", agreeSpec(false))
	if err != nil {
		return err
	}
	defer s.stop()
	beside, err := traefik.Build(s.table, traefik.Settings{Mode: traefik.Full, Priority: -10_000, Proxies: []string{"http://" + s.fallBack}})
	if err != nil {
		return err
	}
	if err := s.offer(beside); err != nil {
		return err
	}
	if err := waitFor(ctx, "the labels to go before routers with a priority below zero", func() bool {
		a, err := s.send(ctx, &route.Request{Host: "cart.localhost"})
		return err == nil && a.instance == labelled
	}); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		spec route.Spec
		is   func(agreeAnswer) bool
	}{
		{
			"a service without a version that answers",
			route.Spec{Environment: "shop", Services: []route.Service{{Name: "cart"}}},
			func(a agreeAnswer) bool { return a.byProxy }, // which has the whole table
		},
		{"no service", route.Spec{Environment: "shop"}, func(a agreeAnswer) bool { return a.instance == labelled }},
	} {
		table, err := route.Compile(step.spec)
		if err != nil {
			return err
		}
		config, err := traefik.Build(table, traefik.Settings{Mode: traefik.Hybrid, Proxies: []string{"http://" + s.fallBack}})
		if err != nil {
			return err
		}
		if err := s.offer(config); err != nil {
			return err
		}
		if err := waitFor(ctx, "Traefik to take up "+step.name, func() bool {
			a, err := s.send(ctx, &route.Request{Host: "cart.localhost"})
			return err == nil && a.status == http.StatusOK && step.is(a)
		}); err != nil {
			return err
		}
	}
	return nil
}

// provideRedis has Layover's writer write it.
func (s *agreeScene) provideRedis(ctx context.Context) ([]string, error) {
	dir, err := os.MkdirTemp("", "layover-proof-redis-")
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() { _ = os.RemoveAll(dir) })
	server, err := redistest.Start(dir)
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, server.Stop)
	writer := redis.New(redis.Options{
		Address: server.Address, Password: func() (string, error) { return redistest.Password, nil },
		Own: traefik.Kinds("traefik", "shop"), Stamp: "layover--shop--traefik",
		Wanted: func(context.Context) (string, func() map[string]string, error) {
			return "1", func() map[string]string { return s.config.Pairs("traefik") }, nil
		},
		Wait: func(ctx context.Context) { <-ctx.Done() },
	})
	running, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { _ = writer.Run(running) })
	s.stops = append(s.stops, func() {
		cancel()
		group.Wait()
	})
	return []string{
		"--providers.redis.endpoints=" + server.Address, "--providers.redis.password=" + redistest.Password, "--providers.redis.rootkey=traefik",
	}, waitFor(ctx, "the configuration to be in Redis", func() bool { return writer.Status().Written })
}

// ready waits until Traefik has the configuration: it takes up all of it at once.
func (s *agreeScene) ready(ctx context.Context) error {
	return waitFor(ctx, "Traefik to take up the configuration", func() bool {
		answer, err := s.send(ctx, &route.Request{Host: "cart.localhost"})
		return err == nil && answer.instance == "cart@main"
	})
}

func waitFor(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// agreeAnswer is what came back.
type agreeAnswer struct {
	status   int
	instance string // that answered
	byProxy  bool   // of Layover
	code     string // of a problem that Layover's proxy answered with
	servedBy string
}

var errCannotBeSent = errors.New("it cannot be sent")

// send writes the request as it stands: no library is to mend it.
func (s *agreeScene) send(ctx context.Context, r *route.Request) (agreeAnswer, error) {
	return s.sendTo(ctx, s.address, "close", r)
}

// sendTo sends it to Traefik or to Layover's proxy.
func (s *agreeScene) sendTo(ctx context.Context, address, connection string, r *route.Request) (agreeAnswer, error) {
	var b strings.Builder
	b.WriteString("GET / HTTP/1.1\r\nHost: " + r.Host + "\r\nConnection: " + connection + "\r\n")
	for name, lines := range map[string][]string{"Baggage": r.Baggage, "X-Route": r.Header, "Cookie": r.Cookie} {
		for _, line := range lines {
			if strings.ContainsAny(line, "\r\n\x00") {
				return agreeAnswer{}, errCannotBeSent
			}
			b.WriteString(name + ": " + line + "\r\n")
		}
	}
	if strings.ContainsAny(r.Host, "\r\n\x00") {
		return agreeAnswer{}, errCannotBeSent
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return agreeAnswer{}, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, b.String()+"\r\n"); err != nil {
		return agreeAnswer{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return agreeAnswer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	h := resp.Header
	return agreeAnswer{
		status: resp.StatusCode, instance: h.Get("Proof-Instance"), code: h.Get("Layover-Error"), servedBy: h.Get(traefik.HeaderServedBy),
		byProxy: h.Get("Proof-Hops") != "" || h.Get("Layover-Error") != "",
	}, nil
}

// check sends a case, and says how it was answered and what of that is wrong.
func (s *agreeScene) check(ctx context.Context, c routetest.Case) (how, problem string, err error) {
	answer, err := s.send(ctx, &c.Request)
	if errors.Is(err, errCannotBeSent) {
		return "n.a.", "", nil
	}
	if err != nil {
		return "", "", err
	}
	if answer.status == http.StatusBadRequest && !answer.byProxy && answer.instance == "" {
		return "n.a.", "", nil // no request to Traefik's parser
	}
	switch {
	case answer.byProxy:
		how = "proxy"
	case answer.instance != "":
		how = "direct"
	default:
		how = "none"
	}
	seen := &traefik.Request{Host: c.Request.Host, Path: "/", Header: http.Header{"Baggage": c.Request.Baggage, "X-Route": c.Request.Header, "Cookie": c.Request.Cookie}}
	predicted := s.evaluator.Decide(seen)
	if want := kindOf(predicted); want != how {
		return how, fmt.Sprintf("it was answered in the way %q, and the evaluator says %q (%s)", how, want, cmp.Or(predicted.Router, "no router")), nil
	}
	problem = s.differs(s.table.Resolve(&c.Request), answer)
	if problem != "" && traefik.Limit(seen, s.table) != "" {
		return "limit", "", nil
	}
	return how, problem, nil
}

func kindOf(a traefik.Answer) string {
	switch {
	case a.Proxy:
		return "proxy"
	case a.Router != "":
		return "direct"
	}
	return "none"
}

// differs says in what an answer is not what the table decides.
func (s *agreeScene) differs(d route.Decision, a agreeAnswer) string {
	code := map[route.Outcome]string{route.UnknownRoute: "unknown-route", route.NoVersion: "no-version"}[d.Outcome]
	switch {
	case d.Outcome == route.UnknownHost:
		if a.instance != "" || a.status != http.StatusNotFound && a.status != http.StatusBadRequest {
			return fmt.Sprintf("the host is unknown, and %s answered %d", a.instance, a.status)
		}
	case d.Outcome != route.Found:
		if a.code != code {
			return fmt.Sprintf("it should be the problem %s, and is %d %q of %s", code, a.status, a.code, a.instance)
		}
	case d.Version.State != route.Ready:
		if a.instance != "" || a.status != http.StatusServiceUnavailable {
			return fmt.Sprintf("%s is %s, and %s answered %d", d.Version.ID, d.Version.State, a.instance, a.status)
		}
	case a.instance != d.Version.ID:
		return fmt.Sprintf("%s should answer, and %s did (%d %s)", d.Version.ID, a.instance, a.status, a.code)
	case a.servedBy != d.ServedBy():
		return fmt.Sprintf("it should say %q, and says %q", d.ServedBy(), a.servedBy)
	}
	return ""
}
