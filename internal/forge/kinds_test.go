package forge

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/forge/forgetest"
)

// standIn is what the stand-ins for all kinds can do.
type standIn interface {
	AddRepository(name string)
	RemoveRepository(name string)
	Push(repo, branch, commit string)
	DeleteBranch(repo, branch string)
	OpenPull(repo string, number int, branch, commit string)
	ClosePull(repo string, number int)
	Say(repo string, number int, author, body string)
	Comments(repo string, number int) []forgetest.Comment
	DeleteComments(repo string, number int)
	Statuses(repo, commit string) []forgetest.Status
	Calls() []string
	Answer(status int)
	Limit(until time.Time)
	Blind(blind bool)
	ReadOnly(is bool)
	Lose(answers int)
	Close()
}

const token = "token-1"

// asked is a forge with a token, over a stand-in.
func asked(t *testing.T, kind string) (standIn, func(*Forge)) {
	t.Helper()
	var g standIn
	var address string
	switch kind {
	case GitHub:
		one := forgetest.NewGitHub(token)
		g, address = one, one.URL
	case GitLab:
		one := forgetest.NewGitLab(token)
		g, address = one, one.URL
	default:
		one := forgetest.NewBitbucket(token)
		g, address = one, one.URL
	}
	t.Cleanup(g.Close)
	g.AddRepository(repo)
	g.Push(repo, "feature/1", commit)
	g.OpenPull(repo, 7, "feature/1", commit)
	return g, func(f *Forge) {
		f.URL, f.Token = address, func() ([]byte, error) { return []byte(token), nil }
		f.Comment, f.Status = true, true
	}
}

// each runs a test with all kinds of forges.
func each(t *testing.T, test func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range []string{GitHub, GitLab, Bitbucket} {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

// deletes and closes are webhooks of a kind.
func deletes(kind, address, id, branch, key string, at time.Time) *http.Request {
	switch kind {
	case GitHub:
		return forgetest.Delivery(address, "delete", id, forgetest.Deleted(repo, branch, at), key)
	case GitLab:
		return forgetest.GitLabDelivery(address, "Push Hook", id, forgetest.GitLabDeleted(repo, branch, commit), key, time.Now())
	default:
		return forgetest.BitbucketDelivery(address, "repo:push", id, forgetest.BitbucketDeleted(repo, branch, commit), key)
	}
}

func closes(kind, address, id string, number int, branch, key string, at time.Time) *http.Request {
	switch kind {
	case GitHub:
		return forgetest.Delivery(address, "pull_request", id, forgetest.Closed(repo, number, branch, commit, at), key)
	case GitLab:
		return forgetest.GitLabDelivery(address, "Merge Request Hook", id, forgetest.GitLabClosed(repo, number, branch, commit, at), key, time.Now())
	default:
		return forgetest.BitbucketDelivery(address, "pullrequest:fulfilled", id, forgetest.BitbucketClosed(repo, number, branch, commit, at), key)
	}
}

// TestHub_Kinds holds that the ends of branches and pull requests are understood from all forges.
func TestHub_Kinds(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		after := deployed.Add(time.Hour)
		for name, test := range map[string]struct {
			request func(address string) *http.Request
			gone    bool
		}{
			"a branch is deleted":      {func(a string) *http.Request { return deletes(kind, a, "1", "feature/1", secret, after) }, true},
			"another branch":           {func(a string) *http.Request { return deletes(kind, a, "1", "feature/2", secret, after) }, false},
			"a pull request is merged": {func(a string) *http.Request { return closes(kind, a, "1", 7, "feature/1", secret, after) }, true},
			"another pull request":     {func(a string) *http.Request { return closes(kind, a, "1", 8, "feature/1", secret, after) }, false},
			"merged before a deployment": {func(a string) *http.Request {
				return closes(kind, a, "1", 7, "feature/1", secret, deployed.Add(-time.Hour))
			}, false},
			"forged": {func(a string) *http.Request { return deletes(kind, a, "1", "feature/1", "wrong", after) }, false},
		} {
			t.Run(name, func(t *testing.T) {
				_, w, s := hub(t, kind, nil)
				status, said := send(t, test.request(s.URL+"/forges/git"))
				require.Equal(t, test.gone, len(w.gone()) == 1, "%d %s %v", status, said, w.gone())
				if name == "forged" {
					require.Equal(t, http.StatusUnauthorized, status)
				} else {
					require.Equal(t, http.StatusOK, status, said)
				}
			})
		}
	})
}

