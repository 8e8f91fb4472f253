package cli

import (
	"bytes"
	"cmp"
	"context"
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
		return r, err
	}
	if err := t.prepare(ctx, value); err != nil {
		return r, err
	}
	r.Suite, r.Ref, r.Route, r.Versions, r.Owners, r.Repository = t.job.name, t.job.ref, value, t.aim.versions(), t.job.suite.Owners, t.job.from
	r.Origin, _ = ciOrigin(t.app.env)
	most := time.Duration(t.job.suite.Timeout)*time.Duration(2+t.job.suite.Retries) + startPatience
	if t.run, err = t.client.BeginRun(ctx, r, most); err != nil {
		return r, err
	}
	if t.begin, err = t.client.Reached(ctx, t.run.ID); err != nil {
		return r, err
	}
	t.app.say("%s  run %s  %s\n", t.app.bold(t.job.name), t.run.ID, t.aimedAt())
	result := t.execute(ctx)
	stored, err := t.store(ctx, result)
	if err != nil {
		return result, fmt.Errorf("the result of run %s is not stored: %w", t.run.ID, err)
	}
	t.show(stored)
	return stored, ctx.Err()
}

// store stores the result, also where the tests were ended before they were done.
func (t *suiteRun) store(ctx context.Context, result api.TestRun) (api.TestRun, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	tried := false
	return patiently(ctx, func(ctx context.Context) (api.TestRun, error) {
		stored, err := t.client.EndRun(ctx, fit(result))
		if p, ok := asProblem(err); ok && p.Code == api.CodeConflict && tried {
			return t.client.TestRun(ctx, result.ID) // it was stored, and the answer was lost
		}
		tried = true
		return stored, err
	})
}

// patiently asks again while no server answers, or none leads: another one takes over.
func patiently[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	until := time.Now().Add(handOver)
	for {
		out, err := ask(ctx)
		_, silent := errors.AsType[*api.UnreachableError](err)
		problem, ok := asProblem(err)
		if !silent && (!ok || problem.Code != api.CodeUnavailable) || time.Now().After(until) {
			return out, err
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
		return "route " + t.run.Route + ", of which no version is there"
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
	for _, service := range slices.Backward(slices.Sorted(maps.Keys(t.job.suite.Needs))) {
		if a.table.Service(service) == nil {
			return "", usagef("layover service ls lists them", "suite %s needs service %q, which the environment does not have", t.job.name, service)
		}
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
		t.aim, err = t.aimAt(ctx, value)
	}
	return err
}

func (t *suiteRun) aimAt(ctx context.Context, value string) (*aim, error) {
	return patiently(ctx, func(ctx context.Context) (*aim, error) { return aimAt(ctx, t.client, value) })
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
		return nil, fmt.Errorf("%s cannot be run: is it installed?", command[0])
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
	taken := map[string]int{}
	failed := false
	for _, in := range readers {
		cases, err := readReport(r.Format, in)
		if err != nil {
			return nil, fmt.Errorf("read the report (%s): %w; the command ended with exit code %d", r.Format, err, exit)
		}
		for _, c := range cases {
			name := cut(c.Name, 480)
			if taken[name]++; taken[name] > 1 {
				name = fmt.Sprintf("%s (%d)", name, taken[name])
			}
			failed = failed || c.Outcome == report.Failed
			out = append(out, api.TestCase{Name: name, Outcome: string(c.Outcome), Took: api.Duration(c.Duration), Message: cut(c.Message, 4000)})
		}
	}
	if exit != 0 && !failed { // it failed apart from any test
		out = append(out, whole)
	}
	return out, nil
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
	histories, err := patiently(ctx, func(ctx context.Context) ([]api.TestHistory, error) { return t.client.TestHistory(ctx, t.job.name) })
	if err != nil {
		return err
	}
	for _, h := range histories {
		past[h.Test] = suite.Past{Runs: h.Runs, Flips: h.Flips}
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

// blameMain names the default versions whose fault it is that main fails tests. Receipts of the trial are known by then.
func (t *suiteRun) blameMain(ctx context.Context, result *api.TestRun) {
	var guilty []string
	for i := range result.Cases {
		if c := &result.Cases[i]; c.Verdict == string(suite.MainFails) {
			if guilty == nil {
				guilty = t.guilty(ctx)
			}
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
func (t *suiteRun) guilty(ctx context.Context) []string {
	id := t.onDefaults
	if id == "" {
		id = t.run.ID // it ran on the default versions
	}
	r, err := t.client.Reached(ctx, id)
	var out []string
	if err == nil {
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
		r, err := patiently(ctx, func(ctx context.Context) (api.Reached, error) { return t.client.Reached(ctx, t.run.ID) })
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
	size := 0
	for _, c := range r.Cases {
		size += len(c.Name) + len(c.Message) + 150
		for _, e := range c.Evidence {
			size += len(e)
		}
	}
	const room = 800_000
	if size > room {
		r.Cases = slices.Clone(r.Cases)
		slices.SortStableFunc(r.Cases, func(a, b api.TestCase) int { return cmp.Compare(a.Outcome, b.Outcome) }) // failed first
		size = 0
		for i := range r.Cases {
			c := &r.Cases[i]
			c.Message = cut(c.Message, 200)
			if size += len(c.Name) + len(c.Message) + 300; size > room {
				r.Cases = r.Cases[:i]
				break
			}
		}
	}
	r.Cases = r.Cases[:min(len(r.Cases), 10_000)]
	r.Findings = r.Findings[:min(len(r.Findings), 100)]
	r.Unreached = r.Unreached[:min(len(r.Unreached), 500)]
	r.Versions = r.Versions[:min(len(r.Versions), 100)]
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
