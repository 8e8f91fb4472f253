package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/api"
)

const (
	wakeRounds   = 11
	wakeRequests = 50
	wakeLimit    = 100 * time.Millisecond // beside what the instance itself needs to start
)

// proveWake has many requests at once wake a version, and a browser watch one wake.
func proveWake(rounds int) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return wake(ctx, rounds) }
}

func wake(ctx context.Context, rounds int) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	s, err := sleepyService(ctx, e)
	if err != nil {
		return result{}, err
	}
	defer s.cleanUp()
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	if err := e.write(s.yaml + pageService(self)); err != nil {
		return result{}, err
	}
	if err := e.start(ctx); err != nil {
		return result{}, err
	}
	if err := e.wakeReady(ctx); err != nil {
		return result{}, fmt.Errorf("%w; up said:\n%s", err, e.said)
	}
	woken, err := wakeAll(ctx, e, s, rounds)
	if err != nil {
		return result{}, err
	}
	seen := "no browser: install chromium"
	ok := woken.over <= wakeLimit
	if program := chromium(); program == "" {
		fmt.Println("  left out: the browser; no chromium is installed here")
	} else if seen, err = watchWake(ctx, e, program); err != nil {
		return result{}, fmt.Errorf("in a browser: %w", err)
	}
	return result{
		figure: fmt.Sprintf("%s, %d rounds: 1 start and %d answers from it each; %s; %s", s.name, rounds, wakeRequests, woken, seen),
		bar: fmt.Sprintf("1 start, %d answers from it, the first within the instance's own start + %d ms; a browser sees the waiting page turn into the app",
			wakeRequests, wakeLimit.Milliseconds()),
		ok: ok,
	}, nil
}

// wakeTimes are medians. Over is that of the differences: how much longer than a start of the
// instance alone, just before, it took to the first answer.
type wakeTimes struct{ first, last, own, over time.Duration }

func (t wakeTimes) String() string {
	return fmt.Sprintf("first answer after %d ms, last after %d ms, own start %d ms; the first is %d ms over the start beside it",
		t.first.Milliseconds(), t.last.Milliseconds(), t.own.Milliseconds(), t.over.Milliseconds())
}

// sleepyService is the shop's pricing alone: in Docker where an Engine answers, else as a process.
func sleepyService(ctx context.Context, e *environment) (setup, error) {
	s, run := processShop(e), fmt.Sprintf("process: {command: [%q, shop, pricing]}", e.binary)
	if dockerAnswers(ctx) {
		var err error
		if s, err = dockerShop(ctx, e); err != nil {
			return setup{}, err
		}
		s.name, run = "in Docker", fmt.Sprintf("docker: {image: %q, command: [pricing], pull: never}", s.deploy[1])
	} else {
		fmt.Println("  no Docker Engine answers: a process sleeps instead of a container")
	}
	s.yaml = fmt.Sprintf(`environment: proof
proxy: {listen: ["127.0.0.1:%s"]}
defaults: {timeout: 60s}
services:
  pricing:
    health: /healthz
    run: {%s}
    versions: {sleepy: {}}
`, e.proxyPort, run)
	return s, nil
}

// pageService is a service with a version that takes its time to start, and one that fails to.
func pageService(self string) string {
	const slow = `sleep 2; if [ -e "$FAILS" ]; then echo no database; exit 7; fi; exec "$SELF" ` + backendCommand + ` app`
	return fmt.Sprintf(`  page:
    health: /
    run: {process: {command: [%[1]q, %[2]s, app]}}
    env: {SELF: %[1]q}
    versions:
      slow: {command: [sh, -c, %[3]q], env: {FAILS: /nonexistent}}
`, self, backendCommand, slow)
}

// wakeReady waits until all versions run.
func (e *environment) wakeReady(ctx context.Context) error {
	if err := until(ctx, time.Minute, func() (bool, error) {
		versions, err := e.versions(ctx)
		return len(versions) == 4, err
	}, func() string { return "the versions of the file are not there" }); err != nil {
		return err
	}
	return e.allRun(ctx)
}

func wakeAll(ctx context.Context, e *environment, s setup, rounds int) (wakeTimes, error) {
	var firsts, lasts, owns, overs []time.Duration
	for i := range rounds {
		own, err := s.ownStart(ctx)
		if err != nil {
			return wakeTimes{}, err
		}
		if err := e.sleep(ctx, "pricing@sleepy"); err != nil {
			return wakeTimes{}, err
		}
		first, last, err := wakeOnce(ctx, e)
		if err != nil {
			return wakeTimes{}, err
		}
		fmt.Printf("    round %d  first answer after %4d ms, last after %4d ms; own start %4d ms\n",
			i+1, first.Milliseconds(), last.Milliseconds(), own.Milliseconds())
		firsts, lasts, owns, overs = append(firsts, first), append(lasts, last), append(owns, own), append(overs, first-own)
	}
	for _, all := range [][]time.Duration{firsts, lasts, owns, overs} {
		slices.Sort(all)
	}
	return wakeTimes{first: firsts[rounds/2], last: lasts[rounds/2], own: owns[rounds/2], over: overs[rounds/2]}, nil
}

