package ecstest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPolicyDecides(t *testing.T) {
	t.Parallel()
	const task, queue = "arn:aws:ecs:eu-central-1:111122223333:task/dev/0123", "arn:aws:sqs:eu-central-1:111122223333:events"
	allow := func(rest string) string {
		return `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", ` + rest + `}}`
	}
	when := func(condition string) string {
		return allow(`"Action": "ecs:StopTask", "Resource": "*", "Condition": ` + condition)
	}
	tags := func(keys ...string) map[string][]string { return map[string][]string{"aws:TagKeys": keys} }
	cluster := map[string][]string{"ecs:cluster": {"arn:aws:ecs:eu-central-1:111122223333:cluster/dev"}}
	for _, c := range []struct {
		name, policy, action, resource string
		context                        map[string][]string
		want                           decision
	}{
		{"what is not named", allow(`"Action": "ecs:RunTask", "Resource": "*"`), "ecs:StopTask", task, nil, decisionNone},
		{"what is named", allow(`"Action": "ecs:StopTask", "Resource": "*"`), "ecs:StopTask", task, nil, decisionAllow},
		{"actions have no case", allow(`"Action": "ecs:stoptask", "Resource": "*"`), "ecs:StopTask", task, nil, decisionAllow},
		{"a list", allow(`"Action": ["ecs:RunTask", "ecs:StopTask"], "Resource": ["*"]`), "ecs:StopTask", task, nil, decisionAllow},
		{"star in an action", allow(`"Action": "ecs:*Task", "Resource": "*"`), "ecs:StopTask", task, nil, decisionAllow},
		{"star of another service", allow(`"Action": "sqs:*", "Resource": "*"`), "ecs:StopTask", task, nil, decisionNone},
		{"question mark", allow(`"Action": "ecs:Stop?ask", "Resource": "*"`), "ecs:StopTask", task, nil, decisionAllow},
		{"question mark is one character", allow(`"Action": "ecs:StopTask?", "Resource": "*"`), "ecs:StopTask", task, nil, decisionNone},
		{"everything", allow(`"Action": "*", "Resource": "*"`), "sqs:ReceiveMessage", queue, nil, decisionAllow},
		{"all but", allow(`"NotAction": "ecs:*", "Resource": "*"`), "ecs:StopTask", task, nil, decisionNone},
		{"all but, another", allow(`"NotAction": "ecs:*", "Resource": "*"`), "sqs:ReceiveMessage", queue, nil, decisionAllow},
		{"resource", allow(`"Action": "sqs:*", "Resource": "` + queue + `"`), "sqs:ReceiveMessage", queue, nil, decisionAllow},
		{"another resource", allow(`"Action": "sqs:*", "Resource": "` + queue + `2"`), "sqs:ReceiveMessage", queue, nil, decisionNone},
		{"resources have case", allow(`"Action": "sqs:*", "Resource": "` + strings.Replace(queue, "events", "Events", 1) + `"`), "sqs:ReceiveMessage", queue, nil, decisionNone},
		{"star goes over a slash", allow(`"Action": "ecs:*", "Resource": "arn:aws:ecs:*:111122223333:task/*"`), "ecs:StopTask", task, nil, decisionAllow},
		{"not this resource", allow(`"Action": "*", "NotResource": "arn:aws:ecs:*:*:task/dev/*"`), "ecs:StopTask", task, nil, decisionNone},
		{"not this resource, another", allow(`"Action": "*", "NotResource": "arn:aws:ecs:*:*:task/prod/*"`), "ecs:StopTask", task, nil, decisionAllow},
		{
			"a denial wins, wherever it is",
			`{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "ecs:Stop*", "Resource": "*"}, {"Effect": "Allow", "Action": "*", "Resource": "*"}]}`,
			"ecs:StopTask", task, nil, decisionDeny,
		},
		{
			"a denial of something else",
			`{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "ecs:Run*", "Resource": "*"}, {"Effect": "Allow", "Action": "*", "Resource": "*"}]}`,
			"ecs:StopTask", task, nil, decisionAllow,
		},
		{"StringEquals", when(`{"StringEquals": {"aws:ResourceTag/owner": "layover"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"layover"}}, decisionAllow},
		{"StringEquals, another value", when(`{"StringEquals": {"aws:ResourceTag/owner": "layover"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"x"}}, decisionNone},
		{"StringEquals, one of several", when(`{"StringEquals": {"aws:ResourceTag/owner": ["a", "b"]}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"b"}}, decisionAllow},
		{"StringEquals without the key", when(`{"StringEquals": {"aws:ResourceTag/owner": "layover"}}`), "ecs:StopTask", task, nil, decisionNone},
		{"keys have no case", when(`{"StringEquals": {"AWS:resourcetag/Owner": "layover"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"layover"}}, decisionAllow},
		{"StringEquals has no wildcards", when(`{"StringEquals": {"aws:ResourceTag/owner": "lay*"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"layover"}}, decisionNone},
		{"StringEqualsIfExists without the key", when(`{"StringEqualsIfExists": {"aws:ResourceTag/owner": "layover"}}`), "ecs:StopTask", task, nil, decisionAllow},
		{"StringEqualsIfExists, another value", when(`{"StringEqualsIfExists": {"aws:ResourceTag/owner": "layover"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"x"}}, decisionNone},
		{"StringNotEquals", when(`{"StringNotEquals": {"aws:ResourceTag/owner": ["a", "b"]}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"b"}}, decisionNone},
		{"StringNotEquals, another value", when(`{"StringNotEquals": {"aws:ResourceTag/owner": ["a", "b"]}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"c"}}, decisionAllow},
		{"StringNotEquals without the key", when(`{"StringNotEquals": {"aws:ResourceTag/owner": "a"}}`), "ecs:StopTask", task, nil, decisionAllow},
		{"StringLike", when(`{"StringLike": {"aws:ResourceTag/owner": "lay*"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"layover"}}, decisionAllow},
		{"ArnEquals", when(`{"ArnEquals": {"ecs:cluster": "arn:aws:ecs:eu-central-1:111122223333:cluster/dev"}}`), "ecs:StopTask", task, cluster, decisionAllow},
		{"ArnEquals, another", when(`{"ArnEquals": {"ecs:cluster": "arn:aws:ecs:eu-central-1:111122223333:cluster/prod"}}`), "ecs:StopTask", task, cluster, decisionNone},
		{"ArnLike", when(`{"ArnLike": {"ecs:cluster": "arn:aws:ecs:*:*:cluster/d*"}}`), "ecs:StopTask", task, cluster, decisionAllow},
		{"ArnLike goes part by part", when(`{"ArnLike": {"ecs:cluster": "arn:aws:ecs:*:cluster/dev"}}`), "ecs:StopTask", task, cluster, decisionNone},
		{"Bool", when(`{"Bool": {"aws:SecureTransport": true}}`), "ecs:StopTask", task, map[string][]string{"aws:SecureTransport": {"true"}}, decisionAllow},
		{"Bool, not", when(`{"Bool": {"aws:SecureTransport": "true"}}`), "ecs:StopTask", task, map[string][]string{"aws:SecureTransport": {"false"}}, decisionNone},
		{"Null, absent", when(`{"Null": {"aws:ResourceTag/owner": "true"}}`), "ecs:StopTask", task, nil, decisionAllow},
		{"Null, there", when(`{"Null": {"aws:ResourceTag/owner": "true"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"x"}}, decisionNone},
		{"Null false, there", when(`{"Null": {"aws:ResourceTag/owner": "false"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/owner": {"x"}}, decisionAllow},
		{"ForAllValues", when(`{"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}`), "ecs:StopTask", task, tags("a", "b"), decisionAllow},
		{"ForAllValues, one more", when(`{"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}`), "ecs:StopTask", task, tags("a", "c"), decisionNone},
		{"ForAllValues of none", when(`{"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}`), "ecs:StopTask", task, nil, decisionAllow},
		{"ForAllValues like", when(`{"ForAllValues:StringLike": {"aws:TagKeys": ["layover:*"]}}`), "ecs:StopTask", task, tags("layover:service", "x"), decisionNone},
		{"ForAnyValue", when(`{"ForAnyValue:StringEquals": {"aws:TagKeys": "a"}}`), "ecs:StopTask", task, tags("a", "c"), decisionAllow},
		{"ForAnyValue of none", when(`{"ForAnyValue:StringEquals": {"aws:TagKeys": "a"}}`), "ecs:StopTask", task, nil, decisionNone},
		{"all conditions hold", when(`{"StringEquals": {"aws:ResourceTag/a": "1", "aws:ResourceTag/b": "2"}}`), "ecs:StopTask", task, map[string][]string{"aws:ResourceTag/a": {"1"}}, decisionNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := parsePolicy(c.policy)
			require.NoError(t, err)
			lower := map[string][]string{}
			for key, values := range c.context {
				lower[strings.ToLower(key)] = values
			}
			require.Equal(t, c.want, p.decide(c.action, c.resource, lower))
		})
	}
}

func TestPolicyIsRefused(t *testing.T) {
	t.Parallel()
	good := `"Effect": "Allow", "Action": "ecs:RunTask", "Resource": "*"`
	_, err := parsePolicy(`{"Version": "2012-10-17", "Statement": [{` + good + `}]}`)
	require.NoError(t, err)
	for name, text := range map[string]string{
		"no JSON":               `{`,
		"unknown key":           `{"Version": "2012-10-17", "Statements": [{` + good + `}]}`,
		"unknown key within":    `{"Version": "2012-10-17", "Statement": [{` + good + `, "Resources": "*"}]}`,
		"a principal":           `{"Version": "2012-10-17", "Statement": [{` + good + `, "Principal": "*"}]}`,
		"unknown version":       `{"Version": "2026-01-01", "Statement": [{` + good + `}]}`,
		"no statement":          `{"Version": "2012-10-17"}`,
		"no action":             `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*"}]}`,
		"no resource":           `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*"}]}`,
		"both action and not":   `{"Version": "2012-10-17", "Statement": [{` + good + `, "NotAction": "ecs:*"}]}`,
		"unknown effect":        `{"Version": "2012-10-17", "Statement": [{"Effect": "allow", "Action": "*", "Resource": "*"}]}`,
		"action without vendor": `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "RunTask", "Resource": "*"}]}`,
		"resource that is none": `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "task/1"}]}`,
		"the same Sid twice":    `{"Version": "2012-10-17", "Statement": [{"Sid": "a", ` + good + `}, {"Sid": "a", ` + good + `}]}`,
		"Sid with a dash":       `{"Version": "2012-10-17", "Statement": [{"Sid": "a-b", ` + good + `}]}`,
		"unknown operator":      `{"Version": "2012-10-17", "Statement": [{` + good + `, "Condition": {"StringIs": {"aws:x": "y"}}}]}`,
		"key without prefix":    `{"Version": "2012-10-17", "Statement": [{` + good + `, "Condition": {"StringEquals": {"cluster": "y"}}}]}`,
		"too long":              `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "arn:aws:s3:::` + strings.Repeat("x", maxPolicy) + `"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parsePolicy(text)
			require.Error(t, err)
		})
	}
	_, err = parsePolicy(`{"Version": "2012-10-17", "Statement": [{` + strings.Repeat(" \n", maxPolicy) + good + `}]}`)
	require.NoError(t, err, "white space does not count")
}
