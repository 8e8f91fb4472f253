// Package forgetest has a stand-in for the REST API of GitHub, as far as Layover uses it. Paths, status codes, bodies and headers are
// those of docs.github.com/rest (API version 2022-11-28): branches, pulls, repos, issues/comments, commits/statuses; pagination
// by Link, rate limits, conditional requests. What the real one refuses it refuses.
package forgetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// GitHub is the stand-in. Its URL is that of the API.
type GitHub struct {
	*httptest.Server
	Token string

	mu       sync.Mutex
	repos    map[string]*repository
	comments int
	calls    []string
	down     int // status that all calls are answered with; 0 for none
	limited  time.Time
}

type repository struct {
	branches map[string]string // commit by name
	pulls    map[int]*pull
	statuses map[string][]Status // by commit
}

type pull struct {
	state    string
	head     string
	sha      string
	comments []*Comment
}

// Comment is one on a pull request.
type Comment struct {
	ID      int    `json:"id"`
	Body    string `json:"body"`
	Edits   int    `json:"-"`
	HTMLURL string `json:"html_url"`
}

// Status is one of a commit.
type Status struct {
	State       string `json:"state"`
	Context     string `json:"context"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
}

// NewGitHub starts one. Close it.
func NewGitHub(token string) *GitHub {
	g := &GitHub{Token: token, repos: map[string]*repository{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /repos/{owner}/{repo}", g.with(func(w http.ResponseWriter, r *http.Request, _ *repository) {
		send(w, r, http.StatusOK, map[string]any{"full_name": name(r), "default_branch": "main"})
	}))
	mux.HandleFunc("GET /repos/{owner}/{repo}/branches/{branch}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		sha, ok := repo.branches[r.PathValue("branch")]
		if !ok {
			fail(w, http.StatusNotFound, "Branch not found")
			return
		}
		send(w, r, http.StatusOK, map[string]any{"name": r.PathValue("branch"), "commit": map[string]string{"sha": sha}})
	}))
	mux.HandleFunc("GET /repos/{owner}/{repo}/pulls/{number}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		if p := repo.pull(w, r, "number"); p != nil {
			send(w, r, http.StatusOK, map[string]any{"number": r.PathValue("number"), "state": p.state, "head": map[string]string{"ref": p.head, "sha": p.sha}})
		}
	}))
	mux.HandleFunc("GET /repos/{owner}/{repo}/issues/{number}/comments", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		p := repo.pull(w, r, "number")
		if p == nil {
			return
		}
		size, page := 30, 1
		if n, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil && n > 0 && n <= 100 {
			size = n
		}
		if n, err := strconv.Atoi(r.URL.Query().Get("page")); err == nil && n > 0 {
			page = n
		}
		from, to := min((page-1)*size, len(p.comments)), min(page*size, len(p.comments))
		if to < len(p.comments) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?per_page=%d&page=%d>; rel="next"`, g.URL, r.URL.Path, size, page+1))
		}
		send(w, r, http.StatusOK, append([]*Comment{}, p.comments[from:to]...))
	}))
	mux.HandleFunc("POST /repos/{owner}/{repo}/issues/{number}/comments", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		p := repo.pull(w, r, "number")
		body, ok := bodyOf(w, r)
		if p == nil || !ok {
			return
		}
		g.comments++
		c := &Comment{ID: 1_000_000 + g.comments, Body: body, HTMLURL: g.URL + "/comment"}
		p.comments = append(p.comments, c)
		send(w, r, http.StatusCreated, c)
	}))
	mux.HandleFunc("PATCH /repos/{owner}/{repo}/issues/comments/{id}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		id, _ := strconv.Atoi(r.PathValue("id"))
		for _, p := range repo.pulls {
			for _, c := range p.comments {
				if c.ID == id {
					if body, ok := bodyOf(w, r); ok {
						c.Body = body
						c.Edits++
						send(w, r, http.StatusOK, c)
					}
					return
				}
			}
		}
		fail(w, http.StatusNotFound, "Not Found")
	}))
	mux.HandleFunc("POST /repos/{owner}/{repo}/statuses/{sha}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		var s Status
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&s); err != nil {
			fail(w, http.StatusBadRequest, "Problems parsing JSON")
			return
		}
		sha := r.PathValue("sha")
		known := slices.ContainsFunc([]string{"error", "failure", "pending", "success"}, func(state string) bool { return state == s.State })
		if !known || len(sha) != 40 || len(s.Description) > 140 {
			fail(w, http.StatusUnprocessableEntity, "Validation Failed")
			return
		}
		repo.statuses[sha] = append(repo.statuses[sha], s)
		send(w, r, http.StatusCreated, s)
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "Not Found") })
	g.Server = httptest.NewServer(mux)
	return g
}

func name(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("repo") }

