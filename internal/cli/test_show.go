package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/suite/report"
)

// show prints what a run proved.
func (t *suiteRun) show(r api.TestRun) {
	if t.opts.JSON {
		return
	}
	showRun(t.app, r)
}

// showRun prints a run with what is worth a look: not the tests that passed.
func showRun(app *App, r api.TestRun) {
	app.printf("%s %s  run %s  %s%s\n", markOf(app, r), app.bold(r.Suite), r.ID, summaryOf(r), reasonOf(r))
	if r.Repeats != "" {
		app.printf("  it repeats run %s\n", r.Repeats)
	}
	counts := fmt.Sprintf("%d passed, %d failed, %d skipped", r.Passed, r.Failed, r.Skipped)
	if !r.Ended.IsZero() {
		counts += " in " + precise(r.Ended.Sub(r.Began))
	}
	app.printf("  %s\n", counts)
	if n := r.Omitted; n != (api.TestCounts{}) {
		app.printf("  %s\n", omitted(n))
	}
	for _, c := range r.Cases {
		showCase(app, c)
	}
	for _, f := range r.Findings {
		app.printf("  %s %s: %s\n", app.red("✗"), app.bold(oneLine(f.Kind)), oneLine(f.Text))
		if f.Hint != "" {
			app.printf("      %s %s\n", app.faint("hint:"), oneLine(f.Hint))
		}
	}
	showReached(app, r)
}

// omitted says which tests are missing from a list.
func omitted(n api.TestCounts) string {
	return fmt.Sprintf("of these %d passed, %d failed and %d skipped ones are too many to be stored", n.Passed, n.Failed, n.Skipped)
}

// markOf is what the line of a run begins with: a run that passed only as failures are excused looks like none that passed.
func markOf(app *App, r api.TestRun) string {
	switch {
	case r.Status != api.RunPassed:
		return app.red("✗")
	case r.Excused > 0:
		return app.bold("~")
	}
	return app.green("✓")
}

// summaryOf is how a run ended, in words, with what is excused.
func summaryOf(r api.TestRun) string { return cmp.Or(r.Summary, string(r.Status)) }

func reasonOf(r api.TestRun) string {
	if r.Reason == "" {
		return ""
	}
	return ": " + lines(r.Reason)
}

// lines is text from elsewhere, of which no line can do anything to a terminal.
func lines(text string) string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		out = append(out, oneLine(line))
	}
	return strings.Join(out, "\n")
}

func showCase(app *App, c api.TestCase) {
	if c.Outcome != string(report.Failed) && !c.Flipped {
		return
	}
	mark, verdict := app.red("✗"), c.Verdict
	if c.Excused || c.Outcome == string(report.Passed) {
		mark = app.faint("~")
	}
	if len(c.Blame) > 0 {
		verdict += ": " + strings.Join(c.Blame, ", ")
	}
	if !c.Quarantine.IsZero() {
		if c.Excused && c.Quarantine.After(time.Now()) {
			verdict = strings.TrimSpace(verdict + " (in quarantine until " + c.Quarantine.Format(time.DateOnly) + ")")
		} else {
			verdict = strings.TrimSpace(verdict + " (its quarantine ended on " + c.Quarantine.Format(time.DateOnly) + ")")
		}
	}
	app.printf("  %s %s  %s\n", mark, oneLine(c.Name), app.bold(oneLine(verdict)))
	for i, line := range strings.Split(strings.TrimSpace(c.Message), "\n") {
		if i == maxShown {
			app.printf("      …\n")
			break
		}
		if line != "" {
			app.printf("      %s\n", app.faint(oneLine(line)))
		}
	}
	for _, e := range c.Evidence {
		app.printf("      %s\n", oneLine(e))
	}
}

// maxShown is how many lines of a message are shown.
const maxShown = 8

