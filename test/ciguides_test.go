//go:build unix

package test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

// newShopCloud is a fake of ECS with a cluster dev and an ECS service for each name, whose tasks answer with the name of their
// image; and the variables that lead AWS's SDK there.
func newShopCloud(t *testing.T, services ...string) []string {
	t.Helper()
	cloud, err := ecstest.New(ecstest.Options{Runner: ecstest.NewHTTPRunner(func(_ ecstest.TaskSpec, c ecstest.ContainerSpec) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, c.Image) })
	})})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cloud.Close() })
	cloud.AddCluster(ecsCluster)
	client := ecs.New(ecs.Options{
		BaseEndpoint: aws.String(cloud.URL()), Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKIAROOT", "secret", ""),
	})
	for _, name := range services {
		definition := &ecs.RegisterTaskDefinitionInput{}
		require.NoError(t, json.Unmarshal(fmt.Appendf(nil, `{"Family": %q, "NetworkMode": "awsvpc", "RequiresCompatibilities": ["FARGATE"], "Cpu": "256", "Memory": "512",
			"ContainerDefinitions": [{"Name": "app", "Image": "%s:main", "Essential": true, "PortMappings": [{"ContainerPort": 8080}]}]}`, name, name), definition))
		registered, err := client.RegisterTaskDefinition(t.Context(), definition)
		require.NoError(t, err)
		service := &ecs.CreateServiceInput{}
		require.NoError(t, json.Unmarshal([]byte(`{"LaunchType": "FARGATE", "NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": ["subnet-0a1b2c3d"]}}}`), service))
		service.Cluster, service.ServiceName, service.DesiredCount = aws.String(ecsCluster), aws.String(name), aws.Int32(1)
		service.TaskDefinition = registered.TaskDefinition.TaskDefinitionArn
		_, err = client.CreateService(t.Context(), service)
		require.NoError(t, err)
	}
	return []string{
		"AWS_ENDPOINT_URL=" + cloud.URL(), "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIAROOT", "AWS_SECRET_ACCESS_KEY=secret",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
}

// image is what a version really runs, as soon as its runtime tells.
func (e *ciEnvironment) image(t *testing.T, id string) (name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		images := e.versions(t)[id].Images()
		if len(images) != 1 {
			return false
		}
		name = images[0].Name
		return true
	}, 20*time.Second, 50*time.Millisecond, "nothing says what %s runs", id)
	return name
}

// withDocker has a folder in PATH whose docker only notes what it is asked for, in the file that is returned.
func withDocker(t *testing.T, job map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\necho \"$1 $*\" | sed 's/ build -t / /; s/ push / /' >>"+asked+"\n"), 0o700))
	job["PATH"] = dir + ":" + os.Getenv("PATH")
	return asked
}

// gitHubJobs are the jobs of a workflow, and its variables.
func gitHubJobs(t *testing.T, text string) (jobs map[string]struct{ Steps []gitHubStep }, env map[string]string) {
	t.Helper()
	var workflow struct {
		Env  map[string]string
		Jobs map[string]struct{ Steps []gitHubStep }
	}
	require.NoError(t, yaml.Unmarshal([]byte(text), &workflow))
	require.NotEmpty(t, workflow.Jobs)
	return workflow.Jobs, workflow.Env
}

// pullJob is what GitHub tells a job of a pull request of.
func pullJob(t *testing.T, e *ciEnvironment, branch, commit, action string) map[string]string {
	return map[string]string{
		"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF": "refs/pull/12/merge", "GITHUB_REF_NAME": "12/merge", "GITHUB_HEAD_REF": branch, "GITHUB_BASE_REF": "main",
		"GITHUB_SHA": strings.Repeat("e", 40), "GITHUB_RUN_ID": commit[:7],
		"GITHUB_EVENT_PATH": e.event(t, map[string]any{
			"action": action, "number": 12, "repository": map[string]string{"default_branch": "main"},
			"pull_request": map[string]any{"number": 12, "head": map[string]string{"sha": commit}},
		}),
	}
}

// runJob runs a job of a workflow.
func runJob(t *testing.T, e *ciEnvironment, steps []gitHubStep, env, job map[string]string, commit string) (*gitHubRunner, string) {
	t.Helper()
	job = maps.Clone(job)
	for name, value := range env {
		if _, ok := job[name]; !ok {
			job[name] = value
		}
	}
	job["LAYOVER_SERVER"] = e.server
	r := newGitHubRunner(e, job)
	r.context["github.event.pull_request.head.sha"], r.context["github.event.number"] = commit, "12"
	out, err := r.run(t, steps, nil)
	require.NoError(t, err, out)
	return r, out
}

