package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newGatewayCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "gateway",
		GroupID: groupRoutes,
		Short:   "Keep your Traefik: its configuration, what it cannot do, and where it would decide otherwise",
		Long: `The server gives its routing table to Traefik as well, where gateway.traefik.mode is set in
layover.yaml. What Traefik's rules cannot decide exactly, Traefik sends to Layover's proxy.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newGatewayShowCmd(app), newGatewayCheckCmd(app), newGatewayDiffCmd(app))
	return cmd
}

func newGatewayShowCmd(app *App) *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "The configuration that Traefik reads",
		Long:    "Print the dynamic configuration as JSON, as Traefik's HTTP provider reads it at /gateway/traefik\nof the server.",
		Example: "  layover gateway show\n  layover gateway show | jq '.http.routers | map_values(.rule)'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			config, err := client.TraefikConfig(cmd.Context())
			if err != nil {
				return err
			}
			return app.json(config)
		},
	}
}

func newGatewayCheckCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "check",
		Short: "What becomes of each kind of request through Traefik",
		Long: `Say for each kind of request whether Traefik answers it by itself, as Layover would, leaves it to
Layover's proxy, or does otherwise. It exits with 1 where something has to be put right: no
proxy of Layover is known, or one does not accept the server's connection.`,
		Example: "  layover gateway check\n  layover gateway check --json | jq '.lines[] | select(.where == \"nowhere\")'",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runGatewayCheck(cmd.Context(), app, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runGatewayCheck(ctx context.Context, app *App, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	report, err := client.TraefikReport(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		err = app.json(report)
	} else {
		app.printGatewayReport(report)
	}
	if err == nil && len(report.Problems) > 0 {
		err = &silentError{code: exitFailed}
	}
	return err
}

func (a *App) printGatewayReport(r api.GatewayReport) {
	var rows [][]string
	for _, l := range r.Lines {
		rows = append(rows, []string{l.Where, l.What, l.Text})
	}
	a.table([]string{"DECIDED BY", "REQUESTS", "HOW"}, rows)
	a.say("mode %s: %d routers, %d bytes; Layover's proxies: %s\n", r.Mode, r.Routers, r.Bytes, proxyURLs(r.Proxies))
	if r.Redis != nil && r.Redis.Written {
		a.say("written to Redis at %s\n", r.Redis.Address)
	}
	for _, problem := range r.Problems {
		a.say("%s %s\n", a.red("problem:"), problem)
	}
}

func proxyURLs(proxies []api.GatewayProxy) string {
	if len(proxies) == 0 {
		return "none"
	}
	var urls []string
	for _, p := range proxies {
		urls = append(urls, p.URL)
	}
	return strings.Join(urls, ", ")
}
