package suite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// world says whether a test passes on versions of the route; it is flaky at a rate besides.
type world struct {
	versions []string
	fails    func(has func(version string) bool) bool
	flaky    float64
	random   *rand.Rand
	runs     int
}

func (w *world) run(_ context.Context, t Trial, tests []string) (map[string]bool, error) {
	has := func(v string) bool {
		switch {
		case t.Defaults:
			return false
		case len(t.Only) > 0:
			return slices.Contains(t.Only, v)
		}
		return slices.Contains(w.versions, v) && !slices.Contains(t.Without, v)
	}
	out := map[string]bool{}
	for _, test := range tests {
		w.runs++
		out[test] = !w.fails(has) && w.random.Float64() >= w.flaky
	}
	return out, nil
}

const mine, other, third = "cart@pr-1", "orders@pr-1", "pricing@pr-1"

// kind is a class of reasons why a test fails.
type kind struct {
	versions []string
	fails    func(has func(string) bool) bool
	flaky    float64
	past     Past
	mine     string
	want     Verdict
	blame    []string
}

func kinds() map[string]kind {
	stable := Past{Runs: 60, Elsewhere: true}
	inMine := func(has func(string) bool) bool { return has(mine) }
	inOther := func(has func(string) bool) bool { return has(other) }
	both := func(has func(string) bool) bool { return has(mine) && has(other) }
	always := func(func(string) bool) bool { return true }
	never := func(func(string) bool) bool { return false }
	two, three := []string{mine, other}, []string{mine, other, third}
	return map[string]kind{
		"mine":                  {versions: []string{mine}, fails: inMine, past: stable, mine: mine, want: Yours, blame: []string{mine}},
		"mine, new test":        {versions: []string{mine}, fails: inMine, mine: mine, want: Yours, blame: []string{mine}},
		"mine of two":           {versions: two, fails: inMine, past: stable, mine: mine, want: Yours, blame: []string{mine}},
		"mine of three":         {versions: three, fails: inMine, past: stable, mine: mine, want: Yours, blame: []string{mine}},
		"main":                  {versions: []string{mine}, fails: always, past: stable, mine: mine, want: MainFails},
		"main, new test":        {versions: []string{mine}, fails: always, mine: mine, want: Undecided},
		"main, new, of two":     {versions: two, fails: always, want: Undecided},
		"main, two":             {versions: two, fails: always, past: stable, mine: mine, want: MainFails},
		"main, no route":        {fails: always, past: stable, want: MainFails},
		"other of two":          {versions: two, fails: inOther, past: stable, mine: mine, want: Theirs, blame: []string{other}},
		"other of three":        {versions: three, fails: inOther, past: stable, mine: mine, want: Theirs, blame: []string{other}},
		"the combination":       {versions: two, fails: both, past: stable, mine: mine, want: Together, blame: two},
		"combination of three":  {versions: three, fails: both, past: stable, mine: mine, want: Together, blame: two},
		"nobody's, combination": {versions: three, fails: both, past: stable, want: Together, blame: two},
		"nobody's, one":         {versions: three, fails: inOther, past: stable, want: Yours, blame: []string{other}},
		"flaky, known":          {versions: two, fails: never, flaky: 0.1, past: Past{Runs: 60, Flips: 6}, mine: mine, want: Flaky},
		"flaky, new":            {versions: []string{mine}, fails: never, flaky: 0.1, mine: mine, want: Flaky},
		"mine, known to flip":   {versions: []string{mine}, fails: inMine, flaky: 0.1, past: Past{Runs: 60, Flips: 6}, mine: mine, want: Yours, blame: []string{mine}},
	}
}

// TestJudge_IsRight holds the verdicts over a seeded matrix, and how many runs they take.
func TestJudge_IsRight(t *testing.T) {
	for name, k := range kinds() {
		t.Run(name, func(t *testing.T) {
			const cases = 2000
			random := rand.New(rand.NewPCG(7, uint64(len(name))))
			right, runs := 0, 0
			for range cases {
				w := &world{versions: k.versions, fails: k.fails, flaky: k.flaky, random: random}
				got, err := Judge(t.Context(), []string{"a"}, k.mine, k.versions, map[string]Past{"a": k.past}, w.run)
				require.NoError(t, err)
				j := got["a"]
				require.GreaterOrEqual(t, len(j.Evidence), j.Runs)
				require.Equal(t, w.runs, j.Runs)
				runs += w.runs
				if j.Verdict == k.want {
					right++
					if k.flaky == 0 {
						require.Equal(t, k.blame, j.Blame)
					}
				}
			}
			t.Logf("%s: %.2f %% right, %.2f extra runs", name, 100*float64(right)/cases, float64(runs)/cases)
			least := 0.99
			if name == "flaky, new" || name == "mine, known to flip" {
				least = 0.98 // little is known, and main flips as well
			}
			require.GreaterOrEqual(t, float64(right)/cases, least)
		})
	}
}

