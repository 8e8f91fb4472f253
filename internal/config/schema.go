package config

import (
	"bytes"
	"encoding/json"
	"fmt"
)

//go:generate go test . -run "TestSchema|TestReference|TestTestFile_SchemaAndReference" -update

// Patterns of the schema. The loader says more exactly what is wrong.
const (
	namePattern     = `^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`
	envPattern      = `^[A-Za-z_][A-Za-z0-9_.-]*$`
	durationPattern = `^(never|[0-9]{1,5}d)$|^([0-9]{1,5}d)?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))*$|^0$`
	pathPattern     = `^/`
)

// jsonSchema is the part of JSON Schema (draft 2020-12) that is used here.
type jsonSchema struct {
	Schema               string                 `json:"$schema,omitempty"`
	Title                string                 `json:"title,omitempty"`
	Description          string                 `json:"description,omitempty"`
	Type                 any                    `json:"type,omitempty"` // one name or several
	Default              any                    `json:"default,omitempty"`
	Examples             []any                  `json:"examples,omitempty"`
	Enum                 []string               `json:"enum,omitempty"`
	Pattern              string                 `json:"pattern,omitempty"`
	MinLength            int                    `json:"minLength,omitempty"`
	Minimum              *float64               `json:"minimum,omitempty"`
	Maximum              *float64               `json:"maximum,omitempty"`
	Items                *jsonSchema            `json:"items,omitempty"`
	MinItems             int                    `json:"minItems,omitempty"`
	AnyOf                []*jsonSchema          `json:"anyOf,omitempty"`
	Properties           map[string]*jsonSchema `json:"properties,omitempty"`
	PatternProperties    map[string]*jsonSchema `json:"patternProperties,omitempty"`
	PropertyNames        *jsonSchema            `json:"propertyNames,omitempty"`
	Required             []string               `json:"required,omitempty"`
	AdditionalProperties any                    `json:"additionalProperties,omitempty"` // false, or a schema
}

// Schema returns the JSON Schema of layover.yaml, for editors.
func Schema() ([]byte, error) { return schema(fileShape(), FileName) }

// SchemaOfTests returns the JSON Schema of layover.test.yaml.
func SchemaOfTests() ([]byte, error) { return schema(testFileShape(), TestFileName) }

func schema(s *shape, title string) ([]byte, error) {
	root := schemaOf(s, nil)
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = title
	root.PatternProperties = map[string]*jsonSchema{"^x-": {Description: "Ignored: a place for anchors"}}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("write schema: %w", err)
	}
	return out.Bytes(), nil
}

// schemaOf returns the schema of a shape. k is the key that holds it, if any.
func schemaOf(s *shape, k *key) *jsonSchema {
	j := &jsonSchema{}
	switch s.kind {
	case kindText:
		j.Type, j.MinLength = "string", 1
	case kindInteger:
		j.Type = "integer"
	case kindDecimal:
		j.Type = "number"
	case kindBoolean:
		j.Type = "boolean"
	case kindDuration:
		j.Type, j.Pattern = "string", durationPattern
	case kindList:
		list := &jsonSchema{Type: "array", Items: schemaOf(s.elem, nil)}
		j.AnyOf = []*jsonSchema{list, schemaOf(s.elem, nil)}
	case kindCommand:
		word := &jsonSchema{Type: []string{"string", "number", "boolean"}}
		j.AnyOf = []*jsonSchema{{Type: "string", MinLength: 1}, {Type: "array", Items: word, MinItems: 1}}
	case kindHealth:
		j.AnyOf = []*jsonSchema{{Type: "string", Pattern: pathPattern}, {Type: "string", Enum: []string{"tcp", "process"}}, objectSchema(s)}
	case kindMap:
		j = mapSchema(s)
	case kindObject:
		j = objectSchema(s)
	}
	if k != nil {
		j.describe(k)
	}
	return j
}

func objectSchema(s *shape) *jsonSchema {
	j := &jsonSchema{Type: []string{"object", "null"}, Properties: map[string]*jsonSchema{}, AdditionalProperties: false}
	for _, k := range s.keys {
		j.Properties[k.name] = schemaOf(k.shape, k)
		if k.required {
			j.Required = append(j.Required, k.name)
		}
	}
	if len(j.Required) > 0 {
		j.Type = "object"
	}
	return j
}

func mapSchema(s *shape) *jsonSchema {
	j := &jsonSchema{Type: []string{"object", "null"}, AdditionalProperties: schemaOf(s.elem, nil), PropertyNames: &jsonSchema{Pattern: namePattern}}
	if s.keyName == "variable" {
		j.PropertyNames.Pattern = envPattern
	}
	if s.elem.kind == kindText {
		j.AdditionalProperties = &jsonSchema{Type: []string{"string", "number", "boolean"}}
	}
	return j
}

// describe adds what the tags of a key say.
func (j *jsonSchema) describe(k *key) {
	j.Description = k.doc
	j.Enum, j.Minimum, j.Maximum = k.enum, k.minimum, k.maximum
	if k.example != "" && k.shape.kind != kindMap {
		j.Examples = []any{typed(k.shape.kind, k.example)}
	}
	if k.fallback != "" {
		j.Default = typed(k.shape.kind, k.fallback)
	}
}

// typed returns what a tag says as the JSON value that stands for it.
func typed(k kind, text string) any {
	switch k {
	case kindList:
		return []string{text}
	case kindInteger, kindDecimal, kindBoolean:
		return json.RawMessage(text)
	}
	return text
}
