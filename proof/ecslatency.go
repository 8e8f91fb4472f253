package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/bench/harness"
	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

// latencyPlan is how much is measured.
type latencyPlan struct {
	told, polled latencyRound
	poll         time.Duration // between two looks without events
	traefik      []int         // seconds between two looks of Traefik's
	sabotage     bool          // no event gets into the queue
}

// latencyRound are tasks that begin at random moments within a time: of versions that are deployed, and of main.
type latencyRound struct {
	versions, mains int
	within          time.Duration
}

const (
	latencyBar    = 200 * time.Millisecond // with events
	latencyCall   = 20 * time.Millisecond  // what every call of the API takes
	latencyGiveUp = time.Minute
)

func latencyFull() latencyPlan {
	return latencyPlan{
		told: latencyRound{versions: 18, mains: 4, within: 45 * time.Second}, polled: latencyRound{versions: 9, mains: 3, within: 20 * time.Second},
		poll: 5 * time.Second, traefik: []int{15, 1},
	}
}

func latencySmall() latencyPlan {
	return latencyPlan{
		told: latencyRound{versions: 3, mains: 1, within: time.Second}, polled: latencyRound{versions: 2, mains: 1, within: time.Second},
		poll: 2 * time.Second,
	}
}

// proveECSLatency starts tasks of ECS at random moments, and takes the time from where ECS has one as RUNNING, and it answers
// its health check, to the first request that it gets through a proxy. The same tasks are found by Traefik's own provider for ECS.
func proveECSLatency(plan latencyPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return ecsLatency(ctx, plan) }
}

func ecsLatency(ctx context.Context, plan latencyPlan) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	fmt.Println("  with events")
	told, err := latencyOf(ctx, e, plan, plan.told, true)
	if err != nil {
		return result{}, fmt.Errorf("with events: %w", err)
	}
	fmt.Printf("  without events, a look every %s\n", plan.poll)
	polled, err := latencyOf(ctx, e, plan, plan.polled, false)
	if err != nil {
		return result{}, fmt.Errorf("without events: %w", err)
	}
	figures := []string{fmt.Sprintf("RUNNING and healthy to routed: with events %s", told.routed), fmt.Sprintf("without, a look every %s, %s", plan.poll, polled.routed)}
	for i, seconds := range plan.traefik {
		figures = append(figures, fmt.Sprintf("Traefik's provider every %d s %s", seconds, told.traefik[i]))
	}
	return result{
		figure: strings.Join(figures, "; "),
		bar:    fmt.Sprintf("%s at the worst with events, %s without", latencyBar, plan.poll),
		ok:     told.routed.worst() < latencyBar && polled.routed.worst() < plan.poll && told.early+polled.early == 0,
	}, nil
}

// delays are how long it took.
type delays []time.Duration

func (d delays) worst() time.Duration { return slices.Max(d) }

func (d delays) median() time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }

func (d delays) String() string {
	return fmt.Sprintf("%d ms (worst of %d: %d ms)", d.median().Milliseconds(), len(d), d.worst().Milliseconds())
}

// latencies are what a round gave.
type latencies struct {
	routed  delays   // through Layover's proxy
	traefik []delays // through each Traefik
	early   int      // were routed before they were healthy
}

// latencyTask is a task that comes up.
type latencyTask struct {
	service, version string
	slow             time.Duration // from its start until its health check is content

	started chan struct{} // closed once the rest is set
	id      string
	healthy time.Time
}

func (t *latencyTask) name() string { return t.service + "@" + t.version }

// latencyScene is a cloud, Layover and Traefik over it, and who asks them.
type latencyScene struct {
	*environment
	cloud   *ecstest.Cloud
	keys    []string // access keys: of Layover, and of each Traefik
	queue   string
	seconds []int
	edges   []string // addresses: of Layover's proxy, and of each Traefik
	client  *api.Client
	asker   *http.Client
	began   time.Time
	stops   []func()

	mu       sync.Mutex
	random   *rand.Rand
	expected map[string]*latencyTask // those that have not started yet, by name
	took     latencies
}

