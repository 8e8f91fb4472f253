package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/api"
)

// testScene is an environment with services that have planted faults, and suites that are aimed at them.
type testScene struct {
	*environment
	flaw string // the program of services and tests
}

func newTestScene(ctx context.Context, binary string) (*testScene, func(), error) {
	var e *environment
	var done func()
	var err error
	if binary == "" {
		e, done, err = newEnvironment(ctx)
	} else {
		e, done, err = environmentFor(binary)
	}
	if err != nil {
		return nil, nil, err
	}
	s := &testScene{environment: e, flaw: filepath.Join(e.dir, "flaw")}
	if err := goBuild(ctx, s.flaw, "proof/flaw"); err != nil {
		done()
		return nil, nil, err
	}
	return s, done, nil
}

// startWith writes layover.yaml with these services, and waits until all run.
func (s *testScene) startWith(ctx context.Context, services string) error {
	yaml := fmt.Sprintf("proxy: {listen: \"127.0.0.1:%s\"}\ndefaults: {health: /healthz, timeout: 1m, env: {HTTP_PROXY: \"http://{proxy}\", NO_PROXY: none}}\nservices:\n%s",
		s.proxyPort, strings.ReplaceAll(services, "FLAW", s.flaw))
	if err := s.write(yaml); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	return s.allRun(ctx)
}

// suites writes layover.test.yaml.
func (s *testScene) suites(text string) error {
	return os.WriteFile(filepath.Join(s.dir, "layover.test.yaml"), []byte(strings.ReplaceAll(text, "FLAW", s.flaw)), 0o600)
}

