package ecs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func invalid(hint, format string, args ...any) *control.Error {
	return &control.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// busy says whether AWS refused a call for being too many, or for a fault of its own that passes.
func busy(err error) bool {
	if err == nil {
		return false
	}
	if code := codeOf(err); code != "" {
		_, throttled := retry.DefaultThrottleErrorCodes[code]
		return throttled || code == "ServerException" || code == "InternalFailure" || code == "ServiceUnavailable"
	}
	return false
}

// brokeOff says whether a call failed because its connection did: AWS closes those that nobody used for a while.
func brokeOff(err error) bool {
	return err != nil && retry.RetryableConnectionError{}.IsErrorRetryable(err) == aws.TrueTernary
}

// codeOf returns the code of an error of AWS, "" where it is none.
func codeOf(err error) string {
	if known, ok := errors.AsType[smithy.APIError](err); ok {
		return known.ErrorCode()
	}
	return ""
}

// denied says whether AWS refused a call because a policy does not allow it.
func denied(err error) bool {
	switch codeOf(err) {
	case "AccessDeniedException", "AccessDenied", "UnauthorizedOperation":
		return true
	}
	return false
}

// fail turns an error of AWS into one for people. what says what was being done, and to which thing.
func (a *account) fail(ctx context.Context, what string, err error) error {
	if known, ok := errors.AsType[*control.Error](err); ok {
		return known
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	told := &control.Error{Code: api.CodeUnavailable, Err: err}
	var unreachable *net.OpError
	aws, isAWS := errors.AsType[smithy.APIError](err)
	switch {
	case denied(err):
		told.Code = api.CodeInvalid
		told.Message = fmt.Sprintf("%s: AWS does not allow it: %s", what, sentence(aws))
		told.Hint = "give the role of this server the policy that `layover ecs iam-policy` prints"
	case errors.As(err, new(*types.ClusterNotFoundException)):
		told.Code = api.CodeNotFound
		told.Message = fmt.Sprintf("%s: there is no such cluster in region %s", what, a.region)
		told.Hint = "set ecs.cluster and ecs.region, or cluster and region of the service's run.ecs"
	case busy(err):
		told.Message = fmt.Sprintf("%s: AWS is asked too much, or has trouble (%s)", what, codeOf(err))
		told.Hint = "it is tried again; set ecs.calls_per_second lower where that goes on"
	case isAWS && (strings.Contains(aws.ErrorCode(), "Token") || strings.Contains(aws.ErrorCode(), "Signature")):
		told.Message = fmt.Sprintf("%s: AWS refuses the credentials: %s", what, sentence(aws))
		told.Hint = "are they out of date? `aws sts get-caller-identity` says who you are"
	case isAWS:
		told.Code = api.CodeInvalid
		told.Message = fmt.Sprintf("%s: %s", what, sentence(aws))
		told.Hint = "`layover ecs check` looks at everything that a deployment needs"
	case strings.Contains(err.Error(), "credentials"):
		told.Message = fmt.Sprintf("%s: no credentials of AWS were found, or they cannot be had", what)
		told.Hint = "give the server a role (task role, instance profile), or set AWS_PROFILE or AWS_ACCESS_KEY_ID"
	case errors.As(err, &unreachable), errors.As(err, new(*net.DNSError)):
		told.Message = fmt.Sprintf("%s: AWS cannot be reached in region %s", what, a.region)
		told.Hint = "is the region right, and does this machine reach the internet or the VPC endpoints of ECS?"
	default:
		told.Message = fmt.Sprintf("%s: %v", what, err)
		told.Hint = "`layover ecs check` looks at everything that a deployment needs"
	}
	return told
}

// sentence is what AWS says of an error.
func sentence(err smithy.APIError) string {
	if err.ErrorMessage() == "" {
		return err.ErrorCode()
	}
	return err.ErrorMessage()
}
