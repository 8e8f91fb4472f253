package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/route"
)

type deployOptions struct {
	Target  string
	Image   string
	Command string
	Dir     string
	URL     string
	Adopt   bool
	Port    int
	Env     []string
	EnvFile string
	Branch  string
	Who     whoOptions
	Timeout time.Duration
	TTL     durationFlag
	Idle    durationFlag
	Protect timeFlag
	NoHooks bool
	NoWait  bool
	JSON    bool

	Replicas int
}

func newDeployCmd(app *App) *cobra.Command {
	opts := &deployOptions{}
	cmd := &cobra.Command{
		Use:     "deploy SERVICE@VERSION",
		GroupID: groupVersions,
		Short:   "Run a version beside the others",
		Long: `Run a version of a service beside the others, and wait until requests reach it.

What is not given comes from the service's run block in layover.yaml. A version that runs
already is replaced once the new instance is healthy; where that fails it goes on
serving. VERSION may be a Git branch: feature/ABC_12 becomes feature-abc_12.

A version belongs to who deployed it last: the name in LAYOVER_OWNER, else the author that
the CI job names, else user.email of Git, else the user of this machine. Jobs of GitHub
Actions, GitLab CI, CircleCI, Buildkite, Bitbucket, Azure and Jenkins are recognized:
commit, branch, pull request, author and a link to the build are shown with the version.`,
		Example: `  layover deploy cart@feature-2981 --image registry.example.com/cart:2981
  layover deploy cart@try-1 --command './bin/cart --verbose' --env LOG_LEVEL=debug
  layover deploy cart@main --url http://cart.internal:8080
  layover deploy cart@feature-2981 --idle-sleep 30m --ttl 3d
  layover deploy cart@$(git branch --show-current) --env-file .env
  layover deploy cart@sales --note 'demo on Friday' --label team=payments`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeBegin(app, "@"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Target = args[0]
			return runDeploy(cmd.Context(), app, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Image, "image", "", "run this image: with Docker, or with ECS where the service does")
	f.StringVar(&opts.Command, "command", "", "run this command as a process; it gets its port in PORT and {port}")
	f.StringVar(&opts.Dir, "dir", "", "working directory of the command (default: this one)")
	f.StringVar(&opts.URL, "url", "", "adopt an address that somebody else runs")
	f.BoolVar(&opts.Adopt, "adopt", false, "adopt the ECS service of the service's template")
	f.IntVar(&opts.Port, "port", 0, "port it listens on: inside the container, or a fixed one for a command")
	f.StringArrayVar(&opts.Env, "env", nil, "environment variable KEY=VALUE; KEY alone takes the value from here (repeatable)")
	f.StringVar(&opts.EnvFile, "env-file", "", "file of KEY=VALUE lines")
	f.StringVar(&opts.Branch, "branch", "", "Git branch it is made from (default: VERSION, where that is no valid name)")
	f.StringVar(&opts.Who.Owner, "owner", "", "who it belongs to (default: you, see below)")
	f.StringVar(&opts.Who.Source, "source", "", "where the deployment comes from (default: ci in a CI job, else cli)")
	f.StringVar(&opts.Who.Note, "note", "", "what it is for")
	f.StringArrayVar(&opts.Who.Labels, "label", nil, "label NAME=VALUE; NAME= takes one away (repeatable)")
	f.StringVar(&opts.Who.Commit, "commit", "", "commit it is built from (default: the CI job's)")
	f.StringVar(&opts.Who.PullRequest, "pull-request", "", "number of its pull request (default: the CI job's)")
	f.StringVar(&opts.Who.Author, "author", "", "whose change it is (default: the CI job's)")
	f.StringVar(&opts.Who.Link, "link", "", "page of its build or change (default: the CI job's)")
	f.DurationVar(&opts.Timeout, "timeout", 0, "how long it may take to become healthy (default: the service's, 2m)")
	f.IntVar(&opts.Replicas, "replicas", 0, "how many instances (default: as many as it was scaled to, else the service's, 1)")
	f.Var(&opts.Idle, "idle-sleep", "after how long without activity it falls asleep, such as 30m, or never (default: as before, else the service's)")
	f.Var(&opts.TTL, "ttl", "how long it may live without activity, such as 3d, or never (default: as before, else the service's)")
	f.Var(&opts.Protect, "protect-until", "not to be removed before this time, such as 2031-05-01")
	f.BoolVar(&opts.NoHooks, "no-hooks", false, "run neither setup nor teardown for this deployment; a teardown that is owed already stays so")
	f.BoolVar(&opts.NoWait, "no-wait", false, "return as soon as the wish is recorded")
	f.BoolVar(&opts.JSON, "json", false, "print the version as JSON")
	return cmd
}

func runDeploy(ctx context.Context, app *App, opts *deployOptions) error {
	t, d, err := opts.deployment(app)
	if err != nil {
		return err
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	began := time.Now()
	v, err := client.Deploy(ctx, t.Service, t.Version, d)
	if err != nil {
		sayGoesOn(ctx, app, t.String())
		return err
	}
	if !opts.NoWait {
		if v, err = waitDeploy(ctx, app, client, v); err != nil {
			return err
		}
	}
	if opts.JSON {
		return app.json(v)
	}
	if opts.NoWait {
		app.printf("%s generation %d is recorded; follow it with: layover status %s\n", v.ID(), v.Generation, v.ID())
		return nil
	}
	app.printf("%s is up after %s\n", app.bold(v.ID()), roundDuration(time.Since(began)))
	if v.PreviewURL != "" {
		app.printf("  in a browser    %s\n", v.PreviewURL)
	}
	if env, err := client.Environment(ctx); err == nil { // the version is up, whether or not this can be told
		app.printf("  from a program  %s\n", baggageLine(env, v.Name))
	}
	return nil
}

// baggageLine is the header line that carries a route in an environment.
func baggageLine(env api.Environment, value string) string {
	return "baggage: " + route.PrependMember(nil, env.BaggageKey, value)[0]
}

// deployment checks the flags and makes the request of them.
func (o *deployOptions) deployment(app *App) (target, api.Deployment, error) {
	t, err := parseTarget(o.Target, false)
	if err != nil {
		return target{}, api.Deployment{}, err
	}
	if t.Branch != "" {
		app.say("branch %s is deployed as %s\n", t.Branch, t)
	}
	env, err := readEnv(app, o.EnvFile, o.Env)
	if err != nil {
		return target{}, api.Deployment{}, err
	}
	d := api.Deployment{
		Overrides: api.Overrides{Image: o.Image, URL: o.URL, Adopt: o.Adopt, Port: o.Port, Env: env, Replicas: o.Replicas},
		Branch:    cmp.Or(o.Branch, t.Branch),
		Timeout:   api.Duration(o.Timeout),
		TTL:       api.Duration(o.TTL), IdleSleep: api.Duration(o.Idle), ProtectUntil: time.Time(o.Protect),
	}
	if o.NoHooks {
		d.Setup, d.Teardown = &api.Hook{Off: true}, &api.Hook{Off: true}
	}
	if err := o.Who.put(app, &d); err != nil {
		return target{}, api.Deployment{}, err
	}
	if err := o.check(); err != nil {
		return target{}, api.Deployment{}, err
	}
	if o.Command != "" {
		if d.Command, err = config.SplitCommand(o.Command); err != nil {
			return target{}, api.Deployment{}, usagef(`for a shell: --command 'sh -c "…"'`, "--command: %s", err)
		}
		if len(d.Command) == 0 {
			return target{}, api.Deployment{}, usagef("", "--command %q has no words", o.Command)
		}
	}
	if o.Command != "" || o.Dir != "" {
		if d.Dir, err = filepath.Abs(o.Dir); err != nil {
			return target{}, api.Deployment{}, fmt.Errorf("find the directory %s: %w", o.Dir, err)
		}
	}
	return t, d, nil
}

// check looks for flags that are wrong whatever the server says.
func (o *deployOptions) check() error {
	var ways []string
	for flag, value := range map[string]string{"--image": o.Image, "--command": o.Command, "--url": o.URL} {
		if value != "" {
			ways = append(ways, flag)
		}
	}
	slices.Sort(ways)
	switch {
	case len(ways) > 1:
		return usagef("a version runs in one way", "%s exclude each other", strings.Join(ways, " and "))
	case o.Dir != "" && (o.Image != "" || o.URL != ""):
		return usagef("", "--dir is for a command, not for %s", ways[0])
	case o.Timeout < 0:
		return usagef("", "--timeout %s is negative", o.Timeout)
	case o.Replicas < 0 || o.Replicas > api.MaxReplicas:
		return usagef("to run none: layover stop", "--replicas %d is not between 1 and %d", o.Replicas, api.MaxReplicas)
	case o.Adopt && (o.Image != "" || o.URL != "" || o.Command != ""):
		return usagef("give one of them", "--adopt and another source of the version exclude each other")
	case o.Replicas > 1 && (o.URL != "" || o.Adopt):
		return usagef("who runs it says how many addresses it has", "--replicas is not for an address that somebody else runs")
	case o.Port < 0 || o.Port > 65535:
		return usagef("", "--port %d is not between 1 and 65535", o.Port)
	}
	return nil
}

// readEnv takes the variables of a file and of the flags together; flags win.
func readEnv(app *App, file string, flags []string) (map[string]string, error) {
	env := map[string]string{}
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("", "read --env-file: %s", err)
		}
		defer func() { _ = f.Close() }()
		lines := bufio.NewScanner(f)
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
			if name = strings.TrimSpace(name); !ok || name == "" {
				return nil, usagef("", "%s:%d: %q is not KEY=VALUE", file, n, line)
			}
			if !api.IsVariable(name) {
				return nil, usagef("use letters, digits and _", "%s:%d: %q cannot be the name of an environment variable", file, n, name)
			}
			env[name] = unquote(strings.TrimSpace(value))
		}
		if err := lines.Err(); err != nil {
			return nil, usagef("", "read %s: %s", file, err)
		}
	}
	for _, flag := range flags {
		name, value, ok := strings.Cut(flag, "=")
		if name == "" {
			return nil, usagef("", "--env %q is not KEY=VALUE", flag)
		}
		if !api.IsVariable(name) {
			return nil, usagef("use letters, digits and _", "--env: %q cannot be the name of an environment variable", name)
		}
		if !ok {
			value = app.env(name)
		}
		env[name] = value
	}
	return env, nil
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// waitDeploy shows the steps of a deployment as they are taken, until it ends.
func waitDeploy(ctx context.Context, app *App, client *api.Client, v api.Version) (api.Version, error) {
	done, err := client.WaitDeploy(ctx, v.Service, v.Name, v.Generation, func(e api.Event) { showStep(app, e) })
	if err != nil {
		sayGoesOn(ctx, app, v.ID())
	}
	return done, err
}

// sayGoesOn tells a person who ended the command that this does not end the deployment.
func sayGoesOn(ctx context.Context, app *App, id string) {
	if ctx.Err() != nil {
		app.say("what the server has recorded goes on; see: layover status %s\n", id)
	}
}

// describeDeployError says why a deployment failed, with the last lines of the log.
func describeDeployError(e *api.DeployError) (message, hint string) {
	message = e.Event.Message
	for _, line := range e.Event.LogTail {
		message += "\n    | " + line
	}
	id := e.Event.Service + "@" + e.Event.Version
	if e.Superseded() {
		return message, "see what is wanted now: layover status " + id
	}
	return message, "more: layover status " + id + ", layover logs " + id
}

// showStep prints a step of a deployment: one that is done with how long it
// took, one that goes on with how far it is.
func showStep(app *App, e api.Event) {
	switch {
	case e.Type != api.EventDeployStep:
	case e.Took > 0:
		app.say("  %s %-8s %s\n", app.green("✓"), e.Step, roundDuration(time.Duration(e.Took)))
	default:
		app.say("  · %-8s %s\n", e.Step, strings.TrimPrefix(e.Message, e.Service+"@"+e.Version+": "))
	}
}

// roundDuration leaves two or three digits that mean something.
func roundDuration(d time.Duration) time.Duration {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond)
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(10 * time.Millisecond)
	default:
		return d.Round(time.Second)
	}
}
