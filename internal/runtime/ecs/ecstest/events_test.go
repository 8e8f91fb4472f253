package ecstest

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bodies are what is in a queue, in its order.
func bodies(c *Cloud, name string) []string {
	c.sqs.mu.Lock()
	defer c.sqs.mu.Unlock()
	var out []string
	for _, m := range c.sqs.queues[name].messages {
		out = append(out, m.body)
	}
	return out
}

// numbers are those that emitted has put into the events of a queue.
func numbers(t *testing.T, c *Cloud, name string) []int {
	t.Helper()
	var out []int
	for _, text := range bodies(c, name) {
		var e struct {
			Detail struct{ N int }
		}
		require.NoError(t, json.Unmarshal([]byte(text), &e))
		out = append(out, e.Detail.N)
	}
	return out
}

func emit(c *Cloud, n int) {
	c.emitEvent("aws.ecs", "ECS Task State Change", []string{"arn:" + strconv.Itoa(n)}, map[string]any{"N": n, "clusterArn": "arn:dev"})
}

func TestEventsGoWhereTheirPatternMatches(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	patterns := map[string]string{
		"all":     `{"source": ["aws.ecs"]}`,
		"cluster": `{"source": ["aws.ecs"], "detail-type": ["ECS Task State Change", "other"], "detail": {"clusterArn": ["arn:prod", "arn:dev"]}}`,
		"other":   `{"detail": {"clusterArn": ["arn:prod"]}}`,
		"ec2":     `{"source": ["aws.ec2"]}`,
		"prefix":  `{"detail": {"clusterArn": [{"prefix": "arn:d"}]}, "resources": ["arn:1"]}`,
		"not":     `{"detail": {"clusterArn": [{"anything-but": ["arn:dev"]}]}}`,
		"absent":  `{"detail": {"stopCode": [{"exists": false}], "N": [1]}}`,
	}
	for name, pattern := range patterns {
		require.NoError(t, c.Forward(c.CreateQueue(name), pattern))
	}
	emit(c, 1)
	for name, want := range map[string]int{"all": 1, "cluster": 1, "other": 0, "ec2": 0, "prefix": 1, "not": 0, "absent": 1} {
		require.Equal(t, want, c.QueueLength(name), name)
	}
	var e map[string]any
	require.NoError(t, json.Unmarshal([]byte(bodies(c, "all")[0]), &e))
	require.Equal(t, "0", e["version"])
	require.Equal(t, "111122223333", e["account"])
	require.Equal(t, "eu-central-1", e["region"])
	require.Equal(t, "ECS Task State Change", e["detail-type"])
	require.Equal(t, []any{"arn:1"}, e["resources"])
	at, err := time.Parse(time.RFC3339, e["time"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)

	require.Error(t, c.Forward(c.URL()+"/111122223333/gone", `{}`))
	require.Error(t, c.Forward(c.CreateQueue("all"), `{"source": "aws.ecs"}`), "a value that is in no list")
	require.Error(t, c.Forward(c.CreateQueue("all"), `{"source": [{"suffix": "x"}]}`), "what the fake does not match")
}

func TestEventsGetLostRepeatedAndOutOfOrder(t *testing.T) {
	t.Parallel()
	const events = 1000
	run := func(f Faults) []int {
		c := newTestCloud(t, nil)
		require.NoError(t, c.Forward(c.CreateQueue("q"), `{}`))
		c.SetFaults(f)
		for n := range events {
			emit(c, n)
		}
		return numbers(t, c, "q")
	}
	var all []int
	for n := range events {
		all = append(all, n)
	}
	require.Equal(t, all, run(Faults{}))

	lost := run(Faults{LoseEvents: 0.2})
	require.InDelta(t, 800, len(lost), 60)
	require.IsIncreasing(t, lost)
	require.Equal(t, lost, run(Faults{LoseEvents: 0.2}), "the same seed loses the same")

	repeated := run(Faults{RepeatEvents: 0.2})
	require.InDelta(t, 1200, len(repeated), 60)
	require.Subset(t, repeated, all)

	mixed := run(Faults{ReorderEvents: 0.2})
	for len(mixed) < events { // the last may be held back still
		mixed = append(mixed, all[len(mixed)])
	}
	require.ElementsMatch(t, all, mixed)
	late := 0
	for n := range mixed[1:] {
		if mixed[n+1] < mixed[n] {
			late++
		}
	}
	require.Greater(t, late, 50)
}

func TestEventsAreDelayed(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	require.NoError(t, c.Forward(c.CreateQueue("q"), `{}`))
	const delay = 100 * time.Millisecond
	c.SetFaults(Faults{EventDelay: delay, ReorderEvents: 1})
	start := time.Now()
	emit(c, 1)
	require.Zero(t, c.QueueLength("q"))
	require.Eventually(t, func() bool { return c.QueueLength("q") == 1 }, 10*time.Second, time.Millisecond, "nothing comes behind it, and it comes")
	require.GreaterOrEqual(t, time.Since(start), delay)
}
