package ecstest

import (
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTestCloud starts a cloud that is held to all contracts there are.
func newTestCloud(t *testing.T, runner Runner) *Cloud {
	t.Helper()
	c, err := New(Options{Seed: 7, Runner: runner})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.Empty(t, c.Broken(), "answers that AWS would not give")
	})
	if dir, ok := BotocoreData(); ok {
		require.NoError(t, c.UseContract(dir))
	}
	return c
}

// sdkConfig has the SDK call a cloud, once for each call.
func sdkConfig(t *testing.T, c *Cloud, key, secret, token string) aws.Config {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return aws.Config{
		Region: "eu-central-1", BaseEndpoint: aws.String(c.URL()), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(key, secret, token), Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
}

func asRoot(t *testing.T, c *Cloud) aws.Config { return sdkConfig(t, c, rootKey, "secret", "") }

// asUser makes a user with a policy, and has the SDK call as that.
func asUser(t *testing.T, c *Cloud, name, policyJSON string) aws.Config {
	t.Helper()
	key, secret, err := c.AddUser(name, policyJSON)
	require.NoError(t, err)
	return sdkConfig(t, c, key, secret, "")
}

// requireCode requires an error of AWS.
func requireCode(t *testing.T, err error, code, words string) {
	t.Helper()
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	require.Equal(t, code, api.ErrorCode())
	require.Contains(t, api.ErrorMessage(), words)
}
