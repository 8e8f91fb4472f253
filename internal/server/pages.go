package server

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html
var docsHTML string

//go:embed docs.css
var docsCSS string

// handlePages serves the OpenAPI document and the page made from it. The page
// loads nothing: its style is part of it, and it has no script.
func (s *Server) handlePages(mux *http.ServeMux) error {
	page, err := renderDocs(s.api.OpenAPI())
	if err != nil {
		return fmt.Errorf("render the documentation: %w", err)
	}
	sum := sha256.Sum256([]byte(docsCSS))
	policy := "default-src 'none'; frame-ancestors 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	mux.HandleFunc("GET /docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		_, _ = w.Write(page) // the client may be gone
	})
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.openAPI)
	})
	if s.opts.Metrics != nil {
		mux.Handle("GET /metrics", s.opts.Metrics)
	}
	mux.Handle("GET /{$}", http.RedirectHandler("/docs", http.StatusTemporaryRedirect))
	return nil
}

// docsPage is the OpenAPI document in the order of the page.
type docsPage struct {
	Title, Version, About string
	Style                 template.CSS
	Groups                []docsGroup
	Schemas               []docsSchema
}

type docsGroup struct {
	Name, About string
	Operations  []docsOperation
}

type docsOperation struct {
	ID, Method, Path, Summary, About string
	Params                           []docsField
	Body                             *docsType
	Responses                        []docsResponse
}

type docsResponse struct {
	Status, About string
	Types         []string // media types
	Body          *docsType
}

type docsSchema struct {
	Name, About string
	Fields      []docsField
}

type docsField struct {
	Name, Where, About, Example string
	Type                        docsType
	Required                    bool
}

// docsType is a type in words, with the schema it leads to, if any.
type docsType struct{ Prefix, Ref, Suffix string }

func renderDocs(doc *huma.OpenAPI) ([]byte, error) {
	page := docsPage{
		Title:   doc.Info.Title,
		Version: doc.Info.Version,
		About:   strings.ReplaceAll(doc.Info.Description, "`", ""),
		Style:   template.CSS(docsCSS), //nolint:gosec // our own file
	}
	for _, tag := range doc.Tags {
		group := docsGroup{Name: tag.Name, About: tag.Description}
		for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
			ops := operationsOf(doc.Paths[path])
			for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
				if op := ops[method]; op != nil && slices.Contains(op.Tags, tag.Name) {
					group.Operations = append(group.Operations, describeOperation(method, path, op))
				}
			}
		}
		page.Groups = append(page.Groups, group)
	}
	schemas := doc.Components.Schemas.Map()
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		page.Schemas = append(page.Schemas, docsSchema{Name: name, About: schemas[name].Description, Fields: fieldsOf(schemas[name])})
	}
	tmpl, err := template.New("docs").Parse(docsHTML)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, page); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func describeOperation(method, path string, op *huma.Operation) docsOperation {
	out := docsOperation{
		ID: op.OperationID, Method: method, Path: path, Summary: op.Summary,
		About: strings.ReplaceAll(op.Description, "`", ""),
	}
	for _, p := range op.Parameters {
		field := describeField(p.Name, p.Schema, p.Required)
		field.Where, field.About = p.In, p.Description
		if p.Example != nil {
			field.Example = inJSON(p.Example)
		}
		out.Params = append(out.Params, field)
	}
	if op.RequestBody != nil {
		if media := op.RequestBody.Content["application/json"]; media != nil {
			t := describeType(media.Schema)
			out.Body = &t
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		resp := op.Responses[status]
		r := docsResponse{Status: status, About: resp.Description, Types: slices.Sorted(maps.Keys(resp.Content))}
		for _, t := range r.Types {
			if schema := resp.Content[t].Schema; schema != nil {
				described := describeType(schema)
				r.Body = &described
			}
		}
		out.Responses = append(out.Responses, r)
	}
	return out
}

func fieldsOf(s *huma.Schema) []docsField {
	fields := make([]docsField, 0, len(s.Properties))
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		fields = append(fields, describeField(name, s.Properties[name], slices.Contains(s.Required, name)))
	}
	return fields
}

func describeField(name string, s *huma.Schema, required bool) docsField {
	f := docsField{Name: name, Required: required, About: s.Description, Type: describeType(s)}
	if len(s.Examples) > 0 {
		f.Example = inJSON(s.Examples[0])
	}
	if len(s.Enum) > 0 {
		values := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			values[i] = fmt.Sprint(v)
		}
		f.Type.Suffix += ": " + strings.Join(values, ", ")
	}
	return f
}

func describeType(s *huma.Schema) docsType {
	switch {
	case s == nil:
		return docsType{Prefix: "anything"}
	case s.Ref != "":
		return docsType{Ref: s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]}
	case s.Type == huma.TypeArray:
		t := describeType(s.Items)
		t.Prefix = "list of " + t.Prefix
		return t
	case s.Type == huma.TypeObject:
		if values, ok := s.AdditionalProperties.(*huma.Schema); ok {
			t := describeType(values)
			t.Prefix = "map of string to " + t.Prefix
			return t
		}
	case s.Format == "date-time":
		return docsType{Prefix: "RFC 3339 time"}
	}
	return docsType{Prefix: s.Type}
}

func inJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}
