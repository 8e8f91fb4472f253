package forge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/forge/forgetest"
)

// world is an environment whose versions are kept in memory.
type world struct {
	mu       sync.Mutex
	versions map[string]api.Version
	runs     map[string][]api.TestRun
	removed  []string
}

func (w *world) Versions(context.Context) (out []api.Version, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.versions {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b api.Version) int { return strings.Compare(a.ID(), b.ID()) })
	return out, nil
}

func (w *world) Remove(_ context.Context, service, version, actor string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, service+"@"+version)
	w.removed = append(w.removed, service+"@"+version+" by "+actor)
	return nil
}

func (w *world) TestRuns(_ context.Context, id string) ([]api.TestRun, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runs[id], nil
}

func (w *world) Requests(_, version string) (int, int) { return 10 + len(version), len(version) }

func (w *world) add(v api.Version) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.versions[v.ID()] = v
}

func (w *world) gone() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.removed)
}

const (
	repo   = "acme/cart"
	secret = "It's a Secret to Everybody"
	commit = "1111111111111111111111111111111111111111"
)

var deployed = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// feature is a version that CI deployed from a branch.
func feature() api.Version {
	return api.Version{
		Service: "cart", Name: "feature-1", Branch: "feature/1", State: api.StateRunning, DeployedAt: deployed, Source: "ci", PreviewURL: "http://feature-1--cart.localhost:8080",
		Origin: api.Origin{Provider: "github-actions", Branch: "feature/1", Commit: commit, PullRequest: "7"},
	}
}

func hub(t *testing.T, kind string, change func(*Forge)) (*Hub, *world, *httptest.Server) {
	t.Helper()
	w := &world{versions: map[string]api.Version{}, runs: map[string][]api.TestRun{}}
	w.add(feature())
	w.add(api.Version{Service: "cart", Name: "main", Default: true, Branch: "feature/1", State: api.StateRunning})
	w.add(api.Version{Service: "orders", Name: "feature-1", Branch: "feature/1", State: api.StateRunning}) // of another repository
	f := Forge{Name: "git", Kind: kind, Secret: func() ([]byte, error) { return []byte(secret), nil }, Repositories: map[string][]string{repo: {"cart"}}}
	if change != nil {
		change(&f)
	}
	h, err := New(Options{Environment: "dev", Forges: []Forge{f}, Of: w})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("POST /forges/{name}", h)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return h, w, s
}

func send(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(r.WithContext(t.Context()))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

func TestHub_GitHub(t *testing.T) {
	after := deployed.Add(time.Hour)
	for name, test := range map[string]struct {
		event string
		body  []byte
		gone  bool
	}{
		"a branch is deleted":         {"delete", forgetest.Deleted(repo, "feature/1", after), true},
		"a pull request is closed":    {"pull_request", forgetest.Closed(repo, 7, "feature/1", commit, after), true},
		"of the commit, at any time":  {"pull_request", forgetest.Closed(repo, 7, "feature/1", commit, deployed.Add(-time.Hour)), true},
		"before it was deployed":      {"delete", forgetest.Deleted(repo, "feature/1", deployed.Add(-time.Hour)), false},
		"another branch":              {"delete", forgetest.Deleted(repo, "feature/2", after), false},
		"another pull request":        {"pull_request", forgetest.Closed(repo, 8, "feature/1", commit, after), false},
		"another repository":          {"delete", forgetest.Deleted("acme/other", "feature/1", after), false},
		"another event":               {"push", forgetest.Deleted(repo, "feature/1", after), false},
		"a ping":                      {"ping", []byte(`{"zen":"x"}`), false},
		"a tag that is called so":     {"delete", []byte(strings.ReplaceAll(string(forgetest.Deleted(repo, "feature/1", after)), `"branch"`, `"tag"`)), false},
		"a pull request that reopens": {"pull_request", []byte(strings.ReplaceAll(string(forgetest.Closed(repo, 7, "feature/1", commit, after)), `"closed"`, `"reopened"`)), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, w, s := hub(t, GitHub, nil)
			status, said := send(t, forgetest.Delivery(s.URL+"/forges/git", test.event, "1", test.body, secret))
			if test.gone {
				require.Equal(t, http.StatusOK, status, said)
				require.Equal(t, []string{"cart@feature-1 by github/octocat"}, w.gone())
			} else {
				require.Empty(t, w.gone(), said)
			}
		})
	}
}

