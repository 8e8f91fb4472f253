package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// client asks and tells one forge.
type client struct {
	Forge
	base  *url.URL
	http  *http.Client
	clock func() time.Time

	mu    sync.Mutex
	until time.Time // nothing is asked before: it said that it was too much
	seen  map[string]seen
}

// seen is an answer that is still right where the forge says so (RFC 9110, section 13.1.2).
type seen struct {
	etag string
	body []byte
}

func newClient(f Forge, h *http.Client, clock func() time.Time) (*client, error) {
	base, err := baseURL(f)
	return &client{Forge: f, base: base, http: h, clock: clock, seen: map[string]seen{}}, err
}

// Error is an answer that is no success.
type Error struct {
	Forge, Method, Path string
	Status              int
	Said                string
}

// Error says which call it was; never with a token.
func (e *Error) Error() string {
	return fmt.Sprintf("forge %s: %s %s: %d %s", e.Forge, e.Method, e.Path, e.Status, e.Said)
}

func isNotFound(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == http.StatusNotFound
}

const (
	maxAnswer = 8 << 20
	maxSeen   = 5_000
	maxPause  = time.Hour
)

// errPaused says that the forge wants to be left alone.
var errPaused = errors.New("the forge has said that it is asked too often")

// do makes a call. Segments of the path are escaped one by one.
func (c *client) do(ctx context.Context, method string, segments []string, query url.Values, in, out any) error {
	c.mu.Lock()
	paused := c.clock().Before(c.until)
	c.mu.Unlock()
	if paused {
		return fmt.Errorf("forge %s: %w", c.Name, errPaused)
	}
	escaped := []string{strings.TrimSuffix(c.base.EscapedPath(), "/")}
	for _, s := range segments {
		escaped = append(escaped, url.PathEscape(s))
	}
	path := strings.Join(escaped, "/")
	address := c.base.Scheme + "://" + c.base.Host + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return err
	}
	if err := c.authorize(req); err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	c.mu.Lock()
	before, again := c.seen[address]
	c.mu.Unlock()
	if again = again && method == http.MethodGet; again {
		req.Header.Set("If-None-Match", before.etag)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the address is said below, without a query
		}
		return fmt.Errorf("forge %s: %s %s: %w", c.Name, method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("forge %s: %s %s: %w", c.Name, method, path, err)
	}
	c.heed(res)
	switch {
	case res.StatusCode == http.StatusNotModified && again:
		text = before.body
	case res.StatusCode < 200 || res.StatusCode > 299:
		return &Error{c.Name, method, path, res.StatusCode, message(text)}
	case method == http.MethodGet && res.Header.Get("ETag") != "":
		c.mu.Lock()
		if len(c.seen) >= maxSeen {
			clear(c.seen)
		}
		c.seen[address] = seen{res.Header.Get("ETag"), text}
		c.mu.Unlock()
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("forge %s: %s %s: the answer is not what was expected: %w", c.Name, method, path, err)
	}
	return nil
}

func (c *client) authorize(req *http.Request) error {
	token, err := c.Token()
	if err != nil {
		return fmt.Errorf("forge %s: read the token: %w", c.Name, err)
	}
	switch c.Kind {
	case GitLab:
		req.Header.Set("Private-Token", string(token))
	case GitHub:
		req.Header.Set("Accept", "application/vnd.github+json")
		req.Header.Set("X-Github-Api-Version", "2022-11-28")
		fallthrough
	default:
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	req.Header.Set("User-Agent", "layover")
	return nil
}

// heed leaves the forge alone where it asks for that.
func (c *client) heed(res *http.Response) {
	pause := time.Duration(0)
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		pause = time.Duration(seconds) * time.Second
	}
	for _, prefix := range []string{"X-RateLimit-", "RateLimit-"} {
		if res.Header.Get(prefix+"Remaining") == "0" {
			if at, err := strconv.ParseInt(res.Header.Get(prefix+"Reset"), 10, 64); err == nil {
				pause = max(pause, time.Unix(at, 0).Sub(c.clock()))
			}
		}
	}
	if pause == 0 && res.StatusCode == http.StatusTooManyRequests {
		pause = time.Minute
	}
	if pause > 0 {
		c.mu.Lock()
		c.until = c.clock().Add(min(pause, maxPause))
		c.mu.Unlock()
	}
}

// message is what an answer says, in a line.
func message(text []byte) string {
	var said struct {
		Message any `json:"message"`
		Error   any `json:"error"`
	}
	_ = json.Unmarshal(text, &said)
	for _, m := range []any{said.Message, said.Error} {
		if m != nil {
			line, _ := json.Marshal(m)
			return string(line[:min(len(line), 200)])
		}
	}
	return ""
}

// repo are the segments of a path to a repository.
func (c *client) repo(repository string, more ...string) []string {
	switch c.Kind {
	case GitHub:
		owner, name, _ := strings.Cut(repository, "/")
		return append([]string{"repos", owner, name}, more...)
	case GitLab:
		return append([]string{"projects", repository}, more...)
	default:
		owner, name, _ := strings.Cut(repository, "/")
		return append([]string{"repositories", owner, name}, more...)
	}
}

