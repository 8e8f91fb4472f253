package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newExplainCmd(app *App) *cobra.Command {
	var (
		req    api.ExplainRequest
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "explain URL",
		GroupID: groupRoutes,
		Short:   "Which version would answer a request, and by which rule",
		Long: `Say which version would answer a request, step by step with the rule behind each step. The
proxy decides by the same code. Nothing is sent to any service.`,
		Example: `  layover explain http://cart.localhost:8080/items --route feature-2981
  layover explain cart.localhost -H 'baggage: userId=alice,dynamic_route=pr-88'
  layover explain http://feature-2981--cart.localhost:8080/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.URL = args[0]; req.URL == "" {
				return usagef("for example: layover explain http://cart.localhost:8080/", "the URL is empty")
			}
			return runExplain(cmd.Context(), app, req, asJSON)
		},
	}
	cmd.Flags().StringVar(&req.Route, "route", "", "route that the request carries in its baggage; goes over one in --header")
	cmd.Flags().StringArrayVarP(&req.Headers, "header", "H", nil, "header line of the request (repeatable)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	completeFlag(cmd, "route", completeRoutes(app))
	return cmd
}

func runExplain(ctx context.Context, app *App, req api.ExplainRequest, asJSON bool) error {
	client, err := app.Client()
	if err != nil {
		return err
	}
	if asJSON {
		e, err := client.Explain(ctx, req)
		if err != nil {
			return err
		}
		return app.json(e)
	}
	return runExplainWith(ctx, app, client, req)
}

// runExplainWith prints the steps of a decision.
func runExplainWith(ctx context.Context, app *App, client *api.Client, req api.ExplainRequest) error {
	e, err := client.Explain(ctx, req)
	if err != nil {
		return err
	}
	for _, s := range e.Steps {
		app.printf("%s  %s\n", app.faint(s.Rule), s.Text)
	}
	app.printf("=>  %s\n", app.bold(decided(e)))
	return nil
}

// decided says the decision in one line.
func decided(e api.Explanation) string {
	switch {
	case e.Version == "":
		return e.Outcome
	case e.Fallback != "":
		return fmt.Sprintf("%s@%s (%s), fallback=%s", e.Service, e.Version, e.State, e.Fallback)
	default:
		return fmt.Sprintf("%s@%s (%s)", e.Service, e.Version, e.State)
	}
}
