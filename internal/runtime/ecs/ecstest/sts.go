package ecstest

import (
	"regexp"
	"strconv"
	"time"
)

// stsService is AWS STS: who calls, and the sessions of roles.
type stsService struct{ cloud *Cloud }

func newSTS(c *Cloud) *stsService { return &stsService{cloud: c} }

// Bounds of the sessions of a role.
const (
	sessionSeconds    = 3600
	minSessionSeconds = 900
	maxSessionSeconds = 3600 // what a role has where nobody set more
)

func (s *stsService) call(call *request) (any, *apiError) {
	switch call.action {
	case "GetCallerIdentity": // which nobody can be denied
		return callerIdentity{call.caller.userID, s.cloud.account, call.caller.arn}, nil
	case "AssumeRole":
		return s.assumeRole(call)
	}
	return nil, unknownAction(call)
}

var sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)

// callerIdentity is the answer to GetCallerIdentity.
type callerIdentity struct {
	ID      string `xml:"UserId"`
	Account string
	ARN     string `xml:"Arn"`
}

// assumedRole is the answer to AssumeRole.
type assumedRole struct {
	User struct {
		ID  string `xml:"AssumedRoleId"`
		ARN string `xml:"Arn"`
	} `xml:"AssumedRoleUser"`
	Credentials struct {
		Key     string `xml:"AccessKeyId"`
		Secret  string `xml:"SecretAccessKey"`
		Token   string `xml:"SessionToken"`
		Expires string `xml:"Expiration"`
	}
}

func (s *stsService) assumeRole(call *request) (any, *apiError) {
	arn, name, seconds := call.form.Get("RoleArn"), call.form.Get("RoleSessionName"), sessionSeconds
	if arn == "" || !sessionName.MatchString(name) {
		return nil, apiErrorf("ValidationError", "1 validation error detected: Value '%s' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*", name)
	}
	if text := call.form.Get("DurationSeconds"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < minSessionSeconds {
			return nil, apiErrorf("ValidationError", "1 validation error detected: Value '%s' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to %d", text, minSessionSeconds)
		}
		if n > maxSessionSeconds {
			return nil, apiErrorf("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
		}
		seconds = n
	}
	session, err := s.cloud.iam.assume(call, arn, name, call.form.Get("ExternalId"), time.Duration(seconds)*time.Second)
	if err != nil {
		return nil, err
	}
	var out assumedRole
	out.User.ID, out.User.ARN = session.id, session.arn
	out.Credentials.Key, out.Credentials.Secret, out.Credentials.Token = session.key, session.secret, session.token
	out.Credentials.Expires = session.expires.Format(time.RFC3339)
	return out, nil
}