// with checks what the real one checks before anything else.
func (g *GitHub) with(handle func(http.ResponseWriter, *http.Request, *repository)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.calls = append(g.calls, r.Method+" "+r.URL.Path)
		if time.Now().Before(g.limited) {
			w.Header().Set("X-RateLimit-Remaining", "0")
			w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(g.limited.Unix(), 10))
			fail(w, http.StatusForbidden, "API rate limit exceeded")
			return
		}
		w.Header().Set("X-RateLimit-Remaining", "4999")
		switch {
		case g.down != 0:
			fail(w, g.down, "Server Error")
		case r.UserAgent() == "":
			fail(w, http.StatusForbidden, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header")
		case r.Header.Get("Authorization") != "Bearer "+g.Token:
			fail(w, http.StatusUnauthorized, "Bad credentials")
		case g.repos[name(r)] == nil:
			fail(w, http.StatusNotFound, "Not Found")
		default:
			handle(w, r, g.repos[name(r)])
		}
	}
}

func (p *repository) pull(w http.ResponseWriter, r *http.Request, value string) *pull {
	n, _ := strconv.Atoi(r.PathValue(value))
	if p.pulls[n] == nil {
		fail(w, http.StatusNotFound, "Not Found")
	}
	return p.pulls[n]
}

func bodyOf(w http.ResponseWriter, r *http.Request) (string, bool) {
	var in struct {
		Body string `json:"body"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "Problems parsing JSON")
		return "", false
	}
	if in.Body == "" || len(in.Body) > 65_536 {
		fail(w, http.StatusUnprocessableEntity, "Validation Failed")
		return "", false
	}
	return in.Body, true
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message, "documentation_url": "https://docs.github.com/rest"})
}

// send answers, with an ETag where something is read.
func send(w http.ResponseWriter, r *http.Request, status int, v any) {
	text, _ := json.Marshal(v)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if r.Method == http.MethodGet {
		etag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(text))
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// AddRepository makes a repository with the branch main.
func (g *GitHub) AddRepository(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repos[name] = &repository{branches: map[string]string{"main": strings.Repeat("0", 39) + "1"}, pulls: map[int]*pull{}, statuses: map[string][]Status{}}
}

// RemoveRepository hides a repository, as from a token that may no longer see it.
func (g *GitHub) RemoveRepository(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.repos, name)
}

// Push makes a branch, or moves it.
func (g *GitHub) Push(repo, branch, commit string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repos[repo].branches[branch] = commit
}

// DeleteBranch deletes a branch.
func (g *GitHub) DeleteBranch(repo, branch string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.repos[repo].branches, branch)
}

// OpenPull opens a pull request.
func (g *GitHub) OpenPull(repo string, number int, branch, commit string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repos[repo].pulls[number] = &pull{state: "open", head: branch, sha: commit}
}

// ClosePull closes or merges a pull request.
func (g *GitHub) ClosePull(repo string, number int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repos[repo].pulls[number].state = "closed"
}

// Say adds a comment of somebody else.
func (g *GitHub) Say(repo string, number int, body string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.comments++
	p := g.repos[repo].pulls[number]
	p.comments = append(p.comments, &Comment{ID: 1_000_000 + g.comments, Body: body})
}

// Comments returns those on a pull request.
func (g *GitHub) Comments(repo string, number int) (out []Comment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.repos[repo].pulls[number].comments {
		out = append(out, *c)
	}
	return out
}

// DeleteComments deletes those on a pull request.
func (g *GitHub) DeleteComments(repo string, number int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repos[repo].pulls[number].comments = nil
}

// Statuses returns those of a commit, the newest last.
func (g *GitHub) Statuses(repo, commit string) []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.repos[repo].statuses[commit])
}

// Calls returns how many calls there were.
func (g *GitHub) Calls() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.calls)
}

// Answer has all calls answered with a status; 0 for the usual answers.
func (g *GitHub) Answer(status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = status
}

// Limit has all calls refused until a time.
func (g *GitHub) Limit(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limited = until
}

// Deleted is the webhook of a branch that was deleted.
func Deleted(repo, branch string, at time.Time) []byte {
	text, _ := json.Marshal(map[string]any{
		"ref": branch, "ref_type": "branch", "pusher_type": "user",
		"repository": map[string]any{"full_name": repo, "pushed_at": at.UTC().Format(time.RFC3339)}, "sender": map[string]string{"login": "octocat"},
	})
	return text
}

// Closed is the webhook of a pull request that was closed.
func Closed(repo string, number int, branch, commit string, at time.Time) []byte {
	text, _ := json.Marshal(map[string]any{
		"action": "closed", "number": number,
		"pull_request": map[string]any{
			"number": number, "state": "closed", "merged": true, "closed_at": at.UTC().Format(time.RFC3339),
			"head": map[string]any{"ref": branch, "sha": commit, "repo": map[string]string{"full_name": repo}},
		},
		"repository": map[string]any{"full_name": repo}, "sender": map[string]string{"login": "octocat"},
	})
	return text
}

// Delivery is a webhook as GitHub sends it, signed.
func Delivery(url, event, id string, body []byte, secret string) *http.Request {
	r, _ := http.NewRequest(http.MethodPost, url, strings.NewReader(string(body))) //nolint:noctx // the caller adds one
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "GitHub-Hookshot/044aadd")
	r.Header.Set("X-GitHub-Event", event)
	r.Header.Set("X-GitHub-Delivery", id)
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	return r
}
