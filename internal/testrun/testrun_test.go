package testrun_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/testrun"
)

// kept is a keeper over a real store, with a clock that is moved by hand.
type kept struct {
	*testrun.Keeper
	now     time.Time
	events  []api.Event
	reached map[string]api.Reached
	begun   []string
}

func newKept(t *testing.T) *kept {
	t.Helper()
	db, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "layover.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	k := &kept{now: time.Unix(1_800_000_000, 0).UTC(), reached: map[string]api.Reached{}}
	k.Keeper = testrun.New(testrun.Options{
		Store: db, Clock: func() time.Time { return k.now },
		Tell: func(_ context.Context, e api.Event) bool {
			k.events = append(k.events, e)
			return true
		},
		Reached: func(run string) (api.Reached, bool) {
			r, ok := k.reached[run]
			return r, ok
		},
		Begins: func(run string) { k.begun = append(k.begun, run) },
	})
	return k
}

// run begins a run and ends it with these cases.
func (k *kept) run(t *testing.T, r api.TestRun, cases ...api.TestCase) api.TestRun {
	t.Helper()
	r.Suite = "checkout"
	begun, err := k.Begin(t.Context(), r, 0)
	require.NoError(t, err)
	k.now = k.now.Add(time.Minute)
	ended, err := k.End(t.Context(), api.TestRun{ID: begun.ID, Status: api.RunFailed, Cases: cases})
	require.NoError(t, err)
	return ended
}

// TestKeeper_TellsWhichRunsBegin holds that a run is told of when it begins, and that a server that is started meanwhile is told of
// those that go on.
func TestKeeper_TellsWhichRunsBegin(t *testing.T) {
	k := newKept(t)
	for _, id := range []string{"ci-1", "ci-2", "ci-3"} {
		_, err := k.Begin(t.Context(), api.TestRun{ID: id, Suite: "checkout"}, api.Duration(time.Hour))
		require.NoError(t, err)
	}
	_, err := k.Begin(t.Context(), api.TestRun{ID: "ci-1", Suite: "checkout"}, 0)
	require.Error(t, err)
	require.Equal(t, []string{"ci-1", "ci-2", "ci-3"}, k.begun)
	_, err = k.End(t.Context(), api.TestRun{ID: "ci-2", Status: api.RunPassed})
	require.NoError(t, err)
	k.begun = nil
	require.NoError(t, k.Resume(t.Context()))
	require.Equal(t, []string{"ci-3", "ci-1"}, k.begun)
	k.begun, k.now = nil, k.now.Add(2*time.Hour)
	require.NoError(t, k.Resume(t.Context()))
	require.Empty(t, k.begun, "they are lost")
}

// TestKeeper_SaysWhatIsExcused holds that nobody takes a run for a clean one in which failures are excused.
func TestKeeper_SaysWhatIsExcused(t *testing.T) {
	k := newKept(t)
	failed := func(name, verdict string) api.TestCase {
		return api.TestCase{Name: name, Outcome: "failed", Verdict: verdict, Excused: true}
	}
	waits := failed("waits", "yours")
	waits.Quarantine = k.now.Add(time.Hour)
	over := failed("over", "flaky")
	over.Quarantine = k.now.Add(-time.Hour)
	counts := api.TestCase{Name: "counts", Outcome: "failed", Verdict: "yours"}
	for name, test := range map[string]struct {
		status api.RunStatus
		cases  []api.TestCase
		want   string
	}{
		"nothing":    {api.RunPassed, []api.TestCase{{Name: "a", Outcome: "passed"}}, "passed"},
		"one":        {api.RunPassed, []api.TestCase{failed("a", "flaky")}, "passed, 1 failure excused (1 flaky)"},
		"several":    {api.RunPassed, []api.TestCase{failed("a", "main is broken"), failed("b", "flaky"), over, waits}, "passed, 4 failures excused (2 flaky, 1 in quarantine, 1 main is broken)"},
		"and others": {api.RunFailed, []api.TestCase{failed("a", "flaky"), counts}, "failed, 1 failure excused (1 flaky)"},
		"unproved":   {api.RunUnproved, []api.TestCase{failed("a", "flaky")}, "not proved, 1 failure excused (1 flaky)"},
	} {
		t.Run(name, func(t *testing.T) {
			begun, err := k.Begin(t.Context(), api.TestRun{Suite: "checkout"}, 0)
			require.NoError(t, err)
			ended, err := k.End(t.Context(), api.TestRun{ID: begun.ID, Status: test.status, Cases: test.cases})
			require.NoError(t, err)
			require.Equal(t, test.want, ended.Summary)
			kept, err := k.Run(t.Context(), begun.ID)
			require.NoError(t, err)
			require.Equal(t, test.want, kept.Summary)
			listed, err := k.Runs(t.Context(), api.TestRunFilter{Limit: 1})
			require.NoError(t, err)
			require.Equal(t, test.want, listed[0].Summary)
			require.Equal(t, ended.ExcusedFor, listed[0].ExcusedFor)
		})
	}
}

