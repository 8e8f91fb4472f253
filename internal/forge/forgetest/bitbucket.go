package forgetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bitbucket is a stand-in for the API of Bitbucket Cloud, version 2.0 (developer.atlassian.com/cloud/bitbucket/rest: repositories,
// refs, pullrequests, commit statuses, users; filtering, pagination). Its URL is that of the API.
type Bitbucket struct {
	*httptest.Server
	state
}

// queryOf is what is understood of the query language: texts that fields must be equal to.
var queryOf = regexp.MustCompile(`^\s*([a-z.]+) = ("(?:[^"\\]|\\.)*")(?: AND (.*))?$`)

// filter reads a query; nil where it is not understood.
func filter(q string) map[string]string {
	fields := map[string]string{}
	for q != "" {
		m := queryOf.FindStringSubmatch(q)
		if m == nil {
			return nil
		}
		value, err := strconv.Unquote(m[2])
		if err != nil {
			return nil
		}
		fields[m[1]], q = value, m[3]
	}
	return fields
}

// NewBitbucket starts one. Close it.
func NewBitbucket(token string) *Bitbucket {
	g := &Bitbucket{state: newState(token)}
	mux := http.NewServeMux()
	const at = "/repositories/{owner}/{repo}"
	mux.HandleFunc("GET /user", g.account(func(me string) any { return map[string]any{"type": "user", "uuid": "{" + me + "}", "display_name": me} }))
	mux.HandleFunc("GET "+at, g.with(func(w http.ResponseWriter, r *http.Request, _ *repository) {
		send(w, r, http.StatusOK, map[string]any{"type": "repository", "full_name": g.name(r), "mainbranch": map[string]string{"type": "branch", "name": "main"}})
	}))
	list := func(w http.ResponseWriter, r *http.Request, all []map[string]any) {
		values := page(w, r, g.URL, "pagelen", 10, all, func(v map[string]any) map[string]any { return v })
		out := map[string]any{"values": values, "pagelen": 10, "size": len(all), "page": 1}
		if link := w.Header().Get("Link"); link != "" { // it is in the body here
			w.Header().Del("Link")
			next, _, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
			out["next"] = next
		}
		send(w, r, http.StatusOK, out)
	}
	mux.HandleFunc("GET "+at+"/refs/branches", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		want := filter(r.URL.Query().Get("q"))
		if want == nil {
			g.fail(w, http.StatusBadRequest, "Invalid query")
			return
		}
		all := []map[string]any{}
		for name, sha := range repo.branches {
			if value, is := want["name"]; !g.blind && (!is || value == name) {
				all = append(all, map[string]any{"type": "branch", "name": name, "target": map[string]string{"hash": sha}})
			}
		}
		list(w, r, all)
	}))
	request := func(r *http.Request, number int, p *pull) map[string]any {
		return map[string]any{
			"type": "pullrequest", "id": number, "state": map[string]string{"open": "OPEN", "closed": "MERGED"}[p.state],
			"source": map[string]any{
				"branch": map[string]string{"name": p.head}, "commit": map[string]string{"hash": p.sha[:12]}, "repository": map[string]string{"full_name": g.name(r)},
			},
		}
	}
	mux.HandleFunc("GET "+at+"/pullrequests/{number}", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		if n, p := g.pull(w, r, repo); p != nil {
			send(w, r, http.StatusOK, request(r, n, p))
		}
	}))
	mux.HandleFunc("GET "+at+"/pullrequests", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		want := filter(r.URL.Query().Get("q"))
		if want == nil {
			g.fail(w, http.StatusBadRequest, "Invalid query")
			return
		}
		all := []map[string]any{}
		for _, n := range repo.numbers() {
			p, m := repo.pulls[n], request(r, n, repo.pulls[n])
			if (want["state"] == "" || want["state"] == m["state"]) && (want["source.branch.name"] == "" || want["source.branch.name"] == p.head) {
				all = append(all, m)
			}
		}
		list(w, r, all)
	}))
	shown := func(c *Comment) map[string]any {
		return map[string]any{"id": c.ID, "deleted": false, "content": map[string]string{"raw": c.Body}, "user": map[string]string{"type": "user", "uuid": "{" + c.Author + "}"}}
	}
	comments := at + "/pullrequests/{number}/comments"
	mux.HandleFunc("GET "+comments, g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		if _, p := g.pull(w, r, repo); p != nil {
			all := []map[string]any{}
			for _, c := range p.comments {
				all = append(all, shown(c))
			}
			list(w, r, all)
		}
	}))
	mux.HandleFunc("POST "+comments, g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		_, p := g.pull(w, r, repo)
		if p == nil {
			return
		}
		if body, ok := g.text(w, r, http.StatusBadRequest, 32_768, "content", "raw"); ok {
			send(w, r, http.StatusCreated, shown(g.add(p, g.Account, body)))
		}
	}))
	one := func(handle func(http.ResponseWriter, *http.Request, *pull, *Comment)) http.HandlerFunc {
		return g.own("Comment not found", "You may not change the comments of others", handle)
	}
	mux.HandleFunc("PUT "+comments+"/{comment}", one(func(w http.ResponseWriter, r *http.Request, _ *pull, c *Comment) {
		if body, ok := g.text(w, r, http.StatusBadRequest, 32_768, "content", "raw"); ok {
			c.edit(body)
			send(w, r, http.StatusOK, shown(c))
		}
	}))
	mux.HandleFunc("DELETE "+comments+"/{comment}", one(func(w http.ResponseWriter, _ *http.Request, p *pull, c *Comment) {
		p.remove(c)
		w.WriteHeader(http.StatusNoContent)
	}))
	mux.HandleFunc("POST "+at+"/commit/{sha}/statuses/build", g.with(func(w http.ResponseWriter, r *http.Request, repo *repository) {
		var in struct {
			State       string `json:"state"`
			Key         string `json:"key"`
			URL         string `json:"url"`
			Description string `json:"description"`
		}
		if !g.read(w, r, &in) {
			return
		}
		u, err := url.Parse(in.URL)
		if !slices.Contains([]string{"SUCCESSFUL", "FAILED", "INPROGRESS", "STOPPED"}, in.State) || in.Key == "" || len(in.Key) > 40 || err != nil || u.Host == "" {
			g.fail(w, http.StatusBadRequest, "Bad request")
			return
		}
		s := Status{State: in.State, Context: in.Key, Description: in.Description, TargetURL: in.URL}
		sha := r.PathValue("sha")
		repo.statuses[sha] = append(repo.statuses[sha], s)
		send(w, r, http.StatusCreated, in)
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { g.fail(w, http.StatusNotFound, "Resource not found") })
	g.authorized = func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+g.Token }
	g.name = func(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("repo") }
	g.fail = func(w http.ResponseWriter, status int, message string) {
		write(w, status, map[string]any{"type": "error", "error": map[string]string{"message": message}})
	}
	g.limit = func(w http.ResponseWriter, _ time.Time) {
		g.fail(w, http.StatusTooManyRequests, "Rate limit for this resource has been exceeded")
	}
	g.Server = httptest.NewServer(mux)
	return g
}

