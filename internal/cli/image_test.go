package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

// runningOnECS is a version with tasks that run these images.
func runningOnECS(name string, base *api.Base, images ...api.Image) api.Version {
	return api.Version{
		Service: "cart", Name: name, State: api.StateFailed, Reason: "why", Runtime: api.RuntimeECS, Generation: 1,
		Instances: []api.Instance{{ID: "cart--" + name + "--1", Images: images, Base: base}},
	}
}

func TestShowVersions_HasColumnsOnlyWhereThereIsSomethingInThem(t *testing.T) {
	const digest = "sha256:4c1f2ab34567aaaaaaaa"
	of := func(base *api.Base, images ...api.Image) []api.Version {
		docker := runningOnECS("local", nil, api.Image{Name: "cart:local", Digest: digest, Copies: 1})
		docker.Runtime = api.RuntimeDocker
		return []api.Version{docker, runningOnECS("main", base, images...)}
	}
	for name, test := range map[string]struct {
		versions []api.Version
		image    string
		base     string
	}{
		"nothing known":   {versions: of(nil)},
		"digest":          {of(nil, api.Image{Name: "cart:1", Digest: digest, Copies: 2}), "4c1f2ab34567", "-"},
		"no digest":       {of(nil, api.Image{Name: "cart:1", Copies: 2}), "cart:1", "-"},
		"commit":          {of(nil, api.Image{Digest: digest, Commit: strings.Repeat("0123abcd", 5), Copies: 2}), "4c1f2ab34567 0123abc", "-"},
		"words as commit": {of(nil, api.Image{Digest: digest, Commit: "v1.2\x1b[2J", Copies: 2}), "4c1f2ab34567 v1.2 [2J", "-"},
		"two images": {
			of(nil, api.Image{Digest: digest, Copies: 2}, api.Image{Digest: "sha256:99aa", Copies: 3}),
			"2 images: 99aa, 4c1f2ab34567", "-",
		},
		"behind":  {of(&api.Base{Copied: "cart:1", Current: "cart:4", Behind: 3}, api.Image{Digest: "sha256:99aa", Copies: 1}), "99aa", "3 behind"},
		"ahead":   {of(&api.Base{Copied: "cart:4", Current: "cart:1", Behind: -3}, api.Image{Digest: "sha256:99aa", Copies: 1}), "99aa", "3 ahead"},
		"another": {of(&api.Base{Copied: "cart:4", Current: "basket:1"}, api.Image{Digest: "sha256:99aa", Copies: 1}), "99aa", "another"},
		"up to date": {
			of(&api.Base{Copied: "cart:4", Current: "cart:4"}, api.Image{Digest: "sha256:99aa", Copies: 1}), "99aa", "-",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			app := &App{Out: &out}
			showVersions(app, test.versions)
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			cells := strings.Split(lines[1], "\t")
			require.Equal(t, "why", cells[9], "what was there before stays where it was")
			if test.image == "" {
				require.Len(t, cells, 10)
			} else {
				require.Equal(t, []string{test.image, test.base}, cells[10:])
			}
			out.Reset()
			app.Terminal = true
			showVersions(app, test.versions)
			header, _, _ := strings.Cut(out.String(), "\n")
			require.Equal(t, test.image != "", strings.Contains(header, "IMAGE"))
			require.True(t, strings.HasSuffix(header, "WHY"), "the widest is the last")
		})
	}
}

func TestDescribeBase(t *testing.T) {
	for want, b := range map[string]*api.Base{
		"": nil,
		"copied from cart:41 of the ECS service cart; what that has now is not known": {Template: "ECS service cart", Copied: "cart:41"},
		"copied from cart:41, which the task definition cart has now as well":         {Template: "task definition cart", Copied: "cart:41", Current: "cart:41"},
		"copied from cart:41; the ECS service cart now has cart:44 (3 behind): environment LOG_LEVEL added, memory 512 → 1024": {
			Template: "ECS service cart", Copied: "cart:41", Current: "cart:44", Behind: 3, Changes: []string{"environment LOG_LEVEL added", "memory 512 → 1024"},
		},
		"copied from cart:41; the ECS service cart now has basket:1": {Template: "ECS service cart", Copied: "cart:41", Current: "basket:1"},
	} {
		require.Equal(t, want, describeBase(b))
	}
}

func TestVersion_BaseIsTheOneFarthestBehind(t *testing.T) {
	v := runningOnECS("pr-1", &api.Base{Copied: "cart:4", Current: "cart:4"})
	v.Instances = append(
		v.Instances,
		api.Instance{Base: &api.Base{Copied: "cart:3", Current: "cart:4", Behind: 1}}, api.Instance{Base: &api.Base{Copied: "cart:2", Current: "cart:4", Behind: 2}}, api.Instance{},
	)
	require.Equal(t, "cart:2", v.Base().Copied)
}
