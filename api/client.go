package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// HeaderActor names the person or program that asks for a change. It is shown
// in events and as the owner of what it deploys; it proves nothing.
const HeaderActor = "Layover-Actor"

const (
	maxAnswer  = 32 << 20  // of an ordinary answer
	maxTable   = 512 << 20 // of a table: some hundred bytes for each version
	maxProblem = 1 << 20
	maxActor   = 100
)

// Client speaks to one Layover server. It is safe for concurrent use. Its
// methods return a [*Problem] where the server refuses, and an
// [*UnreachableError] where no server answers.
type Client struct {
	base     *url.URL
	http     *http.Client
	actor    string
	agent    string
	backoff  time.Duration // first pause before a broken stream is taken up again
	patience time.Duration // how long a broken stream is tried again
	lost     func(error)   // see WithLost
}

// ClientOption changes a client that [NewClient] makes.
type ClientOption func(*Client)

// WithActor says who asks, in the words that events show. Control characters are
// left out, and all behind 100 characters.
func WithActor(actor string) ClientOption {
	return func(c *Client) { c.actor = CleanActor(actor) }
}

// WithUserAgent replaces the User-Agent header.
func WithUserAgent(agent string) ClientOption {
	return func(c *Client) { c.agent = agent }
}

// WithHTTPClient makes the client send its requests through h, which must not
// have a time-out: streams last.
func WithHTTPClient(h *http.Client) ClientOption {
	return func(c *Client) { c.http = h }
}

// WithPatience says how long a stream that broke is tried again before the
// error is returned. The default is a minute.
func WithPatience(d time.Duration) ClientOption {
	return func(c *Client) { c.patience = d }
}

// WithLost says what to call, so that somebody who waits can be told, when a stream broke and
// could not be taken up again at once: with the error then, and with nil when it was taken up.
// Calls come from the goroutine that reads the stream.
func WithLost(lost func(err error)) ClientOption {
	return func(c *Client) { c.lost = lost }
}

// NewClient returns a client for the server at baseURL, for example
// "http://127.0.0.1:7070"; the scheme may be left out. It connects to nothing yet.
func NewClient(baseURL string, opts ...ClientOption) (*Client, error) {
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	c := &Client{
		base:     base,
		agent:    "layover-client",
		backoff:  100 * time.Millisecond,
		patience: time.Minute,
		lost:     func(error) {},
	}
	for _, opt := range opts {
		opt(c)
	}
	if c.http == nil {
		c.http = &http.Client{
			Transport: newTransport(base),
			// The API never redirects: what does is something else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return c, nil
}

// URL returns the server's address, without a slash at its end.
func (c *Client) URL() string { return c.base.String() }

// Close closes connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// UnreachableError says that no server answered.
type UnreachableError struct {
	URL string // of the server
	Err error
}

// Error names the server and the reason.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no Layover server answers at %s: %v", e.URL, reason(e.Err))
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// CleanActor returns actor as the server keeps it: without control characters
// and outer white space, and at most 100 characters of it.
func CleanActor(actor string) string {
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(actor, ""))
	runes := []rune(strings.TrimSpace(clean))
	return strings.TrimSpace(string(runes[:min(len(runes), maxActor)]))
}

// call is one request to the API.
type call struct {
	method string
	path   []string // below /api/v1, not yet escaped
	root   bool     // path is below the root of the server instead
	query  url.Values
	body   any // sent as JSON, where not nil
	header http.Header
	limit  int64  // of the answer in bytes; 0 means maxAnswer
	opened func() // of a stream: it is there; may be nil
}

// do sends a call and reads its answer into out, where that is not nil.
func (c *Client) do(ctx context.Context, k call, out any) error {
	resp, err := c.send(ctx, k)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		_, _ = io.CopyN(io.Discard, resp.Body, maxProblem) // so that the connection can be used again
		return nil
	}
	limit := k.limit
	if limit == 0 {
		limit = maxAnswer
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &UnreachableError{URL: c.URL(), Err: err}
	case int64(len(data)) > limit:
		return fmt.Errorf("the answer of %s is longer than %d bytes", resp.Request.URL, limit)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read the answer of %s: %w", resp.Request.URL, err)
	}
	return nil
}