// BitbucketDeleted is the webhook of a branch that was deleted (support.atlassian.com/bitbucket-cloud/docs/event-payloads, Push).
func BitbucketDeleted(repo, branch, commit string) []byte {
	text, _ := json.Marshal(map[string]any{
		"actor": map[string]string{"nickname": "ada", "type": "user"}, "repository": map[string]string{"full_name": repo, "type": "repository"},
		"push": map[string]any{"changes": []any{map[string]any{
			"closed": true, "created": false, "forced": false, "new": nil, "commits": []any{},
			"old": map[string]any{"type": "branch", "name": branch, "target": map[string]string{"type": "commit", "hash": commit}},
		}}},
	})
	return text
}

// BitbucketClosed is the webhook of a pull request that was merged (the same, Merged).
func BitbucketClosed(repo string, number int, branch, commit string, at time.Time) []byte {
	text, _ := json.Marshal(map[string]any{
		"actor": map[string]string{"nickname": "ada"}, "repository": map[string]string{"full_name": repo},
		"pullrequest": map[string]any{
			"id": number, "state": "MERGED", "updated_on": at.UTC().Format(time.RFC3339Nano),
			"source": map[string]any{
				"branch": map[string]string{"name": branch}, "commit": map[string]string{"hash": commit[:min(12, len(commit))]}, "repository": map[string]string{"full_name": repo},
			},
		},
	})
	return text
}

// BitbucketDelivery is a webhook as Bitbucket sends it, signed.
func BitbucketDelivery(url, event, id string, body []byte, secret string) *http.Request {
	r, _ := http.NewRequest(http.MethodPost, url, strings.NewReader(string(body))) //nolint:noctx // the caller adds one
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Bitbucket-Webhooks/2.0")
	r.Header.Set("X-Event-Key", event)
	r.Header.Set("X-Request-UUID", id)
	r.Header.Set("X-Attempt-Number", "1")
	r.Header.Set("X-Hub-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	return r
}
