package ecstest

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/require"
)

const nothing = `{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}`

func TestCallerIdentityNeedsNoPermission(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	out, err := sts.NewFromConfig(asUser(t, c, "ann", nothing)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	require.NoError(t, err)
	require.Equal(t, "arn:aws:iam::111122223333:user/ann", aws.ToString(out.Arn))
	require.Equal(t, "111122223333", aws.ToString(out.Account))
	require.Regexp(t, "^AIDA", aws.ToString(out.UserId))
}

func TestUnknownKeysAreRefused(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	config := sdkConfig(t, c, "AKIANOBODY", "secret", "")
	_, err := sts.NewFromConfig(config).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	requireCode(t, err, "InvalidClientTokenId", "security token included in the request is invalid")
	_, err = cloudwatchlogs.NewFromConfig(config).DescribeLogGroups(t.Context(), &cloudwatchlogs.DescribeLogGroupsInput{})
	requireCode(t, err, "UnrecognizedClientException", "security token included in the request is invalid")
}

func TestRoleIsTakenOn(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	c.CreateLogGroup("/ecs/cart")
	allowed := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "arn:aws:iam::111122223333:role/reader"}]}`
	config := asUser(t, c, "ann", allowed)
	arn, err := c.AddRole("reader", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "logs:DescribeLogGroups", "Resource": "*"}]}`,
		"arn:aws:iam::111122223333:user/ann", "shared")
	require.NoError(t, err)
	assume := func(config aws.Config, arn, external string, seconds int32) (*sts.AssumeRoleOutput, error) {
		return sts.NewFromConfig(config).AssumeRole(t.Context(), &sts.AssumeRoleInput{
			RoleArn: &arn, RoleSessionName: aws.String("test"), ExternalId: &external, DurationSeconds: &seconds,
		})
	}
	out, err := assume(config, arn, "shared", 900)
	require.NoError(t, err)
	require.Equal(t, "arn:aws:sts::111122223333:assumed-role/reader/test", aws.ToString(out.AssumedRoleUser.Arn))
	require.WithinDuration(t, time.Now().Add(15*time.Minute), aws.ToTime(out.Credentials.Expiration), time.Minute)
	key, secret, token := aws.ToString(out.Credentials.AccessKeyId), aws.ToString(out.Credentials.SecretAccessKey), aws.ToString(out.Credentials.SessionToken)
	require.Regexp(t, "^ASIA", key)

	session := sdkConfig(t, c, key, secret, token)
	groups, err := cloudwatchlogs.NewFromConfig(session).DescribeLogGroups(t.Context(), &cloudwatchlogs.DescribeLogGroupsInput{})
	require.NoError(t, err)
	require.Len(t, groups.LogGroups, 1)
	_, err = cloudwatchlogs.NewFromConfig(session).DeleteLogGroup(t.Context(), &cloudwatchlogs.DeleteLogGroupInput{LogGroupName: aws.String("/ecs/cart")})
	requireCode(t, err, "AccessDeniedException", "User: arn:aws:sts::111122223333:assumed-role/reader/test is not authorized to perform: logs:DeleteLogGroup")
	_, err = cloudwatchlogs.NewFromConfig(config).DescribeLogGroups(t.Context(), &cloudwatchlogs.DescribeLogGroupsInput{})
	requireCode(t, err, "AccessDeniedException", "because no identity-based policy allows the logs:DescribeLogGroups action")
	_, err = cloudwatchlogs.NewFromConfig(sdkConfig(t, c, key, secret, "other")).DescribeLogGroups(t.Context(), &cloudwatchlogs.DescribeLogGroupsInput{})
	requireCode(t, err, "UnrecognizedClientException", "")

	_, err = assume(config, arn, "guessed", 900)
	requireCode(t, err, "AccessDenied", "not authorized to perform: sts:AssumeRole on resource: "+arn)
	_, err = assume(config, arn, "shared", 899)
	requireCode(t, err, "ValidationError", "durationSeconds")
	_, err = assume(config, arn, "shared", 7200)
	requireCode(t, err, "ValidationError", "MaxSessionDuration")
	_, err = assume(asUser(t, c, "bob", allowed), arn, "shared", 900)
	requireCode(t, err, "AccessDenied", "user/bob")
	require.NoError(t, c.SetPolicy("ann", nothing))
	_, err = assume(config, arn, "shared", 900)
	requireCode(t, err, "AccessDenied", "with an explicit deny")

	c.iam.mu.Lock()
	c.iam.keys[key].expires = time.Now()
	c.iam.mu.Unlock()
	_, err = cloudwatchlogs.NewFromConfig(session).DescribeLogGroups(t.Context(), &cloudwatchlogs.DescribeLogGroupsInput{})
	requireCode(t, err, "ExpiredTokenException", "expired")
}

func TestRoleTrustsAnAccount(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	arn, err := c.AddRole("any", nothing, "arn:aws:iam::111122223333:root", "")
	require.NoError(t, err)
	other, err := c.AddRole("other", nothing, "arn:aws:iam::999988887777:root", "")
	require.NoError(t, err)
	client := sts.NewFromConfig(asRoot(t, c))
	_, err = client.AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: &arn, RoleSessionName: aws.String("test")})
	require.NoError(t, err)
	_, err = client.AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: &other, RoleSessionName: aws.String("test")})
	requireCode(t, err, "AccessDenied", "")
}
