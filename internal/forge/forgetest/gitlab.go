package forgetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GitLab is a stand-in for the API of GitLab, version 4 (docs.gitlab.com/api: projects, branches, merge_requests, notes, commits,
// users). Its URL is that of the API.
type GitLab struct {
	*httptest.Server
	state
}

// NewGitLab starts one. Close it.
func NewGitLab(token string) *GitLab {
	g := &GitLab{state: newState(token)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /user", g.account(func(me string) any { return map[string]any{"id": 42, "username": me, "bot": true} }))
	mux.HandleFunc("GET /projects/{id}", g.with(func(w http.ResponseWriter, r *http.Request, _ *repository) {
		level := 30
		if g.readOnly {
			level = 20
		}
		send(w, r, http.StatusOK, map[string]any{
			"id": 1, "path_with_namespace": g.name(r), "default_branch": "main",
			"permissions": map[string]any{"project_access": map[string]int{"access_level": level}, "group_access": nil},
		})
	}))
	mux.HandleFunc("GET /projects/{id}/repository/branches/{branch}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		sha, ok := repo.branches[r.PathValue("branch")]
		if !ok || g.blind {
			g.fail(w, http.StatusNotFound, "404 Branch Not Found")
			return
		}
		send(w, r, http.StatusOK, map[string]any{"name": r.PathValue("branch"), "commit": map[string]string{"id": sha}})
	}))
	request := func(number int, p *pull) map[string]any {
		state := map[string]string{"open": "opened", "closed": "merged"}[p.state]
		return map[string]any{"iid": number, "state": state, "source_branch": p.head, "source_project_id": 1, "target_project_id": 1, "sha": p.sha}
	}
	mux.HandleFunc("GET /projects/{id}/merge_requests/{number}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		if n, p := g.pull(w, r, repo); p != nil {
			send(w, r, http.StatusOK, request(n, p))
		}
	}))
	mux.HandleFunc("GET /projects/{id}/merge_requests", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		list := []map[string]any{}
		query := r.URL.Query()
		for _, n := range repo.numbers() {
			m := request(n, repo.pulls[n])
			if (query.Get("source_branch") == "" || query.Get("source_branch") == m["source_branch"]) && (query.Get("state") == "" || query.Get("state") == m["state"]) {
				list = append(list, m)
			}
		}
		send(w, r, http.StatusOK, list)
	}))
	shown := func(c *Comment) map[string]any {
		return map[string]any{"id": c.ID, "body": c.Body, "system": false, "author": map[string]string{"username": c.Author}}
	}
	const notes = "/projects/{id}/merge_requests/{number}/notes"
	mux.HandleFunc("GET "+notes, g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		if _, p := g.pull(w, r, repo); p != nil {
			all := slices.Clone(p.comments)
			if r.URL.Query().Get("sort") != "asc" { // the newest first, where nobody says otherwise
				slices.Reverse(all)
			}
			send(w, r, http.StatusOK, page(w, r, g.URL, "per_page", 20, all, shown))
		}
	}))
	mux.HandleFunc("POST "+notes, g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		_, p := g.pull(w, r, repo)
		if p == nil {
			return
		}
		if body, ok := g.text(w, r, http.StatusBadRequest, 1_000_000, "body"); ok {
			send(w, r, http.StatusCreated, shown(g.add(p, g.Account, body)))
		}
	}))
	one := func(handle func(http.ResponseWriter, *http.Request, *pull, *Comment)) http.HandlerFunc {
		return g.own("404 Note Not Found", "403 Forbidden", handle)
	}
	mux.HandleFunc("PUT "+notes+"/{comment}", one(func(w http.ResponseWriter, r *http.Request, _ *pull, c *Comment) {
		if body, ok := g.text(w, r, http.StatusBadRequest, 1_000_000, "body"); ok {
			c.edit(body)
			send(w, r, http.StatusOK, shown(c))
		}
	}))
	mux.HandleFunc("DELETE "+notes+"/{comment}", one(func(w http.ResponseWriter, _ *http.Request, p *pull, c *Comment) {
		p.remove(c)
		w.WriteHeader(http.StatusNoContent)
	}))
	mux.HandleFunc("POST /projects/{id}/statuses/{sha}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		var in struct {
			Status
			Name string `json:"name"`
		}
		if !g.read(w, r, &in) {
			return
		}
		sha := r.PathValue("sha")
		if !slices.Contains([]string{"pending", "running", "success", "failed", "canceled", "skipped"}, in.State) {
			g.fail(w, http.StatusBadRequest, "state does not have a valid value")
			return
		}
		for _, s := range slices.Backward(repo.statuses[sha]) {
			if s.Context == in.Name {
				if s.State == in.State && s.State == "running" { // one that ended is followed by a new one
					g.fail(w, http.StatusBadRequest, `Cannot transition status via :run from :running (Reason(s): Status cannot transition via "run")`)
					return
				}
				break
			}
		}
		in.Context = in.Name
		repo.statuses[sha] = append(repo.statuses[sha], in.Status)
		send(w, r, http.StatusCreated, in.Status)
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { g.fail(w, http.StatusNotFound, "404 Not Found") })
	g.authorized = func(r *http.Request) bool { return r.Header.Get("Private-Token") == g.Token }
	g.name = func(r *http.Request) string { return r.PathValue("id") }
	g.fail = func(w http.ResponseWriter, status int, message string) {
		write(w, status, map[string]string{"message": message})
	}
	g.limit = func(w http.ResponseWriter, until time.Time) { // docs.gitlab.com/administration/settings/user_and_ip_rate_limits
		w.Header().Set("RateLimit-Remaining", "0")
		w.Header().Set("RateLimit-Reset", strconv.FormatInt(until.Unix(), 10))
		w.Header().Set("Retry-After", strconv.Itoa(int(time.Until(until).Seconds())+1))
		g.fail(w, http.StatusTooManyRequests, "Retry later")
	}
	g.Server = httptest.NewServer(mux)
	return g
}