// sleep puts a version to sleep and waits until nothing of it runs.
func (e *environment) sleep(ctx context.Context, id string) error {
	if _, err := e.cli(ctx, "sleep", id); err != nil {
		return err
	}
	return until(ctx, time.Minute, func() (bool, error) {
		versions, err := e.versions(ctx)
		for _, v := range versions {
			if v.ID() == id {
				return v.State == api.StateAsleep && len(v.Instances) == 0, err
			}
		}
		return false, err
	}, func() string { return id + " does not fall asleep" })
}

// wakeOnce asks many times at once, and holds every answer and the number of starts to what they
// have to be.
func wakeOnce(ctx context.Context, e *environment) (first, last time.Duration, err error) {
	client, err := api.NewClient(e.serverURL)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	before, err := client.Events(ctx, api.EventFilter{Limit: 1})
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	times, errs := make([]time.Duration, wakeRequests), make([]error, wakeRequests)
	var asking sync.WaitGroup
	for i := range wakeRequests {
		asking.Go(func() {
			errs[i] = e.askSleepy(ctx)
			times[i] = time.Since(began)
		})
	}
	asking.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, 0, err
	}
	if err := countStarts(ctx, client, before.Last); err != nil {
		return 0, 0, err
	}
	return slices.Min(times), slices.Max(times), nil
}

func (e *environment) askSleepy(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pricing.localhost/healthz", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Baggage", "dynamic_route=sleepy")
	res, err := e.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if by := res.Header.Get("Layover-Served-By"); err == nil && (res.StatusCode > 299 || !strings.HasPrefix(by, "pricing@sleepy;")) {
		err = fmt.Errorf("%s by %q: %s", res.Status, by, text)
	}
	return err
}

// countStarts returns an error where the version was not started exactly once.
func countStarts(ctx context.Context, client *api.Client, after int64) error {
	return until(ctx, 10*time.Second, func() (bool, error) {
		events, err := client.Events(ctx, api.EventFilter{After: after, Service: "pricing", Version: "sleepy", Limit: 1000})
		if err != nil {
			return false, err
		}
		wakings, starts, awake := 0, 0, false
		for _, one := range events.Items {
			switch {
			case one.Type == api.EventVersionWaking:
				wakings++
			case one.Type == api.EventDeployStep && one.Step == api.StepStart && one.Took > 0:
				starts++
			}
			awake = awake || one.Type == api.EventVersionAwake
		}
		if awake && (wakings != 1 || starts != 1) {
			return false, fmt.Errorf("it was woken %d times, and started %d times", wakings, starts)
		}
		return awake, nil
	}, func() string { return "nothing says that the version is awake" })
}

// watchWake has a browser go to a version that sleeps: once to see it wake, and once to see why it does not.
func watchWake(ctx context.Context, e *environment, program string) (string, error) {
	b, err := openBrowser(ctx, program)
	if err != nil {
		return "", err
	}
	defer func() { _ = b.close() }()
	url := "http://slow--page.localhost:" + e.proxyPort + "/?q=1"
	if err := e.sleep(ctx, "page@slow"); err != nil {
		return "", err
	}
	steps, err := b.watch(ctx, url, "slow app")
	if err != nil {
		return "", err
	}
	fmt.Printf("    the browser read: %s\n", strings.Join(steps, " | "))

	// The same version, and now it fails to start.
	if _, err := e.cli(ctx, "deploy", "page@slow", "--command", `sh -c 'sleep 1; [ ! -e "$FAILS" ] || { echo no database; exit 7; }; exec "$SELF" `+backendCommand+` app'`,
		"--env", "FAILS="+e.dir+"/fails"); err != nil {
		return "", err
	}
	if err := e.sleep(ctx, "page@slow"); err != nil {
		return "", err
	}
	if err := os.WriteFile(e.dir+"/fails", nil, 0o600); err != nil {
		return "", err
	}
	reason, err := b.watch(ctx, url, "exited with code 7")
	if err != nil {
		return "", err
	}
	fmt.Printf("    and with a version that fails: %s\n", strings.Join(reason, " | "))
	return fmt.Sprintf("a browser saw the waiting page (%d steps) turn into the app, and into the reason", len(steps)), nil
}

// watch goes to a URL and reads the page until it has the words that it ends with. It returns what
// the page that waits said, line by line.
func (b *browser) watch(ctx context.Context, url, end string) (steps []string, err error) {
	if err := b.visit(url); err != nil {
		return nil, err
	}
	var last string
	waited := false
	err = until(ctx, time.Minute, func() (bool, error) {
		address, text, err := b.reads()
		if err != nil || address != url {
			return false, nil //nolint:nilerr // between two pages there is nothing to read
		}
		last = text
		if strings.Contains(text, "is on its way") {
			waited = true
			for line := range strings.Lines(text) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "It") && !slices.Contains(steps, line) {
					steps = append(steps, line)
				}
			}
		}
		return strings.Contains(text, end), nil
	}, func() string { return fmt.Sprintf("the page does not end in %q; it says:\n%s", end, last) })
	if err == nil && !waited {
		err = fmt.Errorf("the page that waits was not seen before %q", end)
	}
	return steps, err
}
