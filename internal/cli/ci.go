package cli

import (
	"cmp"
	"net/url"
	"path"
	"strings"
	"unicode"

	"github.com/layover-dev/layover/api"
)

// ciSystem is one CI system: how to know it, and where its jobs say what they build.
type ciSystem struct {
	name   string
	mark   string // a variable that every job of it has
	origin func(env func(string) string) api.Origin
}

// ciSystems are the CI systems that are recognized, by the variables that their manuals name.
func ciSystems() []ciSystem {
	return []ciSystem{
		{"github-actions", "GITHUB_ACTIONS", gitHubActions},
		{"gitlab-ci", "GITLAB_CI", func(env func(string) string) api.Origin {
			return api.Origin{
				Commit:      env("CI_COMMIT_SHA"),
				Branch:      cmp.Or(env("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"), env("CI_COMMIT_BRANCH")),
				PullRequest: env("CI_MERGE_REQUEST_IID"),
				Author:      cmp.Or(env("GITLAB_USER_EMAIL"), env("GITLAB_USER_LOGIN")),
				URL:         cmp.Or(env("CI_JOB_URL"), env("CI_PIPELINE_URL")),
			}
		}},
		{"circleci", "CIRCLECI", func(env func(string) string) api.Origin {
			number := env("CIRCLE_PR_NUMBER") // only of forks; of others there is the address
			if pull := env("CIRCLE_PULL_REQUEST"); number == "" && pull != "" {
				number = path.Base(pull)
			}
			return api.Origin{
				Commit: env("CIRCLE_SHA1"), Branch: env("CIRCLE_BRANCH"), PullRequest: number,
				Author: env("CIRCLE_USERNAME"), URL: env("CIRCLE_BUILD_URL"),
			}
		}},
		{"buildkite", "BUILDKITE", func(env func(string) string) api.Origin {
			pull, branch := env("BUILDKITE_PULL_REQUEST"), env("BUILDKITE_BRANCH")
			if pull == "false" {
				pull = ""
			}
			if env("BUILDKITE_TAG") != "" { // then the branch has the name of the tag
				branch = ""
			}
			return api.Origin{
				Commit: strings.TrimPrefix(env("BUILDKITE_COMMIT"), "HEAD"), Branch: branch, PullRequest: pull,
				Author: cmp.Or(env("BUILDKITE_BUILD_AUTHOR_EMAIL"), env("BUILDKITE_BUILD_CREATOR_EMAIL"), env("BUILDKITE_BUILD_AUTHOR"), env("BUILDKITE_BUILD_CREATOR")),
				URL:    env("BUILDKITE_BUILD_URL"),
			}
		}},
		{"bitbucket-pipelines", "BITBUCKET_BUILD_NUMBER", func(env func(string) string) api.Origin {
			o := api.Origin{Commit: env("BITBUCKET_COMMIT"), Branch: env("BITBUCKET_BRANCH"), PullRequest: env("BITBUCKET_PR_ID")}
			if repository := env("BITBUCKET_REPO_FULL_NAME"); repository != "" {
				o.URL = "https://bitbucket.org/" + repository + "/pipelines/results/" + env("BITBUCKET_BUILD_NUMBER")
			}
			return o
		}},
		{"azure-pipelines", "TF_BUILD", azurePipelines},
		{"jenkins", "JENKINS_URL", func(env func(string) string) api.Origin {
			branch := cmp.Or(env("CHANGE_BRANCH"), env("BRANCH_NAME"), strings.TrimPrefix(env("GIT_BRANCH"), "origin/"))
			if env("TAG_NAME") != "" || branch == "detached" { // the name of a tag, or that there is none
				branch = ""
			}
			return api.Origin{
				Commit:      env("GIT_COMMIT"),
				Branch:      branch,
				PullRequest: env("CHANGE_ID"),
				Author:      cmp.Or(env("CHANGE_AUTHOR_EMAIL"), env("CHANGE_AUTHOR")),
				URL:         env("BUILD_URL"),
			}
		}},
	}
}

// ciOrigin says what the CI job builds that the program runs in, and false where it
// runs in none. What does not fit is cut: a job is not refused for its variables.
func ciOrigin(env func(string) string) (api.Origin, bool) {
	for _, system := range ciSystems() {
		if mark := env(system.mark); mark == "" || mark == "false" {
			continue
		}
		o := system.origin(env)
		o.Provider = system.name
		for _, text := range []*string{&o.Commit, &o.PullRequest, &o.Author} {
			*text = api.CleanActor(*text)
		}
		o.Branch = cleanBranch(o.Branch)
		if len(o.URL) > api.MaxURL || strings.ContainsFunc(o.URL, func(r rune) bool { return r < ' ' || r == 0x7f }) || !api.IsWebPage(o.URL) {
			o.URL = ""
		}
		return o, true
	}
	return api.Origin{}, false
}

// cleanBranch is the name of a branch without control characters. It is not cut: another branch may begin like it, and a forge
// knows none that is called as its beginning.
func cleanBranch(name string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, "")))
}

// fitting is a branch as the server keeps it: "" for one that is too long, whose version is told apart by its own name alone.
func fitting(branch string) string {
	if len(branch) > api.MaxWho {
		return ""
	}
	return branch
}

func gitHubActions(env func(string) string) api.Origin {
	o := api.Origin{Commit: env("GITHUB_SHA"), Branch: env("GITHUB_HEAD_REF"), Author: cmp.Or(env("GITHUB_TRIGGERING_ACTOR"), env("GITHUB_ACTOR"))}
	if o.Branch == "" && env("GITHUB_REF_TYPE") == "branch" && !strings.HasPrefix(env("GITHUB_REF"), "refs/pull/") {
		o.Branch = env("GITHUB_REF_NAME")
	}
	if rest, ok := strings.CutPrefix(env("GITHUB_REF"), "refs/pull/"); ok { // refs/pull/88/merge
		o.PullRequest, _, _ = strings.Cut(rest, "/")
	}
	if host, repository := env("GITHUB_SERVER_URL"), env("GITHUB_REPOSITORY"); host != "" && repository != "" {
		o.URL = host + "/" + repository + "/actions/runs/" + env("GITHUB_RUN_ID")
	}
	return o
}

func azurePipelines(env func(string) string) api.Origin {
	o := api.Origin{
		Commit:      cmp.Or(env("SYSTEM_PULLREQUEST_SOURCECOMMITID"), env("BUILD_SOURCEVERSION")), // the latter is that of a merge that nobody has
		PullRequest: cmp.Or(env("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER"), env("SYSTEM_PULLREQUEST_PULLREQUESTID")),
		Author:      cmp.Or(env("BUILD_REQUESTEDFOREMAIL"), env("BUILD_REQUESTEDFOR")),
	}
	const heads = "refs/heads/"
	if branch := cmp.Or(env("SYSTEM_PULLREQUEST_SOURCEBRANCH"), env("BUILD_SOURCEBRANCH")); strings.HasPrefix(branch, heads) || o.PullRequest != "" {
		o.Branch = strings.TrimPrefix(branch, heads)
	}
	if host, project := env("SYSTEM_COLLECTIONURI"), env("SYSTEM_TEAMPROJECT"); host != "" && project != "" {
		o.URL = strings.TrimSuffix(host, "/") + "/" + url.PathEscape(project) + "/_build/results?buildId=" + url.QueryEscape(env("BUILD_BUILDID"))
	}
	return o
}
