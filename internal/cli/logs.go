package cli

import (
	"context"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

type logsOptions struct {
	Targets      []target
	Run          string
	Since, Until string
	Filter       api.LogFilter
	Timestamps   bool
	Full         bool // timestamps as RFC 3339 on a terminal, too
	JSON         bool
}

func newLogsCmd(app *App) *cobra.Command {
	opts := &logsOptions{}
	cmd := &cobra.Command{
		Use:     "logs SERVICE@VERSION|@VERSION...",
		GroupID: groupVersions,
		Short:   "What versions write",
		Long: `Print what the newest instances of a version wrote to their standard output and standard error;
of several versions, or of all services that have @VERSION, in the order of time.

With -f it goes on over everything that happens to the version: crashes and restarts, new
deployments, rollbacks, sleep, and restarts of the server. Lines on the standard error say where
another instance begins. It ends when the version is removed; for @VERSION it waits for
versions that are deployed later.

--trace takes the lines that name a trace, in any of the forms that loggers and tracers write;
without a version, those of all versions that the trace passed through.

--since and --until take lines of all instances that are kept, ended ones too. --previous is what
ended last, besides what is shown without it: the run before a restart, the generation before this
one, or one that did not come up.

On a terminal, control sequences in the log do nothing, but for colours. In a pipe, text comes
as it is.`,
		Example: `  layover logs cart@feature-2981
  layover logs cart@feature-2981 -f --since 10m
  layover logs cart@feature-2981 --previous -n 50
  layover logs @feature-2981 catalog@main -f
  layover logs --trace 4bf92f3577b34da6a3ce929d0e0e4736 --since 1h
  layover logs --run ci-8812`,
		Args: func(cmd *cobra.Command, args []string) error {
			if (opts.Filter.Trace != "" || opts.Run != "") && len(args) == 0 {
				return nil
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		},
		ValidArgsFunction: completeTargets(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if opts.Targets, err = parseTargets(args); err != nil {
				return err
			}
			opts.Full = cmd.Flags().Changed("timestamps")
			return runLogs(cmd.Context(), app, opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.Filter.Follow, "follow", "f", false, "go on as lines are written, over restarts and new generations")
	cmd.Flags().StringVar(&opts.Since, "since", "", "only lines since then: how long ago, such as 10m, or an RFC 3339 time")
	cmd.Flags().StringVar(&opts.Until, "until", "", "only lines before then: how long ago, or an RFC 3339 time")
	cmd.Flags().IntVarP(&opts.Filter.Tail, "tail", "n", 0, "only the last lines of all")
	cmd.Flags().BoolVarP(&opts.Filter.Previous, "previous", "p", false, "what ended last: the run or the generation before")
	cmd.Flags().StringVar(&opts.Filter.Trace, "trace", "", "only lines that name this trace: 32 hex digits, or a whole traceparent")
	cmd.Flags().StringVar(&opts.Run, "run", "", "only lines that name a trace of this test run")
	cmd.Flags().BoolVar(&opts.Timestamps, "timestamps", true, "print times; given on a terminal, as RFC 3339")
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print one JSON object a line, with time, service, version, generation, instance, stream, trace and route")
	return cmd
}

func (o *logsOptions) check() (err error) {
	if o.Filter.Tail < 0 || o.Filter.Tail > api.MaxLogTail {
		return usagef("", "--tail is a number from 0 to %d", api.MaxLogTail)
	}
	if o.Filter.Trace != "" {
		if o.Filter.Trace, err = parseTrace(o.Filter.Trace); err != nil {
			return err
		}
	}
	if o.Run != "" && (o.Filter.Follow || o.Filter.Trace != "" || o.Filter.Tail != 0) {
		return usagef("leave them out", "--run excludes --follow, --trace and --tail")
	}
	if o.Filter.Follow && (o.Filter.Previous || o.Until != "") {
		return usagef("leave out one of the two", "--follow excludes --previous and --until")
	}
	if o.Filter.Since, err = parseAgo("--since", o.Since); err != nil {
		return err
	}
	o.Filter.Until, err = parseAgo("--until", o.Until)
	return err
}

func runLogs(ctx context.Context, app *App, opts *logsOptions) error {
	if err := opts.check(); err != nil {
		return err
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	var traces map[string]bool
	if opts.Run != "" {
		if traces, err = opts.ofRun(ctx, client); err != nil {
			return err
		}
	}
	if len(opts.Targets) == 0 {
		if opts.Targets, err = versionsOf(ctx, client, opts.Filter.Trace); err != nil {
			return err
		}
	}
	first := opts.Targets[0]
	several := len(opts.Targets) > 1 || first.Service == ""
	lines := client.Logs(ctx, first.Service, first.Version, opts.Filter)
	if several {
		var targets []string
		for _, t := range opts.Targets {
			targets = append(targets, t.Service+"@"+t.Version)
		}
		lines = client.LogsOf(ctx, targets, opts.Filter)
	}
	for line, err := range lines {
		if err != nil {
			return err
		}
		if traces != nil && !traces[line.Trace] {
			continue
		}
		if err := app.logLine(line, opts, several); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// ofRun returns the traces of a test run, as far as its requests are known, and aims at the versions that they passed through.
func (o *logsOptions) ofRun(ctx context.Context, client *api.Client) (map[string]bool, error) {
	const most = 1000
	list, err := client.Requests(ctx, api.HopFilter{Run: o.Run, Limit: most}, 0)
	if err != nil {
		return nil, err
	}
	traces := map[string]bool{}
	var passed []target
	for _, h := range list.Items {
		if h.Trace != "" {
			traces[h.Trace] = true
		}
		if t := (target{Service: h.Service, Version: h.Version}); h.Version != "" && !slices.Contains(passed, t) {
			passed = append(passed, t)
		}
		if began := h.Time.Add(-time.Second); o.Since == "" && (o.Filter.Since.IsZero() || began.Before(o.Filter.Since)) {
			o.Filter.Since = began
		}
	}
	if len(passed) == 0 {
		return nil, usagef("layover run show "+o.Run+" says what it reached", "no request of the run %s is known", o.Run)
	}
	if len(o.Targets) == 0 {
		o.Targets = passed
	}
	return traces, nil
}

// versionsOf returns the versions that a trace passed through.
func versionsOf(ctx context.Context, client *api.Client, trace string) (all []target, err error) {
	receipt, err := client.Receipt(ctx, trace)
	if err != nil {
		return nil, err
	}
	var add func(nodes []api.ReceiptNode)
	add = func(nodes []api.ReceiptNode) {
		for _, n := range nodes {
			if t := (target{Service: n.Service, Version: n.Version}); n.Version != "" && !slices.Contains(all, t) {
				all = append(all, t)
			}
			add(n.Calls)
		}
	}
	add(receipt.Roots)
	if len(all) == 0 {
		return nil, usagef("name a version", "no version answered a request of the trace %s", trace)
	}
	return all, nil
}

// logLine prints one line. What Layover itself says about the log goes to the standard error.
func (a *App) logLine(line api.LogLine, opts *logsOptions, several bool) error {
	if opts.JSON {
		return a.jsonLine(line)
	}
	if line.Stream == api.StreamLayover {
		a.say("%s\n", a.faint("-- "+withoutControls(line.Text)))
		return nil
	}
	separator := "\t"
	if a.Terminal {
		separator = " "
	}
	var out strings.Builder
	if several {
		out.WriteString(a.versionColour(line.Service+"@"+line.Version) + separator)
	}
	if opts.Timestamps {
		switch {
		case !a.Terminal || opts.Full:
			out.WriteString(line.Time.UTC().Format(time.RFC3339Nano) + separator)
		default:
			out.WriteString(a.faint(line.Time.Local().Format("15:04:05.000")) + separator)
		}
	}
	text := line.Text
	if a.Terminal {
		text = terminalText(text)
	}
	if line.Partial {
		text += a.faint(" …") // it goes on with the next
	}
	a.printf("%s%s\n", out.String(), text)
	return nil
}

// versionColour paints the name of a version, always in the same colour.
func (a *App) versionColour(id string) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(id)) // never fails
	return a.paint(strconv.Itoa(31+int(hash.Sum32()%6)), id)
}

// parseAgo reads how long ago, or a time; zero where text is empty.
func parseAgo(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, usagef("write 10m, or 2026-01-31T12:00:00Z", "%s %q is neither how long ago nor a time", flag, text)
}
