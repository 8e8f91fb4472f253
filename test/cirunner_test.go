//go:build unix

package test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

// ciEnvironment is a running environment, and how the steps of a job are run against it.
type ciEnvironment struct {
	dir    string // the working folder of jobs
	server string
	env    []string
}

// ciServices are the services that most of the tests want.
const ciServices = `services:
  cart: {run: {process: {command: [layover, shop, cart]}}}
  orders: {run: {process: {command: [layover, shop, cart]}}}
`

// newCIEnvironment starts layover up with the services, a block of YAML, and further variables.
func newCIEnvironment(t *testing.T, services string, env ...string) *ciEnvironment {
	t.Helper()
	home := t.TempDir()
	e := &ciEnvironment{dir: filepath.Join(home, "work"), env: append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "USER=ci", "RUNNER_TEMP=" + filepath.Join(home, "runner"),
	}, env...)}
	require.NoError(t, os.MkdirAll(e.dir, 0o700))
	file := filepath.Join(home, "layover.yaml")
	require.NoError(t, os.WriteFile(file, []byte("server: {listen: \"127.0.0.1:0\"}\nproxy: {listen: \"127.0.0.1:0\"}\n"+services), 0o600))
	up := exec.Command("layover", "up", "-f", file) //nolint:noctx // ended below
	up.Env = e.env
	said := &saidSoFar{}
	up.Stdout, up.Stderr = said, said
	require.NoError(t, up.Start())
	t.Cleanup(func() {
		_ = up.Process.Signal(os.Interrupt)
		_ = up.Wait()
		if t.Failed() {
			t.Logf("layover up said:\n%s", said)
		}
	})
	address := regexp.MustCompile(`server +(http://\S+)`)
	require.Eventually(t, func() bool {
		m := address.FindStringSubmatch(said.String())
		if m == nil {
			return false
		}
		e.server = m[1]
		return true
	}, time.Minute, 20*time.Millisecond, "no server: %s", said)
	e.env = append(e.env, "LAYOVER_SERVER="+e.server)
	var declared struct {
		Services map[string]struct{ Versions map[string]any }
	}
	require.NoError(t, yaml.Unmarshal([]byte(services), &declared))
	for service, s := range declared.Services {
		e.becomes(t, service+"@main")
		for version := range s.Versions {
			e.becomes(t, service+"@"+version)
		}
	}
	return e
}

// becomes waits until a version runs.
func (e *ciEnvironment) becomes(t *testing.T, id string) {
	t.Helper()
	require.Eventually(t, func() bool { return e.versions(t)[id].State == api.StateRunning }, time.Minute, 50*time.Millisecond, "%s does not run", id)
}

