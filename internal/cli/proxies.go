package cli

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newListProxiesCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "proxies",
		Aliases: []string{"proxy"},
		Short:   "The stand-alone proxies, and how far each is behind",
		Long: `List the proxies that run apart and report to the server: the revision of the table each
decides on, how many revisions that is behind the newest, and for how long. A proxy is forgotten
30 seconds after its last report. The proxy inside of layover up is none of them.`,
		Example: `  layover ls proxies
  layover ls proxies --json | jq -r '.[] | select(.behind > 0) | .id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runListProxies(cmd.Context(), app, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runListProxies(ctx context.Context, app *App, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	proxies, err := client.Proxies(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return app.json(proxies)
	}
	if len(proxies) == 0 {
		app.say("no stand-alone proxy reports to this server\n")
	}
	var rows [][]string
	for _, p := range proxies {
		rows = append(rows, []string{
			p.ID, cmp.Or(oneLine(strings.Join(p.Addresses, ",")), "-"), strconv.FormatUint(p.Revision, 10),
			app.behind(p), lag(p), app.age(p.SeenAt), strconv.FormatUint(answered(p), 10), cmp.Or(oneLine(p.Build), "-"),
		})
	}
	app.table([]string{"ID", "ADDRESS", "REVISION", "BEHIND", "LAG", "SEEN", "REQUESTS", "BUILD"}, rows)
	return nil
}

// behind writes how many revisions a proxy is behind, and paints what is not 0 as bad.
func (a *App) behind(p api.Proxy) string {
	text := strconv.FormatUint(p.Behind, 10)
	if p.Behind > 0 {
		return a.red(text)
	}
	return text
}

func lag(p api.Proxy) string {
	if p.Behind == 0 {
		return "-"
	}
	return time.Duration(p.Lag).Round(time.Millisecond).String()
}

// answered counts the requests that a proxy answered, to all versions.
func answered(p api.Proxy) uint64 {
	var n uint64
	for _, count := range p.Requests {
		n += count
	}
	return n
}
