package cli

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newStatusCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "status SERVICE@VERSION",
		GroupID: groupVersions,
		Short:   "One version: its state, its instances, and why it is not ready",
		Long: `Show one version: its state and the reason for it, what it runs, whose it is and what it
was made from, its instances with their last health check, how its last deployment went, the
last lines of its log where it does not run, and what to try next. Where its runtime tells, also
which images it really runs, and in what its template differs by now from what was copied.`,
		Example: `  layover status cart@feature-2981
  layover status cart@feature-2981 --json | jq .reason`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args[0], false)
			if err != nil {
				return err
			}
			return runStatus(cmd.Context(), app, t, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runStatus(ctx context.Context, app *App, t target, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	v, err := client.Version(ctx, t.Service, t.Version)
	if err != nil {
		return err
	}
	if asJSON {
		return app.json(v)
	}
	past, _, err := pastEvents(ctx, client, api.EventFilter{Service: v.Service, Version: v.Name}, statusEvents)
	if err != nil {
		return err
	}
	generations, err := client.History(ctx, v.Service, v.Name)
	if err != nil {
		return err
	}
	drift, err := client.Drift(ctx, api.VersionFilter{Service: v.Service, Version: v.Name})
	if err != nil {
		return err
	}
	showStatus(app, v)
	for _, d := range drift {
		app.printf("  %-11s %s  is to be %s, is %s: %s\n", "drift", d.Instance, wants(d), d.Has, oneLine(driftWords(d)))
	}
	showGenerations(app, generations)
	app.printf("  what happened:\n")
	for _, e := range past {
		app.printf("    %-8s %s%s\n", app.age(e.Time), oneLine(e.Message), took(e))
	}
	if next := nextSteps(v); next != "" {
		app.printf("  %-11s %s\n", "next", next)
	}
	return nil
}

// statusEvents is how many events a status shows.
const statusEvents = 8

// took is how long the thing took that an event tells of, in brackets.
func took(e api.Event) string {
	if e.Took == 0 {
		return ""
	}
	return " (" + roundDuration(time.Duration(e.Took)).String() + ")"
}

// nextSteps says what a person may try who finds a version in this state.
func nextSteps(v api.Version) string {
	switch {
	case v.State == api.StateFailed:
		return "layover logs " + v.ID() + "; once it is mended: layover start " + v.ID()
	case v.State == api.StateRemoving && v.Teardown != nil && v.Teardown.Failure != "":
		return "layover logs " + v.ID() + "; try again now: layover rm " + v.ID() + "; give it up: layover rm --skip-teardown " + v.ID()
	case v.State == api.StateRemoving:
		return "layover logs -f " + v.ID()
	case v.State == api.StateStopped:
		return "layover start " + v.ID()
	case v.State == api.StateAsleep:
		return "the next request wakes it, or: layover wake " + v.ID()
	case v.State == api.StateStarting:
		return "layover logs -f " + v.ID()
	case v.Serving == v.Generation && v.Healthy < v.Replicas:
		return "layover logs " + v.ID()
	case v.Reason != "":
		return "deploy it again: layover deploy " + v.ID()
	case v.State == api.StateRunning && v.Base().Moved():
		return "copy " + v.Base().Current + " and run that: layover restart " + v.ID()
	}
	return ""
}

// showStatus prints what the server knows of a version.
func showStatus(app *App, v api.Version) {
	title := ""
	if v.Default {
		title = "  (default version)"
	}
	app.printf("%s  %s%s\n", app.bold(v.ID()), app.state(v.State), title)
	line := func(name, value string) {
		if value != "" {
			app.printf("  %-11s %s\n", name, value)
		}
	}
	line("why", v.Reason)
	if v.Serving != 0 && v.Serving != v.Generation {
		app.printf("  %-11s %d serves, %d is the newest\n", "generation", v.Serving, v.Generation)
	} else {
		app.printf("  %-11s %d\n", "generation", v.Generation)
	}
	line("runs", describeRun(v.Run))
	for _, text := range describeImages(v) {
		line("image", text)
	}
	line("base", describeBase(v.Base()))
	if v.Serving != 0 && (v.Replicas > 1 || len(v.Instances) > 1) {
		app.printf("  %-11s %d of %d healthy\n", "replicas", v.Healthy, v.Replicas)
	} else if v.Replicas > 1 {
		app.printf("  %-11s %d\n", "replicas", v.Replicas)
	}
	line("owner", v.Owner)
	line("branch", v.Branch)
	line("note", v.Note)
	line("labels", labelList(v.Labels))
	line("source", sourceOf(v))
	line("commit", v.Origin.Commit)
	line("change", changeOf(v.Origin))
	line("link", v.Origin.URL)
	line("deployed", v.DeployedAt.Local().Format(time.DateTime)+" ("+shortDuration(time.Since(v.DeployedAt))+" ago)")
	app.printf("  %-11s %d\n", "requests", v.Requests)
	sleeps, ends := describeLease(v.Lease)
	line("sleeps", sleeps)
	line("lease", ends)
	line("preview", v.PreviewURL)
	line("variables", strings.Join(v.EnvNames, " "))
	line("of setup", strings.Join(v.OutputNames, " "))
	for _, i := range v.Instances {
		app.printf("  %-11s %s  %s  %s  since %s\n", "instance", i.ID,
			cmp.Or(strings.Join(i.Addresses, ","), "no address"), cmp.Or(i.Health, "not yet checked"),
			i.StartedAt.Local().Format(time.DateTime))
	}
	if (v.State == api.StateFailed || v.Reason != "") && len(v.LogTail) > 0 {
		app.printf("  last lines of the log:\n")
		for _, l := range v.LogTail {
			app.printf("    | %s\n", l)
		}
	}
}

// sourceOf says where the newest deployment came from, and from which CI system.
func sourceOf(v api.Version) string {
	if v.Origin.Provider == "" {
		return v.Source
	}
	return strings.TrimSpace(v.Source + " (" + v.Origin.Provider + ")")
}

// changeOf says which change was built: pull request, branch and author.
func changeOf(o api.Origin) string {
	var parts []string
	if o.PullRequest != "" {
		parts = append(parts, "pull request "+o.PullRequest)
	}
	if o.Branch != "" {
		parts = append(parts, "branch "+o.Branch)
	}
	if o.Author != "" {
		parts = append(parts, "by "+o.Author)
	}
	return strings.Join(parts, ", ")
}

func labelList(labels map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, name+"="+labels[name])
	}
	return strings.Join(out, " ")
}

