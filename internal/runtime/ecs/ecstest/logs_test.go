package ecstest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/stretchr/testify/require"
)

const testGroup, testStream = "/ecs/cart", "ecs/app/0123"

func texts(events []types.OutputLogEvent) []string {
	var out []string
	for _, e := range events {
		out = append(out, aws.ToString(e.Message))
	}
	return out
}

// page reads one page of the test's stream.
func logPage(t *testing.T, client *cloudwatchlogs.Client, in cloudwatchlogs.GetLogEventsInput) *cloudwatchlogs.GetLogEventsOutput {
	t.Helper()
	in.LogGroupName, in.LogStreamName = aws.String(testGroup), aws.String(testStream)
	out, err := client.GetLogEvents(t.Context(), &in)
	require.NoError(t, err)
	return out
}

func TestLogIsReadPageByPage(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client, start := cloudwatchlogs.NewFromConfig(asRoot(t, c)), time.UnixMilli(1_700_000_000_000)
	for n := range 5 {
		require.NoError(t, c.logs.put(testGroup, testStream, true, start.Add(time.Duration(n)*time.Millisecond), fmt.Sprint(n)))
	}
	require.NoError(t, c.logs.put(testGroup, testStream, true, start, "0 again")) // behind what has its time

	limit := aws.Int32(4)
	first := logPage(t, client, cloudwatchlogs.GetLogEventsInput{StartFromHead: aws.Bool(true), Limit: limit})
	require.Equal(t, []string{"0", "0 again", "1", "2"}, texts(first.Events))
	second := logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: first.NextForwardToken, Limit: limit})
	require.Equal(t, []string{"3", "4"}, texts(second.Events))
	end := logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: second.NextForwardToken, Limit: limit})
	require.Empty(t, end.Events)
	require.Equal(t, second.NextForwardToken, end.NextForwardToken, "the end has the same token")
	require.NoError(t, c.logs.put(testGroup, testStream, false, start.Add(4*time.Millisecond), "5"))
	require.Equal(t, []string{"5"}, texts(logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: end.NextForwardToken}).Events))

	tail := logPage(t, client, cloudwatchlogs.GetLogEventsInput{Limit: aws.Int32(2)})
	require.Equal(t, []string{"4", "5"}, texts(tail.Events), "without a word the last come first")
	before := logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: tail.NextBackwardToken, Limit: limit})
	require.Equal(t, []string{"0 again", "1", "2", "3"}, texts(before.Events))
	head := logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: before.NextBackwardToken, Limit: limit})
	require.Equal(t, []string{"0"}, texts(head.Events))
	over := logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: head.NextBackwardToken, Limit: limit})
	require.Empty(t, over.Events)
	require.Equal(t, head.NextBackwardToken, over.NextBackwardToken)
	require.Equal(t, []string{"0", "0 again"}, texts(logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: over.NextForwardToken, Limit: aws.Int32(2)}).Events), "and forward again")

	some := logPage(t, client, cloudwatchlogs.GetLogEventsInput{StartTime: aws.Int64(start.UnixMilli() + 1), EndTime: aws.Int64(start.UnixMilli() + 3)})
	require.Equal(t, []string{"1", "2"}, texts(some.Events), "the end is not in it")
	_, err := client.GetLogEvents(t.Context(), &cloudwatchlogs.GetLogEventsInput{LogGroupName: aws.String(testGroup), LogStreamName: aws.String(testStream), NextToken: aws.String("x")})
	requireCode(t, err, "InvalidParameterException", "nextToken is invalid")
}

func TestLogPageHasABound(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client := cloudwatchlogs.NewFromConfig(asRoot(t, c))
	long := strings.Repeat("x", 300<<10)
	for range 4 {
		require.NoError(t, c.logs.put(testGroup, testStream, true, time.Now(), long))
	}
	out := logPage(t, client, cloudwatchlogs.GetLogEventsInput{StartFromHead: aws.Bool(true)})
	require.Len(t, out.Events, 3, "1 MiB")
	out = logPage(t, client, cloudwatchlogs.GetLogEventsInput{StartFromHead: aws.Bool(true), NextToken: out.NextForwardToken})
	require.Len(t, out.Events, 1)
}

func TestLogComesLater(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client := cloudwatchlogs.NewFromConfig(asRoot(t, c))
	c.SetLogDelay(time.Hour)
	require.NoError(t, c.logs.put(testGroup, testStream, true, time.Now(), "soon"))
	empty := logPage(t, client, cloudwatchlogs.GetLogEventsInput{StartFromHead: aws.Bool(true)})
	require.Empty(t, empty.Events)
	c.SetLogDelay(0)
	require.Equal(t, []string{"soon"}, texts(logPage(t, client, cloudwatchlogs.GetLogEventsInput{NextToken: empty.NextForwardToken}).Events))
}