// TestHub_Refuses holds that what is not genuine, or not new, does nothing but a count.
func TestHub_Refuses(t *testing.T) {
	body := forgetest.Deleted(repo, "feature/1", deployed.Add(time.Hour))
	for want, change := range map[string]func(r *http.Request){
		"signature":   func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64)) },
		"signature ":  func(r *http.Request) { r.Header.Del("X-Hub-Signature-256") },
		"signature  ": func(r *http.Request) { r.Header.Add("X-Hub-Signature-256", r.Header.Get("X-Hub-Signature-256")) },
		"signature   ": func(r *http.Request) {
			r.Header.Set("X-Hub-Signature", r.Header.Get("X-Hub-Signature-256"))
			r.Header.Del("X-Hub-Signature-256")
		},
		"malformed":     func(r *http.Request) { r.Header.Del("X-GitHub-Delivery") },
		"malformed ":    func(r *http.Request) { r.Header.Del("X-GitHub-Event") },
		"unknown forge": func(r *http.Request) { r.URL.Path = "/forges/other" },
	} {
		t.Run(want, func(t *testing.T) {
			h, w, s := hub(t, GitHub, nil)
			r := forgetest.Delivery(s.URL+"/forges/git", "delete", "1", body, secret)
			change(r)
			status, said := send(t, r)
			require.GreaterOrEqual(t, status, 400)
			require.Contains(t, said, `"detail"`)
			require.NotContains(t, said, secret)
			require.Empty(t, w.gone())
			refused, removed := h.Stats()
			require.Len(t, refused, 1)
			require.Zero(t, removed)
			for r := range refused {
				require.Equal(t, strings.TrimSpace(want), r.Reason)
			}
		})
	}
	h, w, s := hub(t, GitHub, nil)
	status, _ := send(t, forgetest.Delivery(s.URL+"/forges/git", "delete", "1", []byte(`{"x":"`+strings.Repeat("x", maxBody)+`"}`), secret))
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	status, _ = send(t, forgetest.Delivery(s.URL+"/forges/git", "delete", "1", body, secret))
	require.Equal(t, http.StatusOK, status)
	w.add(feature()) // it is deployed again, and somebody sends the same once more
	status, _ = send(t, forgetest.Delivery(s.URL+"/forges/git", "delete", "1", body, secret))
	require.Equal(t, http.StatusConflict, status)
	require.Len(t, w.gone(), 1)
	refused, _ := h.Stats()
	require.EqualValues(t, 1, refused[Refusal{"git", refusedReplayed}])
}