// statusGenerations is how many earlier generations a status shows.
const statusGenerations = 5

// showGenerations prints the newest generations behind the first one.
func showGenerations(app *App, generations []api.Generation) {
	if len(generations) < 2 {
		return
	}
	app.printf("  generations before:\n")
	for _, g := range generations[1:min(len(generations), statusGenerations+1)] {
		app.printf("    %-3d %-8s %-10s %s\n", g.Number, app.age(g.At), app.generationState(g), oneLine(cmp.Or(g.Reason, repeats(g), describeRun(g.Run))))
	}
}

func describeRun(r api.Run) string {
	switch {
	case r.Process != nil:
		return "process " + strings.Join(r.Process.Command, " ")
	case r.Docker != nil:
		return "docker " + strings.Join(append([]string{r.Docker.Image}, r.Docker.Command...), " ")
	case r.ECS != nil && r.ECS.Adopt:
		return "ecs service " + r.ECS.Service + ", adopted"
	case r.ECS != nil:
		return "ecs " + strings.Join(append([]string{cmp.Or(r.ECS.Image, "the image of "+cmp.Or(r.ECS.TaskDefinition, r.ECS.Service))}, r.ECS.Command...), " ")
	case r.External != nil:
		return "external " + r.External.URL
	}
	return ""
}
