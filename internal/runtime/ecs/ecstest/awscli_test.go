package ecstest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// awsProgram is Debian's AWS CLI: a client of AWS that shares nothing with the SDK for Go.
const awsProgram = "/usr/bin/aws"

// awsCLI calls a cloud by the AWS CLI.
type awsCLI struct {
	t       *testing.T
	cloud   *Cloud
	home    string
	session []string // credentials, in place of root's
}

// run makes a call, and returns its answer, without any of these words nil.
func (a *awsCLI) run(arguments ...string) map[string]any {
	a.t.Helper()
	out, failed := a.try(arguments...)
	require.Empty(a.t, failed, arguments)
	if len(bytes.TrimSpace(out)) == 0 {
		return nil
	}
	var answer map[string]any
	require.NoError(a.t, json.Unmarshal(out, &answer), string(out))
	return answer
}

// fails makes a call that is to fail, and returns what the CLI says.
func (a *awsCLI) fails(arguments ...string) string {
	a.t.Helper()
	_, failed := a.try(arguments...)
	require.NotEmpty(a.t, failed, arguments)
	return failed
}

func (a *awsCLI) try(arguments ...string) (out []byte, failed string) {
	a.t.Helper()
	arguments = append([]string{"--endpoint-url", a.cloud.URL(), "--region", "eu-central-1", "--no-cli-pager", "--output", "json"}, arguments...)
	command := exec.CommandContext(a.t.Context(), awsProgram, arguments...)
	command.Env = append([]string{"HOME=" + a.home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "AWS_EC2_METADATA_DISABLED=true"}, a.session...)
	if a.session == nil {
		command.Env = append(command.Env, "AWS_ACCESS_KEY_ID="+rootKey, "AWS_SECRET_ACCESS_KEY=any")
	}
	var errs bytes.Buffer
	command.Stderr = &errs
	out, err := command.Output()
	if err != nil {
		return out, err.Error() + ": " + errs.String()
	}
	return out, ""
}

// at goes into an answer by names and numbers.
func at[T any](t *testing.T, value any, path ...any) T {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			object, ok := value.(map[string]any)
			require.True(t, ok, "%v is no object: %v", step, value)
			require.Contains(t, object, step)
			value = object[step]
		case int:
			list, ok := value.([]any)
			require.True(t, ok, "%v is no list", value)
			require.Greater(t, len(list), step)
			value = list[step]
		}
	}
	out, ok := value.(T)
	require.True(t, ok, "%v is another type: %T", path, value)
	return out
}

