package ecstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/ecs/schemas"
	"github.com/aws/smithy-go"
)

// contract holds calls and answers to what AWS publishes of its APIs: to the Smithy schemas that the SDK brings of ECS,
// which are as new as it is, and to the models of botocore, where there are any, which say more.
type contract struct {
	models map[string]model // by service

	mu     sync.Mutex
	broke  []error
	checks int
}

// model is a service-2.json: https://github.com/boto/botocore/tree/develop/botocore/data.
type model struct {
	Operations map[string]struct {
		Input  *shapeRef  `json:"input"`
		Output *shapeRef  `json:"output"`
		Errors []shapeRef `json:"errors"`
	} `json:"operations"`
	Shapes map[string]modelShape `json:"shapes"`
}

type shapeRef struct {
	Shape string `json:"shape"`
}

type modelShape struct {
	Type     string              `json:"type"`
	Required []string            `json:"required"`
	Members  map[string]shapeRef `json:"members"`
	Member   *shapeRef           `json:"member"`
	Key      *shapeRef           `json:"key"`
	Value    *shapeRef           `json:"value"`
	Enum     []string            `json:"enum"`
}

// newer are words that AWS added behind the models of Debian's awscli.
func newer() []string { return []string{"DELETE_IN_PROGRESS"} }

// schemaPairs are the Smithy schemas of the calls in use, and of their answers.
func schemaPairs() map[string][2]*smithy.Schema {
	return map[string][2]*smithy.Schema{
		"CreateCluster":              {schemas.CreateClusterRequest, schemas.CreateClusterResponse},
		"DeleteCluster":              {schemas.DeleteClusterRequest, schemas.DeleteClusterResponse},
		"ListClusters":               {schemas.ListClustersRequest, schemas.ListClustersResponse},
		"DescribeClusters":           {schemas.DescribeClustersRequest, schemas.DescribeClustersResponse},
		"RegisterTaskDefinition":     {schemas.RegisterTaskDefinitionRequest, schemas.RegisterTaskDefinitionResponse},
		"DescribeTaskDefinition":     {schemas.DescribeTaskDefinitionRequest, schemas.DescribeTaskDefinitionResponse},
		"DeregisterTaskDefinition":   {schemas.DeregisterTaskDefinitionRequest, schemas.DeregisterTaskDefinitionResponse},
		"DeleteTaskDefinitions":      {schemas.DeleteTaskDefinitionsRequest, schemas.DeleteTaskDefinitionsResponse},
		"ListTaskDefinitions":        {schemas.ListTaskDefinitionsRequest, schemas.ListTaskDefinitionsResponse},
		"ListTaskDefinitionFamilies": {schemas.ListTaskDefinitionFamiliesRequest, schemas.ListTaskDefinitionFamiliesResponse},
		"RunTask":                    {schemas.RunTaskRequest, schemas.RunTaskResponse},
		"StopTask":                   {schemas.StopTaskRequest, schemas.StopTaskResponse},
		"ListTasks":                  {schemas.ListTasksRequest, schemas.ListTasksResponse},
		"DescribeTasks":              {schemas.DescribeTasksRequest, schemas.DescribeTasksResponse},
		"CreateService":              {schemas.CreateServiceRequest, schemas.CreateServiceResponse},
		"UpdateService":              {schemas.UpdateServiceRequest, schemas.UpdateServiceResponse},
		"DeleteService":              {schemas.DeleteServiceRequest, schemas.DeleteServiceResponse},
		"DescribeServices":           {schemas.DescribeServicesRequest, schemas.DescribeServicesResponse},
		"ListServices":               {schemas.ListServicesRequest, schemas.ListServicesResponse},
		"ListContainerInstances":     {schemas.ListContainerInstancesRequest, schemas.ListContainerInstancesResponse},
		"DescribeContainerInstances": {schemas.DescribeContainerInstancesRequest, schemas.DescribeContainerInstancesResponse},
	}
}

// known says which members of a value its schema does not know.
func known(s *smithy.Schema, value any, at string) error {
	var errs []error
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			switch s.Type() { //nolint:exhaustive // a map or a structure, nothing else is an object
			case smithy.ShapeTypeMap:
				errs = append(errs, known(s.MapValue(), inner, at+"."+key))
			case smithy.ShapeTypeStructure, smithy.ShapeTypeUnion:
				member := s.Member(key)
				if member == nil {
					errs = append(errs, fmt.Errorf("%s.%s is unknown", at, key))
					continue
				}
				errs = append(errs, known(member, inner, at+"."+key))
			default:
				errs = append(errs, fmt.Errorf("%s is no object", at))
			}
		}
	case []any:
		if s.Type() != smithy.ShapeTypeList && s.Type() != smithy.ShapeTypeSet {
			return fmt.Errorf("%s is no list", at)
		}
		for i, inner := range v {
			errs = append(errs, known(s.ListMember(), inner, fmt.Sprintf("%s[%d]", at, i)))
		}
	}
	return errors.Join(errs...)
}

