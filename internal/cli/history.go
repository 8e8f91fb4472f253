package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newHistoryCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "history SERVICE@VERSION",
		GroupID: groupVersions,
		Short:   "The deployments of a version, and what each ran",
		Long: `List the generations of a version, newest first: when each was deployed and by whom, what
it ran, and how far it came. The last 20 are kept, and those that a rollback goes back to.`,
		Example: `  layover history cart@feature-2981
  layover history cart@feature-2981 --json | jq '.[] | select(.served) | .number'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTargets(app),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args[0], false)
			if err != nil {
				return err
			}
			return runHistory(cmd.Context(), app, t, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runHistory(ctx context.Context, app *App, t target, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	generations, err := client.History(ctx, t.Service, t.Version)
	if err != nil {
		return err
	}
	if asJSON {
		return app.json(generations)
	}
	var rows [][]string
	for _, g := range generations {
		rows = append(rows, []string{
			strconv.FormatInt(g.Number, 10), app.generationState(g), app.age(g.At), cmp.Or(oneLine(g.Owner), "-"), cmp.Or(oneLine(g.Source), "-"),
			strconv.Itoa(g.Replicas), oneLine(describeRun(g.Run)), oneLine(cmp.Or(g.Reason, repeats(g))),
		})
	}
	app.table([]string{"GENERATION", "STATE", "AGE", "OWNER", "SOURCE", "REPLICAS", "RUNS", "WHY"}, rows)
	return nil
}

// generationState paints how far a generation came.
func (a *App) generationState(g api.Generation) string {
	switch {
	case g.State == api.GenerationServing:
		return a.green(string(g.State))
	case g.State == api.GenerationFailed:
		return a.red(string(g.State))
	case g.State == api.GenerationSuperseded && g.Served:
		return "served"
	default:
		return string(g.State)
	}
}

func repeats(g api.Generation) string {
	if g.Again == 0 {
		return ""
	}
	return fmt.Sprintf("as generation %d was", g.Again)
}
