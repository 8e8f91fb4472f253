package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/suite"
	"github.com/layover-dev/layover/internal/suite/report"
)

// suiteRun is a suite that is being run.
type suiteRun struct {
	app        *App
	client     *api.Client
	job        suiteJob
	opts       *testOptions
	aim        *aim
	run        api.TestRun
	begin      api.Reached // what the server said of it when it began
	unproved   string      // why it is not proved what it reached; "" where it is
	onDefaults string      // ID of the trial on the default versions
	trials     int         // further runs of the command, which have IDs of their own
}

// runSuite runs one suite, finds out what it proved, and stores that. Where the receipts do not tell of all that it reached, it runs the
// suite once more, as a run of its own.
func runSuite(ctx context.Context, app *App, client *api.Client, job suiteJob, opts *testOptions, many bool) (api.TestRun, error) {
	if info, err := os.Stat(job.suite.Dir); err != nil || !info.IsDir() {
		return api.TestRun{}, usagef("", "suite %s is run in %s, and there is no such folder", job.name, job.suite.Dir)
	}
	id := opts.Run
	if id != "" && many {
		id += "." + job.name
	}
	first := &suiteRun{app: app, client: client, job: job, opts: opts}
	r, err := first.all(ctx, api.TestRun{ID: id})
	if err != nil || r.Status != api.RunUnproved {
		return r, err
	}
	app.say("%s runs once more, as that is not the fault of the tests\n", job.name)
	again := &suiteRun{app: app, client: client, job: job, opts: opts}
	return again.all(ctx, api.TestRun{ID: cut(r.ID, route.MaxRun-len(secondTime)) + secondTime, Repeats: r.ID})
}

// secondTime is what the ID of a run ends with that repeats another.
const secondTime = ".again"

// all runs the suite once, from what it needs to its stored result.
func (t *suiteRun) all(ctx context.Context, r api.TestRun) (api.TestRun, error) {
	value, err := t.routeWithNeeds(ctx)
	if err != nil {
		return api.TestRun{}, err
	}
	if err := t.prepare(ctx, value); err != nil {
		return api.TestRun{}, err
	}
	r.Suite, r.Ref, r.Route, r.Versions, r.Owners, r.Repository = t.job.name, t.job.ref, value, t.aim.versions(), t.job.suite.Owners, t.job.from
	r.Origin, _ = ciOrigin(t.app.env)
	most := time.Duration(t.job.suite.Timeout)*time.Duration(2+t.job.suite.Retries) + startPatience
	if t.run, err = t.client.BeginRun(ctx, r, most); err != nil {
		return api.TestRun{}, err
	}
	if t.begin, err = t.client.Reached(ctx, t.run.ID); err != nil {
		return api.TestRun{}, err
	}
	t.app.say("%s  run %s  %s\n", t.app.bold(t.job.name), t.run.ID, t.aimedAt())
	result := t.execute(ctx)
	stored, err := t.store(ctx, result)
	if err != nil {
		err = fmt.Errorf("the result of run %s is not stored: %w", t.run.ID, err)
		stored = fit(result)
		stored.Count()
	}
	t.show(stored)
	stored.Cases, stored.Omitted = result.Cases, api.TestCounts{} // here there is room for all
	return stored, cmp.Or(err, ctx.Err())
}

// store stores the result, also of a run that is broken off. A server that is away is waited for, as another one may take over.
func (t *suiteRun) store(ctx context.Context, result api.TestRun) (api.TestRun, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	tried := false
	return patiently(ctx, t.app, func(ctx context.Context) (api.TestRun, error) {
		stored, err := t.client.EndRun(ctx, fit(result))
		if p, ok := asProblem(err); ok && p.Code == api.CodeConflict && tried {
			return t.client.TestRun(ctx, result.ID) // it was stored, and the answer was lost
		}
		tried = true
		return stored, err
	})
}