// TestHub_Commit holds that an event that has no time counts for the commit that it names.
func TestHub_Commit(t *testing.T) {
	for _, kind := range []string{GitLab, Bitbucket} {
		_, w, s := hub(t, kind, nil)
		v := feature()
		v.Origin.Commit = strings.Repeat("2", 40) // it was deployed anew, from a later commit
		w.add(v)
		_, said := send(t, deletes(kind, s.URL+"/forges/git", "1", "feature/1", secret, time.Time{}))
		require.Contains(t, said, refusedOrder)
		require.Empty(t, w.gone())
	}
}

// TestHub_SignedGitLab holds what a signing token of GitLab signs: the body, the ID and the time.
func TestHub_SignedGitLab(t *testing.T) {
	key := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	body := forgetest.GitLabDeleted(repo, "feature/1", commit)
	now := time.Now()
	for name, test := range map[string]struct {
		change func(*http.Request)
		at     time.Time
		reason string // "" where it is taken
	}{
		"genuine": {nil, now, ""},
		"two keys, as it is changed": {func(r *http.Request) {
			r.Header.Set("Webhook-Signature", "v1,AAAA v2,x "+r.Header.Get("Webhook-Signature"))
		}, now, ""},
		"old":                {nil, now.Add(-time.Hour), refusedOld},
		"of the future":      {nil, now.Add(time.Hour), refusedOld},
		"another time":       {func(r *http.Request) { r.Header.Set("Webhook-Timestamp", fmt.Sprint(now.Unix()+1)) }, now, refusedSignature},
		"another ID":         {func(r *http.Request) { r.Header.Set("Webhook-Id", "2") }, now, refusedSignature},
		"no signature":       {func(r *http.Request) { r.Header.Del("Webhook-Signature") }, now, refusedSignature},
		"the token instead":  {func(r *http.Request) { r.Header.Del("Webhook-Signature"); r.Header.Set("X-Gitlab-Token", key) }, now, refusedSignature},
		"signed twice":       {func(r *http.Request) { r.Header.Add("Webhook-Signature", r.Header.Get("Webhook-Signature")) }, now, refusedSignature},
		"an empty signature": {func(r *http.Request) { r.Header.Set("Webhook-Signature", "v1,") }, now, refusedSignature},
		"too many signatures": {func(r *http.Request) {
			r.Header.Set("Webhook-Signature", strings.Repeat("v1,AAAA ", 20)+r.Header.Get("Webhook-Signature"))
		}, now, refusedSignature},
	} {
		t.Run(name, func(t *testing.T) {
			h, w, s := hub(t, GitLab, func(f *Forge) { f.Secret = func() ([]byte, error) { return []byte(key), nil } })
			r := forgetest.GitLabDelivery(s.URL+"/forges/git", "Push Hook", "1", body, key, test.at)
			if test.change != nil {
				test.change(r)
			}
			status, said := send(t, r)
			if test.reason == "" {
				require.Equal(t, http.StatusOK, status, said)
				require.Len(t, w.gone(), 1)
				return
			}
			require.Equal(t, http.StatusUnauthorized, status)
			require.Empty(t, w.gone())
			refused, _ := h.Stats()
			require.EqualValues(t, 1, refused[Refusal{"git", test.reason}])
		})
	}
}

