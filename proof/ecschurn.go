package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

// churnPlan says how much the proof does. Each service has its default version, which is an ECS service that was adopted,
// and further ones.
type churnPlan struct {
	services, versions, replicas int
	killed                       float64 // share of the tasks that end by themselves in a minute
	proxies                      int
	rate                         int           // requests a second
	starting                     time.Duration // how long a task takes until it runs
	phase, throttled             time.Duration
}

func churnFull() churnPlan {
	return churnPlan{
		services: 20, versions: 4, replicas: 10, killed: 0.2, proxies: 5, rate: 200,
		starting: 5 * time.Second, phase: 40 * time.Second, throttled: 5 * time.Minute,
	}
}

func churnSmall() churnPlan {
	return churnPlan{
		services: 2, versions: 2, replicas: 3, killed: 6, proxies: 2, rate: 50,
		starting: 100 * time.Millisecond, phase: 2 * time.Second, throttled: 2 * time.Second,
	}
}

const (
	churnCalls    = 5.0  // a second, at most
	churnMore     = 1.15 // × as many calls with all proxies as with one, at most: each phase has other tasks end
	churnThrottle = 0.3  // of the pages
	churnWeek     = 7    // every so many-th service has its versions run as ECS services
)

// proveECSChurn has tasks end all the time, of an environment on the fake of ECS, with requests to all of its
// versions; and then has ECS refuse many of the questions.
func proveECSChurn(plan churnPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return ecsChurn(ctx, plan) }
}

func ecsChurn(ctx context.Context, plan churnPlan) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	c := &churning{environment: e, plan: plan, rand: rand.New(rand.NewPCG(1, 2)), faults: map[string]int{}}
	defer c.endAll()
	if err := c.prepare(ctx); err != nil {
		return result{}, err
	}
	if err := c.phases(ctx); err != nil {
		return result{}, fmt.Errorf("%w\nthe server said:\n%s", err, lastLines(c.said, 100))
	}
	for fault, times := range maps.All(c.faults) {
		fmt.Printf("  fault: %s (%d times)\n", fault, times)
	}
	one, all := c.measured[0], c.measured[1]
	sum, most := churnPhase{}, 0.0
	for _, m := range c.measured {
		sum.cut += m.cut
		sum.requests, sum.wrong, sum.failed, sum.lost, sum.killed = sum.requests+m.requests, sum.wrong+m.wrong, sum.failed+m.failed, sum.lost+m.lost, sum.killed+m.killed
		most = max(most, m.rate())
	}
	more := all.rate() / one.rate()
	tasks := plan.services * (plan.versions + 1) * plan.replicas
	return result{
		figure: fmt.Sprintf("%d tasks, of which %d ended: at most %.1f calls a second; %.2f × as many with %d proxies as with one; %d requests: %d wrong, %d failed, %d cut off with their task; %d routes lost",
			tasks, sum.killed, most, more, plan.proxies, sum.requests, sum.wrong, sum.failed, sum.cut, sum.lost),
		bar: fmt.Sprintf("%.0f calls a second; %.2f ×; 0 wrong, 0 failed, 0 lost, less than one cut off for ten tasks", churnCalls, churnMore),
		ok: most < churnCalls && more <= churnMore && sum.wrong+sum.failed+sum.lost == 0 && sum.cut < sum.killed/10 && sum.requests > 0 &&
			float64(sum.killed) > float64(len(c.measured))*float64(tasks)*plan.killed*plan.phase.Minutes()/2,
	}, nil
}

// churning is an environment on ECS whose tasks end all the time.
type churning struct {
	*environment
	plan    churnPlan
	cloud   *ecstest.Cloud
	queue   string
	server  *exec.Cmd
	said    *lockedBuffer
	client  *api.Client
	proxies []*exec.Cmd
	ports   []string // of the proxies, and behind them their admin ports
	rand    *rand.Rand

	measured []churnPhase

	mu     sync.Mutex
	sum    churnPhase
	faults map[string]int // in words
}

// churnPhase is what happened in one phase.
type churnPhase struct {
	took                                  time.Duration
	calls, throttled                      map[string]int
	requests, wrong, failed, lost, killed int
	cut                                   int // requests that were at a task when that was killed
}

// rate is how many calls a second ECS got, changes and questions.
func (p churnPhase) rate() float64 { return float64(ofECS(p.calls)) / p.took.Seconds() }

func ofECS(calls map[string]int) int {
	n := 0
	for action, times := range calls {
		if strings.HasPrefix(action, "ecs:") {
			n += times
		}
	}
	return n
}

func churnService(n int) string { return fmt.Sprintf("svc-%02d", n) }

