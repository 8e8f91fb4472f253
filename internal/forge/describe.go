package forge

import (
	"context"
	"fmt"
	"maps"
	"net/http"
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
		if err := c.do(ctx, http.MethodGet, c.repo(name), nil, nil, nil); err != nil {
			out = append(out, fmt.Sprintf("the token does not see %s: %s", name, err))
		}
	}
	return out
}
