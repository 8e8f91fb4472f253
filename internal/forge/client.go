package forge

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
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

	mu     sync.Mutex
	until  time.Time // nothing is asked before: it said that it was too much
	seen   map[string]seen
	known  bool   // who is asked for already
	who    string // whose token it is; "" where it does not say, as to an app
	failed int    // rounds of the reconciler in a row that could not ask
	rest   time.Time
}

// seen is an answer that is still right where the forge says so (RFC 9110, section 13.1.2): what is used of it.
type seen struct {
	etag string
	body []byte
}

func newClient(f Forge, h *http.Client, clock func() time.Time) (*client, error) {
	base, err := baseURL(f)
	own := *h
	own.CheckRedirect = stay
	return &client{Forge: f, base: base, http: &own, clock: clock, seen: map[string]seen{}}, err
}

var errElsewhere = errors.New("it points elsewhere, where the token is not for")

// stay follows a repository that was renamed, and nothing else: a token of GitLab would go along to another host, and what writes
// would become what reads.
func stay(req *http.Request, via []*http.Request) error {
	first := via[0]
	if req.Method != first.Method || req.URL.Host != first.URL.Host || req.URL.Scheme != first.URL.Scheme || len(via) > 3 {
		return errElsewhere
	}
	return nil
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
	maxAnswer   = 16 << 20
	maxSeen     = 2_000
	maxSeenBody = 32 << 10
	maxPause    = time.Hour
)

// errUnsure says that a branch is perhaps only not shown.
var errUnsure = errors.New("it is not certain that the branch is gone")

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
	if again = again && method == http.MethodGet && out != nil; again {
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
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("forge %s: %s %s: the answer is not what was expected: %w", c.Name, method, path, err)
	}
	if etag := res.Header.Get("ETag"); method == http.MethodGet && etag != "" && len(etag) <= 200 {
		c.keep(address, etag, out)
	}
	return nil
}

