//go:build unix

package test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

// hostile is the name of a branch that a careless step would run.
const hostile = "x$(touch${IFS}pwned)`touch${IFS}pwned`;touch${IFS}pwned;#"

// hostileVersion is what the version of that branch begins with.
const hostileVersion = "x-touch-ifs-pwned-touch-ifs-pwned-touch-ifs-pwned"

// notPwned says that no shell ran the name of the branch.
func (e *ciEnvironment) notPwned(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "find", filepath.Dir(e.dir), "-name", "pwned").CombinedOutput()
	require.NoError(t, err, string(out))
	require.Empty(t, string(out))
}

// event writes the event of a job of GitHub, and returns its file.
func (e *ciEnvironment) event(t *testing.T, event any) string {
	t.Helper()
	text, err := json.Marshal(event)
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "event.json")
	require.NoError(t, os.WriteFile(name, text, 0o600))
	return name
}

const deployAction, cleanupAction = "../deploy/ci/github/action.yml", "../deploy/ci/github/cleanup/action.yml"

// TestGitHubActions runs the steps of the actions as the runner does.
func TestGitHubActions(t *testing.T) {
	t.Parallel()
	e := newCIEnvironment(t, ciServices)
	deploy, cleanup := readAction(t, deployAction), readAction(t, cleanupAction)
	repository := map[string]any{"default_branch": "main"}

	t.Run("a push: two services, one a line; outputs, variables and a summary", func(t *testing.T) {
		r := newGitHubRunner(e, map[string]string{
			"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch", "GITHUB_REF": "refs/heads/" + hostile, "GITHUB_REF_NAME": hostile, "API_KEY": "very secret",
			"GITHUB_EVENT_PATH": e.event(t, map[string]any{"ref": "refs/heads/" + hostile, "repository": repository}),
		})
		out, outputs, err := r.action(t, deploy, map[string]string{
			"server": e.server, "services": "cart\norders\n", "command": "layover shop cart", "env": "API_KEY\nGREETING=good morning; echo * $HOME\n", "timeout": "1m",
		})
		require.NoError(t, err, out)
		require.NotContains(t, out, "very secret")
		route := outputs["route"]
		require.Contains(t, route, hostileVersion)
		require.Equal(t, route, outputs["version"])
		require.Contains(t, outputs["preview"], "--cart.localhost")
		require.Equal(t, route, r.variables["LAYOVER_ROUTE"])
		require.Equal(t, outputs["preview"], r.variables["LAYOVER_PREVIEW_URL_CART"])
		require.Contains(t, r.variables["LAYOVER_PREVIEW_URL_ORDERS"], "--orders.localhost")
		require.Contains(t, r.context["summary"], "| orders |")
		require.NotContains(t, r.context["summary"], "$(touch${IFS}pwned)`", "its Markdown is taken from it")
		versions := e.versions(t)
		require.Equal(t, strings.Repeat("a", 40), versions["cart@"+route].Origin.Commit)
		require.Contains(t, versions, "orders@"+route)
		e.notPwned(t)

		r = newGitHubRunner(e, map[string]string{
			"GITHUB_EVENT_NAME": "delete", "GITHUB_REF_TYPE": "branch", "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main",
			"GITHUB_EVENT_PATH": e.event(t, map[string]any{"ref": hostile, "ref_type": "branch", "repository": repository}),
		})
		out, _, err = r.action(t, cleanup, map[string]string{"server": e.server, "services": "cart\norders"})
		require.NoError(t, err, out)
		e.gone(t, "cart@"+route)
		e.gone(t, "orders@"+route)
		require.Contains(t, e.versions(t), "cart@main")
		e.notPwned(t)
	})
	t.Run("a pull request, by its number; the service is called as the repository", func(t *testing.T) {
		job := map[string]string{
			"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/88/merge", "GITHUB_REF_NAME": "88/merge", "GITHUB_HEAD_REF": "feature/pull",
			"GITHUB_EVENT_PATH": e.event(t, map[string]any{"repository": repository, "pull_request": map[string]any{"number": 88, "head": map[string]string{"sha": strings.Repeat("c", 40)}}}),
		}
		out, outputs, err := newGitHubRunner(e, job).action(t, deploy, map[string]string{"server": e.server, "command": "layover shop cart", "by": "pr"})
		require.NoError(t, err, out)
		require.Equal(t, "pr-88", outputs["route"])
		require.Equal(t, strings.Repeat("c", 40), e.versions(t)["cart@pr-88"].Origin.Commit, "that of the branch, and not of a merge that nobody has")
		out, _, err = newGitHubRunner(e, job).action(t, cleanup, map[string]string{"server": e.server})
		require.NoError(t, err, out)
		e.gone(t, "cart@pr-88")
	})
	job := map[string]string{"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch", "GITHUB_REF": "refs/heads/bad", "GITHUB_REF_NAME": "bad"}
	t.Run("one that does not come up fails the step, and the summary says why", func(t *testing.T) {
		r := newGitHubRunner(e, job)
		out, _, err := r.action(t, deploy, map[string]string{"server": e.server, "services": "cart", "command": "false"})
		require.Error(t, err, out)
		require.Contains(t, out, "cart@bad")
		require.Contains(t, r.context["summary"], "**failed**")
	})
	t.Run("services are no flags", func(t *testing.T) {
		out, _, err := newGitHubRunner(e, job).action(t, deploy, map[string]string{"server": e.server, "services": "cart --version=main", "command": "layover shop cart"})
		require.Error(t, err, out)
		require.Contains(t, out, `"--version"`)
	})
}

