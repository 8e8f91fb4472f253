package cli

import (
	"context"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

type eventsOptions struct {
	Follow bool
	Limit  int
	JSON   bool
	Mine   bool
	Since  string
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
  layover events --since 10m
  layover events --mine                      # also what others did to your versions
  layover events -f --json | jq 'select(.type == "deploy.failed")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Limit < 1 || opts.Limit > 1000 {
				return usagef("", "--last %d is not between 1 and 1000", opts.Limit)
			}
			if opts.Mine && opts.Filter.Owner != "" {
				return usagef("", "--mine and --owner exclude each other")
			}
			if opts.Mine {
				opts.Filter.Owner = app.user()
			}
			var err error
			if opts.Filter.Since, err = parseAgo("--since", opts.Since); err != nil {
				return err
			}
			if opts.Since != "" && !cmd.Flags().Changed("last") {
				opts.Limit = math.MaxInt // all since then
			}
			return runEvents(cmd.Context(), app, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.Follow, "follow", "f", false, "go on as things happen")
	f.IntVarP(&opts.Limit, "last", "n", 50, "how many of the past to show (with --since: all of them)")
	f.StringVar(&opts.Since, "since", "", "only what happened since: how long ago, as 10m, or a time, as 2026-01-31T12:00:00Z")
	f.StringVar(&opts.Filter.Service, "service", "", "only of this service")
	f.StringVar(&opts.Filter.Version, "version", "", "only of this version")
	f.BoolVar(&opts.Mine, "mine", false, "only of versions that are, or were then, yours")
	f.StringVar(&opts.Filter.Owner, "owner", "", "only of versions that are, or were then, of this owner")
	f.BoolVar(&opts.JSON, "json", false, "print one JSON object a line")
	completeFlag(cmd, "service", completeServices(app))
	completeFlag(cmd, "owner", completeOwners(app))
	return cmd
}

func runEvents(ctx context.Context, app *App, opts *eventsOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	look := pastEvents
	if opts.Since != "" {
		look = eventsSince
	}
	past, last, err := look(ctx, client, opts.Filter, opts.Limit)
	if err != nil {
		return err
	}
	for _, e := range past {
		if err := showEvent(app, e, opts.JSON); err != nil {
			return err
		}
	}
	if !opts.Follow {
		return nil
	}
	filter := opts.Filter
	filter.After, filter.Since = last, time.Time{}
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

// pastEvents returns the last events that a filter selects, at most limit, and the
// ID up to which it has looked. It looks back further and further until it has enough.
func pastEvents(ctx context.Context, client *api.Client, filter api.EventFilter, limit int) ([]api.Event, int64, error) {
	last, err := client.LastEvent(ctx)
	if err != nil || last == 0 {
		return nil, last, err
	}
	for window := int64(limit); ; window *= 8 {
		var found []api.Event
		begin := max(0, last-window)
		filter.After, filter.Limit = begin, 1000
		for {
			page, err := client.Events(ctx, filter)
			if err != nil {
				return nil, last, err
			}
			for _, e := range page.Items {
				filter.After = e.ID
				if e.ID <= last {
					found = append(found, e)
				}
			}
			if len(page.Items) < filter.Limit || filter.After >= last {
				break
			}
		}
		if len(found) >= limit || begin == 0 {
			return found[max(0, len(found)-limit):], last, nil
		}
	}
}

// eventsSince is pastEvents for a filter with a time to begin at.
func eventsSince(ctx context.Context, client *api.Client, filter api.EventFilter, limit int) ([]api.Event, int64, error) {
	var found []api.Event
	filter.Limit = 1000
	for {
		page, err := client.Events(ctx, filter)
		if err != nil {
			return nil, 0, err
		}
		for _, e := range page.Items {
			filter.After = e.ID
		}
		found = append(found, page.Items...)
		found = found[max(0, len(found)-limit):]
		if len(page.Items) < filter.Limit {
			return found, max(page.Last, filter.After), nil
		}
	}
}

// showEvent prints one event on a line.
func showEvent(app *App, e api.Event, asJSON bool) error {
	if asJSON {
		return app.jsonLine(e)
	}
	message := oneLine(e.Message) + took(e)
	if e.Actor != "" {
		message += ", by " + oneLine(e.Actor)
	}
	if app.Terminal {
		app.printf("%s  %-17s  %s\n", app.faint(e.Time.Local().Format("15:04:05")), e.Type, message)
	} else {
		app.printf("%s\t%s\t%s\n", e.Time.UTC().Format(time.RFC3339), e.Type, message)
	}
	return nil
}
