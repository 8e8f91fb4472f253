package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

func TestCIOrigin(t *testing.T) {
	for name, test := range map[string]struct {
		environ []string
		want    api.Origin
	}{
		"none": {},
		"GitHub Actions, pull request": {
			environ: []string{
				"GITHUB_ACTIONS=true", "GITHUB_SHA=9f", "GITHUB_REF=refs/pull/88/merge", "GITHUB_REF_NAME=88/merge", "GITHUB_REF_TYPE=branch", "GITHUB_HEAD_REF=feature/x",
				"GITHUB_ACTOR=ana", "GITHUB_SERVER_URL=https://github.com", "GITHUB_REPOSITORY=shop/cart", "GITHUB_RUN_ID=7",
			},
			want: api.Origin{Provider: "github-actions", Commit: "9f", Branch: "feature/x", PullRequest: "88", Author: "ana", URL: "https://github.com/shop/cart/actions/runs/7"},
		},
		"GitHub Actions, branch": {
			environ: []string{"GITHUB_ACTIONS=true", "GITHUB_REF=refs/heads/main", "GITHUB_REF_NAME=main", "GITHUB_REF_TYPE=branch", "GITHUB_ACTOR=bot", "GITHUB_TRIGGERING_ACTOR=ana"},
			want:    api.Origin{Provider: "github-actions", Branch: "main", Author: "ana"},
		},
		"GitHub Actions, tag": {
			environ: []string{"GITHUB_ACTIONS=true", "GITHUB_REF=refs/tags/v1", "GITHUB_REF_NAME=v1", "GITHUB_REF_TYPE=tag"},
			want:    api.Origin{Provider: "github-actions"},
		},
		"GitLab": {
			environ: []string{"GITLAB_CI=true", "CI_COMMIT_SHA=9f", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME=x", "CI_MERGE_REQUEST_IID=3", "GITLAB_USER_EMAIL=ana@x", "GITLAB_USER_LOGIN=ana", "CI_JOB_URL=https://gitlab/j/1"},
			want:    api.Origin{Provider: "gitlab-ci", Commit: "9f", Branch: "x", PullRequest: "3", Author: "ana@x", URL: "https://gitlab/j/1"},
		},
		"CircleCI": {
			environ: []string{"CIRCLECI=true", "CIRCLE_SHA1=9f", "CIRCLE_BRANCH=x", "CIRCLE_PULL_REQUEST=https://github.com/shop/cart/pull/12", "CIRCLE_USERNAME=ana", "CIRCLE_BUILD_URL=https://circleci.com/1"},
			want:    api.Origin{Provider: "circleci", Commit: "9f", Branch: "x", PullRequest: "12", Author: "ana", URL: "https://circleci.com/1"},
		},
		"Buildkite without a pull request": {
			environ: []string{"BUILDKITE=true", "BUILDKITE_COMMIT=9f", "BUILDKITE_BRANCH=x", "BUILDKITE_PULL_REQUEST=false", "BUILDKITE_BUILD_AUTHOR=Ana", "BUILDKITE_BUILD_URL=https://buildkite.com/1"},
			want:    api.Origin{Provider: "buildkite", Commit: "9f", Branch: "x", Author: "Ana", URL: "https://buildkite.com/1"},
		},
		"Bitbucket": {
			environ: []string{"BITBUCKET_BUILD_NUMBER=5", "BITBUCKET_COMMIT=9f", "BITBUCKET_BRANCH=x", "BITBUCKET_PR_ID=4", "BITBUCKET_REPO_FULL_NAME=shop/cart"},
			want:    api.Origin{Provider: "bitbucket-pipelines", Commit: "9f", Branch: "x", PullRequest: "4", URL: "https://bitbucket.org/shop/cart/pipelines/results/5"},
		},
		"Azure": {
			environ: []string{
				"TF_BUILD=True", "BUILD_SOURCEVERSION=9f", "BUILD_SOURCEBRANCH=refs/pull/6/merge", "SYSTEM_PULLREQUEST_SOURCEBRANCH=refs/heads/feature/x", "SYSTEM_PULLREQUEST_PULLREQUESTID=6",
				"BUILD_REQUESTEDFOREMAIL=ana@x", "SYSTEM_COLLECTIONURI=https://dev.azure.com/shop/", "SYSTEM_TEAMPROJECT=My Shop", "BUILD_BUILDID=9",
			},
			want: api.Origin{Provider: "azure-pipelines", Commit: "9f", Branch: "feature/x", PullRequest: "6", Author: "ana@x", URL: "https://dev.azure.com/shop/My%20Shop/_build/results?buildId=9"},
		},
		"Jenkins": {
			environ: []string{"JENKINS_URL=http://j/", "GIT_COMMIT=9f", "BRANCH_NAME=PR-3", "CHANGE_BRANCH=x", "CHANGE_ID=3", "CHANGE_AUTHOR=ana", "BUILD_URL=http://j/1"},
			want:    api.Origin{Provider: "jenkins", Commit: "9f", Branch: "x", PullRequest: "3", Author: "ana", URL: "http://j/1"},
		},
		"Azure, the commit of the branch": {
			environ: []string{"TF_BUILD=True", "BUILD_SOURCEVERSION=merge", "SYSTEM_PULLREQUEST_SOURCECOMMITID=9f", "SYSTEM_PULLREQUEST_SOURCEBRANCH=x", "SYSTEM_PULLREQUEST_PULLREQUESTID=6"},
			want:    api.Origin{Provider: "azure-pipelines", Commit: "9f", Branch: "x", PullRequest: "6"},
		},
		"Buildkite, a tag and no commit yet": {
			environ: []string{"BUILDKITE=true", "BUILDKITE_COMMIT=HEAD", "BUILDKITE_BRANCH=v1", "BUILDKITE_TAG=v1"},
			want:    api.Origin{Provider: "buildkite"},
		},
		"Jenkins, a tag": {
			environ: []string{"JENKINS_URL=http://j/", "BRANCH_NAME=v1", "TAG_NAME=v1"},
			want:    api.Origin{Provider: "jenkins"},
		},
		"Jenkins, no branch": {
			environ: []string{"JENKINS_URL=http://j/", "GIT_BRANCH=detached"},
			want:    api.Origin{Provider: "jenkins"},
		},
		"a long branch is not another one": {
			environ: []string{"GITLAB_CI=true", "CI_COMMIT_BRANCH=" + strings.Repeat("x", 200)},
			want:    api.Origin{Provider: "gitlab-ci", Branch: strings.Repeat("x", 200)},
		},
		"Jenkins, one branch": {
			environ: []string{"JENKINS_URL=http://j/", "GIT_BRANCH=origin/feature/x"},
			want:    api.Origin{Provider: "jenkins", Branch: "feature/x"},
		},
		"what does not fit is cut": {
			environ: []string{"GITLAB_CI=true", "CI_COMMIT_SHA=" + strings.Repeat("9", 300), "CI_JOB_URL=file:///etc/passwd"},
			want:    api.Origin{Provider: "gitlab-ci", Commit: strings.Repeat("9", 100)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := ciOrigin((&App{Environ: test.environ}).env)
			require.Equal(t, test.want, got)
			require.Equal(t, test.environ != nil, ok)
			require.NoError(t, api.Deployment{Origin: got}.CheckWho())
		})
	}
}

// The job of a pull request is none of the default branch, whatever its branch and the base of its variables are.
func TestJobOfPullRequests(t *testing.T) {
	event := filepath.Join(t.TempDir(), "event.json")
	require.NoError(t, os.WriteFile(event, []byte(`{"repository": {"default_branch": "trunk"}, "pull_request": {"number": 88, "head": {"ref": "trunk", "sha": "9f"}}}`), 0o600))
	for name, environ := range map[string][]string{
		"pull_request_target": {"GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=pull_request_target", "GITHUB_EVENT_PATH=" + event, "GITHUB_REF=refs/heads/trunk", "GITHUB_REF_TYPE=branch", "GITHUB_REF_NAME=trunk", "GITHUB_HEAD_REF=trunk"},
		"merged":              {"GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=pull_request", "GITHUB_EVENT_PATH=" + event, "GITHUB_REF=refs/heads/trunk", "GITHUB_REF_TYPE=branch", "GITHUB_REF_NAME=trunk", "GITHUB_HEAD_REF=trunk"},
		"a review":            {"GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=pull_request_review", "GITHUB_EVENT_PATH=" + event, "GITHUB_REF=refs/pull/88/merge", "GITHUB_REF_TYPE=branch", "GITHUB_REF_NAME=88/merge"},
		"master of a fork":    {"JENKINS_URL=http://j/", "CHANGE_BRANCH=master", "CHANGE_ID=88", "BRANCH_NAME=PR-88"},
	} {
		t.Run(name, func(t *testing.T) {
			j := jobOf(t.Context(), &App{Environ: environ})
			require.False(t, j.isDefault())
			version, _, err := j.version("branch")
			require.NoError(t, err)
			require.Equal(t, "pr-88", version)
		})
	}
	j := jobOf(t.Context(), &App{Environ: []string{"GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=pull_request_review", "GITHUB_EVENT_PATH=" + event, "GITHUB_REF=refs/pull/88/merge", "LAYOVER_CI_BRANCH=feature/x"}})
	version, branch, err := j.version("branch")
	require.NoError(t, err)
	require.Equal(t, "feature-x", version, "what is said outright holds")
	require.Equal(t, "feature/x", branch)
}

// Branches that begin alike are not deployed over each other, and are ended each by itself.
func TestJobOfLongBranches(t *testing.T) {
	seen := map[string]bool{}
	for _, end := range []string{"a", "b"} {
		for _, n := range []int{100, 300} {
			branch := strings.Repeat("x", n) + end
			j := jobOf(t.Context(), &App{Environ: []string{"LAYOVER_CI_BRANCH=" + branch}})
			version, _, err := j.version("branch")
			require.NoError(t, err)
			require.Equal(t, route.NameOf(branch), version)
			require.True(t, j.deployed(api.Version{Name: version, Branch: fitting(branch)}, ""))
			seen[version] = true
		}
	}
	require.Len(t, seen, 4)
}

func TestUser(t *testing.T) {
	git, err := exec.LookPath("git")
	require.NoError(t, err)
	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, "gitconfig"), []byte("[user]\n\temail = ana@example.com\n"), 0o600))
	withGit := []string{"PATH=" + filepath.Dir(git), "GIT_CONFIG_GLOBAL=" + filepath.Join(home, "gitconfig"), "GIT_DIR=" + home, "GIT_CONFIG_NOSYSTEM=1", "USER=os"}
	noGit := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_DIR=" + home, "GIT_CONFIG_NOSYSTEM=1", "USER=os"}
	ci := []string{"GITHUB_ACTIONS=true", "GITHUB_ACTOR=pusher"}
	for want, environ := range map[string][]string{
		"owner":           append([]string{"LAYOVER_OWNER=owner", "LAYOVER_USER=user"}, append(ci, withGit...)...),
		"user":            append([]string{"LAYOVER_USER=user"}, append(ci, withGit...)...),
		"pusher":          append(ci, withGit...),
		"ana@example.com": withGit,
		"os":              noGit,
	} {
		require.Equal(t, want, (&App{Environ: environ}).user())
	}
}

