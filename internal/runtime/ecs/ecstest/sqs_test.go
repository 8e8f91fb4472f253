package ecstest

import (
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
)

func send(t *testing.T, client *sqs.Client, url, body string) {
	t.Helper()
	_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body})
	require.NoError(t, err)
}

func TestQueueGivesAgainWhatIsNotDeleted(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client, url := sqs.NewFromConfig(asRoot(t, c)), c.CreateQueue("events")
	send(t, client, url, "hello")
	receive := func(hidden, wait int32) []types.Message {
		out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &url, MaxNumberOfMessages: 10, VisibilityTimeout: hidden, WaitTimeSeconds: wait,
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameApproximateReceiveCount},
		})
		require.NoError(t, err)
		return out.Messages
	}
	first := receive(1, 0)
	require.Len(t, first, 1)
	require.Equal(t, "hello", aws.ToString(first[0].Body))
	require.Empty(t, receive(1, 0), "it is hidden")
	again := receive(30, 10)
	require.Len(t, again, 1, "it is there again, and ends the wait")
	require.Equal(t, "2", again[0].Attributes["ApproximateReceiveCount"])
	require.Equal(t, aws.ToString(first[0].MessageId), aws.ToString(again[0].MessageId))

	_, err := client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: first[0].ReceiptHandle})
	require.NoError(t, err)
	require.Equal(t, 1, c.QueueLength("events"), "the old receipt handle deletes nothing")
	_, err = client.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &url, ReceiptHandle: again[0].ReceiptHandle})
	require.NoError(t, err)
	last := receive(30, 0)
	require.Len(t, last, 1, "it was shown at once")
	done, err := client.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []types.DeleteMessageBatchRequestEntry{
		{Id: aws.String("a"), ReceiptHandle: last[0].ReceiptHandle}, {Id: aws.String("b"), ReceiptHandle: aws.String("nonsense")},
	}})
	require.NoError(t, err)
	require.Len(t, done.Successful, 1)
	require.Equal(t, "ReceiptHandleIsInvalid", aws.ToString(done.Failed[0].Code))
	require.Zero(t, c.QueueLength("events"))
}

func TestReceivingWaitsForAMessage(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client, url := sqs.NewFromConfig(asRoot(t, c)), c.CreateQueue("events")
	got := make(chan *sqs.ReceiveMessageOutput, 1)
	go func() {
		out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
		if err != nil {
			t.Error(err)
		}
		got <- out
	}()
	require.Eventually(t, func() bool { return c.Calls()["sqs:ReceiveMessage"] == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, c.Forward(url, `{"source": ["aws.ecs"]}`))
	c.emitEvent("aws.ecs", "ECS Task State Change", nil, map[string]any{})
	select {
	case out := <-got:
		require.Len(t, out.Messages, 1)
	case <-time.After(10 * time.Second):
		require.Fail(t, "the message did not end the wait")
	}
}

func TestQueueRefuses(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client, url := sqs.NewFromConfig(asRoot(t, c)), c.CreateQueue("events")
	gone := c.URL() + "/111122223333/gone"
	_, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &gone})
	require.ErrorAs(t, err, new(*types.QueueDoesNotExist))
	requireCode(t, err, "AWS.SimpleQueueService.NonExistentQueue", "does not exist")
	_, err = client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 11})
	requireCode(t, err, "InvalidParameterValue", "between 1 and 10")
	_, err = client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 21})
	requireCode(t, err, "InvalidParameterValue", "between 0 and 20")
	var entries []types.DeleteMessageBatchRequestEntry
	for n := range 11 {
		entries = append(entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(n)), ReceiptHandle: aws.String("x")})
	}
	_, err = client.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: entries})
	require.ErrorAs(t, err, new(*types.TooManyEntriesInBatchRequest))

	user := sqs.NewFromConfig(asUser(t, c, "ann", `{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": ["sqs:ReceiveMessage", "sqs:DeleteMessage"], "Resource": "`+c.QueueARN("events")+`"}]}`))
	_, err = user.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
	require.NoError(t, err)
	_, err = user.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: entries[:1]})
	require.NoError(t, err, "it needs the permission of the single one")
	other := c.CreateQueue("other")
	_, err = user.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &other})
	requireCode(t, err, "AccessDenied", "sqs:ReceiveMessage on resource: "+c.QueueARN("other"))
	_, err = user.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url})
	requireCode(t, err, "AccessDenied", "sqs:GetQueueAttributes")
}

func TestQueueHasAttributes(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client := sqs.NewFromConfig(asRoot(t, c))
	made, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q"), Attributes: map[string]string{"VisibilityTimeout": "7"}})
	require.NoError(t, err)
	found, err := client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("q")})
	require.NoError(t, err)
	require.Equal(t, made.QueueUrl, found.QueueUrl)
	send(t, client, *made.QueueUrl, "x")
	out, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: made.QueueUrl, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
	require.NoError(t, err)
	require.Equal(t, "7", out.Attributes["VisibilityTimeout"])
	require.Equal(t, "1", out.Attributes["ApproximateNumberOfMessages"])
	require.Equal(t, c.QueueARN("q"), out.Attributes["QueueArn"])
	_, err = client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: made.QueueUrl})
	require.NoError(t, err)
	require.Zero(t, c.QueueLength("q"))
	_, err = client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: made.QueueUrl})
	require.ErrorAs(t, err, new(*types.PurgeQueueInProgress))
	_, err = client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl})
	require.NoError(t, err)
	_, err = client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("q")})
	require.ErrorAs(t, err, new(*types.QueueDoesNotExist))
}