// keep notes what was used of an answer, where that is little.
func (c *client) keep(address, etag string, out any) {
	body, err := json.Marshal(out)
	if err != nil || len(body) > maxSeenBody {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) >= maxSeen {
		clear(c.seen)
	}
	c.seen[address] = seen{etag, body}
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
	if res.StatusCode >= 400 {
		if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
			pause = time.Duration(min(seconds, 86_400)) * time.Second
		} else if at, err := http.ParseTime(res.Header.Get("Retry-After")); err == nil {
			pause = at.Sub(c.clock())
		}
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

// isGone asks whether a pull request is closed or has lost its branch, or a branch is not there. Where the forge cannot be asked, or
// does not show the repository, that is an error: nothing is known then.
func (c *client) isGone(ctx context.Context, repository, branch, pull string) (bool, error) {
	if pull == "" {
		if branch == "" {
			return false, nil
		}
		return c.branchGone(ctx, repository, branch)
	}
	p, err := c.pull(ctx, repository, pull)
	if err != nil || p.closed() {
		return err == nil, err
	}
	// GitHub closes a pull request with its branch. The others leave it open.
	if own := p.ownBranch(repository); own != "" && c.Kind != GitHub {
		return c.branchGone(ctx, repository, own)
	}
	return false, nil
}

// branchGone says whether a branch is not there. A token that may not see branches gets the same answer for each: so it is only
// believed where the default branch is seen.
func (c *client) branchGone(ctx context.Context, repository, branch string) (bool, error) {
	is, err := c.hasBranch(ctx, repository, branch)
	if err != nil || is {
		return false, err
	}
	r, err := c.repository(ctx, repository)
	if err != nil {
		return false, err
	}
	main := cmp.Or(r.DefaultBranch, r.MainBranch.Name)
	if main == "" || main == branch {
		return false, fmt.Errorf("forge %s: %s: %w: its default branch is not known, or was asked for", c.Name, repository, errUnsure)
	}
	if is, err = c.hasBranch(ctx, repository, main); err == nil && !is {
		err = fmt.Errorf("forge %s: %s: %w: the token sees no branch, not even %s", c.Name, repository, errUnsure, main)
	}
	return err == nil, err
}

func (c *client) hasBranch(ctx context.Context, repository, branch string) (bool, error) {
	if c.Kind == Bitbucket { // a name with a slash is no path there; a list is not ambiguous
		var out struct {
			Values []struct {
				Name string `json:"name"`
			} `json:"values"`
		}
		query := url.Values{"q": {"name = " + bitbucketText(branch)}, "pagelen": {"10"}}
		if err := c.do(ctx, http.MethodGet, c.repo(repository, "refs", "branches"), query, nil, &out); err != nil {
			return false, err
		}
		if out.Values == nil {
			return false, fmt.Errorf("forge %s: %s: %w: the branches are not listed", c.Name, repository, errUnsure)
		}
		for _, v := range out.Values {
			if v.Name == branch {
				return true, nil
			}
		}
		return false, nil
	}
	segments := map[string][]string{GitHub: {"branches"}, GitLab: {"repository", "branches"}}[c.Kind]
	var out struct {
		Name string `json:"name"`
	}
	err := c.do(ctx, http.MethodGet, c.repo(repository, append(segments, branch)...), nil, nil, &out)
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// bitbucketText writes text of a query (developer.atlassian.com/cloud/bitbucket/rest, Filtering).
func bitbucketText(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// repositoryInfo is what forges say of a repository.
type repositoryInfo struct {
	DefaultBranch string `json:"default_branch"` // GitHub, GitLab
	MainBranch    struct {
		Name string `json:"name"`
	} `json:"mainbranch"` // Bitbucket
	Permissions struct {
		Push    *bool `json:"push"` // GitHub
		Project *struct {
			Level int `json:"access_level"`
		} `json:"project_access"` // GitLab
		Group *struct {
			Level int `json:"access_level"`
		} `json:"group_access"`
	} `json:"permissions"`
}

func (c *client) repository(ctx context.Context, repository string) (r repositoryInfo, err error) {
	err = c.do(ctx, http.MethodGet, c.repo(repository), nil, nil, &r)
	return r, err
}

// pullInfo is what forges say of a pull request.
type pullInfo struct {
	Number json.Number `json:"number"` // GitHub
	IID    json.Number `json:"iid"`    // GitLab
	ID     json.Number `json:"id"`     // Bitbucket
	State  string      `json:"state"`
	Head   struct {
		Ref  string `json:"ref"`
		Repo struct {
			FullName string `json:"full_name"`
		} `json:"repo"`
	} `json:"head"` // GitHub
	SourceBranch  string `json:"source_branch"` // GitLab
	SourceProject int    `json:"source_project_id"`
	TargetProject int    `json:"target_project_id"`
	Source        struct {
		Branch struct {
			Name string `json:"name"`
		} `json:"branch"`
		Repository struct {
			FullName string `json:"full_name"`
		} `json:"repository"`
	} `json:"source"` // Bitbucket
}

// closed says whether it is closed or merged. What it does not know is open.
func (p pullInfo) closed() bool {
	switch strings.ToLower(p.State) {
	case "closed", "merged", "declined", "superseded":
		return true
	}
	return false
}

// ownBranch is the branch that it is from; "" where that is of another repository.
func (p pullInfo) ownBranch(repository string) string {
	switch {
	case p.Head.Ref != "" && strings.EqualFold(p.Head.Repo.FullName, repository):
		return p.Head.Ref
	case p.SourceBranch != "" && p.SourceProject == p.TargetProject:
		return p.SourceBranch
	case p.Source.Branch.Name != "" && strings.EqualFold(p.Source.Repository.FullName, repository):
		return p.Source.Branch.Name
	}
	return ""
}

func (c *client) pulls() string {
	return map[string]string{GitHub: "pulls", GitLab: "merge_requests", Bitbucket: "pullrequests"}[c.Kind]
}

func (c *client) pull(ctx context.Context, repository, number string) (p pullInfo, err error) {
	if err = c.do(ctx, http.MethodGet, c.repo(repository, c.pulls(), number), nil, nil, &p); err == nil && p.State == "" {
		err = fmt.Errorf("forge %s: pull request %s of %s has no state", c.Name, number, repository)
	}
	return p, err
}

// pullOf finds the open pull request of a branch; "" where there is none.
func (c *client) pullOf(ctx context.Context, repository, branch string) (string, error) {
	owner, _, _ := strings.Cut(repository, "/")
	query := map[string]url.Values{
		GitHub:    {"state": {"open"}, "head": {owner + ":" + branch}, "per_page": {"10"}},
		GitLab:    {"state": {"opened"}, "source_branch": {branch}, "per_page": {"10"}},
		Bitbucket: {"q": {`state = "OPEN" AND source.branch.name = ` + bitbucketText(branch)}, "pagelen": {"10"}},
	}[c.Kind]
	var list []pullInfo
	var err error
	if c.Kind == Bitbucket {
		var out struct {
			Values []pullInfo `json:"values"`
		}
		err = c.do(ctx, http.MethodGet, c.repo(repository, c.pulls()), query, nil, &out)
		list = out.Values
	} else {
		err = c.do(ctx, http.MethodGet, c.repo(repository, c.pulls()), query, nil, &list)
	}
	if err != nil {
		return "", err
	}
	for _, p := range list {
		if p.ownBranch(repository) == branch && !p.closed() {
			return map[string]json.Number{GitHub: p.Number, GitLab: p.IID, Bitbucket: p.ID}[c.Kind].String(), nil
		}
	}
	return "", nil
}

// whose is the account of the token; "" where the forge does not say, as to an app of GitHub.
func (c *client) whose(ctx context.Context) (string, error) {
	c.mu.Lock()
	who, known := c.who, c.known
	c.mu.Unlock()
	if known {
		return who, nil
	}
	var out account
	err := c.do(ctx, http.MethodGet, []string{"user"}, nil, nil, &out)
	if e, ok := errors.AsType[*Error](err); ok && (e.Status == http.StatusForbidden || e.Status == http.StatusNotFound) {
		err = nil
	}
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.who = true, out.name()
	return c.who, nil
}

// account is who wrote something.
type account struct {
	Login    string `json:"login"` // GitHub
	Type     string `json:"type"`
	Username string `json:"username"` // GitLab
	UUID     string `json:"uuid"`     // Bitbucket
}

func (a account) name() string { return cmp.Or(a.UUID, a.Login, a.Username) }

// note is a comment, as forges say it.
type note struct {
	ID      json.Number `json:"id"`
	Body    string      `json:"body"` // GitHub, GitLab
	User    account     `json:"user"` // GitHub, Bitbucket
	Author  account     `json:"author"`
	System  bool        `json:"system"`
	Deleted bool        `json:"deleted"` // Bitbucket
	Content struct {
		Raw string `json:"raw"`
	} `json:"content"`
}

// notes are the segments of the path to the comments of a pull request.
func (c *client) notes(pull string) []string {
	return map[string][]string{GitHub: {"issues", pull, "comments"}, GitLab: {"merge_requests", pull, "notes"}, Bitbucket: {"pullrequests", pull, "comments"}}[c.Kind]
}

// comments finds our comments on a pull request, the oldest first: those that begin with the marker and that we wrote. Anybody
// may write the marker.
func (c *client) comments(ctx context.Context, repository, pull, marker string) (ids []string, err error) {
	me, err := c.whose(ctx)
	if err != nil {
		return nil, err
	}
	const pages, size = 50, 100
	for page := range pages {
		query := url.Values{"per_page": {strconv.Itoa(size)}, "page": {strconv.Itoa(page + 1)}}
		var list []note
		if c.Kind == Bitbucket {
			query = url.Values{"pagelen": {strconv.Itoa(size)}, "page": {strconv.Itoa(page + 1)}}
			var out struct {
				Values []note `json:"values"`
			}
			err = c.do(ctx, http.MethodGet, c.repo(repository, c.notes(pull)...), query, nil, &out)
			list = out.Values
		} else {
			if c.Kind == GitLab {
				query.Set("sort", "asc")
				query.Set("order_by", "created_at")
			}
			err = c.do(ctx, http.MethodGet, c.repo(repository, c.notes(pull)...), query, nil, &list)
		}
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			by := cmp.Or(n.User.name(), n.Author.name())
			ours := by == me
			if me == "" { // an app: GitHub says that such are no persons
				ours = c.Kind != GitHub || n.User.Type == "Bot"
			}
			if ours && !n.Deleted && !n.System && strings.HasPrefix(cmp.Or(n.Body, n.Content.Raw), marker) {
				ids = append(ids, n.ID.String())
			}
		}
		if len(list) < size {
			slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
			return ids, nil
		}
	}
	return nil, fmt.Errorf("forge %s: pull request %s of %s has too many comments to look through", c.Name, pull, repository)
}

// putComment writes a comment, or replaces the one with the ID.
func (c *client) putComment(ctx context.Context, repository, pull, id, text string) error {
	var in any = map[string]string{"body": text}
	if c.Kind == Bitbucket {
		in = map[string]any{"content": map[string]string{"raw": text}}
	}
	method, segments := http.MethodPost, c.notes(pull)
	if id != "" {
		method, segments = c.oneNote(pull, id)
	}
	return c.do(ctx, method, c.repo(repository, segments...), nil, in, nil)
}

func (c *client) oneNote(pull, id string) (method string, segments []string) {
	if c.Kind == GitHub {
		return http.MethodPatch, []string{"issues", "comments", id}
	}
	return http.MethodPut, append(c.notes(pull), id)
}

func (c *client) deleteComment(ctx context.Context, repository, pull, id string) error {
	_, segments := c.oneNote(pull, id)
	err := c.do(ctx, http.MethodDelete, c.repo(repository, segments...), nil, nil, nil)
	if isNotFound(err) {
		return nil
	}
	return err
}

// maxKey is how long the key of a status of Bitbucket may be.
const maxKey = 40

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
		err := c.do(ctx, http.MethodPost, c.repo(repository, "statuses", commit), nil, in, nil)
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest && strings.Contains(e.Said, "Cannot transition status") {
			return nil // it is in that state already: GitLab refuses that
		}
		return err
	default:
		if page == "" {
			return nil // Bitbucket wants one
		}
		key := name
		if len(key) > maxKey {
			sum := sha256.Sum256([]byte(name))
			key = name[:maxKey-9] + "-" + hex.EncodeToString(sum[:4])
		}
		in := map[string]string{
			"state": map[string]string{"pending": "INPROGRESS", "success": "SUCCESSFUL", "failure": "FAILED"}[state], "key": key, "name": name, "description": text,
			"url": page,
		}
		return c.do(ctx, http.MethodPost, c.repo(repository, "commit", commit, "statuses", "build"), nil, in, nil)
	}
}

// fails notes that the forge could not be asked in this round: the pauses become longer.
func (c *client) fails(every time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = c.clock().Add(min(every<<min(c.failed, 10), maxPause))
	c.failed++
}

// works notes that a round asked all it wanted.
func (c *client) works() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed, c.rest = 0, time.Time{}
}

func (c *client) rests() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clock().Before(c.rest)
}
