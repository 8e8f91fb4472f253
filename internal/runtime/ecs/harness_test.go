package ecs

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testCluster = "dev"

// newCloud starts a cloud whose endpoint and root credentials the SDK finds in the environment.
func newCloud(t *testing.T, runner ecstest.Runner) *ecstest.Cloud {
	t.Helper()
	c, err := ecstest.New(ecstest.Options{Runner: runner, Seed: 1})
	require.NoError(t, err)
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, c.Close())
		require.Empty(t, c.Broken(), "answers that AWS would not give")
	})
	if dir, ok := ecstest.BotocoreData(); ok {
		require.NoError(t, c.UseContract(dir))
	}
	c.AddCluster(testCluster)
	c.CreateLogGroup("/ecs/cart")
	as(t, c, "AKIAROOT")
	return c
}

// as has the SDK use an access key.
func as(t *testing.T, c *ecstest.Cloud, accessKey string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": c.URL(), "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(name, value)
	}
}

// sdk is a client of ECS beside the runtime.
func sdk(t *testing.T) *ecs.Client {
	t.Helper()
	config, err := awsconfig.LoadDefaultConfig(t.Context())
	require.NoError(t, err)
	return ecs.NewFromConfig(config)
}

// register registers a task definition given as JSON, as a person would.
func register(t *testing.T, text string) string {
	t.Helper()
	in := &ecs.RegisterTaskDefinitionInput{}
	require.NoError(t, json.Unmarshal([]byte(text), in))
	out, err := sdk(t).RegisterTaskDefinition(t.Context(), in)
	require.NoError(t, err)
	return aws.ToString(out.TaskDefinition.TaskDefinitionArn)
}

// cartDefinition is the template that most tests have: on Fargate, with a port, labels and logs.
func cartDefinition(image string) string {
	return strings.ReplaceAll(`{
		"Family": "cart", "NetworkMode": "awsvpc", "RequiresCompatibilities": ["FARGATE"], "Cpu": "256", "Memory": "512",
		"ExecutionRoleArn": "arn:aws:iam::111122223333:role/ecs-execution",
		"ContainerDefinitions": [{
			"Name": "app", "Image": "IMAGE", "Essential": true, "PortMappings": [{"ContainerPort": 8080, "Protocol": "tcp"}],
			"Environment": [{"Name": "FROM_TEMPLATE", "Value": "yes"}],
			"DockerLabels": {"org.opencontainers.image.revision": "0123abc", "traefik.enable": "true"},
			"LogConfiguration": {"LogDriver": "awslogs", "Options": {
				"awslogs-group": "/ecs/cart", "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "ecs"}}
		}]}`, "IMAGE", image)
}

// bridgeDefinition is a template of tasks on machines, behind a port of theirs.
func bridgeDefinition(image string) string {
	return strings.ReplaceAll(`{
		"Family": "cart-bridge", "NetworkMode": "bridge", "ContainerDefinitions": [{
			"Name": "app", "Image": "IMAGE", "Essential": true, "Memory": 128, "PortMappings": [{"ContainerPort": 8080, "HostPort": 8080}],
			"LogConfiguration": {"LogDriver": "awslogs", "Options": {"awslogs-group": "/ecs/cart", "awslogs-region": "eu-central-1"}}
		}]}`, "IMAGE", image)
}

// createService makes an ECS service of the template, which has tasks of its own.
func createService(t *testing.T, name, definition string, count int32) {
	t.Helper()
	in := &ecs.CreateServiceInput{}
	require.NoError(t, json.Unmarshal([]byte(`{"LaunchType": "FARGATE", "NetworkConfiguration": {"AwsvpcConfiguration": {
		"Subnets": ["subnet-0a1b2c3d"], "SecurityGroups": ["sg-0a1b2c3d"]}}}`), in))
	in.Cluster, in.ServiceName, in.TaskDefinition, in.DesiredCount = aws.String(testCluster), &name, &definition, &count
	_, err := sdk(t).CreateService(t.Context(), in)
	require.NoError(t, err)
}

// newRuntime returns a runtime over an environment.
func newRuntime(t *testing.T, opts Options) *Runtime {
	t.Helper()
	opts.Cluster = testCluster
	if opts.Poll == 0 {
		opts.Poll = 50 * time.Millisecond
	}
	if opts.CallsPerSecond == 0 {
		opts.CallsPerSecond = 1000
	}
	r, err := New(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// appProgram is the test app as an image of the process runner: it listens on the address of its task alone.
func appProgram(path string) ecstest.Program {
	return ecstest.Program{Path: path, Env: func(address netip.Addr) map[string]string {
		return map[string]string{"APP_HOST": address.String()}
	}}
}

// eventually polls until check is content.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	require.Eventually(t, check, 20*time.Second, 10*time.Millisecond, what)
}
