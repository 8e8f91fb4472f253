package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/layover-dev/layover/api"
)

// shape says what may stand at one place of the file. The tree of shapes is
// derived from the Go types, and drives the decoder, the JSON Schema and the
// reference.
type shape struct {
	kind    kind
	typ     reflect.Type
	elem    *shape // of a list or a map: what it holds
	keys    []*key // of an object, in the order of the Go fields
	keyName string // of a map: what its keys name
}

type kind int

const (
	kindText kind = iota
	kindInteger
	kindDecimal
	kindBoolean
	kindDuration
	kindList    // of text or of objects; one value may stand for a list of one
	kindCommand // a list of text, or one line that is split like a shell does
	kindMap
	kindObject
	kindHealth // an object, or one word: a path or a kind of check
)

// key is one key of an object.
type key struct {
	name     string
	shape    *shape
	index    []int // of the Go field, for [reflect.Value.FieldByIndex]
	required bool
	doc      string
	example  string
	fallback string // the default, where it is a constant
	env      string // environment variable that sets it too
	enum     []string
	minimum  *float64
	maximum  *float64
}

// fileShape returns the shape of the whole file.
func fileShape() *shape { return shapeOf(reflect.TypeFor[File](), nil) }

// shapeOf derives the shape of one Go type. k is the key that holds it, if any.
func shapeOf(t reflect.Type, k *key) *shape {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := &shape{typ: t}
	switch {
	case t == reflect.TypeFor[api.Duration]():
		s.kind = kindDuration
	case t == reflect.TypeFor[api.Health]():
		s.kind = kindHealth
		s.keys = keysOf(t)
	case t.Kind() == reflect.Slice && k != nil && (k.name == "command" || k.name == "rerun"):
		s.kind = kindCommand
	case t.Kind() == reflect.Slice:
		s.kind = kindList
		s.elem = shapeOf(t.Elem(), nil)
	case t.Kind() == reflect.Map:
		s.kind = kindMap
		s.elem = shapeOf(t.Elem(), nil)
	case t.Kind() == reflect.Struct:
		s.kind = kindObject
		s.keys = keysOf(t)
	case t.Kind() == reflect.Bool:
		s.kind = kindBoolean
	case t.Kind() == reflect.Int:
		s.kind = kindInteger
	case t.Kind() == reflect.Float64:
		s.kind = kindDecimal
	case t.Kind() == reflect.String:
		s.kind = kindText
	default:
		panic("config: no shape for " + t.String()) // a test walks every type
	}
	return s
}

// keysOf derives the keys of a struct from its tags. Inlined structs give theirs.
func keysOf(t reflect.Type) []*key {
	var keys []*key
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if options == "inline" {
			for _, inner := range keysOf(field.Type) {
				inner.index = append(slices.Clone(field.Index), inner.index...)
				keys = append(keys, inner)
			}
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		k := &key{
			name:     name,
			index:    field.Index,
			required: options != "omitempty",
			doc:      field.Tag.Get("doc"),
			example:  field.Tag.Get("example"),
			fallback: field.Tag.Get("default"),
			env:      field.Tag.Get("env"),
			minimum:  bound(field.Tag.Get("minimum")),
			maximum:  bound(field.Tag.Get("maximum")),
		}
		if enum := field.Tag.Get("enum"); enum != "" {
			k.enum = strings.Split(enum, ",")
		}
		k.shape = shapeOf(field.Type, k)
		if k.shape.kind == kindMap {
			k.shape.keyName = field.Tag.Get("name")
			if k.shape.keyName == "" {
				k.shape.keyName = "variable"
			}
		}
		keys = append(keys, k)
	}
	return keys
}

func bound(tag string) *float64 {
	if tag == "" {
		return nil
	}
	v, err := strconv.ParseFloat(tag, 64)
	if err != nil {
		panic("config: bound " + tag) // a test walks every type
	}
	return &v
}

// key returns the key of an object by its name, and nil where there is none.
func (s *shape) key(name string) *key {
	for _, k := range s.keys {
		if k.name == name {
			return k
		}
	}
	return nil
}

func (s *shape) keyNames() []string {
	names := make([]string, len(s.keys))
	for i, k := range s.keys {
		names[i] = k.name
	}
	return names
}

// wants says in words what may stand here.
func (s *shape) wants() string {
	switch s.kind {
	case kindText:
		return "text"
	case kindInteger:
		return "a whole number"
	case kindDecimal:
		return "a number"
	case kindBoolean:
		return "true or false"
	case kindDuration:
		return "a duration such as 500ms, 30s or 2m"
	case kindList:
		return "a list"
	case kindCommand:
		return "a command, as one line or as a list"
	case kindHealth:
		return "a path, tcp, process, or a block of keys"
	default:
		return "a block of keys"
	}
}