// GitLabDeleted is the webhook of a branch that was deleted (docs.gitlab.com/user/project/integrations/webhook_events, Push events).
func GitLabDeleted(repo, branch, commit string) []byte {
	text, _ := json.Marshal(map[string]any{
		"object_kind": "push", "event_name": "push", "before": commit, "after": strings.Repeat("0", 40), "ref": "refs/heads/" + branch, "checkout_sha": nil,
		"user_username": "ada", "project_id": 1, "project": map[string]any{"id": 1, "path_with_namespace": repo, "default_branch": "main"},
		"commits": []any{}, "total_commits_count": 0,
	})
	return text
}

// GitLabClosed is the webhook of a merge request that was merged (the same, Merge request events).
func GitLabClosed(repo string, number int, branch, commit string, at time.Time) []byte {
	text, _ := json.Marshal(map[string]any{
		"object_kind": "merge_request", "event_type": "merge_request", "user": map[string]string{"username": "ada"},
		"project": map[string]any{"id": 1, "path_with_namespace": repo},
		"object_attributes": map[string]any{
			"iid": number, "action": "merge", "state": "merged", "source_branch": branch, "target_branch": "main", "source_project_id": 1, "target_project_id": 1,
			"updated_at": at.UTC().Format("2006-01-02 15:04:05 MST"), "last_commit": map[string]string{"id": commit},
		},
	})
	return text
}

// GitLabDelivery is a webhook as GitLab sends it: with a signing token ("whsec_" and a key), signed by Standard Webhooks, or with a
// secret token.
func GitLabDelivery(url, event, id string, body []byte, secret string, at time.Time) *http.Request {
	r, _ := http.NewRequest(http.MethodPost, url, strings.NewReader(string(body))) //nolint:noctx // the caller adds one
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "GitLab/18.11.0")
	r.Header.Set("X-Gitlab-Event", event)
	r.Header.Set("X-Gitlab-Event-UUID", id)
	r.Header.Set("Idempotency-Key", id)
	key, ok := strings.CutPrefix(secret, "whsec_")
	if !ok {
		r.Header.Set("X-Gitlab-Token", secret)
		return r
	}
	raw, _ := base64.StdEncoding.DecodeString(key)
	seconds := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(id + "." + seconds + "."))
	mac.Write(body)
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", seconds)
	r.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return r
}
