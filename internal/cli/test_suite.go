package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
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
