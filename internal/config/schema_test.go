package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSchema(t *testing.T) {
	text, err := Schema()
	require.NoError(t, err)
	golden(t, "../../layover.schema.json", text)

	var root jsonSchema
	require.NoError(t, json.Unmarshal(text, &root))
	sameKeys(t, fileShape(), &root, "file")
}

// sameKeys holds that loader and schema know the same keys everywhere.
func sameKeys(t *testing.T, s *shape, j *jsonSchema, at string) {
	t.Helper()
	require.NotNil(t, j, at)
	switch s.kind {
	case kindObject, kindHealth:
		if s.kind == kindHealth {
			j = j.AnyOf[len(j.AnyOf)-1]
		}
		require.Len(t, j.Properties, len(s.keys), at)
		require.Equal(t, false, j.AdditionalProperties, at)
		for _, k := range s.keys {
			require.NotEmpty(t, k.doc, "%s.%s has no doc tag", at, k.name)
			sameKeys(t, k.shape, j.Properties[k.name], at+"."+k.name)
		}
	case kindList:
		sameKeys(t, s.elem, j.AnyOf[0].Items, at+"[]")
		sameKeys(t, s.elem, j.AnyOf[1], at)
	case kindMap:
		inner, err := json.Marshal(j.AdditionalProperties)
		require.NoError(t, err)
		var elem jsonSchema
		require.NoError(t, json.Unmarshal(inner, &elem))
		sameKeys(t, s.elem, &elem, at+".*")
	}
}

// TestEveryKeyIsAccepted loads a file that the schema's keys are spelled out in,
// one at a time, so that none is known to one side only.
func TestEveryKeyIsAccepted(t *testing.T) {
	for _, v := range allKeys(fileShape(), nil) {
		var text strings.Builder
		for i, part := range v {
			text.WriteString(strings.Repeat("  ", i) + part + ":\n")
		}
		_, err := Parse("layover.yaml", []byte(text.String()))
		if err != nil {
			require.NotContains(t, err.Error(), "unknown key", v.String())
		}
	}
}

func allKeys(s *shape, p path) []path {
	switch s.kind {
	case kindMap:
		return allKeys(s.elem, p.with("name"))
	case kindList:
		return allKeys(s.elem, p) // one block stands for a list of one
	}
	var all []path
	for _, k := range s.keys {
		all = append(all, p.with(k.name))
		all = append(all, allKeys(k.shape, p.with(k.name))...)
	}
	return all
}

// TestReference writes docs/configuration.md from the tags of the Go types.
func TestReference(t *testing.T) {
	intro, err := os.ReadFile("testdata/reference-intro.md")
	require.NoError(t, err)
	example, err := os.ReadFile("testdata/full.yaml")
	require.NoError(t, err)
	var out bytes.Buffer
	out.Write(intro)
	fmt.Fprintf(&out, "\n## A full example\n\n```yaml\n%s```\n", example)
	out.WriteString("\n## Environment variables\n\nThese go over the file. Lists are separated by commas.\n\n| Variable | Key |\n|---|---|\n")
	for _, v := range Variables() {
		fmt.Fprintf(&out, "| `%s` | `%s` |\n", v.Name, v.Key)
	}
	out.WriteString("\n## Keys\n")
	writeKeys(&out, fileShape(), "", "Top level")
	golden(t, "../../docs/configuration.md", out.Bytes())
}

// writeKeys writes a table of the keys of an object, then those of the objects in it.
func writeKeys(out *bytes.Buffer, s *shape, prefix, title string) {
	fmt.Fprintf(out, "\n### %s\n\n| Key | Value | Meaning |\n|---|---|---|\n", title)
	for _, k := range s.keys {
		notes := k.doc + "."
		if k.fallback != "" {
			notes += fmt.Sprintf(" Default: `%s`.", k.fallback)
		}
		if k.example != "" {
			notes += fmt.Sprintf(" Example: `%s`.", k.example)
		}
		if k.required {
			notes += " Required."
		}
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", k.name, valueWords(k), strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(notes))
	}
	for _, k := range s.keys {
		inner, name := k.shape, prefix+k.name
		switch inner.kind {
		case kindMap:
			name += ".<" + inner.keyName + ">"
			inner = inner.elem
		case kindList:
			inner = inner.elem
		}
		if slices.Contains([]kind{kindObject, kindHealth}, inner.kind) {
			writeKeys(out, inner, name+".", "`"+name+"`")
		}
	}
}

func valueWords(k *key) string {
	switch {
	case k.enum != nil:
		return "`" + strings.Join(k.enum, "`, `") + "`"
	case k.shape.kind == kindMap && k.shape.elem.kind == kindText:
		return k.shape.keyName + ": text"
	case k.shape.kind == kindMap:
		return "block by name"
	case k.shape.kind == kindObject:
		return "block"
	case k.shape.kind == kindList && k.shape.elem.kind == kindObject:
		return "list of blocks, or one"
	case k.shape.kind == kindList:
		return "list of text, or one"
	case k.shape.kind == kindHealth:
		return "path, `tcp`, `process`, or block"
	case k.shape.kind == kindDuration:
		return "duration"
	case k.shape.kind == kindCommand:
		return "line, or list of words"
	}
	return k.shape.wants()
}
