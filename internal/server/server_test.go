package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/server/servertest"
)

// env is a server over an environment in memory.
type env struct {
	*servertest.Control
	url string
	log *syncBuffer
}

func newEnv(t *testing.T, change ...func(*server.Options)) *env {
	t.Helper()
	e := &env{Control: servertest.New(), log: &syncBuffer{}}
	opts := server.Options{Control: e.Control, Logger: slog.New(slog.NewTextHandler(e.log, nil))}
	for _, c := range change {
		c(&opts)
	}
	s, err := server.New(opts)
	require.NoError(t, err)
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	t.Cleanup(s.CloseStreams)
	e.url = srv.URL
	return e
}

// withVersion adds cart and deploys cart@v1.
func (e *env) withVersion(t *testing.T) control.Key {
	t.Helper()
	key := control.Key{Service: "cart", Version: "v1"}
	require.NoError(t, e.PutService(t.Context(), api.Service{Name: "cart"}))
	_, err := e.Deploy(t.Context(), key, api.Deployment{})
	require.NoError(t, err)
	return key
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body string
}

func (a answer) problem(t *testing.T) api.Problem {
	t.Helper()
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), a.body)
	var p api.Problem
	require.NoError(t, json.Unmarshal([]byte(a.body), &p))
	require.Equal(t, a.StatusCode, p.Status)
	require.NotEmpty(t, p.Title)
	require.NotEmpty(t, p.Detail)
	require.NotEmpty(t, p.Code)
	return p
}

// ask sends a request. header has "Name: value" lines; a body is JSON unless they say otherwise.
func (e *env) ask(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.url+path, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp, string(data)}
}

func TestErrorsOfControl(t *testing.T) {
	tests := map[string]struct {
		err    error
		status int
		code   api.Code
		detail string
		logged bool
	}{
		"invalid":     {&control.Error{Code: api.CodeInvalid, Message: "no such host"}, 422, api.CodeInvalid, "no such host", false},
		"not found":   {&control.Error{Code: api.CodeNotFound, Message: "there is no cart"}, 404, api.CodeNotFound, "there is no cart", false},
		"conflict":    {&control.Error{Code: api.CodeConflict, Message: "still in use"}, 409, api.CodeConflict, "still in use", false},
		"forbidden":   {&control.Error{Code: api.CodeForbidden, Message: "not yours"}, 403, api.CodeForbidden, "not yours", false},
		"unavailable": {&control.Error{Code: api.CodeUnavailable, Message: "Docker does not answer"}, 503, api.CodeUnavailable, "Docker does not answer", false},
		"wrapped":     {fmt.Errorf("deploy: %w", &control.Error{Code: api.CodeConflict, Message: "taken"}), 409, api.CodeConflict, "taken", false},
		"any other":   {errors.New("secret: disk /dev/sda1 is on fire"), 500, api.CodeInternal, "the server met an error it did not expect", true},
		"internal":    {&control.Error{Code: api.CodeInternal, Message: "secret: a pointer"}, 500, api.CodeInternal, "the server met an error it did not expect", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.Fail(tt.err)
			got := e.ask(t, "GET", "/api/v1/versions", "")
			p := got.problem(t)
			require.Equal(t, tt.status, got.StatusCode)
			require.Equal(t, tt.code, p.Code)
			require.Equal(t, tt.detail, p.Detail)
			require.NotContains(t, got.body, "secret")
			require.Equal(t, tt.logged, strings.Count(e.log.String(), "request failed") == 1, e.log.String())
		})
	}
}

