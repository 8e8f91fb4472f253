package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/proxy"
)

func newReceiptCmd(app *App) *cobra.Command {
	var asJSON, named bool
	cmd := &cobra.Command{
		Use:     "receipt TRACE-ID",
		GroupID: groupRoutes,
		Short:   "Through which versions a request really passed",
		Long: `Print the receipt of a request: each call that belongs to it, which version answered and why.
Calls are joined by their trace id, that of the header traceparent, and by the instance that
made them.

A trace id has 32 hex digits; a whole traceparent is taken as well, and with --request-id the
X-Request-Id of a request that no tracer had a hand in. Proxies tell of a request within a
second of its end, and the newest requests of each version are kept.

A request to a trusted listener that has the header Layover-Receipt: 1 gets its receipt with the
answer, half a second later, under the same name.`,
		Example: `  layover receipt 4bf92f3577b34da6a3ce929d0e0e4736
  layover receipt 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 --json
  layover receipt --request-id 7b1f2c9e-0d5a-4b8e-9a3f-6f1f0f0c2d11`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			trace := args[0]
			if named {
				trace = proxy.RequestTrace(trace).String()
			}
			return runReceipt(cmd.Context(), app, trace, asJSON)
		},
	}
	cmd.Flags().BoolVar(&named, "request-id", false, "what is given is the X-Request-Id of the request")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runReceipt(ctx context.Context, app *App, trace string, asJSON bool) error {
	trace, err := parseTrace(trace)
	if err != nil {
		return err
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	receipt, err := client.Receipt(ctx, trace)
	if err != nil {
		return err
	}
	if asJSON {
		return app.json(receipt)
	}
	for _, root := range receipt.Roots {
		showNode(app, root, "", true, true)
	}
	if receipt.Dropped > 0 {
		app.say("proxies could not tell of %d requests: calls may be missing\n", receipt.Dropped)
	}
	return nil
}

// parseTrace reads a trace id, or takes it out of a traceparent.
func parseTrace(text string) (string, error) {
	if parts := strings.Split(text, "-"); len(parts) == 4 {
		text = parts[1]
	}
	if len(text) != 32 || strings.Trim(text, "0123456789abcdef") != "" {
		return "", usagef("it is in the header traceparent: 00-TRACE-ID-SPAN-ID-01; layover requests lists the newest", "%q is no trace id of 32 hex digits in lower case", text)
	}
	return text, nil
}

// showNode prints a call, and those that it led to below.
func showNode(app *App, n api.ReceiptNode, indent string, last, root bool) {
	branch, below := "├─ ", "│  "
	if last {
		branch, below = "└─ ", "   "
	}
	if root {
		branch, below = "", ""
	}
	status := strconv.Itoa(n.Status)
	if n.Status >= 500 || n.Status == 0 {
		status = app.red(status)
	}
	app.printf("%s%s%s  %s %s%s  %s  %s  %s\n", indent, branch, app.bold(n.ID()), n.Method, n.Host, n.Path, status, precise(time.Duration(n.Duration)), whyVersion(app, n.Hop))
	for i, call := range n.Calls {
		showNode(app, call, indent+below, i == len(n.Calls)-1, false)
	}
}

// whyVersion says in a few words why the version answered.
func whyVersion(app *App, h api.Hop) string {
	words := []string{"by=" + h.By}
	if h.Route != "" {
		words = append(words, "route="+h.Route)
	}
	if h.Fallback != "" {
		words = append(words, "fallback="+h.Fallback)
	}
	if h.Lost != "" {
		words = append(words, app.red("lost="+h.Lost))
	}
	if h.Error != "" {
		words = append(words, app.red(h.Error))
	}
	return strings.Join(words, " ")
}

// precise is a duration to three digits or so.
func precise(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

type requestsOptions struct {
	Version string
	Filter  api.HopFilter
	Follow  bool
	JSON    bool
}

func newRequestsCmd(app *App) *cobra.Command {
	opts := &requestsOptions{}
	cmd := &cobra.Command{
		Use:     "requests",
		GroupID: groupRoutes,
		Short:   "The newest requests, and which version answered each",
		Long: `List the newest requests that proxies told of, the newest last. Of many that neither a route,
a trace nor a caller says anything of, each proxy tells of 50 a second.`,
		Example: `  layover requests --version cart@feature-2981
  layover requests --status 5xx -f
  layover requests --lost                    # whose route a service before them lost
  layover requests --run ci-8812             # of one test run
  layover requests -f --json | jq -r .trace`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRequests(cmd.Context(), app, opts) },
	}
	f := cmd.Flags()
	f.StringVar(&opts.Version, "version", "", "only those that SERVICE, SERVICE@VERSION or @VERSION answered")
	f.StringVar(&opts.Filter.Status, "status", "", "only those with this status, as 503, or class, as 5xx")
	f.StringVar(&opts.Filter.Run, "run", "", "only those of this test run, with what they led to")
	f.BoolVar(&opts.Filter.Lost, "lost", false, "only those whose route a service before them lost")
	f.IntVarP(&opts.Filter.Limit, "last", "n", 50, "how many of the past to show")
	f.BoolVarP(&opts.Follow, "follow", "f", false, "go on as they come")
	f.BoolVar(&opts.JSON, "json", false, "print one JSON object a line")
	return cmd
}

// requestsEvery is how often new requests are asked for.
const requestsEvery = 500 * time.Millisecond

func runRequests(ctx context.Context, app *App, opts *requestsOptions) error {
	if opts.Filter.Limit < 1 || opts.Filter.Limit > 1000 {
		return usagef("", "--last %d is not between 1 and 1000", opts.Filter.Limit)
	}
	if opts.Version != "" {
		opts.Filter.Service, opts.Filter.Version, _ = strings.Cut(opts.Version, "@")
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	after, first := uint64(0), true
	for {
		list, err := client.Requests(ctx, opts.Filter, after)
		if err != nil {
			return err
		}
		if err := showRequests(app, list.Items, opts, first); err != nil || !opts.Follow {
			return err
		}
		after, first, opts.Filter.Limit = list.Last, false, 1000
		select {
		case <-time.After(requestsEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func showRequests(app *App, hops []api.Hop, opts *requestsOptions, first bool) error {
	if opts.JSON {
		for _, h := range hops {
			if err := app.jsonLine(h); err != nil {
				return err
			}
		}
		return nil
	}
	if !opts.Follow {
		var rows [][]string
		for _, h := range hops {
			rows = append(rows, []string{
				h.Time.Local().Format("15:04:05.000"), strconv.Itoa(h.Status), h.ID(), cmp.Or(h.CallerOf, "-"), h.Method + " " + h.Host + h.Path,
				precise(time.Duration(h.Duration)), whyVersion(app, h), cmp.Or(h.Trace, "-"),
			})
		}
		app.table([]string{"TIME", "STATUS", "ANSWERED", "CALLER", "REQUEST", "TOOK", "WHY", "TRACE"}, rows)
		return nil
	}
	for _, h := range hops {
		app.printf("%s  %d  %s  %s %s%s  %s  %s\n", h.Time.Local().Format("15:04:05.000"), h.Status, h.ID(), h.Method, h.Host, h.Path, whyVersion(app, h), h.Trace)
	}
	if first && len(hops) == 0 {
		app.say("no request yet\n")
	}
	return nil
}

type xrayOptions struct {
	JSON   bool
	SVG    string
	FailOn string
	All    bool
}

func newXRayCmd(app *App) *cobra.Command {
	opts := &xrayOptions{}
	cmd := &cobra.Command{
		Use:     "xray",
		GroupID: groupRoutes,
		Short:   "Which services lose the route on the way",
		Long: `For each version that calls a service: how many of its calls should have carried a route, as
the request they belong to had one, how many did, and what became of the route in the others.

Only calls count of which it is known what they belong to: by the address of the instance that
made them, or by their trace. Calls of requests without a route prove nothing, and neither do
those that an instance makes by itself, as for a cron job. A call counts a few seconds behind
its end.`,
		Example: `  layover xray
  layover xray --svg xray.svg                # a picture, with the edges that lose it in red
  layover xray --fail-on drops               # for CI: exit code 1 where a service drops the route`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runXRay(cmd.Context(), app, opts) },
	}
	f := cmd.Flags()
	f.BoolVar(&opts.JSON, "json", false, "print JSON")
	f.StringVar(&opts.SVG, "svg", "", "write a picture to this file")
	f.StringVar(&opts.FailOn, "fail-on", "", "exit with 1 where a verdict is so: drops, or sometimes (which includes drops)")
	f.BoolVarP(&opts.All, "all", "a", false, "also the edges of which nothing is known")
	_ = cmd.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions([]string{string(api.VerdictDrops), string(api.VerdictSometimes)}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runXRay(ctx context.Context, app *App, opts *xrayOptions) error {
	fail := map[string][]api.Verdict{
		"": nil, string(api.VerdictDrops): {api.VerdictDrops}, string(api.VerdictSometimes): {api.VerdictDrops, api.VerdictSometimes},
	}
	verdicts, known := fail[opts.FailOn]
	if !known {
		return usagef("write drops or sometimes", "--fail-on %q is no verdict that could be failed on", opts.FailOn)
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	x, err := client.XRay(ctx)
	if err != nil {
		return err
	}
	if opts.SVG != "" {
		picture, err := client.XRayPicture(ctx)
		if err != nil {
			return err
		}
		if err := os.WriteFile(opts.SVG, picture, 0o644); err != nil { //nolint:gosec // a picture to be shown
			return fmt.Errorf("write the picture: %w", err)
		}
	}
	if opts.JSON {
		err = app.json(x)
	} else {
		showXRay(app, x, opts.All)
	}
	if err != nil {
		return err
	}
	var bad []string
	for _, e := range x.Edges {
		if slices.Contains(verdicts, e.Verdict) {
			bad = append(bad, e.Caller+" to "+e.Callee)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("the route is lost from %s", strings.Join(bad, ", from "))
	}
	return nil
}

func showXRay(app *App, x api.XRay, all bool) {
	var rows [][]string
	hidden := 0
	for _, e := range x.Edges {
		if e.Verdict == api.VerdictUnknown && !all {
			hidden++
			continue
		}
		verdict := string(e.Verdict)
		switch e.Verdict { //nolint:exhaustive // the others have no colour
		case api.VerdictCarries:
			verdict = app.green(verdict)
		case api.VerdictDrops, api.VerdictSometimes:
			verdict = app.red(verdict)
		}
		var why []string
		for _, reason := range slices.Sorted(maps.Keys(e.Reasons)) {
			why = append(why, fmt.Sprintf("%s (%d)", reason, e.Reasons[reason]))
		}
		example := "-"
		if e.Example != nil && e.Example.Trace != "" {
			example = e.Example.Trace
		}
		rows = append(rows, []string{
			e.Caller, e.Callee, verdict, fmt.Sprintf("%d of %d", e.Carried, e.Routed), strconv.Itoa(e.Healed), strconv.Itoa(e.Calls), cmp.Or(strings.Join(why, ", "), "-"), example,
		})
	}
	app.table([]string{"CALLER", "CALLS", "VERDICT", "CARRIED", "HEALED", "ALL", "WHY", "EXAMPLE"}, rows)
	if len(rows) == 0 {
		app.say("no call yet that should have carried a route; --all shows the others\n")
	} else if hidden > 0 {
		app.say("%d more edges had no call that should have carried a route: --all\n", hidden)
	}
	if x.Unknown > 0 {
		app.say("of %d calls it is not known what they belong to\n", x.Unknown)
	}
	if x.Dropped > 0 {
		app.say("proxies could not tell of %d requests\n", x.Dropped)
	}
}
