package cli

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/suite"
	"github.com/layover-dev/layover/internal/suite/report"
)

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
