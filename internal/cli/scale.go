package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

type scaleOptions struct {
	Target   string
	Replicas int
	Timeout  time.Duration
	NoWait   bool
	JSON     bool
}

func newScaleCmd(app *App) *cobra.Command {
	opts := &scaleOptions{}
	cmd := &cobra.Command{
		Use:     "scale SERVICE@VERSION REPLICAS",
		GroupID: groupVersions,
		Short:   "Give a version another number of instances",
		Long: `Give a version another number of instances, and wait until they are healthy. Those it has
stay, as far as they may; those that leave finish what is in flight. Later deployments that
name no number keep it. A version without instances is a stopped one: layover stop.`,
		Example: `  layover scale cart@main 3
  layover scale cart@main 1 --no-wait`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeFirst(completeTargets(app)),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 1 || n > api.MaxReplicas {
				return usagef("for example: layover scale "+args[0]+" 3", "%q is not a number of instances from 1 to %d", args[1], api.MaxReplicas)
			}
			if opts.Timeout <= 0 {
				return usagef("for example: --timeout 5m", "--timeout %s is no time to wait", opts.Timeout)
			}
			opts.Target, opts.Replicas = args[0], n
			return runScale(cmd.Context(), app, opts)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&opts.Timeout, "timeout", 2*time.Minute, "how long to wait for the instances")
	f.BoolVar(&opts.NoWait, "no-wait", false, "return as soon as the wish is recorded")
	f.BoolVar(&opts.JSON, "json", false, "print the version as JSON")
	return cmd
}

func runScale(ctx context.Context, app *App, opts *scaleOptions) error {
	t, err := parseTarget(opts.Target, false)
	if err != nil {
		return err
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	v, err := client.Scale(ctx, t.Service, t.Version, t.Branch, opts.Replicas)
	if err != nil {
		return err
	}
	waits := !opts.NoWait && v.State != api.StateStopped
	if waits {
		if v, err = waitScaled(ctx, client, t, opts); err != nil {
			return err
		}
	}
	switch {
	case opts.JSON:
		return app.json(v)
	case waits:
		app.printf("%s has %s\n", app.bold(v.ID()), instances(v.Healthy))
	default:
		app.printf("%s is to have %s\n", app.bold(v.ID()), instances(opts.Replicas))
	}
	return nil
}

// waitScaled waits until the version has that many healthy instances, and no others.
func waitScaled(ctx context.Context, client *api.Client, t target, opts *scaleOptions) (api.Version, error) {
	limited, cancel := context.WithTimeout(ctx, opts.Timeout)
	defer cancel()
	var v api.Version
	err := poll(limited, func() (bool, error) {
		now, err := client.Version(limited, t.Service, t.Version)
		if err != nil {
			return false, err
		}
		v = now
		if v.Replicas != opts.Replicas || v.State == api.StateStopped {
			return false, fmt.Errorf("%s is to have %s by now: somebody else asked for that", v.ID(), instances(v.Replicas))
		}
		return v.Healthy == opts.Replicas && len(v.Instances) == opts.Replicas, nil
	})
	if limited.Err() != nil && ctx.Err() == nil && v.Name != "" {
		why := ""
		if v.Reason != "" {
			why = ": " + v.Reason
		}
		return v, fmt.Errorf("after %s, %d of %d instances of %s are healthy%s; see: layover status %[4]s", opts.Timeout, v.Healthy, v.Replicas, v.ID(), why)
	}
	return v, err
}

// instances is a number of them, in words.
func instances(n int) string {
	if n == 1 {
		return "1 instance"
	}
	return strconv.Itoa(n) + " instances"
}
