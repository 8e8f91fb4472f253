package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/route"
	"github.com/layover-dev/layover/internal/suite"
)

type testOptions struct {
	Suites   []string // in the file
	Shared   []string // NAME or NAME@REF
	Affected string
	File     string
	Route    string
	Run      string
	FailOn   []string
	JUnit    string
	NoBlame  bool
	NoProof  bool
	JSON     bool
	Quiet    bool
}

func newTestCmd(app *App) *cobra.Command {
	opts := &testOptions{}
	cmd := &cobra.Command{
		Use:     "test [SUITE...] --route ROUTE",
		GroupID: groupTests,
		Short:   "Run suites of tests against a route, and prove that they reached it",
		Long: `Run the suites of layover.test.yaml, or shared ones, against the versions of a route.

Versions that a suite needs are deployed where they are missing, and waited for. The tests' requests
carry the route without a change to the tests. Then the receipts of these very requests have to show
that the versions under test were reached: a suite that never hit them fails as "not exercised",
with the edge that lost the route, and so does one in which a default version answered in place
of a version of the route.

Receipts are in the memory of the server. Where it was started anew meanwhile, or another one took
over, nothing is proved: the suite runs once more by itself, as a run of its own. Where that happens
again, the outcome is "not proved", with exit code 4, unless a test fails the run.

A test that fails is run again against the default versions and parts of the route, to find out
whose fault that is: yours, theirs (another version of the route), only together, main is broken,
or flaky. Which of these fail the run is said with --fail-on. The others are told, and do not.

Without a route the suites run against the default versions.`,
		Example: `  layover test --route feature-2981
  layover test checkout --route 'cart@pr-88~feature-2981' --junit report.xml
  layover test --suite checkout-flow@v3 --route feature-2981
  layover test --affected cart@feature-2981      # the suites whose runs touch cart, as receipts say`,
		ValidArgsFunction: completeOwn,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Suites = args
			return runTest(cmd.Context(), app, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Route, "route", "", "route to aim at (default: LAYOVER_ROUTE, else that of --affected)")
	f.StringVarP(&opts.File, "file", "f", config.TestFileName, "file with the suites")
	f.StringArrayVar(&opts.Shared, "suite", nil, "shared suite NAME or NAME@REF, in place of those of the file (repeatable)")
	f.StringVar(&opts.Affected, "affected", "", "the suites that touch SERVICE@VERSION, shared ones and those of the file")
	f.StringVar(&opts.Run, "run", "", "ID of the run; of several suites, with the name of each behind it (default: one is made)")
	f.StringSliceVar(&opts.FailOn, "fail-on", []string{"yours", "theirs", "only together", "undecided"}, "verdicts that fail the run; also flaky, and main is broken")
	f.StringVar(&opts.JUnit, "junit", "", "write all results to this file, as JUnit XML with the verdicts")
	f.BoolVar(&opts.NoBlame, "no-verdict", false, "do not run failed tests again to find out whose fault that is: every failure fails the run")
	f.BoolVar(&opts.NoProof, "no-proof", false, "do not ask receipts what was reached")
	f.BoolVar(&opts.Quiet, "quiet", false, "show what the commands print only where they fail")
	f.BoolVar(&opts.JSON, "json", false, "print the runs as JSON; what the commands print goes to the standard error")
	completeFlag(cmd, "route", completeRoutes(app))
	completeFlag(cmd, "suite", completeShared(app))
	completeFlag(cmd, "affected", completeTargets(app))
	completeFlag(cmd, "fail-on", cobra.FixedCompletions([]cobra.Completion{"yours", "theirs", "together", "main", "flaky", "undecided", "none"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(newTestPromoteCmd(app))
	return cmd
}

// suiteJob is a suite that is to be run.
type suiteJob struct {
	suite config.TestSuite
	name  string // of its history
	ref   string
	from  string // its repository
}

func runTest(ctx context.Context, app *App, opts *testOptions) error {
	if err := opts.check(app); err != nil {
		return err
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	jobs, err := opts.jobs(ctx, app, client)
	if err != nil {
		return err
	}
	if len(jobs) == 0 && opts.Affected == "" {
		return usagef("declare suites there, see docs/howto/test.md", "%s has no suites", opts.File)
	}
	if len(jobs) == 0 {
		app.say("no suite touches %s, as far as receipts say; layover suite ls shows what each touches\n", opts.Affected)
		return nil
	}
	if opts.Run != "" && len(jobs) > 1 {
		for _, job := range jobs {
			if err := route.CheckName("run", opts.Run+"."+job.name); err != nil {
				return usagef("choose a shorter one", "--run: %s", err)
			}
		}
	}
	runs := []api.TestRun{}
	var broken error // what ended the last run before its time: what is known of it and of those before is written nonetheless
	for _, job := range jobs {
		run, err := runSuite(ctx, app, client, job, opts, len(jobs) > 1)
		if run.ID != "" {
			runs = append(runs, run)
		}
		if broken = err; err != nil {
			break
		}
	}
	if opts.JUnit != "" && len(runs) > 0 {
		if err := writeJUnit(opts.JUnit, runs); err != nil {
			return cmp.Or(broken, err)
		}
	}
	if err := appendTo(app.env("GITHUB_STEP_SUMMARY"), jobSummary(runs)); err != nil {
		return fmt.Errorf("write to the file of GITHUB_STEP_SUMMARY: %w", err)
	}
	if opts.JSON {
		if err := app.json(runs); err != nil {
			return err
		}
	}
	if broken != nil {
		return broken
	}
	return endOf(runs)
}

// endOf is how the command ends: a run that failed counts more than one of which it is not proved what it reached.
func endOf(runs []api.TestRun) error {
	code := exitOK
	for _, r := range runs {
		switch r.Status {
		case api.RunPassed:
		case api.RunUnproved:
			code = max(code, exitUnproved)
		default:
			return &silentError{exitFailed}
		}
	}
	if code == exitOK {
		return nil
	}
	return &silentError{code}
}

// check looks for flags that are wrong whatever the server says.
func (o *testOptions) check(app *App) error {
	if o.Affected != "" {
		t, err := parseTarget(o.Affected, false)
		if err != nil {
			return err
		}
		o.Affected = t.String()
		if o.Route == "" {
			o.Route = cmp.Or(app.env("LAYOVER_ROUTE"), t.Version)
		}
	}
	o.Route = cmp.Or(o.Route, app.env("LAYOVER_ROUTE"))
	if o.Route != "" {
		if _, err := route.ParseRoute(o.Route); err != nil {
			return usagef("", "--route: %s", err)
		}
	}
	if o.Run != "" {
		if err := route.CheckName("run", o.Run); err != nil {
			return usagef("", "--run: %s", err)
		}
	}
	if o.JUnit != "" {
		if info, err := os.Stat(filepath.Dir(o.JUnit)); err != nil || !info.IsDir() {
			return usagef("make it first", "--junit: there is no folder %s", filepath.Dir(o.JUnit))
		}
	}
	if len(o.Shared) > 0 && len(o.Suites) > 0 {
		return usagef("name the suites of the file, or shared ones", "SUITE and --suite exclude each other")
	}
	for i, v := range o.FailOn {
		switch v {
		case "main", "main-is-broken":
			o.FailOn[i] = string(suite.MainFails)
		case "together", "only-together":
			o.FailOn[i] = string(suite.Together)
		case "none":
		default:
			if !slices.Contains(suite.Verdicts(), suite.Verdict(v)) {
				return usagef("yours, theirs, only together, main is broken, flaky, undecided, or none", "--fail-on: %q is no verdict", v)
			}
		}
	}
	return nil
}

// jobs are the suites to run.
func (o *testOptions) jobs(ctx context.Context, app *App, client *api.Client) ([]suiteJob, error) {
	switch {
	case len(o.Shared) > 0:
		return sharedJobs(ctx, app, client, o.Shared)
	case o.Affected == "":
		return o.ownJobs(ctx)
	}
	service, _, _ := strings.Cut(o.Affected, "@")
	touches, err := client.Touches(ctx)
	if err != nil {
		return nil, err
	}
	own, err := o.ownJobs(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	jobs := slices.DeleteFunc(own, func(job suiteJob) bool {
		return job.suite.Service != service && !slices.ContainsFunc(touches[job.name], func(t api.TouchedByTest) bool { return t.Service == service })
	})
	published, err := client.Suites(ctx, service)
	if err != nil {
		return nil, err
	}
	newest := map[string]api.Suite{}
	for _, s := range published {
		if s.Published.After(newest[s.Name].Published) {
			newest[s.Name] = s
		}
	}
	var names []string
	for _, s := range newest {
		names = append(names, s.Name+"@"+s.Ref)
	}
	slices.Sort(names)
	shared, err := sharedJobs(ctx, app, client, names)
	return append(jobs, shared...), err
}

// ownJobs are the suites of the file, or those of them that were named.
func (o *testOptions) ownJobs(ctx context.Context) ([]suiteJob, error) {
	file, err := config.LoadTests(o.File)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && o.Affected == "" {
			return nil, usagef("declare suites there, see docs/howto/test.md, or run shared ones with --suite", "%s", err)
		}
		return nil, err
	}
	names := o.Suites
	if len(names) == 0 {
		names = file.Suites()
	}
	repository := repositoryOf(ctx, filepath.Dir(o.File))
	var jobs []suiteJob
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		s, ok := file.Suite(name)
		if !ok {
			return nil, usagef("it has "+strings.Join(file.Suites(), ", "), "there is no suite %q in %s", name, o.File)
		}
		jobs = append(jobs, suiteJob{suite: s, name: ownName(repository, o.File, name), from: repository})
	}
	return jobs, nil
}

// ownName is the name under which the history of a suite is kept that no registry knows: with that of its repository before it.
func ownName(repository, file, name string) string {
	base := strings.TrimSuffix(repository, ".git")
	if i := strings.LastIndexAny(base, "/:"); i >= 0 {
		base = base[i+1:]
	}
	if base == "" {
		if abs, err := filepath.Abs(file); err == nil {
			base = filepath.Base(filepath.Dir(abs))
		}
	}
	return route.NameOf(base + "." + name)
}

// writeJUnit writes the results of all runs to a file, whole or not at all.
func writeJUnit(path string, runs []api.TestRun) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".junit-*")
	if err != nil {
		return usagef("", "write --junit: %s", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	for _, err := range []error{junitOf(f, runs), f.Chmod(0o644), f.Close(), os.Rename(f.Name(), path)} {
		if err != nil {
			return err
		}
	}
	return nil
}

// startPatience is how long versions are waited for that are being started.
const startPatience = 10 * time.Minute
