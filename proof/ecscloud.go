package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/smithy-go/logging"

	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

const (
	ecsCluster = "dev"
	ecsRoot    = "AKIAROOT"
)

// newCloud starts a fake of AWS with a cluster and a log group.
func newCloud(runner ecstest.Runner) (*ecstest.Cloud, error) {
	c, err := ecstest.New(ecstest.Options{Runner: runner, Seed: 1})
	if err != nil {
		return nil, err
	}
	c.AddCluster(ecsCluster)
	c.CreateLogGroup("/ecs/shop")
	return c, nil
}

// awsVariables let the SDK, in this process or another, find a cloud and its credentials.
func awsVariables(c *ecstest.Cloud, accessKey string) []string {
	return []string{
		"AWS_ENDPOINT_URL=" + c.URL(), "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=secret",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
}

// useCloud has this process use a cloud as the owner of an access key.
func useCloud(c *ecstest.Cloud, accessKey string) error {
	for _, pair := range awsVariables(c, accessKey) {
		name, value, _ := strings.Cut(pair, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// ecsClient is the SDK's client of the cloud that this process uses, as a person would use it.
func ecsClient(ctx context.Context) (*ecs.Client, error) {
	config, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, err
	}
	return ecs.NewFromConfig(config), nil
}

// ecsTemplate registers a task definition on Fargate, and makes an ECS service of it.
func ecsTemplate(ctx context.Context, cluster, name, image string, count int32) error {
	client, err := ecsClient(ctx)
	if err != nil {
		return err
	}
	in := &ecs.RegisterTaskDefinitionInput{}
	text := strings.NewReplacer("NAME", name, "IMAGE", image).Replace(`{
		"Family": "NAME", "NetworkMode": "awsvpc", "RequiresCompatibilities": ["FARGATE"], "Cpu": "256", "Memory": "512",
		"ExecutionRoleArn": "arn:aws:iam::111122223333:role/ecs-execution", "TaskRoleArn": "arn:aws:iam::111122223333:role/NAME",
		"ContainerDefinitions": [{
			"Name": "app", "Image": "IMAGE", "Essential": true, "PortMappings": [{"ContainerPort": 8080, "Protocol": "tcp"}],
			"Environment": [{"Name": "PORT", "Value": "8080"}],
			"LogConfiguration": {"LogDriver": "awslogs", "Options": {
				"awslogs-group": "/ecs/shop", "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "ecs"}}}]}`)
	if err := json.Unmarshal([]byte(text), in); err != nil {
		return err
	}
	if _, err := client.RegisterTaskDefinition(ctx, in); err != nil {
		return err
	}
	service := &ecs.CreateServiceInput{}
	if err := json.Unmarshal([]byte(`{"LaunchType": "FARGATE", "NetworkConfiguration": {"AwsvpcConfiguration": {
		"Subnets": ["subnet-0a1b2c3d"], "SecurityGroups": ["sg-0a1b2c3d"]}}}`), service); err != nil {
		return err
	}
	service.Cluster, service.ServiceName, service.TaskDefinition, service.DesiredCount = &cluster, &name, &name, &count
	_, err = client.CreateService(ctx, service)
	return err
}

// buildTestApp builds the app that the runtimes are tested with, as a program of the process runner.
func buildTestApp(ctx context.Context, dir string) (ecstest.Program, error) {
	path := filepath.Join(dir, "app")
	if err := goBuild(ctx, path, "internal/runtime/runtimetest/app"); err != nil {
		return ecstest.Program{}, fmt.Errorf("build the test app: %w", err)
	}
	return ecstest.Program{Path: path, Env: func(address netip.Addr) map[string]string {
		return map[string]string{"APP_HOST": address.String()}
	}}, nil
}
