package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

type rollbackOptions struct {
	Target string
	To     int64
	NoWait bool
	Yes    bool
	JSON   bool
}

func newRollbackCmd(app *App) *cobra.Command {
	opts := &rollbackOptions{}
	cmd := &cobra.Command{
		Use:     "rollback SERVICE@VERSION",
		GroupID: groupVersions,
		Short:   "Go back to what a version ran before",
		Long: `Deploy what an earlier generation of a version ran, with its variables, as a new
generation. What serves goes on serving until that is healthy. Without --to it is the newest
generation that served besides the one that does now; layover history lists them.

A version of somebody else's is asked about first; without a terminal, --yes is needed. Its
owner sees who did it: layover events --mine.`,
		Example: `  layover rollback cart@feature-2981
  layover rollback cart@feature-2981 --to 4`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Target = args[0]
			if cmd.Flags().Changed("to") && opts.To < 1 {
				return usagef("see: layover history "+opts.Target, "--to %d is not the number of a generation", opts.To)
			}
			return runRollback(cmd.Context(), app, opts)
		},
	}
	f := cmd.Flags()
	f.Int64Var(&opts.To, "to", 0, "number of the generation to go back to (default: the one that served before)")
	f.BoolVar(&opts.NoWait, "no-wait", false, "return as soon as the wish is recorded")
	f.BoolVar(&opts.JSON, "json", false, "print the version as JSON")
	f.BoolVarP(&opts.Yes, "yes", "y", false, "do not ask before rolling back somebody else's version")
	completeFlag(cmd, "to", completeServed(app))
	return cmd
}

func runRollback(ctx context.Context, app *App, opts *rollbackOptions) error {
	t, err := parseTarget(opts.Target, false)
	if err != nil {
		return err
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	if err := mayTouch(ctx, app, client, "roll back", []target{t}, opts.Yes); err != nil {
		return err
	}
	began := time.Now()
	v, err := client.Rollback(ctx, t.Service, t.Version, t.Branch, opts.To)
	if err != nil {
		return err
	}
	if !opts.NoWait {
		if v, err = waitDeploy(ctx, app, client, v); err != nil {
			return err
		}
	}
	switch {
	case opts.JSON:
		return app.json(v)
	case opts.NoWait:
		app.printf("%s generation %d is recorded; follow it with: layover status %s\n", v.ID(), v.Generation, v.ID())
	default:
		app.printf("%s is rolled back after %s, as generation %d\n", app.bold(v.ID()), roundDuration(time.Since(began)), v.Generation)
	}
	return nil
}

// completeServed offers the generations that a rollback may go back to.
func completeServed(app *App) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, args []string) ([]cobra.Completion, error) {
		if len(args) == 0 {
			return nil, nil
		}
		t, err := parseTarget(args[0], false)
		if err != nil {
			return nil, err
		}
		generations, err := client.History(ctx, t.Service, t.Version)
		var out []cobra.Completion
		for _, g := range generations {
			if g.Served && g.State != api.GenerationServing {
				out = append(out, cobra.CompletionWithDesc(strconv.FormatInt(g.Number, 10), oneLine(describeRun(g.Run))))
			}
		}
		return out, err
	})
}