func TestHub_GitLabAndBitbucket(t *testing.T) {
	push := fmt.Sprintf(`{"object_kind":"push","ref":"refs/heads/feature/1","before":%q,"after":%q,"user_username":"ada","project":{"path_with_namespace":%q}}`, commit, noCommit, repo)
	merge := fmt.Sprintf(`{"object_kind":"merge_request","user":{"username":"ada"},"project":{"path_with_namespace":%q},"object_attributes":{"iid":7,"action":"merge","source_branch":"feature/1","source_project_id":1,"target_project_id":1,"updated_at":"2026-11-01 13:00:00 UTC","last_commit":{"id":"22"}}}`, repo)
	closed := fmt.Sprintf(`{"actor":{"nickname":"ada"},"repository":{"full_name":%q},"push":{"changes":[{"closed":true,"new":null,"old":{"type":"branch","name":"feature/1","target":{"hash":%q}}}]}}`, repo, commit)
	fulfilled := fmt.Sprintf(`{"actor":{"nickname":"ada"},"repository":{"full_name":%q},"pullrequest":{"id":7,"updated_on":"2026-11-01T13:00:00+00:00","source":{"branch":{"name":"feature/1"},"commit":{"hash":"111111111111"},"repository":{"full_name":%q}}}}`, repo, repo)
	for name, test := range map[string]struct {
		kind, body, event string
		gone              bool
	}{
		"GitLab, push":                {GitLab, push, "", true},
		"GitLab, push of a past one":  {GitLab, strings.Replace(push, commit, strings.Repeat("2", 40), 1), "", false},
		"GitLab, a branch that moved": {GitLab, strings.Replace(push, noCommit, strings.Repeat("3", 40), 1), "", false},
		"GitLab, merge":               {GitLab, merge, "", true},
		"GitLab, merge long ago":      {GitLab, strings.Replace(merge, "2026-11-01", "2026-10-01", 1), "", false},
		"GitLab, opened":              {GitLab, strings.Replace(merge, `"merge"`, `"open"`, 1), "", false},
		"Bitbucket, push":             {Bitbucket, closed, "repo:push", true},
		"Bitbucket, still there":      {Bitbucket, strings.Replace(closed, `"new":null`, `"new":{}`, 1), "repo:push", false},
		"Bitbucket, merged":           {Bitbucket, fulfilled, "pullrequest:fulfilled", true},
		"Bitbucket, created":          {Bitbucket, fulfilled, "pullrequest:created", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, w, s := hub(t, test.kind, nil)
			deliver := func(key string) int {
				r := forgetest.Delivery(s.URL+"/forges/git", "", "1", []byte(test.body), key)
				r.Header.Set("X-Gitlab-Token", key)
				r.Header.Set("X-Gitlab-Event-UUID", "1")
				r.Header.Set("X-Hub-Signature", r.Header.Get("X-Hub-Signature-256"))
				r.Header.Set("X-Event-Key", test.event)
				r.Header.Set("X-Request-UUID", "1")
				status, _ := send(t, r)
				return status
			}
			require.Equal(t, http.StatusUnauthorized, deliver("wrong"))
			require.Empty(t, w.gone())
			deliver(secret)
			require.Equal(t, test.gone, len(w.gone()) == 1, w.gone())
		})
	}
}

// asked is a forge with a token, over a stand-in for GitHub.
func asked(t *testing.T) (*forgetest.GitHub, func(*Forge)) {
	t.Helper()
	g := forgetest.NewGitHub("token-1")
	t.Cleanup(g.Close)
	g.AddRepository(repo)
	g.Push(repo, "feature/1", commit)
	g.OpenPull(repo, 7, "feature/1", commit)
	return g, func(f *Forge) {
		f.URL, f.Token = g.URL, func() ([]byte, error) { return []byte(g.Token), nil }
		f.Comment, f.Status = true, true
	}
}

func TestHub_AsksBeforeItRemoves(t *testing.T) {
	g, change := asked(t)
	h, w, s := hub(t, GitHub, change)
	deliver := func(id, event string, body []byte) int {
		status, _ := send(t, forgetest.Delivery(s.URL+"/forges/git", event, id, body, secret))
		return status
	}
	after := deployed.Add(time.Hour)
	require.Equal(t, http.StatusConflict, deliver("1", "delete", forgetest.Deleted(repo, "feature/1", after)), "the branch is there")
	require.Equal(t, http.StatusConflict, deliver("2", "pull_request", forgetest.Closed(repo, 7, "feature/1", commit, after)), "the pull request is open")
	g.Answer(http.StatusInternalServerError)
	require.Equal(t, http.StatusServiceUnavailable, deliver("3", "pull_request", forgetest.Closed(repo, 7, "feature/1", commit, after)))
	require.Empty(t, w.gone())
	g.Answer(0)
	g.ClosePull(repo, 7)
	require.Equal(t, http.StatusOK, deliver("3", "pull_request", forgetest.Closed(repo, 7, "feature/1", commit, deployed.Add(-time.Hour))), "it may be sent again, and the answer counts")
	require.Len(t, w.gone(), 1)
	refused, removed := h.Stats()
	require.EqualValues(t, 2, refused[Refusal{"git", refusedUnknown}])
	require.EqualValues(t, 1, removed)
}