// TestHub_ReplayWithAnotherID holds that an ID that is in no signature does not make an old webhook a new one.
func TestHub_ReplayWithAnotherID(t *testing.T) {
	for _, kind := range []string{GitHub, Bitbucket} {
		h, w, s := hub(t, kind, nil)
		after := deployed.Add(time.Hour)
		status, _ := send(t, deletes(kind, s.URL+"/forges/git", "1", "feature/1", secret, after))
		require.Equal(t, http.StatusOK, status)
		require.Len(t, w.gone(), 1)
		w.add(feature()) // a branch of that name is deployed again, as if at the same time
		status, _ = send(t, deletes(kind, s.URL+"/forges/git", "2", "feature/1", secret, after))
		require.Equal(t, http.StatusConflict, status)
		require.Len(t, w.gone(), 1)
		refused, _ := h.Stats()
		require.EqualValues(t, 1, refused[Refusal{"git", refusedReplayed}])
	}
}

// TestHub_Keeps holds that what is protected stays, and that one version that cannot be removed does not keep the others.
func TestHub_Keeps(t *testing.T) {
	h, w, s := hub(t, GitHub, nil)
	for _, name := range []string{"a", "b", "c"} {
		v := feature()
		v.Name = name
		if name == "a" {
			v.Lease = &api.Lease{ProtectUntil: time.Now().Add(time.Hour)}
		}
		w.add(v)
	}
	w.stuck["cart@b"] = true
	body := forgetest.Deleted(repo, "feature/1", deployed.Add(time.Hour))
	deliver := func() int {
		status, _ := send(t, forgetest.Delivery(s.URL+"/forges/git", "delete", "1", body, secret))
		return status
	}
	require.Equal(t, http.StatusServiceUnavailable, deliver())
	require.ElementsMatch(t, []string{"cart@c by github/octocat", "cart@feature-1 by github/octocat"}, w.gone())
	w.mu.Lock()
	w.stuck = map[string]bool{}
	w.mu.Unlock()
	require.Equal(t, http.StatusOK, deliver(), "the same may be sent again")
	require.Len(t, w.gone(), 3)
	_, removed := h.Stats()
	require.EqualValues(t, 3, removed)
	require.Equal(t, http.StatusConflict, deliver())
}

// TestHub_RemembersAcrossAStart holds that a webhook that was followed is not followed again by the next server, and one that was not is.
func TestHub_RemembersAcrossAStart(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		_, w, s := hub(t, kind, nil)
		next, _, other := hub(t, kind, nil)
		next.opts.Of, next.opts.Store, next.opts.Clock = w, w, w.clock
		after := deployed.Add(time.Hour)
		deliver := func(s *httptest.Server, id string) int {
			status, _ := send(t, deletes(kind, s.URL+"/forges/git", id, "feature/1", secret, after))
			return status
		}
		w.mu.Lock()
		w.stuck["cart@feature-1"] = true
		w.mu.Unlock()
		require.Equal(t, http.StatusServiceUnavailable, deliver(s, "1"))
		w.mu.Lock()
		w.stuck, w.down = map[string]bool{}, true
		w.mu.Unlock()
		require.Equal(t, http.StatusServiceUnavailable, deliver(other, "1"), "nothing is followed that may have been before")
		require.Empty(t, w.gone())
		w.mu.Lock()
		w.down = false
		w.mu.Unlock()
		require.Equal(t, http.StatusOK, deliver(other, "1"))
		require.Len(t, w.gone(), 1)
		w.add(feature()) // it is there again
		third, _, last := hub(t, kind, nil)
		third.opts.Of, third.opts.Store, third.opts.Clock = w, w, w.clock
		require.Equal(t, http.StatusConflict, deliver(last, "1"))
		require.Len(t, w.gone(), 1)
	})
}

