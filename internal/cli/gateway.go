package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/gateway/traefik/live"
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
		Long:    "Print the dynamic configuration as JSON, as Traefik's HTTP provider reads it at /gateway/traefik\nof the server. Who reads it, and what has to be put right, is said on the standard error.",
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
			if err := app.json(config); err != nil {
				return err
			}
			report, err := client.TraefikReport(cmd.Context())
			if err == nil {
				app.sayWhoReads(report)
				app.sayProblems(report.Problems)
			}
			return err
		},
	}
}

func newGatewayCheckCmd(app *App) *cobra.Command {
	asJSON, traefiks := false, []string(nil)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "What becomes of each kind of request through Traefik, and whether Traefik has it so",
		Long: `Say for each kind of request whether Traefik answers it by itself, as Layover would, leaves it to
Layover's proxy, or does otherwise. It exits with 1 where something has to be put right: no
proxy of Layover is known, or one does not accept the server's connection; Redis cannot be
written; Traefik has stopped to ask for its configuration.

With --traefik, the API of a Traefik that runs is asked as well, from here: whether it has
Layover's routers as they are now, uses them without an error, on entry points that are there;
which routers of others take requests for the same hosts before them; whether its version
knows their rules; and which servers it takes for down. LAYOVER_TRAEFIK has the same URLs,
with commas between them: put a password there, http://user:password@traefik.internal:8080.`,
		Example: "  layover gateway check\n  layover gateway check --traefik http://traefik.internal:8080\n  layover gateway check --json | jq '.lines[] | select(.where == \"nowhere\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runGatewayCheck(cmd.Context(), app, traefiks, asJSON)
		},
	}
	cmd.Flags().StringSliceVar(&traefiks, "traefik", nil, "URL of the API of a Traefik that runs (repeatable; LAYOVER_TRAEFIK)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// gatewayCheck is what the server says of the configuration, and what each Traefik that was asked makes of it.
type gatewayCheck struct {
	api.GatewayReport
	Traefik []live.Report `json:"traefik,omitempty"`
}

func runGatewayCheck(ctx context.Context, app *App, traefiks []string, asJSON bool) error {
	if len(traefiks) == 0 && app.env("LAYOVER_TRAEFIK") != "" {
		traefiks = strings.Split(app.env("LAYOVER_TRAEFIK"), ",")
	}
	var asked []*live.Client
	for i, address := range traefiks {
		c, err := live.New(address)
		if err != nil { // which does not say the address: it may have a password
			return usagef(err.Error(), "the URL of Traefik number %d is none", i+1)
		}
		asked = append(asked, c)
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	check := gatewayCheck{}
	if check.GatewayReport, err = client.TraefikReport(ctx); err != nil {
		return err
	}
	if check.Routers > 0 { // else there is no configuration, and a problem says why
		if err := check.ask(ctx, client, asked); err != nil {
			return err
		}
	}
	if asJSON {
		err = app.json(check)
	} else {
		app.printGatewayCheck(check)
	}
	if err == nil && len(check.Problems) > 0 {
		err = &silentError{code: exitFailed}
	}
	return err
}

// ask asks each Traefik.
func (c *gatewayCheck) ask(ctx context.Context, client *api.Client, traefiks []*live.Client) error {
	if len(traefiks) == 0 {
		return nil
	}
	data, err := client.TraefikConfig(ctx)
	if err != nil {
		return err
	}
	config, err := traefik.Parse(data)
	if err != nil {
		return err
	}
	for _, t := range traefiks {
		report := t.Check(ctx, live.Given{Environment: c.Environment, Config: config, Age: time.Duration(c.Age)})
		c.Traefik = append(c.Traefik, report)
		for _, problem := range report.Problems {
			if len(traefiks) > 1 {
				problem = "at " + report.URL + ": " + problem
			}
			c.Problems = append(c.Problems, problem)
		}
	}
	return nil
}

func (a *App) printGatewayCheck(r gatewayCheck) {
	var rows [][]string
	for _, l := range r.Lines {
		rows = append(rows, []string{l.Where, l.What, l.Text})
	}
	a.table([]string{"DECIDED BY", "REQUESTS", "HOW"}, rows)
	a.say("mode %s: %d routers, %d bytes; Layover's proxies: %s\n", r.Mode, r.Routers, r.Bytes, proxyURLs(r.Proxies))
	a.sayWhoReads(r.GatewayReport)
	for _, t := range r.Traefik {
		a.sayTraefik(t)
	}
	a.sayProblems(r.Problems)
}

// sayWhoReads says how the configuration comes to Traefik, as far as the server sees it.
func (a *App) sayWhoReads(r api.GatewayReport) {
	switch {
	case r.Redis == nil && len(r.Askers) == 0:
		a.say("no Traefik has asked the server for it since the server was started\n")
	case r.Redis != nil && r.Redis.Written:
		a.say("written to Redis at %s\n", r.Redis.Address)
	}
	for _, asker := range r.Askers {
		every := "once"
		if asker.Every > 0 {
			every = "every " + shortAge(time.Duration(asker.Every))
		}
		late := ""
		if asker.Late {
			late = ", and not since"
		}
		a.say("Traefik at %s asked %s, last %s ago%s\n", oneLine(asker.From), every, shortAge(time.Duration(asker.Ago)), late)
	}
}

func shortAge(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// sayTraefik says what a Traefik that was asked has.
func (a *App) sayTraefik(t live.Report) {
	if t.Version == "" && len(t.Problems) > 0 {
		return // it did not answer
	}
	from, which := "", "not the newest configuration"
	if len(t.Providers) > 0 {
		from = ", from its provider " + strings.Join(t.Providers, " and ")
	}
	if t.Newest {
		which = "the newest configuration"
	}
	a.say("Traefik %s at %s: %d of %d routers%s; %s\n", oneLine(t.Version), t.URL, t.Routers, t.Routers+t.Missing, from, which)
	for _, note := range t.Notes {
		a.say("%s %s\n", "note:", oneLine(note))
	}
}

func (a *App) sayProblems(problems []string) {
	for _, problem := range problems {
		a.say("%s %s\n", a.red("problem:"), oneLine(problem))
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