func TestKeeper_Run(t *testing.T) {
	k := newKept(t)
	k.reached["ci-1"] = api.Reached{Run: "ci-1", Requests: 3, Edges: []api.ReachedEdge{{Service: "orders"}, {Service: "cart"}, {Service: "cart"}}}
	r, err := k.Begin(t.Context(), api.TestRun{ID: "ci-1", Suite: "checkout", Route: "pr-1", Versions: []string{"cart@pr-1"}}, api.Duration(time.Hour))
	require.NoError(t, err)
	require.Equal(t, api.RunRunning, r.Status)
	require.Equal(t, k.now.Add(time.Hour), r.Until)
	_, err = k.Begin(t.Context(), api.TestRun{ID: "ci-1", Suite: "checkout"}, 0)
	require.Equal(t, api.CodeConflict, control.CodeOf(err))
	going, err := k.Run(t.Context(), "ci-1")
	require.NoError(t, err)
	require.Equal(t, 3, going.Reached.Requests)

	k.now = k.now.Add(2 * time.Hour)
	lost, err := k.Run(t.Context(), "ci-1")
	require.NoError(t, err)
	require.Equal(t, api.RunLost, lost.Status)

	ended, err := k.End(t.Context(), api.TestRun{ID: "ci-1", Status: api.RunFailed, Cases: []api.TestCase{
		{Name: "a", Outcome: "passed"}, {Name: "b", Outcome: "failed", Excused: true}, {Name: "c", Outcome: "failed"}, {Name: "d", Outcome: "skipped"},
	}})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 1, 1}, []int{ended.Passed, ended.Failed, ended.Skipped, ended.Excused})
	require.Equal(t, []string{"cart", "orders"}, ended.Touches)
	require.Equal(t, []string{"cart@pr-1"}, ended.Versions)
	_, err = k.End(t.Context(), api.TestRun{ID: "ci-1", Status: api.RunPassed})
	require.Equal(t, api.CodeConflict, control.CodeOf(err))
	delete(k.reached, "ci-1") // the server began anew
	again, err := k.Run(t.Context(), "ci-1")
	require.NoError(t, err)
	require.Equal(t, 3, again.Reached.Requests)
	touches, err := k.Touches(t.Context())
	require.NoError(t, err)
	require.Len(t, touches["checkout"], 2)
}

func TestKeeper_RefusesWhatIsWrong(t *testing.T) {
	k := newKept(t)
	for name, r := range map[string]api.TestRun{
		"ID":    {ID: "Not one", Suite: "checkout"},
		"suite": {Suite: "a b"},
		"none":  {},
		"route": {Suite: "checkout", Route: "@@"},
	} {
		_, err := k.Begin(t.Context(), r, 0)
		require.Equal(t, api.CodeInvalid, control.CodeOf(err), name)
	}
	begun, err := k.Begin(t.Context(), api.TestRun{Suite: "checkout"}, 0)
	require.NoError(t, err)
	_, err = k.End(t.Context(), api.TestRun{ID: begun.ID, Status: api.RunRunning})
	require.Equal(t, api.CodeInvalid, control.CodeOf(err))
	_, err = k.End(t.Context(), api.TestRun{ID: begun.ID, Status: api.RunPassed, Cases: []api.TestCase{{Name: "a"}, {Name: "a"}}})
	require.Equal(t, api.CodeInvalid, control.CodeOf(err))
	_, err = k.End(t.Context(), api.TestRun{ID: "unknown", Status: api.RunPassed})
	require.Equal(t, api.CodeNotFound, control.CodeOf(err))
}

// TestKeeper_MainIsBroken holds that its owners are told once, and once more when it passes again.
func TestKeeper_MainIsBroken(t *testing.T) {
	k := newKept(t)
	broken := api.TestCase{Name: "a", Outcome: "failed", Verdict: testrun.VerdictBroken, Blame: []string{"orders@main"}, OnDefaults: "failed"}
	for range 3 {
		k.run(t, api.TestRun{Route: "pr-1", Owners: []string{"ada", "bob"}}, broken)
	}
	require.Len(t, k.events, 1)
	e := k.events[0]
	require.Equal(t, []string{"main.broken", "orders", "main", "ada, bob"}, []string{string(e.Type), e.Service, e.Version, e.Owner})
	h := k.history(t, "a")
	require.Equal(t, []int{3, 3, 0}, []int{h.Runs, h.Failed, h.Flips})
	require.NotNil(t, h.Broken)

	k.run(t, api.TestRun{Route: "pr-1"}, api.TestCase{Name: "a", Outcome: "passed"}) // says nothing of main
	require.Len(t, k.events, 1)
	k.run(t, api.TestRun{Route: "pr-2"}, api.TestCase{Name: "a", Outcome: "failed", Verdict: "yours", OnDefaults: "passed"})
	require.Len(t, k.events, 2)
	require.Equal(t, api.EventMainMended, k.events[1].Type)
	require.Equal(t, "orders", k.events[1].Service)
	require.Nil(t, k.history(t, "a").Broken)

	k.run(t, api.TestRun{Route: "pr-1"}, broken)
	k.run(t, api.TestRun{}, api.TestCase{Name: "a", Outcome: "passed"}) // a run against main itself
	require.Len(t, k.events, 4)
}