// TestGitHubActions_InstallTheProgram has the action install a version of the program, and the steps behind find it.
func TestGitHubActions_InstallTheProgram(t *testing.T) {
	t.Parallel()
	e := newCIEnvironment(t, ciServices)
	program, err := exec.LookPath("layover")
	require.NoError(t, err)
	// Go would fetch a version that is released: this one notes what it is asked for, and brings the program of this tree.
	shim := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(shim, "go"), []byte("#!/bin/sh\nset -eu\necho \"$@\" >>\"$ASKED\"\nmkdir -p \"$GOBIN\"\nln -sf "+program+" \"$GOBIN/layover\"\n"), 0o700))
	for name, path := range map[string]string{"deploy": deployAction, "cleanup": cleanupAction} {
		asked := filepath.Join(t.TempDir(), "asked")
		r := newGitHubRunner(e, map[string]string{
			"GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch", "GITHUB_REF": "refs/heads/feature/x", "GITHUB_REF_NAME": "feature/x",
			"ASKED": asked, "PATH": shim + ":/usr/bin:/bin",
		})
		with := map[string]string{"server": e.server, "services": "cart", "layover-version": "v1.2.3"}
		if name == "deploy" {
			with["command"] = program + " shop cart"
		}
		out, _, err := r.action(t, readAction(t, path), with)
		require.NoError(t, err, out)
		text, err := os.ReadFile(asked)
		require.NoError(t, err)
		require.Equal(t, "install github.com/layover-dev/layover/cmd/layover@v1.2.3\n", string(text))
		require.Contains(t, r.variables["PATH"], filepath.Join("runner", "layover-bin"))
	}
}

// gitLabJob is a job of GitLab CI.
type gitLabJob struct {
	Script      []string
	Rules       []struct{ If, When string }
	Environment struct {
		Name, URL, Action string
		OnStop            string `yaml:"on_stop"`
	}
	Artifacts struct {
		Reports struct{ Dotenv, Junit string }
	}
}