// test runs layover test as a user does, and returns the runs and its exit code.
func (s *testScene) test(ctx context.Context, args ...string) ([]api.TestRun, int, error) {
	cmd := exec.CommandContext(ctx, s.binary, append([]string{"test", "--json", "--quiet"}, args...)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LAYOVER_SERVER="+s.serverURL, "LAYOVER_OWNER=proof")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	code := cmd.ProcessState.ExitCode()
	if err != nil && code != 1 {
		return nil, code, fmt.Errorf("layover test %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	var runs []api.TestRun
	if err := json.Unmarshal(out.Bytes(), &runs); err != nil {
		return nil, code, fmt.Errorf("layover test %s: %w: %s %s", strings.Join(args, " "), err, out.String(), said.String())
	}
	return runs, code, nil
}

// proveNotExercised has suites pass that test nothing: one whose service loses the header, one that talks to main by
// mistake, and one that asks for something else. All have to fail, and name the edge.
func proveNotExercised(ctx context.Context) (result, error) { return notExercised(ctx, "1") }

func notExercised(ctx context.Context, drops string) (result, error) {
	s, done, err := newTestScene(ctx, "")
	if err != nil {
		return result{}, err
	}
	defer done()
	if err := s.startWith(ctx, strings.ReplaceAll(`  front:
    run: {process: {command: [FLAW, serve]}}
    env: {ANSWER: front, PEER: cart.localhost}
    versions: {careless: {env: {ANSWER: front, PEER: cart.localhost, DROPS: "LOSES"}}}
  cart:
    run: {process: {command: [FLAW, serve]}}
    env: {ANSWER: main}
    versions: {feature: {env: {ANSWER: feature}}}
`, "LOSES", drops)); err != nil {
		return result{}, err
	}
	if err := s.suites(fmt.Sprintf(`suites:
  good: {command: [FLAW, ask, "http://front.localhost/", "5", "front feature"], service: cart}
  dropped: {command: [FLAW, ask, "http://front.localhost/", "5", "front main"], service: cart}
  past: {command: [sh, -c, "curl -fsS --noproxy '*' -H 'Host: cart.localhost' http://127.0.0.1:%s/"], service: cart}
  other: {command: [FLAW, ask, "http://front.localhost/healthz", "1", ""], service: cart}
`, s.proxyPort)); err != nil {
		return result{}, err
	}
	var figures []string
	ok := true
	for _, c := range []struct{ suite, route, edge string }{
		{"good", "feature", ""},
		{"dropped", "front@careless~feature", "front@careless → cart@main: no baggage, traceparent kept"},
		{"past", "feature", " → cart@main: "},
		{"other", "feature", "none"},
	} {
		runs, code, err := s.test(ctx, c.suite, "--route", c.route)
		if err != nil {
			return result{}, err
		}
		r := runs[0]
		said := "passed"
		if len(r.Findings) > 0 {
			f := r.Findings[0]
			said = f.Kind + " (none)"
			if f.Edge != nil {
				said = fmt.Sprintf("%s (%s → %s: %s)", f.Kind, f.Edge.Caller, f.Edge.ID(), f.Edge.Lost)
			}
		}
		want := "passed"
		if c.edge != "" {
			want = "not exercised (" + c.edge + ")"
		}
		fmt.Printf("  %-8s %d of its tests failed; %s\n", c.suite, r.Failed, said)
		ok = ok && said == want && (code == 0) == (c.edge == "") && r.Failed == 0
		figures = append(figures, c.suite+": "+said)
	}
	return result{
		figure: strings.Join(figures, "; "), ok: ok,
		bar: "three suites whose tests pass FAIL as not exercised, with the edge that loses the route, and the one that reaches the version passes",
	}, nil
}

// verdictPlan says how many cases of each class there are.
type verdictPlan struct {
	cases, parallel, past int
	sabotage              bool // the bug of main is not in main
}

func verdictsFull() verdictPlan  { return verdictPlan{cases: 100, parallel: 6, past: 60} }
func verdictsSmall() verdictPlan { return verdictPlan{cases: 2, parallel: 4, past: 60} }

// proveVerdicts plants bugs in versions, in main, in another version of the route and in a combination of two, and a service
// that fails a tenth of its requests, and looks whose fault layover test says that it is.
func proveVerdicts(plan verdictPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return verdicts(ctx, plan) }
}

// verdictClass is one reason why a test fails. Each case is run on one of the routes, in turn.
type verdictClass struct {
	suite, want string
	blame       string
	routes      []string
}

func verdictClasses() []verdictClass {
	return []verdictClass{
		{"mine", "yours", "cart@bad", []string{"cart@bad", "cart@bad~orders@fine"}},
		{"main", "main is broken", "", []string{"cart@fine", "cart@fine~orders@fine"}},
		{"theirs", "theirs", "orders@bad", []string{"cart@fine~orders@bad"}},
		{"together", "only together", "cart@combo,orders@combo", []string{"cart@combo~orders@combo"}},
		{"flaky", "flaky", "", []string{"cart@fine~orders@fine", "cart@fine"}},
	}
}

func verdicts(ctx context.Context, plan verdictPlan) (result, error) {
	s, done, err := newTestScene(ctx, "")
	if err != nil {
		return result{}, err
	}
	defer done()
	broken := "/broken"
	if plan.sabotage {
		broken = "/nothing"
	}
	if err := s.startWith(ctx, strings.ReplaceAll(`  cart:
    run: {process: {command: [FLAW, serve]}}
    env: {ANSWER: cart, PEER: orders.localhost}
    versions:
      bad: {env: {FAILS: "/,BROKEN"}}
      fine: {env: {FAILS: /broken}}
      combo: {env: {TOGETHER: combo}}
  orders:
    run: {process: {command: [FLAW, serve]}}
    env: {ANSWER: orders, FAILS: BROKEN}
    versions:
      bad: {env: {FAILS: "/,BROKEN"}}
      fine: {}
      combo: {env: {ANSWER: combo}}
`, "BROKEN", broken)); err != nil {
		return result{}, err
	}
	// The flaky test fails at first, which is what begins a case; from then on it asks the flaky service.
	if err := s.suites(`suites:
  mine: {service: cart, command: curl -fsS -o /dev/null http://cart.localhost/}
  main: {service: cart, command: curl -fsS -o /dev/null http://cart.localhost/broken}
  theirs: {service: cart, command: curl -fsS -o /dev/null http://cart.localhost/}
  together: {service: cart, command: curl -fsS -o /dev/null http://cart.localhost/}
  flaky:
    service: cart
    command: [sh, -c, "curl -fsS -o /dev/null http://cart.localhost/ && case $LAYOVER_RUN in *.*) curl -fsS -o /dev/null http://orders.localhost/flaky;; *) false;; esac"]
`); err != nil {
		return result{}, err
	}
	if err := s.remember(ctx, plan.past); err != nil {
		return result{}, err
	}
	var figures []string
	ok, extra, all := true, 0, 0
	for _, class := range verdictClasses() {
		right, runs, err := s.judge(ctx, class, plan)
		if err != nil {
			return result{}, err
		}
		fmt.Printf("  %-8s %d of %d right, %.2f extra runs each\n", class.suite, right, plan.cases, float64(runs)/float64(plan.cases))
		figures = append(figures, fmt.Sprintf("%s %d of %d", class.want, right, plan.cases))
		ok = ok && right*100 >= 99*plan.cases
		extra, all = extra+runs, all+plan.cases
	}
	average := float64(extra) / float64(all)
	return result{
		figure: fmt.Sprintf("%s; %.2f extra runs of the failed test on average", strings.Join(figures, ", "), average),
		bar:    "at least 99 of 100 of each, at most 2 extra runs", ok: ok && average <= 2,
	}, nil
}

// remember stores earlier runs of all suites: those of the flaky one flipped in a tenth.
func (s *testScene) remember(ctx context.Context, past int) error {
	client, err := api.NewClient(s.serverURL)
	if err != nil {
		return err
	}
	defer client.Close()
	name := strings.ToLower(filepath.Base(s.dir))
	for _, class := range verdictClasses() {
		suite := name + "." + class.suite
		for i := range past {
			r, err := client.BeginRun(ctx, api.TestRun{Suite: suite}, time.Minute)
			if err != nil {
				return err
			}
			c := api.TestCase{Name: suite, Outcome: "passed", Flipped: class.suite == "flaky" && i%10 == 0}
			if _, err := client.EndRun(ctx, api.TestRun{ID: r.ID, Status: api.RunPassed, Cases: []api.TestCase{c}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge runs all cases of a class, and returns how many verdicts are right and how many extra runs that took.
func (s *testScene) judge(ctx context.Context, class verdictClass, plan verdictPlan) (right, extra int, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(plan.parallel)
	for i := range plan.cases {
		group.Go(func() error {
			runs, _, err := s.test(ctx, class.suite, "--route", class.routes[i%len(class.routes)])
			if err != nil {
				return err
			}
			r := runs[0]
			if len(r.Cases) != 1 {
				return fmt.Errorf("%s: run %s has %d tests: %s", class.suite, r.ID, len(r.Cases), r.Reason)
			}
			c := r.Cases[0]
			mu.Lock()
			defer mu.Unlock()
			extra += r.ExtraRuns
			if c.Verdict == class.want && (class.blame == "" || strings.Join(c.Blame, ",") == class.blame) {
				right++
			} else {
				fmt.Printf("  %s on %s: %q, %v: %s\n", class.suite, r.Route, c.Verdict, c.Blame, strings.Join(c.Evidence, "; "))
			}
			return nil
		})
	}
	return right, extra, group.Wait()
}

// parallelPlan says how much goes on at a time.
type parallelPlan struct {
	runs, requests int
	sabotage       bool // two runs share one ID's version
}

func parallelFull() parallelPlan  { return parallelPlan{runs: 50, requests: 1000} }
func parallelSmall() parallelPlan { return parallelPlan{runs: 5, requests: 40} }

// proveParallelRuns has many runs at once, each aimed at its own version of one service, which answers with what was planted in
// it; and measures how long it takes from git push to the first request of a test.
func proveParallelRuns(plan parallelPlan) func(context.Context) (result, error) {
	return func(ctx context.Context) (result, error) { return parallelRuns(ctx, plan) }
}

func parallelRuns(ctx context.Context, plan parallelPlan) (result, error) {
	s, done, err := newTestScene(ctx, "")
	if err != nil {
		return result{}, err
	}
	defer done()
	var versions, suites strings.Builder
	suites.WriteString("suites:\n")
	for i := range plan.runs {
		fmt.Fprintf(&versions, "      v%d: {env: {ANSWER: \"planted %d\"}}\n", i, i)
		want := i
		if plan.sabotage && i == 0 {
			want = 1
		}
		fmt.Fprintf(&suites, "  s%d: {service: cart, command: [FLAW, ask, \"http://cart.localhost/\", \"%d\", \"planted %d\"]}\n", i, plan.requests, want)
	}
	if err := s.startWith(ctx, "  cart:\n    run: {process: {command: [FLAW, serve]}}\n    env: {ANSWER: main}\n    versions:\n"+versions.String()); err != nil {
		return result{}, err
	}
	if err := s.suites(suites.String()); err != nil {
		return result{}, err
	}
	fmt.Printf("  %d runs at once, of %d requests each\n", plan.runs, plan.requests)
	var requests, foreign, failed atomic.Int64
	group, running := errgroup.WithContext(ctx)
	for i := range plan.runs {
		group.Go(func() error {
			id := fmt.Sprintf("ci-%d", 8800+i)
			runs, code, err := s.test(running, fmt.Sprintf("s%d", i), "--route", fmt.Sprintf("v%d", i), "--run", id, "--no-verdict")
			if err != nil {
				return err
			}
			r := runs[0]
			if code != 0 || r.Reached == nil || r.Reached.Run != id {
				failed.Add(1)
				fmt.Printf("  run %s: %s %s\n", id, r.Status, r.Reason)
			}
			if r.Reached != nil {
				for _, e := range r.Reached.Edges {
					requests.Add(int64(e.Requests))
					if e.ID() != fmt.Sprintf("cart@v%d", i) {
						foreign.Add(int64(e.Requests))
					}
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return result{}, err
	}
	push, start, err := s.pushed(ctx)
	if err != nil {
		return result{}, err
	}
	want := int64(plan.runs * plan.requests)
	return result{
		figure: fmt.Sprintf("%d requests of %d runs at once: %d runs got an answer that was not theirs, %d requests are in the receipts of a run and not of its version; from git push to the first request of a test %d ms and the service's own start (%d ms)",
			requests.Load(), plan.runs, failed.Load(), foreign.Load(), (push - start).Milliseconds(), start.Milliseconds()),
		bar: fmt.Sprintf("%d requests, 0 mix-ups; under 5 s", want),
		ok:  requests.Load() == want && failed.Load() == 0 && foreign.Load() == 0 && push-start < 5*time.Second,
	}, nil
}

// pushed measures how long it takes from git push, by the hook of a Git server, to the first request of a test, and how much of
// that is the service's own start.
func (s *testScene) pushed(ctx context.Context) (push, start time.Duration, err error) {
	work, bare := filepath.Join(s.dir, "work"), filepath.Join(s.dir, "cart.git")
	hook, err := hookText(ctx)
	if err != nil {
		return 0, 0, err
	}
	run := func(dir string, args ...string) error {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "LAYOVER_SERVER="+s.serverURL, "PATH="+filepath.Dir(s.binary)+":"+os.Getenv("PATH"))
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", args[0], err, text)
		}
		return nil
	}
	suites := strings.ReplaceAll("suites:\n  pushed: {command: [FLAW, ask, \"http://cart.localhost/\", \"10\", pushed]}\n", "FLAW", s.flaw)
	for _, step := range []func() error{
		func() error { return run(s.dir, "init", "-q", "--bare", bare) },
		func() error { return run(s.dir, "init", "-q", work) },
		func() error { return os.WriteFile(filepath.Join(bare, "hooks", "post-receive"), hook, 0o700) },
		func() error { return run(bare, "config", "layover.service", "cart") },
		func() error { return run(bare, "config", "layover.command", "env ANSWER=pushed "+s.flaw+" serve") },
		func() error { return os.WriteFile(filepath.Join(work, "layover.test.yaml"), []byte(suites), 0o600) },
		func() error { return run(work, "add", "-A") },
		func() error { return run(work, "commit", "-q", "-m", "a feature") },
		func() error { return run(work, "checkout", "-q", "-b", "feature/pushed") },
	} {
		if err := step(); err != nil {
			return 0, 0, err
		}
	}
	began := time.Now()
	if err := run(work, "push", "-q", bare, "feature/pushed"); err != nil {
		return 0, 0, err
	}
	client, err := api.NewClient(s.serverURL)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	list, err := client.Requests(ctx, api.HopFilter{Service: "cart", Version: "feature-pushed", Limit: 1000}, 0)
	if err != nil {
		return 0, 0, err
	}
	for _, h := range list.Items {
		if h.Run != "" {
			push = h.Time.Sub(began)
			break
		}
	}
	if push <= 0 {
		return 0, 0, fmt.Errorf("no request of a test came to cart@feature-pushed")
	}
	events, err := client.Events(ctx, api.EventFilter{Service: "cart", Version: "feature-pushed", Limit: 1000})
	if err != nil {
		return 0, 0, err
	}
	for _, e := range events.Items {
		if e.Type == api.EventDeployStep && (e.Step == api.StepStart || e.Step == api.StepHealthy) {
			start += time.Duration(e.Took)
		}
	}
	return push, start, nil
}

// hookText is the hook that is shipped.
func hookText(ctx context.Context) ([]byte, error) {
	suites, err := suitesFolder(ctx)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(suites, "..", "..", "deploy", "ci", "git", "post-receive"))
}
