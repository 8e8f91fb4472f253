package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/api"
)

const (
	runningMemory = 120_000_000      // bytes resident, of server and proxy together
	runningCheck  = time.Millisecond // of a CPU, for one health check and all else that goes on
	runningDeploy = time.Second      // until another version serves
	runningAsked  = 200              // versions that a request is sent to
)

// runningPlan says how many versions run: at addresses that the proof serves itself, which are checked and
// routed to like all others, and as processes of the server's.
type runningPlan struct {
	external, processes int
	measure             time.Duration
}

func (p runningPlan) all() int { return p.external + p.processes }

// proveRunning has very many versions run, and looks at what that costs, and at a deployment beside them.
func proveRunning(plan runningPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return running(ctx, plan) }
}

func running(ctx context.Context, plan runningPlan) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	crowd, err := newCrowd(plan.external)
	if err != nil {
		return result{}, err
	}
	defer crowd.close()
	if err := e.startCrowd(ctx, crowd, plan); err != nil {
		return result{}, err
	}
	load, err := e.restsChecked(ctx, crowd, plan)
	if err != nil {
		return result{}, err
	}
	deploy, err := e.deployBeside(ctx)
	if err != nil {
		return result{}, err
	}
	page, err := e.listPages(ctx, min(sleeperRows, plan.all()/10))
	if err != nil {
		return result{}, err
	}
	wrong, err := e.askCrowd(ctx, crowd, plan.all())
	if err != nil {
		return result{}, err
	}
	return result{
		figure: fmt.Sprintf("%d running, %d of them processes: %s; one more serves after %d ms; a page of layover ls: %d ms; %d of %d answers by a wrong version",
			plan.all(), plan.processes, load, deploy.Milliseconds(), page.Milliseconds(), wrong, runningAsked),
		bar: fmt.Sprintf("at most %d MB, %d µs of a CPU for a check, %d ms, %d ms, 0 wrong",
			runningMemory/1_000_000, runningCheck.Microseconds(), runningDeploy.Milliseconds(), sleeperPage.Milliseconds()),
		ok: load.memory <= runningMemory && load.perCheck() <= runningCheck && deploy <= runningDeploy && page <= sleeperPage && wrong == 0,
	}, nil
}

// startCrowd starts the environment, and deploys all versions.
func (e *environment) startCrowd(ctx context.Context, c *crowd, plan runningPlan) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	yaml := fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
services:
  page:
    health: /healthz
    run: {process: {command: [%q, %s, app]}}
`, e.proxyPort, self, backendCommand)
	if err := errors.Join(e.write(yaml), e.start(ctx), e.allRun(ctx)); err != nil {
		return err
	}
	client, err := api.NewClient(e.serverURL)
	if err != nil {
		return err
	}
	defer client.Close()
	fmt.Printf("  %d versions are deployed, %d of them processes\n", plan.all(), plan.processes)
	began := time.Now()
	if err := deployCrowd(ctx, client, c, plan); err != nil {
		return err
	}
	if err := e.allRun(ctx); err != nil {
		return err
	}
	fmt.Printf("    all run after %.1f s\n", time.Since(began).Seconds())
	return nil
}

// crowdLoad is what the versions cost the process of server and proxy.
type crowdLoad struct {
	cpu    float64 // of one
	checks float64 // of health, a second
	memory int64
}

func (l crowdLoad) perCheck() time.Duration {
	return time.Duration(l.cpu / l.checks * float64(time.Second))
}

func (l crowdLoad) String() string {
	return fmt.Sprintf("%.1f MB resident, %.1f %% of a CPU with %.0f health checks a second (%d µs for each)",
		float64(l.memory)/1e6, 100*l.cpu, l.checks, l.perCheck().Microseconds())
}

// restsChecked measures while nothing happens but checks of health. Those of the processes are not seen, and
// are as many for each.
func (e *environment) restsChecked(ctx context.Context, c *crowd, plan runningPlan) (load crowdLoad, err error) {
	before := c.checks.Load()
	if load.cpu, load.memory, err = e.rests(ctx, plan.measure); err != nil {
		return load, err
	}
	seen := c.checks.Load() - before
	if seen == 0 {
		return load, errors.New("nobody checked the health of the versions")
	}
	load.checks = float64(seen) * float64(plan.all()) / float64(plan.external) / plan.measure.Seconds()
	return load, nil
}

// crowd is many addresses, each of which says which one it is.
type crowd struct {
	server    http.Server
	listeners []net.Listener
	serving   sync.WaitGroup
	checks    atomic.Int64 // of their health
}

func newCrowd(n int) (*crowd, error) {
	c := &crowd{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) { c.checks.Add(1) })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Context().Value(http.LocalAddrContextKey)) // the client may be gone
	})
	c.server.Handler, c.server.ReadHeaderTimeout = mux, time.Minute
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.close()
			return nil, err
		}
		c.listeners = append(c.listeners, l)
		c.serving.Go(func() { _ = c.server.Serve(l) })
	}
	return c, nil
}

func (c *crowd) close() {
	_ = c.server.Close()
	c.serving.Wait()
}

func runningName(i int) string { return fmt.Sprintf("v%04d", i) }

// deployCrowd deploys all versions, some at a time, as CI does.
func deployCrowd(ctx context.Context, client *api.Client, c *crowd, plan runningPlan) error {
	const atATime = 16
	numbers := make(chan int)
	errs := make([]error, atATime)
	var group sync.WaitGroup
	for w := range atATime {
		group.Go(func() {
			for i := range numbers {
				var d api.Deployment
				if i < plan.external {
					d.URL = "http://" + c.listeners[i].Addr().String()
				}
				if _, err := client.Deploy(ctx, "page", runningName(i), d); err != nil {
					errs[w] = errors.Join(errs[w], err)
				}
			}
		})
	}
	for i := range plan.all() {
		numbers <- i
	}
	close(numbers)
	group.Wait()
	return errors.Join(errs...)
}

// deployBeside deploys processes, and returns the median of the times until they serve.
func (e *environment) deployBeside(ctx context.Context) (time.Duration, error) {
	client, err := api.NewClient(e.serverURL)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	var times []time.Duration
	for i := range 9 {
		name := fmt.Sprintf("beside-%d", i)
		began := time.Now()
		v, err := client.Deploy(ctx, "page", name, api.Deployment{})
		if err != nil {
			return 0, err
		}
		if _, err := client.WaitDeploy(ctx, "page", name, v.Generation, nil); err != nil {
			return 0, err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// askCrowd sends requests to versions, and counts the answers that were not by the one that was asked.
func (e *environment) askCrowd(ctx context.Context, c *crowd, n int) (wrong int, err error) {
	for i := range runningAsked {
		number := i * n / runningAsked
		name := runningName(number)
		want := name + " app\n"
		if number < len(c.listeners) {
			want = c.listeners[number].Addr().String()
		}
		body, by, err := e.ask(ctx, "page.localhost", "/", name)
		if err != nil {
			return 0, err
		}
		if string(body) != want || !strings.HasPrefix(by, "page@"+name+";") {
			wrong++
		}
	}
	return wrong, nil
}
