package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/gateway/traefik"
	"github.com/layover-dev/layover/internal/route"
)

// replayed is a request that both decide.
type replayed struct {
	traefik.Request
	from   string // where the request was read
	server string // host:port that Traefik sent it to at the time; "" where nothing says so
	by     string // Traefik's service of the time
}

// difference is a request that the two decide otherwise.
type difference struct {
	Request string `json:"request"`
	Text    string `json:"text"`
}

// comparison is what came of all requests.
type comparison struct {
	Requests    int          `json:"requests"`
	Traefik     int          `json:"traefik"`   // answered by Traefik itself
	Proxy       int          `json:"proxy"`     // left to Layover's proxy
	Untouched   int          `json:"untouched"` // of hosts that are not the environment's
	Differences []difference `json:"differences"`
}

type gatewayDiffOptions struct {
	request api.ExplainRequest
	file    string
	asJSON  bool
}

func newGatewayDiffCmd(app *App) *cobra.Command {
	var opts gatewayDiffOptions
	cmd := &cobra.Command{
		Use:   "diff [URL]",
		Short: "Requests that Traefik would decide otherwise than Layover",
		Long: `Decide requests twice, by the routing table and by the rules that Traefik gets, and print those
that differ; then it exits with 1. Nothing is sent to any service.

With --file, requests are read from a file with a line of JSON for each ("-" is the standard
input): the access log of Layover's proxy, Traefik's own access log in its JSON format, or
requests as the API explains them: {"url": …, "route": …, "headers": […]}. Of a line of
Traefik's log that says which server the request went to, that is compared as well: so you see
before a migration what would change. Traefik logs the headers that route only where it is told
to keep them: Baggage and Cookie.`,
		Example: `  layover gateway diff http://cart.localhost/items --route feature-2981
  layover gateway diff --file access.log
  tail -n 10000 traefik.log | layover gateway diff --file - --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || (len(args) == 1) == (opts.file != "") {
				return errors.New("give one URL, or --file")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.request.URL = args[0]
			}
			return runGatewayDiff(cmd.Context(), app, opts)
		},
	}
	cmd.Flags().StringVar(&opts.request.Route, "route", "", "route that the request carries in its baggage; goes over one in --header")
	cmd.Flags().StringArrayVarP(&opts.request.Headers, "header", "H", nil, "header line of the request (repeatable)")
	cmd.Flags().StringVar(&opts.file, "file", "", `file with requests, a line of JSON each; "-" for the standard input`)
	cmd.Flags().BoolVar(&opts.asJSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("file", "route")
	cmd.MarkFlagsMutuallyExclusive("file", "header")
	completeFlag(cmd, "route", completeRoutes(app))
	return cmd
}

func runGatewayDiff(ctx context.Context, app *App, opts gatewayDiffOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	both, err := fetchDecisions(ctx, client)
	if err != nil {
		return err
	}
	result := comparison{Differences: []difference{}}
	if opts.file == "" {
		r, problem := described(opts.request, both.table)
		if problem != "" {
			return usagef("see: layover gateway diff --help", "%s", problem)
		}
		both.compare(r, &result)
	} else if err := both.compareFile(app, opts.file, &result); err != nil {
		return err
	}
	return app.printComparison(result, opts.asJSON)
}

func (a *App) printComparison(result comparison, asJSON bool) error {
	if asJSON {
		if err := a.json(result); err != nil {
			return err
		}
	} else {
		for _, d := range result.Differences {
			a.printf("%s: %s\n", d.Request, d.Text)
		}
		a.say("%d requests: %d answered by Traefik itself, %d by way of Layover's proxy, %d of other hosts; %d differ\n",
			result.Requests, result.Traefik, result.Proxy, result.Untouched, len(result.Differences))
	}
	if len(result.Differences) > 0 {
		return &silentError{code: exitFailed}
	}
	return nil
}

// decisions are the two ways to decide a request.
type decisions struct {
	table     *route.Table
	evaluator *traefik.Evaluator
	proxies   []string // host:port of Layover's own
}

// fetchDecisions reads table and configuration. Where the table changes meanwhile the two would not be of one.
func fetchDecisions(ctx context.Context, client *api.Client) (*decisions, error) {
	for {
		before, err := client.Table(ctx)
		if err != nil {
			return nil, err
		}
		data, err := client.TraefikConfig(ctx)
		if err != nil {
			return nil, err
		}
		after, err := client.Table(ctx)
		if err != nil {
			return nil, err
		}
		if before.Epoch != after.Epoch || before.Revision != after.Revision {
			continue
		}
		table, err := route.Compile(*after)
		if err != nil {
			return nil, err
		}
		config, err := traefik.Parse(data)
		if err != nil {
			return nil, err
		}
		evaluator, err := traefik.Compile(config)
		return &decisions{table, evaluator, config.Proxies()}, err
	}
}

// maxDifferences bounds what is kept of a long log.
const maxDifferences = 1000

func (d *decisions) compare(r replayed, result *comparison) {
	answer := d.evaluator.Decide(&r.Request)
	decision := d.table.Resolve(r.RouteRequest(d.table.RouteHeader()))
	result.Requests++
	switch {
	case answer.Proxy:
		result.Proxy++
	case answer.Router != "":
		result.Traefik++
	default:
		result.Untouched++
	}
	text := traefik.Compare(decision, answer)
	if limit := traefik.Limit(&r.Request, d.table); text != "" && limit != "" {
		text += ": " + limit
	}
	if text == "" {
		text = d.otherServer(r, decision)
	}
	if text != "" && len(result.Differences) < maxDifferences {
		result.Differences = append(result.Differences, difference{r.from, text})
	}
}

// otherServer says in what the server of the time is none of those that are decided now. Layover's own proxy
// decided as it does.
func (d *decisions) otherServer(r replayed, decision route.Decision) string {
	if r.server == "" || decision.Service == nil || slices.Contains(d.proxies, r.server) {
		return ""
	}
	if decision.Version == nil {
		return fmt.Sprintf("Traefik sent it to %s (%s), and Layover answers %s", r.server, r.by, decision.Outcome)
	}
	if slices.ContainsFunc(decision.Version.Instances, func(i route.Instance) bool { return i.Address == r.server }) {
		return ""
	}
	return fmt.Sprintf("Traefik sent it to %s (%s), and Layover decides for %s", r.server, r.by, decision.Version.ID)
}

// maxReplayLine bounds a line of a file.
const maxReplayLine = 1 << 20

func (d *decisions) compareFile(app *App, name string, result *comparison) error {
	in := io.NopCloser(app.In)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return usagef("", "--file: %s", err)
		}
		in = f
	}
	defer func() { _ = in.Close() }()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxReplayLine)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		r, problem := recorded(lines.Bytes(), d.table)
		if problem != "" {
			return usagef("a line is a request as the API explains them, or one of an access log in JSON", "%s, line %d: %s", name, n, problem)
		}
		r.from = fmt.Sprintf("line %d, %s", n, r.from)
		d.compare(r, result)
	}
	if err := lines.Err(); err != nil {
		return usagef("", "read %s: %s", name, err)
	}
	if result.Requests == 0 {
		return usagef("", "%s has no requests", name)
	}
	return nil
}

// line is a request of any of the kinds that are read. Traefik's log has a field for each header, too.
type line struct {
	api.ExplainRequest

	// Of the access log of Layover's proxy.
	Host, Path, By string

	// Of Traefik's access log.
	RequestHost, RequestAddr, RequestPath, ServiceAddr, ServiceName string
}

// recorded reads a request from a line of JSON.
func recorded(data []byte, table *route.Table) (r replayed, problem string) {
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		return r, "it is no JSON of a request: " + err.Error()
	}
	switch {
	case l.URL != "":
		return described(l.ExplainRequest, table)
	case l.RequestHost != "" || l.RequestAddr != "":
		return ofTraefik(l, data), ""
	case l.Host != "":
		return ofProxy(l, table), ""
	}
	return r, "it names no url, host or RequestHost"
}

// ofProxy is a request of the access log of Layover's proxy, which has the route that was found, and where.
func ofProxy(l line, table *route.Table) replayed {
	r := replayed{Request: traefik.Request{Host: l.Host, Path: l.Path, Header: http.Header{}}, from: l.Host + l.Path}
	switch l.By {
	case route.ByBaggage.String():
		r.Header.Set("Baggage", table.BaggageKey()+"="+l.Route)
	case route.ByHeader.String():
		if header := table.RouteHeader(); header != "" {
			r.Header.Set(header, l.Route)
		}
	case route.ByCookie.String():
		r.Header.Set("Cookie", route.CookieName+"="+l.Route)
	}
	if l.Route != "" {
		r.from += " route=" + oneLine(l.Route)
	}
	return r
}

// ofTraefik is a request of Traefik's access log.
func ofTraefik(l line, data []byte) replayed {
	r := replayed{
		Request: traefik.Request{Host: cmp.Or(l.RequestAddr, l.RequestHost), Header: http.Header{}},
		from:    l.RequestHost + l.RequestPath, by: l.ServiceName,
	}
	r.Path, _, _ = strings.Cut(l.RequestPath, "?")
	if _, _, err := net.SplitHostPort(l.ServiceAddr); err == nil {
		r.server = l.ServiceAddr
	}
	var fields map[string]any
	_ = json.Unmarshal(data, &fields) // it has been read before
	for name, value := range fields {
		if header, ok := strings.CutPrefix(name, "request_"); ok {
			if text, ok := value.(string); ok {
				r.Header.Add(textproto.CanonicalMIMEHeaderKey(header), text)
			}
		}
	}
	return r
}

// described is a request as a person describes it.
func described(in api.ExplainRequest, table *route.Table) (r replayed, problem string) {
	text := in.URL
	if !strings.Contains(text, "://") {
		text = "http://" + strings.TrimPrefix(text, "//")
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return r, fmt.Sprintf("%q is not a URL with a host", in.URL)
	}
	r = replayed{Request: traefik.Request{Host: u.Host, Path: cmp.Or(u.EscapedPath(), "/"), Header: http.Header{}}, from: oneLine(in.URL)}
	for _, header := range in.Headers {
		name, value, ok := strings.Cut(header, ":")
		if !ok {
			return r, fmt.Sprintf("the header %q is not of the form 'Name: value'", header)
		}
		if name, value = strings.TrimSpace(name), strings.TrimSpace(value); strings.EqualFold(name, "host") {
			r.Host = value
		} else {
			r.Header.Add(name, value)
		}
	}
	if in.Route != "" {
		r.Header["Baggage"] = route.PrependMember(r.Header["Baggage"], table.BaggageKey(), in.Route)
		r.from += " route=" + oneLine(in.Route)
	}
	return r, ""
}