func TestRequestsRefused(t *testing.T) {
	long := `{"hosts":["` + strings.Repeat("x", 1<<20) + `"]}`
	tests := map[string]struct {
		method, path, body string
		header             []string
		status             int
		detail             string
	}{
		"unknown path":          {"GET", "/api/v1/nothing", "", nil, 404, "nothing at this path"},
		"unknown path, put":     {"PUT", "/nothing", "{}", nil, 404, "nothing at this path"},
		"wrong method":          {"POST", "/api/v1/services", "{}", nil, 405, "POST is not possible here, but GET, HEAD is"},
		"wrong content type":    {"PUT", "/api/v1/services/cart", "a=b", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "a body must be JSON"},
		"plain text":            {"POST", "/api/v1/explain", `{"url":"cart"}`, []string{"Content-Type: text/plain"}, 415, "a body must be JSON"},
		"other charset":         {"POST", "/api/v1/explain", `{"url":"cart"}`, []string{"Content-Type: application/json; charset=utf-16"}, 415, "a body must be JSON"},
		"body too long":         {"PUT", "/api/v1/services/cart", long, nil, 413, "longer than 1048576 bytes"},
		"not JSON":              {"PUT", "/api/v1/services/cart", "{", nil, 400, "unexpected end of JSON"},
		"two values":            {"PUT", "/api/v1/services/cart", "{} {}", nil, 400, "after top-level value"},
		"no body":               {"PUT", "/api/v1/services/cart", "", nil, 400, "body is required"},
		"null":                  {"PUT", "/api/v1/services/cart", "null", nil, 422, "expected object"},
		"unknown key":           {"PUT", "/api/v1/services/cart", `{"host":["a"]}`, nil, 422, "body.host: unexpected property"},
		"another name":          {"PUT", "/api/v1/services/cart", `{"name":"cat"}`, nil, 422, `the path names "cart", and the body "cat"`},
		"bad duration":          {"PUT", "/api/v1/services/cart", `{"timeout":"soon"}`, nil, 422, "a duration such as"},
		"duration number":       {"PUT", "/api/v1/services/cart", `{"timeout":30}`, nil, 422, "body.timeout: expected string"},
		"name in capitals":      {"GET", "/api/v1/services/Cart", "", nil, 422, "path.service: expected string to be a name"},
		"name too long":         {"GET", "/api/v1/services/" + strings.Repeat("a", 64), "", nil, 422, "at most 63"},
		"name in Unicode":       {"GET", "/api/v1/services/caf%C3%A9", "", nil, 422, "expected string to be a name"},
		"name like a path":      {"GET", "/api/v1/services/..%2F..%2Fetc", "", nil, 422, "expected string to be a name"},
		"name with NUL":         {"GET", "/api/v1/services/a%00b", "", nil, 422, "expected string to be a name"},
		"unknown service":       {"GET", "/api/v1/services/nope", "", nil, 404, `no service "nope"`},
		"unknown version":       {"GET", "/api/v1/services/cart/versions/nope", "", nil, 404, "cart@nope"},
		"deploy nothing known":  {"PUT", "/api/v1/services/nope/versions/v1", "{}", nil, 404, `"nope"`},
		"unknown route":         {"GET", "/api/v1/routes/nope", "", nil, 404, `no route "nope"`},
		"logs of nothing":       {"GET", "/api/v1/services/cart/versions/nope/logs", "", nil, 404, "cart@nope"},
		"logs since never":      {"GET", "/api/v1/services/cart/versions/v1/logs?since=never", "", nil, 422, `"never" is neither how long ago nor`},
		"negative tail":         {"GET", "/api/v1/services/cart/versions/v1/logs?tail=-1", "", nil, 422, "query.tail: expected number >= 0"},
		"limit too large":       {"GET", "/api/v1/events?limit=1001", "", nil, 422, "query.limit: expected number <= 1000"},
		"after is text":         {"GET", "/api/v1/events?after=x", "", nil, 422, "query.after: invalid integer"},
		"unknown parameter":     {"GET", "/api/v1/events?until=1", "", nil, 422, "query.until: unknown query parameter"},
		"events since never":    {"GET", "/api/v1/events?since=never", "", nil, 422, `"never" is neither how long ago nor`},
		"stream since never":    {"GET", "/api/v1/events/stream?since=never", "", nil, 422, `"never" is neither how long ago nor`},
		"bad Last-Event-ID":     {"GET", "/api/v1/events/stream", "", []string{"Last-Event-ID: abc"}, 422, `Last-Event-ID: "abc"`},
		"negative table":        {"GET", "/api/v1/table/watch?after=-1", "", nil, 422, "query.after"},
		"explain no URL":        {"POST", "/api/v1/explain", "{}", nil, 422, "expected required property url"},
		"explain bad URL":       {"POST", "/api/v1/explain", `{"url":"http://[::1"}`, nil, 422, "is not a URL"},
		"explain other scheme":  {"POST", "/api/v1/explain", `{"url":"ftp://cart"}`, nil, 422, `the scheme "ftp"`},
		"explain without host":  {"POST", "/api/v1/explain", `{"url":"/items"}`, nil, 422, "names no host"},
		"explain a bad header":  {"POST", "/api/v1/explain", `{"url":"cart","headers":["nope"]}`, nil, 422, "'Name: value'"},
		"picks are not strings": {"PUT", "/api/v1/routes/r", `{"picks":{"cart":1}}`, nil, 422, "body.picks.cart: expected string"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.withVersion(t)
			got := e.ask(t, tt.method, tt.path, tt.body, tt.header...)
			require.Equal(t, tt.status, got.StatusCode, got.body)
			p := got.problem(t)
			require.Contains(t, p.Detail, tt.detail)
			require.NotEmpty(t, p.Hint)
			require.Equal(t, "nosniff", got.Header.Get("X-Content-Type-Options"))
		})
	}
}

