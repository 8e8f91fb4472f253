package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layover-dev/layover/api"
)

// leakPlan says how much the proof does.
type leakPlan struct {
	versions int // that are created, called and removed
	warmUp   int // that were before; 0 leaves out what comes before the many
}

func leakFull() leakPlan  { return leakPlan{10_000, 2000} } // more than have series of their own come before, as do those together
func leakSmall() leakPlan { return leakPlan{60, 0} }

const (
	leakGone    = time.Minute
	leakMore    = 1.10    // × the memory and the scrape before
	leakSlack   = 1 << 20 // bytes, of the memory: what lies about at one moment
	leakWorkers = 8
	leakSeries  = 1000 // versions with series of their own: the default of telemetry.metrics.versions
)

// proveLabelLeak creates, calls and removes many versions of an environment, and looks what is left of them in its metrics and
// in its memory.
func proveLabelLeak(plan leakPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return labelLeak(ctx, plan) }
}

func labelLeak(ctx context.Context, plan leakPlan) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answered") }))
	defer instance.Close()
	// What it keeps of requests is bounded, and full after the warm-up.
	if err := e.write(fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
telemetry: {kept_requests: 1000}
services:
  cart: {run: {external: {url: %q}}}
`, e.proxyPort, instance.URL)); err != nil {
		return result{}, err
	}
	e.variables = []string{"GOGC=20"} // to see soon what is in use, and what is garbage
	if err := errors.Join(e.start(ctx), e.allRun(ctx)); err != nil {
		return result{}, err
	}
	client, err := api.NewClient(e.serverURL)
	if err != nil {
		return result{}, err
	}
	defer client.Close()
	l := &leak{environment: e, client: client, url: instance.URL}

	var watched time.Duration
	if plan.warmUp > 0 {
		if err := errors.Join(l.churn(ctx, "warm", plan.warmUp), l.awaitNone(ctx)); err != nil {
			return result{}, err
		}
		if watched, err = l.watchOne(ctx); err != nil {
			return result{}, err
		}
	}
	fmt.Printf("  the metrics of one version are gone %.0f s after its removal\n", watched.Seconds())
	before, err := l.rest(ctx)
	if err != nil {
		return result{}, err
	}
	fmt.Printf("  before: %s\n", before)
	began := time.Now()
	if err := l.churn(ctx, "many", plan.versions); err != nil {
		return result{}, err
	}
	fmt.Printf("  %d versions created, called and removed in %.0f s; at most %d had series at a time\n", plan.versions, time.Since(began).Seconds(), l.most.Load())
	// Nobody scrapes meanwhile: that must not be what ends them.
	if err := pause(ctx, leakGone); err != nil {
		return result{}, err
	}
	left, err := l.left(ctx)
	if err != nil {
		return result{}, err
	}
	after, err := l.rest(ctx)
	if err != nil {
		return result{}, err
	}
	fmt.Printf("  after:  %s\n", after)
	return result{
		figure: fmt.Sprintf("the metrics of a removed version are gone after %.0f s; a minute after %d versions were created, called and removed %d have any left, and at most %d had at a time; %.1f MiB of memory in use, before %.1f; a scrape has %d KiB, before %d",
			watched.Seconds(), plan.versions, left, l.most.Load(), mebibytes(after.memory), mebibytes(before.memory), after.scrape>>10, before.scrape>>10),
		bar: fmt.Sprintf("%s; 0; %d; %.2f × + %d MiB; %.2f ×", leakGone, leakSeries, leakMore, leakSlack>>20, leakMore),
		ok: watched <= leakGone && left == 0 && l.most.Load() <= leakSeries &&
			float64(after.memory) <= leakMore*float64(before.memory)+leakSlack && float64(after.scrape) <= leakMore*float64(before.scrape),
	}, nil
}

// leak is the environment that is looked at.
type leak struct {
	*environment
	client *api.Client
	url    string       // of the instance that all versions have
	most   atomic.Int64 // how many versions other than main were counted on their own at a time
}

// churn creates, calls and removes versions, several at a time.
func (l *leak) churn(ctx context.Context, name string, versions int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for range leakWorkers {
		group.Go(func() {
			for n := next.Add(1); n <= int64(versions) && ctx.Err() == nil; n = next.Add(1) {
				if err := l.liveOnce(ctx, fmt.Sprintf("%s-%d", name, n)); err != nil {
					cancel(err)
				}
				if n%100 == 0 {
					if _, err := l.left(ctx); err != nil {
						cancel(err)
					}
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// liveOnce is the life of a version.
func (l *leak) liveOnce(ctx context.Context, version string) error {
	var d api.Deployment
	d.URL = l.url
	if _, err := l.client.Deploy(ctx, "cart", version, d); err != nil {
		return err
	}
	by := ""
	if err := until(ctx, time.Minute, func() (bool, error) { // while it starts, requests wait for it; before it is in the table main answers
		var err error
		_, by, err = l.ask(ctx, "cart.localhost", "/", version)
		return strings.HasPrefix(by, "cart@"+version+";"), err
	}, func() string { return fmt.Sprintf("cart@%s does not answer, but %q", version, by) }); err != nil {
		return err
	}
	_, err := l.client.Remove(ctx, "cart", version, "")
	return err
}

// watchOne returns how long after the removal of a version its metrics are gone.
func (l *leak) watchOne(ctx context.Context) (time.Duration, error) {
	if err := l.liveOnce(ctx, "watched"); err != nil {
		return 0, err
	}
	removed := time.Now()
	n, err := l.left(ctx)
	if err == nil && n != 1 {
		err = fmt.Errorf("%d versions have metrics, and it should be the one", n)
	}
	if err != nil {
		return 0, err
	}
	err = l.awaitNone(ctx)
	return time.Since(removed), err
}

// awaitNone waits until no version but main has metrics.
func (l *leak) awaitNone(ctx context.Context) error {
	left := 0
	return until(ctx, 3*time.Minute, func() (bool, error) {
		var err error
		if left, err = l.left(ctx); err == nil && left > 0 {
			err = pause(ctx, 200*time.Millisecond)
		}
		return left == 0, err
	}, func() string { return fmt.Sprintf("%d versions keep their metrics", left) })
}

var versionLabel = regexp.MustCompile(`(?m)^(\w+)\{.*\bversion="((?:warm|many)-\d+|watched)"`)

// left returns how many versions other than main have metrics of any kind.
func (l *leak) left(ctx context.Context) (int, error) {
	text, err := l.scrape(ctx)
	if err != nil {
		return 0, err
	}
	found, counted := map[string]bool{}, map[string]bool{}
	for _, match := range versionLabel.FindAllSubmatch(text, -1) {
		found[string(match[2])] = true
		if string(match[1]) == "layover_requests_total" {
			counted[string(match[2])] = true
		}
	}
	for most := l.most.Load(); int64(len(counted)) > most && !l.most.CompareAndSwap(most, int64(len(counted))); most = l.most.Load() {
	}
	return len(found), nil
}

func (l *leak) scrape(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.serverURL+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET /metrics: %d: %s", res.StatusCode, text)
	}
	return text, err
}

// atRest is what an environment takes while nothing happens.
type atRest struct {
	memory int64 // bytes of the heap that are in use, after a collection
	scrape int   // bytes of an answer of /metrics
}

// String says it in words.
func (a atRest) String() string {
	return fmt.Sprintf("%.1f MiB of memory in use, a scrape has %d KiB", mebibytes(a.memory), a.scrape>>10)
}

// rest scrapes until some collections of garbage have ended, and returns the least that was in use.
func (l *leak) rest(ctx context.Context) (least atRest, err error) {
	const collections = 6
	first := int64(0)
	return least, until(ctx, 5*time.Minute, func() (bool, error) {
		text, err := l.scrape(ctx)
		if err != nil {
			return false, err
		}
		values := figuresIn(text, "go_gc_duration_seconds_count", "go_memstats_alloc_bytes")
		if first == 0 {
			first = values[0]
		}
		if least.memory == 0 || values[1] < least.memory {
			least.memory = values[1]
		}
		least.scrape = len(text)
		return values[0] >= first+collections, nil
	}, func() string { return "nothing is collected" })
}

// figuresIn returns the values of metrics without labels.
func figuresIn(text []byte, names ...string) []int64 {
	values := make([]int64, len(names))
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		for i, name := range names {
			if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
				n, _ := strconv.ParseFloat(value, 64) // Prometheus reads it
				values[i] = int64(n)
			}
		}
	}
	return values
}