// isGone asks whether a pull request is closed, or a branch is not there. Where the forge cannot be asked, or does not show the
// repository, that is an error: nothing is known then.
func (c *client) isGone(ctx context.Context, repository, branch, pull string) (bool, error) {
	if pull != "" {
		segment := map[string]string{GitHub: "pulls", GitLab: "merge_requests", Bitbucket: "pullrequests"}[c.Kind]
		var out struct {
			State string `json:"state"`
		}
		if err := c.do(ctx, http.MethodGet, c.repo(repository, segment, pull), nil, nil, &out); err != nil {
			return false, err
		}
		if out.State == "" {
			return false, fmt.Errorf("forge %s: pull request %s of %s has no state", c.Name, pull, repository)
		}
		return !strings.EqualFold(out.State, "open") && !strings.EqualFold(out.State, "opened") && !strings.EqualFold(out.State, "locked"), nil
	}
	if branch == "" {
		return false, nil
	}
	segments := map[string][]string{GitHub: {"branches"}, GitLab: {"repository", "branches"}, Bitbucket: {"refs", "branches"}}[c.Kind]
	err := c.do(ctx, http.MethodGet, c.repo(repository, append(segments, branch)...), nil, nil, nil)
	if !isNotFound(err) {
		return false, err
	}
	// A token that may not see the repository gets the same answer.
	if err := c.do(ctx, http.MethodGet, c.repo(repository), nil, nil, nil); err != nil {
		return false, err
	}
	return true, nil
}

// comments finds the comment with the marker on a pull request; "" where there is none.
func (c *client) comments(ctx context.Context, repository, pull, marker string) (id string, err error) {
	const pages = 30
	for page := range pages {
		query := url.Values{"per_page": {"100"}, "page": {strconv.Itoa(page + 1)}}
		var list []struct {
			ID   json.Number `json:"id"`
			Body string      `json:"body"`
		}
		n := 0
		if c.Kind == Bitbucket {
			query = url.Values{"pagelen": {"100"}, "page": {strconv.Itoa(page + 1)}}
			var out struct {
				Values []struct {
					ID      json.Number `json:"id"`
					Deleted bool        `json:"deleted"`
					Content struct {
						Raw string `json:"raw"`
					} `json:"content"`
				} `json:"values"`
			}
			if err := c.do(ctx, http.MethodGet, c.repo(repository, "pullrequests", pull, "comments"), query, nil, &out); err != nil {
				return "", err
			}
			n = len(out.Values)
			for _, v := range out.Values {
				if !v.Deleted && strings.Contains(v.Content.Raw, marker) {
					return v.ID.String(), nil
				}
			}
		} else {
			segments := []string{"issues", pull, "comments"}
			if c.Kind == GitLab {
				segments = []string{"merge_requests", pull, "notes"}
			}
			if err := c.do(ctx, http.MethodGet, c.repo(repository, segments...), query, nil, &list); err != nil {
				return "", err
			}
			n = len(list)
			for _, v := range list {
				if strings.Contains(v.Body, marker) {
					return v.ID.String(), nil
				}
			}
		}
		if n < 100 {
			return "", nil
		}
	}
	return "", fmt.Errorf("forge %s: pull request %s of %s has too many comments to look through", c.Name, pull, repository)
}

// putComment writes a comment, or replaces the one with the ID, and returns its ID.
func (c *client) putComment(ctx context.Context, repository, pull, id, text string) (string, error) {
	var in any = map[string]string{"body": text}
	var out struct {
		ID json.Number `json:"id"`
	}
	method, segments := http.MethodPost, []string{"issues", pull, "comments"}
	switch c.Kind {
	case GitHub:
		if id != "" {
			method, segments = http.MethodPatch, []string{"issues", "comments", id}
		}
	case GitLab:
		segments = []string{"merge_requests", pull, "notes"}
		if id != "" {
			method, segments = http.MethodPut, append(segments, id)
		}
	default:
		in, segments = map[string]any{"content": map[string]string{"raw": text}}, []string{"pullrequests", pull, "comments"}
		if id != "" {
			method, segments = http.MethodPut, append(segments, id)
		}
	}
	err := c.do(ctx, method, c.repo(repository, segments...), nil, in, &out)
	return out.ID.String(), err
}

// putStatus sets the status of a commit: pending, success or failure.
func (c *client) putStatus(ctx context.Context, repository, commit, state, name, text, page string) error {
	switch c.Kind {
	case GitHub:
		in := map[string]string{"state": state, "context": name, "description": text}
		if page != "" {
			in["target_url"] = page
		}
		return c.do(ctx, http.MethodPost, c.repo(repository, "statuses", commit), nil, in, nil)
	case GitLab:
		in := map[string]string{"state": map[string]string{"pending": "running", "success": "success", "failure": "failed"}[state], "name": name, "description": text}
		if page != "" {
			in["target_url"] = page
		}
		return c.do(ctx, http.MethodPost, c.repo(repository, "statuses", commit), nil, in, nil)
	default:
		in := map[string]string{
			"state": map[string]string{"pending": "INPROGRESS", "success": "SUCCESSFUL", "failure": "FAILED"}[state], "key": name, "name": name, "description": text,
			"url": page,
		}
		if page == "" {
			return nil // Bitbucket wants one
		}
		return c.do(ctx, http.MethodPost, c.repo(repository, "commit", commit, "statuses", "build"), nil, in, nil)
	}
}
