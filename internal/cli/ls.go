package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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
	Owner   string
	Mine    bool
	Labels  []string
	Sort    string
	After   string
	Limit   int
	Drift   bool
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
answer a request with that route with, and why. With --drift, list in what the runtimes
differ from what is wanted: nothing, where all is well. Where there are very many, a list for
people shows the first 1,000, and how to see the next; --json prints all, unless --limit is given.

Where versions run on Amazon ECS, IMAGE shows the digest of what really runs and the commit that its
labels name, and BASE how many revisions the task definition that a version is a copy of is behind
the one that its template has now. layover status shows in what they differ.

They are sorted by service and name, or as --sort says: age puts the oldest deployment
first, requests the most used, state what is wrong, name and owner go by the alphabet.`,
		Example: `  layover ls
  layover ls --service cart
  layover ls --mine --sort age
  layover ls --label team=payments
  layover ls --limit 50 --after cart@feature-2981
  layover ls --route feature-2981
  layover ls --drift
  layover ls --json | jq -r '.[] | select(.state == "failed") | .name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Drift && opts.Route != "" {
				return usagef("", "--drift and --route exclude each other")
			}
			if opts.Drift && (opts.Mine || opts.Owner != "" || len(opts.Labels) > 0 || opts.Sort != "") {
				return usagef("", "--mine, --owner, --label and --sort are not for --drift")
			}
			if opts.Drift {
				return runListDrift(cmd.Context(), app, opts)
			}
			if opts.Route != "" {
				if opts.Mine || opts.Owner != "" || len(opts.Labels) > 0 || opts.Sort != "" {
					return usagef("with --route there is a line for each service", "--mine, --owner, --label and --sort are not for --route")
				}
				return runListRoute(cmd.Context(), app, opts)
			}
			return runList(cmd.Context(), app, opts)
		},
	}
	cmd.Flags().StringVar(&opts.Service, "service", "", "only versions of this service")
	cmd.Flags().StringVar(&opts.Route, "route", "", "what each service answers this route with")
	cmd.Flags().BoolVar(&opts.Mine, "mine", false, "only your versions")
	cmd.Flags().StringVar(&opts.Owner, "owner", "", "only versions of this owner")
	cmd.Flags().StringArrayVar(&opts.Labels, "label", nil, "only versions with this label, as NAME=VALUE (repeatable: with all of them)")
	cmd.Flags().StringVar(&opts.Sort, "sort", "", "order: age, name, owner, requests or state (default: service and name)")
	cmd.Flags().BoolVar(&opts.Drift, "drift", false, "in what the runtimes differ from what is wanted")
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print JSON")
	cmd.Flags().IntVar(&opts.Limit, "limit", 0, "how many versions at most (default 1000; with --json all)")
	cmd.Flags().StringVar(&opts.After, "after", "", "only versions behind this one, as SERVICE@VERSION")
	completeFlag(cmd, "after", completeTargets(app))
	completeFlag(cmd, "owner", completeOwners(app))
	completeFlag(cmd, "label", completeLabels(app))
	completeFlag(cmd, "sort", cobra.FixedCompletions(slices.Sorted(maps.Keys(orders())), cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "service", completeServices(app))
	completeFlag(cmd, "route", completeRoutes(app))
	cmd.AddCommand(newListProxiesCmd(app))
	return cmd
}

