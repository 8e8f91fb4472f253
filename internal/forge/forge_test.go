package forge

import (
	"context"
	"encoding/json"
	"errors"
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
	stuck    map[string]bool // what cannot be removed
	taken    map[string]bool // webhooks that are stored
	down     bool            // the store does not answer
	now      time.Time
}

func (w *world) HasDelivery(_ context.Context, ids []string) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return false, errors.New("the store is down")
	}
	return slices.ContainsFunc(ids, func(id string) bool { return w.taken[id] }), nil
}

func (w *world) PutDeliveries(_ context.Context, ids []string, _ int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		w.taken[id] = true
	}
	return nil
}

// clock is a time that only tests move.
func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
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

func (w *world) Remove(_ context.Context, v api.Version, actor string) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stuck[v.ID()] {
		return false, errors.New("it is stuck")
	}
	if w.versions[v.ID()].Generation != v.Generation {
		return false, nil
	}
	delete(w.versions, v.ID())
	w.removed = append(w.removed, v.ID()+" by "+actor)
	return true, nil
}

func (w *world) drop(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, id)
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
	w := &world{versions: map[string]api.Version{}, runs: map[string][]api.TestRun{}, stuck: map[string]bool{}, taken: map[string]bool{}, now: time.Now()}
	w.add(feature())
	w.add(api.Version{Service: "cart", Name: "main", Default: true, Branch: "feature/1", State: api.StateRunning})
	w.add(api.Version{Service: "orders", Name: "feature-1", Branch: "feature/1", State: api.StateRunning}) // of another repository
	w.add(api.Version{Service: "cart", Name: "feature-2", State: api.StateRunning, DeployedAt: deployed})  // of no branch that is known, whatever it is called
	w.add(api.Version{Service: "cart", Name: "pr-9", State: api.StateRunning, DeployedAt: deployed})
	f := Forge{Name: "git", Kind: kind, Secret: func() ([]byte, error) { return []byte(secret), nil }, Repositories: map[string][]string{repo: {"cart"}}}
	if change != nil {
		change(&f)
	}
	h, err := New(Options{Environment: "dev", Forges: []Forge{f}, Of: w, Store: w, Clock: w.clock})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("POST /forges/{name}", h)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return h, w, s
}

// serve serves until the test ends, and returns the URL.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
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
		"deployed again behind it":    {"pull_request", forgetest.Closed(repo, 7, "feature/1", commit, deployed.Add(-time.Hour)), false},
		"a push that deletes":         {"push", []byte(fmt.Sprintf(`{"ref":"refs/heads/feature/1","deleted":true,"before":%q,"repository":{"full_name":%q,"pushed_at":%d},"sender":{"login":"octocat"}}`, commit, repo, after.Unix())), true},
		"a push that does not":        {"push", []byte(fmt.Sprintf(`{"ref":"refs/heads/feature/1","deleted":false,"repository":{"full_name":%q,"pushed_at":%d}}`, repo, after.Unix())), false},
		"only a name like it":         {"delete", forgetest.Deleted(repo, "feature/2", after), false},
		"only a name of its number":   {"pull_request", forgetest.Closed(repo, 9, "", commit, after), false},
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
		if i%4 == 2 {
			require.Contains(t, said, refusedOrder)
		} else {
			require.GreaterOrEqual(t, status, 400, said)
		}
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
