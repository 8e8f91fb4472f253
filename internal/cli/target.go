package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// target is SERVICE@VERSION on the command line, or @VERSION: every service that has it.
type target struct {
	Service string // "" means every service
	Version string
}

func (t target) String() string { return t.Service + "@" + t.Version }

// parseTarget reads SERVICE@VERSION, and @VERSION where every is allowed.
func parseTarget(arg string, every bool) (target, error) {
	service, version, ok := strings.Cut(arg, "@")
	form := "SERVICE@VERSION"
	if every {
		form += " or @VERSION"
	}
	if !ok || version == "" || service == "" && !every {
		return target{}, usagef("for example cart@feature-2981", "%q is not %s", arg, form)
	}
	if service != "" {
		if err := route.CheckName("service", service); err != nil {
			return target{}, usagef("", "%s", err)
		}
	}
	return target{Service: service, Version: version}, nil
}

// parseTargets reads several targets that name existing versions.
func parseTargets(args []string) ([]target, error) {
	var out []target
	for _, arg := range args {
		t, err := parseTarget(arg, true)
		if err != nil {
			return nil, err
		}
		if err := route.CheckName("version", t.Version); err != nil {
			return nil, usagef("", "%s", err)
		}
		out = append(out, t)
	}
	return out, nil
}

// expand turns @VERSION into every service that has it.
func expand(ctx context.Context, client *api.Client, targets []target) ([]target, error) {
	var out []target
	for _, t := range targets {
		if t.Service != "" {
			out = append(out, t)
			continue
		}
		versions, err := client.Versions(ctx, api.VersionFilter{Version: t.Version})
		if err != nil {
			return nil, err
		}
		if len(versions) == 0 {
			return nil, usagef("see: layover ls", "no service has a version %q", t.Version)
		}
		for _, v := range versions {
			out = append(out, target{Service: v.Service, Version: v.Name})
		}
	}
	return out, nil
}

// completeTargets offers the versions that the server knows.
func completeTargets(app *App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		client, err := app.Client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		versions, err := client.Versions(cmd.Context(), api.VersionFilter{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, v := range versions {
			out = append(out, cobra.CompletionWithDesc(v.ID(), string(v.State)))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeServices offers the services that the server knows, as SERVICE@.
func completeServices(app *App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		client, err := app.Client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		services, err := client.Services(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, s := range services {
			out = append(out, s.Name+"@")
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}
