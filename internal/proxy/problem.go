package proxy

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Code names a kind of error that Layover itself answers with. It is in the
// field Layover-Error, in the problem's "code" and in [Record.Error].
type Code string

// The kinds of errors.
const (
	CodeNoTable         Code = "no-table"               // 503: no server has answered yet, and there is no table on disk
	CodeUnknownHost     Code = "unknown-host"           // 404: no service has this host
	CodeUnknownRoute    Code = "unknown-route"          // 421: a strict route names something that does not exist
	CodeNoVersion       Code = "no-version"             // 503: the service has no default version
	CodeVersionFailed   Code = "version-failed"         // 503: the version exists and will not answer
	CodeVersionNotReady Code = "version-not-ready"      // 503: the version did not become ready in time
	CodeVersionGone     Code = "version-gone"           // 503: the version was removed while the request waited for it
	CodeTooManyHeld     Code = "too-many-held"          // 503: too many requests wait for versions
	CodeLargeHeaders    Code = "too-many-large-headers" // 503: large headers take as much memory as they may
	CodeOverloaded      Code = "overloaded"             // 503: the version works on as many requests as it may
	CodeStopping        Code = "proxy-stopping"         // 503: the proxy is being stopped
	CodeUnreachable     Code = "instance-unreachable"   // 502: no connection, or it broke before the answer
	CodeBadAnswer       Code = "bad-answer"             // 502: the instance's answer is not what its protocol says
	CodeTimeout         Code = "instance-timeout"       // 504: no connection, or no answer, in time
	CodeLoop            Code = "loop"                   // 508: the request runs in a circle
	CodeBadTarget       Code = "bad-target"             // 400: the request's target is not one for a proxy
	CodeMalformed       Code = "malformed-request"      // 400, 414, 431, 501 or 505: not HTTP as the proxy reads it
	CodeBadBody         Code = "bad-body"               // 400: the request's body broke off or is malformed
	CodeSlowBody        Code = "slow-body"              // 408: the request's body came too slowly
	CodeHTTPSTarget     Code = "https-target"           // 400: https:// through a proxy that does not speak for others
	CodeConnect         Code = "connect-unsupported"    // 501: CONNECT

	// This one is for a connection; no request was read, and there is no record.
	CodeTooManyConnections Code = "too-many-connections" // 503: as many connections as may be are open

	// These two are in records only: there is nobody to answer, or an answer has begun.
	CodeClientGone Code = "client-gone"      // the client left before the answer was complete
	CodeAborted    Code = "instance-aborted" // the instance broke off in the middle of its answer
)

// documentation is where each code is explained.
const documentation = "https://github.com/layover-dev/layover/blob/main/docs/problems.md"

// problem is an error as the client gets it: problem details (RFC 9457) for
// programs, a page for people with a browser, a status for gRPC.
type problem struct {
	status     int
	code       Code
	title      string
	detail     string
	hint       string
	similar    []string // what may have been meant
	link       bool     // similar are hosts, to be linked on the page
	retryAfter time.Duration
	grpc       int // the status of gRPC, where it is not that of the code
}

// details is the JSON form of a problem.
type details struct {
	Type    string   `json:"type"`
	Title   string   `json:"title"`
	Status  int      `json:"status"`
	Detail  string   `json:"detail"`
	Code    Code     `json:"code"`
	Hint    string   `json:"hint,omitempty"`
	Similar []string `json:"did_you_mean,omitempty"`
}

//go:embed problem.html
var pageText string

func parsePage() *template.Template {
	return template.Must(template.New("problem").Parse(pageText))
}

// reply is a problem as an answer, whichever path it goes back on.
type reply struct {
	status int
	fields []headerField
	body   []byte // not for HEAD
}

// headerField is one header field.
type headerField struct{ name, value string }

