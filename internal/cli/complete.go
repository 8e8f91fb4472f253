package cli

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
)

// complete makes a completion of words that the server knows. Where no server
// answers there are none, and never names of files.
func complete(app *App, words func(ctx context.Context, client *api.Client, args []string) ([]cobra.Completion, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		client, err := app.Client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		out, err := words(cmd.Context(), client, args)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeBegin is complete for words that are to be continued, such as cart@.
func completeBegin(app *App, end string) cobra.CompletionFunc {
	services := complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
		var out []cobra.Completion
		services, err := client.Services(ctx)
		for _, s := range services {
			out = append(out, s.Name+end)
		}
		return out, err
	})
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		out, directive := services(cmd, args, word)
		return out, directive | cobra.ShellCompDirectiveNoSpace
	}
}

// completeTargets offers versions, as SERVICE@VERSION.
func completeTargets(app *App) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
		var out []cobra.Completion
		versions, err := client.Versions(ctx, api.VersionFilter{})
		for _, v := range versions {
			out = append(out, cobra.CompletionWithDesc(v.ID(), string(v.State)))
		}
		return out, err
	})
}

// completeFirst completes the first argument alone: what follows cannot be known.
func completeFirst(first cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return first(cmd, args, word)
	}
}

// completeServices offers services.
func completeServices(app *App) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
		var out []cobra.Completion
		services, err := client.Services(ctx)
		for _, s := range services {
			out = append(out, s.Name)
		}
		return out, err
	})
}

// completeOwners offers the owners of versions.
func completeOwners(app *App) cobra.CompletionFunc {
	return completeOf(app, func(v api.Version) []string { return []string{v.Owner} })
}

// completeLabels offers the labels of versions, as NAME=VALUE.
func completeLabels(app *App) cobra.CompletionFunc {
	return completeOf(app, func(v api.Version) []string {
		var out []string
		for name, value := range v.Labels {
			out = append(out, name+"="+value)
		}
		return out
	})
}

// completeOf offers what versions have, each once.
func completeOf(app *App, words func(api.Version) []string) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
		seen := map[string]bool{}
		versions, err := client.Versions(ctx, api.VersionFilter{})
		for _, v := range versions {
			for _, word := range words(v) {
				seen[word] = word != ""
			}
		}
		delete(seen, "")
		return slices.Sorted(maps.Keys(seen)), err
	})
}

// completeNamedRoutes offers named routes.
func completeNamedRoutes(app *App) cobra.CompletionFunc {
	return complete(app, namedRoutes)
}

// completeRoutes offers what a request may carry: named routes and names of versions.
func completeRoutes(app *App) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, args []string) ([]cobra.Completion, error) {
		out, err := namedRoutes(ctx, client, args)
		if err != nil {
			return nil, err
		}
		versions, err := client.Versions(ctx, api.VersionFilter{})
		seen := map[string]bool{}
		for _, v := range versions {
			if !seen[v.Name] {
				seen[v.Name] = true
				out = append(out, v.Name)
			}
		}
		return out, err
	})
}

func namedRoutes(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
	var out []cobra.Completion
	routes, err := client.Routes(ctx)
	for _, r := range routes {
		out = append(out, r.Name)
	}
	return out, err
}

// completeRuns offers the newest test runs.
func completeRuns(app *App) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
		var out []cobra.Completion
		runs, err := client.TestRuns(ctx, api.TestRunFilter{Limit: 50})
		for _, r := range runs {
			out = append(out, cobra.CompletionWithDesc(r.ID, r.Suite+", "+string(r.Status)))
		}
		return out, err
	})
}

// completeRanSuites offers suites that ran lately.
func completeRanSuites(app *App) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
		seen := map[string]bool{}
		runs, err := client.TestRuns(ctx, api.TestRunFilter{Limit: 1000})
		for _, r := range runs {
			seen[r.Suite] = true
		}
		return slices.Sorted(maps.Keys(seen)), err
	})
}

// completeShared offers shared suites, as NAME@REF.
func completeShared(app *App) cobra.CompletionFunc {
	return complete(app, func(ctx context.Context, client *api.Client, _ []string) ([]cobra.Completion, error) {
		var out []cobra.Completion
		suites, err := client.Suites(ctx, "")
		for _, s := range suites {
			out = append(out, cobra.CompletionWithDesc(s.Name+"@"+s.Ref, s.Note))
		}
		return out, err
	})
}

// completeOwn offers the suites of the file that --file names.
func completeOwn(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	if file, err := config.LoadTests(cmd.Flag("file").Value.String()); err == nil {
		for _, name := range file.Suites() {
			if !slices.Contains(args, name) {
				out = append(out, name)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeFlag offers words for the value of a flag of cmd.
func completeFlag(cmd *cobra.Command, flag string, words cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, words); err != nil {
		panic(err) // the flag does not exist: a defect that every test finds
	}
}