func runList(ctx context.Context, app *App, opts *listOptions) error {
	filter, err := opts.filter(app)
	if err != nil {
		return err
	}
	order, ok := orders()[opts.Sort]
	if opts.Sort != "" && !ok {
		return usagef("use "+strings.Join(slices.Sorted(maps.Keys(orders())), ", "), "--sort: there is no order %q", opts.Sort)
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	versions, next, err := opts.versions(ctx, client, filter, order)
	if err != nil {
		return err
	}
	if next != "" {
		defer func() { app.say("there are more: layover ls --after %s\n", next) }()
	}
	if len(versions) == 0 && opts.Service != "" {
		if _, err := findService(ctx, client, opts.Service); err != nil {
			return err
		}
	}
	if opts.JSON {
		return app.json(versions)
	}
	switch {
	case len(versions) > 0:
	case filter.Owner != "" || len(filter.Labels) > 0:
		app.say("no version is like that\n")
	default:
		app.say("no versions; run one with: layover deploy SERVICE@VERSION\n")
	}
	showVersions(app, versions)
	return nil
}

// showVersions prints a table of versions. What only some runtimes tell has columns where there is something in them:
// on a terminal before the last one, which is the widest, and in a pipe behind it, so that the others stay where they are.
func showVersions(app *App, versions []api.Version) {
	header := []string{"SERVICE", "VERSION", "STATE", "OWNER", "SOURCE", "AGE", "LEFT", "REQUESTS", "ADDRESS", "WHY"}
	var rows [][]string
	for _, v := range versions {
		rows = append(rows, []string{
			v.Service, v.Name, app.state(v.State), cmp.Or(oneLine(v.Owner), "-"), cmp.Or(oneLine(v.Source), "-"), app.age(v.DeployedAt), leftOf(v),
			strconv.FormatUint(v.Requests, 10), cmp.Or(addresses(v), "-"), oneLine(cmp.Or(v.Reason, healthyOf(v))),
		})
	}
	if slices.ContainsFunc(versions, func(v api.Version) bool {
		return v.Runtime == api.RuntimeECS && (len(v.Images()) > 0 || v.Base() != nil)
	}) {
		at := len(header)
		if app.Terminal {
			at--
		}
		header = slices.Insert(header, at, "IMAGE", "BASE")
		for i, v := range versions {
			rows[i] = slices.Insert(rows[i], at, cmp.Or(imageOf(v), "-"), cmp.Or(behindOf(v.Base()), "-"))
		}
	}
	app.table(header, rows)
}

// versions returns those to list and, where there are more, the last of them.
func (o *listOptions) versions(
	ctx context.Context, client *api.Client, filter api.VersionFilter, order func(a, b api.Version) int,
) (all []api.Version, next string, err error) {
	limit := o.Limit
	switch {
	case limit < 0:
		return nil, "", usagef("", "--limit %d is negative", limit)
	case o.After != "" && order != nil:
		return nil, "", usagef("what comes after it in another order nobody can tell", "--after and --sort exclude each other")
	case o.After != "":
		if _, err := parseTarget(o.After, false); err != nil {
			return nil, "", err
		}
	}
	if order != nil { // which come first is known only when all are
		if all, err = client.Versions(ctx, filter); err != nil {
			return nil, "", err
		}
		slices.SortStableFunc(all, order)
		if limit > 0 {
			all = all[:min(limit, len(all))]
		}
		return all, "", nil
	}
	if limit == 0 && !o.JSON {
		limit = api.DefaultVersionPage
	}
	all = []api.Version{}
	for next = o.After; ; {
		size := min(max(limit-len(all), 0), api.MaxVersionPage) // 0 where there is no limit
		page, err := client.VersionPage(ctx, filter, next, size)
		if err != nil {
			return nil, "", err
		}
		all, next = append(all, page.Items...), page.Next
		if next == "" || limit > 0 && len(all) >= limit {
			return all, next, nil
		}
	}
}

// filter says which versions are asked for.
func (o *listOptions) filter(app *App) (api.VersionFilter, error) {
	if o.Mine && o.Owner != "" {
		return api.VersionFilter{}, usagef("", "--mine and --owner exclude each other")
	}
	labels, err := parseLabels(o.Labels, false)
	f := api.VersionFilter{Service: o.Service, Owner: o.Owner, Labels: labels}
	if o.Mine {
		f.Owner = app.user()
	}
	return f, err
}

// orders are the orders of --sort. What is the same in one of them stays in the order of the
// service and name.
func orders() map[string]func(a, b api.Version) int {
	states := []api.State{api.StateFailed, api.StateStarting, api.StateStopping, api.StateRemoving, api.StateRunning, api.StateAsleep, api.StateStopped}
	return map[string]func(a, b api.Version) int{
		"age":      func(a, b api.Version) int { return a.DeployedAt.Compare(b.DeployedAt) },
		"name":     func(a, b api.Version) int { return cmp.Compare(a.Name, b.Name) },
		"owner":    func(a, b api.Version) int { return cmp.Compare(strings.ToLower(a.Owner), strings.ToLower(b.Owner)) },
		"requests": func(a, b api.Version) int { return cmp.Compare(b.Requests, a.Requests) },
		"state": func(a, b api.Version) int {
			return cmp.Compare(slices.Index(states, a.State), slices.Index(states, b.State))
		},
	}
}

func runListDrift(ctx context.Context, app *App, opts *listOptions) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	drift, err := client.Drift(ctx, api.VersionFilter{Service: opts.Service})
	if err != nil {
		return err
	}
	if opts.JSON {
		return app.json(drift)
	}
	if len(drift) == 0 {
		app.say("the runtimes have what is wanted, and nothing else\n")
	}
	showDrift(app, drift)
	return nil
}

// routedService is what one service answers a route with.
type routedService struct {
	Service string `json:"service"`
	route.Explanation
}

// runListRoute asks the server to decide for a host of every service.
func runListRoute(ctx context.Context, app *App, opts *listOptions) error {
	if _, err := route.ParseRoute(opts.Route); err != nil {
		return usagef("", "--route: %s", err)
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	services, err := client.Services(ctx)
	if err != nil {
		return err
	}
	if opts.Service != "" {
		one, err := findService(ctx, client, opts.Service)
		if err != nil {
			return err
		}
		services = []api.Service{one}
	}
	out := []routedService{}
	for _, s := range services {
		e, err := client.Explain(ctx, api.ExplainRequest{URL: exactHost(s), Route: opts.Route})
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
			r.Service, cmp.Or(r.Version, "-"), cmp.Or(string(r.State), r.Outcome),
			cmp.Or(r.Match, "-"), cmp.Or(r.Fallback, "-"),
		})
	}
	app.table([]string{"SERVICE", "VERSION", "STATE", "MATCH", "FALLBACK"}, rows)
	return nil
}

// findService returns the service of that name.
func findService(ctx context.Context, client *api.Client, name string) (api.Service, error) {
	s, err := client.Service(ctx, name)
	if isNotFound(err) {
		return s, usagef("see: layover service ls", "there is no service %q", name)
	}
	return s, err
}

// exactHost returns a host of a service that has no star.
func exactHost(s api.Service) string {
	for _, host := range s.Hosts {
		if !strings.HasPrefix(host, "*") {
			return host
		}
	}
	return strings.Replace(s.Hosts[0], "*", "any", 1)
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

// healthyOf says how many instances of a version are healthy, where some are not.
func healthyOf(v api.Version) string {
	if v.State != api.StateRunning || v.Serving != v.Generation || v.Healthy >= v.Replicas {
		return ""
	}
	return fmt.Sprintf("%d of %d instances are healthy", v.Healthy, v.Replicas)
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