func TestDeployTellsWhoAndWhy(t *testing.T) {
	c := newTerminal(t)
	c.app.Environ = append(c.app.Environ, "GITLAB_CI=true", "CI_COMMIT_SHA=9f", "CI_MERGE_REQUEST_IID=3")
	require.Equal(t, exitOK, c.run(t.Context(), "deploy", "cart@x", "--no-wait", "--note", "demo", "--label", "team=payments",
		"--label", "old=", "--commit", "77", "--author", "eve", "--link", "https://x/1"), &c.err)
	d := c.Deployment(control.Key{Service: "cart", Version: "x"})
	require.Equal(t, api.Origin{Provider: "gitlab-ci", Commit: "77", PullRequest: "3", Author: "eve", URL: "https://x/1"}, d.Origin)
	require.Equal(t, "ci", d.Source)
	require.Equal(t, "demo", d.Note)
	require.Equal(t, map[string]string{"team": "payments", "old": ""}, d.Labels)

	require.Equal(t, exitOK, c.run(t.Context(), "status", "cart@x"))
	for _, want := range []string{"note        demo\n", "source      ci (gitlab-ci)\n", "commit      77\n", "change      pull request 3, by eve\n", "link        https://x/1\n"} {
		require.Contains(t, c.out.String(), want)
	}
	for _, bad := range [][]string{{"--label", "x"}, {"--label", "=x"}, {"--label", "a b=c"}, {"--link", "ftp://x"}, {"--note", "a\nb"}} {
		require.Equal(t, exitUsage, c.run(t.Context(), append([]string{"deploy", "cart@x"}, bad...)...), "%s", bad)
	}
}

