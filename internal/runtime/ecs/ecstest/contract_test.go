package ecstest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// newTestContract has both texts.
func newTestContract(t *testing.T) *contract {
	t.Helper()
	dir, ok := BotocoreData()
	if !ok {
		t.Skip("left out: the models of botocore are not here (Debian: awscli)")
	}
	c := &Cloud{contract: newContract()}
	require.NoError(t, c.UseContract(dir))
	return c.contract
}

func TestContractHoldsQuestions(t *testing.T) {
	t.Parallel()
	both := newTestContract(t)
	for _, c := range []struct{ name, service, action, body, code, words string }{
		{"in order", "ecs", "RunTask", `{"taskDefinition": "cart:1", "count": 2, "launchType": "FARGATE", "tags": [{"key": "a", "value": "b"}]}`, "", ""},
		{"null is as absent", "ecs", "RunTask", `{"taskDefinition": "cart:1", "count": null}`, "", ""},
		{"newer than botocore", "ecs", "CreateService", `{"serviceName": "cart", "availabilityZoneRebalancing": "ENABLED"}`, "", ""},
		{"newer value", "ecs", "RunTask", `{"taskDefinition": "cart:1", "launchType": "MANAGED_INSTANCES"}`, "", ""},
		{"unknown member", "ecs", "RunTask", `{"taskDefinition": "cart:1", "counts": 2}`, "SerializationException", "counts"},
		{"unknown member within", "ecs", "RunTask", `{"taskDefinition": "cart:1", "overrides": {"containerOverrides": [{"names": "x"}]}}`, "SerializationException", "overrides.containerOverrides[0].names"},
		{"text for a number", "ecs", "RunTask", `{"taskDefinition": "cart:1", "count": "2"}`, "SerializationException", "whole number"},
		{"a fraction", "ecs", "RunTask", `{"taskDefinition": "cart:1", "count": 1.5}`, "SerializationException", "whole number"},
		{"too large for 32 bits", "ecs", "RunTask", `{"taskDefinition": "cart:1", "count": 3000000000}`, "SerializationException", "32 bits"},
		{"one for a list", "ecs", "DescribeTasks", `{"tasks": "x"}`, "SerializationException", "a list"},
		{"no JSON", "ecs", "RunTask", `{`, "SerializationException", ""},
		{"missing", "ecs", "RunTask", `{}`, "InvalidParameterException", "taskDefinition"},
		{"missing in a definition", "ecs", "RegisterTaskDefinition", `{"containerDefinitions": []}`, "ClientException", "family"},
		{"no value of the enumeration", "ecs", "RunTask", `{"taskDefinition": "cart:1", "launchType": "LAMBDA"}`, "InvalidParameterException", "LAMBDA"},
		{"tag of another form", "ecs", "RunTask", `{"taskDefinition": "cart:1", "tags": [{"key": "a&b", "value": ""}]}`, "InvalidParameterException", "tags[0].key"},
		{"weight too large", "ecs", "RunTask", `{"taskDefinition": "cart:1", "capacityProviderStrategy": [{"capacityProvider": "x", "weight": 1001}]}`, "InvalidParameterException", "weight"},
		{"unknown action", "ecs", "RunTasks", `{}`, "UnknownOperationException", ""},
		{"logs", "logs", "GetLogEvents", `{"logGroupName": "a", "logStreamName": "b"}`, "", ""},
		{"logs by identifier", "logs", "GetLogEvents", `{"logGroupIdentifier": "a", "logStreamName": "b"}`, "", ""},
		{"logs, name of another form", "logs", "GetLogEvents", `{"logGroupName": "a b", "logStreamName": "b"}`, "InvalidParameterException", "logGroupName"},
		{"logs, limit", "logs", "GetLogEvents", `{"logGroupName": "a", "logStreamName": "b", "limit": 10001}`, "InvalidParameterException", "limit"},
		{"queue", "sqs", "ReceiveMessage", `{"QueueUrl": "http://x", "MessageSystemAttributeNames": ["All"]}`, "", ""},
		{"queue missing", "sqs", "ReceiveMessage", `{}`, "MissingParameter", "QueueUrl"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := both.request(&request{service: c.service, action: c.action, body: []byte(c.body)})
			if c.code == "" {
				require.Nil(t, err)
				return
			}
			require.NotNil(t, err)
			require.Equal(t, c.code, err.code)
			require.Contains(t, err.message, c.words)
		})
	}
}

func TestContractHoldsAnswers(t *testing.T) {
	t.Parallel()
	both := newTestContract(t)
	for _, c := range []struct{ name, action, body, words string }{
		{"in order", "DescribeTasks", `{"tasks": [{"taskArn": "x", "createdAt": 1764183845.123, "lastStatus": "RUNNING"}], "failures": []}`, ""},
		{"unknown member", "DescribeTasks", `{"tasks": [{"taskARN": "x"}]}`, "tasks[0].taskARN"},
		{"time as text", "DescribeTasks", `{"tasks": [{"createdAt": "2026-11-26T19:04:05Z"}]}`, "not a number"},
		{"no value of the enumeration", "DescribeTasks", `{"tasks": [{"launchType": "fargate!"}]}`, "launchType"},
		{"null", "DescribeTasks", `{"tasks": null}`, "null"},
		{"nothing", "DescribeTasks", `null`, "null"},
		{"port as text", "DescribeTasks", `{"tasks": [{"containers": [{"networkBindings": [{"hostPort": "80"}]}]}]}`, "hostPort"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for name, text := range map[string]*contract{"both": both, "schemas": newContract()} {
				if name == "schemas" && c.name == "no value of the enumeration" {
					continue // the schemas don't have the values
				}
				err := text.response(&request{service: "ecs", action: c.action}, []byte(c.body))
				if c.words == "" {
					require.NoError(t, err, name)
				} else {
					require.ErrorContains(t, err, c.words, name)
				}
			}
		})
	}
}

func TestContractMayBeNone(t *testing.T) {
	t.Parallel()
	var none *contract
	require.Nil(t, none.request(&request{service: "ecs", action: "RunTask", body: []byte(`{"x": 1}`)}))
	require.NoError(t, none.response(&request{service: "ecs", action: "RunTask"}, []byte(`{"x": 1}`)))
	none.broken(nil)
}
