package cli

import (
	"cmp"
	"context"
	"os/exec"
	"os/user"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// user names who acts: the owner of what they deploy, and the one that --mine means.
func (a *App) user() string {
	if a.who == "" {
		a.who = a.findUser()
	}
	return a.who
}

func (a *App) findUser() string {
	if name := cmp.Or(a.env("LAYOVER_OWNER"), a.env("LAYOVER_USER")); name != "" {
		return name
	}
	if origin, ok := ciOrigin(a.env); ok && origin.Author != "" {
		return origin.Author // not the account that the job runs under
	}
	if name := cmp.Or(a.gitEmail(), a.env("USER"), a.env("LOGNAME")); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// gitEmail returns user.email as Git has it here, "" where there is no Git or none is set.
func (a *App) gitEmail() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "config", "--get", "user.email")
	cmd.Env = append([]string{}, a.Environ...) // never nil, which would be the environment of this process
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return api.CleanActor(string(out))
}

// whoOptions are the flags that say whose a deployment is, and why.
type whoOptions struct {
	Owner       string
	Source      string
	Note        string
	Labels      []string
	Commit      string
	PullRequest string
	Author      string
	Link        string
}

// put adds what the flags, and the CI job around them, say to a deployment.
func (o *whoOptions) put(app *App, d *api.Deployment) error {
	origin, ci := ciOrigin(app.env)
	source := "cli"
	if ci {
		source = "ci"
	}
	origin.Branch = fitting(origin.Branch)
	origin.Commit = cmp.Or(o.Commit, origin.Commit)
	origin.PullRequest = cmp.Or(o.PullRequest, origin.PullRequest)
	origin.Author = cmp.Or(o.Author, origin.Author)
	origin.URL = cmp.Or(o.Link, origin.URL)
	d.Owner, d.Source, d.Origin, d.Note = cmp.Or(o.Owner, app.user()), cmp.Or(o.Source, source), origin, o.Note
	var err error
	if d.Labels, err = parseLabels(o.Labels, true); err != nil {
		return err
	}
	if err := d.CheckWho(); err != nil {
		return usagef("see: layover deploy --help", "%s", err)
	}
	return nil
}

// parseLabels reads NAME=VALUE. Where empty is allowed, a label may have no value.
func parseLabels(flags []string, empty bool) (map[string]string, error) {
	var labels map[string]string
	for _, flag := range flags {
		name, value, ok := strings.Cut(flag, "=")
		if !ok || name == "" || value == "" && !empty {
			return nil, usagef("for example --label team=payments", "--label %q is not NAME=VALUE", flag)
		}
		if err := api.CheckLabel(name, value); err != nil {
			return nil, usagef("", "--label: %s", err)
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[name] = value
	}
	return labels, nil
}