func TestListFiltersAndSorts(t *testing.T) {
	c := newTerminal(t)
	for _, v := range []struct {
		name, owner, team string
	}{{"c", "bob", "a"}, {"b", "ana", "a"}, {"a", "Ana", "b"}} {
		key := control.Key{Service: "cart", Version: v.name}
		_, err := c.Deploy(t.Context(), key, api.Deployment{Owner: v.owner, Labels: map[string]string{"team": v.team}})
		require.NoError(t, err)
	}
	c.Settle(control.Key{Service: "cart", Version: "a"}, 1, api.EventDeployDone, "up")
	c.Settle(control.Key{Service: "cart", Version: "b"}, 1, api.EventDeployFailed, "no")
	for args, want := range map[string]string{
		"":                            "a b c",
		"--mine":                      "a b",
		"--owner bob":                 "c",
		"--owner BOB --label team=b":  "",
		"--label team=a":              "b c",
		"--label team=a --mine":       "b",
		"--sort age":                  "c b a",
		"--sort name":                 "a b c",
		"--sort owner":                "a b c",
		"--sort state":                "b c a",
		"--sort requests --owner bob": "c",
	} {
		require.Equal(t, exitOK, c.run(t.Context(), append([]string{"ls"}, strings.Fields(args)...)...), "%s: %s", args, &c.err)
		var got []string
		for line := range strings.Lines(c.out.String()) {
			got = append(got, strings.Split(line, "\t")[1])
		}
		require.Equal(t, want, strings.Join(got, " "), args)
	}
	for _, bad := range []string{"--mine --owner bob", "--label x", "--label x=", "--sort size", "--sort age --route x"} {
		require.Equal(t, exitUsage, c.run(t.Context(), append([]string{"ls"}, strings.Fields(bad)...)...), bad)
	}
}