// reply returns the problem in the form that the client understands. servedBy is the
// value of Layover-Served-By, where there is one.
func (pr *problem) reply(rq *request, page *template.Template, servedBy string) reply {
	answer := reply{status: pr.status, fields: []headerField{
		{ErrorHeader, string(pr.code)},
		{"Cache-Control", "no-store"},
	}}
	add := func(name, value string) { answer.fields = append(answer.fields, headerField{name, value}) }
	if servedBy != "" {
		add(ServedByHeader, servedBy)
	}
	if pr.retryAfter > 0 {
		add("Retry-After", strconv.Itoa(int(math.Ceil(pr.retryAfter.Seconds()))))
	}
	if isGRPC(rq.contentType) {
		// As gRPC does where there is no message: everything is in the header, with HTTP status 200.
		answer.status = http.StatusOK
		add("Content-Type", strings.Clone(rq.contentType))
		add("Grpc-Status", strconv.Itoa(pr.grpcStatus()))
		add("Grpc-Message", percentEncode(pr.text()))
		return answer
	}
	var content bytes.Buffer
	add("Vary", "Accept")
	add("X-Content-Type-Options", "nosniff")
	if prefersHTML(rq.accept) {
		add("Content-Type", "text/html; charset=utf-8")
		add("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'")
		pr.renderPage(&content, rq, page)
	} else {
		add("Content-Type", "application/problem+json")
		pr.renderJSON(&content)
	}
	add("Content-Length", strconv.Itoa(content.Len()))
	answer.body = content.Bytes()
	return answer
}

// distrusts says whether a connection of HTTP/1.1 must not be used after the problem: what
// comes next could be the rest of what was refused.
func (pr *problem) distrusts() bool {
	switch pr.code {
	case CodeMalformed, CodeBadTarget, CodeBadBody, CodeSlowBody, CodeLargeHeaders:
		return true
	}
	return false
}

// text is the problem in one line.
func (pr *problem) text() string {
	if pr.hint == "" {
		return pr.title + ": " + pr.detail
	}
	return pr.title + ": " + pr.detail + " (" + pr.hint + ")"
}

func (pr *problem) renderJSON(to *bytes.Buffer) {
	encoder := json.NewEncoder(to)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(details{ // strings and a number are always encoded
		Type:    documentation + "#" + string(pr.code),
		Title:   pr.title,
		Status:  pr.status,
		Detail:  pr.detail,
		Code:    pr.code,
		Hint:    pr.hint,
		Similar: pr.similar,
	})
}

func (pr *problem) renderPage(to *bytes.Buffer, rq *request, page *template.Template) {
	type choice struct{ Text, URL string }
	choices := make([]choice, 0, len(pr.similar))
	for _, text := range pr.similar {
		c := choice{Text: text}
		if pr.link {
			c.URL = sameHostPort(text, rq)
		}
		choices = append(choices, c)
	}
	_ = page.Execute(to, map[string]any{ // writing to memory, with a template that the tests run
		"Status":  pr.status,
		"Title":   pr.title,
		"Detail":  pr.detail,
		"Hint":    pr.hint,
		"Code":    string(pr.code),
		"Choices": choices,
	})
}

// sameHostPort returns the URL of another host at the port that rq came to.
func sameHostPort(host string, rq *request) string {
	u := url.URL{Scheme: "http", Host: host, Path: "/"}
	if rq.encrypted {
		u.Scheme = "https"
	}
	if _, port := splitPort(rq.host); port != "" {
		u.Host += ":" + port
	}
	return u.String()
}

// splitPort splits an authority in host and port; the port may be missing.
func splitPort(authority string) (host, port string) {
	u := url.URL{Host: authority}
	return u.Hostname(), u.Port()
}

// The status codes of gRPC that problems map to.
const (
	grpcInvalidArgument  = 3
	grpcDeadlineExceeded = 4
	grpcUnimplemented    = 12
	grpcInternal         = 13
	grpcUnavailable      = 14
)

// grpcStatus is the status code of gRPC for the problem.
func (pr *problem) grpcStatus() int {
	if pr.grpc != 0 {
		return pr.grpc
	}
	switch pr.code {
	case CodeUnknownHost, CodeConnect:
		return grpcUnimplemented
	case CodeUnknownRoute, CodeBadTarget, CodeHTTPSTarget, CodeBadBody, CodeMalformed:
		return grpcInvalidArgument
	case CodeLoop, CodeBadAnswer:
		return grpcInternal
	}
	return grpcUnavailable
}

// percentEncode writes a message as grpc-message wants it: printable ASCII but "%" as it is.
func percentEncode(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			out = append(out, c)
		} else {
			out = fmt.Appendf(out, "%%%02X", c)
		}
	}
	return string(out)
}