// patiently asks again while no server answers, or none leads: another one takes over.
func patiently[T any](ctx context.Context, app *App, ask func(context.Context) (T, error)) (T, error) {
	until, told := time.Now().Add(handOver), false
	for {
		out, err := ask(ctx)
		_, silent := errors.AsType[*api.UnreachableError](err)
		problem, ok := asProblem(err)
		if !silent && (!ok || problem.Code != api.CodeUnavailable) || time.Now().After(until) {
			return out, err
		}
		if !told {
			told = true
			app.say("the server is gone, waiting for it to come back: %s\n", err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return out, err
		}
	}
}

func (t *suiteRun) aimedAt() string {
	switch {
	case t.run.Route == "":
		return "against the default versions"
	case len(t.run.Versions) == 0:
		return "route " + t.run.Route + ", which means the default versions"
	}
	return "route " + t.run.Route + " (" + strings.Join(t.run.Versions, ", ") + ")"
}

// routeWithNeeds is the route with what the suite needs in other versions before it.
func (t *suiteRun) routeWithNeeds(ctx context.Context) (string, error) {
	value := t.opts.Route
	a, err := aimAt(ctx, t.client, value)
	if err != nil {
		return "", err
	}
	for _, service := range t.named() {
		if a.table.Service(service) == nil {
			return "", usagef("layover service ls lists them", "suite %s is of service %q, which the environment does not have", t.job.name, service)
		}
	}
	for _, service := range slices.Backward(slices.Sorted(maps.Keys(t.job.suite.Needs))) {
		want := t.job.suite.Needs[service].Version
		if want == "" || want == a.wanted(service) || a.route == "" && want == a.defaultOf(service) {
			continue
		}
		if value == "" {
			value = service + "@" + want
		} else {
			value = service + "@" + want + "~" + value
		}
	}
	return value, nil
}

// named are the services that the suite is to test, needs, and must reach.
func (t *suiteRun) named() []string {
	out := slices.Sorted(maps.Keys(t.job.suite.Needs))
	if t.job.suite.Service != "" {
		out = append(out, t.job.suite.Service)
	}
	for _, target := range t.job.suite.Reach {
		service, _, _ := strings.Cut(target, "@")
		out = append(out, service)
	}
	return out
}

// prepare deploys what is missing, and waits until all versions of the route are there.
func (t *suiteRun) prepare(ctx context.Context, value string) error {
	var err error
	if t.aim, err = t.aimAt(ctx, value); err != nil {
		return err
	}
	deployed := false
	for _, service := range slices.Sorted(maps.Keys(t.job.suite.Needs)) {
		need := t.job.suite.Needs[service]
		version := cmp.Or(need.Version, t.aim.wanted(service), t.aim.defaultOf(service))
		v, err := t.client.Version(ctx, service, version)
		if err == nil && v.State != api.StateStopped {
			continue
		}
		if p, ok := errors.AsType[*api.Problem](err); err != nil && (!ok || p.Code != api.CodeNotFound) {
			return err
		}
		if err := t.deploy(ctx, service, version, api.Overrides{Image: need.Image, Command: need.Command, Dir: dirOf(need.Command, t.job.suite.Dir), Env: need.Env}); err != nil {
			return err
		}
		deployed = true
	}
	for _, id := range t.needed() {
		if err := t.await(ctx, id); err != nil {
			return err
		}
	}
	if deployed {
		if t.aim, err = t.aimAt(ctx, value); err != nil {
			return err
		}
	}
	return t.checkAim()
}

// checkAim refuses a route that does not lead to what it names: the default versions would answer in its place, and the tests
// would pass without having met what they are to test. A selector without a service may match nothing where others do: it is
// part of a chain.
func (t *suiteRun) checkAim() error {
	unknown, hint := t.aim.unknown()
	r, err := route.ParseRoute(t.aim.route)
	if err == nil && len(unknown) < len(r.Selectors) {
		unknown = slices.DeleteFunc(unknown, func(s route.Selector) bool { return s.Service == "" })
	}
	if len(unknown) > 0 {
		return usagef(hint, "nothing in the environment is called %s: the default versions would be tested in its place", selectorsText(unknown))
	}
	if t.opts.Affected == "" {
		return nil
	}
	service, version, _ := strings.Cut(t.opts.Affected, "@")
	met := t.aim.defaultOf(service)
	if s := t.aim.table.Service(service); s != nil {
		met = cmp.Or(t.aim.versionOf(s), met)
	}
	if met != version {
		return usagef("layover ls shows what is there; --route says what to aim at", "route %s leads to %s@%s, not to %s", t.aim.route, service, met, t.opts.Affected)
	}
	return nil
}

func (t *suiteRun) aimAt(ctx context.Context, value string) (*aim, error) {
	return patiently(ctx, t.app, func(ctx context.Context) (*aim, error) { return aimAt(ctx, t.client, value) })
}

func dirOf(command []string, dir string) string {
	if len(command) == 0 {
		return ""
	}
	return dir
}

func (t *suiteRun) deploy(ctx context.Context, service, version string, with api.Overrides) error {
	t.app.say("%s needs %s@%s, which is not there: deploying it\n", t.job.name, service, version)
	d := api.Deployment{Overrides: with}
	who := whoOptions{Note: "needed by suite " + t.job.name}
	if err := who.put(t.app, &d); err != nil {
		return err
	}
	v, err := t.client.Deploy(ctx, service, version, d)
	if err != nil {
		return err
	}
	_, err = waitDeploy(ctx, t.app, t.client, v)
	return err
}

// needed are the versions that have to be there: those of the route, and what the suite needs besides.
func (t *suiteRun) needed() []string {
	all := t.aim.versions()
	for service, need := range t.job.suite.Needs {
		version := cmp.Or(need.Version, t.aim.wanted(service), t.aim.defaultOf(service))
		all = append(all, service+"@"+version)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// await waits until requests reach a version. One that sleeps is woken by the first of them.
func (t *suiteRun) await(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	service, version, _ := strings.Cut(id, "@")
	told := false
	for {
		v, err := t.client.Version(ctx, service, version)
		if err != nil {
			return err
		}
		switch v.State {
		case api.StateRunning, api.StateAsleep:
			return nil
		case api.StateFailed:
			return &control.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("%s has failed: %s", id, v.Reason), Hint: "layover status " + id + ", layover logs " + id}
		case api.StateStopped, api.StateStopping, api.StateRemoving:
			return &control.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("%s is %s, and the route means it", id, v.State), Hint: "start it: layover start " + id}
		case api.StateStarting:
		}
		if !told {
			told = true
			t.app.say("waiting for %s, which is starting\n", id)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", id, ctx.Err())
		}
	}
}

// under are the versions under test: that of the suite's service, where the route has one, else all of the route.
func (t *suiteRun) under() []string {
	if mine := t.mine(); mine != "" {
		return []string{mine}
	}
	if all := t.aim.versions(); len(all) > 0 || t.job.suite.Service == "" {
		return all
	}
	return []string{t.job.suite.Service + "@" + t.aim.defaultOf(t.job.suite.Service)}
}

// mine is the version of the suite's service that the route has; "" where it has none.
func (t *suiteRun) mine() string {
	for _, id := range t.aim.versions() {
		if service, _, _ := strings.Cut(id, "@"); service == t.job.suite.Service {
			return id
		}
	}
	return ""
}

// claim is what the run has to prove.
func (t *suiteRun) claim() suite.Claim {
	c := suite.Claim{Route: t.run.Route, Under: t.under(), Versions: t.aim.versions(), Fallback: t.job.suite.Fallback}
	for _, target := range t.job.suite.Reach {
		service, version, scoped := strings.Cut(target, "@")
		if !scoped {
			version = t.aim.defaultOf(service)
			if s := t.aim.table.Service(service); s != nil {
				version = cmp.Or(t.aim.versionOf(s), version)
			}
		}
		c.Reach = append(c.Reach, service+"@"+version)
	}
	return c
}

// execute runs the tests and returns the result, whatever becomes of them.
func (t *suiteRun) execute(ctx context.Context) api.TestRun {
	result := t.run
	fail := func(err error) api.TestRun {
		result.Status, result.Reason = api.RunError, err.Error()
		if ctx.Err() != nil {
			result.Status, result.Reason = api.RunCanceled, "it was ended before it was done"
		}
		return result
	}
	cases, err := t.command(ctx, t.run.Route, t.run.ID, t.job.suite.Command)
	if err == nil && len(cases) == 0 {
		err = errors.New("no test was run: the report has none, which proves nothing")
	}
	if err != nil {
		return fail(err)
	}
	if cases, err = t.retry(ctx, cases); err != nil {
		return fail(err)
	}
	result.Cases = cases
	if err := t.judge(ctx, &result); err != nil {
		return fail(err)
	}
	if err := t.prove(ctx, &result); err != nil {
		return fail(err)
	}
	t.blameMain(ctx, &result)
	t.decide(&result)
	return result
}

// command runs the command of the suite, and reads its report.
func (t *suiteRun) command(ctx context.Context, value, id string, command []string) ([]api.TestCase, error) {
	running, cancel := context.WithTimeout(ctx, time.Duration(t.job.suite.Timeout))
	defer cancel()
	env := []string{"LAYOVER_SUITE=" + t.job.name}
	for name, text := range t.job.suite.Env {
		env = append(env, name+"="+text)
	}
	out := t.app.Out
	if t.opts.JSON {
		out = t.app.Err
	}
	var printed bytes.Buffer
	kept := &boundedWriter{to: &printed, left: maxPrinted}
	shown, said := io.Writer(nil), io.Writer(t.app.Err)
	var hidden bytes.Buffer
	if t.opts.Quiet {
		both := &boundedWriter{to: &hidden, left: maxPrinted}
		shown, said = io.MultiWriter(kept, both), both
	} else {
		shown = io.MultiWriter(kept, out)
	}
	began := time.Now()
	exit, _, err := runWithRoute(running, t.app, t.aim, routed{
		Route: value, Run: id, Command: command, Dir: t.job.suite.Dir, Env: env, Stdout: shown, Stderr: said, Apart: true,
	})
	if err == nil && exit != 0 {
		_, _ = io.Copy(out, &hidden)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case running.Err() != nil:
		return nil, fmt.Errorf("the tests did not end within %s (timeout in %s)", t.job.suite.Timeout, t.opts.File)
	case err != nil:
		return nil, err
	case exit == exitNotFound || exit == exitNotExecutable:
		return nil, fmt.Errorf("%s cannot be run, or what it runs: is it installed? (exit code %d)", command[0], exit)
	}
	return t.report(&printed, exit, began)
}

// maxPrinted bounds what is kept of what a command prints, in bytes.
const maxPrinted = 64 << 20

// report reads the results of single tests.
func (t *suiteRun) report(printed io.Reader, exit int, began time.Time) ([]api.TestCase, error) {
	r := t.job.suite.Report
	whole := api.TestCase{Name: t.job.name, Outcome: string(report.Passed), Took: api.Duration(time.Since(began))}
	if exit != 0 {
		whole.Outcome, whole.Message = string(report.Failed), fmt.Sprintf("the command ended with exit code %d", exit)
	}
	if r.Format == "exit" {
		return []api.TestCase{whole}, nil
	}
	readers := []io.Reader{printed}
	if len(r.Files) > 0 {
		readers = nil
		names, err := t.files(began)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			f, err := os.Open(name)
			if err != nil {
				return nil, fmt.Errorf("read the report: %w", err)
			}
			defer func() { _ = f.Close() }()
			readers = append(readers, f)
		}
	}
	var out []api.TestCase
	names := takenNames{}
	failed := false
	for _, in := range readers {
		cases, err := readReport(r.Format, in)
		if err != nil {
			return nil, fmt.Errorf("read the report (%s): %w; the command ended with exit code %d", r.Format, err, exit)
		}
		for _, c := range cases {
			name := names.take(cut(c.Name, 480))
			failed = failed || c.Outcome == report.Failed
			out = append(out, api.TestCase{Name: name, Outcome: string(c.Outcome), Took: api.Duration(c.Duration), Message: cut(c.Message, 4000)})
		}
	}
	if exit != 0 && !failed { // it failed apart from any test
		whole.Name = names.take(whole.Name)
		out = append(out, whole)
	}
	return out, nil
}

