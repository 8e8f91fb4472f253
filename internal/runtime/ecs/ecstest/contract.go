package ecstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/aws/smithy-go"
)

// contract holds the fake to what AWS says of itself. There are two texts of it:
//
//   - the Smithy schemas that the SDK for Go has: which members each question and answer has, and of which types. They
//     always hold.
//   - the models of botocore, the library of the AWS CLI, which say besides what is required, which values an enumeration
//     has, and how long, large and of which form a value may be. They hold where [Cloud.UseContract] was told where
//     they are.
//
// Where they differ, the schemas are the newer ones: what they have and the models don't is in order.
//
// A question that breaks the contract is refused as AWS would; unlike AWS, which ignores them, also for members that
// no shape has. An answer that breaks it is a defect of the fake, see [Cloud.Broken].
type contract struct {
	mu     sync.RWMutex
	models map[string]*model // by service
	breaks []error
	checks int // questions and answers that were looked at
}

func newContract() *contract { return &contract{models: map[string]*model{}} }

// botocoreFolders are where Debian and others have the models.
func botocoreFolders() []string {
	return []string{
		"/usr/lib/python3/dist-packages/awscli/botocore/data",
		"/usr/lib/python3/dist-packages/botocore/data",
		"/usr/local/aws-cli/v2/current/dist/awscli/botocore/data",
	}
}

// BotocoreData finds the models of botocore that are installed: on Debian they are in the package awscli.
func BotocoreData() (dir string, ok bool) {
	for _, dir := range botocoreFolders() {
		if _, err := os.Stat(filepath.Join(dir, "ecs")); err == nil {
			return dir, true
		}
	}
	return "", false
}

// UseContract holds the cloud to the models of botocore in a folder, see [BotocoreData].
func (c *Cloud) UseContract(dir string) error {
	for _, service := range []string{"ecs", "sqs", "logs"} {
		m, err := readModel(filepath.Join(dir, service))
		if err != nil {
			return fmt.Errorf("read the model of %s: %w", service, err)
		}
		c.contract.mu.Lock()
		c.contract.models[service] = m
		c.contract.mu.Unlock()
	}
	return nil
}

// Broken returns what of the answers broke the contract: nothing may.
func (c *Cloud) Broken() []error {
	c.contract.mu.RLock()
	defer c.contract.mu.RUnlock()
	return slices.Clone(c.contract.breaks)
}

// Checked is how many questions and answers were held to the contract.
func (c *Cloud) Checked() int {
	c.contract.mu.RLock()
	defer c.contract.mu.RUnlock()
	return c.contract.checks
}

// broken keeps what breaks the contract.
func (c *contract) broken(err error) {
	if c == nil || err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breaks = append(c.breaks, err)
}

// model is that of a service, for a check that begins; nil where there is none.
func (c *contract) model(service string) *model {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks++
	return c.models[service]
}

// request refuses a question that breaks the contract.
func (c *contract) request(call *request) *apiError {
	if c == nil || call.form != nil {
		return nil
	}
	text := bytes.TrimSpace(call.body)
	if len(text) == 0 {
		text = []byte("{}")
	}
	body, err := readAny(text)
	if err != nil {
		return apiErrorf("SerializationException", "%v", err)
	}
	operation, known := schemaOf(call.service, call.action)
	v := &visit{question: true, service: call.service, action: call.action}
	if known {
		v.schema("", operation.Input, body)
	}
	if m := c.model(call.service); m != nil {
		if op, ok := m.Operations[call.action]; ok {
			known = true
			v.shape(m, "", op.Input.Shape, operation.Input, body)
		}
	}
	if !known {
		return apiErrorf("UnknownOperationException", "%s has no %s, or no contract of the fake has it", call.service, call.action)
	}
	if len(v.faults) == 0 {
		return nil
	}
	return v.faults[0].refusal(call)
}