// What could make room is told as the problems of the refusal.
func TestQuotaRefusal(t *testing.T) {
	e := newEnv(t)
	e.Fail(&control.Error{Code: api.CodeQuota, Message: "there is no room", Hint: "stop one", Details: []string{"cart@a", "cart@b"}})
	got := e.ask(t, "PUT", "/api/v1/services/cart/versions/x", "{}")
	require.Equal(t, 409, got.StatusCode)
	p := got.problem(t)
	require.Equal(t, api.CodeQuota, p.Code)
	require.Equal(t, []string{"cart@a", "cart@b"}, p.Errors)
}

// Versions and events are selected by owner, versions by label as well.
func TestSelectedByOwner(t *testing.T) {
	e := newEnv(t)
	require.NoError(t, e.PutService(t.Context(), api.Service{Name: "cart"}))
	for name, owner := range map[string]string{"a": "ana", "b": "bob"} {
		got := e.ask(t, "PUT", "/api/v1/services/cart/versions/"+name, `{"labels":{"team":"x","name":"`+name+`"}}`, "Layover-Actor: "+owner)
		require.Equal(t, 202, got.StatusCode, got.body)
	}
	for path, want := range map[string]string{
		"versions?owner=ANA":                           "a",
		"versions?label=team=x":                        "a b",
		"versions?label=team=x&label=name=b":           "b",
		"versions?label=team=x&label=name=b&owner=ana": "",
		"versions?label=team=y":                        "",
		"events?owner=bob":                             "b",
	} {
		var out api.List[struct{ Name, Version string }]
		got := e.ask(t, "GET", "/api/v1/"+path, "")
		require.NoError(t, json.Unmarshal([]byte(got.body), &out), got.body)
		var names []string
		for _, item := range out.Items {
			names = append(names, item.Name+item.Version)
		}
		require.Equal(t, want, strings.Join(names, " "), path)
	}
	require.Equal(t, 422, e.ask(t, "GET", "/api/v1/versions?label=team", "").StatusCode)
}

func TestAllMistakesAtOnce(t *testing.T) {
	e := newEnv(t)
	got := e.ask(t, "PUT", "/api/v1/services/cart",
		`{"hosts":"a","protocol":"http3","timeout":"soon","grace":"later","health":{"failures":-1},"nope":1}`)
	require.Equal(t, 422, got.StatusCode)
	p := got.problem(t)
	require.Len(t, p.Errors, 6, got.body)
	require.Contains(t, p.Detail, "the request has 6 mistakes")
}

func TestMethodNotAllowedSaysWhich(t *testing.T) {
	e := newEnv(t)
	got := e.ask(t, "PATCH", "/api/v1/services/cart", "")
	require.Equal(t, 405, got.StatusCode)
	require.Equal(t, "DELETE, GET, HEAD, PUT", got.Header.Get("Allow"))
}

func TestPanicIsAProblem(t *testing.T) {
	e := newEnv(t)
	e.Panic()
	got := e.ask(t, "GET", "/api/v1/services", "")
	require.Equal(t, 500, got.StatusCode)
	require.NotContains(t, got.problem(t).Detail, "fire")
	require.Contains(t, e.log.String(), "the environment is on fire")
}

