package cli

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/internal/route"
)

func newServiceCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "service",
		GroupID: groupVersions,
		Short:   "The services of the environment",
		Long: `Services are declared in layover.yaml, or over the API. A service that left the file stays
until it is removed here.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newServiceListCmd(app), newServiceRemoveCmd(app))
	return cmd
}

func newServiceListCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the services with their hosts",
		Example: "  layover service ls\n  layover service ls --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			services, err := client.Services(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return app.json(services)
			}
			var rows [][]string
			for _, s := range services {
				rows = append(rows, []string{
					s.Name, cmp.Or(s.Default, route.DefaultVersion), cmp.Or(s.Protocol, string(route.HTTP1)),
					cmp.Or(s.Run.Runtime(), "-"), strings.Join(s.Hosts, ","),
				})
			}
			app.table([]string{"SERVICE", "DEFAULT", "PROTOCOL", "RUNTIME", "HOSTS"}, rows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newServiceRemoveCmd(app *App) *cobra.Command {
	return &cobra.Command{
		Use:     "rm SERVICE…",
		Aliases: []string{"remove"},
		Short:   "Remove services that have no versions",
		Example: "  layover rm cart@main && layover service rm cart",
		Args:    cobra.MinimumNArgs(1),

		ValidArgsFunction: completeServices(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := route.CheckName("service", name); err != nil {
					return usagef("see: layover service ls", "%s", err)
				}
				if err := client.RemoveService(cmd.Context(), name); err != nil {
					return err
				}
				app.printf("service %s is removed\n", app.bold(name))
			}
			return nil
		},
	}
}