// TestCIGuide_GitHubAndECS runs the workflow of the guide from a pull request to its end, against the environment that the guide
// describes; ECS is a fake, and so is what builds images.
func TestCIGuide_GitHubAndECS(t *testing.T) {
	t.Parallel()
	all := files(t, "ci-github-ecs.md", "")
	e := newCIEnvironment(t, all["layover.yaml"], newShopCloud(t, "cart")...)
	place(t, e.dir, all)
	jobs, env := gitHubJobs(t, all[".github/workflows/layover.yml"])
	commit := strings.Repeat("d", 40)
	job := pullJob(t, e, "feature/2981", commit, "opened")
	asked := withDocker(t, job)
	r, out := runJob(t, e, jobs["deploy"].Steps, env, job, commit)
	image := "111122223333.dkr.ecr.eu-central-1.amazonaws.com/cart:" + commit
	built, err := os.ReadFile(asked)
	require.NoError(t, err)
	require.Equal(t, "build "+image+" .\npush "+image+"\n", string(built))
	require.Equal(t, image, e.image(t, "cart@feature-2981"))
	require.Contains(t, out, image, "the suite was answered by what was pushed")
	require.Contains(t, out, "run github-ddddddd-1  passed")
	require.FileExists(t, filepath.Join(e.dir, "report.xml"))
	require.Equal(t, "feature-2981", r.context["steps.layover.outputs.route"])
	require.Equal(t, "12", e.versions(t)["cart@feature-2981"].Origin.PullRequest)
	require.Equal(t, []string{"actions/checkout@v4", "aws-actions/configure-aws-credentials@v4", "aws-actions/amazon-ecr-login@v2", "actions/upload-artifact@v4"}, r.left)

	_, out = runJob(t, e, jobs["cleanup"].Steps, env, pullJob(t, e, "feature/2981", commit, "closed"), commit)
	require.Contains(t, out, "cart@feature-2981 is removed")
	e.gone(t, "cart@feature-2981")
	require.Contains(t, e.versions(t), "cart@main")
}

// TestCIGuide_Monorepo runs the workflow of the guide in a repository of several services.
func TestCIGuide_Monorepo(t *testing.T) {
	t.Parallel()
	all := files(t, "ci-monorepo.md", "")
	services := "ecs: {region: eu-central-1, cluster: dev}\nservices:\n"
	for _, name := range []string{"cart", "orders", "storefront"} {
		services += fmt.Sprintf("  %s: {run: {ecs: {service: %s}}, versions: {main: {adopt: true}}}\n", name, name)
	}
	e := newCIEnvironment(t, services, newShopCloud(t, "cart", "orders", "storefront")...)
	git := func(args ...string) string {
		out, err := e.run(t.Context(), e.dir, map[string]string{
			"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.com", "GIT_CONFIG_GLOBAL": os.DevNull,
		}, append([]string{"git"}, args...)...)
		require.NoError(t, err, "git %s: %s", strings.Join(args, " "), out)
		return strings.TrimSpace(out)
	}
	commit := func(changed map[string]string) string {
		place(t, e.dir, changed)
		git("add", "-A")
		git("commit", "-q", "-m", "a change")
		return git("rev-parse", "HEAD")
	}
	git("init", "-q", "-b", "main")
	place(t, e.dir, all)
	commit(map[string]string{"services/cart/main": "", "services/orders/main": "", "services/storefront/main": "", "services/old/main": "", "libs/mail/main": "", "libs/money/main": ""})
	git("update-ref", "refs/remotes/origin/main", "HEAD")
	jobs, env := gitHubJobs(t, all[".github/workflows/layover.yml"])

	for name, c := range map[string]struct {
		change map[string]string
		remove string
		want   []string
		suites int
	}{
		"one service":                  {change: map[string]string{"services/cart/a file, ünd ö": "x"}, want: []string{"cart"}, suites: 1},
		"a library of two, and one":    {change: map[string]string{"libs/money/main": "x", "services/cart/main": "x"}, want: []string{"cart", "orders"}, suites: 2},
		"a service that ends":          {change: map[string]string{"services/storefront/main": "x"}, remove: "services/old", want: []string{"storefront"}},
		"nothing that runs":            {change: map[string]string{"README": "x", "services/README": "y"}},
		"a library that only looks so": {change: map[string]string{"libs/moneybag/main": "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			git("checkout", "-q", "-f", "-B", "feature/x", "main")
			if c.remove != "" {
				git("rm", "-q", "-r", c.remove)
			}
			head := commit(c.change)
			job := pullJob(t, e, "feature/x", head, "synchronize")
			asked := withDocker(t, job)
			_, out := runJob(t, e, jobs["deploy"].Steps, env, job, head)
			var built, deployed []string
			for _, service := range []string{"cart", "old", "orders", "storefront"} {
				image := "registry.example.com/" + service + ":" + head
				if text, _ := os.ReadFile(asked); strings.Contains(string(text), "push "+image+"\n") {
					built = append(built, service)
				}
				if v, ok := e.versions(t)[service+"@feature-x"]; ok {
					deployed = append(deployed, service)
					require.Equal(t, image, e.image(t, v.ID()))
				}
			}
			require.Equal(t, c.want, built)
			require.Equal(t, c.want, deployed)
			require.Equal(t, c.suites, strings.Count(out, "  passed\n"), out)
			_, out = runJob(t, e, jobs["cleanup"].Steps, env, pullJob(t, e, "feature/x", head, "closed"), head)
			for _, service := range c.want {
				require.Contains(t, out, service+"@feature-x is removed")
				e.gone(t, service+"@feature-x")
			}
		})
	}
}