func TestSomebodyElsesVersion(t *testing.T) {
	c := newTerminal(t)
	for _, v := range []struct{ name, owner string }{{"mine", "ana"}, {"theirs", "bob"}, {"nobodys", ""}} {
		key := control.Key{Service: "cart", Version: v.name}
		_, err := c.Deploy(t.Context(), key, api.Deployment{Owner: v.owner})
		require.NoError(t, err)
		c.Settle(key, 1, api.EventDeployDone, "up")
	}
	state := func(name string) api.State {
		v, err := c.Version(t.Context(), control.Key{Service: "cart", Version: name})
		require.NoError(t, err)
		return v.State
	}
	for _, command := range []string{"stop", "restart", "rm"} {
		require.Equal(t, exitUsage, c.run(t.Context(), command, "--no-wait", "cart@mine", "cart@theirs"), command)
		require.Contains(t, c.err.String(), "error: cart@theirs belongs to bob, and not to ana\nhint:  --yes: ")
		require.Equal(t, api.StateRunning, state("mine"), "none is touched")
	}
	require.Equal(t, exitUsage, c.run(t.Context(), "rm", "cart@none"))
	require.Contains(t, c.err.String(), "there is no version")

	c.app.Asks = true
	for answer, want := range map[string]int{"": exitFailed, "n\n": exitFailed, "yes please\n": exitFailed, "Y\n": exitOK, "yes": exitOK} {
		c.app.In = strings.NewReader(answer)
		require.Equal(t, want, c.run(t.Context(), "restart", "--no-wait", "cart@theirs"), "%q: %s", answer, &c.err)
		require.Contains(t, c.err.String(), "cart@theirs belongs to bob.\nRestart all the same? The owner sees that you did. [y/N] ")
	}
	c.app.Asks, c.app.In = false, nil
	require.Equal(t, exitOK, c.run(t.Context(), "stop", "cart@mine", "cart@nobodys"))
	require.Equal(t, exitOK, c.run(t.Context(), "stop", "-y", "cart@theirs"))
	require.Equal(t, api.StateStopped, state("theirs"))

	require.Equal(t, exitOK, c.run(t.Context(), "events", "--mine"))
	require.Contains(t, c.out.String(), "stopped, by ana")
	require.NotContains(t, c.out.String(), "cart@theirs")
	require.Equal(t, exitOK, c.run(t.Context(), "events", "--owner", "Bob", "--json"))
	require.Contains(t, c.out.String(), `"owner":"bob","actor":"ana","message":"stopped"`)
	require.Equal(t, exitUsage, c.run(t.Context(), "events", "--mine", "--owner", "bob"))
}

func TestEventsSince(t *testing.T) {
	c := newTerminal(t)
	for i := range 1500 {
		c.Emit(api.Event{Time: time.Now().Add(time.Duration(i-2000) * time.Minute), Type: api.EventInstanceHealth, Message: "old"})
	}
	for i := range 1200 {
		c.Emit(api.Event{Time: time.Now().Add(time.Duration(i-1300) * time.Second), Type: api.EventInstanceHealth, Message: fmt.Sprint("new ", i)})
	}
	c.Emit(api.Event{Type: api.EventDeployDone, Service: "cart", Version: "x", Owner: "ana", Message: "hers"})
	lines := func(args ...string) []string {
		require.Equal(t, exitOK, c.run(t.Context(), append([]string{"events"}, args...)...), &c.err)
		return strings.Split(strings.TrimSpace(c.out.String()), "\n")
	}
	require.Len(t, lines("--since", "30m"), 1201, "all since then")
	require.Contains(t, lines("--since", "30m")[0], "new 0")
	require.Len(t, lines("--since", "30m", "-n", "3"), 3)
	require.Contains(t, lines("--since", time.Now().Add(-time.Minute).Format(time.RFC3339), "--mine")[0], "hers")
	require.Len(t, lines(), 50)
	for _, bad := range []string{"yesterday", "-1m", "2026-01-01"} {
		require.Equal(t, exitUsage, c.run(t.Context(), "events", "--since", bad), bad)
	}
}