// response says what of an answer breaks the contract.
func (c *contract) response(call *request, text []byte) error {
	if c == nil {
		return nil
	}
	body, err := readAny(text)
	if err != nil {
		return fmt.Errorf("%s:%s: %w", call.service, call.action, err)
	}
	v := &visit{service: call.service, action: call.action}
	operation, known := schemaOf(call.service, call.action)
	if known {
		v.schema("", operation.Output, body)
	}
	if m := c.model(call.service); m != nil {
		if op, ok := m.Operations[call.action]; ok {
			v.shape(m, "", op.Output.Shape, operation.Output, body)
		}
	}
	var all []error
	for _, f := range v.faults {
		all = append(all, fmt.Errorf("answer of %s:%s: %w", call.service, call.action, f))
	}
	return errors.Join(all...)
}

// readAny reads JSON with its numbers as they are written.
func readAny(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var out any
	if err := d.Decode(&out); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("there is more than one value")
	}
	return out, nil
}

// faultKind is what is wrong with a value.
type faultKind int

const (
	faultUnknown faultKind = iota // no shape has this member
	faultType
	faultMissing
	faultValue // not in the enumeration, too long, of the wrong form
)

// fault is a value that breaks the contract.
type fault struct {
	kind faultKind
	path string // "containerDefinitions[0].image"
	text string
}

func (f fault) Error() string { return f.path + ": " + f.text }

// refusal is the error that the service gives for the fault.
func (f fault) refusal(call *request) *apiError {
	if f.kind == faultUnknown || f.kind == faultType {
		return apiErrorf("SerializationException", "%s", f)
	}
	switch call.service {
	case "sqs":
		if f.kind == faultMissing {
			return apiErrorf("MissingParameter", "The request must contain the parameter %s.", f.path)
		}
		return apiErrorf("InvalidParameterValue", "Value for parameter %s is invalid. Reason: %s.", f.path, f.text)
	case "logs":
		return apiErrorf("InvalidParameterException", "1 validation error detected: Value at '%s' failed to satisfy constraint: %s", f.path, f.text)
	}
	if call.action == "RegisterTaskDefinition" || call.action == "RegisterContainerInstance" {
		return apiErrorf("ClientException", "%s", f)
	}
	return apiErrorf("InvalidParameterException", "%s", f)
}

// visit walks through one question or answer.
type visit struct {
	question        bool
	service, action string
	faults          []fault
}

func (v *visit) fault(kind faultKind, path, format string, args ...any) {
	f := fault{kind, path, fmt.Sprintf(format, args...)}
	if path == "" {
		f.path = "the whole"
	}
	for _, known := range v.faults {
		if known.path == f.path && known.kind == f.kind { // both contracts found it
			return
		}
	}
	v.faults = append(v.faults, f)
}