// TestHub_Actor holds that no name of an account becomes more than a name.
func TestHub_Actor(t *testing.T) {
	_, w, s := hub(t, GitHub, nil)
	body := strings.Replace(string(forgetest.Deleted(repo, "feature/1", deployed.Add(time.Hour))), "octocat", "a\\u0000b<i>\\n"+strings.Repeat("x", 5000), 1)
	status, said := send(t, forgetest.Delivery(s.URL+"/forges/git", "delete", "1", []byte(body), secret))
	require.Equal(t, http.StatusOK, status, said)
	require.Len(t, w.gone(), 1)
	require.Len(t, w.gone()[0], len("cart@feature-1 by github/")+maxLogin)
	require.Contains(t, w.gone()[0], "github/abix")
}

func TestHub_AsksBeforeItRemoves(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, w, s := hub(t, kind, change)
		after := deployed.Add(time.Hour)
		deliver := func(r *http.Request) (int, string) { return send(t, r) }
		address := s.URL + "/forges/git"
		status, said := deliver(deletes(kind, address, "1", "feature/1", secret, after))
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, said, refusedUnknown, "the branch is there")
		_, said = deliver(closes(kind, address, "2", 7, "feature/1", secret, after))
		require.Contains(t, said, refusedUnknown, "the pull request is open")
		for _, failure := range []int{http.StatusInternalServerError, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
			g.Answer(failure)
			status, _ = deliver(closes(kind, address, "3", 7, "feature/1", secret, after))
			require.Equal(t, http.StatusServiceUnavailable, status)
			status, _ = deliver(deletes(kind, address, "4", "feature/1", secret, after))
			require.Equal(t, http.StatusServiceUnavailable, status)
		}
		require.Empty(t, w.gone())
		g.Answer(0)
		g.ClosePull(repo, 7)
		status, _ = deliver(closes(kind, address, "2", 7, "feature/1", secret, deployed.Add(-time.Hour)))
		require.Equal(t, http.StatusOK, status, "it may be sent again, and the answer counts")
		require.Len(t, w.gone(), 1)
		refused, removed := h.Stats()
		require.EqualValues(t, 2, refused[Refusal{"git", refusedUnknown}])
		require.EqualValues(t, 1, removed)
	})
}

// TestHub_Reconciles holds that a webhook that was missed leaks nothing, and that no failure removes anything.
func TestHub_Reconciles(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, w, _ := hub(t, kind, change)
		round := func() {
			w.pass(2 * time.Hour) // longer than all pauses
			h.Reconcile(t.Context())
		}
		v := feature()
		v.Origin.PullRequest = ""
		w.add(v)
		round()
		g.DeleteBranch(repo, "feature/1")
		for _, status := range []int{http.StatusInternalServerError, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests} {
			g.Answer(status)
			round()
			round()
		}
		g.Answer(0)
		g.Blind(true) // the token may no longer read contents
		round()
		round()
		g.Blind(false)
		g.RemoveRepository(repo) // the token may no longer see it
		round()
		round()
		require.Empty(t, w.gone())
		g.AddRepository(repo)
		round()
		require.Empty(t, w.gone(), "once is not enough")
		g.Push(repo, "feature/1", commit)
		round()
		g.DeleteBranch(repo, "feature/1")
		round()
		v.DeployedAt, v.Generation = v.DeployedAt.Add(time.Hour), 2 // deployed anew
		w.add(v)
		round()
		require.Empty(t, w.gone(), "it was back, and is another deployment")
		round()
		require.Equal(t, []string{"cart@feature-1 by " + kind + "/reconciler"}, w.gone())
	})
}

// TestHub_ReconcilesPulls holds that a pull request that is closed, or has lost its branch, is an end.
func TestHub_ReconcilesPulls(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, w, _ := hub(t, kind, change)
		h.Reconcile(t.Context())
		if kind == GitHub {
			g.ClosePull(repo, 7) // as it does with the branch
		}
		g.DeleteBranch(repo, "feature/1")
		h.Reconcile(t.Context())
		require.Empty(t, w.gone())
		h.Reconcile(t.Context())
		require.Equal(t, []string{"cart@feature-1 by " + kind + "/reconciler"}, w.gone())
	})
}

