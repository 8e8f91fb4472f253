package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

const problemType = "application/problem+json"

// statusOf is the one place where a kind of error becomes an HTTP status.
func statusOf(code api.Code) int {
	switch code {
	case api.CodeInvalid:
		return http.StatusUnprocessableEntity
	case api.CodeNotFound:
		return http.StatusNotFound
	case api.CodeConflict, api.CodeQuota:
		return http.StatusConflict
	case api.CodeForbidden:
		return http.StatusForbidden
	case api.CodeUnavailable:
		return http.StatusServiceUnavailable
	case api.CodeInternal:
	}
	return http.StatusInternalServerError
}

// codeOf is the reverse, for errors that begin as a status: those of HTTP itself.
func codeOf(status int) api.Code {
	switch {
	case status == http.StatusNotFound:
		return api.CodeNotFound
	case status == http.StatusConflict:
		return api.CodeConflict
	case status == http.StatusForbidden:
		return api.CodeForbidden
	case status == http.StatusServiceUnavailable:
		return api.CodeUnavailable
	case status >= 500:
		return api.CodeInternal
	}
	return api.CodeInvalid
}

// problem is an api.Problem as the API library wants to have errors.
type problem struct{ *api.Problem }

// GetStatus makes it a huma.StatusError.
func (p problem) GetStatus() int { return p.Status }

// ContentType makes it a huma.ContentTypeFilter.
func (p problem) ContentType(string) string { return problemType }

func newProblem(status int, code api.Code, hint, format string, args ...any) problem {
	return problem{&api.Problem{
		Status: status,
		Title:  http.StatusText(status),
		Detail: fmt.Sprintf(format, args...),
		Code:   code,
		Hint:   hint,
	}}
}

func invalidf(hint, format string, args ...any) problem {
	return newProblem(statusOf(api.CodeInvalid), api.CodeInvalid, hint, format, args...)
}

func notFoundf(hint, format string, args ...any) problem {
	return newProblem(statusOf(api.CodeNotFound), api.CodeNotFound, hint, format, args...)
}

// problemOf makes an error one that may be shown, and logs what may not.
func (s *Server) problemOf(ctx context.Context, operation string, err error) problem {
	if p, ok := errors.AsType[problem](err); ok {
		return p
	}
	if e, ok := errors.AsType[*control.Error](err); ok && e.Code != api.CodeInternal {
		if cause := e.Unwrap(); cause != nil && e.Code == api.CodeUnavailable {
			s.log.Warn("request not answered", "operation", operation, "err", cause)
		}
		p := newProblem(statusOf(e.Code), e.Code, e.Hint, "%s", e.Message)
		p.Errors = append(slices.Clone(e.Details), details(e.Err)...)
		return p
	}
	if ctx.Err() != nil { // nobody reads the answer
		return newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "", "the request ended before its answer")
	}
	s.log.Error("request failed", "operation", operation, "err", err)
	return internalProblem()
}

func internalProblem() problem {
	return newProblem(http.StatusInternalServerError, api.CodeInternal,
		"the log of the server says more", "the server met an error it did not expect")
}

// details returns the problems that an error consists of, where it has several.
func details(err error) []string {
	if e, ok := errors.AsType[*route.CompileError](err); ok && len(e.Problems) > 1 {
		return e.Problems
	}
	return nil
}

// translate turns the errors of the API library, which finds the mistakes in a
// request, into problems. It is a huma.Transformer.
func translate(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	if m.Status >= 500 {
		return internalProblem(), nil
	}
	p := newProblem(m.Status, codeOf(m.Status), "", "%s", m.Detail)
	for _, d := range m.Errors {
		if d == nil {
			continue
		}
		text := d.Message // never the value, which may be long or secret
		if d.Location != "" {
			text = d.Location + ": " + text
		}
		p.Errors = append(p.Errors, text)
	}
	switch {
	case m.Status == http.StatusRequestEntityTooLarge:
		p.Detail = fmt.Sprintf("the body of the request is longer than %d bytes", maxBody)
	case len(p.Errors) == 1:
		p.Detail, p.Errors = "the request is not valid: "+p.Errors[0], nil
	case len(p.Errors) > 1:
		p.Detail = fmt.Sprintf("the request has %d mistakes; the first is %s", len(p.Errors), p.Errors[0])
	}
	p.Hint = "the API is described at /docs"
	return p, nil
}

// writeProblem answers outside of the API library.
func writeProblem(w http.ResponseWriter, p problem) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p) // strings and a number: it cannot fail
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_, _ = io.Copy(w, &body) // the client may be gone
}

// recovering answers a request whose handler panicked.
func (s *Server) recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler { //nolint:errorlint // a panic value, compared as net/http does
				panic(cause)
			}
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path,
				"err", fmt.Sprint(cause), "stack", string(debug.Stack()))
			if w.Header().Get("Content-Type") != "" { // the answer has begun
				panic(http.ErrAbortHandler)
			}
			writeProblem(w, internalProblem())
		}()
		next.ServeHTTP(w, r)
	})
}

// routing answers what mux has no handler for with a problem.
func routing(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, pattern := mux.Handler(r); pattern == "" {
			refuseRoute(w, r, h)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// refuseRoute asks the mux's own answer why there is no handler: no such path,
// or not with this method.
func refuseRoute(w http.ResponseWriter, r *http.Request, h http.Handler) {
	probe := &headOnly{header: http.Header{}}
	h.ServeHTTP(probe, r)
	switch {
	case probe.status == http.StatusMethodNotAllowed:
		allow := probe.header.Get("Allow")
		w.Header().Set("Allow", allow)
		writeProblem(w, newProblem(http.StatusMethodNotAllowed, api.CodeInvalid,
			"the API is described at /docs", "%s is not possible here, but %s is", r.Method, allow))
	case probe.status/100 == 3:
		w.Header().Set("Location", probe.header.Get("Location"))
		w.WriteHeader(probe.status)
	default:
		writeProblem(w, notFoundf("the API is described at /docs", "there is nothing at this path"))
	}
}

// headOnly is a response writer that keeps the head and drops the body.
type headOnly struct {
	header http.Header
	status int
}

func (h *headOnly) Header() http.Header { return h.header }

func (h *headOnly) WriteHeader(status int) { h.status = status }

func (h *headOnly) Write(p []byte) (int, error) { return len(p), nil }
