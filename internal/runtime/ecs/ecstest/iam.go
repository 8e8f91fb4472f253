package ecstest

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// rootKey is the access key that may do everything, with any secret.
const rootKey = "AKIAROOT"

// iam knows who may call, and what each may do. It goes by the access key alone: the signature of a call, and with
// it the secret, is not verified.
type iam struct {
	cloud *Cloud

	mu         sync.RWMutex
	identities map[string]*identity // users and roles, by name
	keys       map[string]*accessKey
}

// identity is a user or a role.
type identity struct {
	name    string
	arn     string
	id      string // "AIDA…", "AROA…"
	policy  *policy
	role    bool
	trusted string // who may take on the role: an ARN, "arn:aws:iam::ACCOUNT:root" for all of an account
	shared  string // the external id that who takes on the role has to give; "" is none
}

// accessKey is what a principal calls with.
type accessKey struct {
	who     *principal
	token   string    // of a session; "" is none
	expires time.Time // zero is never
}

// principal is who calls.
type principal struct {
	arn      string // as AWS names it to the caller: of a role the session's
	userID   string
	identity *identity // nil of root, which may do everything
}

// newIAM has nobody but root.
func newIAM(c *Cloud) *iam {
	root := &principal{arn: "arn:aws:iam::" + c.account + ":root", userID: c.account}
	return &iam{cloud: c, identities: map[string]*identity{}, keys: map[string]*accessKey{rootKey: {who: root}}}
}

// AddUser makes a user who may do what a policy allows, and returns what to call with. The secret is not
// looked at, see the package's iam.go.
func (c *Cloud) AddUser(name, policyJSON string) (accessKeyID, secret string, err error) {
	who, err := c.iam.add(&identity{name: name, arn: "arn:aws:iam::" + c.account + ":user/" + name, id: "AIDA" + randomName()}, policyJSON)
	if err != nil {
		return "", "", err
	}
	accessKeyID = "AKIA" + randomName()
	c.iam.mu.Lock()
	defer c.iam.mu.Unlock()
	c.iam.keys[accessKeyID] = &accessKey{who: &principal{arn: who.arn, userID: who.id, identity: who}}
	return accessKeyID, randomSecret(), nil
}

// AddRole makes a role that trustedARN (a user, a role, or the root of an account for everybody there whose policy
// allows it) may take on, where externalID is not "" only by giving that. It returns the ARN of the role.
func (c *Cloud) AddRole(name, policyJSON, trustedARN, externalID string) (arn string, err error) {
	who, err := c.iam.add(&identity{
		name: name, arn: "arn:aws:iam::" + c.account + ":role/" + name, id: "AROA" + randomName(),
		role: true, trusted: trustedARN, shared: externalID,
	}, policyJSON)
	if err != nil {
		return "", err
	}
	return who.arn, nil
}

// SetPolicy replaces the policy of a user, by name or access key, or of a role, by name: it holds from the next
// call on.
func (c *Cloud) SetPolicy(name, policyJSON string) error {
	p, err := parsePolicy(policyJSON)
	if err != nil {
		return err
	}
	c.iam.mu.Lock()
	defer c.iam.mu.Unlock()
	who := c.iam.identities[name]
	if key := c.iam.keys[name]; key != nil {
		who = key.who.identity
	}
	if who == nil {
		return fmt.Errorf("NoSuchEntity: the user or role with name %s cannot be found", name)
	}
	who.policy = p
	return nil
}

func (i *iam) add(who *identity, policyJSON string) (*identity, error) {
	var err error
	if who.policy, err = parsePolicy(policyJSON); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.identities[who.name] != nil {
		return nil, fmt.Errorf("EntityAlreadyExists: a user or role with name %s already exists", who.name)
	}
	i.identities[who.name] = who
	return who, nil
}

// caller finds who calls by the access key and, of a session, its token.
func (i *iam) caller(id, token string) (*principal, *apiError) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	key := i.keys[id]
	switch {
	case key == nil || key.token != token:
		return nil, &apiError{status: http.StatusForbidden, code: "UnrecognizedClientException", message: "The security token included in the request is invalid."}
	case !key.expires.IsZero() && !time.Now().Before(key.expires):
		return nil, &apiError{status: http.StatusForbidden, code: "ExpiredTokenException", message: "The security token included in the request is expired"}
	}
	return key.who, nil
}

