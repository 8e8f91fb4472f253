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
	"time"
)

// Code names a kind of error that Layover itself answers with. It is in the
// field Layover-Error, in the problem's "code" and in [Record.Error].
type Code string

// The kinds of errors.
const (
	CodeNoTable         Code = "no-table"             // 503: no server has answered yet, and there is no table on disk
	CodeUnknownHost     Code = "unknown-host"         // 404: no service has this host
	CodeUnknownRoute    Code = "unknown-route"        // 421: a strict route names something that does not exist
	CodeNoVersion       Code = "no-version"           // 503: the service has no default version
	CodeVersionFailed   Code = "version-failed"       // 503: the version exists and will not answer
	CodeVersionNotReady Code = "version-not-ready"    // 503: the version did not become ready in time
	CodeVersionGone     Code = "version-gone"         // 503: the version was removed while the request waited for it
	CodeTooManyHeld     Code = "too-many-held"        // 503: too many requests wait for versions
	CodeStopping        Code = "proxy-stopping"       // 503: the proxy is being stopped
	CodeUnreachable     Code = "instance-unreachable" // 502: no connection, or it broke before the answer
	CodeBadAnswer       Code = "bad-answer"           // 502: the instance's answer is not what its protocol says
	CodeTimeout         Code = "instance-timeout"     // 504: no connection, or no answer, in time
	CodeLoop            Code = "loop"                 // 508: the request runs in a circle
	CodeBadTarget       Code = "bad-target"           // 400: the request's target is not one for a proxy
	CodeBadBody         Code = "bad-body"             // 400: the request's body broke off or is malformed
	CodeHTTPSTarget     Code = "https-target"         // 400: https:// through a proxy that does not speak for others
	CodeConnect         Code = "connect-unsupported"  // 501: CONNECT

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

// write answers r with the problem, in the form that r's client understands.
func (pr *problem) write(w http.ResponseWriter, r *http.Request, page *template.Template) {
	h := w.Header()
	h.Set(ErrorHeader, string(pr.code))
	h.Set("Cache-Control", "no-store")
	if pr.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(pr.retryAfter.Seconds()))))
	}
	if contentType := r.Header.Get("Content-Type"); isGRPC(contentType) {
		pr.writeGRPC(w, contentType)
		return
	}
	var content bytes.Buffer
	h.Set("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	if prefersHTML(r.Header) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'")
		pr.renderPage(&content, r, page)
	} else {
		h.Set("Content-Type", "application/problem+json")
		pr.renderJSON(&content)
	}
	h.Set("Content-Length", strconv.Itoa(content.Len()))
	w.WriteHeader(pr.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(content.Bytes()) // a client that is gone needs no answer
	}
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

func (pr *problem) renderPage(to *bytes.Buffer, r *http.Request, page *template.Template) {
	type choice struct{ Text, URL string }
	choices := make([]choice, 0, len(pr.similar))
	for _, text := range pr.similar {
		c := choice{Text: text}
		if pr.link {
			c.URL = sameHostPort(text, r)
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

// sameHostPort returns the URL of another host at the port that r came to.
func sameHostPort(host string, r *http.Request) string {
	u := url.URL{Scheme: "http", Host: host, Path: "/"}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if _, port := splitPort(r.Host); port != "" {
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
	grpcInvalidArgument = 3
	grpcUnimplemented   = 12
	grpcInternal        = 13
	grpcUnavailable     = 14
)

// writeGRPC answers as gRPC does where there is no message: everything is in
// the header, with HTTP status 200.
func (pr *problem) writeGRPC(w http.ResponseWriter, contentType string) {
	code := grpcUnavailable
	switch pr.code {
	case CodeUnknownHost, CodeConnect:
		code = grpcUnimplemented
	case CodeUnknownRoute, CodeBadTarget, CodeHTTPSTarget, CodeBadBody:
		code = grpcInvalidArgument
	case CodeLoop, CodeBadAnswer:
		code = grpcInternal
	}
	message := pr.title + ": " + pr.detail
	if pr.hint != "" {
		message += " (" + pr.hint + ")"
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", percentEncode(message))
	w.WriteHeader(http.StatusOK)
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