// churnVersion is the name of a version of a service; the first one is the default.
func churnVersion(n int) string {
	if n == 0 {
		return "main"
	}
	return fmt.Sprintf("v%d", n)
}

// prepare makes the ECS services, deploys all versions, and starts the server anew as it is by default: what
// it may ask ECS in a second would let that many deployments take minutes.
func (c *churning) prepare(ctx context.Context) error {
	// A task answers with its image.
	runner := ecstest.NewHTTPRunner(func(_ ecstest.TaskSpec, container ecstest.ContainerSpec) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, container.Image) })
	})
	var err error
	if c.cloud, err = newCloud(runner); err != nil {
		return err
	}
	c.queue = c.cloud.CreateQueue("layover")
	if err := c.cloud.Forward(c.queue, `{"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}`); err != nil {
		return err
	}
	if err := useCloud(c.cloud, ecsRoot); err != nil {
		return err
	}
	yaml := &strings.Builder{}
	fmt.Fprintf(yaml, "environment: proof\necs: {cluster: %s}\nservices:\n", ecsCluster)
	for s := range c.plan.services {
		name := churnService(s)
		if err := ecsTemplate(ctx, ecsCluster, name, name+":main", int32(c.plan.replicas)); err != nil {
			return err
		}
		mode := "task"
		if s%churnWeek == 0 {
			mode = "service"
		}
		fmt.Fprintf(yaml, "  %s:\n    replicas: %d\n    run: {ecs: {service: %s, mode: %s, image: \"%s:{version}\"}}\n    versions:\n      main: {adopt: true}\n", name, c.plan.replicas, name, mode, name)
		for v := range c.plan.versions {
			fmt.Fprintf(yaml, "      %s: {}\n", churnVersion(v+1))
		}
	}
	if err := c.write(yaml.String()); err != nil {
		return err
	}
	if c.ports, err = freePorts(2 * c.plan.proxies); err != nil {
		return err
	}
	began := time.Now()
	if err := c.startServer(ctx, "LAYOVER_ECS_EVENTS="+c.queue, "LAYOVER_ECS_CALLS_PER_SECOND=100"); err != nil {
		return err
	}
	if err := c.whole(ctx, 10*time.Minute); err != nil {
		return err
	}
	fmt.Printf("  %d tasks of %d versions run after %.0f s, and %v calls\n", len(c.cloud.Tasks(ecsCluster)), c.plan.services*(c.plan.versions+1), time.Since(began).Seconds(), ofECS(c.cloud.Calls()))
	c.cloud.SetLimits(1)
	c.cloud.SetStartDelay(c.plan.starting)
	return nil
}

// startServer starts the server, in the place of the one that runs, and waits until it answers.
func (c *churning) startServer(ctx context.Context, variables ...string) error {
	c.endServer()
	c.said = &lockedBuffer{}
	c.server = exec.Command(c.binary, "server", "-f", filepath.Join(c.dir, "layover.yaml"))
	c.server.Env = append(os.Environ(), "LAYOVER_SERVER_LISTEN="+strings.TrimPrefix(c.serverURL, "http://"))
	c.server.Env = append(c.server.Env, variables...)
	c.server.Stdout, c.server.Stderr = c.said, c.said
	if err := c.server.Start(); err != nil {
		return err
	}
	var err error
	if c.client, err = api.NewClient(c.serverURL); err != nil {
		return err
	}
	return until(ctx, time.Minute, func() (bool, error) {
		_, err := c.client.Versions(ctx, api.VersionFilter{})
		return err == nil, nil
	}, func() string { return "the server does not answer; it said:\n" + c.said.String() })
}

func (c *churning) endServer() {
	if c.server == nil {
		return
	}
	c.client.Close()
	_ = c.server.Process.Signal(syscall.SIGTERM)
	_ = c.server.Wait() // it was asked to end
	c.server = nil
}

// startProxies starts proxies until there are so many, and waits until they have a table.
func (c *churning) startProxies(ctx context.Context, n int) error {
	for i := len(c.proxies); i < n; i++ {
		address, admin := "127.0.0.1:"+c.ports[2*i], "127.0.0.1:"+c.ports[2*i+1]
		said := &lockedBuffer{}
		proxy := exec.Command(c.binary, "proxy", "--server", c.serverURL, "--listen", address, "--admin", admin, "--id", fmt.Sprintf("edge-%d", i))
		proxy.Stdout, proxy.Stderr = said, said
		if err := proxy.Start(); err != nil {
			return err
		}
		c.proxies = append(c.proxies, proxy)
		up := func() (bool, error) {
			by, err := c.get(ctx, c.clientOf(i), churnService(0), churnVersion(1))
			return err == nil && by == churnService(0)+":"+churnVersion(1), nil
		}
		if err := until(ctx, time.Minute, up, func() string { return "a proxy does not answer; it said:\n" + said.String() }); err != nil {
			return err
		}
	}
	return nil
}