// TestJudge_TakesAsManyRunsAsTheGuideSays holds that docs/howto/test.md has the number of further runs of each case.
func TestJudge_TakesAsManyRunsAsTheGuideSays(t *testing.T) {
	guide, err := os.ReadFile("../../docs/howto/test.md")
	require.NoError(t, err)
	for _, row := range []struct{ route, of, verdict, kind string }{
		{"none", "", "main is broken", "main, no route"},
		{"1 version", "", "yours", "mine"},
		{"", "", "main is broken", "main"},
		{"2 versions", "", "yours", "mine of two"},
		{"", "", "main is broken", "main, two"},
		{"", "", "theirs", "other of two"},
		{"", "", "only together", "the combination"},
		{"3 versions", "", "yours", "mine of three"},
		{"", "", "theirs", "other of three"},
		{"", " of two", "only together", "combination of three"},
		{"3 versions, all under test", "", "yours", "nobody's, one"},
		{"", " of two", "only together", "nobody's, combination"},
	} {
		k := kinds()[row.kind]
		runs := func(past Past) int {
			past.Elsewhere = true
			w := &world{versions: k.versions, fails: k.fails, random: rand.New(rand.NewPCG(1, 2))}
			got, err := Judge(t.Context(), []string{"a"}, k.mine, k.versions, map[string]Past{"a": past}, w.run)
			require.NoError(t, err)
			require.Equal(t, row.verdict, string(got["a"].Verdict))
			return got["a"].Runs
		}
		believed, unknown := runs(Past{Runs: stableRuns}), runs(Past{Runs: stableRuns - 1})
		require.Contains(t, string(guide), fmt.Sprintf("| %s | `%s`%s | %d | %d |\n", row.route, row.verdict, row.of, believed, unknown))
		require.Equal(t, unknown, runs(Past{Runs: 23, Flips: 1}), "one that flips seldom is as a new one")
		require.Equal(t, unknown+1, runs(Past{Runs: 22, Flips: 1}), "one that flips often fails once more on the same versions")
		require.Equal(t, unknown+1, runs(Past{Runs: 100, Flips: 90}), "and never more often")
	}
}

// TestJudge_RunsOfFlakyTests holds the numbers for flaky tests, likewise.
func TestJudge_RunsOfFlakyTests(t *testing.T) {
	runs := func(versions []string, mine string, past Past) int {
		got, err := Judge(t.Context(), []string{"a"}, mine, versions, map[string]Past{"a": past}, func(context.Context, Trial, []string) (map[string]bool, error) {
			return map[string]bool{"a": true}, nil
		})
		require.NoError(t, err)
		require.Equal(t, Flaky, got["a"].Verdict)
		return got["a"].Runs
	}
	two, three := []string{mine, other}, []string{mine, other, third}
	require.Equal(t, []int{1, 2, 3, 3, 5}, []int{
		runs(nil, "", Past{Runs: 20}), runs(two[:1], mine, Past{Runs: 20}), runs(two, mine, Past{Runs: 20}), runs(three, mine, Past{Runs: 20}), runs(three, "", Past{Runs: 20}),
	})
	require.Equal(t, 1, runs(three, mine, Past{}))
}

// TestJudge_SharesTrials holds that tests of different fate are run together where they wait for the same.
func TestJudge_SharesTrials(t *testing.T) {
	trials := 0
	run := func(_ context.Context, trial Trial, tests []string) (map[string]bool, error) {
		trials++
		out := map[string]bool{}
		for _, test := range tests {
			out[test] = trial.Defaults && test != "main"
		}
		return out, nil
	}
	past := map[string]Past{}
	tests := []string{"main"}
	for i := range 20 {
		tests = append(tests, fmt.Sprintf("mine %d", i))
	}
	for _, test := range tests {
		past[test] = Past{Runs: 50, Elsewhere: true}
	}
	got, err := Judge(t.Context(), tests, mine, []string{mine}, past, run)
	require.NoError(t, err)
	require.Equal(t, MainFails, got["main"].Verdict)
	require.Equal(t, Yours, got["mine 7"].Verdict)
	require.Equal(t, 2, trials)
}

func TestJudge_WhatCannotBeTried(t *testing.T) {
	got, err := Judge(t.Context(), []string{"a", "b"}, mine, []string{mine}, nil, func(context.Context, Trial, []string) (map[string]bool, error) {
		return map[string]bool{"a": false}, errors.New("no room")
	})
	require.NoError(t, err)
	require.Equal(t, Undecided, got["a"].Verdict)
	require.Equal(t, []string{"again on the same versions: could not be tried: no room"}, got["a"].Evidence)
	got, err = Judge(t.Context(), []string{"a", "b"}, mine, []string{mine}, nil, func(context.Context, Trial, []string) (map[string]bool, error) {
		return map[string]bool{"a": true}, nil
	})
	require.NoError(t, err)
	require.Equal(t, []Verdict{Flaky, Undecided}, []Verdict{got["a"].Verdict, got["b"].Verdict})
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Judge(ctx, []string{"a"}, mine, []string{mine}, nil, func(context.Context, Trial, []string) (map[string]bool, error) {
		cancel()
		return nil, context.Canceled
	})
	require.ErrorIs(t, err, context.Canceled)
}
