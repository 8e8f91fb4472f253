package forgetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GitHub is a stand-in for the API of GitHub (docs.github.com/rest, API version 2022-11-28): branches, pulls, repos,
// issues/comments, commits/statuses, users; pagination by Link, rate limits, conditional requests. Its URL is that of the API.
type GitHub struct {
	*httptest.Server
	state
}

// NewGitHub starts one. Close it.
func NewGitHub(token string) *GitHub {
	g := &GitHub{state: newState(token)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /user", g.account(func(me string) any { return map[string]any{"login": me, "id": 583231, "type": "User"} }))
	mux.HandleFunc("GET /repos/{owner}/{repo}", g.with(func(w http.ResponseWriter, r *http.Request, _ *repository) {
		send(w, r, http.StatusOK, map[string]any{"full_name": g.name(r), "default_branch": "main", "permissions": map[string]bool{"pull": true, "push": !g.readOnly}})
	}))
	mux.HandleFunc("GET /repos/{owner}/{repo}/branches/{branch}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		sha, ok := repo.branches[r.PathValue("branch")]
		if !ok || g.blind {
			g.fail(w, http.StatusNotFound, "Branch not found")
			return
		}
		send(w, r, http.StatusOK, map[string]any{"name": r.PathValue("branch"), "commit": map[string]string{"sha": sha}})
	}))
	request := func(r *http.Request, number int, p *pull) map[string]any {
		return map[string]any{
			"number": number, "state": p.state,
			"head": map[string]any{"ref": p.head, "sha": p.sha, "repo": map[string]string{"full_name": g.name(r)}},
		}
	}
	mux.HandleFunc("GET /repos/{owner}/{repo}/pulls/{number}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		if n, p := g.pull(w, r, repo); p != nil {
			send(w, r, http.StatusOK, request(r, n, p))
		}
	}))
	mux.HandleFunc("GET /repos/{owner}/{repo}/pulls", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		list := []map[string]any{}
		_, head, _ := strings.Cut(r.URL.Query().Get("head"), ":")
		for _, n := range repo.numbers() {
			p := repo.pulls[n]
			if (head == "" || p.head == head) && (r.URL.Query().Get("state") == "all" || p.state == "open") {
				list = append(list, request(r, n, p))
			}
		}
		send(w, r, http.StatusOK, list)
	}))
	shown := func(c *Comment) map[string]any {
		return map[string]any{"id": c.ID, "body": c.Body, "user": map[string]string{"login": c.Author, "type": "User"}}
	}
	mux.HandleFunc("GET /repos/{owner}/{repo}/issues/{number}/comments", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		if _, p := g.pull(w, r, repo); p != nil {
			send(w, r, http.StatusOK, page(w, r, g.URL, "per_page", 30, p.comments, shown))
		}
	}))
	mux.HandleFunc("POST /repos/{owner}/{repo}/issues/{number}/comments", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		_, p := g.pull(w, r, repo)
		if p == nil {
			return
		}
		if body, ok := g.text(w, r, http.StatusUnprocessableEntity, 65_536, "body"); ok {
			send(w, r, http.StatusCreated, shown(g.add(p, g.Account, body)))
		}
	}))
	one := func(handle func(http.ResponseWriter, *http.Request, *pull, *Comment)) http.HandlerFunc {
		return g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
			for _, p := range repo.pulls {
				if c := p.comment(r.PathValue("id")); c != nil {
					handle(w, r, p, c)
					return
				}
			}
			g.fail(w, http.StatusNotFound, "Not Found")
		})
	}
	mux.HandleFunc("PATCH /repos/{owner}/{repo}/issues/comments/{id}", one(func(w http.ResponseWriter, r *http.Request, _ *pull, c *Comment) {
		if body, ok := g.text(w, r, http.StatusUnprocessableEntity, 65_536, "body"); ok {
			c.edit(body)
			send(w, r, http.StatusOK, shown(c))
		}
	}))
	mux.HandleFunc("DELETE /repos/{owner}/{repo}/issues/comments/{id}", one(func(w http.ResponseWriter, _ *http.Request, p *pull, c *Comment) {
		p.remove(c)
		w.WriteHeader(http.StatusNoContent)
	}))
	mux.HandleFunc("POST /repos/{owner}/{repo}/statuses/{sha}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		var s Status
		if !g.read(w, r, &s) {
			return
		}
		sha := r.PathValue("sha")
		if !slices.Contains([]string{"error", "failure", "pending", "success"}, s.State) || len(sha) != 40 || len(s.Description) > 140 {
			g.fail(w, http.StatusUnprocessableEntity, "Validation Failed")
			return
		}
		repo.statuses[sha] = append(repo.statuses[sha], s)
		send(w, r, http.StatusCreated, s)
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { g.fail(w, http.StatusNotFound, "Not Found") })
	g.authorized = func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+g.Token }
	g.name = func(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("repo") }
	g.fail = func(w http.ResponseWriter, status int, message string) {
		write(w, status, map[string]string{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)})
	}
	g.limit = func(w http.ResponseWriter, until time.Time) {
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(until.Unix(), 10))
		g.fail(w, http.StatusForbidden, "API rate limit exceeded")
	}
	g.Server = httptest.NewServer(mux)
	return g
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
