package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/suite"
	"github.com/layover-dev/layover/internal/suite/report"
)

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