func (c *churning) endAll() {
	for _, p := range c.proxies {
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.Wait() // it was asked to end
	}
	c.endServer()
	if c.cloud != nil {
		_ = c.cloud.Close()
	}
}

// whole waits until every version runs, with all of its instances.
func (c *churning) whole(ctx context.Context, limit time.Duration) error {
	var missing []string
	return until(ctx, limit, func() (bool, error) {
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return false, err
		}
		versions, err := c.client.Versions(ctx, api.VersionFilter{})
		if err != nil {
			return false, fmt.Errorf("%w; it said:\n%s", err, c.said)
		}
		missing = nil
		for _, v := range versions {
			instances := v.Healthy
			if v.Run.Adopted() {
				instances = addresses(v)
			}
			if v.State == api.StateFailed {
				return false, fmt.Errorf("%s did not come up: %s", v.ID(), v.Reason)
			}
			if v.State != api.StateRunning || instances < c.plan.replicas {
				missing = append(missing, fmt.Sprintf("%s is %s with %d instances %s", v.ID(), v.State, instances, v.Reason))
			}
		}
		return len(versions) == c.plan.services*(c.plan.versions+1) && len(missing) == 0, nil
	}, func() string { return "not everything runs: " + strings.Join(missing, "; ") })
}

func (c *churning) phases(ctx context.Context) error {
	type phase struct {
		name     string
		proxies  int
		variable string // of the server, which is started anew where it is another
		faults   ecstest.Faults
		lasts    time.Duration
	}
	throttled := ecstest.Faults{Throttle: churnThrottle}
	events, poll := "LAYOVER_ECS_EVENTS="+c.queue, "LAYOVER_ECS_EVENTS="
	fmt.Printf("  30 %% of the pages are throttled for %s; the clock is not scaled down\n", c.plan.throttled)
	last := ""
	for _, p := range []phase{
		{"events, one proxy", 1, events, ecstest.Faults{}, c.plan.phase},
		{"events", c.plan.proxies, events, ecstest.Faults{}, c.plan.phase},
		{"events, throttled", c.plan.proxies, events, throttled, c.plan.phase},
		{"polling", c.plan.proxies, poll, ecstest.Faults{}, c.plan.phase},
		{"polling, throttled", c.plan.proxies, poll, throttled, c.plan.throttled},
	} {
		c.cloud.SetFaults(ecstest.Faults{})
		if p.variable != last {
			last = p.variable
			if err := c.startServer(ctx, p.variable); err != nil {
				return err
			}
		}
		if err := c.startProxies(ctx, p.proxies); err != nil {
			return err
		}
		before, began := c.cloud.Calls(), time.Now()
		err := c.whole(ctx, 3*time.Minute)
		fmt.Printf("  all run after %.0f s; meanwhile: %s\n", time.Since(began).Seconds(), inWords(less(c.cloud.Calls(), before)))
		if err != nil {
			return fmt.Errorf("before %s: %w", p.name, err)
		}
		if p.proxies == 1 { // what is asked once behind a start of the server is not of the one proxy
			if err := c.measure(ctx, "warming up", p.lasts*3/4); err != nil {
				return err
			}
			c.measured = nil
		}
		c.cloud.SetFaults(p.faults)
		if err := c.measure(ctx, p.name, p.lasts); err != nil {
			return err
		}
	}
	return nil
}

// measure has tasks end, and sends requests, for a while.
func (c *churning) measure(ctx context.Context, name string, lasts time.Duration) error {
	calls, throttled, began := c.cloud.Calls(), c.cloud.Throttled(), time.Now()
	c.mu.Lock()
	c.sum = churnPhase{}
	c.mu.Unlock()
	working, end := context.WithTimeout(ctx, lasts)
	defer end()
	var group sync.WaitGroup
	group.Go(func() { c.kills(working) })
	group.Go(func() { c.watches(working) })
	for i := range c.proxies {
		group.Go(func() { c.asks(working, i) })
	}
	group.Wait()
	c.mu.Lock()
	p := c.sum
	c.mu.Unlock()
	p.took = time.Since(began)
	p.calls, p.throttled = less(c.cloud.Calls(), calls), less(c.cloud.Throttled(), throttled)
	c.measured = append(c.measured, p)
	fmt.Printf("  %-20s %d proxies  %4.0f s  %3d ended  %5.2f calls/s  %3d throttled  %6d requests  %d wrong  %d failed  %d lost\n      %s\n",
		name, len(c.proxies), p.took.Seconds(), p.killed, p.rate(), ofECS(p.throttled), p.requests, p.wrong, p.failed, p.lost, inWords(p.calls))
	return ctx.Err()
}