// TestAWSCLIRunsTheLifeOfAService has a second client take a service from its cluster to its end, on every service of
// the fake.
func TestAWSCLIRunsTheLifeOfAService(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(awsProgram); err != nil {
		t.Skip("left out: " + awsProgram + " is not here (Debian: awscli)")
	}
	c := newTestCloud(t, NewHTTPRunner(func(_ TaskSpec, container ContainerSpec) http.Handler {
		container.Log(time.Now(), "listening")
		return http.NotFoundHandler()
	}))
	aws := &awsCLI{t: t, cloud: c, home: t.TempDir()}

	require.Equal(t, "arn:aws:iam::111122223333:root", at[string](t, aws.run("sts", "get-caller-identity"), "Arn"))
	cluster := at[string](t, aws.run("ecs", "create-cluster", "--cluster-name", "cli"), "cluster", "clusterArn")
	queue := at[string](t, aws.run("sqs", "create-queue", "--queue-name", "events", "--attributes", "VisibilityTimeout=5"), "QueueUrl")
	require.NoError(t, c.Forward(queue, `{"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"], "detail": {"clusterArn": ["`+cluster+`"]}}`))
	aws.run("logs", "create-log-group", "--log-group-name", "/ecs/cart")

	definition := aws.run("ecs", "register-task-definition", "--family", "cart", "--network-mode", "awsvpc", "--requires-compatibilities", "FARGATE",
		"--cpu", "256", "--memory", "512", "--execution-role-arn", "arn:aws:iam::111122223333:role/ecs-execution", "--tags", "key=owner,value=test",
		"--container-definitions", `[{"name": "app", "image": "cart:1", "essential": true, "portMappings": [{"containerPort": 8080}],
			"logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/ecs/cart", "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "ecs"}}}]`)
	require.Equal(t, "cart", at[string](t, definition, "taskDefinition", "family"))
	revision := at[string](t, definition, "taskDefinition", "taskDefinitionArn")
	require.Contains(t, aws.fails("ecs", "describe-task-definition", "--task-definition", "nobody"), "ClientException")

	network := "awsvpcConfiguration={subnets=[subnet-0a1b2c3d],securityGroups=[sg-0a1b2c3d],assignPublicIp=DISABLED}"
	service := aws.run("ecs", "create-service", "--cluster", "cli", "--service-name", "cart", "--task-definition", "cart", "--desired-count", "1",
		"--launch-type", "FARGATE", "--network-configuration", network)
	require.Equal(t, "cart", at[string](t, service, "service", "serviceName"))
	aws.run("ecs", "wait", "services-stable", "--cluster", "cli", "--services", "cart")
	described := aws.run("ecs", "describe-services", "--cluster", "cli", "--services", "cart")
	require.InDelta(t, 1, at[float64](t, described, "services", 0, "runningCount"), 0)
	require.Equal(t, revision, at[string](t, described, "services", 0, "taskDefinition"))

	tasks := aws.run("ecs", "list-tasks", "--cluster", "cli", "--service-name", "cart")
	task := at[string](t, tasks, "taskArns", 0)
	running := aws.run("ecs", "describe-tasks", "--cluster", "cli", "--tasks", task)
	require.Equal(t, "RUNNING", at[string](t, running, "tasks", 0, "lastStatus"))
	require.NotEmpty(t, at[string](t, running, "tasks", 0, "containers", 0, "networkInterfaces", 0, "privateIpv4Address"))
	_, err := time.Parse(time.RFC3339, at[string](t, running, "tasks", 0, "startedAt"))
	require.NoError(t, err, "the CLI reads the number as a time")

	stream := "ecs/app/" + task[len(task)-len(newID()):]
	logged := aws.run("logs", "get-log-events", "--log-group-name", "/ecs/cart", "--log-stream-name", stream)
	require.Equal(t, "listening", at[string](t, logged, "events", 0, "message"))
	require.Equal(t, "/ecs/cart", at[string](t, aws.run("logs", "describe-log-groups"), "logGroups", 0, "logGroupName"))

	event := aws.run("sqs", "receive-message", "--queue-url", queue, "--wait-time-seconds", "10", "--max-number-of-messages", "10", "--attribute-names", "All")
	require.Equal(t, "1", at[string](t, event, "Messages", 0, "Attributes", "ApproximateReceiveCount"))
	var change map[string]any
	require.NoError(t, json.Unmarshal([]byte(at[string](t, event, "Messages", 0, "Body")), &change))
	require.Equal(t, cluster, at[string](t, change, "detail", "clusterArn"))
	handle := at[string](t, event, "Messages", 0, "ReceiptHandle")
	before := c.QueueLength("events")
	deleted := aws.run("sqs", "delete-message-batch", "--queue-url", queue, "--entries", "Id=a,ReceiptHandle="+handle)
	require.Equal(t, "a", at[string](t, deleted, "Successful", 0, "Id"))
	require.Equal(t, before-1, c.QueueLength("events"))
	require.Equal(t, c.QueueARN("events"), at[string](t, aws.run("sqs", "get-queue-attributes", "--queue-url", queue, "--attribute-names", "QueueArn"), "Attributes", "QueueArn"))
	require.Contains(t, aws.fails("sqs", "receive-message", "--queue-url", queue+"2"), "AWS.SimpleQueueService.NonExistentQueue")

	aws.run("ecs", "update-service", "--cluster", "cli", "--service", "cart", "--desired-count", "2")
	aws.run("ecs", "wait", "services-stable", "--cluster", "cli", "--services", "cart")
	require.Len(t, at[[]any](t, aws.run("ecs", "list-tasks", "--cluster", "cli", "--family", "cart"), "taskArns"), 2)

	alone := aws.run("ecs", "run-task", "--cluster", "cli", "--task-definition", "cart:1", "--launch-type", "FARGATE", "--network-configuration", network,
		"--started-by", "cli", "--tags", "key=owner,value=test")
	require.Empty(t, at[[]any](t, alone, "failures"))
	own := at[string](t, alone, "tasks", 0, "taskArn")
	aws.run("ecs", "wait", "tasks-running", "--cluster", "cli", "--tasks", own)
	aws.run("ecs", "stop-task", "--cluster", "cli", "--task", own, "--reason", "enough")
	aws.run("ecs", "wait", "tasks-stopped", "--cluster", "cli", "--tasks", own)
	stopped := aws.run("ecs", "describe-tasks", "--cluster", "cli", "--tasks", own)
	require.Equal(t, "UserInitiated", at[string](t, stopped, "tasks", 0, "stopCode"))
	require.Contains(t, at[string](t, stopped, "tasks", 0, "stoppedReason"), "enough")

	reader, err := c.AddRole("reader", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecs:DescribeServices", "Resource": "*"}]}`,
		"arn:aws:iam::111122223333:root", "")
	require.NoError(t, err)
	session := aws.run("sts", "assume-role", "--role-arn", reader, "--role-session-name", "cli")
	as := &awsCLI{t: t, cloud: c, home: aws.home, session: []string{
		"AWS_ACCESS_KEY_ID=" + at[string](t, session, "Credentials", "AccessKeyId"),
		"AWS_SECRET_ACCESS_KEY=" + at[string](t, session, "Credentials", "SecretAccessKey"),
		"AWS_SESSION_TOKEN=" + at[string](t, session, "Credentials", "SessionToken"),
	}}
	require.Equal(t, "arn:aws:sts::111122223333:assumed-role/reader/cli", at[string](t, as.run("sts", "get-caller-identity"), "Arn"))
	as.run("ecs", "describe-services", "--cluster", "cli", "--services", "cart")
	require.Contains(t, as.fails("ecs", "update-service", "--cluster", "cli", "--service", "cart", "--desired-count", "3"), "AccessDeniedException")
	require.Contains(t, as.fails("sqs", "receive-message", "--queue-url", queue), "AccessDenied")
	require.Contains(t, as.fails("sts", "assume-role", "--role-arn", reader, "--role-session-name", "again"), "AccessDenied")

	aws.run("ecs", "delete-service", "--cluster", "cli", "--service", "cart", "--force")
	aws.run("ecs", "wait", "services-inactive", "--cluster", "cli", "--services", "cart")
	aws.run("ecs", "deregister-task-definition", "--task-definition", "cart:1")
	require.Empty(t, at[[]any](t, aws.run("ecs", "list-task-definitions", "--family-prefix", "cart"), "taskDefinitionArns"))
	require.Empty(t, at[[]any](t, aws.run("ecs", "list-tasks", "--cluster", "cli"), "taskArns"))
	aws.run("ecs", "delete-cluster", "--cluster", "cli")
}