// readGitLab reads the jobs and variables of a file.
func readGitLab(t *testing.T, text []byte) (jobs map[string]gitLabJob, variables map[string]string) {
	t.Helper()
	var parts map[string]any
	require.NoError(t, yaml.Unmarshal(text, &parts))
	jobs, variables = map[string]gitLabJob{}, map[string]string{}
	for name, part := range parts {
		one, err := yaml.Marshal(part)
		require.NoError(t, err)
		switch name {
		case "include", "stages", "default":
		case "variables":
			require.NoError(t, yaml.Unmarshal(one, &variables))
		default:
			var j gitLabJob
			require.NoError(t, yaml.Unmarshal(one, &j), name)
			jobs[name] = j
		}
	}
	return jobs, variables
}

const gitLabTemplate = "../deploy/ci/gitlab/layover.gitlab-ci.yml"

// job runs the script of a job with the shell that an image may have, and returns what its dotenv report says.
func (e *ciEnvironment) job(t *testing.T, j gitLabJob, shell []string, variables map[string]string) (out string, report map[string]string) {
	t.Helper()
	out, err := e.run(t.Context(), e.dir, variables, append(slices.Clone(shell), "set -e\n"+strings.Join(j.Script, "\n"))...)
	require.NoError(t, err, out)
	report = map[string]string{}
	if j.Artifacts.Reports.Dotenv != "" {
		text, err := os.ReadFile(filepath.Join(e.dir, j.Artifacts.Reports.Dotenv))
		require.NoError(t, err)
		for line := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n") {
			name, value, ok := strings.Cut(line, "=")
			require.True(t, ok, line)
			require.Regexp(t, `^[A-Za-z_][A-Za-z0-9_]*$`, name)
			report[name] = value
		}
	}
	return out, report
}

// TestGitLabTemplate runs the scripts of the template's jobs, one behind the other, with the report between them.
func TestGitLabTemplate(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(gitLabTemplate)
	require.NoError(t, err)
	jobs, defaults := readGitLab(t, text)
	require.ElementsMatch(t, []string{"layover deploy", "layover test", "layover stop"}, slices.Collect(maps.Keys(jobs)))
	deploy, stop := jobs["layover deploy"], jobs["layover stop"]
	require.Equal(t, "layover stop", deploy.Environment.OnStop)
	require.Equal(t, "stop", stop.Environment.Action)
	require.Equal(t, deploy.Environment.Name, stop.Environment.Name)

	for name, shell := range map[string][]string{"bash": {"bash", "--noprofile", "--norc", "-c"}, "sh": {"sh", "-c"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newCIEnvironment(t, ciServices)
			require.NoError(t, os.WriteFile(filepath.Join(e.dir, "layover.test.yaml"), []byte("suites:\n  health: {command: curl -fsS http://cart.localhost/healthz}\n"), 0o600))
			variables := maps.Clone(defaults)
			maps.Copy(variables, map[string]string{
				"GITLAB_CI": "true", "CI_COMMIT_SHA": strings.Repeat("b", 40), "CI_COMMIT_BRANCH": hostile, "CI_DEFAULT_BRANCH": "main", "CI_PROJECT_NAME": "cart",
				"GITLAB_USER_EMAIL": "ada@example.com", "LAYOVER_COMMAND": "layover shop cart", "CI_JOB_ID": "7001",
			})
			_, report := e.job(t, deploy, shell, variables)
			require.Contains(t, report["LAYOVER_ROUTE"], hostileVersion)
			require.Contains(t, report["LAYOVER_PREVIEW"], "--cart.localhost")
			require.Equal(t, report["LAYOVER_PREVIEW"], report["LAYOVER_PREVIEW_URL_CART"])
			maps.Copy(variables, report)
			out, _ := e.job(t, jobs["layover test"], shell, variables)
			require.Contains(t, out, "run gitlab-7001  passed")
			junit, err := os.ReadFile(filepath.Join(e.dir, jobs["layover test"].Artifacts.Reports.Junit))
			require.NoError(t, err)
			require.Contains(t, string(junit), "health")
			out, _ = e.job(t, stop, shell, variables)
			require.Contains(t, out, "is removed")
			e.gone(t, "cart@"+report["LAYOVER_ROUTE"])

			// A merge request, of two services.
			delete(variables, "CI_COMMIT_BRANCH")
			maps.Copy(variables, map[string]string{"CI_MERGE_REQUEST_IID": "12", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "feature/mr", "LAYOVER_SERVICES": "cart orders"})
			_, report = e.job(t, deploy, shell, variables)
			require.Equal(t, "feature-mr", report["LAYOVER_ROUTE"])
			require.Contains(t, report["LAYOVER_PREVIEW_URL_ORDERS"], "feature-mr--orders.localhost")
			require.Contains(t, e.versions(t), "orders@feature-mr")
			e.job(t, stop, shell, variables)
			e.gone(t, "cart@feature-mr")
			e.gone(t, "orders@feature-mr")
			e.notPwned(t)

			// A deployment that fails has no job behind it that would test something else.
			variables["LAYOVER_COMMAND"] = "false"
			out, err = e.run(t.Context(), e.dir, variables, append(slices.Clone(shell), strings.Join(deploy.Script, "\n"))...)
			require.Error(t, err, out)
		})
	}
}

