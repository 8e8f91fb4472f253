package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const debianCLI = "/usr/bin/aws"

// call is one that the AWS CLI would have sent.
type call struct {
	Service, Name string
	Input         map[string]any
	Faults        []string
}

var shell = regexp.MustCompile("(?ms)^```bash\n(.*?)^```$")

// TestGuide runs the commands of the guide from first to last, with the AWS CLI that sends nothing, and looks at what it would have sent.
func TestGuide(t *testing.T) {
	t.Parallel()
	version, err := exec.Command(debianCLI, "--version").Output()
	if err != nil || !strings.Contains(string(version), "debian") {
		t.Skip("[awscli] Debian's AWS CLI is not installed: the commands of docs/howto/ecs-install.md are not run")
	}
	page, err := os.ReadFile("../docs/howto/ecs-install.md")
	require.NoError(t, err)
	var script strings.Builder
	for _, block := range shell.FindAllStringSubmatch(string(page), -1) {
		script.WriteString(block[1])
	}
	calls := runGuide(t, script.String())

	var names []string
	for _, c := range calls {
		require.Empty(t, c.Faults)
		names = append(names, c.Name)
	}
	for _, name := range []string{
		"CreateRepository", "CreateSecret", "CreateRole", "PutRule", "SetQueueAttributes", "CreateDBInstance", "CreateLoadBalancer",
		"CreatePrivateDnsNamespace", "ChangeResourceRecordSets", "UpdateService",
	} {
		require.Contains(t, names, name)
	}
	require.Equal(t, 3, count(names, "RegisterTaskDefinition"))
	require.Equal(t, 3, count(names, "CreateService")-2, "of ECS, beside two of Cloud Map")

	t.Run("all that is left open in the task definitions is filled in", func(t *testing.T) {
		for _, c := range of(calls, "RegisterTaskDefinition") {
			text, err := json.Marshal(c.Input)
			require.NoError(t, err)
			require.NotContains(t, string(text), "${")
			for _, container := range c.Input["containerDefinitions"].([]any) {
				for _, e := range container.(map[string]any)["environment"].([]any) {
					name := e.(map[string]any)["name"].(string)
					if name != "LAYOVER_PROXY_TRUST_FORWARDED" {
						require.NotEmpty(t, e.(map[string]any)["value"], name)
					}
				}
			}
		}
	})
	t.Run("the queue takes what the rule sends", func(t *testing.T) {
		var policy struct {
			Statement []struct{ Action, Resource string }
		}
		attributes := of(calls, "SetQueueAttributes")[0].Input["Attributes"].(map[string]any)
		require.NoError(t, json.Unmarshal([]byte(attributes["Policy"].(string)), &policy))
		require.Equal(t, "sqs:SendMessage", policy.Statement[0].Action)
		require.True(t, json.Valid([]byte(of(calls, "PutRule")[0].Input["EventPattern"].(string))))
	})
	t.Run("policies are JSON, and no secret is on a command line", func(t *testing.T) {
		for _, c := range slices.Concat(of(calls, "CreateRole"), of(calls, "PutRolePolicy")) {
			for _, key := range []string{"AssumeRolePolicyDocument", "PolicyDocument"} {
				if text, ok := c.Input[key].(string); ok {
					require.True(t, json.Valid([]byte(text)), text)
				}
			}
		}
		require.Equal(t, "secret", of(calls, "CreateDBInstance")[0].Input["MasterUserPassword"])
		require.NotContains(t, script.String(), "--master-user-password \"")
	})
	t.Run("servers and proxies have the ports of their security groups and target groups", func(t *testing.T) {
		ports := map[float64]bool{}
		for _, c := range of(calls, "RegisterTaskDefinition") {
			for _, p := range c.Input["containerDefinitions"].([]any)[0].(map[string]any)["portMappings"].([]any) {
				ports[p.(map[string]any)["containerPort"].(float64)] = true
			}
		}
		for _, c := range of(calls, "CreateTargetGroup") {
			require.True(t, ports[c.Input["Port"].(float64)])
		}
	})
}

// TestGuide_ACheckThatFindsSomething: the stand-in for AWS refuses what AWS would.
func TestGuide_ACheckThatFindsSomething(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(debianCLI); err != nil {
		t.Skip("[awscli] Debian's AWS CLI is not installed")
	}
	for _, wrong := range []string{
		"aws sqs create-queue --name x",
		"aws ecs create-service --service-name x --launch-type FARGAT",
		"aws ecs create-service --cluster x",
		"aws elbv2 create-target-group --name x --target-type ip --protocol TCP --port 99999",
		"aws ecs register-task-definition --family x --container-definitions '[{\"name\": \"x\", \"imagee\": \"y\"}]'",
		"aws sqs create-queue --queue-name x --attributes Retention=1",
		"aws iam create-role --role-name 'a role' --assume-role-policy-document x",
	} {
		_, err := guide(t, "export AWS_REGION=eu-central-1\n"+wrong)
		require.Error(t, err, wrong)
	}
}

func runGuide(t *testing.T, script string) []call {
	t.Helper()
	dir, err := guide(t, script)
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	require.NoError(t, err)
	var calls []call
	for line := range strings.Lines(string(text)) {
		var c call
		require.NoError(t, json.Unmarshal([]byte(line), &c))
		calls = append(calls, c)
	}
	return calls
}

// guide runs a script in a folder as a clone of the repository is. What it says beside AWS is only noted: it builds and pushes nothing.
func guide(t *testing.T, script string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	shim, err := filepath.Abs("testdata/aws.py")
	require.NoError(t, err)
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o700))
	}
	write("bin/aws", "#!/bin/sh\nexec /usr/bin/python3 "+shim+" \"$@\"\n")
	write("bin/layover", "#!/bin/sh\necho '{\"Version\": \"2012-10-17\", \"Statement\": []}'\n")
	for _, name := range []string{"bin/docker", "bin/curl", "scripts/image"} {
		write(name, "#!/bin/sh\ncase \"$*\" in *stdin*) cat >/dev/null ;; esac\n")
	}
	require.NoError(t, os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(".")))
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "AWS_CALLS="+filepath.Join(dir, "calls"),
		"AWS_ACCESS_KEY_ID=none", "AWS_SECRET_ACCESS_KEY=none", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "HOME="+dir)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	return dir, err
}

func of(calls []call, name string) (found []call) {
	for _, c := range calls {
		if c.Name == name {
			found = append(found, c)
		}
	}
	return found
}

func count(names []string, name string) (n int) {
	for _, other := range names {
		if other == name {
			n++
		}
	}
	return n
}
