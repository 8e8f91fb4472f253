package deploy

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/config"
)

// settings is what the task definitions leave open, filled in.
var settings = map[string]string{
	"ENVIRONMENT": "dev", "SERVER": "a", "DOMAIN": "shop.example.com", "NAMESPACE": "layover-dev.internal", "REGION": "eu-central-1",
	"CLUSTER": "dev", "IMAGE": "111122223333.dkr.ecr.eu-central-1.amazonaws.com/layover:dev", "ARCHITECTURE": "X86_64",
	"SERVER_CPU": "256", "SERVER_MEMORY": "512", "PROXY_CPU": "256", "PROXY_MEMORY": "512",
	"EXECUTION_ROLE_ARN":  "arn:aws:iam::111122223333:role/layover-dev-execution",
	"SERVER_ROLE_ARN":     "arn:aws:iam::111122223333:role/layover-dev-server",
	"PASSWORD_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:layover-dev-AbCdEf",
	"STORE":               "postgres://layover@layover-dev.example.eu-central-1.rds.amazonaws.com:5432/layover?sslmode=verify-full",
	"QUEUE_URL":           "https://sqs.eu-central-1.amazonaws.com/111122223333/layover-dev", "LOG_GROUP": "/layover/dev",
	"BALANCER_NETWORKS": "10.0.9.0/24,10.0.10.0/24",
}

// definition reads a task definition as the SDK of ECS has it: a key that it does not know is a mistake.
func definition(t *testing.T, file string) (in ecs.RegisterTaskDefinitionInput) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	filled := os.Expand(string(text), func(name string) string {
		require.Contains(t, settings, name, "%s leaves open what nobody fills in", file)
		return settings[name]
	})
	reader := json.NewDecoder(strings.NewReader(filled))
	reader.DisallowUnknownFields()
	require.NoError(t, reader.Decode(&in), file)
	return in
}

func TestDefinitions_AreThoseOfECS(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"ecs/server.json", "ecs/proxy.json"} {
		d := definition(t, file)
		require.Equal(t, []types.Compatibility{types.CompatibilityFargate}, d.RequiresCompatibilities)
		require.Equal(t, types.NetworkModeAwsvpc, d.NetworkMode)
		require.Contains(t, types.CPUArchitecture("").Values(), d.RuntimePlatform.CpuArchitecture)
		require.Contains(t, types.OSFamily("").Values(), d.RuntimePlatform.OperatingSystemFamily)
		require.Len(t, d.ContainerDefinitions, 1)
		c := d.ContainerDefinitions[0]
		require.Equal(t, "65532:65532", *c.User)
		require.True(t, *c.ReadonlyRootFilesystem)
		require.Equal(t, []string{"ALL"}, c.LinuxParameters.Capabilities.Drop)
		require.Equal(t, types.LogDriverAwslogs, c.LogConfiguration.LogDriver)
		for _, port := range c.PortMappings {
			require.Contains(t, types.TransportProtocol("").Values(), port.Protocol)
		}
		for i, mount := range c.MountPoints {
			require.Equal(t, *d.Volumes[i].Name, *mount.SourceVolume)
		}
		require.LessOrEqual(t, *c.StopTimeout, int32(120), "Fargate gives a task two minutes at most")
	}
}

// TestDefinitions_AreThoseOfLayover holds them to the program: commands, flags, variables, ports and time to end.
func TestDefinitions_AreThoseOfLayover(t *testing.T) {
	t.Parallel()
	program := t.TempDir() + "/layover"
	out, err := exec.Command("go", "build", "-o", program, root+"/cmd/layover").CombinedOutput()
	require.NoError(t, err, "%s", out)
	known := map[string]bool{"LAYOVER_SERVER": true}
	for _, v := range config.Variables() {
		known[v.Name] = true
	}
	for _, file := range []string{"ecs/server.json", "ecs/proxy.json"} {
		c := definition(t, file).ContainerDefinitions[0]
		help, err := exec.Command(program, c.Command[0], "--help").Output()
		require.NoError(t, err)
		for _, word := range c.Command[1:] {
			if strings.HasPrefix(word, "-") {
				require.Regexp(t, `(?m)^\s+(-\w, )?`+word+`\b|^\s+`+word+`, `, string(help), "%s %s", c.Command[0], word)
			}
		}
		for _, e := range c.Environment {
			if strings.HasPrefix(*e.Name, "LAYOVER_ECS_") && !hasRuntime() {
				continue
			}
			require.True(t, known[*e.Name] || bytes.Contains(help, []byte(*e.Name)), "%s: layover %s reads no %s", file, c.Command[0], *e.Name)
		}
		ports := []string{}
		for _, p := range c.PortMappings {
			ports = append(ports, strconv.Itoa(int(*p.ContainerPort)))
		}
		for _, e := range c.Environment {
			if port, ok := strings.CutPrefix(*e.Value, "0.0.0.0:"); ok {
				require.Contains(t, ports, port, "%s: %s", file, *e.Name)
			}
		}
		if i := slices.Index(c.Command, "--drain"); i > 0 {
			drain, err := time.ParseDuration(c.Command[i+1])
			require.NoError(t, err)
			require.Greater(t, time.Duration(*c.StopTimeout)*time.Second, drain+10*time.Second)
		}
	}
}

// hasRuntime says whether the configuration has the runtime of ECS yet.
func hasRuntime() bool {
	return slices.ContainsFunc(config.Variables(), func(v config.Variable) bool { return v.Key == "ecs.cluster" })
}

// TestDefinitions_KeepSecretsApart: a password is never a plain variable.
func TestDefinitions_KeepSecretsApart(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"ecs/server.json", "ecs/proxy.json"} {
		for _, e := range definition(t, file).ContainerDefinitions[0].Environment {
			require.NotRegexp(t, `(?i)password|secret|token`, *e.Name)
			require.NotRegexp(t, `://[^/@]*:[^/@]*@`, *e.Value)
		}
	}
	secrets := definition(t, "ecs/server.json").ContainerDefinitions[0].Secrets
	require.Len(t, secrets, 1)
	require.Equal(t, "PGPASSWORD", *secrets[0].Name)
}