// TestHub_KeepsWhatWasNeverPushed holds that a version of a branch that is only on somebody's machine is not taken for a leak.
func TestHub_KeepsWhatWasNeverPushed(t *testing.T) {
	g, change := asked(t, GitHub)
	h, w, _ := hub(t, GitHub, change)
	w.add(api.Version{Service: "cart", Name: "local", Branch: "feature/local", Source: "cli", State: api.StateRunning, DeployedAt: deployed})
	for range 5 {
		h.Reconcile(t.Context())
	}
	require.Empty(t, w.gone())
	g.Push(repo, "feature/local", commit)
	h.Reconcile(t.Context())
	g.DeleteBranch(repo, "feature/local")
	h.Reconcile(t.Context())
	h.Reconcile(t.Context())
	require.Equal(t, []string{"cart@local by github/reconciler"}, w.gone(), "it was pushed, and is gone")
}

func TestHub_HeedsLimits(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, w, _ := hub(t, kind, change)
		g.Limit(time.Now().Add(time.Hour))
		for range 5 {
			h.Reconcile(t.Context())
			h.Tell(t.Context())
		}
		require.Len(t, g.Calls(), 1, "it is left alone")
		require.Empty(t, w.gone())
	})
}

// TestHub_RestsWhileForgeIsDown holds that one that fails is asked for one version, and less and less often.
func TestHub_RestsWhileForgeIsDown(t *testing.T) {
	g, change := asked(t, GitHub)
	h, w, _ := hub(t, GitHub, change)
	for i := range 20 {
		v := feature()
		v.Name = fmt.Sprintf("v%d", i)
		w.add(v)
	}
	g.Answer(http.StatusBadGateway)
	for range 12 * 24 { // a day
		w.pass(5 * time.Minute)
		h.Reconcile(t.Context())
	}
	require.LessOrEqual(t, len(g.Calls()), 30)
	g.Answer(0)
	w.pass(time.Hour)
	h.Reconcile(t.Context())
	require.Greater(t, len(g.Calls()), 40, "all are asked for again")
}

// TestHub_AsksCheaply holds that what has not changed is not sent again.
func TestHub_AsksCheaply(t *testing.T) {
	g, change := asked(t, GitHub)
	h, _, _ := hub(t, GitHub, change)
	for range 3 {
		h.Reconcile(t.Context())
	}
	c := h.forges["git"]
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Len(t, c.seen, 1)
	require.Len(t, g.Calls(), 3)
}

// ours are the comments that begin with our mark.
func ours(g standIn, number int) (out []forgetest.Comment) {
	for _, c := range g.Comments(repo, number) {
		if strings.HasPrefix(c.Body, "<!-- layover:dev -->") || strings.HasPrefix(c.Body, "[//]: # (layover:dev)") {
			out = append(out, c)
		}
	}
	return out
}