// roleSession is what AssumeRole gives.
type roleSession struct {
	arn, id            string // of who calls with it
	key, secret, token string
	expires            time.Time
}

// assume gives the session of a role to a principal. The trust of the role has to allow it, and the policy of
// who asks.
func (i *iam) assume(call *request, arn, name, externalID string, lifetime time.Duration) (roleSession, *apiError) {
	if err := i.authorize(call, "sts:AssumeRole", arn, map[string][]string{"sts:ExternalId": {externalID}, "sts:RoleSessionName": {name}}); err != nil {
		return roleSession{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	role := i.identities[arn[strings.LastIndex(arn, "/")+1:]]
	if role == nil || !role.role || role.arn != arn || !role.trusts(call.caller, externalID) {
		return roleSession{}, notAllowed(call, "sts:AssumeRole", arn, "")
	}
	s := roleSession{
		arn:     "arn:aws:sts::" + i.cloud.account + ":assumed-role/" + role.name + "/" + name,
		id:      role.id + ":" + name,
		key:     "ASIA" + randomName(),
		secret:  randomSecret(),
		token:   randomSecret() + randomSecret(),
		expires: time.Now().Add(lifetime).UTC().Truncate(time.Second),
	}
	i.keys[s.key] = &accessKey{who: &principal{arn: s.arn, userID: s.id, identity: role}, token: s.token, expires: s.expires}
	return s, nil
}

// trusts says whether a role may be taken on by who calls.
func (r *identity) trusts(who *principal, externalID string) bool {
	if r.shared != "" && r.shared != externalID {
		return false
	}
	if account, ok := strings.CutSuffix(r.trusted, ":root"); ok {
		return strings.Split(account, ":")[4] == strings.Split(who.arn, ":")[4]
	}
	return r.trusted == who.arn || who.identity != nil && r.trusted == who.identity.arn
}

// authorize refuses a call that the policy of who calls does not allow. context has the condition keys of the
// action ("ecs:cluster", "aws:RequestTag/x"); the keys that every call has are added.
func (i *iam) authorize(call *request, action, resource string, context map[string][]string) *apiError {
	who := call.caller
	if who.identity == nil {
		return nil
	}
	i.mu.RLock()
	p := who.identity.policy
	i.mu.RUnlock()
	known := map[string][]string{
		"aws:principalarn": {who.identity.arn}, "aws:principalaccount": {i.cloud.account}, "aws:userid": {who.userID},
		"aws:requestedregion": {i.cloud.region}, "aws:securetransport": {"false"},
	}
	if !who.identity.role {
		known["aws:username"] = []string{who.identity.name}
	}
	for key, values := range context {
		if len(values) > 0 {
			known[strings.ToLower(key)] = values // the keys of conditions have no case
		}
	}
	switch p.decide(action, resource, known) {
	case decisionAllow:
		return nil
	case decisionDeny:
		return notAllowed(call, action, resource, " with an explicit deny in an identity-based policy")
	}
	return notAllowed(call, action, resource, " because no identity-based policy allows the "+action+" action")
}

// notAllowed is the error for what a policy does not allow, in the words of each service.
func notAllowed(call *request, action, resource, why string) *apiError {
	err := apiErrorf("AccessDeniedException", "User: %s is not authorized to perform: %s on resource: %s%s", call.caller.arn, action, resource, why)
	switch call.service {
	case "sts":
		err.status, err.code = http.StatusForbidden, "AccessDenied"
	case "ec2":
		err.status, err.code = http.StatusForbidden, "UnauthorizedOperation"
		err.message = "You are not authorized to perform this operation. " + err.message
	}
	return err
}

// randomName is the part of an access key or a unique id behind its prefix.
func randomName() string {
	var b [10]byte
	_, _ = rand.Read(b[:])
	return base32.StdEncoding.EncodeToString(b[:])
}

// randomSecret has 40 characters.
func randomSecret() string {
	var b [30]byte
	_, _ = rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}
