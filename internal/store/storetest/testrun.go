package storetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

func testRunTests() map[string]func(*testing.T, *subject) {
	return map[string]func(*testing.T, *subject){
		"every field of a run is kept, lists have no details": func(t *testing.T, s *subject) {
			want := full[api.TestRun](t)
			want.ID = "ci-1"
			number, err := s.AddTestRun(t.Context(), want, 10)
			require.NoError(t, err)
			require.EqualValues(t, 1, number)
			want.Number = 1
			s.bothWays(t, func(t *testing.T) {
				got, err := s.TestRun(t.Context(), "ci-1")
				require.NoError(t, err)
				same(t, want, got)
				listed := want
				listed.Cases, listed.Findings, listed.Unreached, listed.Reached = nil, nil, nil, nil
				all, err := s.TestRuns(t.Context(), 100, 10)
				require.NoError(t, err)
				same(t, []api.TestRun{listed}, all)
			})
		},
		"an ID is taken once, a run is replaced": func(t *testing.T, s *subject) {
			_, err := s.AddTestRun(t.Context(), api.TestRun{ID: "ci-1"}, 10)
			require.NoError(t, err)
			_, err = s.AddTestRun(t.Context(), api.TestRun{ID: "ci-1", Reason: "another"}, 10)
			require.ErrorIs(t, err, control.ErrStored)
			require.NoError(t, s.PutTestRun(t.Context(), api.TestRun{ID: "ci-1", Number: 1, Status: api.RunPassed}))
			require.ErrorIs(t, s.PutTestRun(t.Context(), api.TestRun{ID: "ci-2"}), control.ErrNotStored)
			_, err = s.TestRun(t.Context(), "ci-2")
			require.ErrorIs(t, err, control.ErrNotStored)
			got, err := s.TestRun(t.Context(), "ci-1")
			require.NoError(t, err)
			require.Equal(t, api.RunPassed, got.Status)
			require.Empty(t, got.Reason)
		},
		"the newest runs stay, the newest come first": func(t *testing.T, s *subject) {
			for i := range 6 {
				_, err := s.AddTestRun(t.Context(), api.TestRun{ID: fmt.Sprintf("ci-%d", i+1)}, 4)
				require.NoError(t, err)
			}
			ids := func(before int64, limit int) (ids []string) {
				all, err := s.TestRuns(t.Context(), before, limit)
				require.NoError(t, err)
				for _, r := range all {
					ids = append(ids, fmt.Sprintf("%s %d", r.ID, r.Number))
				}
				return ids
			}
			s.bothWays(t, func(t *testing.T) {
				require.Equal(t, []string{"ci-6 6", "ci-5 5", "ci-4 4", "ci-3 3"}, ids(100, 10))
				require.Equal(t, []string{"ci-4 4"}, ids(5, 1))
			})
		},
		"the history of tests": func(t *testing.T, s *subject) {
			count := func(h *api.TestHistory) { h.Runs++ }
			require.NoError(t, s.UpdateTestHistory(t.Context(), "checkout", []string{"b", "a"}, count))
			require.NoError(t, s.UpdateTestHistory(t.Context(), "checkout", []string{"b"}, count))
			require.NoError(t, s.UpdateTestHistory(t.Context(), "other", []string{"b"}, count))
			s.bothWays(t, func(t *testing.T) {
				all, err := s.TestHistory(t.Context(), "checkout")
				require.NoError(t, err)
				same(t, []api.TestHistory{{Suite: "checkout", Test: "a", Runs: 1}, {Suite: "checkout", Test: "b", Runs: 2}}, all)
				none, err := s.TestHistory(t.Context(), "unknown")
				require.NoError(t, err)
				require.Empty(t, none)
			})
		},
		"a suite gets another name, with all that is known of it": func(t *testing.T, s *subject) {
			count := func(h *api.TestHistory) { h.Runs++ }
			touch := func(t *api.TouchedByTest) { t.Runs++ }
			require.NoError(t, s.UpdateTestHistory(t.Context(), "cart.checkout", []string{"a", "b"}, count))
			require.NoError(t, s.TouchServices(t.Context(), "cart.checkout", []string{"orders", "cart"}, touch))
			require.NoError(t, s.TouchServices(t.Context(), "cart.checkout", []string{"cart"}, touch))
			require.NoError(t, s.UpdateTestHistory(t.Context(), "other", []string{"b"}, count))
			require.ErrorIs(t, s.RenameSuite(t.Context(), "cart.checkout", "other"), control.ErrStored)
			require.NoError(t, s.RenameSuite(t.Context(), "cart.checkout", "checkout"))
			require.NoError(t, s.RenameSuite(t.Context(), "unknown", "new"))
			s.bothWays(t, func(t *testing.T) {
				all, err := s.TestHistory(t.Context(), "checkout")
				require.NoError(t, err)
				same(t, []api.TestHistory{{Suite: "checkout", Test: "a", Runs: 1}, {Suite: "checkout", Test: "b", Runs: 1}}, all)
				touches, err := s.Touches(t.Context())
				require.NoError(t, err)
				require.Equal(t, map[string][]api.TouchedByTest{"checkout": {{Service: "cart", Runs: 2}, {Service: "orders", Runs: 1}}}, touches)
			})
		},
		"a suite that is one test gets another name, and so does that": func(t *testing.T, s *subject) {
			require.NoError(t, s.UpdateTestHistory(t.Context(), "cart.smoke", []string{"cart.smoke"}, func(h *api.TestHistory) { h.Runs++ }))
			require.NoError(t, s.RenameSuite(t.Context(), "cart.smoke", "smoke"))
			require.NoError(t, s.UpdateTestHistory(t.Context(), "smoke", []string{"smoke"}, func(h *api.TestHistory) { h.Runs++ }))
			all, err := s.TestHistory(t.Context(), "smoke")
			require.NoError(t, err)
			same(t, []api.TestHistory{{Suite: "smoke", Test: "smoke", Runs: 2}}, all)
		},
		"suites by name and ref": func(t *testing.T, s *subject) {
			want := full[api.Suite](t)
			want.Name, want.Ref = "checkout", "v2"
			require.NoError(t, s.PutSuite(t.Context(), want))
			require.NoError(t, s.PutSuite(t.Context(), api.Suite{Name: "checkout", Ref: "v1", Note: "old"}))
			require.NoError(t, s.PutSuite(t.Context(), api.Suite{Name: "checkout", Ref: "v1", Note: "new"}))
			s.bothWays(t, func(t *testing.T) {
				all, err := s.Suites(t.Context())
				require.NoError(t, err)
				same(t, []api.Suite{{Name: "checkout", Ref: "v1", Note: "new"}, want}, all)
			})
			require.NoError(t, s.DeleteSuite(t.Context(), "checkout", "v2"))
			require.ErrorIs(t, s.DeleteSuite(t.Context(), "checkout", "v2"), control.ErrNotStored)
		},
	}
}
