package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newLogsCmd(app *App) *cobra.Command {
	var (
		filter api.LogFilter
		since  time.Duration
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "logs SERVICE@VERSION",
		GroupID: groupVersions,
		Short:   "What a version writes",
		Long: `Print what the newest instance of a version wrote to its standard output and standard error.
With -f it goes on until the instance ends.`,
		Example: `  layover logs cart@feature-2981
  layover logs cart@feature-2981 -f --since 10m`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args[0], false)
			if err != nil {
				return err
			}
			if since < 0 || filter.Tail < 0 {
				return usagef("", "--since and --tail cannot be negative")
			}
			if since > 0 {
				filter.Since = time.Now().Add(-since)
			}
			return runLogs(cmd.Context(), app, t, filter, asJSON)
		},
	}
	cmd.Flags().BoolVarP(&filter.Follow, "follow", "f", false, "go on as lines are written")
	cmd.Flags().DurationVar(&since, "since", 0, "only lines not older than this")
	cmd.Flags().IntVar(&filter.Tail, "tail", 0, "only the last lines")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line, with time, instance and stream")
	return cmd
}

func runLogs(ctx context.Context, app *App, t target, filter api.LogFilter, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	for line, err := range client.Logs(ctx, t.Service, t.Version, filter) {
		if err != nil {
			return err
		}
		if asJSON {
			if err := app.jsonLine(line); err != nil {
				return err
			}
			continue
		}
		if app.Terminal {
			app.printf("%s %s\n", app.faint(line.Time.Local().Format("15:04:05.000")), line.Text)
		} else {
			app.printf("%s\t%s\n", line.Time.UTC().Format(time.RFC3339Nano), line.Text)
		}
	}
	return ctx.Err()
}
