package server

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

//go:generate go test . -run TestOpenAPIGolden -update

// The groups of operations, in the order of the documentation.
const (
	tagServices = "Services"
	tagVersions = "Versions"
	tagRoutes   = "Routes"
	tagRouting  = "Routing"
	tagProxies  = "Proxies"
	tagRequests = "Requests"
	tagTests    = "Tests"
	tagGateway  = "Gateway"
	tagEvents   = "Events"
	tagWebhooks = "Webhooks"
	tagServer   = "Server"
)

const about = `The API of a Layover server: many versions of many services in one environment.

Answers are JSON. Errors are RFC 9457 problems (application/problem+json) with a ` + "`code`" + ` to branch on,
a ` + "`detail`" + ` and a ` + "`hint`" + ` for people, and, where there are several, all ` + "`problems`" + ` at once.

What changes a version is answered with 202 as soon as it is recorded. The work goes on; the
events of the version's generation tell of it.

Streams are server-sent events. A client that comes back with Last-Event-ID goes on where it stopped.

The header ` + api.HeaderActor + ` names who asks for a change: events say so, and what is
deployed belongs to them. Nobody checks it, and it protects nothing. Names are lower-case letters, digits, ".", "_" and "-".`

// apiConfig describes the API as a whole. What the library adds by itself (links
// to schemas, a documentation page that loads scripts from elsewhere) is left out.
func apiConfig(build api.Build) huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	registry.RegisterTypeAlias(reflect.TypeFor[api.Duration](), reflect.TypeFor[durationText]())
	version := build.Version
	if version == "" {
		version = "devel"
	}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI:    "3.1.0",
			Info:       &huma.Info{Title: "Layover API", Version: version, Description: about, License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}},
			Components: &huma.Components{Schemas: registry},
			Tags: []*huma.Tag{
				{Name: tagServices, Description: "The applications of the environment, and the template their versions run from."},
				{Name: tagVersions, Description: "The versions of services: deploy, start, stop, restart, remove, and their logs."},
				{Name: tagRoutes, Description: "Routes stored under a name: explicit picks per service, and an optional parent."},
				{Name: tagRouting, Description: "What the data plane decides from, and why it decides as it does."},
				{Name: tagTests, Description: "Runs of test suites, what they proved, and suites that any repository can run."},
				{Name: tagRequests, Description: "Which versions requests really passed through, and who loses their route."},
				{Name: tagProxies, Description: "The stand-alone proxies: where each is, and how far behind."},
				{Name: tagGateway, Description: "The same table for other data planes."},
				{Name: tagEvents, Description: "Everything that happened, in its order."},
				{Name: tagWebhooks, Description: "Where events are sent to, and what could not be delivered."},
				{Name: tagServer, Description: "The server itself."},
			},
		},
		Formats: map[string]huma.Format{
			"application/json": huma.DefaultJSONFormat,
			"json":             huma.DefaultJSONFormat,
		},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{translate},
	}
}

// schemaName keeps the types of the table apart from those of the API that have
// the same name.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[route.Spec]():
		return "Table"
	case t == reflect.TypeFor[route.NamedRoute](), t == reflect.TypeFor[route.Explanation]():
		return name
	case t == reflect.TypeFor[route.Step]():
		return "ExplanationStep"
	case t.PkgPath() == reflect.TypeFor[route.Spec]().PkgPath():
		return "Table" + name
	}
	return strings.TrimSuffix(name, "Body")
}

// durationText describes api.Duration.
type durationText string

// Schema is the huma.SchemaProvider.
func (durationText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type:               huma.TypeString,
		Pattern:            `^(never|0|[0-9]{1,5}d|([0-9]{1,5}d)?([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`,
		PatternDescription: "a duration such as 500ms, 30s, 2m or 3d",
		MaxLength:          new(40),
		Examples:           []any{"30s"},
	}
}

// Name is a name in a path.
type Name string

// Schema is the huma.SchemaProvider.
func (Name) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type:               huma.TypeString,
		Pattern:            `^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`,
		PatternDescription: "a name: at most 63 lower-case letters, digits, '.', '_' and '-', with a letter or digit at both ends",
	}
}

// operation is what is said about every operation.
type operation struct {
	id, tag, method, path string
	summary, description  string
	status                int   // of success; 0 means 200, or 204 without a body
	errors                []int // besides those that every operation may have
	body                  bool  // it reads one; those with PUT always do
	standby               standbyAnswer
	response              *huma.Response
}

// standbyAnswer says how a server that stands by answers an operation.
type standbyAnswer int

const (
	asksLeader standbyAnswer = iota // of what only the leader knows or does
	fromStore                       // by itself, from the store or the leader's tables, where it knows the store's schema
	leaderless                      // as the leader does; from the last table while no server leads
	itself                          // by itself
)

// register adds an operation to the API. Errors of handle become problems here.
func register[I, O any](s *Server, o operation, handle func(context.Context, *I) (*O, error)) {
	op := huma.Operation{
		OperationID:     o.id,
		Method:          o.method,
		Path:            o.path,
		Summary:         o.summary,
		Description:     o.description,
		Tags:            []string{o.tag},
		DefaultStatus:   o.status,
		Errors:          append([]int{http.StatusForbidden}, o.errors...),
		MaxBodyBytes:    maxBody,
		BodyReadTimeout: 30 * time.Second,
	}
	if o.method == http.MethodPut || o.body {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if o.response != nil {
		op.Responses = map[string]*huma.Response{"200": o.response}
	}
	s.standbyAnswers[o.method+" "+o.path] = o.standby
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, s.problemOf(ctx, o.id, err)
		}
		return out, nil
	})
}

// finishOpenAPI makes every documented error an api.Problem, and writes the document.
func finishOpenAPI(doc *huma.OpenAPI) ([]byte, error) {
	schema := doc.Components.Schemas.Schema(reflect.TypeFor[api.Problem](), true, "Problem")
	for _, item := range doc.Paths {
		for _, op := range operationsOf(item) {
			for _, resp := range op.Responses {
				if media := resp.Content[problemType]; media != nil {
					media.Schema = schema
				}
			}
		}
	}
	delete(doc.Components.Schemas.Map(), "ErrorModel")
	delete(doc.Components.Schemas.Map(), "ErrorDetail")

	compact, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, compact, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// operationsOf returns the operations of a path by method.
func operationsOf(item *huma.PathItem) map[string]*huma.Operation {
	all := map[string]*huma.Operation{
		http.MethodGet:    item.Get,
		http.MethodPut:    item.Put,
		http.MethodPost:   item.Post,
		http.MethodDelete: item.Delete,
	}
	maps.DeleteFunc(all, func(_ string, op *huma.Operation) bool { return op == nil })
	return all
}

// streamed documents an answer that is a stream of values of type T.
func streamed[T any](s *Server, description string, types ...string) *huma.Response {
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
	content := map[string]*huma.MediaType{}
	for _, t := range slices.Sorted(slices.Values(types)) {
		content[t] = &huma.MediaType{Schema: schema}
	}
	return &huma.Response{Description: description, Content: content}
}

// streamedOneOf documents an answer that is a stream of values of several types.
func streamedOneOf(s *Server, description, contentType string, types ...reflect.Type) *huma.Response {
	schema := &huma.Schema{}
	for _, t := range types {
		schema.OneOf = append(schema.OneOf, s.api.OpenAPI().Components.Schemas.Schema(t, true, ""))
	}
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{contentType: {Schema: schema}}}
}
