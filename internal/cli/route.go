package cli

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

func newRouteCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "route",
		GroupID: groupRoutes,
		Short:   "Named routes: which version of which service, under one name",
		Long: `A named route picks a version for each of some services. A request whose route is its name
gets those; other services answer as its parent says, or with their default version.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRouteCreateCmd(app), newRouteListCmd(app), newRouteRemoveCmd(app))
	return cmd
}

func newRouteCreateCmd(app *App) *cobra.Command {
	parent := ""
	cmd := &cobra.Command{
		Use:   "create NAME SERVICE=VERSION…",
		Short: "Store a route under a name, or change it",
		Example: `  layover route create checkout cart=pr-88 pricing=feature-1
  layover route create checkout-eu pricing=pr-90 --parent checkout`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return completeNamedRoutes(app)(cmd, args, word)
			}
			return completeBegin(app, "=")(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRouteCreate(cmd.Context(), app, args[0], parent, args[1:])
		},
	}
	cmd.Flags().StringVar(&parent, "parent", "", "named route that holds where this one has no pick")
	completeFlag(cmd, "parent", completeNamedRoutes(app))
	return cmd
}

func runRouteCreate(ctx context.Context, app *App, name, parent string, picks []string) error {
	if err := route.CheckName("route", name); err != nil {
		return usagef("for example "+route.NameOf(name), "%s", err)
	}
	r := api.NamedRoute{Name: name, Parent: parent, Picks: map[string]string{}}
	for _, pick := range picks {
		service, version, ok := strings.Cut(pick, "=")
		if !ok || service == "" || version == "" {
			return usagef("for example cart=pr-88", "%q is not SERVICE=VERSION", pick)
		}
		if _, twice := r.Picks[service]; twice {
			return usagef("", "%s is picked twice", service)
		}
		r.Picks[service] = version
	}
	if len(r.Picks) == 0 && parent == "" {
		return usagef("for example cart=pr-88", "a route needs at least one pick or a parent")
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	if _, err := client.PutRoute(ctx, r); err != nil {
		return err
	}
	app.printf("route %s: %s\n", app.bold(name), picksText(r))
	return nil
}

func newRouteListCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the named routes",
		Example: "  layover route ls\n  layover route ls --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			routes, err := client.Routes(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return app.json(routes)
			}
			var rows [][]string
			for _, r := range routes {
				rows = append(rows, []string{r.Name, cmp.Or(r.Parent, "-"), picksText(r)})
			}
			app.table([]string{"NAME", "PARENT", "PICKS"}, rows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newRouteRemoveCmd(app *App) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME…",
		Aliases: []string{"remove"},
		Short:   "Delete named routes; the versions they pick are left alone",
		Example: "  layover route rm checkout",
		Args:    cobra.MinimumNArgs(1),

		ValidArgsFunction: completeNamedRoutes(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := route.CheckName("route", name); err != nil {
					return usagef("see: layover route ls", "%s", err)
				}
				if err := client.RemoveRoute(cmd.Context(), name); err != nil {
					return err
				}
				app.printf("route %s is removed\n", app.bold(name))
			}
			return nil
		},
	}
}

func picksText(r api.NamedRoute) string {
	var out []string
	for _, service := range slices.Sorted(maps.Keys(r.Picks)) {
		out = append(out, service+"="+r.Picks[service])
	}
	return cmp.Or(strings.Join(out, " "), "-")
}