// TestHub_Tells holds that there is one comment, which is changed and never repeated, by whichever server.
func TestHub_Tells(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		for i := range 130 {
			g.Say(repo, 7, "ada", fmt.Sprintf("comment %d", i))
		}
		h, w, _ := hub(t, kind, change)
		tell := func() {
			w.pass(2 * time.Minute)
			h.Tell(t.Context())
		}
		for range 3 {
			tell()
		}
		require.Len(t, ours(g, 7), 1)
		require.Zero(t, ours(g, 7)[0].Edits)
		text := ours(g, 7)[0].Body
		for _, want := range []string{"`cart@feature-1`", "running", "<http://feature-1--cart.localhost:8080>", "19, 47.4 % errors; default: 10, 0.0 % errors", "No test run"} {
			require.Contains(t, text, want)
		}
		good, bad := "success", "failure"
		switch kind {
		case GitLab:
			bad = "failed"
		case Bitbucket:
			good, bad = "SUCCESSFUL", "FAILED"
		}
		statuses := g.Statuses(repo, commit)
		require.Equal(t, []forgetest.Status{{State: good, Context: "layover/dev", Description: "1 versions run, 0 suites passed", TargetURL: "http://feature-1--cart.localhost:8080"}}, statuses)

		w.mu.Lock()
		w.runs["cart@feature-1"] = []api.TestRun{{ID: "ci-2", Suite: "checkout", Status: api.RunFailed, Reason: "not exercised: <img src=x> @acme/all | [x](javascript:1) `@you` #12", Passed: 3, Failed: 1}, {ID: "ci-1", Suite: "checkout", Status: api.RunPassed}}
		w.mu.Unlock()
		tell()
		again, _, _ := hub(t, kind, change) // another server leads
		again.opts.Of = w
		again.Tell(t.Context())
		require.Len(t, ours(g, 7), 1)
		text = ours(g, 7)[0].Body
		require.Contains(t, text, "`checkout` (`ci-2`)")
		require.NotContains(t, text, "ci-1")
		require.Contains(t, text, "**not exercised**")
		require.Contains(t, text, "`not exercised: <img src=x> @acme/all ¦ [x](javascript:1) '@you' #12`", "in code nothing is a tag, a link or a mention")
		statuses = g.Statuses(repo, commit)
		require.Equal(t, bad, statuses[1].State)
		w.mu.Lock()
		w.runs["cart@feature-1"] = []api.TestRun{{ID: "ci-3", Suite: "checkout", Status: api.RunPassed, Exercised: true, Passed: 3, Failed: 2, Excused: 2, Summary: "passed, 2 failures excused (2 flaky)"}}
		w.mu.Unlock()
		tell()
		require.Contains(t, ours(g, 7)[0].Body, "passed, 2 failures excused (2 flaky): 3 passed, 2 failed, 0 skipped")
		statuses = g.Statuses(repo, commit)
		require.Equal(t, "1 versions run, 1 suites passed, 2 failures excused", statuses[len(statuses)-1].Description)

		g.DeleteComments(repo, 7) // somebody deleted it
		v := feature()
		v.State = api.StateFailed
		w.add(v)
		tell()
		require.Len(t, ours(g, 7), 1)
		w.drop("cart@feature-1")
		tell()
		require.Contains(t, ours(g, 7)[0].Body, "have ended")
		tell()
		require.Len(t, ours(g, 7), 1)
		require.Empty(t, h.told)
	})
}

// TestHub_TellsByBranch holds that the pull request is found where the job did not name it, and that a commit without one has a status.
func TestHub_TellsByBranch(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, w, s := hub(t, kind, change)
		v := feature()
		v.Origin.PullRequest, v.Origin.Branch, v.Branch = "", "feature/3", "feature/3"
		v.Origin.Commit = strings.Repeat("3", 40)
		w.add(v)
		g.Push(repo, "feature/3", v.Origin.Commit)
		for range 5 {
			h.Tell(t.Context())
		}
		require.Len(t, g.Statuses(repo, v.Origin.Commit), 1, "without a pull request")
		asks := 0
		for _, c := range g.Calls() {
			if c == "GET "+path(kind) {
				asks++
			}
		}
		require.Equal(t, 1, asks, "it is not looked for all the time")
		g.OpenPull(repo, 8, "feature/3", v.Origin.Commit)
		h.Tell(t.Context())
		require.Empty(t, ours(g, 8))
		status, said := send(t, forgedOpening(kind, s.URL+"/forges/git"))
		require.Equal(t, http.StatusOK, status, said)
		h.Tell(t.Context())
		require.Len(t, ours(g, 8), 1, "its webhook has it looked for")
	})
}

