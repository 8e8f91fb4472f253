// Package forgetest has stand-ins for the REST APIs of GitHub, GitLab and Bitbucket Cloud, as far as Layover uses them, and their
// webhooks. Paths, status codes, bodies and headers are those of their public descriptions, which are named at each. What the real
// ones refuse they refuse.
package forgetest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// state is what a forge holds.
type state struct {
	Token   string
	Account string // whose token it is

	authorized func(*http.Request) bool
	name       func(*http.Request) string // of the repository that is asked for
	fail       func(w http.ResponseWriter, status int, message string)
	limit      func(w http.ResponseWriter, until time.Time)

	mu       sync.Mutex
	repos    map[string]*repository
	comments int
	calls    []string
	down     int // status that all calls are answered with; 0 for none
	limited  time.Time
	blind    bool // branches are not shown
	readOnly bool
	lost     int // answers to comments that do not arrive
}

type repository struct {
	branches map[string]string // commit by name
	pulls    map[int]*pull
	statuses map[string][]Status // by commit
}

type pull struct {
	state    string // open or closed
	head     string
	sha      string
	comments []*Comment
}

// Comment is one on a pull request.
type Comment struct {
	ID     int
	Body   string
	Author string
	Edits  int
}

// Status is one of a commit. Its state is in the words of the forge.
type Status struct {
	State       string `json:"state"`
	Context     string `json:"context"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
}

func newState(token string) state {
	return state{Token: token, Account: "layover-bot", repos: map[string]*repository{}}
}

// with checks what the real ones check before anything else.
func (s *state) with(handle func(http.ResponseWriter, *http.Request, *repository)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.admits(w, r) {
			return
		}
		repo := s.repos[s.name(r)]
		if repo == nil {
			s.fail(w, http.StatusNotFound, "Not Found")
			return
		}
		if s.readOnly && r.Method != http.MethodGet {
			s.fail(w, http.StatusForbidden, "Resource not accessible")
			return
		}
		if s.lost > 0 && r.Method == http.MethodPost {
			s.lost--
			handle(discard{http.Header{}}, r, repo)
			panic(http.ErrAbortHandler) // it was done, and nobody is told
		}
		handle(w, r, repo)
	}
}

// admits says whether a call may be answered; otherwise it is.
func (s *state) admits(w http.ResponseWriter, r *http.Request) bool {
	s.calls = append(s.calls, r.Method+" "+r.URL.EscapedPath())
	switch {
	case time.Now().Before(s.limited):
		s.limit(w, s.limited)
	case s.down != 0:
		s.fail(w, s.down, "Server Error")
	case r.UserAgent() == "":
		s.fail(w, http.StatusForbidden, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header")
	case !s.authorized(r):
		s.fail(w, http.StatusUnauthorized, "Bad credentials")
	default:
		return true
	}
	return false
}

// account answers who the token is of.
func (s *state) account(shown func(me string) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case !s.admits(w, r):
		case s.Account == "":
			s.fail(w, http.StatusForbidden, "Resource not accessible by integration")
		default:
			send(w, r, http.StatusOK, shown(s.Account))
		}
	}
}

func (s *state) pull(w http.ResponseWriter, r *http.Request, repo *repository) (int, *pull) {
	n, _ := strconv.Atoi(r.PathValue("number"))
	if repo.pulls[n] == nil {
		s.fail(w, http.StatusNotFound, "Not Found")
	}
	return n, repo.pulls[n]
}

func (s *state) read(w http.ResponseWriter, r *http.Request, out any) bool {
	if r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(io.LimitReader(r.Body, 1<<21)).Decode(out) != nil {
		s.fail(w, http.StatusBadRequest, "Problems parsing JSON")
		return false
	}
	return true
}

// text reads the text of a comment, which is a field, or a field of a field.
func (s *state) text(w http.ResponseWriter, r *http.Request, refused, most int, path ...string) (string, bool) {
	var in map[string]any
	if !s.read(w, r, &in) {
		return "", false
	}
	for _, name := range path[:len(path)-1] {
		in, _ = in[name].(map[string]any)
	}
	text, _ := in[path[len(path)-1]].(string)
	if text == "" || len(text) > most {
		s.fail(w, refused, "Validation Failed")
		return "", false
	}
	return text, true
}

func (s *state) add(p *pull, author, body string) *Comment {
	s.comments++
	c := &Comment{ID: 999_990 + s.comments, Body: body, Author: author}
	p.comments = append(p.comments, c)
	return c
}

// own answers about a comment on a pull request that only who wrote it may change; missing and foreign is what is said otherwise.
func (s *state) own(missing, foreign string, handle func(http.ResponseWriter, *http.Request, *pull, *Comment)) http.HandlerFunc {
	return s.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		_, p := s.pull(w, r, repo)
		if p == nil {
			return
		}
		switch c := p.comment(r.PathValue("comment")); {
		case c == nil:
			s.fail(w, http.StatusNotFound, missing)
		case c.Author != s.Account:
			s.fail(w, http.StatusForbidden, foreign)
		default:
			handle(w, r, p, c)
		}
	})
}

func (p *pull) comment(id string) *Comment {
	for _, c := range p.comments {
		if strconv.Itoa(c.ID) == id {
			return c
		}
	}
	return nil
}

func (p *pull) remove(c *Comment) {
	p.comments = slices.DeleteFunc(p.comments, func(other *Comment) bool { return other == c })
}

func (c *Comment) edit(body string) {
	c.Body = body
	c.Edits++
}

func (r *repository) numbers() []int { return slices.Sorted(maps.Keys(r.pulls)) }

// page is a part of a list, and where the next one is (RFC 8288).
func page[T any](w http.ResponseWriter, r *http.Request, base, parameter string, size int, all []T, shown func(T) map[string]any) []map[string]any {
	query, number := r.URL.Query(), 1
	if n, err := strconv.Atoi(query.Get(parameter)); err == nil && n > 0 && n <= 100 {
		size = n
	}
	if n, err := strconv.Atoi(query.Get("page")); err == nil && n > 0 {
		number = n
	}
	from, to := min((number-1)*size, len(all)), min(number*size, len(all))
	if to < len(all) {
		query.Set("page", strconv.Itoa(number+1))
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, base, r.URL.EscapedPath(), query.Encode()))
	}
	list := []map[string]any{}
	for _, v := range all[from:to] {
		list = append(list, shown(v))
	}
	return list
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// send answers, with an ETag where something is read.
func send(w http.ResponseWriter, r *http.Request, status int, v any) {
	if r.Method == http.MethodGet {
		text, _ := json.Marshal(v)
		etag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(text))
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	write(w, status, v)
}

// discard is an answer that does not arrive.
type discard struct{ header http.Header }

func (d discard) Header() http.Header          { return d.header }
func (discard) WriteHeader(int)                {}
func (discard) Write(text []byte) (int, error) { return len(text), nil }

// AddRepository makes a repository with the branch main.
func (s *state) AddRepository(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[name] = &repository{branches: map[string]string{"main": strings.Repeat("0", 39) + "1"}, pulls: map[int]*pull{}, statuses: map[string][]Status{}}
}

// RemoveRepository hides a repository, as from a token that may no longer see it.
func (s *state) RemoveRepository(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.repos, name)
}

// Push makes a branch, or moves it.
func (s *state) Push(repo, branch, commit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[repo].branches[branch] = commit
}

// DeleteBranch deletes a branch.
func (s *state) DeleteBranch(repo, branch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.repos[repo].branches, branch)
}

// OpenPull opens a pull request.
func (s *state) OpenPull(repo string, number int, branch, commit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[repo].pulls[number] = &pull{state: "open", head: branch, sha: commit}
}

// ClosePull closes or merges a pull request.
func (s *state) ClosePull(repo string, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[repo].pulls[number].state = "closed"
}

// Say adds a comment of somebody.
func (s *state) Say(repo string, number int, author, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(s.repos[repo].pulls[number], author, body)
}

// Comments returns those on a pull request.
func (s *state) Comments(repo string, number int) (out []Comment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.repos[repo].pulls[number].comments {
		out = append(out, *c)
	}
	return out
}

// DeleteComments deletes those on a pull request.
func (s *state) DeleteComments(repo string, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[repo].pulls[number].comments = nil
}

// Statuses returns those of a commit, the newest last.
func (s *state) Statuses(repo, commit string) []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.repos[repo].statuses[commit])
}

// Calls returns the calls that there were.
func (s *state) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Answer has all calls answered with a status; 0 for the usual answers.
func (s *state) Answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = status
}

// Limit has all calls refused until a time.
func (s *state) Limit(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limited = until
}

// Blind hides all branches, as from a token without the right to read contents.
func (s *state) Blind(blind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blind = blind
}

// ReadOnly refuses all that writes.
func (s *state) ReadOnly(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readOnly = is
}

// Lose does what is posted next, and breaks the connection off without an answer.
func (s *state) Lose(answers int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = answers
}