// TestGitLabTemplate_OnePipeline: each of the jobs is part of one pipeline of a change, as GitLab reads the rules.
func TestGitLabTemplate_OnePipeline(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(gitLabTemplate)
	require.NoError(t, err)
	jobs, defaults := readGitLab(t, text)
	pipelines := map[string]map[string]string{
		"branch":        {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "feature/x"},
		"default":       {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"},
		"merge request": {"CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_IID": "12"},
		"tag":           {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1"},
	}
	for kind, want := range map[string]string{"": "branch", "branches": "branch", "merge requests": "merge request"} {
		for name, job := range jobs {
			var in []string
			for pipeline, variables := range pipelines {
				v := maps.Clone(defaults)
				maps.Copy(v, variables)
				v["CI_DEFAULT_BRANCH"] = "main"
				if kind != "" {
					v["LAYOVER_PIPELINES"] = kind
				}
				for _, rule := range job.Rules {
					if holds(t, rule.If, v) {
						in = append(in, pipeline)
						break
					}
				}
			}
			require.Equal(t, []string{want}, in, "%s, with LAYOVER_PIPELINES %q", name, kind)
		}
	}
}

// holds says whether the condition of a rule does: comparisons and variables, with && between them.
func holds(t *testing.T, condition string, variables map[string]string) bool {
	t.Helper()
	value := func(text string) string {
		if text = strings.TrimSpace(text); strings.HasPrefix(text, "$") {
			return variables[text[1:]]
		}
		require.True(t, strings.HasPrefix(text, `"`), text)
		return strings.Trim(text, `"`)
	}
	for part := range strings.SplitSeq(condition, "&&") {
		ok := false
		if left, right, is := strings.Cut(part, "=="); is {
			ok = value(left) == value(right)
		} else if left, right, is := strings.Cut(part, "!="); is {
			ok = value(left) != value(right)
		} else {
			ok = value(part) != ""
		}
		if !ok {
			return false
		}
	}
	return true
}

// TestPostReceive pushes to a bare repository that has the hook.
func TestPostReceive(t *testing.T) {
	t.Parallel()
	e := newCIEnvironment(t, ciServices)
	bare, work := filepath.Join(filepath.Dir(e.dir), "cart.git"), e.dir
	who := map[string]string{
		"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.com", "GIT_CONFIG_GLOBAL": os.DevNull,
	}
	git := func(dir string, args ...string) string {
		out, err := e.run(t.Context(), dir, who, append([]string{"git"}, args...)...)
		require.NoError(t, err, "git %s: %s", strings.Join(args, " "), out)
		return out
	}
	commit := func(files map[string]string) string {
		for name, text := range files {
			require.NoError(t, os.WriteFile(filepath.Join(work, name), []byte(text), 0o700))
		}
		git(work, "add", "-A")
		git(work, "commit", "-q", "--allow-empty", "-m", "a change")
		return strings.TrimSpace(git(work, "rev-parse", "HEAD"))
	}
	hook, err := os.ReadFile("../deploy/ci/git/post-receive")
	require.NoError(t, err)
	git(filepath.Dir(work), "init", "-q", "--bare", "-b", "trunk", bare)
	require.NoError(t, os.WriteFile(filepath.Join(bare, "hooks", "post-receive"), hook, 0o700))
	git(bare, "config", "layover.service", "cart orders")
	git(bare, "config", "layover.build", "sh build.sh")
	git(bare, "config", "layover.command", "./serve")
	git(work, "init", "-q", "-b", "trunk")
	git(work, "remote", "add", "origin", bare)
	first := commit(map[string]string{
		// A build that reads its input must not take the list of the branches.
		"build.sh":          "cat >/dev/null\nprintf '#!/bin/sh\\nexec layover shop cart\\n' >serve\nchmod +x serve\n",
		"layover.test.yaml": "suites:\n  health: {service: cart, command: curl -fsS http://cart.localhost/healthz}\n",
	})

	// The default branch, however it is called, and two others in one push, one of them with a hostile name.
	git(work, "branch", "feature/one")
	git(work, "branch", hostile)
	out := git(work, "push", "origin", "trunk", "feature/one", hostile)
	require.Equal(t, 3, strings.Count(out, "✓ cart.health  run"), out)
	versions := e.versions(t)
	require.Contains(t, versions, "cart@feature-one")
	require.Contains(t, versions, "orders@feature-one")
	require.NotContains(t, versions, "cart@trunk")
	require.Equal(t, first, versions["cart@main"].Origin.Commit)
	require.Equal(t, "ada@example.com", versions["cart@feature-one"].Owner)
	route := ""
	for id := range versions {
		if name, ok := strings.CutPrefix(id, "cart@"+hostileVersion); ok {
			route = hostileVersion + name
		}
	}
	require.NotEmpty(t, route, "the branch with a hostile name is deployed: %v", out)
	e.notPwned(t)

	// A build that fails deploys nothing, although a program is there.
	git(work, "checkout", "-q", "feature/one")
	commit(map[string]string{"build.sh": "cp /bin/true serve\nexit 3\n", "serve": "#!/bin/sh\nexec layover shop cart\n"})
	out = git(work, "push", "origin", "feature/one")
	require.Contains(t, out, "is not deployed, or its tests failed")
	require.NotContains(t, out, "is up after")
	require.Equal(t, first, e.versions(t)["cart@feature-one"].Origin.Commit)

	// Checkouts that no rollback needs are removed.
	good := "printf '#!/bin/sh\\nexec layover shop cart\\n' >serve\nchmod +x serve\n"
	git(bare, "config", "layover.keep", "2")
	git(bare, "config", "layover.service", "cart")
	for range 2 {
		commit(map[string]string{"build.sh": good})
		git(work, "push", "-q", "origin", "feature/one")
	}
	last := strings.TrimSpace(git(work, "rev-parse", "HEAD"))
	require.Equal(t, last, e.versions(t)["cart@feature-one"].Origin.Commit)
	trees, err := filepath.Glob(filepath.Join(bare, "layover", "*", "*"))
	require.NoError(t, err)
	require.Len(t, trees, 4, "two of feature/one, one of each other branch")
	require.Contains(t, strings.Join(trees, " "), last)

	// A tag is no branch; branches that are deleted leave nothing.
	git(work, "tag", "v1")
	require.NotContains(t, git(work, "push", "origin", "v1"), "layover")
	git(bare, "config", "layover.service", "cart orders")
	git(work, "push", "-q", "origin", ":feature/one", ":"+hostile)
	for _, id := range []string{"cart@feature-one", "orders@feature-one", "cart@" + route, "orders@" + route} {
		e.gone(t, id)
	}
	trees, err = filepath.Glob(filepath.Join(bare, "layover", "*", "*"))
	require.NoError(t, err)
	require.Len(t, trees, 1, "that of the default branch")
	e.notPwned(t)
}
