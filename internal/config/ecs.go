package config

import (
	"regexp"
	"strings"

	"github.com/layover-dev/layover/api"
)

// ECS is where the versions run that Amazon ECS runs.
type ECS struct {
	Region         string       `yaml:"region,omitempty" env:"LAYOVER_ECS_REGION" doc:"Region of the clusters that name none. Default: that of the AWS SDK (AWS_REGION, the profile)" example:"eu-central-1"`
	Cluster        string       `yaml:"cluster,omitempty" env:"LAYOVER_ECS_CLUSTER" doc:"The cluster of services that name none. Default: default" example:"dev"`
	Role           string       `yaml:"role,omitempty" env:"LAYOVER_ECS_ROLE" doc:"ARN of the IAM role to take on. Default: none; the credentials are those of the AWS SDK's default chain" example:"arn:aws:iam::444455556666:role/layover"`
	Events         string       `yaml:"events,omitempty" env:"LAYOVER_ECS_EVENTS" doc:"URL of the SQS queue that EventBridge fills with the changes of tasks. Default: none; ECS is asked every poll" example:"https://sqs.eu-central-1.amazonaws.com/111122223333/layover-dev"`
	Poll           api.Duration `yaml:"poll,omitempty" env:"LAYOVER_ECS_POLL" default:"5s" doc:"How often ECS is asked what runs; with events, twelve times as long. At least 100ms"`
	CallsPerSecond float64      `yaml:"calls_per_second,omitempty" env:"LAYOVER_ECS_CALLS_PER_SECOND" default:"4" minimum:"0.1" maximum:"100" doc:"How many questions ECS is asked a second at most, in each account and region; it is fewer while ECS says that they are too many"`
}

var (
	roleARN  = regexp.MustCompile(`^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$`)
	queueURL = regexp.MustCompile(`^https?://[^/]+/\d{12}/[\w.-]+$`)
)

// environmentECS checks the settings of the environment.
func (k checker) environmentECS() {
	e := k.file.ECS
	if e.Role != "" && !roleARN.MatchString(e.Role) {
		k.value(path{"ecs", "role"}, "write it like arn:aws:iam::444455556666:role/layover", "this is not the ARN of a role")
	}
	if e.Events != "" && !queueURL.MatchString(e.Events) {
		k.value(path{"ecs", "events"}, "write it like https://sqs.eu-central-1.amazonaws.com/111122223333/layover-dev", "this is not the URL of an SQS queue")
	}
	if e.Poll < api.Duration(minPoll) {
		k.value(path{"ecs", "poll"}, "set 5s", "%s is too short", e.Poll)
	}
}

const minPoll = 100_000_000 // ns

// ecs checks a template.
func (k checker) ecs(e api.ECS, p path) {
	if e.Service == "" && e.TaskDefinition == "" {
		k.key(p, "set service, to an ECS service that runs already, or task_definition", "nothing says which task definition is the template")
	}
	if e.Adopt && e.Service == "" {
		k.key(p.with("adopt"), "set service", "only an ECS service can be adopted, and none is named")
	}
	if e.LaunchType != "" && len(e.Capacity) > 0 {
		k.key(p.with("capacity_providers"), "keep one of the two", "launch_type is set already")
	}
	if len(e.Subnets) == 0 {
		if len(e.SecurityGroups) > 0 {
			k.key(p.with("security_groups"), "set subnets as well", "they are of the network that subnets name")
		}
		if e.PublicIP {
			k.key(p.with("public_ip"), "set subnets as well", "it is of the network that subnets name")
		}
	}
	if e.Role != "" && !roleARN.MatchString(e.Role) {
		k.value(p.with("role"), "write it like arn:aws:iam::444455556666:role/layover", "this is not the ARN of a role")
	}
	for _, text := range []struct{ key, value string }{{"service", e.Service}, {"task_definition", e.TaskDefinition}} {
		k.placeholders(text.value, p.with(text.key))
		if strings.ContainsAny(text.value, " \t") {
			k.value(p.with(text.key), "", "a name has no spaces")
		}
	}
	k.image(e.Image, p.with("image"))
	if e.Command != nil {
		k.command(e.Command, p.with("command"))
	}
}
