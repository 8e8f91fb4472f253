package test

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

// ciEnvironment is a running environment, and how the steps of a job are run against it.
type ciEnvironment struct {
	dir string
	env []string
}

// newCIEnvironment starts layover up with services of the shop.
func newCIEnvironment(t *testing.T) *ciEnvironment {
	t.Helper()
	e := &ciEnvironment{dir: t.TempDir()}
	binary := filepath.Join(e.dir, "bin", "layover")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/layover")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.WriteFile(filepath.Join(e.dir, "layover.yaml"), []byte(`server: {listen: "127.0.0.1:0"}
proxy: {listen: "127.0.0.1:0"}
defaults: {health: /healthz}
services:
  cart: {run: {process: {command: [layover, shop, cart]}}}
`), 0o600))
	base := []string{"PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "HOME=" + e.dir, "TMPDIR=" + e.dir}
	up := exec.Command(binary, "up", "-f", filepath.Join(e.dir, "layover.yaml")) //nolint:noctx // ended below
	up.Env = base
	said, err := up.StderrPipe()
	require.NoError(t, err)
	up.Stdout = os.Stderr
	require.NoError(t, up.Start())
	t.Cleanup(func() {
		_ = up.Process.Signal(os.Interrupt)
		_ = up.Wait()
	})
	address := regexp.MustCompile(`server +(http://\S+)`)
	found := make(chan string, 1)
	go func() {
		var text bytes.Buffer
		part := make([]byte, 4096)
		for {
			n, err := said.Read(part)
			text.Write(part[:n])
			if m := address.FindSubmatch(text.Bytes()); m != nil && len(found) == 0 {
				found <- string(m[1])
			}
			if err != nil {
				return
			}
		}
	}()
	server := <-found
	e.env = append(base, "LAYOVER_SERVER="+server)
	return e
}

// bash runs a script of a step as a runner does.
func (e *ciEnvironment) bash(ctx context.Context, t *testing.T, script string, variables map[string]string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = e.dir, e.env
	for name, value := range variables {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// hostile is the name of a branch that a careless step would run.
const hostile = "x$(touch pwned)`touch pwned`;touch pwned #"

// TestGitHubActions runs the steps of the actions as the runner does: inputs filled in, and the files of the job.
func TestGitHubActions(t *testing.T) {
	e := newCIEnvironment(t)
	type action struct {
		Inputs map[string]struct {
			Default     string
			Description string
			Required    bool
		}
		Outputs map[string]struct{ Value string }
		Runs    struct {
			Using string
			Steps []struct {
				ID, Shell, Run string
				Env            map[string]string
			}
		}
	}
	read := func(path string) (a action) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, &a))
		require.Equal(t, "composite", a.Runs.Using)
		for _, s := range a.Runs.Steps {
			require.Equal(t, "bash", s.Shell, "a composite action has to name the shell")
			require.NotContains(t, s.Run, "${{", "what is filled in there can be run: it goes by env")
		}
		for name, i := range a.Inputs {
			require.NotEmpty(t, i.Description, name)
		}
		return a
	}
	run := func(a action, inputs, job map[string]string) (string, error) {
		var all string
		for _, s := range a.Runs.Steps {
			variables := maps.Clone(job)
			for name, value := range s.Env {
				for input, i := range a.Inputs {
					given, ok := inputs[input]
					if !ok {
						given = i.Default
					}
					value = strings.ReplaceAll(value, "${{ inputs."+input+" }}", given)
				}
				if name != "LAYOVER_SERVER" {
					variables[name] = value
				}
			}
			out, err := e.bash(t.Context(), t, s.Run, variables)
			if all += out; err != nil {
				return all, err
			}
		}
		return all, nil
	}
	deploy, cleanup := read("../deploy/ci/github/action.yml"), read("../deploy/ci/github/cleanup/action.yml")
	job := map[string]string{
		"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "branch", "GITHUB_REF": "refs/heads/" + hostile, "GITHUB_REF_NAME": hostile,
		"GITHUB_SHA": strings.Repeat("a", 40), "GITHUB_REPOSITORY": "acme/cart", "GITHUB_ACTOR": "ada", "GITHUB_OUTPUT": filepath.Join(e.dir, "output"),
		"GITHUB_ENV": filepath.Join(e.dir, "env"), "GITHUB_STEP_SUMMARY": filepath.Join(e.dir, "summary"),
	}
	out, err := run(deploy, map[string]string{"services": "cart", "command": "layover shop cart"}, job)
	require.NoError(t, err, out)
	output, err := os.ReadFile(filepath.Join(e.dir, "output"))
	require.NoError(t, err)
	for name, o := range deploy.Outputs {
		variable := strings.TrimSuffix(strings.TrimPrefix(o.Value, "${{ steps.deploy.outputs."), " }}")
		require.Contains(t, string(output), variable+"<<layover_", name)
	}
	require.Contains(t, string(output), "\nx-touch-pwned-touch-pwned-touch-pwned-")
	require.NoFileExists(t, filepath.Join(e.dir, "pwned"))
	out, err = run(deploy, map[string]string{"services": "cart", "command": "false"}, job)
	require.Error(t, err, out)
	out, err = run(cleanup, map[string]string{"services": "cart"}, job)
	require.NoError(t, err, out)
	require.Contains(t, out, "is removed")
	require.NoFileExists(t, filepath.Join(e.dir, "pwned"))
}

