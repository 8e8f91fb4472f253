package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

func newCICmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ci",
		GroupID: groupTests,
		Short:   "Deploy from a CI job, and clean up when its branch is gone",
		Long: `Deploy what a CI job has built as a version that is named after its branch. Branch, pull
request, commit, author and a link to the build come from the job's environment: of GitHub
Actions, GitLab CI, CircleCI, Buildkite, Bitbucket, Azure, Jenkins, or LAYOVER_CI_BRANCH,
LAYOVER_CI_COMMIT, LAYOVER_CI_PULL_REQUEST, LAYOVER_CI_AUTHOR and LAYOVER_CI_URL, else from Git.

Jobs of several repositories whose branches have the same name meet in one route by themselves.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCIDeployCmd(app), newCICleanupCmd(app), newCIShowCmd(app))
	return cmd
}

// ciJob is what is known of the job that the program runs in.
type ciJob struct {
	System     string     `json:"system"` // "git" where there is none
	Origin     api.Origin `json:"origin"`
	Default    string     `json:"default_branch"` // of the repository
	Repository string     `json:"repository"`     // its name, without that of its owner
	Deleted    bool       `json:"deleted,omitempty"`
}

// jobOf finds out what the job builds.
func jobOf(ctx context.Context, app *App) ciJob {
	j := ciJob{System: "git"}
	if o, ci := ciOrigin(app.env); ci {
		j.System, j.Origin = o.Provider, o
	}
	if j.System == "github-actions" {
		j.gitHubEvent(app.env("GITHUB_EVENT_PATH"), app.env("GITHUB_EVENT_NAME"))
	}
	generic := func(to *string, name string, clean func(string) string) {
		if value := app.env(name); value != "" {
			*to = clean(value)
			if j.System == "git" {
				j.System = "generic"
			}
		}
	}
	generic(&j.Origin.Branch, "LAYOVER_CI_BRANCH", cleanBranch)
	generic(&j.Origin.Commit, "LAYOVER_CI_COMMIT", api.CleanActor)
	generic(&j.Origin.PullRequest, "LAYOVER_CI_PULL_REQUEST", api.CleanActor)
	generic(&j.Origin.Author, "LAYOVER_CI_AUTHOR", api.CleanActor)
	if page := app.env("LAYOVER_CI_URL"); api.IsWebPage(page) && len(page) <= api.MaxURL {
		j.Origin.URL = page
	}
	j.Default = cmp.Or(app.env("LAYOVER_CI_DEFAULT_BRANCH"), app.env("CI_DEFAULT_BRANCH"), app.env("BUILDKITE_PIPELINE_DEFAULT_BRANCH"), j.Default)
	j.Repository = cmp.Or(app.env("GITHUB_REPOSITORY"), app.env("CI_PROJECT_NAME"), app.env("BITBUCKET_REPO_SLUG"), app.env("CIRCLE_PROJECT_REPONAME"),
		app.env("BUILD_REPOSITORY_NAME"), app.env("BUILDKITE_REPO"), app.env("GIT_URL"))
	if j.System == "git" {
		j.fromGit(ctx)
	}
	if j.Repository == "" {
		j.Repository = repositoryOf(ctx, ".")
	}
	j.Repository = strings.TrimSuffix(path.Base(strings.ReplaceAll(j.Repository, ":", "/")), ".git")
	if j.Repository == "." || j.Repository == "/" {
		j.Repository = ""
	}
	return j
}

// maxEvent bounds the event of GitHub that is read, in bytes.
const maxEvent = 10 << 20

// gitHubEvent takes from the event what its variables do not say: the default branch, which branch was deleted, and the pull
// request. GITHUB_REF is that of the base branch in jobs of pull_request_target, and of pull requests that are merged.
func (j *ciJob) gitHubEvent(name, kind string) {
	f, err := os.Open(name)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	var event struct {
		Ref        string `json:"ref"`
		RefType    string `json:"ref_type"`
		Repository struct {
			DefaultBranch string `json:"default_branch"`
		} `json:"repository"`
		PullRequest struct {
			Number int `json:"number"`
			Head   struct {
				Ref string `json:"ref"`
				SHA string `json:"sha"`
			} `json:"head"`
		} `json:"pull_request"`
	}
	if json.NewDecoder(io.LimitReader(f, maxEvent)).Decode(&event) != nil {
		return
	}
	j.Default = event.Repository.DefaultBranch
	if event.RefType == "branch" && kind == "delete" {
		j.Origin.Branch, j.Origin.Commit, j.Deleted = cleanBranch(event.Ref), "", true
	}
	if pull := event.PullRequest; pull.Number > 0 {
		j.Origin.PullRequest = strconv.Itoa(pull.Number)
		j.Origin.Branch = cleanBranch(cmp.Or(pull.Head.Ref, j.Origin.Branch))
	}
	if sha := event.PullRequest.Head.SHA; sha != "" {
		j.Origin.Commit = api.CleanActor(sha) // GITHUB_SHA is that of a merge that nobody has
	}
}

// fromGit takes what the working tree says.
func (j *ciJob) fromGit(ctx context.Context) {
	if branch, err := git(ctx, ".", "symbolic-ref", "--short", "-q", "HEAD"); err == nil {
		j.Origin.Branch = cmp.Or(j.Origin.Branch, cleanBranch(branch))
	}
	if commit, err := git(ctx, ".", "rev-parse", "--verify", "-q", "HEAD"); err == nil {
		j.Origin.Commit = cmp.Or(j.Origin.Commit, commit)
	}
	if head, err := git(ctx, ".", "symbolic-ref", "--short", "-q", "refs/remotes/origin/HEAD"); err == nil {
		j.Default = cmp.Or(j.Default, strings.TrimPrefix(head, "origin/"))
	}
}

// isDefault says whether the job is one of the repository's default branch, and not of a pull request: that of a fork may come from
// a branch of the same name.
func (j ciJob) isDefault() bool { return j.Origin.PullRequest == "" && j.likeDefault() }

// likeDefault says whether the branch is called as the default one.
func (j ciJob) likeDefault() bool {
	if j.Default != "" {
		return j.Origin.Branch == j.Default
	}
	return j.Origin.Branch == "main" || j.Origin.Branch == "master"
}

// version is the name of the version that the job deploys: "" for the default one of each service.
func (j ciJob) version(by string) (name, branch string, err error) {
	o := j.Origin
	switch {
	case j.isDefault():
		return "", "", nil
	case o.PullRequest != "" && (by == "pr" || o.Branch == "" || j.likeDefault()):
		return route.NameOf("pr-" + o.PullRequest), o.Branch, nil
	case by == "pr":
		return "", "", usagef("leave --by out for jobs of branches", "this job is of no pull request")
	case o.Branch == "":
		return "", "", usagef("set LAYOVER_CI_BRANCH, or name the version with --version", "nothing says which branch this job is of")
	}
	return route.NameOf(o.Branch), o.Branch, nil
}

// services are those that the job is about: those that were named, those of LAYOVER_SERVICE, else the one that is called as
// the repository.
func (j ciJob) services(ctx context.Context, app *App, client *api.Client, named []string) ([]string, error) {
	if len(named) == 0 {
		for name := range strings.SplitSeq(app.env("LAYOVER_SERVICE"), ",") {
			if name = strings.TrimSpace(name); name != "" {
				named = append(named, name)
			}
		}
	}
	if len(named) == 0 {
		if j.Repository == "" {
			return nil, usagef("name services, or set LAYOVER_SERVICE", "nothing says which service this job is of")
		}
		named = []string{route.NameOf(j.Repository)}
		if _, err := client.Service(ctx, named[0]); err != nil {
			if p, ok := asProblem(err); ok && p.Code == api.CodeNotFound {
				return nil, usagef("name services, or set LAYOVER_SERVICE", "the repository is called %s, and no service is", j.Repository)
			}
			return nil, err
		}
	}
	for _, name := range named {
		service, _, _ := strings.Cut(name, "=")
		if err := route.CheckName("service", service); err != nil {
			return nil, usagef("", "%s", err)
		}
	}
	return named, nil
}

func newCIShowCmd(app *App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "What is known of this CI job",
		Example: "  layover ci show\n  layover ci show --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			j := jobOf(cmd.Context(), app)
			if asJSON {
				return app.json(j)
			}
			name, _, err := j.version("branch")
			if err != nil {
				name = "? (" + err.Error() + ")"
			} else if name == "" {
				name = "the default version"
			}
			for _, row := range [][2]string{
				{"system", j.System},
				{"repository", j.Repository},
				{"branch", j.Origin.Branch},
				{"default branch", j.Default},
				{"pull request", j.Origin.PullRequest},
				{"commit", j.Origin.Commit},
				{"author", j.Origin.Author},
				{"build", j.Origin.URL},
				{"version", name},
			} {
				app.printf("%-15s %s\n", row[0], cmp.Or(oneLine(row[1]), "-"))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
