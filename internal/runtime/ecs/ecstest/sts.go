package ecstest

import (
	"encoding/xml"
	"strconv"
	"strings"
	"time"
)

// stsService is the API of STS.
type stsService struct{ cloud *Cloud }

func newSTS(c *Cloud) *stsService { return &stsService{cloud: c} }

type callerIdentity struct {
	XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
	Arn     string   `xml:"GetCallerIdentityResult>Arn"`
	UserID  string   `xml:"GetCallerIdentityResult>UserId"`
	Account string   `xml:"GetCallerIdentityResult>Account"`
	Request string   `xml:"ResponseMetadata>RequestId"`
}

type assumedRole struct {
	XMLName     xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
	Arn         string   `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
	RoleID      string   `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
	AccessKeyID string   `xml:"AssumeRoleResult>Credentials>AccessKeyId"`
	Secret      string   `xml:"AssumeRoleResult>Credentials>SecretAccessKey"`
	Token       string   `xml:"AssumeRoleResult>Credentials>SessionToken"`
	Expires     string   `xml:"AssumeRoleResult>Credentials>Expiration"`
	Request     string   `xml:"ResponseMetadata>RequestId"`
}

func (s *stsService) call(call *request) (any, *apiError) {
	switch call.action {
	case "GetCallerIdentity": // needs no permission
		return callerIdentity{Arn: call.caller.arn, UserID: "AIDA" + strings.ToUpper(newID()[:16]), Account: s.cloud.account, Request: newID()}, nil
	case "AssumeRole":
		return s.assumeRole(call)
	}
	return nil, apiErrorf("InvalidAction", "this fake has no sts:%s", call.action)
}

func (s *stsService) assumeRole(call *request) (any, *apiError) {
	arn, name := call.form.Get("RoleArn"), call.form.Get("RoleSessionName")
	s.cloud.iam.mu.Lock()
	role := s.cloud.iam.principals[arn]
	s.cloud.iam.mu.Unlock()
	refused := &apiError{status: 403, code: "AccessDenied", message: "User: " + call.caller.arn + " is not authorized to perform: sts:AssumeRole on resource: " + arn}
	if role == nil || role.trusted == "" || role.trusted != call.caller.arn && role.trusted != "*" || role.external != call.form.Get("ExternalId") {
		return nil, refused
	}
	if err := s.cloud.iam.authorize(call, "sts:AssumeRole", arn, nil); err != nil {
		return nil, err
	}
	seconds, err := strconv.Atoi(call.form.Get("DurationSeconds"))
	if err != nil {
		seconds = 3600
	}
	accessKey, token, expires := s.cloud.iam.session(role, name, time.Duration(seconds)*time.Second)
	return assumedRole{
		Arn: strings.Replace(arn, ":iam:", ":sts:", 1) + "/" + name, RoleID: "AROA:" + name, AccessKeyID: accessKey, Secret: newID(), Token: token,
		Expires: expires.UTC().Format(time.RFC3339), Request: newID(),
	}, nil
}