func showReached(app *App, r api.TestRun) {
	if r.Reached == nil {
		return
	}
	n := map[string]int{}
	for _, e := range r.Reached.Edges {
		n[e.ID()] += e.Requests
	}
	var parts []string
	for id, requests := range n {
		parts = append(parts, fmt.Sprintf("%s %d", id, requests))
	}
	slices.Sort(parts)
	if len(parts) > 0 {
		app.printf("  reached  %s\n", strings.Join(parts, ", "))
	}
	if r.Reached.Dropped > 0 {
		app.printf("  proxies could not tell of %d requests, of any run: some may be missing\n", r.Reached.Dropped)
	}
	under := map[string][]string{}
	for _, e := range r.Reached.Endpoints {
		if slices.Contains(r.Versions, e.ID()) {
			under[e.ID()] = append(under[e.ID()], oneLine(e.Method+" "+e.Path))
		}
	}
	var ids []string
	for id := range under {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		app.printf("  exercised of %s  %s\n", id, someOf(under[id]))
	}
	missed := map[string][]string{}
	var services []string
	for _, e := range r.Unreached {
		if missed[e.Service] == nil {
			services = append(services, e.Service)
		}
		missed[e.Service] = append(missed[e.Service], oneLine(e.Method+" "+e.Path))
	}
	for _, service := range services {
		app.printf("  not exercised of %s  %s\n", service, someOf(missed[service]))
	}
}

// jobSummary is what the summary of a CI job says of runs, as Markdown.
func jobSummary(runs []api.TestRun) string {
	var b strings.Builder
	b.WriteString("### Layover: tests\n\n| suite | run | result | passed | failed | skipped |\n|---|---|---|---|---|---|\n")
	for _, r := range runs {
		result := markdown(summaryOf(r) + reasonOf(r))
		if r.Status != api.RunPassed {
			result = "**" + result + "**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %d |\n", markdown(r.Suite), markdown(r.ID), result, r.Passed, r.Failed, r.Skipped)
	}
	return b.String()
}

// someOf is a list in one line, cut where it is long.
func someOf(all []string) string {
	const most = 12
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return strings.Join(all[:most], ", ") + fmt.Sprintf(" and %d more", len(all)-most)
}

// junitOf writes the results of runs as one JUnit XML, with verdicts and what the receipts say.
func junitOf(w io.Writer, runs []api.TestRun) error {
	var all []report.Case
	var properties []report.Property
	name := "layover"
	for _, r := range runs {
		of := "layover."
		if len(runs) == 1 {
			name = r.Suite
		} else {
			of += r.Suite + "."
		}
		properties = append(properties, report.Property{Name: of + "run", Value: r.ID}, report.Property{Name: of + "summary", Value: summaryOf(r)},
			report.Property{Name: of + "excused", Value: strconv.Itoa(r.Excused)})
		for _, c := range r.Cases {
			out := report.Case{Name: c.Name, Outcome: report.Outcome(c.Outcome), Duration: time.Duration(c.Took), Message: c.Message}
			if len(runs) > 1 {
				out.Name = r.Suite + " > " + c.Name
			}
			if c.Outcome == string(report.Failed) {
				verdict := c.Verdict
				if len(c.Blame) > 0 {
					verdict += " (" + strings.Join(c.Blame, ", ") + ")"
				}
				out.Message = strings.TrimSpace(cmp.Or(verdict, "failed") + "\n" + strings.Join(append(slices.Clone(c.Evidence), c.Message), "\n"))
				if c.Excused {
					out.Outcome, out.Message = report.Skipped, "failed, and is excused: "+out.Message
				}
			}
			all = append(all, out)
		}
		if n := r.Omitted; n != (api.TestCounts{}) {
			all = append(all, report.Case{Name: "layover > tests that are not here", Outcome: report.Skipped, Message: omitted(n)})
		}
		for _, f := range r.Findings {
			all = append(all, report.Case{Name: "layover > " + f.Kind + " " + f.Version, Outcome: report.Failed, Message: f.Text + "\n" + f.Hint})
		}
		switch r.Status {
		case api.RunError, api.RunCanceled:
			all = append(all, report.Case{Name: "layover > " + r.Suite, Outcome: report.Failed, Message: r.Reason})
		case api.RunUnproved:
			all = append(all, report.Case{Name: "layover > not proved " + r.Suite, Outcome: report.Failed, Message: "not proved: " + r.Reason})
		}
	}
	return report.WriteJUnit(w, name, all, properties...)
}
