package ecstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// maxPolicy is how many characters a managed policy may have, without white space.
const maxPolicy = 6144

// policy is what an identity may do, in the language of IAM:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html. It has no Principal, as policies of
// identities don't, and no variables, which are refused.
type policy struct {
	Version   string           `json:"Version"`
	ID        string           `json:"Id"`
	Statement list[*statement] `json:"Statement"`
}

// statement allows or denies.
type statement struct {
	Sid         string                             `json:"Sid"`
	Effect      string                             `json:"Effect"`
	Action      list[string]                       `json:"Action"`
	NotAction   list[string]                       `json:"NotAction"`
	Resource    list[string]                       `json:"Resource"`
	NotResource list[string]                       `json:"NotResource"`
	Condition   map[string]map[string]list[scalar] `json:"Condition"`

	conditions []condition
}

// list is one value, or several in a list.
type list[T any] []T

func (l *list[T]) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte("[")) {
		var several []T
		if err := strictly(text, &several); err != nil {
			return err
		}
		*l = append(list[T]{}, several...)
		return nil
	}
	var one T
	if err := strictly(text, &one); err != nil {
		return err
	}
	*l = list[T]{one}
	return nil
}

// scalar is text, or a truth value or a number that stands for its text.
type scalar string

func (s *scalar) UnmarshalJSON(text []byte) error {
	if !bytes.HasPrefix(text, []byte(`"`)) {
		*s = scalar(text)
		if bytes.ContainsAny(text, "[{") || string(text) == "null" {
			return fmt.Errorf("%s is no value", text)
		}
		return nil
	}
	return json.Unmarshal(text, (*string)(s))
}

func strictly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// parsePolicy reads a policy, and refuses what IAM refuses.
func parsePolicy(text string) (*policy, error) {
	var p policy
	if !json.Valid([]byte(text)) {
		return nil, errors.New("MalformedPolicyDocument: this policy contains invalid Json")
	}
	if n := lengthOf(text); n > maxPolicy {
		return nil, fmt.Errorf("LimitExceeded: cannot exceed quota for PolicySize: %d (it has %d characters without white space)", maxPolicy, n)
	}
	if err := strictly([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("MalformedPolicyDocument: syntax errors in policy: %w", err)
	}
	if p.Version != "2012-10-17" && p.Version != "2008-10-17" && p.Version != "" {
		return nil, fmt.Errorf("MalformedPolicyDocument: version %q: the policy language has 2012-10-17", p.Version)
	}
	if len(p.Statement) == 0 {
		return nil, errors.New("MalformedPolicyDocument: syntax errors in policy: no statement")
	}
	seen := map[string]bool{}
	for n, s := range p.Statement {
		if s == nil {
			return nil, fmt.Errorf("MalformedPolicyDocument: statement %d: null", n+1)
		}
		if s.Sid != "" && seen[s.Sid] {
			return nil, fmt.Errorf("MalformedPolicyDocument: statement IDs (SID) in a single policy must be unique: %s", s.Sid)
		}
		seen[s.Sid] = true
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("MalformedPolicyDocument: statement %d: %w", n+1, err)
		}
	}
	return &p, nil
}

// lengthOf counts as IAM does.
func lengthOf(text string) int {
	n := 0
	for _, r := range text {
		if !unicode.IsSpace(r) {
			n++
		}
	}
	return n
}

var (
	sidForm    = regexp.MustCompile(`^[A-Za-z0-9]*$`)
	actionForm = regexp.MustCompile(`^(\*|[a-z0-9-]+:[A-Za-z0-9*?]+)$`)
	arnForm    = regexp.MustCompile(`^(\*|arn:[^:]*:[^:]*:[^:]*:[^:]*:.+)$`)
)

func (s *statement) check() error {
	switch {
	case !sidForm.MatchString(s.Sid):
		return fmt.Errorf("statement IDs (SID) must be alpha-numeric: %s", s.Sid)
	case s.Effect != "Allow" && s.Effect != "Deny":
		return fmt.Errorf("effect %q: Allow and Deny exist", s.Effect)
	case (len(s.Action) == 0) == (len(s.NotAction) == 0):
		return errors.New("policy statement must contain actions: Action or NotAction")
	case (len(s.Resource) == 0) == (len(s.NotResource) == 0):
		return errors.New("policy statement must contain resources: Resource or NotResource")
	}
	for _, a := range slices.Concat(s.Action, s.NotAction) {
		if !actionForm.MatchString(a) {
			return fmt.Errorf("actions/conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.: %s", a)
		}
	}
	for _, r := range slices.Concat(s.Resource, s.NotResource) {
		if !arnForm.MatchString(r) {
			return fmt.Errorf("resource %s must be in ARN format or \"*\"", r)
		}
		if strings.Contains(r, "${") {
			return fmt.Errorf("resource %s: the fake has no policy variables", r)
		}
	}
	for operator, keys := range s.Condition {
		for key, values := range keys {
			c, err := newCondition(operator, key, values)
			if err != nil {
				return err
			}
			s.conditions = append(s.conditions, c)
		}
	}
	return nil
}