// TestCIGuide_GitLabAndDocker runs the pipelines of the guide with the Docker Engine of this machine.
func TestCIGuide_GitLabAndDocker(t *testing.T) {
	t.Parallel()
	if !dockerAnswers() {
		t.Skip("left out: GitLab and a Docker host; no Docker Engine answers")
	}
	all := files(t, "ci-gitlab-docker.md", "")
	// A machine may have images called cart: these are called differently.
	name := "layover-cart-" + strings.ToLower(rand.Text()[:8])
	for file, text := range all {
		all[file] = strings.NewReplacer(`"cart:`, `"`+name+":").Replace(text)
	}
	folder := t.TempDir()
	app, err := exec.LookPath("app")
	require.NoError(t, err)
	program, err := os.ReadFile(app)
	require.NoError(t, err)
	place(t, folder, map[string]string{"app": string(program), "Dockerfile": "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n"})
	commits := []string{strings.Repeat("1", 40), strings.Repeat("2", 40)}
	t.Cleanup(func() {
		for _, tag := range append(commits, "main") {
			removeImage(name + ":" + tag)
		}
	})
	require.NoError(t, runDocker("build", "-q", "-t", name+":main", folder))
	e := newCIEnvironment(t, all["layover.yaml"], "DOCKER_HOST="+os.Getenv("DOCKER_HOST"))
	require.NoError(t, os.CopyFS(e.dir, os.DirFS(folder)))
	place(t, e.dir, all)

	text, err := os.ReadFile(gitLabTemplate)
	require.NoError(t, err)
	jobs, variables := readGitLab(t, text)
	own, given := readGitLab(t, []byte(all[".gitlab-ci.yml"]))
	maps.Copy(jobs, own)
	maps.Copy(variables, given)
	delete(variables, "LAYOVER_SERVER") // that of the environment is on another port
	maps.Copy(variables, map[string]string{
		"GITLAB_CI": "true", "CI_DEFAULT_BRANCH": "main", "CI_PROJECT_NAME": "cart", "GITLAB_USER_EMAIL": "ada@example.com", "CI_JOB_ID": "7001",
		"CI_COMMIT_BRANCH": "feature/2981", "CI_COMMIT_SHA": commits[0], "CI_OPEN_MERGE_REQUESTS": "acme/cart!42",
	})
	shell := []string{"bash", "--noprofile", "--norc", "-c"}
	e.job(t, jobs["build"], shell, variables)
	_, report := e.job(t, jobs["layover deploy"], shell, variables)
	require.Equal(t, "feature-2981", report["LAYOVER_ROUTE"])
	v := e.versions(t)["cart@feature-2981"]
	require.Equal(t, name+":"+commits[0], e.image(t, v.ID()))
	require.Equal(t, "42", v.Origin.PullRequest, "that which is open for the branch")
	withReport := maps.Clone(variables)
	maps.Copy(withReport, report)
	out, _ := e.job(t, jobs["layover test"], shell, withReport)
	require.Contains(t, out, "run gitlab-7001  passed")
	out, _ = e.job(t, jobs["layover stop"], shell, variables)
	require.Contains(t, out, "cart@feature-2981 is removed")
	e.gone(t, "cart@feature-2981")

	// The default branch, when that is merged.
	maps.Copy(variables, map[string]string{"CI_COMMIT_BRANCH": "main", "CI_COMMIT_SHA": commits[1], "CI_OPEN_MERGE_REQUESTS": ""})
	e.job(t, jobs["build"], shell, variables)
	e.job(t, jobs["main"], shell, variables)
	require.Equal(t, name+":"+commits[1], e.image(t, "cart@main"))
}
