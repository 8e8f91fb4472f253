package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// lifecycle is one of the commands start, stop, restart and rm.
type lifecycle struct {
	use, short, long string
	ask              func(*api.Client, context.Context, target) (api.Version, error)
	// settled says whether the version came to where the command brings it, or can no longer.
	settled func(api.Version, error) (bool, error)
	deploys bool   // it is a deployment, whose steps are shown
	asks    string // what it does, where it asks before it does that to somebody else's version
	done    string
}

func newStartCmd(app *App) *cobra.Command {
	return newLifecycleCmd(app, lifecycle{
		use:   "start",
		short: "Start a stopped version again, as it was",
		long:  "Start a stopped or failed version again, as it was deployed last. A version that runs is left alone.",
		ask: func(c *api.Client, ctx context.Context, t target) (api.Version, error) {
			return c.Start(ctx, t.Service, t.Version, t.Branch)
		},
		deploys: true,
		done:    "is up",
	})
}

func newRestartCmd(app *App) *cobra.Command {
	return newLifecycleCmd(app, lifecycle{
		use:   "restart",
		short: "Replace the instance of a version by a new one",
		long: `Start a new instance of what the version runs, and let go of the one before once the
new one is healthy. No request is lost.`,
		ask: func(c *api.Client, ctx context.Context, t target) (api.Version, error) {
			return c.Restart(ctx, t.Service, t.Version, t.Branch)
		},
		deploys: true,
		asks:    "restart",
		done:    "is restarted",
	})
}

func newStopCmd(app *App) *cobra.Command {
	return newLifecycleCmd(app, lifecycle{
		use:   "stop",
		short: "Take a version out of the environment; start brings it back",
		long: `Take a version out of the routing table, let its requests end, and stop its instances.
Requests whose route names it get the default version from then on, and are told so. Its
definition is kept: layover start brings it back.`,
		ask: func(c *api.Client, ctx context.Context, t target) (api.Version, error) {
			return c.Stop(ctx, t.Service, t.Version, t.Branch)
		},
		settled: func(v api.Version, err error) (bool, error) {
			return v.State == api.StateStopped || isNotFound(err), ignoreNotFound(err)
		},
		asks: "stop",
		done: "is stopped",
	})
}

func newRemoveCmd(app *App) *cobra.Command {
	skip := false
	cmd := newLifecycleCmd(app, lifecycle{
		use:   "rm",
		short: "Stop a version and forget it",
		long: `Stop a version as layover stop does, run its teardown, and delete its definition, history and
logs. A teardown that fails is tried again, less and less often, also while nobody waits; the
version is "removing" until it succeeds, and layover rm once more tries it at once.
--skip-teardown gives it up: what the version's setup made, such as a database, may stay.`,
		ask: func(c *api.Client, ctx context.Context, t target) (api.Version, error) {
			if skip {
				return c.RemoveWithoutTeardown(ctx, t.Service, t.Version, t.Branch)
			}
			return c.Remove(ctx, t.Service, t.Version, t.Branch)
		},
		settled: removed,
		asks:    "remove",
		done:    "is removed",
	})
	cmd.Aliases = []string{"remove"}
	cmd.Flags().BoolVar(&skip, "skip-teardown", false, "give up the teardown of the version")
	cmd.Example += "\n  layover rm --skip-teardown cart@feature-2981"
	return cmd
}

// removed says whether a version is gone. A teardown that failed is an error: it may take
// long until it succeeds.
func removed(v api.Version, err error) (bool, error) {
	if err != nil {
		return isNotFound(err), ignoreNotFound(err)
	}
	if v.Teardown == nil || v.Teardown.Failure == "" {
		return false, nil
	}
	return false, &control.Error{
		Code: api.CodeConflict, Message: fmt.Sprintf("%s is not removed yet: %s", v.ID(), v.Teardown.Failure),
		Hint: fmt.Sprintf("it is tried again; see: layover logs %s, or give it up: layover rm --skip-teardown %[1]s", v.ID()),
	}
}

const branchHelp = `

VERSION may be a Git branch: feature/ABC_12 is feature-abc_12, and is refused where that
version belongs to another branch which comes out as the same name.`

func newLifecycleCmd(app *App, l lifecycle) *cobra.Command {
	noWait, yes := false, false
	cmd := &cobra.Command{
		Use:     l.use + " SERVICE@VERSION…",
		GroupID: groupVersions,
		Short:   l.short,
		Long:    l.long + branchHelp,
		Example: fmt.Sprintf("  layover %s cart@feature-2981\n  layover %[1]s @feature-2981    # every service that has it", l.use),
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseTargets(args)
			if err != nil {
				return err
			}
			return runLifecycle(cmd.Context(), app, l, targets, noWait, yes || l.asks == "")
		},
		ValidArgsFunction: completeTargets(app),
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return as soon as the wish is recorded")
	if l.asks != "" {
		cmd.Long += "\n\nA version of somebody else's is asked about first; without a terminal, --yes is needed. Its\n" +
			"owner sees who did it: layover events --mine."
		cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask about somebody else's version")
	}
	return cmd
}

// runLifecycle asks for all targets first, and then waits for each: they go on side by side. One
// that the server refuses keeps none of the others from it.
func runLifecycle(ctx context.Context, app *App, l lifecycle, targets []target, noWait, yes bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	if targets, err = expand(ctx, client, targets); err != nil {
		return err
	}
	if err := mayTouch(ctx, app, client, l.asks, targets, yes); err != nil {
		return err
	}
	var asked []api.Version
	var taken []target // those that were asked for
	var failed error
	for _, t := range targets {
		v, err := l.ask(client, ctx, t)
		if _, refused := errors.AsType[*api.Problem](err); err != nil && !refused {
			return errors.Join(failed, err)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		asked, taken = append(asked, v), append(taken, t)
	}
	for i, t := range taken {
		if noWait {
			app.printf("%s: recorded\n", app.bold(t.String()))
			continue
		}
		if l.deploys && len(targets) > 1 {
			app.say("%s\n", t)
		}
		if err := l.wait(ctx, app, client, t, asked[i]); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		app.printf("%s %s\n", app.bold(t.String()), l.done)
	}
	return failed
}

func (l lifecycle) wait(ctx context.Context, app *App, client *api.Client, t target, v api.Version) error {
	if l.deploys {
		if v.State == api.StateRunning && v.Serving == v.Generation {
			return nil // it ran already
		}
		_, err := waitDeploy(ctx, app, client, v)
		return err
	}
	return poll(ctx, func() (bool, error) {
		return l.settled(client.Version(ctx, t.Service, t.Version))
	})
}

// poll calls done until it says so, fails, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	for pause := 10 * time.Millisecond; ; pause = min(pause*2, 250*time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func isNotFound(err error) bool {
	p, ok := errors.AsType[*api.Problem](err)
	return ok && p.Code == api.CodeNotFound
}

func ignoreNotFound(err error) error {
	if isNotFound(err) {
		return nil
	}
	return err
}
