package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/layover-dev/layover/api"
)

// Forge is GitHub, GitLab or Bitbucket: what it tells, what it is asked, and what it is told.
type Forge struct {
	Name         string              `yaml:"name" doc:"Name of the forge. Its webhooks go to /forges/<name> of the server" example:"github"`
	Kind         string              `yaml:"kind" enum:"github,gitlab,bitbucket" doc:"What it is. bitbucket is Bitbucket Cloud"`
	URL          string              `yaml:"url,omitempty" doc:"URL of its API, where it is one of your own. Default: the public one" example:"https://git.example.com/api/v4"`
	SecretFile   string              `yaml:"secret_file,omitempty" doc:"File with the secret of its webhooks, relative to the folder of this one; it is read for each. Default: no webhooks are taken" example:"github.secret"`
	SecretEnv    string              `yaml:"secret_env,omitempty" doc:"Environment variable of the server that has the secret, instead of a file" example:"GITHUB_WEBHOOK_SECRET"`
	TokenFile    string              `yaml:"token_file,omitempty" doc:"File with the token that it is asked with, relative to the folder of this one; it is read for each call. Default: it is not asked" example:"github.token"`
	TokenEnv     string              `yaml:"token_env,omitempty" doc:"Environment variable of the server that has the token, instead of a file" example:"GITHUB_TOKEN"`
	Repositories map[string][]string `yaml:"repositories,omitempty" name:"repository" doc:"The services of each repository, which is named as owner/name. Of others nothing is taken" example:"acme/cart: cart"`
	Comment      bool                `yaml:"comment,omitempty" default:"false" doc:"Keep one comment on each pull request that has versions: their state, preview, and what tests proved. Needs a token"`
	Status       bool                `yaml:"status,omitempty" default:"false" doc:"Set the status layover/<environment> of the commit that was deployed last. Needs a token"`
	Every        api.Duration        `yaml:"every,omitempty" default:"5m" doc:"How often it is asked whether the branches and pull requests of versions are still there"`
}

// maxForges bounds how many there are.
const maxForges = 20

// AbsoluteFile returns the path of a file that the configuration names relative to its own folder; "" stays "".
func (f *File) AbsoluteFile(name string) string {
	if name == "" {
		return ""
	}
	return f.absolute(name)
}

func (k checker) forges() {
	if n := len(k.file.Forges); n > maxForges {
		k.key(path{"forges"}, "", "there are %d forges, and at most %d may be", n, maxForges)
	}
	var names []string
	owner := map[string]string{}
	for i, f := range k.file.Forges {
		at := path{"forges", strconv.Itoa(i)}
		k.name(f.Name, k.source.value(at.with("name")), "forge")
		if slices.Contains(names, f.Name) {
			k.value(at.with("name"), "give one of them another name", "there are two forges %q", clip(f.Name))
		}
		names = append(names, f.Name)
		if f.URL != "" && !IsWebhookURL(f.URL) {
			k.value(at.with("url"), "write a URL such as https://git.example.com/api/v4", "it cannot be used as the URL of an API")
		}
		if f.SecretFile != "" && f.SecretEnv != "" {
			k.value(at.with("secret_env"), "keep one of the two", "secret_file and secret_env exclude each other")
		}
		if f.TokenFile != "" && f.TokenEnv != "" {
			k.value(at.with("token_env"), "keep one of the two", "token_file and token_env exclude each other")
		}
		if f.TokenFile == "" && f.TokenEnv == "" && (f.Comment || f.Status) {
			k.key(at, "add token_file or token_env", "a comment or status needs a token")
		}
		if f.Every != 0 && f.Every < api.Duration(minForgeEvery) {
			k.value(at.with("every"), "set 5m", "%s is too often for a forge", f.Every)
		}
		for _, repository := range slices.Sorted(maps.Keys(f.Repositories)) {
			p := at.with("repositories", repository)
			if space, name, ok := strings.Cut(repository, "/"); !ok || space == "" || name == "" || strings.ContainsAny(repository, " ?#\\") || strings.Contains(repository, "..") {
				k.key(p, "write it as owner/name", "%q is no repository", clip(repository))
			}
			for j, service := range f.Repositories[repository] {
				k.name(service, k.source.value(p.with(strconv.Itoa(j))), "service")
				if other, twice := owner[service]; twice {
					k.value(p.with(strconv.Itoa(j)), "name it once", "service %s is of %s already", clip(service), clip(other))
				}
				owner[service] = repository
			}
		}
	}
}

const minForgeEvery = 1_000_000_000 // ns