type decision int

const (
	decisionNone decision = iota // nothing allows it
	decisionAllow
	decisionDeny
)

// decide says what the policy says of an action on a resource: a denial wins, and what nothing allows is not allowed.
func (p *policy) decide(action, resource string, context map[string][]string) decision {
	out := decisionNone
	for _, s := range p.Statement {
		if !s.matches(action, resource, context) {
			continue
		}
		if s.Effect == "Deny" {
			return decisionDeny
		}
		out = decisionAllow
	}
	return out
}

func (s *statement) matches(action, resource string, context map[string][]string) bool {
	does := func(patterns list[string], has string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool { return wildcard(pattern, has) })
	}
	lower := func(l list[string]) list[string] { // actions have no case
		out := slices.Clone(l)
		for i := range out {
			out[i] = strings.ToLower(out[i])
		}
		return out
	}
	action = strings.ToLower(action)
	switch {
	case len(s.Action) > 0 && !does(lower(s.Action), action), len(s.NotAction) > 0 && does(lower(s.NotAction), action):
		return false
	case len(s.Resource) > 0 && !does(s.Resource, resource), len(s.NotResource) > 0 && does(s.NotResource, resource):
		return false
	}
	for _, c := range s.conditions {
		if !c.holds(context[c.key]) {
			return false
		}
	}
	return true
}

// condition is one key of one operator.
type condition struct {
	key      string
	values   []string
	forAll   bool // ForAllValues
	forAny   bool // ForAnyValue
	ifExists bool
	null     bool
	negated  bool
	match    func(want, has string) bool
}

func newCondition(operator, key string, values list[scalar]) (condition, error) {
	c := condition{key: strings.ToLower(key)}
	if !strings.Contains(key, ":") {
		return c, fmt.Errorf("invalid condition key %s: keys are PREFIX:NAME", key)
	}
	for _, v := range values {
		if strings.Contains(string(v), "${") {
			return c, fmt.Errorf("condition %s: the fake has no policy variables", v)
		}
		c.values = append(c.values, string(v))
	}
	name := operator
	if name, c.forAll = strings.CutPrefix(name, "ForAllValues:"); !c.forAll {
		name, c.forAny = strings.CutPrefix(name, "ForAnyValue:")
	}
	name, c.ifExists = strings.CutSuffix(name, "IfExists")
	positive := strings.Replace(name, "Not", "", 1)
	c.negated = positive != name
	equal := func(want, has string) bool { return want == has }
	switch positive {
	case "StringEquals":
		c.match = equal
	case "StringEqualsIgnoreCase":
		c.match = strings.EqualFold
	case "StringLike":
		c.match = wildcard
	case "ArnEquals", "ArnLike":
		c.match = arnLike
	case "Bool":
		c.match = strings.EqualFold
	case "Null":
		c.match, c.null = strings.EqualFold, true
	default:
		return c, fmt.Errorf("invalid condition type %s, or one that the fake does not have", operator)
	}
	if (positive == "Bool" || positive == "Null") && (c.negated || c.null && (c.ifExists || c.forAll || c.forAny)) {
		return c, fmt.Errorf("invalid condition type %s", operator)
	}
	return c, nil
}

// holds says whether the condition holds for the values that a call has of its key: none means that the call does
// not have the key.
func (c condition) holds(have []string) bool {
	if c.null {
		absent := "false"
		if len(have) == 0 {
			absent = "true"
		}
		return slices.ContainsFunc(c.values, func(want string) bool { return c.match(want, absent) })
	}
	one := func(has string) bool {
		return slices.ContainsFunc(c.values, func(want string) bool { return c.match(want, has) }) != c.negated
	}
	switch {
	case c.forAll:
		return !slices.ContainsFunc(have, func(has string) bool { return !one(has) })
	case len(have) == 0 && c.ifExists:
		return true
	case len(have) == 0:
		return c.negated && !c.forAny
	case c.negated && !c.forAny:
		return !slices.ContainsFunc(have, func(has string) bool { return !one(has) })
	}
	return slices.ContainsFunc(have, one)
}

// arnLike matches part by part of an ARN.
func arnLike(want, has string) bool {
	const parts = 6
	w, h := strings.SplitN(want, ":", parts), strings.SplitN(has, ":", parts)
	if len(w) != parts || len(h) != parts {
		return false
	}
	for i := range w {
		if !wildcard(w[i], h[i]) {
			return false
		}
	}
	return true
}

// wildcard matches text against a pattern in which * is anything, also nothing, and ? one character.
func wildcard(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	star, again := -1, 0
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, again = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i, j = i+1, j+1
		case star >= 0:
			again++
			i, j = star+1, again
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