// takenNames are names of tests, and how many begin with each: a report in several files may have the same one in each.
type takenNames map[string]int

// take returns a name that is not taken, with a number behind it where it has to.
func (t takenNames) take(name string) string {
	out := name
	for t[out] > 0 {
		t[name]++
		out = fmt.Sprintf("%s (%d)", name, t[name])
	}
	t[out]++
	return out
}

func readReport(format string, in io.Reader) ([]report.Case, error) {
	switch format {
	case "junit":
		return report.ParseJUnit(in)
	case "tap":
		return report.ParseTAP(in)
	default:
		return report.ParseGoJSON(in)
	}
}

// files are those of the report that this run has written.
func (t *suiteRun) files(began time.Time) ([]string, error) {
	var all []string
	old := 0
	for _, pattern := range t.job.suite.Report.Files {
		found, err := filepath.Glob(filepath.Join(t.job.suite.Dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			info, err := os.Stat(name)
			if err != nil || info.ModTime().Before(began.Add(-2*time.Second)) { // as file systems round
				old++
				continue
			}
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		more := ""
		if old > 0 {
			more = fmt.Sprintf(", only %d that are older than this run", old)
		}
		return nil, fmt.Errorf("the tests left no report: there is no %s in %s%s", strings.Join(t.job.suite.Report.Files, ", "), t.job.suite.Dir, more)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// retry runs failed tests again as often as the suite says.
func (t *suiteRun) retry(ctx context.Context, cases []api.TestCase) ([]api.TestCase, error) {
	for range t.job.suite.Retries {
		failed := failedOf(cases)
		if len(failed) == 0 {
			break
		}
		passed, err := t.again(ctx, t.run.Route, t.run.ID, failed)
		if err != nil {
			return cases, err
		}
		for i := range cases {
			if c := &cases[i]; passed[c.Name] && c.Outcome == string(report.Failed) {
				c.Outcome, c.Flipped, c.Verdict = string(report.Passed), true, string(suite.Flaky)
				c.Evidence = append(c.Evidence, "it failed, and passed when it was run again")
			}
		}
	}
	return cases, nil
}

func failedOf(cases []api.TestCase) []string {
	var out []string
	for _, c := range cases {
		if c.Outcome == string(report.Failed) {
			out = append(out, c.Name)
		}
	}
	return out
}

// again runs given tests, and says of each that was run whether it passed.
func (t *suiteRun) again(ctx context.Context, value, id string, tests []string) (map[string]bool, error) {
	command := t.job.suite.Command
	if t.job.suite.Rerun != nil && !slices.Contains(tests, t.job.name) {
		command = rerunCommand(t.job.suite.Rerun, tests, t.job.suite.Report.Format)
	}
	cases, err := t.command(ctx, value, id, command)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	exited := true
	for _, c := range cases {
		if c.Outcome != string(report.Skipped) {
			out[c.Name] = c.Outcome == string(report.Passed)
		}
		exited = exited && c.Outcome != string(report.Failed)
	}
	if _, told := out[t.job.name]; !told && slices.Contains(tests, t.job.name) {
		out[t.job.name] = exited // it fails where the command fails apart from any test
	}
	return out, nil
}

// rerunCommand is a command with the names of tests filled in: {tests} as one regular expression, {test} once for each.
//
// Runners that take an expression search it in a name that has file and project in front, or match it with that of a function
// of Go: so it is the test's own name, behind those of its file and groups, and holds at the end alone. What else has the same
// name is run as well, and nobody asks for it.
func rerunCommand(template, tests []string, format string) []string {
	front := ""
	if format == "go-json" {
		front = "^"
	}
	var plain, quoted []string
	for _, test := range tests {
		name := test
		if i := strings.LastIndexByte(test, ' '); i >= 0 && (format == "go-json" || goTestInJUnit.MatchString(test)) {
			name = test[i+1:]
		}
		plain = append(plain, name)
		quoted = append(quoted, regexp.QuoteMeta(ownTestName(name)))
	}
	slices.Sort(quoted)
	all := front + "(" + strings.Join(slices.Compact(quoted), "|") + ")$"
	var out []string
	for _, word := range template {
		switch {
		case strings.Contains(word, "{test}"):
			for _, name := range plain {
				out = append(out, strings.ReplaceAll(word, "{test}", name))
			}
		default:
			out = append(out, strings.ReplaceAll(word, "{tests}", all))
		}
	}
	return out
}

// goTestInJUnit is a test of Go behind its package, as reports of JUnit have it.
var goTestInJUnit = regexp.MustCompile(`^\S+ > (Test|Fuzz|Example)\S*$`)

// goSubtest is a test of Go within another one, which -run finds by the outer one.
var goSubtest = regexp.MustCompile(`^((?:Test|Fuzz|Example)[^\s/]*)/`)

// ownTestName is the name of a test without those of its file, class and groups.
func ownTestName(test string) string {
	for _, between := range []string{" > ", " › "} { // ours, and Playwright's
		if i := strings.LastIndex(test, between); i >= 0 && i+len(between) < len(test) {
			test = test[i+len(between):]
		}
	}
	if m := goSubtest.FindStringSubmatch(test); m != nil {
		return m[1]
	}
	return test
}

// judge finds out whose fault the failed tests are.
func (t *suiteRun) judge(ctx context.Context, result *api.TestRun) error {
	failed := failedOf(result.Cases)
	if len(failed) == 0 || t.opts.NoBlame {
		return nil
	}
	if len(failed) > maxJudged {
		t.app.say("%d tests failed: the fault of the first %d is looked for\n", len(failed), maxJudged)
		failed = failed[:maxJudged]
	}
	past := map[string]suite.Past{}
	histories, err := patiently(ctx, t.app, func(ctx context.Context) ([]api.TestHistory, error) { return t.client.TestHistory(ctx, t.job.name) })
	if err != nil {
		return err
	}
	for _, h := range histories {
		past[h.Test] = suite.Past{Runs: h.Runs, Flips: h.Flips, Elsewhere: passedElsewhere(h, t.run.Route)}
	}
	verdicts, err := suite.Judge(ctx, failed, t.mine(), t.aim.versions(), past, func(ctx context.Context, trial suite.Trial, tests []string) (map[string]bool, error) {
		t.trials++
		t.app.say("whose fault? %d failed %s run %s\n", len(tests), plural(len(tests), "test is", "tests are"), trial)
		id := fmt.Sprintf("%s.%d", cut(t.run.ID, route.MaxRun-4), t.trials)
		if trial.Defaults {
			t.onDefaults = id
		}
		return t.again(ctx, t.routeOf(trial), id, tests)
	})
	if err != nil {
		return err
	}
	result.ExtraRuns = t.trials
	for i := range result.Cases {
		c := &result.Cases[i]
		j, ok := verdicts[c.Name]
		if !ok || c.Outcome != string(report.Failed) {
			continue
		}
		c.Verdict, c.Blame, c.Evidence, c.OnDefaults = string(j.Verdict), j.Blame, j.Evidence, j.OnDefaults
		c.Flipped = j.Verdict == suite.Flaky
	}
	return nil
}

// passedElsewhere says whether a test is known to have passed on the default versions, or on another route.
func passedElsewhere(h api.TestHistory, route string) bool {
	const passed = string(report.Passed)
	return h.Broken != nil || slices.ContainsFunc(h.Last, func(o api.TestOutcome) bool {
		return o.OnDefaults == passed || o.Outcome == passed && o.Route != route
	})
}

// blameMain names the default versions whose fault it is that main fails tests. Receipts of the trial are known by then. Tests that
// asked nothing of the environment there fail by themselves, as where something is not installed, and say nothing of main.
func (t *suiteRun) blameMain(ctx context.Context, result *api.TestRun) {
	failsThere := func(c api.TestCase) bool {
		return c.Verdict == string(suite.MainFails) || c.Verdict == string(suite.Undecided) && c.OnDefaults == string(report.Failed)
	}
	if !slices.ContainsFunc(result.Cases, failsThere) {
		return
	}
	reached, err := t.client.Reached(ctx, cmp.Or(t.onDefaults, t.run.ID)) // without a trial it ran on the default versions
	silent := err == nil && reached.Requests == 0 && !t.opts.NoProof
	guilty := t.guilty(reached)
	for i := range result.Cases {
		switch c := &result.Cases[i]; {
		case !failsThere(*c):
		case silent:
			c.Verdict = string(suite.Undecided)
			c.Evidence = append(c.Evidence, "it asked nothing of the environment on the default versions: so it says nothing of them")
		case c.Verdict == string(suite.MainFails):
			c.Blame = guilty
		}
	}
}

// maxJudged is of how many failed tests the fault is looked for.
const maxJudged = 1000

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// routeOf is the route of a trial.
func (t *suiteRun) routeOf(trial suite.Trial) string {
	var versions []string
	switch {
	case trial.Defaults:
		return ""
	case len(trial.Only) > 0:
		versions = trial.Only
	case len(trial.Without) > 0:
		versions = slices.DeleteFunc(t.aim.versions(), func(v string) bool { return slices.Contains(trial.Without, v) })
	default:
		return t.run.Route
	}
	return strings.Join(versions, "~")
}

// guilty are the default versions whose requests failed in the trial on them, else that of the service under test. Of
// a version that failed as one that it called did, only the latter is.
func (t *suiteRun) guilty(r api.Reached) []string {
	var out []string
	calls := map[string]bool{} // versions that called one that failed
	for _, e := range r.Edges {
		if e.Errors > 0 {
			calls[e.Caller] = true
		}
	}
	for _, e := range r.Edges {
		if e.Errors > 0 && !calls[e.ID()] {
			out = append(out, e.ID())
		}
	}
	if len(out) == 0 {
		for _, id := range t.under() {
			service, _, _ := strings.Cut(id, "@")
			out = append(out, service+"@"+t.aim.defaultOf(service))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// prove asks the receipts of the run what it reached.
func (t *suiteRun) prove(ctx context.Context, result *api.TestRun) error {
	if t.opts.NoProof {
		return nil
	}
	reached, err := t.reached(ctx)
	if err != nil {
		return err
	}
	xray, err := t.client.XRay(ctx)
	if err != nil {
		return err
	}
	claim := t.claim()
	if reached.Requests == 0 {
		if claim.Strays, err = t.strays(ctx, claim.Under); err != nil {
			return err
		}
	}
	result.Findings, t.unproved = suite.GapBetween(t.begin, reached).Doubt(suite.Prove(claim, reached, xray))
	result.Exercised = t.unproved == "" && !slices.ContainsFunc(result.Findings, func(f api.RunFinding) bool { return f.Kind == suite.NotExercised })
	for _, id := range claim.Under {
		service, _, _ := strings.Cut(id, "@")
		known, err := t.client.Endpoints(ctx, api.VersionFilter{Service: service})
		if err != nil {
			return err
		}
		result.Unreached = append(result.Unreached, suite.Unexercised(known, reached.Endpoints, []string{id})...)
	}
	result.Reached = &reached
	return nil
}

// strays are the requests to the services under test that came from no instance while the tests ran, without a route or run.
func (t *suiteRun) strays(ctx context.Context, under []string) ([]api.ReachedEdge, error) {
	found := map[string]int{}
	for _, id := range under {
		service, _, _ := strings.Cut(id, "@")
		list, err := t.client.Requests(ctx, api.HopFilter{Service: service, Limit: 1000}, 0)
		if err != nil {
			return nil, err
		}
		for _, h := range list.Items {
			if h.Time.After(t.run.Began) && h.Caller == "" && h.Run == "" && h.Route == "" {
				found[h.ID()]++
			}
		}
	}
	var out []api.ReachedEdge
	for _, id := range slices.Sorted(maps.Keys(found)) {
		service, version, _ := strings.Cut(id, "@")
		out = append(out, api.ReachedEdge{Service: service, Version: version, By: "default", Requests: found[id]})
	}
	return out, nil
}

// reached waits until all requests of the run have been told of and are known to belong to it.
func (t *suiteRun) reached(ctx context.Context) (api.Reached, error) {
	ctx, cancel := context.WithTimeout(ctx, receiptsLimit)
	defer cancel()
	var first api.Reached
	for {
		r, err := patiently(ctx, t.app, func(ctx context.Context) (api.Reached, error) { return t.client.Reached(ctx, t.run.ID) })
		if err != nil {
			return r, err
		}
		if first.Now.IsZero() || !r.Since.Equal(first.Since) { // another server has another clock
			first = r
		}
		if r.Judged.After(first.Now.Add(receiptsDelay)) {
			return r, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return r, fmt.Errorf("receipts did not come within %s: %w", receiptsLimit, ctx.Err())
		}
	}
}

const (
	receiptsDelay = 700 * time.Millisecond // proxies tell of requests several times a second
	receiptsLimit = 30 * time.Second
)

// decide says whether the run passes.
func (t *suiteRun) decide(result *api.TestRun) {
	now := time.Now()
	var reasons []string
	failing := 0
	for i := range result.Cases {
		c := &result.Cases[i]
		for _, q := range t.job.suite.Quarantine {
			if q.Test == c.Name {
				c.Quarantine = q.Day()
			}
		}
		if c.Outcome != string(report.Failed) {
			continue
		}
		c.Excused = now.Before(c.Quarantine) || c.Verdict != "" && !slices.Contains(t.opts.FailOn, c.Verdict)
		if !c.Excused {
			failing++
		}
	}
	if failing > 0 {
		reasons = append(reasons, fmt.Sprintf("%d %s", failing, plural(failing, "test failed", "tests failed")))
	}
	for _, f := range result.Findings {
		reasons = append(reasons, f.Kind+": "+f.Version)
	}
	result.Status = api.RunPassed
	if len(reasons) > 0 {
		result.Status = api.RunFailed
	}
	if t.unproved != "" {
		reasons = append([]string{t.unproved}, reasons...)
		if failing == 0 {
			result.Status = api.RunUnproved
		}
	}
	result.Reason = cut(strings.Join(reasons, "; "), 2000)
}

// fit leaves out what is too much for the server: the messages of tests first, and then the tests that passed.
func fit(r api.TestRun) api.TestRun {
	size := func(c api.TestCase) int {
		text, _ := json.Marshal(c) // of strings and numbers
		return len(text) + 1
	}
	total := 0
	for _, c := range r.Cases {
		total += size(c)
	}
	const room = 800_000
	if total > room {
		r.Cases = slices.Clone(r.Cases)
		slices.SortStableFunc(r.Cases, func(a, b api.TestCase) int { return cmp.Compare(a.Outcome, b.Outcome) }) // failed first
		total = 0
		for i := range r.Cases {
			c := &r.Cases[i]
			c.Message = cut(c.Message, 200)
			if total += size(*c); total > room {
				r = omit(r, i)
				break
			}
		}
	}
	r = omit(r, 10_000)
	r.Findings = r.Findings[:min(len(r.Findings), 100)]
	r.Unreached = r.Unreached[:min(len(r.Unreached), 500)]
	r.Versions = r.Versions[:min(len(r.Versions), 100)]
	return r
}

// omit leaves out all tests but the first most, and counts them.
func omit(r api.TestRun, most int) api.TestRun {
	if len(r.Cases) <= most {
		return r
	}
	for _, c := range r.Cases[most:] {
		r.Omitted.Add(c)
	}
	r.Cases = r.Cases[:most]
	return r
}

// cut is the beginning of a text, at most so many bytes of it, and valid UTF-8 where that is.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}

// boundedWriter takes all, and keeps the beginning.
type boundedWriter struct {
	to   io.Writer
	left int
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	_, err := w.to.Write(p[:n])
	return len(p), err
}