func path(kind string) string {
	return map[string]string{
		GitHub: "/repos/acme/cart/pulls", GitLab: "/projects/acme%2Fcart/merge_requests", Bitbucket: "/repositories/acme/cart/pullrequests",
	}[kind]
}

// forgedOpening is the webhook of a pull request that is opened.
func forgedOpening(kind, address string) *http.Request {
	switch kind {
	case GitHub:
		return forgetest.Delivery(address, "pull_request", "o", []byte(`{"action":"opened","number":8,"pull_request":{"number":8},"repository":{"full_name":"acme/cart"}}`), secret)
	case GitLab:
		return forgetest.GitLabDelivery(address, "Merge Request Hook", "o", []byte(`{"object_kind":"merge_request","project":{"path_with_namespace":"acme/cart"},"object_attributes":{"iid":8,"action":"open"}}`), secret, time.Now())
	default:
		return forgetest.BitbucketDelivery(address, "pullrequest:created", "o", []byte(`{"repository":{"full_name":"acme/cart"},"pullrequest":{"id":8}}`), secret)
	}
}

// TestHub_OnlyItsOwnComment holds that what somebody else marked is left alone.
func TestHub_OnlyItsOwnComment(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, _, _ := hub(t, kind, change)
		g.Say(repo, 7, "mallory", h.marker(kind)+"\n\nall is well")
		g.Say(repo, 7, "layover-bot", "of the same account: "+h.marker(kind))
		h.Tell(t.Context())
		all := g.Comments(repo, 7)
		require.Len(t, all, 3)
		require.Zero(t, all[0].Edits)
		require.Zero(t, all[1].Edits)
		require.Contains(t, all[2].Body, "cart@feature-1")
	})
}

// TestHub_TwoServers holds that there is one comment where two servers write at once, and where an answer is lost.
func TestHub_TwoServers(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		g.Lose(1)
		var all sync.WaitGroup
		var hubs []*Hub
		var worlds []*world
		for range 4 {
			h, w, _ := hub(t, kind, change)
			hubs, worlds = append(hubs, h), append(worlds, w)
			all.Go(func() { h.Tell(t.Context()) })
		}
		all.Wait()
		for i, h := range hubs {
			worlds[i].pass(11 * time.Minute)
			h.Tell(t.Context())
		}
		require.Len(t, ours(g, 7), 1)
	})
}

// TestHub_StatusIsThere holds that GitLab's refusal of a state that a commit has is no failure.
func TestHub_StatusIsThere(t *testing.T) {
	g, change := asked(t, GitLab)
	for range 2 { // the second is a server that knows nothing of the first
		h, w, _ := hub(t, GitLab, change)
		v := feature()
		v.State = api.StateStarting
		w.add(v)
		h.Tell(t.Context())
		for _, told := range h.told {
			require.False(t, told.failed)
		}
	}
	require.Len(t, g.Statuses(repo, commit), 1)
}

func TestHub_LongNames(t *testing.T) {
	g, change := asked(t, Bitbucket)
	h, _, _ := hub(t, Bitbucket, change)
	h.opts.Environment = strings.Repeat("e", 60)
	h.Tell(t.Context())
	require.Len(t, g.Statuses(repo, commit), 1)
	require.Len(t, g.Statuses(repo, commit)[0].Context, maxKey)
}

// TestHub_BoundsTheComment holds that no number of versions, tests and reasons makes a comment that a forge refuses.
func TestHub_BoundsTheComment(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, w, _ := hub(t, kind, change)
		for i := range 150 {
			v := feature()
			v.Name = fmt.Sprintf("v%d", i)
			v.Reason = strings.Repeat("|`ä<@all>\n", 5000)
			w.add(v)
			w.mu.Lock()
			for j := range 30 {
				w.runs[v.ID()] = append(w.runs[v.ID()], api.TestRun{ID: v.Name, Suite: fmt.Sprint("s", j), Status: api.RunFailed, Reason: v.Reason})
			}
			w.mu.Unlock()
		}
		h.Tell(t.Context())
		require.Len(t, ours(g, 7), 1)
		text := ours(g, 7)[0].Body
		require.LessOrEqual(t, len(text), 64<<10)
		require.Contains(t, text, "more versions are not shown")
		for line := range strings.SplitSeq(text, "\n") {
			require.False(t, strings.HasPrefix(line, "/"), "GitLab would do what it says")
		}
	})
}

