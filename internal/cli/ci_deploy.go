package cli

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

type ciDeployOptions struct {
	Services []string // NAME or NAME=IMAGE
	Image    string
	Command  string
	Dir      string
	Env      []string
	EnvFile  string
	Version  string
	By       string
	Owner    string
	Timeout  time.Duration
	TTL      durationFlag
	Idle     durationFlag
	Export   string
	DryRun   bool
	JSON     bool
}

func newCIDeployCmd(app *App) *cobra.Command {
	opts := &ciDeployOptions{}
	cmd := &cobra.Command{
		Use:   "deploy [SERVICE[=IMAGE]...]",
		Short: "Deploy what this job has built, and export route and preview addresses",
		Long: `Deploy one or more services as the version of the job's branch: feature/2981 becomes
feature-2981. A job of the default branch deploys the default version; one of a pull request
from a branch of that name deploys pr-NUMBER, and with --by pr all do.

Without SERVICE those of LAYOVER_SERVICE are deployed, else the one that is called as the
repository. In images, {commit}, {version}, {branch} and {service} are filled in; {branch} is
the name that stands for it.

All services are deployed at a time, and waited for. Where one fails, the others stay, and the exit
code is 1. The route and the addresses are exported as LAYOVER_ROUTE, LAYOVER_VERSION and
LAYOVER_PREVIEW_URL_<SERVICE>: to the steps behind and the outputs of a GitHub job, with a job
summary; to the file layover.env of a GitLab job, for artifacts:reports:dotenv; as variables of
Azure and CircleCI; elsewhere to the file of --export.`,
		Example: `  layover ci deploy cart --image 'registry.example.com/cart:{commit}'
  layover ci deploy cart=reg/cart:{commit} orders=reg/orders:{commit} --env LOG_LEVEL=debug
  layover ci deploy web --by pr --export layover.env
  layover ci deploy cart --command ./bin/cart --dry-run`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeServices(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Services = args
			return runCIDeploy(cmd.Context(), app, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Image, "image", "", "image of every service that has none of its own")
	f.StringVar(&opts.Command, "command", "", "run this command as a process")
	f.StringVar(&opts.Dir, "dir", "", "working directory of the command (default: this one)")
	f.StringArrayVar(&opts.Env, "env", nil, "environment variable KEY=VALUE; KEY alone takes the value from here (repeatable)")
	f.StringVar(&opts.EnvFile, "env-file", "", "file of KEY=VALUE lines")
	f.StringVar(&opts.Version, "version", "", "name of the version (default: that of the branch)")
	f.StringVar(&opts.By, "by", "branch", "what names versions: branch, or pr")
	f.StringVar(&opts.Owner, "owner", "", "who it belongs to (default: the author of the change)")
	f.DurationVar(&opts.Timeout, "timeout", 0, "how long each may take to become healthy (default: the service's, 2m)")
	f.Var(&opts.TTL, "ttl", "how long they may live without activity, such as 3d, or never (default: as before, else the service's)")
	f.Var(&opts.Idle, "idle-sleep", "after how long without activity they fall asleep, such as 30m, or never (default: likewise)")
	f.StringVar(&opts.Export, "export", "", "also write what is exported to this file, as NAME=VALUE lines")
	f.BoolVar(&opts.DryRun, "dry-run", false, "only say what would be deployed")
	f.BoolVar(&opts.JSON, "json", false, "print the versions as JSON")
	return cmd
}

// ciDeployed is what became of one service.
type ciDeployed struct {
	Service string      `json:"service"`
	Version string      `json:"version"`
	Result  api.Version `json:"result,omitzero"`
	Took    string      `json:"took,omitempty"`
	Error   string      `json:"error,omitempty"`
	hint    string
}

func runCIDeploy(ctx context.Context, app *App, opts *ciDeployOptions) error {
	if opts.By != "branch" && opts.By != "pr" {
		return usagef("branch, or pr", "--by %q is nothing to name versions by", opts.By)
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	job := jobOf(ctx, app)
	name, branch, err := opts.name(job)
	if err != nil {
		return err
	}
	services, err := job.services(ctx, app, client, opts.Services)
	if err != nil {
		return err
	}
	var plans []ciPlan
	for _, text := range services {
		p, err := opts.plan(ctx, app, client, job, text, name, branch)
		if err != nil {
			return err
		}
		plans = append(plans, p)
	}
	if opts.DryRun {
		for _, p := range plans {
			app.printf("would deploy %s %s\n", p.id(), cmp.Or(p.deployment.Image, strings.Join(p.deployment.Command, " "), "as its run block says"))
		}
		return nil
	}
	closeGroup := ciGroup(app, job, "layover: deploying "+plansText(plans))
	done := deployAll(ctx, app, client, plans)
	closeGroup()
	out := exported(done, name)
	if err := export(app, job, opts.Export, out, done); err != nil {
		return err
	}
	if opts.JSON {
		if err := app.json(done); err != nil {
			return err
		}
	} else {
		showDeployed(app, done, out)
	}
	for _, d := range done {
		if d.Error != "" {
			return &silentError{exitFailed}
		}
	}
	return nil
}

// name is the version's name, "" for the default one of each service, and its branch.
func (o *ciDeployOptions) name(job ciJob) (name, branch string, err error) {
	if o.Version == "" {
		return job.version(o.By)
	}
	if err := route.CheckName("version", o.Version); err != nil {
		return "", "", usagef("", "--version: %s", err)
	}
	return o.Version, job.Origin.Branch, nil
}

// ciPlan is one version that is to be deployed.
type ciPlan struct {
	service, version string
	deployment       api.Deployment
}

func (p ciPlan) id() string { return p.service + "@" + p.version }

func plansText(plans []ciPlan) string {
	var all []string
	for _, p := range plans {
		all = append(all, p.id())
	}
	return strings.Join(all, ", ")
}

func (o *ciDeployOptions) plan(ctx context.Context, app *App, client *api.Client, job ciJob, text, name, branch string) (ciPlan, error) {
	service, image, _ := strings.Cut(text, "=")
	p := ciPlan{service: service, version: name}
	if pull := job.Origin.PullRequest; name == "" || pull != "" && o.Version == "" {
		s, err := client.Service(ctx, service)
		if err != nil {
			return p, err
		}
		p.version = cmp.Or(name, s.Default, route.DefaultVersion)
		if pull != "" && p.version == cmp.Or(s.Default, route.DefaultVersion) { // that of a fork may come from a branch of any name
			return p, usagef("name versions by pull request: --by pr", "%s is the default version, and this job is of pull request %s", p.id(), pull)
		}
	}
	env, err := readEnv(app, o.EnvFile, o.Env)
	if err != nil {
		return p, err
	}
	image = cmp.Or(image, o.Image)
	if image != "" && strings.Contains(image, "{commit}") && job.Origin.Commit == "" {
		return p, usagef("set LAYOVER_CI_COMMIT", "the image %s names {commit}, and nothing says which commit this job is of", image)
	}
	image = strings.NewReplacer("{commit}", job.Origin.Commit, "{version}", p.version, "{branch}", route.NameOf(cmp.Or(job.Origin.Branch, p.version)), "{service}", service).Replace(image)
	deploy := deployOptions{
		Target: p.id(), Image: image, Command: o.Command, Dir: o.Dir, Branch: fitting(branch), Timeout: o.Timeout, TTL: o.TTL, Idle: o.Idle,
		Who: whoOptions{
			Owner: cmp.Or(o.Owner, app.env("LAYOVER_OWNER"), job.Origin.Author), Source: "ci", Commit: job.Origin.Commit, PullRequest: job.Origin.PullRequest,
			Author: job.Origin.Author, Link: job.Origin.URL,
		},
	}
	_, p.deployment, err = deploy.deployment(app)
	p.deployment.Env = env
	return p, err
}

// deployAll deploys all at a time, and waits for each.
func deployAll(ctx context.Context, app *App, client *api.Client, plans []ciPlan) []ciDeployed {
	out := make([]ciDeployed, len(plans))
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		app.say(format, args...)
	}
	var all sync.WaitGroup
	for i, p := range plans {
		all.Go(func() {
			d := ciDeployed{Service: p.service, Version: p.version}
			began := time.Now()
			v, err := deployWithRetries(ctx, client, p, say)
			if err == nil {
				v, err = client.WaitDeploy(ctx, p.service, p.version, v.Generation, func(e api.Event) {
					if e.Type == api.EventDeployStep && e.Took > 0 {
						say("  %s  %-8s %s\n", p.id(), e.Step, roundDuration(time.Duration(e.Took)))
					}
				})
			}
			d.Result, d.Took = v, roundDuration(time.Since(began)).String()
			if err != nil {
				d.Error, d.hint = describeError(err)
			}
			out[i] = d
		})
	}
	all.Wait()
	return out
}

// handOver is how long a server may be away, as another one takes over.
const handOver = 30 * time.Second

func deployWithRetries(ctx context.Context, client *api.Client, p ciPlan, say func(string, ...any)) (api.Version, error) {
	until := time.Now().Add(handOver)
	for {
		v, err := client.Deploy(ctx, p.service, p.version, p.deployment)
		problem, ok := asProblem(err)
		if err == nil || !ok || problem.Code != api.CodeUnavailable || time.Now().After(until) {
			return v, err
		}
		say("  %s  the server cannot take it yet, trying again: %s\n", p.id(), problem.Detail)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

func asProblem(err error) (*api.Problem, bool) { return errors.AsType[*api.Problem](err) }

func showDeployed(app *App, done []ciDeployed, out []variable) {
	for _, d := range done {
		id := d.Service + "@" + d.Version
		if d.Error != "" {
			app.printf("%s %s: %s\n", app.red("✗"), app.bold(id), d.Error)
			if d.hint != "" {
				app.printf("    %s %s\n", app.faint("hint:"), d.hint)
			}
			continue
		}
		app.printf("%s %s is up after %s  %s\n", app.green("✓"), app.bold(id), d.Took, d.Result.PreviewURL)
	}
	for _, v := range out {
		app.printf("%s=%s\n", v.name, v.value)
	}
}

func newCICleanupCmd(app *App) *cobra.Command {
	var branch, version string
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "cleanup [SERVICE...]",
		Short: "Remove the versions of this job's branch or pull request",
		Long: `Remove what layover ci deploy has deployed for a branch or pull request, in a job that runs
when that is merged, closed or deleted. Services are found as for layover ci deploy: versions of
the same name that other repositories have deployed stay. The default version is never removed.
Where there is nothing to remove, that is no failure.`,
		Example: `  layover ci cleanup cart
  layover ci cleanup --branch feature/2981 --dry-run`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeServices(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCICleanup(cmd.Context(), app, args, branch, version, dryRun, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&branch, "branch", "", "branch that is gone (default: the job's)")
	f.StringVar(&version, "version", "", "name of the version (default: that of branch and pull request)")
	f.BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	f.BoolVar(&asJSON, "json", false, "print the versions as JSON")
	return cmd
}

func runCICleanup(ctx context.Context, app *App, named []string, branch, version string, dryRun, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	job := jobOf(ctx, app)
	if branch != "" {
		job.Origin.Branch, job.Origin.PullRequest = branch, ""
	}
	if job.Origin.Branch == "" && job.Origin.PullRequest == "" && version == "" {
		return usagef("set LAYOVER_CI_BRANCH, or name it with --branch", "nothing says which branch is gone")
	}
	services, err := job.services(ctx, app, client, named)
	if err != nil {
		return err
	}
	gone := []api.Version{}
	for _, text := range services {
		service, _, _ := strings.Cut(text, "=")
		versions, err := client.Versions(ctx, api.VersionFilter{Service: service})
		if err != nil {
			return err
		}
		for _, v := range versions {
			if !v.Default && v.State != api.StateRemoving && job.deployed(v, version) {
				gone = append(gone, v)
			}
		}
	}
	if !dryRun {
		for _, v := range gone {
			if _, err := client.Remove(ctx, v.Service, v.Name, ""); err != nil {
				return err
			}
		}
	}
	if asJSON {
		return app.json(gone)
	}
	word := "is removed"
	if dryRun {
		word = "would be removed"
	}
	for _, v := range gone {
		app.printf("%s %s\n", v.ID(), word)
	}
	if len(gone) == 0 {
		app.say("nothing to remove: %s has no version of branch %q\n", strings.Join(services, ", "), job.Origin.Branch)
	}
	return nil
}

// deployed says whether a version is one that jobs of this branch or pull request deploy.
func (j ciJob) deployed(v api.Version, named string) bool {
	if named != "" {
		return v.Name == named
	}
	o := j.Origin
	byBranch := o.Branch != "" && (o.PullRequest != "" || !j.isDefault()) && (v.Branch == o.Branch || v.Origin.Branch == o.Branch || v.Branch == "" && v.Name == route.NameOf(o.Branch))
	if o.PullRequest == "" {
		return byBranch
	}
	if v.Origin.PullRequest != "" { // a branch of a fork may have any name
		return v.Origin.PullRequest == o.PullRequest
	}
	return byBranch && !j.likeDefault() || v.Name == route.NameOf("pr-"+o.PullRequest)
}
