package forge

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/layover-dev/layover/api"
)

// Forges describes the forges, in the order of the configuration. With check it asks each for its repositories, and says what is wrong.
func (h *Hub) Forges(ctx context.Context, check bool) []api.Forge {
	refused, _ := h.Stats()
	out := []api.Forge{}
	for _, f := range h.opts.Forges {
		c := h.forges[f.Name]
		one := api.Forge{
			Name: f.Name, Kind: f.Kind, URL: c.base.String(), Webhooks: f.Secret != nil, Asked: f.Token != nil, Comment: f.Comment, Status: f.Status,
			Repositories: []api.ForgeRepository{}, Refused: map[string]uint64{},
		}
		for _, name := range slices.Sorted(maps.Keys(f.Repositories)) {
			one.Repositories = append(one.Repositories, api.ForgeRepository{Name: name, Services: f.Repositories[name]})
		}
		for r, n := range refused {
			if r.Forge == f.Name {
				one.Refused[r.Reason] = n
			}
		}
		if check {
			one.Problems = c.problems(ctx)
		}
		out = append(out, one)
	}
	return out
}

// problems says what is wrong with the secret, the token, and the repositories as the token sees them.
func (c *client) problems(ctx context.Context) []string {
	var out []string
	if c.Secret == nil && c.Token == nil {
		out = append(out, "there is neither a secret for webhooks nor a token: nothing ends with its branch")
	}
	if c.Secret != nil {
		if _, err := c.Secret(); err != nil {
			out = append(out, "the secret of its webhooks: "+err.Error())
		}
	}
	if len(c.Repositories) == 0 {
		out = append(out, "no repositories are named: nothing is taken")
	}
	if c.Token == nil {
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(c.Repositories)) {
		r, err := c.repository(ctx, name)
		if err != nil {
			out = append(out, fmt.Sprintf("the token does not see %s: %s", name, err))
			continue
		}
		main := cmp.Or(r.DefaultBranch, r.MainBranch.Name)
		if main == "" {
			out = append(out, name+" has no branch yet")
		} else if is, err := c.hasBranch(ctx, name, main); err != nil || !is {
			out = append(out, fmt.Sprintf("the token does not see branches of %s, not even %s: give it the right to read the contents", name, main))
		}
		if (c.Comment || c.Status) && !r.mayWrite() {
			out = append(out, "the token may not write to "+name+": it sets no status and no comment")
		}
	}
	return out
}

// developer is who may comment and set statuses in GitLab (docs.gitlab.com/api/members, Roles).
const developer = 30

// mayWrite says whether comments and statuses may be written, where the forge says that.
func (r repositoryInfo) mayWrite() bool {
	p := r.Permissions
	if p.Push != nil {
		return *p.Push
	}
	level, told := 0, false
	if p.Project != nil {
		level, told = max(level, p.Project.Level), true
	}
	if p.Group != nil {
		level, told = max(level, p.Group.Level), true
	}
	return !told || level >= developer
}