func TestLogsHaveGroupsAndStreams(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	client, group, stream := cloudwatchlogs.NewFromConfig(asRoot(t, c)), aws.String(testGroup), aws.String(testStream)
	require.ErrorContains(t, c.logs.put(testGroup, testStream, false, time.Now(), "x"), "The specified log group does not exist.")
	get := func() error {
		_, err := client.GetLogEvents(t.Context(), &cloudwatchlogs.GetLogEventsInput{LogGroupName: group, LogStreamName: stream})
		return err
	}
	require.ErrorAs(t, get(), new(*types.ResourceNotFoundException))
	requireCode(t, get(), "ResourceNotFoundException", "The specified log group does not exist.")
	_, err := client.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: group})
	require.NoError(t, err)
	_, err = client.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: group})
	require.ErrorAs(t, err, new(*types.ResourceAlreadyExistsException))
	require.True(t, c.logs.groupExists(testGroup))
	requireCode(t, get(), "ResourceNotFoundException", "The specified log stream does not exist.")
	_, err = client.CreateLogStream(t.Context(), &cloudwatchlogs.CreateLogStreamInput{LogGroupName: group, LogStreamName: stream})
	require.NoError(t, err)
	now := time.Now().UnixMilli()
	_, err = client.PutLogEvents(t.Context(), &cloudwatchlogs.PutLogEventsInput{LogGroupName: group, LogStreamName: stream, LogEvents: []types.InputLogEvent{
		{Timestamp: aws.Int64(now), Message: aws.String("one error")}, {Timestamp: aws.Int64(now + 1), Message: aws.String("two")},
	}})
	require.NoError(t, err)
	require.NoError(t, get())
	streams, err := client.DescribeLogStreams(t.Context(), &cloudwatchlogs.DescribeLogStreamsInput{LogGroupName: group, OrderBy: types.OrderByLastEventTime, Descending: aws.Bool(true)})
	require.NoError(t, err)
	require.Equal(t, now+1, aws.ToInt64(streams.LogStreams[0].LastEventTimestamp))
	found, err := client.FilterLogEvents(t.Context(), &cloudwatchlogs.FilterLogEventsInput{LogGroupName: group, FilterPattern: aws.String("error")})
	require.NoError(t, err)
	require.Len(t, found.Events, 1)
	for n := range 60 {
		c.CreateLogGroup(fmt.Sprintf("/many/%02d", n))
	}
	pages, groups := cloudwatchlogs.NewDescribeLogGroupsPaginator(client, &cloudwatchlogs.DescribeLogGroupsInput{LogGroupNamePrefix: aws.String("/many/")}), 0
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		groups += len(page.LogGroups)
	}
	require.Equal(t, 60, groups)
	_, err = client.DeleteLogGroup(t.Context(), &cloudwatchlogs.DeleteLogGroupInput{LogGroupName: group})
	require.NoError(t, err)
	require.Error(t, get())
}

func TestLogsArePermittedByStream(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	require.NoError(t, c.logs.put(testGroup, testStream, true, time.Now(), "x"))
	may := func(name, resource string) error {
		client := cloudwatchlogs.NewFromConfig(asUser(t, c, name, `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "logs:GetLogEvents", "Resource": "`+resource+`"}]}`))
		_, err := client.GetLogEvents(t.Context(), &cloudwatchlogs.GetLogEventsInput{LogGroupName: aws.String(testGroup), LogStreamName: aws.String(testStream)})
		return err
	}
	const arn = "arn:aws:logs:eu-central-1:111122223333:log-group:"
	require.NoError(t, may("group", arn+testGroup+":*"))
	require.NoError(t, may("stream", arn+testGroup+":log-stream:ecs/app/*"))
	requireCode(t, may("bare", arn+testGroup), "AccessDeniedException", "on resource: "+arn+testGroup+":log-stream:"+testStream)
	requireCode(t, may("other", arn+"/ecs/other:*"), "AccessDeniedException", "logs:GetLogEvents")
}

func TestLogsHaveALimit(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	require.NoError(t, c.logs.put(testGroup, testStream, true, time.Now(), "x"))
	c.SetLimits(0.001) // so that none comes back while the test runs
	client := cloudwatchlogs.NewFromConfig(asRoot(t, c))
	for range readRate {
		logPage(t, client, cloudwatchlogs.GetLogEventsInput{})
	}
	_, err := client.GetLogEvents(t.Context(), &cloudwatchlogs.GetLogEventsInput{LogGroupName: aws.String(testGroup), LogStreamName: aws.String(testStream)})
	requireCode(t, err, "ThrottlingException", "Rate exceeded")
	require.Equal(t, map[string]int{"logs:GetLogEvents": 1}, c.Throttled())
}
