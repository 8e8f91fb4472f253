package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

type gcOptions struct {
	DryRun bool
	JSON   bool
}

func newGCCmd(app *App) *cobra.Command {
	opts := &gcOptions{}
	cmd := &cobra.Command{
		Use:     "gc",
		GroupID: groupVersions,
		Short:   "Remove what is left over and nobody wants",
		Long: `Ask every runtime what it has of this environment, and remove what no version wants:
processes and containers of which no version is known, with their logs, and folders
without an instance. The server does the first by itself, after a grace time
(server.orphan_grace). Of a runtime that does not answer nothing is removed.`,
		Example: `  layover gc --dry-run
  layover gc`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runGC(cmd.Context(), app, opts) },
	}
	cmd.Flags().BoolVar(&opts.DryRun, "dry-run", false, "only say what would be removed")
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print JSON")
	return cmd
}

func runGC(ctx context.Context, app *App, opts *gcOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	left, err := client.Collect(ctx, opts.DryRun)
	if err != nil {
		return err
	}
	if opts.JSON {
		err = app.json(left)
	} else {
		showDrift(app, left)
		if len(left) == 0 {
			app.say("nothing is left over\n")
		}
	}
	if err != nil || opts.DryRun {
		return err
	}
	kept := 0
	for _, d := range left {
		if !d.Removed {
			kept++
		}
	}
	if kept > 0 {
		return errors.New(strconv.Itoa(kept) + " of " + strconv.Itoa(len(left)) + " could not be removed")
	}
	return nil
}

// showDrift prints a table of what differs from what is wanted.
func showDrift(app *App, drift []api.Drift) {
	var rows [][]string
	for _, d := range drift {
		rows = append(rows, []string{d.Runtime, cmp.Or(d.Instance, d.Path, "-"), wants(d), d.Has, oneLine(driftWords(d))})
	}
	app.table([]string{"RUNTIME", "WHAT", "WANTED", "HAS", "WHY"}, rows)
}

func wants(d api.Drift) string {
	switch {
	case d.Has == api.HasUnknown:
		return "-"
	case d.Wanted:
		return api.HasRunning
	}
	return api.HasNothing
}

func driftWords(d api.Drift) string {
	if d.RemoveAt.IsZero() {
		return d.Message
	}
	left := max(time.Until(d.RemoveAt), 0)
	return fmt.Sprintf("%s; removed in %s, or now by: layover gc", d.Message, shortDuration(left))
}
