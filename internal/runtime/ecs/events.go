package ecs

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const (
	eventsLate    = 90 * time.Second // a queue that did not answer for so long is not relied on
	receiveWait   = 20               // seconds that SQS holds a question; it answers at once when there is something
	receiveAtOnce = 10
	receiveAgain  = 5 * time.Second // after an error
)

// readEvents takes the changes of tasks from the queue until ctx ends. They may come late, twice, in any order
// or not at all: each has the number of the task's version, and what got lost the next look finds.
func (r *Runtime) readEvents(ctx context.Context) error {
	for ctx.Err() == nil {
		err := r.receive(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		r.log.WarnContext(ctx, "events of tasks not read: ECS is asked more often meanwhile", "queue", r.events, "err", err)
		select {
		case <-time.After(receiveAgain):
		case <-ctx.Done():
		}
	}
	return nil
}

// receive takes what is in the queue.
func (r *Runtime) receive(ctx context.Context) error {
	a, err := r.queueAccount(ctx)
	if err != nil {
		return err
	}
	out, err := a.receiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &r.events, MaxNumberOfMessages: receiveAtOnce, WaitTimeSeconds: receiveWait,
	})
	if err != nil {
		return a.fail(ctx, "read the queue "+r.events, err)
	}
	r.mu.Lock()
	r.told = time.Now()
	r.mu.Unlock()
	if len(out.Messages) == 0 {
		return nil
	}
	var read []sqstypes.DeleteMessageBatchRequestEntry
	for i, m := range out.Messages {
		r.takeEvent(ctx, []byte(aws.ToString(m.Body)))
		read = append(read, sqstypes.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
	}
	r.notify()
	if _, err := a.deleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &r.events, Entries: read}); err != nil {
		return a.fail(ctx, "delete what was read from the queue "+r.events, err) // it comes again
	}
	return nil
}

// queueAccount is the account that the queue is in: that of the environment.
func (r *Runtime) queueAccount(ctx context.Context) (*account, error) {
	c, err := r.cluster(ctx, r.defaults)
	if err != nil {
		return nil, err
	}
	return c.account, nil
}

// event is an event of EventBridge, see
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_task_events.html.
type event struct {
	Source     string    `json:"source"`
	DetailType string    `json:"detail-type"`
	Detail     eventTask `json:"detail"`
}