// BotocoreData finds the models that Debian's awscli brings.
func BotocoreData() (dir string, ok bool) {
	dir = "/usr/lib/python3/dist-packages/awscli/botocore/data"
	_, err := os.Stat(filepath.Join(dir, "ecs", "2014-11-13", "service-2.json"))
	return dir, err == nil
}

// UseContract has the cloud hold all calls and its own answers to the models in a folder of botocore. What a caller
// does against them is refused; what the cloud does is in [Cloud.Broken].
func (c *Cloud) UseContract(dir string) error {
	k := &contract{models: map[string]model{}, checks: c.Checked()}
	for service, file := range map[string]string{
		"ecs": "ecs/2014-11-13", "sqs": "sqs/2012-11-05", "logs": "logs/2014-03-28",
	} {
		text, err := os.ReadFile(filepath.Join(dir, file, "service-2.json"))
		if err != nil {
			return err
		}
		var m model
		if err := json.Unmarshal(text, &m); err != nil {
			return fmt.Errorf("read the model of %s: %w", service, err)
		}
		k.models[service] = m
	}
	c.contract = k
	return nil
}

// Broken returns what of the answers of the cloud was not as AWS has it.
func (c *Cloud) Broken() []error {
	c.contract.mu.Lock()
	defer c.contract.mu.Unlock()
	return slices.Clone(c.contract.broke)
}

// Checked is how many calls and answers were held to the contract.
func (c *Cloud) Checked() int {
	c.contract.mu.Lock()
	defer c.contract.mu.Unlock()
	return c.contract.checks
}

func (k *contract) broken(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broke = append(k.broke, err)
}

// request refuses a call that is not as the model has it.
func (k *contract) request(call *request) *apiError {
	if call.form != nil {
		return nil
	}
	if err := k.check(call, call.body, 0); err != nil {
		return apiErrorf("SerializationException", "%v", err)
	}
	return nil
}

// response says what is wrong with an answer of the cloud.
func (k *contract) response(call *request, text []byte) error {
	if err := k.check(call, text, 1); err != nil {
		return fmt.Errorf("answer to %s:%s: %w", call.service, call.action, err)
	}
	return nil
}

// check holds what a call says, or the answer to it, to all that is known of its shape.
func (k *contract) check(call *request, text []byte, side int) error {
	k.mu.Lock()
	k.checks++
	k.mu.Unlock()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		return err
	}
	if pair, ok := schemaPairs()[call.action]; ok && call.service == "ecs" {
		if err := known(pair[side], value, ""); err != nil {
			return err
		}
	}
	operation := k.models[call.service].Operations[call.action]
	shape := []*shapeRef{operation.Input, operation.Output}[side]
	if shape == nil {
		return nil
	}
	return k.models[call.service].check(shape.Shape, value, "", call.service != "ecs")
}

// check says what of a value is not as its shape. Members that it does not know are wrong where strict.
func (m model) check(name string, value any, at string, strict bool) error {
	shape := m.Shapes[name]
	wrong := fmt.Errorf("%s is no %s", at, shape.Type)
	if value == nil {
		return nil
	}
	switch shape.Type {
	case "structure":
		object, ok := value.(map[string]any)
		if !ok {
			return wrong
		}
		var errs []error
		for _, r := range shape.Required {
			if object[r] == nil {
				errs = append(errs, fmt.Errorf("%s.%s is missing", at, r))
			}
		}
		for key, v := range object {
			member, ok := shape.Members[key]
			if !ok {
				if strict {
					errs = append(errs, fmt.Errorf("%s.%s is unknown", at, key))
				}
				continue
			}
			errs = append(errs, m.check(member.Shape, v, at+"."+key, strict))
		}
		return errors.Join(errs...)
	case "list":
		list, ok := value.([]any)
		if !ok {
			return wrong
		}
		for i, v := range list {
			if err := m.check(shape.Member.Shape, v, fmt.Sprintf("%s[%d]", at, i), strict); err != nil {
				return err
			}
		}
	case "map":
		object, ok := value.(map[string]any)
		if !ok {
			return wrong
		}
		for key, v := range object {
			if err := m.check(shape.Value.Shape, v, at+"."+key, strict); err != nil {
				return err
			}
		}
	case "string":
		text, ok := value.(string)
		if !ok {
			return wrong
		}
		if len(shape.Enum) > 0 && !slices.Contains(append(newer(), shape.Enum...), text) {
			return fmt.Errorf("%s: %q is none of %v", at, text, shape.Enum)
		}
	case "boolean":
		if _, ok := value.(bool); !ok {
			return wrong
		}
	case "integer", "long", "float", "double", "timestamp":
		number, ok := value.(json.Number)
		if !ok {
			return wrong
		}
		f, err := number.Float64()
		if err != nil || (shape.Type == "integer" || shape.Type == "long") && f != math.Trunc(f) {
			return wrong
		}
	}
	return nil
}