// TestHub_Reconciles holds that a webhook that was missed leaks nothing, and that no failure removes anything.
func TestHub_Reconciles(t *testing.T) {
	g, change := asked(t)
	h, w, _ := hub(t, GitHub, change)
	v := feature()
	v.Origin.PullRequest = ""
	w.add(v)
	for _, status := range []int{0, http.StatusInternalServerError, http.StatusUnauthorized, http.StatusNotFound, 0} {
		g.Answer(status)
		h.Reconcile(t.Context())
	}
	require.Empty(t, w.gone())
	g.RemoveRepository(repo) // the token may no longer see it
	h.Reconcile(t.Context())
	h.Reconcile(t.Context())
	require.Empty(t, w.gone())
	g.AddRepository(repo)
	h.Reconcile(t.Context())
	require.Empty(t, w.gone(), "once is not enough")
	g.Push(repo, "feature/1", commit)
	h.Reconcile(t.Context())
	g.DeleteBranch(repo, "feature/1")
	h.Reconcile(t.Context())
	require.Empty(t, w.gone(), "it was back")
	h.Reconcile(t.Context())
	require.Equal(t, []string{"cart@feature-1 by github/reconciler"}, w.gone())
}

func TestHub_HeedsLimits(t *testing.T) {
	g, change := asked(t)
	h, w, _ := hub(t, GitHub, change)
	g.Limit(time.Now().Add(time.Hour))
	for range 5 {
		h.Reconcile(t.Context())
	}
	require.Equal(t, 1, g.Calls(), "it is left alone")
	require.Empty(t, w.gone())
}

// TestHub_Tells holds that there is one comment, which is changed and never repeated, by whichever server.
func TestHub_Tells(t *testing.T) {
	g, change := asked(t)
	for i := range 130 {
		g.Say(repo, 7, fmt.Sprintf("comment %d", i))
	}
	ours := func() (out []forgetest.Comment) {
		for _, c := range g.Comments(repo, 7) {
			if strings.Contains(c.Body, "<!-- layover:dev -->") {
				out = append(out, c)
			}
		}
		return out
	}
	h, w, _ := hub(t, GitHub, change)
	for range 3 {
		h.Tell(t.Context())
	}
	require.Len(t, ours(), 1)
	require.Zero(t, ours()[0].Edits)
	text := ours()[0].Body
	for _, want := range []string{"cart&#64;feature-1", "running", "<http://feature-1--cart.localhost:8080>", "19, 47.4 % errors; default: 10, 0.0 % errors", "No test run"} {
		require.Contains(t, text, want)
	}
	statuses := g.Statuses(repo, commit)
	require.Len(t, statuses, 1)
	require.Equal(t, forgetest.Status{State: "success", Context: "layover/dev", Description: "1 versions run, 0 suites passed", TargetURL: "http://feature-1--cart.localhost:8080"}, statuses[0])

	w.mu.Lock()
	w.runs["cart@feature-1"] = []api.TestRun{{ID: "ci-2", Suite: "checkout", Status: api.RunFailed, Reason: "not exercised: <img src=x> @acme/all | [x](javascript:1)", Passed: 3, Failed: 1}, {ID: "ci-1", Suite: "checkout", Status: api.RunPassed}}
	w.mu.Unlock()
	h.Tell(t.Context())
	again, _, _ := hub(t, GitHub, change) // another server leads
	again.opts.Of = w
	again.Tell(t.Context())
	require.Len(t, ours(), 1)
	text = ours()[0].Body
	require.Contains(t, text, "checkout (ci-2)")
	require.NotContains(t, text, "ci-1")
	require.Contains(t, text, "**not exercised**")
	for _, bad := range []string{"<img", "@acme", "](javascript"} {
		require.NotContains(t, text, bad)
	}
	require.Equal(t, "failure", g.Statuses(repo, commit)[1].State)

	g.DeleteComments(repo, 7) // somebody deleted it
	v := feature()
	v.State = api.StateFailed
	w.add(v)
	h.Tell(t.Context())
	require.Len(t, ours(), 1)
	require.NoError(t, w.Remove(t.Context(), "cart", "feature-1", ""))
	h.Tell(t.Context())
	require.Contains(t, ours()[0].Body, "have ended")
	h.Tell(t.Context())
	require.Len(t, ours(), 1)
}

