package ecs

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/internal/control"
)

// stopReason is what Layover says where it ends a task, and by which it knows it again.
const stopReason = "Layover: no longer wanted"

// unknownExit is the code of a container that never ran.
const unknownExit = -1

var (
	awsReason = regexp.MustCompile(`^([A-Za-z]+(?:Error|Exception)):?\s*(.*)`)
	secretARN = regexp.MustCompile(`arn:aws[a-z-]*:(?:secretsmanager|ssm):\S+[\w]`)
)

// whyStopped says in a sentence why a task ended, and with which code its container did.
// See https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html.
func whyStopped(t *types.Task, container string) (code int, reason string) {
	code = unknownExit
	var culprit *types.Container
	for i, c := range t.Containers {
		if aws.ToString(c.Name) == container {
			culprit = &t.Containers[i]
		}
	}
	if culprit != nil && culprit.ExitCode != nil {
		code = int(*culprit.ExitCode)
	}
	said := aws.ToString(t.StoppedReason)
	for _, c := range t.Containers {
		text := aws.ToString(c.Reason)
		switch {
		case strings.HasPrefix(text, "OutOfMemoryError"):
			return 137, fmt.Sprintf("killed: out of memory (container %s%s)", aws.ToString(c.Name), memoryOf(t, c))
		case strings.HasPrefix(text, "CannotPullContainerError"), strings.HasPrefix(text, "CannotPullImageManifestError"):
			said = text
		}
	}
	if explained := explainReason(t, said); explained != "" {
		return code, explained
	}
	switch t.StopCode {
	case types.TaskStopCodeEssentialContainerExited:
		return code, whichExited(t, container, code)
	case types.TaskStopCodeSpotInterruption:
		return code, "AWS took the capacity back (Fargate Spot)"
	case types.TaskStopCodeTerminationNotice:
		return code, "the machine it ran on is going away (termination notice)"
	case types.TaskStopCodeServiceSchedulerInitiated:
		return code, "its ECS service ended it: " + said
	case types.TaskStopCodeUserInitiated:
		if said == stopReason {
			return code, "ended by Layover"
		}
		return code, "somebody stopped the task: " + said
	case types.TaskStopCodeTaskFailedToStart:
		return code, "the task did not start: " + said
	}
	return code, said
}

// whichExited names the container that took the task with it, where it is not the one that is routed: that
// one's code says enough.
func whichExited(t *types.Task, container string, code int) string {
	if code > 0 {
		if code == 137 {
			return "killed (exit code 137): out of memory, or it did not end within its stop timeout"
		}
		return ""
	}
	for _, c := range t.Containers {
		if c.ExitCode != nil && *c.ExitCode != 0 && aws.ToString(c.Name) != container {
			return fmt.Sprintf("its essential container %s exited with code %d, which ends the whole task", aws.ToString(c.Name), *c.ExitCode)
		}
	}
	return ""
}

// explainReason makes a sentence of the reasons that are met most.
func explainReason(t *types.Task, said string) string {
	kind, rest := "", said
	if m := awsReason.FindStringSubmatch(said); m != nil {
		kind, rest = m[1], m[2]
	}
	lower := strings.ToLower(said)
	switch {
	case strings.HasPrefix(kind, "CannotPull"):
		image := ""
		for _, c := range t.Containers {
			if strings.Contains(rest, aws.ToString(c.Image)) {
				image = " " + aws.ToString(c.Image)
			}
		}
		switch {
		case strings.Contains(lower, "not found"), strings.Contains(lower, "manifest unknown"):
			return fmt.Sprintf("image%s not found: was it pushed, and is the tag right? (%s)", image, rest)
		case strings.Contains(lower, "denied"), strings.Contains(lower, "unauthorized"), strings.Contains(lower, "no basic auth"):
			return fmt.Sprintf("image%s may not be pulled: look at the policy of the task's execution role (%s)", image, rest)
		case strings.Contains(lower, "timeout"), strings.Contains(lower, "i/o timeout"), strings.Contains(lower, "deadline"):
			return fmt.Sprintf("the registry of image%s cannot be reached from the task's subnet: it needs NAT, a public address, or VPC endpoints (%s)", image, rest)
		}
		return fmt.Sprintf("image%s cannot be pulled: %s", image, rest)
	case kind == "ResourceInitializationError" && (strings.Contains(lower, "secret") || strings.Contains(lower, "ssm")):
		secret := secretARN.FindString(said)
		switch {
		case strings.Contains(lower, "accessdenied"), strings.Contains(lower, "not authorized"):
			return strings.TrimSpace(fmt.Sprintf("secret %s may not be read by the task's execution role (%s)", secret, rest))
		case strings.Contains(lower, "not find"), strings.Contains(lower, "notfound"), strings.Contains(lower, "can't find"), strings.Contains(lower, "not found"):
			return strings.TrimSpace(fmt.Sprintf("secret %s missing: create it, or mend valueFrom in the template's task definition (%s)", secret, rest))
		}
		return "a secret cannot be had: " + rest
	case kind == "ResourceInitializationError" && strings.Contains(lower, "log"):
		return "its log group cannot be written to: create it, or give the execution role logs:CreateLogStream and logs:PutLogEvents (" + rest + ")"
	case strings.Contains(lower, "capacity is unavailable"), strings.HasPrefix(said, "RESOURCE:"):
		return noCapacity(said)
	case strings.HasPrefix(said, "Host EC2"):
		return "the machine it ran on is gone: " + said
	case strings.HasPrefix(said, "Task failed") && strings.Contains(lower, "health check"):
		return "the health check of its load balancer or container failed: " + said
	}
	return ""
}

// noCapacity explains why ECS placed no task.
func noCapacity(reason string) string {
	switch reason {
	case "RESOURCE:MEMORY":
		return "no capacity: no container instance of the cluster has enough memory left"
	case "RESOURCE:CPU":
		return "no capacity: no container instance of the cluster has enough CPU left"
	case "RESOURCE:ENI":
		return "no capacity: no container instance of the cluster can take one more network interface"
	case "RESOURCE:PORTS":
		return "no capacity: the host port is taken on every container instance; let hostPort be 0"
	case "AGENT":
		return "no capacity: the agents of the container instances are not connected"
	case "ATTRIBUTE":
		return "no container instance has what the task definition requires"
	}
	return "no capacity: " + reason
}

// memoryOf names the limit of a container or its task.
func memoryOf(t *types.Task, c types.Container) string {
	if limit := aws.ToString(c.Memory); limit != "" && limit != "0" {
		return ", limit " + limit + " MiB"
	}
	if limit := aws.ToString(t.Memory); limit != "" && limit != "0" {
		return ", limit of the task " + limit + " MiB"
	}
	return ""
}

// ended fills in how a task ended.
func ended(status *control.Status, t *types.Task, container string) {
	status.Running, status.Addresses = false, nil
	status.ExitCode, status.Reason = whyStopped(t, container)
}