func less(now, before map[string]int) map[string]int {
	out := maps.Clone(now)
	for action, times := range before {
		if out[action] -= times; out[action] == 0 {
			delete(out, action)
		}
	}
	return out
}

func inWords(calls map[string]int) string {
	var out []string
	for _, action := range slices.Sorted(maps.Keys(calls)) {
		out = append(out, fmt.Sprintf("%s %d", action, calls[action]))
	}
	return strings.Join(out, ", ")
}

// kills has one task after the other end by itself.
func (c *churning) kills(ctx context.Context) {
	tasks := float64(c.plan.services * (c.plan.versions + 1) * c.plan.replicas)
	tick := time.NewTicker(time.Duration(float64(time.Minute) / (tasks * c.plan.killed)))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		running := slices.DeleteFunc(c.cloud.Tasks(ecsCluster), func(t ecstest.TaskInfo) bool { return t.Status != "RUNNING" })
		slices.SortFunc(running, func(a, b ecstest.TaskInfo) int { return cmp.Compare(a.ARN, b.ARN) })
		if len(running) > 0 {
			c.cloud.KillTask(running[c.rand.IntN(len(running))].ARN, 1)
			c.count(func(p *churnPhase) { p.killed++ })
		}
	}
}

// watches looks, again and again, whether each version is still in the routing table.
func (c *churning) watches(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		versions, err := c.client.Versions(ctx, api.VersionFilter{})
		if err != nil {
			if ctx.Err() == nil {
				c.fault("list: "+err.Error(), func(p *churnPhase) { p.failed++ })
			}
			continue
		}
		for range c.plan.services*(c.plan.versions+1) - len(versions) {
			c.fault("a version is not there", func(p *churnPhase) { p.lost++ })
		}
		for _, v := range versions {
			if v.State != api.StateRunning || v.Serving == 0 || v.Healthy == 0 {
				c.fault(fmt.Sprintf("%s is %s, %d healthy: %s", v.ID(), v.State, v.Healthy, v.Reason), func(p *churnPhase) { p.lost++ })
			}
		}
	}
}

// asks sends requests to a proxy, to all versions in turn.
func (c *churning) asks(ctx context.Context, proxy int) {
	client := c.clientOf(proxy)
	defer client.CloseIdleConnections()
	tick := time.NewTicker(time.Duration(len(c.proxies)) * time.Second / time.Duration(c.plan.rate))
	defer tick.Stop()
	var group sync.WaitGroup
	defer group.Wait()
	for n := proxy; ; n += len(c.proxies) + 1 { // so that every proxy is asked for every version
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		service, version := churnService(n%c.plan.services), churnVersion(n/c.plan.services%(c.plan.versions+1))
		group.Go(func() {
			by, err := c.get(context.WithoutCancel(ctx), client, service, version)
			switch want := service + ":" + version; {
			case err != nil && strings.Contains(err.Error(), "closed the connection before it answered"):
				c.count(func(p *churnPhase) { p.requests++; p.cut++ }) // it was there when its task was killed
			case err != nil:
				c.fault(fmt.Sprintf("%s: %v", want, err), func(p *churnPhase) { p.requests++; p.failed++ })
			case by != want:
				c.fault(want+" answered by "+by, func(p *churnPhase) { p.requests++; p.wrong++ })
			default:
				c.count(func(p *churnPhase) { p.requests++ })
			}
		})
	}
}

// clientOf returns a client that has a proxy for every host.
func (c *churning) clientOf(proxy int) *http.Client {
	address := "127.0.0.1:" + c.ports[2*proxy]
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
}

// get makes a request as one that comes without a route, for the default version, and returns which task answered.
func (c *churning) get(ctx context.Context, client *http.Client, service, version string) (by string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+service+".localhost/", nil)
	if err != nil {
		return "", err
	}
	if version != "main" {
		req.Header.Set("Baggage", "dynamic_route="+version)
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1000))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d: %s", res.StatusCode, string(body)[:min(len(body), 600)])
	}
	return string(body), err
}

func (c *churning) count(change func(*churnPhase)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.sum)
}

func (c *churning) fault(text string, change func(*churnPhase)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.sum)
	if len(c.faults) < 20 || c.faults[text] > 0 {
		c.faults[text]++
	}
}

// addresses is how many addresses the instances of a version have.
func addresses(v api.Version) int {
	n := 0
	for _, i := range v.Instances {
		n += len(i.Addresses)
	}
	return n
}
