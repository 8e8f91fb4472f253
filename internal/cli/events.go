package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

type eventsOptions struct {
	Follow bool
	Limit  int
	JSON   bool
	Filter api.EventFilter
}

func newEventsCmd(app *App) *cobra.Command {
	opts := &eventsOptions{}
	cmd := &cobra.Command{
		Use:     "events",
		GroupID: groupVersions,
		Short:   "What happened in the environment, in order",
		Example: `  layover events
  layover events -f --service cart
  layover events -f --json | jq 'select(.type == "deploy.failed")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Limit < 1 || opts.Limit > 1000 {
				return usagef("", "--last %d is not between 1 and 1000", opts.Limit)
			}
			return runEvents(cmd.Context(), app, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.Follow, "follow", "f", false, "go on as things happen")
	f.IntVarP(&opts.Limit, "last", "n", 50, "how many of the past to show")
	f.StringVar(&opts.Filter.Service, "service", "", "only of this service")
	f.StringVar(&opts.Filter.Version, "version", "", "only of this version")
	f.BoolVar(&opts.JSON, "json", false, "print one JSON object a line")
	return cmd
}

func runEvents(ctx context.Context, app *App, opts *eventsOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	last, err := client.LastEvent(ctx)
	if err != nil {
		return err
	}
	filter := opts.Filter
	filter.After, filter.Limit = max(0, last-int64(opts.Limit)), opts.Limit
	past, err := client.Events(ctx, filter)
	if err != nil {
		return err
	}
	for _, e := range past.Items {
		if err := showEvent(app, e, opts.JSON); err != nil {
			return err
		}
	}
	if !opts.Follow {
		return nil
	}
	filter.After = max(last, filter.After)
	if n := len(past.Items); n > 0 {
		filter.After = max(filter.After, past.Items[n-1].ID)
	}
	for e, err := range client.FollowEvents(ctx, filter) {
		if err != nil {
			return err
		}
		if err := showEvent(app, e, opts.JSON); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func showEvent(app *App, e api.Event, asJSON bool) error {
	if asJSON {
		return app.jsonLine(e)
	}
	when := e.Time.UTC().Format(time.RFC3339)
	if app.Terminal {
		when = e.Time.Local().Format("15:04:05")
	}
	message := e.Message
	if e.Took > 0 {
		message += " (" + roundDuration(time.Duration(e.Took)).String() + ")"
	}
	if e.Actor != "" {
		message += ", by " + e.Actor
	}
	app.printf("%s\t%s\t%s\n", when, e.Type, message)
	return nil
}