// eventTask is a task as an event has it: as a description does, with times as text and without tags.
type eventTask struct {
	TaskARN              string     `json:"taskArn"`
	ClusterARN           string     `json:"clusterArn"`
	ContainerInstanceARN string     `json:"containerInstanceArn"`
	TaskDefinitionARN    string     `json:"taskDefinitionArn"`
	LastStatus           string     `json:"lastStatus"`
	DesiredStatus        string     `json:"desiredStatus"`
	StartedBy            string     `json:"startedBy"`
	Group                string     `json:"group"`
	Version              int64      `json:"version"`
	StopCode             string     `json:"stopCode"`
	StoppedReason        string     `json:"stoppedReason"`
	LaunchType           string     `json:"launchType"`
	Memory               string     `json:"memory"`
	CreatedAt            *time.Time `json:"createdAt"`
	StartedAt            *time.Time `json:"startedAt"`
	StoppedAt            *time.Time `json:"stoppedAt"`
	Containers           []struct {
		Name            string `json:"name"`
		Image           string `json:"image"`
		ImageDigest     string `json:"imageDigest"`
		RuntimeID       string `json:"runtimeId"`
		LastStatus      string `json:"lastStatus"`
		Reason          string `json:"reason"`
		Memory          string `json:"memory"`
		ExitCode        *int32 `json:"exitCode"`
		NetworkBindings []struct {
			BindIP        string `json:"bindIP"`
			ContainerPort int32  `json:"containerPort"`
			HostPort      int32  `json:"hostPort"`
		} `json:"networkBindings"`
		NetworkInterfaces []struct {
			PrivateIPv4 string `json:"privateIpv4Address"`
			IPv6        string `json:"ipv6Address"`
		} `json:"networkInterfaces"`
	} `json:"containers"`
	Attachments []struct {
		Type    string `json:"type"`
		Details []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"details"`
	} `json:"attachments"`
}

// takeEvent takes over what an event tells of a task of ours. Of others it takes nothing.
func (r *Runtime) takeEvent(ctx context.Context, body []byte) {
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		r.log.WarnContext(ctx, "message in the queue is no event, and was left out", "queue", r.events, "err", err)
		return
	}
	if e.Source != "aws.ecs" || e.DetailType != "ECS Task State Change" || e.Detail.TaskARN == "" {
		return
	}
	r.mu.Lock()
	var c *cluster
	for key, candidate := range r.clusters {
		if key.name == e.Detail.ClusterARN || shortARN(e.Detail.ClusterARN) == key.name && sameRegion(e.Detail.ClusterARN, candidate.region) {
			c = candidate
		}
	}
	r.mu.Unlock()
	if c != nil {
		c.takeEvent(e.Detail)
	}
}

func sameRegion(arn, region string) bool { return strings.Contains(arn, ":"+region+":") }

func (c *cluster) takeEvent(told eventTask) {
	t := told.task()
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.tasks[told.TaskARN] != nil
	if !known && !c.isAdoptedLocked(t) && c.serviceOfLocked(t) == nil {
		ours := strings.HasPrefix(told.StartedBy, "layover-") || strings.HasPrefix(told.Group, "service:"+c.runtime.prefix())
		if ours && told.LastStatus != statusStopped { // whose it is its tags say, which no event has
			c.askOnceLocked(told.TaskARN)
		}
		return
	}
	c.takeLocked(t)
	if c.hostUnknownLocked(t) {
		c.askOnceLocked(told.TaskARN) // its machine is looked up with it, while it starts
	}
}

// task is the event as the API would describe the task.
func (e eventTask) task() *types.Task {
	t := &types.Task{
		TaskArn: &e.TaskARN, ClusterArn: &e.ClusterARN, TaskDefinitionArn: &e.TaskDefinitionARN,
		LastStatus: &e.LastStatus, DesiredStatus: &e.DesiredStatus, StartedBy: &e.StartedBy, Group: &e.Group, Version: e.Version,
		StopCode: types.TaskStopCode(e.StopCode), StoppedReason: &e.StoppedReason, LaunchType: types.LaunchType(e.LaunchType),
		Memory: &e.Memory, CreatedAt: e.CreatedAt, StartedAt: e.StartedAt, StoppedAt: e.StoppedAt,
	}
	if e.ContainerInstanceARN != "" {
		t.ContainerInstanceArn = &e.ContainerInstanceARN
	}
	for _, c := range e.Containers {
		container := types.Container{
			Name: &c.Name, Image: &c.Image, ImageDigest: &c.ImageDigest, RuntimeId: &c.RuntimeID, LastStatus: &c.LastStatus,
			Reason: &c.Reason, Memory: &c.Memory, ExitCode: c.ExitCode,
		}
		for _, b := range c.NetworkBindings {
			container.NetworkBindings = append(container.NetworkBindings, types.NetworkBinding{BindIP: &b.BindIP, ContainerPort: &b.ContainerPort, HostPort: &b.HostPort})
		}
		for _, i := range c.NetworkInterfaces {
			container.NetworkInterfaces = append(container.NetworkInterfaces, types.NetworkInterface{PrivateIpv4Address: &i.PrivateIPv4, Ipv6Address: &i.IPv6})
		}
		t.Containers = append(t.Containers, container)
	}
	for _, a := range e.Attachments {
		kind := a.Type
		if kind == "eni" { // so events name it
			kind = "ElasticNetworkInterface"
		}
		attachment := types.Attachment{Type: &kind}
		for _, d := range a.Details {
			attachment.Details = append(attachment.Details, types.KeyValuePair{Name: &d.Name, Value: &d.Value})
		}
		t.Attachments = append(t.Attachments, attachment)
	}
	return t
}