// send sends a call and returns the answer when its status is 2xx.
func (c *Client) send(ctx context.Context, k call) (*http.Response, error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &UnreachableError{URL: c.URL(), Err: err}
	}
	if resp.StatusCode/100 != 2 {
		defer func() { _ = resp.Body.Close() }()
		return nil, readProblem(resp)
	}
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusNoContent && !isOurs(ct) {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s is not a Layover server: it answers with %q", c.URL(), ct)
	}
	return resp, nil
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	u := *c.base
	escaped := make([]string, len(k.path))
	for i, segment := range k.path {
		if segment == "" || segment == "." || segment == ".." {
			return nil, &Problem{
				Status: http.StatusUnprocessableEntity,
				Title:  http.StatusText(http.StatusUnprocessableEntity),
				Detail: fmt.Sprintf("%q is not a name", segment),
				Code:   CodeInvalid,
				Hint:   "names are lower-case letters, digits, '.', '_' and '-'",
			}
		}
		escaped[i] = url.PathEscape(segment)
	}
	below := "/api/v1/"
	if k.root {
		below = "/"
	}
	u.RawPath = u.EscapedPath() + below + strings.Join(escaped, "/")
	u.Path = u.Path + below + strings.Join(k.path, "/")
	u.RawQuery = k.query.Encode()

	var body io.Reader
	if k.body != nil {
		data, err := json.Marshal(k.body)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if k.header != nil {
		req.Header = k.header
	}
	if k.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	req.Header.Set("User-Agent", c.agent)
	if c.actor != "" {
		req.Header.Set(HeaderActor, c.actor)
	}
	return req, nil
}

func parseBase(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("the server's address %q is not a URL: %w", s, errors.Unwrap(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("the server's address %q must begin with http:// or https://", s)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("the server's address %q names no host", s)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("the server's address %q must be of the form http://host:port", s)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// newTransport returns a transport that goes around any HTTP_PROXY for a server
// on this machine.
func newTransport(base *url.URL) *http.Transport {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   8,
		ForceAttemptHTTP2:     true,
	}
	if isLoopback(base.Hostname()) {
		t.Proxy = nil
	}
	return t
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func isOurs(contentType string) bool {
	mt, _, err := mime.ParseMediaType(contentType)
	return err == nil && (mt == "application/json" || mt == "application/x-ndjson" || mt == "text/event-stream" || mt == "image/svg+xml")
}

// readProblem makes an error of an answer that is not 2xx.
func readProblem(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem)) // what came is better than nothing
	mt, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mt == "application/problem+json" {
		p := &Problem{}
		if err := json.Unmarshal(data, p); err == nil && p.Detail != "" {
			p.Status = resp.StatusCode
			return p
		}
	}
	return &Problem{
		Status: resp.StatusCode,
		Title:  http.StatusText(resp.StatusCode),
		Detail: fmt.Sprintf("%s %s answered %s", resp.Request.Method, resp.Request.URL, resp.Status),
		Code:   codeOfStatus(resp.StatusCode),
		Hint:   "this is not how a Layover server answers: check the address",
	}
}

func codeOfStatus(status int) Code {
	switch {
	case status == http.StatusNotFound:
		return CodeNotFound
	case status == http.StatusConflict:
		return CodeConflict
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return CodeForbidden
	case status >= 500 && status != http.StatusInternalServerError:
		return CodeUnavailable
	case status >= 500:
		return CodeInternal
	}
	return CodeInvalid
}

// reason strips what net/http puts around the cause, which names the URL again.
func reason(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
