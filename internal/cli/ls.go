package cli

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

type listOptions struct {
	Service string
	Route   string
	JSON    bool
}

func newListCmd(app *App) *cobra.Command {
	opts := &listOptions{}
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		GroupID: groupVersions,
		Short:   "Who runs what: every version with its state and owner",
		Long: `List the versions of every service. With --route, list instead what each service would
answer a request with that route with, and why.`,
		Example: `  layover ls
  layover ls --service cart
  layover ls --route feature-2981
  layover ls --json | jq -r '.[] | select(.state == "failed") | .name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Route != "" {
				return runListRoute(cmd.Context(), app, opts)
			}
			return runList(cmd.Context(), app, opts)
		},
	}
	cmd.Flags().StringVar(&opts.Service, "service", "", "only versions of this service")
	cmd.Flags().StringVar(&opts.Route, "route", "", "what each service answers this route with")
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print JSON")
	return cmd
}

func runList(ctx context.Context, app *App, opts *listOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	versions, err := client.Versions(ctx, api.VersionFilter{Service: opts.Service})
	if err != nil {
		return err
	}
	if opts.JSON {
		return app.json(versions)
	}
	if len(versions) == 0 && app.Terminal {
		app.say("no versions; run one with: layover deploy SERVICE@VERSION\n")
	}
	var rows [][]string
	for _, v := range versions {
		state := app.state(v.State)
		if v.Reason != "" && v.State != api.StateFailed {
			state += "*"
		}
		rows = append(rows, []string{
			v.Service, v.Name, state, cmp.Or(v.Owner, "-"), cmp.Or(v.Source, "-"), app.age(v.DeployedAt),
			strconv.FormatUint(v.Requests, 10), cmp.Or(addresses(v), "-"), firstLine(v.Reason),
		})
	}
	app.table([]string{"SERVICE", "VERSION", "STATE", "OWNER", "SOURCE", "AGE", "REQUESTS", "ADDRESS", "WHY"}, rows)
	return nil
}

// routedService is what one service answers a route with.
type routedService struct {
	Service string `json:"service"`
	route.Explanation
}

// runListRoute asks the server to decide for the first host of every service.
func runListRoute(ctx context.Context, app *App, opts *listOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	services, err := client.Services(ctx)
	if err != nil {
		return err
	}
	var out []routedService
	for _, s := range services {
		i := slices.IndexFunc(s.Hosts, func(h string) bool { return !strings.HasPrefix(h, "*") })
		if i < 0 || opts.Service != "" && opts.Service != s.Name {
			continue
		}
		e, err := client.Explain(ctx, api.ExplainRequest{URL: s.Hosts[i], Route: opts.Route})
		if err != nil {
			return err
		}
		out = append(out, routedService{Service: s.Name, Explanation: e})
	}
	if opts.JSON {
		return app.json(out)
	}
	var rows [][]string
	for _, r := range out {
		rows = append(rows, []string{
			r.Service, cmp.Or(r.Version, "-"), cmp.Or(string(r.State), string(r.Outcome)), cmp.Or(r.Fallback, "-"),
		})
	}
	app.table([]string{"SERVICE", "VERSION", "STATE", "FALLBACK"}, rows)
	return nil
}

// state paints a state as good or bad.
func (a *App) state(s api.State) string {
	switch s {
	case api.StateRunning:
		return a.green(string(s))
	case api.StateFailed:
		return a.red(string(s))
	default:
		return string(s)
	}
}

func addresses(v api.Version) string {
	var out []string
	for _, i := range v.Instances {
		if i.Healthy {
			out = append(out, i.Addresses...)
		}
	}
	return strings.Join(out, ",")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