// saidSoFar is what a program has written, while it still writes.
type saidSoFar struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *saidSoFar) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *saidSoFar) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// run runs a program in a folder, with variables beside those of the environment.
func (e *ciEnvironment) run(ctx context.Context, dir string, variables map[string]string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, e.env
	for name, value := range variables {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// versions are the names of the versions that are there, as service@version.
func (e *ciEnvironment) versions(t *testing.T) map[string]api.Version {
	t.Helper()
	client, err := api.NewClient(e.server)
	require.NoError(t, err)
	defer client.Close()
	all, err := client.Versions(t.Context(), api.VersionFilter{})
	require.NoError(t, err)
	found := map[string]api.Version{}
	for _, v := range all {
		found[v.ID()] = v
	}
	return found
}

// gone waits until a version is not there.
func (e *ciEnvironment) gone(t *testing.T, id string) {
	t.Helper()
	require.Eventually(t, func() bool { _, ok := e.versions(t)[id]; return !ok }, 20*time.Second, 50*time.Millisecond, "%s is still there", id)
}

// gitHubStep is a step of a workflow or a composite action.
type gitHubStep struct {
	ID, If, Uses, Shell, Run string
	Env, With                map[string]string
}

// gitHubAction is a composite action.
type gitHubAction struct {
	Inputs map[string]struct {
		Default, Description string
		Required             bool
	}
	Outputs map[string]struct{ Value string }
	Runs    struct {
		Using string
		Steps []gitHubStep
	}
}

// gitHubRunner runs the steps of a job as GitHub's does: inputs and expressions are filled in, and what steps write to the files
// of the job is there for those behind.
type gitHubRunner struct {
	e         *ciEnvironment
	variables map[string]string // of the job, with what its steps have added
	context   map[string]string // what expressions name, such as github.sha
	left      []string          // actions of others, which are not run
}

// newGitHubRunner begins a job, of which GitHub tells with the variables.
func newGitHubRunner(e *ciEnvironment, job map[string]string) *gitHubRunner {
	r := &gitHubRunner{e: e, variables: map[string]string{
		"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "acme/cart", "GITHUB_RUN_ID": "42", "GITHUB_RUN_ATTEMPT": "1",
		"GITHUB_ACTOR": "ada", "GITHUB_SHA": strings.Repeat("a", 40),
	}, context: map[string]string{}}
	maps.Copy(r.variables, job)
	return r
}

var expression = regexp.MustCompile(`\$\{\{ *([^}]*?) *\}\}`)

// fill fills in the expressions of a text: names, and the first that is not empty of several with || between them.
func (r *gitHubRunner) fill(t *testing.T, text string, inputs map[string]string) string {
	t.Helper()
	return expression.ReplaceAllStringFunc(text, func(found string) string {
		value := ""
		for name := range strings.SplitSeq(expression.FindStringSubmatch(found)[1], "||") {
			name = strings.TrimSpace(name)
			kind, rest, _ := strings.Cut(name, ".")
			var ok bool
			switch kind {
			case "inputs":
				value, ok = inputs[rest]
			case "env":
				value, ok = r.variables[rest], true
			default:
				value, ok = r.context[name]
			}
			require.True(t, ok, "nothing says what %s is", name)
			if value != "" {
				break
			}
		}
		return value
	})
}

// run runs the steps.
func (r *gitHubRunner) run(t *testing.T, steps []gitHubStep, inputs map[string]string) (string, error) {
	t.Helper()
	all := ""
	for _, s := range steps {
		out, err := r.step(t, s, inputs)
		if all += out; err != nil {
			return all, err
		}
	}
	return all, nil
}

func (r *gitHubRunner) step(t *testing.T, s gitHubStep, inputs map[string]string) (string, error) {
	t.Helper()
	if left, ok := strings.CutSuffix(s.If, " != ''"); ok && r.fill(t, "${{ "+left+" }}", inputs) == "" {
		return "", nil
	}
	if s.Uses != "" {
		with := map[string]string{}
		for name, value := range s.With {
			with[name] = r.fill(t, value, inputs)
		}
		own, ok := strings.CutPrefix(s.Uses, "layover-dev/layover/")
		if !ok {
			r.left = append(r.left, s.Uses)
			return "", nil
		}
		path, _, ok := strings.Cut(own, "@")
		require.True(t, ok, "%s names no version", s.Uses)
		out, outputs, err := r.action(t, readAction(t, filepath.Join("..", path, "action.yml")), with)
		for name, value := range outputs {
			r.context["steps."+s.ID+".outputs."+name] = value
		}
		return out, err
	}
	require.NotContains(t, s.Run, "${{", "what is filled in there can be run: it goes by env")
	variables := map[string]string{}
	maps.Copy(variables, r.variables)
	for name, value := range s.Env {
		variables[name] = r.fill(t, value, inputs)
	}
	folder := t.TempDir()
	for name := range gitHubFiles() {
		variables[name] = filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(variables[name], nil, 0o600))
	}
	script := filepath.Join(folder, "step.sh")
	require.NoError(t, os.WriteFile(script, []byte(s.Run), 0o600))
	out, err := r.e.run(t.Context(), r.e.dir, variables, "bash", "--noprofile", "--norc", "-eo", "pipefail", script)
	for name, add := range gitHubFiles() {
		text, err := os.ReadFile(variables[name])
		require.NoError(t, err)
		require.NoError(t, add(r, s, string(text)), name)
	}
	return out, err
}

// gitHubFiles are the files that a step may write to, and what comes of it.
func gitHubFiles() map[string]func(*gitHubRunner, gitHubStep, string) error {
	return map[string]func(*gitHubRunner, gitHubStep, string) error{
		"GITHUB_OUTPUT": func(r *gitHubRunner, s gitHubStep, text string) error {
			return eachVariable(text, func(name, value string) { r.context["steps."+s.ID+".outputs."+name] = value })
		},
		"GITHUB_ENV": func(r *gitHubRunner, _ gitHubStep, text string) error {
			return eachVariable(text, func(name, value string) { r.variables[name] = value })
		},
		"GITHUB_PATH": func(r *gitHubRunner, _ gitHubStep, text string) error {
			if dir := strings.TrimSpace(text); dir != "" {
				r.variables["PATH"] = dir + ":" + os.Getenv("PATH")
			}
			return nil
		},
		"GITHUB_STEP_SUMMARY": func(r *gitHubRunner, _ gitHubStep, text string) error {
			r.context["summary"] += text
			return nil
		},
	}
}

// eachVariable reads a file of the job, as its manual has it: NAME=VALUE, or NAME<<END with lines up to END.
func eachVariable(text string, found func(name, value string)) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines) && text != ""; i++ {
		name, value, plain := strings.Cut(lines[i], "=")
		if multi, end, ok := strings.Cut(lines[i], "<<"); ok && (!plain || len(multi) < len(name)) {
			var all []string
			for i++; i < len(lines) && lines[i] != end; i++ {
				all = append(all, lines[i])
			}
			if i == len(lines) {
				return fmt.Errorf("%s has no end %s", multi, end)
			}
			found(multi, strings.Join(all, "\n"))
			continue
		}
		if !plain {
			return fmt.Errorf("line %q is of no variable", lines[i])
		}
		found(name, value)
	}
	return nil
}

// readAction reads an action, and checks what GitHub asks of every composite one.
func readAction(t *testing.T, path string) (a gitHubAction) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &a))
	require.Equal(t, "composite", a.Runs.Using)
	for _, s := range a.Runs.Steps {
		require.Equal(t, "bash", s.Shell, "a composite action has to name the shell")
	}
	for name, i := range a.Inputs {
		require.NotEmpty(t, i.Description, name)
	}
	return a
}

// action runs an action, and returns its outputs.
func (r *gitHubRunner) action(t *testing.T, a gitHubAction, with map[string]string) (out string, outputs map[string]string, err error) {
	t.Helper()
	inputs := map[string]string{}
	for name, i := range a.Inputs {
		inputs[name] = i.Default
		if value, ok := with[name]; ok {
			inputs[name] = value
		} else {
			require.False(t, i.Required, "the input %s is required", name)
		}
	}
	for name := range with {
		require.Contains(t, a.Inputs, name, "there is no such input")
	}
	out, err = r.run(t, a.Runs.Steps, inputs)
	outputs = map[string]string{}
	if err != nil {
		return out, outputs, err
	}
	for name, o := range a.Outputs {
		outputs[name] = r.fill(t, o.Value, nil)
	}
	return out, outputs, nil
}