// TestHub_NoTokenElsewhere holds that a token goes to no host but the forge's.
func TestHub_NoTokenElsewhere(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		elsewhere := forgetest.NewGitLab(token)
		t.Cleanup(elsewhere.Close)
		mux := http.NewServeMux()
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/user", http.StatusTemporaryRedirect)
		})
		s := serve(t, mux)
		h, w, _ := hub(t, kind, func(f *Forge) {
			f.URL, f.Token = s, func() ([]byte, error) { return []byte(token), nil }
			f.Comment, f.Status = true, true
		})
		h.Reconcile(t.Context())
		h.Tell(t.Context())
		require.Empty(t, elsewhere.Calls())
		require.Empty(t, w.gone())
	})
}

func TestHub_Forges(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		g, change := asked(t, kind)
		h, _, _ := hub(t, kind, change)
		all := h.Forges(t.Context(), true)
		require.Len(t, all, 1)
		require.Equal(t, []api.ForgeRepository{{Name: repo, Services: []string{"cart"}}}, all[0].Repositories)
		require.Empty(t, all[0].Problems)
		if kind != Bitbucket { // it does not say what a token may
			g.ReadOnly(true)
			require.Contains(t, h.Forges(t.Context(), true)[0].Problems[0], "may not write to acme/cart")
			g.ReadOnly(false)
		}
		g.Blind(true)
		require.Contains(t, h.Forges(t.Context(), true)[0].Problems[0], "does not see branches of acme/cart")
		g.Blind(false)
		g.RemoveRepository(repo)
		require.Contains(t, h.Forges(t.Context(), true)[0].Problems[0], "the token does not see acme/cart")
		require.Empty(t, h.Forges(t.Context(), false)[0].Problems)
		g.Answer(http.StatusUnauthorized)
		problem := h.Forges(t.Context(), true)[0].Problems[0]
		require.Contains(t, problem, "401")
		require.NotContains(t, problem, token)
	})
}

func FuzzCode(f *testing.F) {
	f.Add("a | b `c` @d <e> \\")
	f.Fuzz(func(t *testing.T, text string) {
		got := code(text)
		if got == "–" {
			return
		}
		inside := strings.TrimSuffix(strings.TrimPrefix(got, "`"), "`")
		require.Len(t, inside, len(got)-2)
		require.NotEmpty(t, strings.TrimSpace(inside))
		require.False(t, strings.ContainsAny(inside, "`|\n\r\u202e"))
	})
}

// FuzzSigned holds that no headers are taken without the secret.
func FuzzSigned(f *testing.F) {
	f.Add(GitLab, "v1,AAAA", "1", "1", "x", []byte("{}"))
	f.Add(GitHub, "sha256=00", "", "", "", []byte("{}"))
	key := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	f.Fuzz(func(t *testing.T, kind, signature, id, at, token string, body []byte) {
		header := http.Header{}
		for _, name := range []string{"Webhook-Signature", "X-Hub-Signature", "X-Hub-Signature-256"} {
			header.Set(name, signature)
		}
		header.Set("Webhook-Id", id)
		header.Set("Webhook-Timestamp", at)
		header.Set("X-Gitlab-Token", token)
		require.NotEmpty(t, signed(kind, header, body, []byte(key), time.Now()))
		require.NotEmpty(t, signed(kind, header, body, nil, time.Now()))
	})
}