// latencyOf measures one round on a cloud of its own.
func latencyOf(ctx context.Context, e *environment, plan latencyPlan, round latencyRound, events bool) (latencies, error) {
	s := &latencyScene{
		environment: e, random: rand.New(rand.NewPCG(3, 1)), expected: map[string]*latencyTask{},
		asker: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: latencyGiveUp},
	}
	defer s.stop()
	err := s.start(ctx, plan, events)
	if err == nil {
		err = s.run(ctx, round)
	}
	if err != nil {
		return latencies{}, fmt.Errorf("%w; up said:\n%s", err, e.said)
	}
	s.printCalls()
	return s.took, e.end()
}

func (s *latencyScene) stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
}

// handle gives a container what it answers: its task, and as soon as it is healthy, that.
func (s *latencyScene) handle(task ecstest.TaskSpec, c ecstest.ContainerSpec) http.Handler {
	name := cmp.Or(c.Env["LAYOVER_SERVICE"], "cart") + "@" + cmp.Or(c.Env["LAYOVER_VERSION"], "main") // main has neither
	now := time.Now()
	healthy := now
	s.mu.Lock()
	if t := s.expected[name]; t != nil {
		delete(s.expected, name)
		healthy = now.Add(t.slow)
		t.id, t.healthy = task.ID, healthy
		close(t.started)
	}
	s.mu.Unlock()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && time.Now().Before(healthy) {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, task.ID)
	})
}

// start runs everything, with one task of main.
func (s *latencyScene) start(ctx context.Context, plan latencyPlan, events bool) error {
	var err error
	if s.cloud, err = newCloud(ecstest.NewHTTPRunner(s.handle)); err != nil {
		return err
	}
	s.stops = append(s.stops, func() { _ = s.cloud.Close() })
	s.cloud.SetLimits(1)
	s.cloud.SetFaults(ecstest.Faults{Latency: latencyCall})
	if err := useCloud(s.cloud, ecsRoot); err != nil {
		return err
	}
	for _, service := range latencyServices() {
		if err := ecsTemplate(ctx, ecsCluster, service, "app:main", 1); err != nil {
			return err
		}
	}
	if err := s.startLayover(ctx, plan, events); err != nil || !events {
		return err
	}
	for _, seconds := range plan.traefik {
		if err := s.startTraefik(ctx, seconds); err != nil {
			return fmt.Errorf("traefik: %w", err)
		}
	}
	return nil
}

// addUser makes a user who may do everything; calls are counted for each.
func (s *latencyScene) addUser(name string) (key, secret string, err error) {
	key, secret, err = s.cloud.AddUser(name, `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}`)
	s.keys = append(s.keys, key)
	return key, secret, err
}

// The versions of cart are tasks, those of orders ECS services. Both have an ECS service as main.
func latencyServices() []string { return []string{"cart", "orders"} }

// startLayover runs a server, and a proxy of its own.
func (s *latencyScene) startLayover(ctx context.Context, plan latencyPlan, events bool) error {
	key, _, err := s.addUser("layover")
	if err != nil {
		return err
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	yaml := fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
ecs: {cluster: %s, poll: %s}
defaults: {health: {path: /healthz}, timeout: 1m}
services:
  cart: {run: {ecs: {service: cart, image: "app:{version}"}}, versions: {main: {adopt: true}}}
  orders: {run: {ecs: {service: orders, mode: service, image: "app:{version}"}}, versions: {main: {adopt: true}}}
`, s.proxyPort, ecsCluster, plan.poll)
	if events {
		s.queue = s.cloud.CreateQueue("layover")
		yaml = strings.Replace(yaml, "poll:", "events: "+s.queue+", poll:", 1)
		if !plan.sabotage {
			if err := s.cloud.Forward(s.queue, `{"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}`); err != nil {
				return err
			}
		}
	}
	s.variables = awsVariables(s.cloud, key)
	if err := s.write(yaml); err != nil {
		return err
	}
	if err := s.environment.start(ctx); err != nil {
		return err
	}
	if err := s.allRun(ctx); err != nil {
		return err
	}
	if s.client, err = api.NewClient(s.serverURL); err != nil {
		return err
	}
	s.stops = append(s.stops, s.client.Close)
	s.edges = append(s.edges, "127.0.0.1:"+ports[0])
	said := &lockedBuffer{}
	proxy := exec.Command(s.binary, "proxy", "--server", s.serverURL, "--listen", s.edges[0], "--admin", "127.0.0.1:"+ports[1], "--id", "edge-1")
	proxy.Env = append(os.Environ(), "AWS_ENDPOINT_URL=") // it asks AWS nothing
	proxy.Stdout, proxy.Stderr = said, said
	if err := proxy.Start(); err != nil {
		return err
	}
	s.stops = append(s.stops, func() {
		_ = proxy.Process.Signal(syscall.SIGTERM)
		_ = proxy.Wait() // it was asked to end
	})
	return until(ctx, time.Minute, func() (bool, error) { return s.ask(ctx, s.edges[0], "cart.localhost", "") != "", nil },
		func() string { return "the proxy does not answer; it said:\n" + said.String() })
}

