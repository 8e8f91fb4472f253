package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newSleepCmd(app *App) *cobra.Command {
	return newLifecycleCmd(app, lifecycle{
		use:   "sleep",
		short: "Stop the instance of a version until the next request",
		long: `Stop the instance of a version and keep its route: the next request starts it again, waits
for it and is answered by it. A browser gets a page that shows how far it is meanwhile. Requests
in progress, streams and WebSockets have all the time they need.

Versions fall asleep by themselves where idle_sleep is set: layover deploy --idle-sleep 30m.
Default versions do not sleep.`,
		ask: func(c *api.Client, ctx context.Context, t target) (api.Version, error) {
			return c.Sleep(ctx, t.Service, t.Version, t.Branch)
		},
		settled: func(v api.Version, err error) (bool, error) { return v.State != api.StateRunning, err },
		done:    "is asleep",
	})
}

func newWakeCmd(app *App) *cobra.Command {
	return newLifecycleCmd(app, lifecycle{
		use:   "wake",
		short: "Start a version that is asleep, as a request would",
		long:  "Start the instance of a version that is asleep. A version that is not asleep is left alone.",
		ask: func(c *api.Client, ctx context.Context, t target) (api.Version, error) {
			return c.Wake(ctx, t.Service, t.Version, t.Branch)
		},
		settled: func(v api.Version, err error) (bool, error) {
			if err == nil && v.State == api.StateFailed {
				err = errors.New(v.ID() + " did not wake up: " + v.Reason)
			}
			return v.State == api.StateRunning, err
		},
		done: "is awake",
	})
}

type extendOptions struct {
	Target string
	By     durationFlag
	Until  timeFlag
	JSON   bool
}

func newExtendCmd(app *App) *cobra.Command {
	opts := &extendOptions{}
	cmd := &cobra.Command{
		Use:     "extend SERVICE@VERSION",
		GroupID: groupVersions,
		Short:   "Keep a version for longer than its lease",
		Long: `Make the lease of a version longer: by a time, or until one. Without either it begins anew.
Requests and deployments extend a lease by themselves; logs do not.`,
		Example: `  layover extend cart@feature-2981
  layover extend cart@feature-2981 --by 2d
  layover extend cart@feature-2981 --until 2031-05-01`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Target = args[0]
			return runExtend(cmd.Context(), app, opts)
		},
	}
	cmd.Flags().Var(&opts.By, "by", "this much longer, such as 12h or 2d")
	cmd.Flags().Var(&opts.Until, "until", "until this time: 2031-05-01, \"2031-05-01 18:00\", or with a zone as in RFC 3339")
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the version as JSON")
	return cmd
}

func runExtend(ctx context.Context, app *App, opts *extendOptions) error {
	t, err := parseTarget(opts.Target, false)
	if err != nil {
		return err
	}
	if opts.By != 0 && !time.Time(opts.Until).IsZero() {
		return usagef("give one of the two", "--by and --until exclude each other")
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	v, err := client.Extend(ctx, t.Service, t.Version, t.Branch, api.Extension{By: api.Duration(opts.By), Until: time.Time(opts.Until)})
	if err != nil {
		return err
	}
	if opts.JSON {
		return app.json(v)
	}
	if v.Lease != nil {
		app.printf("%s stays until %s, or longer if it is used\n", app.bold(v.ID()), v.Lease.EndsAt.Local().Format(time.DateTime))
	}
	return nil
}

// durationFlag is a flag as the configuration writes durations: 30m, 3d, never.
type durationFlag api.Duration

// String is of pflag.Value; a flag that is not given is empty.
func (d *durationFlag) String() string {
	if *d == 0 {
		return ""
	}
	return api.Duration(*d).String()
}

// Set is of pflag.Value.
func (d *durationFlag) Set(text string) error {
	if err := (*api.Duration)(d).UnmarshalText([]byte(text)); err != nil {
		return err
	}
	if *d == 0 {
		return errors.New("0 is no time; to switch it off, write never")
	}
	return nil
}

// Type is of pflag.Value.
func (d *durationFlag) Type() string { return "duration" }

// timeFlag is a flag for a point in time to come. A date without a time is its end.
type timeFlag time.Time

// String is of pflag.Value.
func (t *timeFlag) String() string {
	if time.Time(*t).IsZero() {
		return ""
	}
	return time.Time(*t).Format(time.RFC3339)
}

// Set is of pflag.Value.
func (t *timeFlag) Set(text string) error {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		at, err = time.ParseInLocation("2006-01-02 15:04", text, time.Local)
	}
	if err != nil {
		if at, err = time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
			at = at.AddDate(0, 0, 1)
		}
	}
	switch {
	case err != nil:
		return errors.New("write a date such as 2031-05-01, or a time such as \"2031-05-01 18:00\"")
	case at.Before(time.Now()):
		return errors.New("that is in the past")
	}
	*t = timeFlag(at)
	return nil
}

// Type is of pflag.Value.
func (t *timeFlag) Type() string { return "time" }

// leftOf says how long a version still lives, in few words.
func leftOf(v api.Version) string {
	if v.Lease == nil || v.Lease.EndsAt.IsZero() {
		return "-"
	}
	return shortDuration(max(time.Until(v.Lease.EndsAt), 0))
}

// describeLease says when a version sleeps and how long it lives, each "" where it does not end.
func describeLease(l *api.Lease) (sleeps, ends string) {
	if l == nil {
		return "", ""
	}
	if l.IdleSleep > 0 {
		sleeps = "after " + l.IdleSleep.String() + " without activity"
		if !l.SleepsAt.IsZero() {
			sleeps += ", in " + shortDuration(max(time.Until(l.SleepsAt), 0)) + " if nothing happens"
		}
	}
	if !l.EndsAt.IsZero() {
		ends = "removed in " + shortDuration(max(time.Until(l.EndsAt), 0)) + " if nothing happens (" + l.EndsAt.Local().Format(time.DateTime) + ")"
		if l.ProtectUntil.After(time.Now()) {
			ends += "; protected until " + l.ProtectUntil.Local().Format(time.DateTime)
		}
	}
	return sleeps, ends
}
