package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newRunsCmd(app *App) *cobra.Command {
	var f api.TestRunFilter
	var status string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "runs",
		GroupID: groupTests,
		Short:   "The newest test runs: what ran, against what, and how it ended",
		Example: `  layover runs
  layover runs --version cart@feature-2981 --status failed
  layover runs --suite checkout-flow -n 200 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Limit < 1 || f.Limit > 1000 {
				return usagef("", "--last %d is not between 1 and 1000", f.Limit)
			}
			f.Status = api.RunStatus(status)
			client, err := app.Client()
			if err != nil {
				return err
			}
			runs, err := client.TestRuns(cmd.Context(), f)
			if err != nil {
				return err
			}
			if asJSON {
				return app.json(runs)
			}
			if len(runs) == 0 {
				app.say("no test runs; begin one with: layover test --route ROUTE\n")
			}
			var rows [][]string
			for _, r := range runs {
				took := "-"
				if !r.Ended.IsZero() {
					took = precise(r.Ended.Sub(r.Began))
				}
				why := r.Reason
				if r.Excused > 0 {
					why = summaryOf(r) + reasonOf(r)
				}
				rows = append(rows, []string{
					r.ID, string(r.Status), oneLine(suiteName(r)), cmp.Or(r.Route, "-"), fmt.Sprintf("%d/%d/%d", r.Passed, r.Failed, r.Skipped),
					app.age(r.Began), took, cmp.Or(r.Actor, "-"), oneLine(why),
				})
			}
			app.table([]string{"RUN", "STATUS", "SUITE", "ROUTE", "PASS/FAIL/SKIP", "BEGAN", "TOOK", "BY", "WHY"}, rows)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Suite, "suite", "", "only of this suite")
	flags.StringVar(&f.Route, "route", "", "only those aimed at this route")
	flags.StringVar(&f.Version, "version", "", "only those whose route had SERVICE@VERSION, or a version of SERVICE")
	flags.StringVar(&status, "status", "", "only those that are so: running, passed, failed, unproved, error, canceled, lost")
	flags.IntVarP(&f.Limit, "last", "n", 50, "how many at most")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	completeFlag(cmd, "suite", completeRanSuites(app))
	completeFlag(cmd, "route", completeRoutes(app))
	completeFlag(cmd, "version", completeTargets(app))
	completeFlag(cmd, "status", cobra.FixedCompletions([]cobra.Completion{"running", "passed", "failed", "unproved", "error", "canceled", "lost"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func suiteName(r api.TestRun) string {
	if r.Ref == "" {
		return r.Suite
	}
	return r.Suite + "@" + r.Ref
}

func newRunCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run",
		GroupID: groupTests,
		Short:   "One test run, and what is known of the tests of a suite",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRunShowCmd(app), newRunHistoryCmd(app))
	return cmd
}

func newRunShowCmd(app *App) *cobra.Command {
	var asJSON, asJUnit, edges bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "A test run: its tests, the verdicts, and what its requests reached",
		Long: `Show a test run. One that goes on is shown as far as it is. Its requests are listed by
layover requests --run ID, and a single one is followed by layover receipt TRACE-ID.`,
		Example: `  layover run show ci-8812
  layover run show ci-8812 --edges              # who called which version, and why it answered
  layover run show ci-8812 --junit > report.xml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(completeRuns(app)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			r, err := client.TestRun(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				return app.json(r)
			case asJUnit:
				return junitOf(app.Out, []api.TestRun{r})
			}
			showRun(app, r)
			if edges && r.Reached != nil {
				showEdges(app, r.Reached.Edges)
			}
			if r.Origin.URL != "" {
				app.printf("  build  %s\n", r.Origin.URL)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&edges, "edges", false, "also who called which version, with a trace of each")
	f.BoolVar(&asJUnit, "junit", false, "print JUnit XML")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("junit", "json")
	return cmd
}

func showEdges(app *App, edges []api.ReachedEdge) {
	var rows [][]string
	for _, e := range edges {
		why := "by=" + e.By
		if e.Fallback != "" {
			why += " fallback=" + e.Fallback
		}
		if e.Lost != "" {
			why += " lost: " + e.Lost
		}
		rows = append(rows, []string{cmp.Or(e.Caller, "-"), e.ID(), strconv.Itoa(e.Requests), strconv.Itoa(e.Errors), why, cmp.Or(e.Example, "-")})
	}
	app.table([]string{"CALLER", "ANSWERED", "REQUESTS", "ERRORS", "WHY", "TRACE"}, rows)
}

func newRunHistoryCmd(app *App) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "history SUITE",
		Short: "How the tests of a suite went in its last 100 runs, over all versions",
		Long: `List the tests of a suite that failed, flip, or fail on main. FLIPS is in how many runs a test
failed and passed on the same versions: such a test is not believed at its first failure.

A suite that is in no registry has the name of its repository before its own: cart.checkout.`,
		Example: `  layover run history checkout-flow
  layover run history cart.checkout --all --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(completeRanSuites(app)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			tests, err := client.TestHistory(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return app.json(tests)
			}
			if len(tests) == 0 {
				app.say("no run of suite %s is known; layover runs lists what ran\n", args[0])
			}
			var rows [][]string
			for _, h := range tests {
				if !all && h.Failed == 0 && h.Flips == 0 && h.Broken == nil {
					continue
				}
				broken := "-"
				if h.Broken != nil {
					broken = oneLine(app.age(h.Broken.Since) + " " + strings.Join(h.Broken.Blame, ","))
				}
				last := "-"
				if n := len(h.Last); n > 0 {
					last = app.age(h.Last[n-1].At)
				}
				rows = append(rows, []string{oneLine(h.Test), strconv.Itoa(h.Runs), strconv.Itoa(h.Failed), strconv.Itoa(h.Flips), broken, last})
			}
			app.table([]string{"TEST", "RUNS", "FAILED", "FLIPS", "MAIN BROKEN", "LAST"}, rows)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also tests that never failed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