func (k *kept) history(t *testing.T, test string) api.TestHistory {
	t.Helper()
	all, err := k.History(t.Context(), "checkout")
	require.NoError(t, err)
	for _, h := range all {
		if h.Test == test {
			return h
		}
	}
	require.Fail(t, "no history", test)
	return api.TestHistory{}
}

func TestKeeper_HistoryIsBounded(t *testing.T) {
	k := newKept(t)
	for i := range 120 {
		k.run(t, api.TestRun{}, api.TestCase{Name: "a", Outcome: "passed", Flipped: i < 30})
	}
	h := k.history(t, "a")
	require.Equal(t, 100, h.Runs)
	require.Equal(t, 10, h.Flips)
}

func TestKeeper_RunsAreFiltered(t *testing.T) {
	k := newKept(t)
	for i := range 5 {
		k.run(t, api.TestRun{ID: fmt.Sprintf("ci-%d", i), Route: fmt.Sprintf("pr-%d", i%2), Versions: []string{fmt.Sprintf("cart@pr-%d", i%2)}})
	}
	for want, f := range map[string]api.TestRunFilter{
		"ci-4 ci-3 ci-2 ci-1 ci-0": {},
		"ci-4 ci-3":                {Limit: 2},
		"ci-1 ci-0":                {Before: 3},
		"ci-3 ci-1":                {Route: "pr-1"},
		"ci-4 ci-2 ci-0":           {Version: "cart@pr-0"},
		"":                         {Status: api.RunPassed},
	} {
		runs, err := k.Runs(t.Context(), f)
		require.NoError(t, err)
		got := ""
		for _, r := range runs {
			if got != "" {
				got += " "
			}
			got += r.ID
		}
		require.Equal(t, want, got)
	}
}

func TestKeeper_Suites(t *testing.T) {
	k := newKept(t)
	commit := func(digit string) string {
		out := ""
		for range 40 {
			out += digit
		}
		return out
	}
	s := api.Suite{Name: "flow", Ref: "v1", Repository: "https://git.example.com/tests.git", Commit: commit("a"), File: "e2e/layover.test.yaml", Services: []string{"cart"}}
	_, err := k.Publish(t.Context(), s, false)
	require.NoError(t, err)
	s.Note = "the same commit"
	_, err = k.Publish(t.Context(), s, false)
	require.NoError(t, err)
	s.Commit = commit("b")
	_, err = k.Publish(t.Context(), s, false)
	require.Equal(t, api.CodeConflict, control.CodeOf(err))
	_, err = k.Publish(t.Context(), s, true)
	require.NoError(t, err)

	for name, change := range map[string]func(*api.Suite){
		"a program":     func(s *api.Suite) { s.Repository = "ext::sh -c id" },
		"a flag":        func(s *api.Suite) { s.Repository = "--upload-pack=id" },
		"a password":    func(s *api.Suite) { s.Repository = "https://ada:secret@git.example.com/x.git" },
		"a flag as ref": func(s *api.Suite) { s.Ref = "--output=x" },
		"another place": func(s *api.Suite) { s.File = "../../etc/passwd" },
		"an absolute":   func(s *api.Suite) { s.File = "/etc/passwd" },
		"a name":        func(s *api.Suite) { s.Name = "a/b" },
	} {
		bad := s
		change(&bad)
		_, err := k.Publish(t.Context(), bad, false)
		require.Equal(t, api.CodeInvalid, control.CodeOf(err), name)
		require.NotContains(t, err.Error(), "secret")
	}
	for _, good := range []string{"git@git.example.com:acme/tests.git", "ssh://git@git.example.com/tests", "file:///srv/git/tests.git"} {
		s.Repository = good
		_, err := k.Publish(t.Context(), s, true)
		require.NoError(t, err, good)
	}

	all, err := k.Suites(t.Context(), "cart")
	require.NoError(t, err)
	require.Len(t, all, 1)
	all, err = k.Suites(t.Context(), "orders")
	require.NoError(t, err)
	require.Empty(t, all)
	k.reached["ci-1"] = api.Reached{Edges: []api.ReachedEdge{{Service: "orders"}}}
	k.run(t, api.TestRun{ID: "ci-1"})
	require.NoError(t, k.Rename(t.Context(), "checkout", "flow"))
	all, err = k.Suites(t.Context(), "orders")
	require.NoError(t, err)
	require.Len(t, all, 1, "its runs reached orders")
	require.NoError(t, k.Unpublish(t.Context(), "flow", "v1"))
	require.Equal(t, api.CodeNotFound, control.CodeOf(k.Unpublish(t.Context(), "flow", "v1")))
}