func under(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// kind is a type as far as JSON shows it.
type kind int

const (
	kindAny kind = iota
	kindObject
	kindMap
	kindList
	kindText
	kindWhole // a number without a fraction
	kindNumber
	kindTime // which the protocol has as a number of seconds
	kindTruth
)

// is checks the type of a value, and says whether to look into it.
func (v *visit) is(k kind, path string, value any, bits int) bool {
	if value == nil {
		if !v.question { // in a question null is as if it were not there
			v.fault(faultType, path, "null, which AWS does not give")
		}
		return false
	}
	want, ok := "", false
	switch k {
	case kindObject, kindMap:
		_, ok = value.(map[string]any)
		want = "an object"
	case kindList:
		_, ok = value.([]any)
		want = "a list"
	case kindText:
		_, ok = value.(string)
		want = "text"
	case kindTruth:
		_, ok = value.(bool)
		want = "true or false"
	case kindNumber, kindTime:
		_, ok = value.(json.Number)
		want = "a number"
	case kindWhole:
		want = fmt.Sprintf("a whole number of %d bits", bits)
		if n, isNumber := value.(json.Number); isNumber {
			whole, err := n.Int64()
			ok = err == nil && (bits == 64 || whole >= math.MinInt32 && whole <= math.MaxInt32)
		}
	default:
		return false
	}
	if !ok {
		v.fault(faultType, path, "%s is not %s", short(value), want)
	}
	return ok
}

func short(value any) string {
	const most = 60
	text, _ := json.Marshal(value)
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}

// schema holds a value to a schema of Smithy. nil is a shape without members.
func (v *visit) schema(path string, s *smithy.Schema, value any) {
	if s == nil {
		if members, ok := value.(map[string]any); ok {
			for name := range members {
				v.fault(faultUnknown, under(path, name), "there is no such member")
			}
		}
		return
	}
	k, bits := kindOfSchema(s)
	if !v.is(k, path, value, bits) {
		return
	}
	switch k {
	case kindObject:
		members, _ := value.(map[string]any)
		for name, inner := range members {
			m := s.Member(name)
			if m == nil {
				v.fault(faultUnknown, under(path, name), "there is no such member")
				continue
			}
			v.schema(under(path, name), m, inner)
		}
		if s.Type() == smithy.ShapeTypeUnion && len(members) != 1 {
			v.fault(faultValue, path, "a union has one member, and not %d", len(members))
		}
	case kindMap:
		members, _ := value.(map[string]any)
		for name, inner := range members {
			v.schema(under(path, name), s.MapValue(), inner)
		}
	case kindList:
		items, _ := value.([]any)
		for n, inner := range items {
			v.schema(fmt.Sprintf("%s[%d]", path, n), s.ListMember(), inner)
		}
	}
}

func kindOfSchema(s *smithy.Schema) (kind, int) {
	switch s.Type() {
	case smithy.ShapeTypeStructure, smithy.ShapeTypeUnion:
		return kindObject, 0
	case smithy.ShapeTypeMap:
		return kindMap, 0
	case smithy.ShapeTypeList, smithy.ShapeTypeSet:
		return kindList, 0
	case smithy.ShapeTypeString, smithy.ShapeTypeEnum, smithy.ShapeTypeBlob:
		return kindText, 0
	case smithy.ShapeTypeByte, smithy.ShapeTypeShort, smithy.ShapeTypeInteger, smithy.ShapeTypeIntEnum:
		return kindWhole, 32
	case smithy.ShapeTypeLong:
		return kindWhole, 64
	case smithy.ShapeTypeFloat, smithy.ShapeTypeDouble:
		return kindNumber, 0
	case smithy.ShapeTypeTimestamp:
		return kindTime, 0
	case smithy.ShapeTypeBoolean:
		return kindTruth, 0
	}
	return kindAny, 0
}

// model is a service-2.json of botocore.
type model struct {
	Operations map[string]struct {
		Input, Output struct {
			Shape string `json:"shape"`
		}
	} `json:"operations"`
	Shapes map[string]*shape `json:"shapes"`
}

type shape struct {
	Type     string            `json:"type"`
	Members  map[string]member `json:"members"`
	Required []string          `json:"required"`
	Member   member            `json:"member"` // of a list
	Value    member            `json:"value"`  // of a map
	Enum     []string          `json:"enum"`
	Min      *float64          `json:"min"`
	Max      *float64          `json:"max"`
	Pattern  string            `json:"pattern"`

	form *regexp.Regexp
}

type member struct {
	Shape string `json:"shape"`
}

// readModel reads the newest version of a service's model.
func readModel(dir string) (*model, error) {
	versions, err := filepath.Glob(filepath.Join(dir, "*", "service-2.json"))
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("%s/*/service-2.json: %w", dir, fs.ErrNotExist)
	}
	text, err := os.ReadFile(slices.Max(versions))
	if err != nil {
		return nil, err
	}
	var m model
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	for name, s := range m.Shapes {
		if s.Pattern == "" {
			continue
		}
		if s.form, err = regexp.Compile("^(?:" + s.Pattern + ")$"); err != nil {
			return nil, fmt.Errorf("shape %s: %w", name, err)
		}
	}
	return &m, nil
}

// relaxed are members that the models require, and AWS by now does not.
func relaxed() []string {
	return []string{
		"logs GetLogEvents logGroupName", "logs FilterLogEvents logGroupName", "logs DescribeLogStreams logGroupName", // or logGroupIdentifier
	}
}

