package ecstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// rootKey is the access key that may do everything.
const rootKey = "AKIAROOT"

// iam knows the callers, and what their policies allow. It takes a caller by the access key, and does not check
// the signature of a request.
type iam struct {
	cloud *Cloud

	mu         sync.Mutex
	principals map[string]*principal // by ARN
	keys       map[string]*key       // by access key
}

type principal struct {
	arn      string
	root     bool
	policy   policy
	trusted  string // of a role: the ARN that may take it on
	external string // and the id it has to give; "" for none
}

type key struct {
	who     *principal
	token   string // of a session
	expires time.Time
}

func newIAM(c *Cloud) *iam {
	root := &principal{arn: "arn:aws:iam::" + c.account + ":root", root: true}
	return &iam{cloud: c, principals: map[string]*principal{root.arn: root}, keys: map[string]*key{rootKey: {who: root}}}
}

// policy is an IAM policy:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html.
type policy struct {
	Version   string     `json:"Version"`
	ID        string     `json:"Id"`
	Statement statements `json:"Statement"`
}

type statements []statement

type statement struct {
	Sid         string                      `json:"Sid"`
	Effect      string                      `json:"Effect"`
	Action      words                       `json:"Action"`
	NotAction   words                       `json:"NotAction"`
	Resource    words                       `json:"Resource"`
	NotResource words                       `json:"NotResource"`
	Condition   map[string]map[string]words `json:"Condition"`
}

// words is one text or a list of them.
type words []string

func (w *words) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(w))
}

func (s *statements) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		text = append(append([]byte("["), text...), ']')
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode((*[]statement)(s))
}

// maxPolicy is how long a managed policy may be, without white space.
const maxPolicy = 6144

func parsePolicy(text string) (policy, error) {
	var p policy
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return p, fmt.Errorf("MalformedPolicyDocument: %w", err)
	}
	if n := len(strings.Join(strings.Fields(text), "")); n > maxPolicy {
		return p, fmt.Errorf("LimitExceeded: the policy has %d characters, and may have %d", n, maxPolicy)
	}
	if p.Version != "2012-10-17" || len(p.Statement) == 0 {
		return p, fmt.Errorf("MalformedPolicyDocument: a version or the statements are missing")
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" && s.Effect != "Deny" || (len(s.Action) == 0) == (len(s.NotAction) == 0) || (len(s.Resource) == 0) == (len(s.NotResource) == 0) {
			return p, fmt.Errorf("MalformedPolicyDocument: statement %q", s.Sid)
		}
		for operator := range s.Condition {
			if _, ok := operators()[operator]; !ok {
				return p, fmt.Errorf("MalformedPolicyDocument: unknown condition %s", operator)
			}
		}
	}
	return p, nil
}

// AddUser makes a user with a policy, and returns its access key.
func (c *Cloud) AddUser(name, policyJSON string) (accessKey string, err error) {
	p, err := parsePolicy(policyJSON)
	if err != nil {
		return "", err
	}
	accessKey = "AKIA" + strings.ToUpper(newID()[:16])
	who := &principal{arn: "arn:aws:iam::" + c.account + ":user/" + name, policy: p}
	c.iam.mu.Lock()
	defer c.iam.mu.Unlock()
	c.iam.principals[who.arn] = who
	c.iam.keys[accessKey] = &key{who: who}
	return accessKey, nil
}

// AddRole makes a role that trusted, an ARN, may take on, with an external id where that is not "". It returns its ARN.
func (c *Cloud) AddRole(name, policyJSON, trusted, external string) (string, error) {
	p, err := parsePolicy(policyJSON)
	if err != nil {
		return "", err
	}
	who := &principal{arn: "arn:aws:iam::" + c.account + ":role/" + name, policy: p, trusted: trusted, external: external}
	c.iam.mu.Lock()
	defer c.iam.mu.Unlock()
	c.iam.principals[who.arn] = who
	return who.arn, nil
}

// SetPolicy gives the user of an access key another policy.
func (c *Cloud) SetPolicy(accessKey, policyJSON string) error {
	p, err := parsePolicy(policyJSON)
	if err != nil {
		return err
	}
	c.iam.mu.Lock()
	defer c.iam.mu.Unlock()
	c.iam.keys[accessKey].who.policy = p
	return nil
}

// caller finds who an access key is of.
func (i *iam) caller(accessKey, token string) (*principal, *apiError) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k := i.keys[accessKey]
	switch {
	case k == nil || k.token != token:
		return nil, &apiError{status: http.StatusForbidden, code: "UnrecognizedClientException", message: "The security token included in the request is invalid."}
	case !k.expires.IsZero() && time.Now().After(k.expires):
		return nil, &apiError{status: http.StatusForbidden, code: "ExpiredTokenException", message: "The security token included in the request is expired"}
	}
	return k.who, nil
}

