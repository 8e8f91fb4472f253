package cli

import (
	"context"
	"strings"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// target is SERVICE@VERSION on the command line, or @VERSION: every service that has it.
type target struct {
	Service string // "" means every service
	Version string
	Branch  string // what was given, where that is no valid name of a version
}

func (t target) String() string { return t.Service + "@" + t.Version }

// parseTarget reads SERVICE@VERSION, and @VERSION where every is allowed. Where
// the version is a Git branch that is no valid name, it is the name that stands for that.
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
	if route.CheckName("version", version) != nil {
		return target{Service: service, Version: route.NameOf(version), Branch: version}, nil
	}
	return target{Service: service, Version: version}, nil
}

// parseTargets reads several targets.
func parseTargets(args []string) ([]target, error) {
	var out []target
	for _, arg := range args {
		t, err := parseTarget(arg, true)
		if err != nil {
			return nil, err
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
			out = append(out, target{Service: v.Service, Version: v.Name, Branch: t.Branch})
		}
	}
	return out, nil
}