// shape holds a value to a shape of a model. newer is the schema for the same value, nil where there is none: what is
// in it and not in the model is new.
func (v *visit) shape(m *model, path, name string, newer *smithy.Schema, value any) {
	s := m.Shapes[name]
	if s == nil { // a shape without members
		if members, ok := value.(map[string]any); ok && newer == nil {
			for inner := range members {
				v.fault(faultUnknown, under(path, inner), "there is no such member")
			}
		}
		return
	}
	k, bits := kindOfShape(s)
	if newer != nil {
		if known, _ := kindOfSchema(newer); known != k { // the newer one has it differently, and was asked before
			return
		}
	}
	if !v.is(k, path, value, bits) {
		return
	}
	size, what := math.NaN(), ""
	switch k {
	case kindObject:
		v.members(m, path, s, newer, value)
	case kindMap:
		members, _ := value.(map[string]any)
		size, what = float64(len(members)), "members"
		for key, inner := range members {
			v.shape(m, under(path, key), s.Value.Shape, mapValue(newer), inner)
		}
	case kindList:
		items, _ := value.([]any)
		size, what = float64(len(items)), "items"
		for n, inner := range items {
			v.shape(m, fmt.Sprintf("%s[%d]", path, n), s.Member.Shape, listMember(newer), inner)
		}
	case kindText:
		text, _ := value.(string)
		size, what = float64(utf8.RuneCountInString(text)), "characters"
		if s.form != nil && !s.form.MatchString(text) {
			v.fault(faultValue, path, "%s is not of the form %s", short(text), s.Pattern)
		}
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, text) && !newValue(newer, s.Enum, text) {
			v.fault(faultValue, path, "%s is none of %s", short(text), strings.Join(s.Enum, ", "))
		}
	case kindWhole, kindNumber:
		number, _ := value.(json.Number)
		size, _ = number.Float64()
	}
	if s.Min != nil && size < *s.Min {
		v.fault(faultValue, path, "%s: at least %s have to be", short(value), strings.TrimSpace(fmt.Sprint(*s.Min, " ", what)))
	}
	if s.Max != nil && size > *s.Max {
		v.fault(faultValue, path, "%s: at most %s may be", short(value), strings.TrimSpace(fmt.Sprint(*s.Max, " ", what)))
	}
}

// members looks at the members of a structure.
func (v *visit) members(m *model, path string, s *shape, newer *smithy.Schema, value any) {
	members, _ := value.(map[string]any)
	for _, name := range s.Required {
		if members[name] == nil && !slices.Contains(relaxed(), v.service+" "+v.action+" "+under(path, name)) {
			v.fault(faultMissing, under(path, name), "is required")
		}
	}
	for name, inner := range members {
		var next *smithy.Schema
		if newer != nil {
			next = newer.Member(name)
		}
		known, ok := s.Members[name]
		switch {
		case ok:
			v.shape(m, under(path, name), known.Shape, next, inner)
		case next == nil:
			v.fault(faultUnknown, under(path, name), "there is no such member")
		}
	}
}

func mapValue(s *smithy.Schema) *smithy.Schema {
	if s == nil {
		return nil
	}
	return s.MapValue()
}

func listMember(s *smithy.Schema) *smithy.Schema {
	if s == nil {
		return nil
	}
	return s.ListMember()
}

// newValue says whether a newer enumeration has a value that an older one has not. A schema has the names of the values:
// in capital letters, and with _ for what a name cannot have.
func newValue(s *smithy.Schema, old []string, value string) bool {
	if s == nil || s.Type() != smithy.ShapeTypeEnum {
		return s != nil && s.Type() == smithy.ShapeTypeString
	}
	for name := range s.Members() {
		if nameOf(name) == nameOf(value) {
			return !slices.ContainsFunc(old, func(known string) bool { return nameOf(known) == nameOf(name) })
		}
	}
	return false
}

// nameOf has only the letters, large, and the digits of a value.
func nameOf(value string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'A' && r <= 'Z':
			return r
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		}
		return -1
	}, value)
}

func kindOfShape(s *shape) (kind, int) {
	switch s.Type {
	case "structure":
		return kindObject, 0
	case "map":
		return kindMap, 0
	case "list":
		return kindList, 0
	case "string", "blob":
		return kindText, 0
	case "integer":
		return kindWhole, 32
	case "long":
		return kindWhole, 64
	case "float", "double":
		return kindNumber, 0
	case "timestamp":
		return kindTime, 0
	case "boolean":
		return kindTruth, 0
	}
	return kindAny, 0
}