func TestGuards(t *testing.T) {
	configured := func(o *server.Options) {
		o.AllowedHosts = []string{"layover.example.com"}
		o.AllowedOrigins = []string{"https://console.example.com"}
	}
	tests := map[string]struct {
		method string
		header []string
		status int
	}{
		"a program":                  {"GET", nil, 200},
		"localhost":                  {"GET", []string{"Host: localhost:7070"}, 200},
		"localhost, dot and capital": {"GET", []string{"Host: LocalHost."}, 200},
		"loopback v6":                {"GET", []string{"Host: [::1]:7070"}, 200},
		"loopback, another":          {"GET", []string{"Host: 127.8.8.8"}, 200},
		"an allowed host":            {"GET", []string{"Host: layover.example.com:7070"}, 200},
		"a rebound name":             {"GET", []string{"Host: evil.example.com:7070"}, 403},
		"a name under localhost":     {"GET", []string{"Host: localhost.evil.example.com"}, 403},
		"an address not ours":        {"GET", []string{"Host: 192.0.2.1:7070"}, 403},
		"same origin":                {"GET", []string{"Host: localhost:7070", "Origin: http://localhost:7070", "Sec-Fetch-Site: same-origin"}, 200},
		"another port":               {"GET", []string{"Host: localhost:7070", "Origin: http://localhost:8080"}, 403},
		"another scheme":             {"GET", []string{"Host: localhost:7070", "Origin: https://localhost:7070"}, 403},
		"null origin":                {"GET", []string{"Origin: null"}, 403},
		"a foreign page":             {"GET", []string{"Origin: https://evil.example.com"}, 403},
		"a foreign page posts":       {"POST", []string{"Origin: https://evil.example.com"}, 403},
		"a foreign image":            {"GET", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, 403},
		"a page of the environment":  {"GET", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"}, 403},
		"a foreign frame":            {"GET", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, 403},
		"a foreign form":             {"POST", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 403},
		"a link":                     {"GET", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 200},
		"typed by the user":          {"GET", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"}, 200},
		"an allowed origin":          {"GET", []string{"Origin: https://console.example.com", "Sec-Fetch-Site: cross-site"}, 200},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, configured)
			path := "/api/v1/services"
			if tt.method == "POST" {
				path = "/api/v1/services/cart/versions/v1/stop"
			}
			got := e.ask(t, tt.method, path, "", tt.header...)
			require.Equal(t, tt.status, got.StatusCode, got.body)
			if tt.status == 403 {
				require.Equal(t, api.CodeForbidden, got.problem(t).Code)
			}
		})
	}
}

func TestPreflight(t *testing.T) {
	e := newEnv(t, func(o *server.Options) { o.AllowedOrigins = []string{"https://console.example.com"} })
	got := e.ask(t, "OPTIONS", "/api/v1/services/cart", "", "Origin: https://console.example.com", "Access-Control-Request-Method: PUT")
	require.Equal(t, 204, got.StatusCode)
	require.Equal(t, "https://console.example.com", got.Header.Get("Access-Control-Allow-Origin"))
	got = e.ask(t, "OPTIONS", "/api/v1/services/cart", "", "Origin: https://evil.example.com", "Access-Control-Request-Method: PUT")
	require.Equal(t, 403, got.StatusCode)
	require.Empty(t, got.Header.Get("Access-Control-Allow-Origin"))
}

func TestOptionsRefused(t *testing.T) {
	tests := map[string]server.Options{
		"no control":         {},
		"host is empty":      {Control: servertest.New(), AllowedHosts: []string{":80"}},
		"origin with a path": {Control: servertest.New(), AllowedOrigins: []string{"https://a.example.com/x"}},
		"origin is a host":   {Control: servertest.New(), AllowedOrigins: []string{"a.example.com"}},
	}
	for name, opts := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := server.New(opts)
			require.Error(t, err)
		})
	}
}