// startTraefik runs Traefik with its provider for ECS, which has each task answer for a name of its own. Beside the interval it is
// as quick as can be: it takes every change at once.
func (s *latencyScene) startTraefik(ctx context.Context, seconds int) error {
	key, secret, err := s.addUser(fmt.Sprintf("traefik-%d", seconds))
	if err != nil {
		return err
	}
	process, address, err := harness.StartTraefik(ctx, "--providers.ecs=true", "--providers.ecs.clusters="+ecsCluster,
		"--providers.ecs.region=eu-central-1", "--providers.ecs.accesskeyid="+key, "--providers.ecs.secretaccesskey="+secret,
		fmt.Sprintf("--providers.ecs.refreshseconds=%d", seconds), "--providers.providersthrottleduration=0s")
	if err != nil {
		return err
	}
	s.stops = append(s.stops, process.Stop)
	s.seconds, s.edges, s.took.traefik = append(s.seconds, seconds), append(s.edges, address), append(s.took.traefik, nil)
	return until(ctx, time.Minute, func() (bool, error) { return s.ask(ctx, address, "service-cart-app", "") != "", nil },
		func() string { return "it does not answer for main; it said:\n" + process.Said() })
}

// run starts tasks at random moments, and waits until each was asked.
func (s *latencyScene) run(ctx context.Context, round latencyRound) error {
	s.began = time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i := range round.versions {
		t := &latencyTask{service: latencyServices()[i%2], version: fmt.Sprintf("v-%d", i+1), slow: s.slowness(i / 2)}
		at := s.upTo(round.within)
		group.Go(func() error {
			if err := wait(ctx, at); err != nil {
				return err
			}
			return s.measure(ctx, t, func() error {
				_, err := s.client.Deploy(ctx, t.service, t.version, api.Deployment{Source: "api"})
				return err
			})
		})
	}
	group.Go(func() error { // main gets one more, again and again
		for i := range round.mains {
			if err := wait(ctx, s.upTo(round.within/time.Duration(round.mains))); err != nil {
				return err
			}
			t := &latencyTask{service: "cart", version: "main", slow: s.slowness(i)}
			if err := s.measure(ctx, t, func() error { return s.cloud.UpdateService(ecsCluster, "cart", i+2, "") }); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// slowness is how long a task takes until it is healthy: some no time, some up to a second, and some seconds.
func (s *latencyScene) slowness(i int) time.Duration {
	switch i % 3 {
	case 0:
		return 0
	case 1:
		return s.upTo(time.Second)
	}
	return 3*time.Second + s.upTo(3*time.Second)
}

func (s *latencyScene) upTo(d time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.random.Int64N(int64(d)))
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// measure has a task be started, and asks for it until it answers: through Layover's proxy from its deployment on, and through
// each Traefik once it has started.
func (s *latencyScene) measure(ctx context.Context, t *latencyTask, begin func() error) error {
	ctx, cancel := context.WithTimeout(ctx, latencyGiveUp)
	defer cancel()
	t.started = make(chan struct{})
	s.cloud.SetStartDelay(500*time.Millisecond + s.upTo(1500*time.Millisecond))
	s.mu.Lock()
	s.expected[t.name()] = t
	s.mu.Unlock()
	if err := begin(); err != nil {
		return err
	}
	answered := make([]time.Time, len(s.edges))
	group, asking := errgroup.WithContext(ctx)
	group.Go(func() error {
		route := t.version
		if route == "main" {
			route = ""
		}
		var err error
		answered[0], err = s.untilAnswered(asking, t, s.edges[0], t.service+".localhost", route, 3*time.Millisecond)
		return err
	})
	for i, address := range s.edges[1:] {
		group.Go(func() error {
			select {
			case <-t.started:
			case <-asking.Done():
				return fmt.Errorf("%s is not started: %w", t.name(), asking.Err())
			}
			_, host := s.seenByTraefik(t)
			var err error
			answered[i+1], err = s.untilAnswered(asking, t, address, host, "", 10*time.Millisecond)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.note(t, answered)
	return nil
}

// untilAnswered asks until the task answers, and returns when that was.
func (s *latencyScene) untilAnswered(ctx context.Context, t *latencyTask, address, host, route string, every time.Duration) (time.Time, error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		id := s.ask(ctx, address, host, route)
		now := time.Now()
		select {
		case <-t.started:
			if id == t.id {
				return now, nil
			}
		default:
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return now, fmt.Errorf("%s does not answer for %s through %s: %w", t.name(), host, address, ctx.Err())
		}
	}
}

// ask returns which task answers; "" where none does.
func (s *latencyScene) ask(ctx context.Context, address, host, route string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return ""
	}
	req.Host = host
	if route != "" {
		req.Header.Set("Baggage", "dynamic_route="+route)
	}
	res, err := s.asker.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

// seenByTraefik is the task as ECS has it, and the host that Traefik's default rule gives it, after its group and container.
func (s *latencyScene) seenByTraefik(t *latencyTask) (task ecstest.TaskInfo, host string) {
	for _, task = range s.cloud.Tasks(ecsCluster) {
		if !strings.HasSuffix(task.ARN, "/"+t.id) {
			continue
		}
		name := "family:" + task.Family
		if task.Service != "" {
			name = "service:" + task.Service
		}
		words := strings.FieldsFunc(name+"-app", func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
		return task, strings.Join(words, "-")
	}
	return ecstest.TaskInfo{}, ""
}

// note keeps how long it took: to Layover's proxy since the task was RUNNING and healthy, and to Traefik, which asks nothing, since it was RUNNING.
func (s *latencyScene) note(t *latencyTask, answered []time.Time) {
	task, _ := s.seenByTraefik(t)
	from := task.StartedAt
	if t.healthy.After(from) {
		from = t.healthy
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	took := answered[0].Sub(from)
	if took < 0 {
		s.took.early++
	}
	s.took.routed = append(s.took.routed, took)
	fmt.Printf("    %-11s healthy %4d ms after RUNNING; routed by Layover %4d ms after that", t.name(),
		from.Sub(task.StartedAt).Milliseconds(), took.Milliseconds())
	for i, seconds := range s.seconds {
		took := answered[i+1].Sub(task.StartedAt)
		s.took.traefik[i] = append(s.took.traefik[i], took)
		fmt.Printf(", by Traefik (%d s) %5d ms after RUNNING", seconds, took.Milliseconds())
	}
	fmt.Println()
}

// printCalls prints who asked AWS how often for what.
func (s *latencyScene) printCalls() {
	names := []string{"Layover"}
	for _, seconds := range s.seconds {
		names = append(names, fmt.Sprintf("Traefik (%d s)", seconds))
	}
	for i, key := range s.keys {
		calls, total := s.cloud.CallsOf(key), 0
		var each []string
		for _, action := range slices.SortedFunc(maps.Keys(calls), func(a, b string) int { return cmp.Or(calls[b]-calls[a], strings.Compare(a, b)) }) {
			total += calls[action]
			each = append(each, fmt.Sprintf("%d %s", calls[action], action))
		}
		fmt.Printf("  %-14s %4d calls in %.0f s: %s\n", names[i], total, time.Since(s.began).Seconds(), strings.Join(each, ", "))
	}
}
