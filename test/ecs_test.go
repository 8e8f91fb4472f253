//go:build unix

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/layover-dev/layover/internal/runtime/ecs/ecstest"
)

const ecsCluster = "dev"

// cloud does in a fake of AWS what others do there:
//
//	cloud start                       there is a cluster dev, whose tasks answer with the name of their image
//	cloud service NAME FILE COUNT     registers a task definition, and makes an ECS service of it
//	cloud update NAME FILE COUNT      registers a task definition, and has the ECS service run it; FILE - is the one it has
//	cloud push IMAGE DIGEST           a tag moves
func cmdCloud(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	switch {
	case !neg && len(args) == 1 && args[0] == "start" && s.cloud == nil:
		startCloud(ts)
	case !neg && len(args) == 4 && args[0] == "service" && s.cloud != nil:
		in := &ecs.CreateServiceInput{}
		ts.Check(json.Unmarshal([]byte(`{"LaunchType": "FARGATE", "NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": ["subnet-0a1b2c3d"]}}}`), in))
		count, err := strconv.ParseInt(args[3], 10, 32)
		ts.Check(err)
		in.Cluster, in.ServiceName, in.DesiredCount = aws.String(ecsCluster), &args[1], aws.Int32(int32(count))
		in.TaskDefinition = registerDefinition(ts, args[2])
		_, err = s.ecs().CreateService(context.Background(), in)
		ts.Check(err)
	case !neg && len(args) == 4 && args[0] == "update" && s.cloud != nil:
		count, err := strconv.Atoi(args[3])
		ts.Check(err)
		definition := ""
		if args[2] != "-" {
			definition = aws.ToString(registerDefinition(ts, args[2]))
		}
		ts.Check(s.cloud.UpdateService(ecsCluster, args[1], count, definition))
	case !neg && len(args) == 3 && args[0] == "push" && s.cloud != nil:
		s.cloud.PushImage(args[1], args[2])
	default:
		ts.Fatalf("usage: cloud start | service NAME FILE COUNT | update NAME FILE COUNT | push IMAGE DIGEST")
	}
}

// startCloud starts a cloud that the SDK of the programs of the script finds.
func startCloud(ts *testscript.TestScript) {
	s := of(ts)
	var err error
	s.cloud, err = ecstest.New(ecstest.Options{Runner: ecstest.NewHTTPRunner(func(_ ecstest.TaskSpec, c ecstest.ContainerSpec) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, c.Image) })
	})})
	ts.Check(err)
	ts.Defer(func() { _ = s.cloud.Close() })
	s.cloud.AddCluster(ecsCluster)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": s.cloud.URL(), "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIAROOT", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		ts.Setenv(name, value)
		s.variables = append(s.variables, name)
	}
}

// ecs is the SDK's client of the cloud, as a person would use it.
func (s *script) ecs() *ecs.Client {
	return ecs.New(ecs.Options{
		BaseEndpoint: aws.String(s.cloud.URL()), Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKIAROOT", "secret", ""),
	})
}

// registerDefinition registers the task definition of a file.
func registerDefinition(ts *testscript.TestScript, file string) *string {
	in := &ecs.RegisterTaskDefinitionInput{}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), in))
	out, err := of(ts).ecs().RegisterTaskDefinition(context.Background(), in)
	ts.Check(err)
	return out.TaskDefinition.TaskDefinitionArn
}