// TestHub_Fuzz sends deliveries that are forged, replayed, malformed and out of order: nothing happens but counts.
func TestHub_Fuzz(t *testing.T) {
	h, w, s := hub(t, GitHub, nil)
	random := rand.New(rand.NewPCG(5, 5))
	good := forgetest.Deleted(repo, "feature/1", deployed.Add(time.Hour))
	const n = 2000
	for i := range n {
		body, key, id := slices.Clone(good), secret, fmt.Sprint(i)
		switch i % 4 {
		case 0: // forged
			key = fmt.Sprint(random.Uint64())
		case 1: // malformed, and signed
			body[random.IntN(20)] = byte(random.IntN(256))
			body = body[:random.IntN(len(body)-40)+2]
		case 2: // out of order
			body = forgetest.Deleted(repo, "feature/1", deployed.Add(-time.Duration(random.IntN(1_000_000))*time.Second))
		case 3: // changed behind the signature
			r := forgetest.Delivery(s.URL+"/forges/git", "delete", id, good, secret)
			changed := strings.Replace(string(good), "feature/1", "feature/2", 1)
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(changed)), int64(len(changed))
			r.GetBody = nil
			status, _ := send(t, r)
			require.Equal(t, http.StatusUnauthorized, status)
			continue
		}
		status, said := send(t, forgetest.Delivery(s.URL+"/forges/git", "delete", id, body, key))
		require.GreaterOrEqual(t, status, 400, said)
	}
	require.Empty(t, w.gone())
	refused, removed := h.Stats()
	var all uint64
	for _, c := range refused {
		all += c
	}
	require.EqualValues(t, n, all)
	require.Zero(t, removed)
}

func fuzzEvent(f *testing.F, kind string, seeds ...string) {
	for _, s := range seeds {
		f.Add("delete", []byte(s))
	}
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		header := http.Header{}
		for _, name := range []string{"X-Github-Event", "X-Event-Key"} {
			header.Set(name, event)
		}
		header.Set("X-Github-Delivery", "1")
		e, err := parse(kind, header, body)
		if err != nil {
			return
		}
		require.True(t, json.Valid(body))
		for _, g := range e.gone {
			require.NotEmpty(t, e.repository)
			require.True(t, g.branch != "" || g.pull != "")
		}
	})
}

func FuzzGitHub(f *testing.F) {
	fuzzEvent(f, GitHub, string(forgetest.Deleted(repo, "x", deployed)), string(forgetest.Closed(repo, 1, "x", commit, deployed)))
}

func FuzzGitLab(f *testing.F) {
	fuzzEvent(f, GitLab, `{"object_kind":"push","ref":"refs/heads/x","after":"`+noCommit+`","project":{"path_with_namespace":"a/b"}}`)
}

func FuzzBitbucket(f *testing.F) {
	fuzzEvent(f, Bitbucket, `{"repository":{"full_name":"a/b"},"push":{"changes":[{"closed":true,"new":null,"old":{"type":"branch","name":"x"}}]}}`)
}

func TestHub_Forges(t *testing.T) {
	g, change := asked(t)
	h, _, _ := hub(t, GitHub, change)
	all := h.Forges(t.Context(), true)
	require.Len(t, all, 1)
	require.Equal(t, []api.ForgeRepository{{Name: repo, Services: []string{"cart"}}}, all[0].Repositories)
	require.Empty(t, all[0].Problems)
	g.RemoveRepository(repo)
	require.Contains(t, h.Forges(t.Context(), true)[0].Problems[0], "the token does not see acme/cart")
	require.Empty(t, h.Forges(t.Context(), false)[0].Problems)
	g.Answer(http.StatusUnauthorized)
	problem := h.Forges(t.Context(), true)[0].Problems[0]
	require.Contains(t, problem, "401")
	require.NotContains(t, problem, g.Token)
}