func TestActorAndDefaults(t *testing.T) {
	e := newEnv(t)
	key := e.withVersion(t)
	got := e.ask(t, "PUT", "/api/v1/services/cart/versions/v1", "", "Layover-Actor:  ada\tlovelace ")
	require.Equal(t, 202, got.StatusCode, got.body)
	require.Equal(t, api.Deployment{Owner: "adalovelace", Source: "api"}, e.Deployment(key))

	got = e.ask(t, "PUT", "/api/v1/services/cart/versions/v1", `{"owner":"ci","source":"ci","image":"cart:1","env":{"A":"b"},"timeout":"1m30s"}`,
		"Layover-Actor: ada")
	require.Equal(t, 202, got.StatusCode, got.body)
	require.Equal(t, api.Deployment{
		Owner: "ci", Source: "ci", Timeout: api.Duration(90 * time.Second),
		Overrides: api.Overrides{Image: "cart:1", Env: map[string]string{"A": "b"}},
	}, e.Deployment(key))
}

func TestEmptyListsAreLists(t *testing.T) {
	e := newEnv(t)
	for _, path := range []string{"/api/v1/services", "/api/v1/versions", "/api/v1/routes"} {
		require.JSONEq(t, `{"items":[]}`, e.ask(t, "GET", path, "").body)
	}
	require.JSONEq(t, `{"items":[],"last":0}`, e.ask(t, "GET", "/api/v1/events", "").body)
}

func TestReadiness(t *testing.T) {
	e := newEnv(t)
	require.Equal(t, 200, e.ask(t, "GET", "/readyz", "").StatusCode)
	e.SetReady(errors.New("store: disk is full"))
	got := e.ask(t, "GET", "/readyz", "")
	require.Equal(t, 503, got.StatusCode)
	require.Contains(t, got.problem(t).Detail, "disk is full")
	require.Equal(t, 200, e.ask(t, "GET", "/healthz", "").StatusCode, "alive, though not ready")
}

func TestPages(t *testing.T) {
	e := newEnv(t, func(o *server.Options) { o.Build.Version = `<script>"1"` })
	got := e.ask(t, "GET", "/", "")
	require.Equal(t, 307, got.StatusCode)
	require.Equal(t, "/docs", got.Header.Get("Location"))

	docs := e.ask(t, "GET", "/docs", "")
	require.Equal(t, 200, docs.StatusCode)
	require.Contains(t, docs.Header.Get("Content-Security-Policy"), "style-src 'sha256-")
	require.NotContains(t, docs.body, "<script", "texts are escaped, and there is no script")
	require.NotRegexp(t, `(src|href)="(https?:)?//`, docs.body, "nothing is loaded from elsewhere")
	for _, want := range []string{`id="deploy-version"`, "/api/v1/services/{service}/versions/{version}/logs", `id="schema-Problem"`} {
		require.Contains(t, docs.body, want)
	}

	var doc map[string]any
	require.NoError(t, json.Unmarshal([]byte(e.ask(t, "GET", "/openapi.json", "").body), &doc))
	require.Equal(t, "3.1.0", doc["openapi"])
}

func TestEveryOperationIsDescribed(t *testing.T) {
	e := newEnv(t)
	var doc struct {
		Paths map[string]map[string]struct {
			Summary, Description string
			Parameters           []struct{ Name, Description string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(e.ask(t, "GET", "/openapi.json", "").body), &doc))
	require.NotEmpty(t, doc.Paths)
	for path, ops := range doc.Paths {
		for method, op := range ops {
			require.NotEmpty(t, op.Summary, method+" "+path)
			require.NotEmpty(t, op.Description, method+" "+path)
			for _, p := range op.Parameters {
				require.NotEmpty(t, p.Description, method+" "+path+" "+p.Name)
			}
		}
	}
}

func TestServeEndsStreamsAndRequests(t *testing.T) {
	c := servertest.New()
	s, err := server.New(server.Options{Control: c})
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()

	resp, err := http.Get("http://" + ln.Addr().String() + "/api/v1/events/stream") //nolint:noctx // ended by the server
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	cancel()
	_, err = io.ReadAll(resp.Body)
	require.NoError(t, err, "the stream ends as it should")
	select {
	case err := <-served:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		require.Fail(t, "Serve did not return")
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestServeSaysWhyItCannot(t *testing.T) {
	s, err := server.New(server.Options{Control: servertest.New()})
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	require.ErrorIs(t, s.Serve(t.Context(), ln), net.ErrClosed)
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func unmarshal(t *testing.T, text string, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), into), text)
}