// TestGitLabTemplate runs the scripts of the template's jobs, one behind the other, with the report between them.
func TestGitLabTemplate(t *testing.T) {
	e := newCIEnvironment(t)
	type job struct {
		Script      []string
		Environment struct {
			Action string
			OnStop string `yaml:"on_stop"`
		}
		Artifacts struct {
			Reports struct{ Dotenv, Junit string }
		}
	}
	text, err := os.ReadFile("../deploy/ci/gitlab/layover.gitlab-ci.yml")
	require.NoError(t, err)
	jobs := map[string]job{}
	for name := range map[string]bool{"layover deploy": true, "layover test": true, "layover stop": true} {
		var file map[string]any
		require.NoError(t, yaml.Unmarshal(text, &file))
		part, err := yaml.Marshal(file[name])
		require.NoError(t, err)
		var j job
		require.NoError(t, yaml.Unmarshal(part, &j))
		jobs[name] = j
	}
	require.Equal(t, "layover stop", jobs["layover deploy"].Environment.OnStop)
	require.Equal(t, "stop", jobs["layover stop"].Environment.Action)
	variables := map[string]string{
		"GITLAB_CI": "true", "CI_COMMIT_SHA": strings.Repeat("b", 40), "CI_COMMIT_BRANCH": hostile, "CI_DEFAULT_BRANCH": "main", "CI_PROJECT_NAME": "cart",
		"GITLAB_USER_EMAIL": "ada@example.com", "LAYOVER_SERVICES": "", "LAYOVER_IMAGE": "", "LAYOVER_COMMAND": "layover shop cart",
	}
	require.NoError(t, os.WriteFile(filepath.Join(e.dir, "layover.test.yaml"), []byte("suites:\n  health: {command: curl -fsS http://cart.localhost/healthz}\n"), 0o600))
	run := func(name string) string {
		out, err := e.bash(t.Context(), t, strings.Join(jobs[name].Script, "\n"), variables)
		require.NoError(t, err, out)
		return out
	}
	run("layover deploy")
	dotenv, err := os.ReadFile(filepath.Join(e.dir, jobs["layover deploy"].Artifacts.Reports.Dotenv))
	require.NoError(t, err)
	for line := range strings.SplitSeq(strings.TrimSpace(string(dotenv)), "\n") {
		name, value, ok := strings.Cut(line, "=")
		require.True(t, ok, line)
		variables[name] = value
	}
	require.Contains(t, variables["LAYOVER_PREVIEW"], "--cart.localhost")
	require.Contains(t, run("layover test"), "passed")
	require.FileExists(t, filepath.Join(e.dir, jobs["layover test"].Artifacts.Reports.Junit))
	require.Contains(t, run("layover stop"), "is removed")
	require.NoFileExists(t, filepath.Join(e.dir, "pwned"))
}
