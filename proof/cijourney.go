package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/forge/forgetest"
)

const (
	forgeSecret = "proof-secret"
	forgeToken  = "proof-token"
	shopRepo    = "acme/pricing"
)

// journey is a change of the shop, from its branch to its end.
type journey struct {
	*environment
	github *forgetest.GitHub
	work   string // a clone of the repository
	steps  int
}

// proveCIJourney goes the way of a change with the shop, as a new user would: a branch, its deployment by a CI job, tests, the
// comment on its pull request, the merge, and what is left.
func proveCIJourney(ctx context.Context) (result, error) { return ciJourney(ctx, false) }

// ciJourney is the proof. With sabotage the webhook of the end never comes, and nobody cleans up.
func ciJourney(ctx context.Context, sabotage bool) (result, error) {
	j, done, err := newJourney(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	began := time.Now()
	route, err := j.branch(ctx)
	if err != nil {
		return result{}, err
	}
	comments, err := j.told(ctx, route)
	if err != nil {
		return result{}, err
	}
	tested := time.Since(began)
	if !sabotage {
		if err := j.merge(ctx); err != nil {
			return result{}, err
		}
	}
	left, err := j.left(ctx)
	if err != nil {
		return result{}, err
	}
	return result{
		figure: fmt.Sprintf("%d steps of the guide; %.1f s from git push to tests and comment; %d comment on the pull request; left behind: %d", j.steps, tested.Seconds(), comments, len(left)),
		bar:    "each step works as it is documented, 1 comment, nothing left behind", ok: comments == 1 && len(left) == 0,
	}, nil
}

func newJourney(ctx context.Context) (*journey, func(), error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return nil, nil, err
	}
	j := &journey{environment: e, github: forgetest.NewGitHub(forgeToken), work: filepath.Join(e.dir, "pricing")}
	end := func() {
		done()
		j.github.Close()
	}
	e.variables = []string{"PROOF_SECRET=" + forgeSecret, "PROOF_TOKEN=" + forgeToken}
	yaml := fmt.Sprintf(`proxy: {listen: "127.0.0.1:%s"}
environment: shop
forges:
  - {name: github, kind: github, url: %q, secret_env: PROOF_SECRET, token_env: PROOF_TOKEN, comment: true, status: true, repositories: {%s: pricing}}
defaults: {health: /healthz, timeout: 1m, env: {HTTP_PROXY: "http://{proxy}", LAYOVER_PROXY: "{proxy}"}}
services:
  storefront: {run: {process: {command: [LAYOVER, shop, storefront]}}}
  cart: {run: {process: {command: [LAYOVER, shop, cart]}}}
  pricing: {run: {process: {command: [LAYOVER, shop, pricing]}}}
  recommendations: {run: {process: {command: [LAYOVER, shop, recommendations]}}}
  inventory: {protocol: h2c, health: tcp, run: {process: {command: [LAYOVER, shop, inventory]}}}
`, e.proxyPort, j.github.URL, shopRepo)
	for _, step := range []func() error{
		func() error { return e.write(strings.ReplaceAll(yaml, "LAYOVER,", fmt.Sprintf("%q,", e.binary))) },
		func() error { return e.start(ctx) },
		func() error { return e.allRun(ctx) },
		func() error { return j.repository(ctx) },
	} {
		if err := step(); err != nil {
			end()
			return nil, nil, err
		}
	}
	return j, end, nil
}