// session gives a role's keys for a time.
func (i *iam) session(role *principal, name string, lifetime time.Duration) (accessKey, token string, expires time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	accessKey, token, expires = "ASIA"+strings.ToUpper(newID()[:16]), newID()+newID(), time.Now().Add(lifetime)
	who := *role
	who.arn = strings.Replace(role.arn, ":iam:", ":sts:", 1)
	who.arn = strings.Replace(who.arn, ":role/", ":assumed-role/", 1) + "/" + name
	i.keys[accessKey] = &key{who: &who, token: token, expires: expires}
	return accessKey, token, expires
}

// authorize refuses what no policy of the caller allows.
func (i *iam) authorize(call *request, action, resource string, context map[string][]string) *apiError {
	if call.caller.root {
		return nil
	}
	i.mu.Lock()
	statements := call.caller.policy.Statement
	i.mu.Unlock()
	allowed, denied := false, false
	for _, s := range statements {
		if s.matches(action, resource, context) {
			allowed = allowed || s.Effect == "Allow"
			denied = denied || s.Effect == "Deny"
		}
	}
	if allowed && !denied {
		return nil
	}
	why := "no identity-based policy allows the " + action + " action"
	if denied {
		why = "with an explicit deny in an identity-based policy"
	}
	err := apiErrorf("AccessDeniedException", "User: %s is not authorized to perform: %s on resource: %s because %s", call.caller.arn, action, resource, why)
	switch call.service {
	case "sts":
		err.code, err.status = "AccessDenied", http.StatusForbidden
	case "ec2":
		err.code, err.status = "UnauthorizedOperation", http.StatusForbidden
	case "sqs":
		err.status = http.StatusForbidden
	}
	return err
}

func (s statement) matches(action, resource string, context map[string][]string) bool {
	if len(s.Action) > 0 && !anyLike(s.Action, action, true) || len(s.NotAction) > 0 && anyLike(s.NotAction, action, true) {
		return false
	}
	if len(s.Resource) > 0 && !anyLike(s.Resource, resource, false) || len(s.NotResource) > 0 && anyLike(s.NotResource, resource, false) {
		return false
	}
	for operator, keys := range s.Condition {
		holds := operators()[operator]
		for name, want := range keys {
			if !holds(lookUp(context, name), want) {
				return false
			}
		}
	}
	return true
}

// lookUp finds a key of the context; their names have no case.
func lookUp(context map[string][]string, name string) []string {
	for k, v := range context {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

func anyLike(patterns []string, text string, fold bool) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if fold {
			return like(strings.ToLower(p), strings.ToLower(text))
		}
		return like(p, text)
	})
}

// like matches * and ?, which also stand for a slash.
func like(pattern, text string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == text
	}
	quoted := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	found, err := regexp.MatchString("^(?s:"+quoted+")$", text)
	return err == nil && found
}

// operators are the conditions that a policy may have, each over what the request has and what the policy wants.
func operators() map[string]func(have, want []string) bool {
	equal := func(have, want []string) bool {
		return slices.ContainsFunc(have, func(h string) bool { return slices.Contains(want, h) })
	}
	similar := func(have, want []string) bool {
		return slices.ContainsFunc(have, func(h string) bool { return anyLike(want, h, false) })
	}
	ifThere := func(f func(have, want []string) bool) func(have, want []string) bool {
		return func(have, want []string) bool { return len(have) == 0 || f(have, want) }
	}
	return map[string]func(have, want []string) bool{
		"StringEquals": equal, "StringEqualsIfExists": ifThere(equal), "StringLike": similar, "StringLikeIfExists": ifThere(similar),
		"ArnEquals": similar, "ArnLike": similar, "ArnEqualsIfExists": ifThere(similar), "ArnLikeIfExists": ifThere(similar),
		"StringNotEquals": func(have, want []string) bool { return !equal(have, want) },
		"Bool":            equal,
		"Null": func(have, want []string) bool {
			return slices.Equal(want, []string{"true"}) == (len(have) == 0)
		},
		"ForAllValues:StringEquals": func(have, want []string) bool {
			return !slices.ContainsFunc(have, func(h string) bool { return !slices.Contains(want, h) })
		},
		"ForAllValues:StringLike": func(have, want []string) bool {
			return !slices.ContainsFunc(have, func(h string) bool { return !anyLike(want, h, false) })
		},
		"ForAnyValue:StringEquals": equal,
	}
}

// roleName is the last part of the ARN of a role.
func roleName(arn string) string { return path.Base(arn) }
