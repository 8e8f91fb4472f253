package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newWebhookCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "webhook",
		GroupID: groupVersions,
		Short:   "Where events are sent to, and what could not be delivered",
		Long: `Webhooks are declared in layover.yaml. Each gets the events in their order; one that does not
answer is tried again for a time, and then the delivery becomes a dead letter, which can be
sent again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWebhookListCmd(app), newWebhookDeadCmd(app), newWebhookResendCmd(app))
	return cmd
}

func newWebhookListCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "The webhooks: how far each is, and why it waits",
		Example: "  layover webhook ls\n  layover webhook ls --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			webhooks, err := client.Webhooks(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return app.json(webhooks)
			}
			if len(webhooks) == 0 {
				app.say("no webhooks; declare them in layover.yaml\n")
			}
			var rows [][]string
			for _, w := range webhooks {
				events := "all"
				if len(w.Events) > 0 {
					events = strings.Join(w.Events, ",")
				}
				rows = append(rows, []string{
					w.Name, w.Format, w.URL, events, strconv.FormatUint(w.Delivered, 10), strconv.FormatInt(w.Behind, 10),
					strconv.Itoa(w.Dead), oneLine(w.LastError),
				})
			}
			app.table([]string{"WEBHOOK", "FORMAT", "HOST", "EVENTS", "DELIVERED", "BEHIND", "DEAD", "WHY"}, rows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newWebhookDeadCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "dead",
		Short:   "The deliveries that were given up",
		Example: "  layover webhook dead\n  layover webhook dead --json | jq '.[].reason'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			letters, err := client.DeadLetters(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return app.json(letters)
			}
			var rows [][]string
			for _, d := range letters {
				rows = append(rows, []string{
					strconv.FormatInt(d.ID, 10), d.Webhook, app.age(d.At), string(d.Event.Type), oneLine(d.Event.Message),
					strconv.Itoa(d.Attempts), oneLine(d.Reason),
				})
			}
			app.table([]string{"ID", "WEBHOOK", "AGE", "EVENT", "MESSAGE", "TRIES", "WHY"}, rows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newWebhookResendCmd(app *App) *cobra.Command {
	all, asJSON := false, false
	cmd := &cobra.Command{
		Use:   "resend ID…",
		Short: "Send dead letters again",
		Long: `Try dead letters once more, each at once. Those that are delivered are dead letters no more,
the others are kept. They come behind what was delivered since: the event's ID tells its place.`,
		Example: "  layover webhook resend 12\n  layover webhook resend --all",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name dead letters by ID, or give --all")
			}
			return nil
		},
		ValidArgsFunction: complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
			var out []cobra.Completion
			letters, err := client.DeadLetters(ctx)
			for _, d := range letters {
				out = append(out, cobra.CompletionWithDesc(strconv.FormatInt(d.ID, 10), d.Webhook+": "+oneLine(d.Event.Message)))
			}
			return out, err
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ids []int64
			for _, arg := range args {
				id, err := strconv.ParseInt(arg, 10, 64)
				if err != nil || id < 1 {
					return usagef("see: layover webhook dead", "%q is not the ID of a dead letter", arg)
				}
				ids = append(ids, id)
			}
			return runWebhookResend(cmd.Context(), app, ids, all, asJSON)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every dead letter")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was delivered as JSON")
	return cmd
}

// runWebhookResend sends what it can, and then says what it could not.
func runWebhookResend(ctx context.Context, app *App, ids []int64, all, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	if all {
		letters, err := client.DeadLetters(ctx)
		if err != nil {
			return err
		}
		for _, d := range letters {
			ids = append(ids, d.ID)
		}
	}
	sent := []api.DeadLetter{}
	var failed error
	for _, id := range ids {
		d, err := client.ResendDeadLetter(ctx, id)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		sent = append(sent, d)
		if !asJSON {
			app.printf("%s is delivered to %s\n", app.bold(fmt.Sprint("dead letter ", id)), d.Webhook)
		}
	}
	if asJSON {
		return errors.Join(app.json(sent), failed)
	}
	return failed
}