// step runs a command in the clone, with the variables of a job where there are some.
func (j *journey) step(ctx context.Context, variables []string, args ...string) (string, error) {
	j.steps++
	program := args[0]
	if program == "layover" {
		program = j.binary
	}
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Dir = j.work
	cmd.Env = append(os.Environ(), "LAYOVER_SERVER="+j.serverURL, "PATH="+filepath.Dir(j.binary)+":"+os.Getenv("PATH"),
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	cmd.Env = append(cmd.Env, variables...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out.String(), said.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// repository makes a Git server and a clone of it, with a suite of tests.
func (j *journey) repository(ctx context.Context) error {
	bare := filepath.Join(j.dir, "pricing.git")
	if err := os.MkdirAll(j.work, 0o700); err != nil {
		return err
	}
	suites := "suites:\n  prices:\n    service: pricing\n    command: [sh, -c, \"curl -fsS http://storefront.localhost/api/products | grep -q '20 % off'\"]\n"
	if err := os.WriteFile(filepath.Join(j.work, "layover.test.yaml"), []byte(suites), 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"git", "init", "-q", "-b", "main", "."},
		{"git", "init", "-q", "--bare", bare},
		{"git", "remote", "add", "origin", bare},
		{"git", "add", "-A"},
		{"git", "commit", "-q", "-m", "prices"},
		{"git", "push", "-q", "origin", "main"},
	} {
		if _, err := j.step(ctx, nil, args...); err != nil {
			return err
		}
	}
	j.github.AddRepository(shopRepo)
	return nil
}

// branch makes a change, pushes it, opens a pull request, and runs the job of that: it returns the route that the job exported.
func (j *journey) branch(ctx context.Context) (string, error) {
	for _, args := range [][]string{
		{"git", "checkout", "-q", "-b", "feature/2981"}, {"git", "commit", "-q", "--allow-empty", "-m", "a discount"}, {"git", "push", "-q", "origin", "feature/2981"},
	} {
		if _, err := j.step(ctx, nil, args...); err != nil {
			return "", err
		}
	}
	commit, err := j.step(ctx, nil, "git", "rev-parse", "HEAD")
	if err != nil {
		return "", err
	}
	j.github.Push(shopRepo, "feature/2981", commit)
	j.github.OpenPull(shopRepo, 7, "feature/2981", commit)
	event := filepath.Join(j.dir, "event.json")
	text, err := json.Marshal(map[string]any{
		"repository": map[string]string{"default_branch": "main"}, "pull_request": map[string]any{"number": 7, "head": map[string]string{"sha": commit}},
	})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(event, text, 0o600); err != nil {
		return "", err
	}
	job := []string{
		"GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=pull_request", "GITHUB_EVENT_PATH=" + event, "GITHUB_REF=refs/pull/7/merge", "GITHUB_HEAD_REF=feature/2981",
		"GITHUB_SHA=" + strings.Repeat("e", 40), "GITHUB_REPOSITORY=" + shopRepo, "GITHUB_SERVER_URL=https://github.com", "GITHUB_RUN_ID=1", "GITHUB_ACTOR=ada",
		"GITHUB_ENV=" + filepath.Join(j.dir, "env"), "GITHUB_OUTPUT=" + filepath.Join(j.dir, "output"), "GITHUB_STEP_SUMMARY=" + filepath.Join(j.dir, "summary"),
	}
	if _, err := j.step(ctx, job, "layover", "ci", "deploy", "--command", j.binary+" shop pricing", "--env", "PRICING_DISCOUNT=20"); err != nil {
		return "", err
	}
	summary, err := os.ReadFile(filepath.Join(j.dir, "summary"))
	if err != nil || !strings.Contains(string(summary), "feature\\-2981") {
		return "", fmt.Errorf("the job has no summary of its version: %w\n%s", err, summary)
	}
	env, err := os.ReadFile(filepath.Join(j.dir, "env"))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(env), "LAYOVER_ROUTE<<")
	_, rest, _ = strings.Cut(rest, "\n")
	route, _, _ := strings.Cut(rest, "\n")
	_, err = j.step(ctx, append(job, "LAYOVER_ROUTE="+route), "layover", "test")
	return route, err
}

// told waits until the comment says what the tests proved, and returns how many comments there are.
func (j *journey) told(ctx context.Context, route string) (int, error) {
	last := ""
	err := until(ctx, time.Minute, func() (bool, error) {
		for _, c := range j.github.Comments(shopRepo, 7) {
			last = c.Body
		}
		return strings.Contains(last, "`pricing@"+route+"`") && strings.Contains(last, "passed: 1 passed") && strings.Contains(last, "reached by its requests"), nil
	}, func() string { return "the comment does not say what the tests proved:\n" + last })
	return len(j.github.Comments(shopRepo, 7)), err
}

// merge ends the pull request as its owner would, and waits for what the webhook does.
func (j *journey) merge(ctx context.Context) error {
	commit, err := j.step(ctx, nil, "git", "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"git", "checkout", "-q", "main"}, {"git", "merge", "-q", "--no-ff", "-m", "merge", "feature/2981"}, {"git", "push", "-q", "origin", "main", ":feature/2981"},
	} {
		if _, err := j.step(ctx, nil, args...); err != nil {
			return err
		}
	}
	j.github.ClosePull(shopRepo, 7)
	j.github.DeleteBranch(shopRepo, "feature/2981")
	body := forgetest.Closed(shopRepo, 7, "feature/2981", commit, time.Now())
	res, err := http.DefaultClient.Do(forgetest.Delivery(j.serverURL+"/forges/github", "pull_request", "d-1", body, forgeSecret).WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("the webhook is answered with %s: %s: %w", res.Status, text, err)
	}
	// The job of the closed pull request finds nothing left to do.
	_, err = j.step(ctx, []string{"LAYOVER_CI_BRANCH=feature/2981", "LAYOVER_CI_PULL_REQUEST=7"}, "layover", "ci", "cleanup")
	return err
}

// left is what is left of the change: versions, instances that nobody wants, and a comment that says otherwise.
func (j *journey) left(ctx context.Context) ([]string, error) {
	var left []string
	err := until(ctx, 20*time.Second, func() (bool, error) {
		left = nil
		versions, err := j.versions(ctx)
		if err != nil {
			return false, err
		}
		for _, v := range versions {
			if !v.Default {
				left = append(left, v.ID())
			}
		}
		drift, err := j.cli(ctx, "gc", "--dry-run", "--json")
		if err != nil {
			return false, err
		}
		var found []api.Drift
		if err := json.Unmarshal([]byte(drift), &found); err != nil {
			return false, err
		}
		for _, d := range found {
			left = append(left, fmt.Sprint(d))
		}
		comments := j.github.Comments(shopRepo, 7)
		if len(comments) == 0 || !strings.Contains(comments[len(comments)-1].Body, "have ended") {
			left = append(left, "a comment that says that versions are there")
		}
		return len(left) == 0, nil
	}, func() string { return "something is left" })
	if len(left) > 0 {
		return left, nil //nolint:nilerr // that it is left is the result
	}
	return nil, err
}
