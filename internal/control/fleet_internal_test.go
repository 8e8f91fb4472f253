package control

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

// tableAt is a table with cart@main and cart@gone in it.
func tableAt(t *testing.T, revision uint64) *route.Table {
	t.Helper()
	return tableOf(t, "", revision)
}

func tableOf(t *testing.T, epoch string, revision uint64) *route.Table {
	t.Helper()
	table, err := route.Compile(route.Spec{Epoch: epoch, Revision: revision, Services: []route.Service{{
		Name: "cart", Versions: []route.Version{{Name: "main", State: route.Starting}},
	}}})
	require.NoError(t, err)
	return table
}

// reportAs reports a proxy that was started long ago.
func reportAs(t *testing.T, f *fleet, id string, revision uint64, draining ...string) {
	t.Helper()
	require.NoError(t, f.report(api.ProxyReport{ID: id, Revision: revision, Draining: draining}))
}

// waiting calls WaitIdle in the background, and returns what says whether it has returned, and how.
func waiting(ctx context.Context, f *fleet, id string) (returned func() bool, result func() error) {
	done := make(chan error, 1)
	go func() { done <- f.WaitIdle(ctx, id) }()
	return func() bool { synctest.Wait(); return len(done) == 1 }, func() error { return <-done }
}

func TestWaitIdleWaitsForEveryProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		f.SetTable(tableAt(t, 5))
		require.NoError(t, f.WaitIdle(t.Context(), "i"), "no proxy: nobody to wait for")

		reportAs(t, f, "a", 5)
		reportAs(t, f, "b", 4)
		returned, result := waiting(t.Context(), f, "i")
		require.False(t, returned(), "b may still send requests to it")
		reportAs(t, f, "b", 5, "i")
		require.False(t, returned(), "b has a request in flight to it")
		reportAs(t, f, "c", 3)
		reportAs(t, f, "b", 5)
		require.False(t, returned(), "c came back with an old table")
		reportAs(t, f, "c", 6)
		require.True(t, returned())
		require.NoError(t, result())
	})
}

func TestWaitIdleEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		f.SetTable(tableAt(t, 5))
		reportAs(t, f, "a", 4)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, f.WaitIdle(ctx, "i"), context.DeadlineExceeded)
	})
}

func TestProxyThatGoesAwayIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		f.SetTable(tableAt(t, 5))
		reportAs(t, f, "a", 4)
		began := time.Now()
		require.NoError(t, f.WaitIdle(t.Context(), "i"))
		require.Equal(t, proxySilent, time.Since(began))
		require.Len(t, f.list(), 1, "it is still known")
		time.Sleep(proxyForgotten - proxySilent + time.Second)
		require.Empty(t, f.list())
	})
}

// A table that comes while WaitIdle waits does not move its goal.
func TestWaitIdleWaitsForTheTableOfItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		f.SetTable(tableAt(t, 5))
		reportAs(t, f, "a", 4)
		returned, result := waiting(t.Context(), f, "i")
		require.False(t, returned())
		f.SetTable(tableAt(t, 6))
		reportAs(t, f, "a", 5)
		require.True(t, returned())
		require.NoError(t, result())
	})
}

// While a proxy hands over to its next process, the old one's requests count, and its table does not.
func TestHandOverOfAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		f.SetTable(tableAt(t, 5))
		old := api.ProxyReport{ID: "a", StartedAt: time.Now(), Revision: 5, Draining: []string{"i"}, Requests: map[string]uint64{"cart@main": 10}}
		next := api.ProxyReport{ID: "a", StartedAt: time.Now().Add(time.Second), Revision: 5, Requests: map[string]uint64{"cart@main": 1}}
		require.NoError(t, f.report(old))
		require.NoError(t, f.report(next))
		returned, result := waiting(t.Context(), f, "i")
		require.False(t, returned(), "the old process has a request in flight to it")
		old.Draining = nil
		require.NoError(t, f.report(old))
		require.True(t, returned())
		require.NoError(t, result())

		list := f.list()
		require.Len(t, list, 1)
		require.Equal(t, next.StartedAt, list[0].StartedAt, "the next process is the proxy")
		require.Equal(t, map[string]uint64{"cart@main": 11}, f.Requests())
		require.Equal(t, uint64(11), f.requestsTo("cart@main"))

		f.SetTable(tableAt(t, 6))
		next.Revision = 6
		require.NoError(t, f.report(next))
		require.Empty(t, f.waitTaken(t.Context(), route.Position{Revision: 6}))
	})
}

// What a proxy has of another epoch is not the table, whatever its revision.
func TestTablesOfAnotherEpochDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		f.SetTable(tableOf(t, "a", 5))
		has := func(epoch string, revision uint64) {
			require.NoError(t, f.report(api.ProxyReport{ID: "p", Epoch: epoch, Revision: revision}))
		}
		has("z", 9)
		returned, result := waiting(t.Context(), f, "i")
		require.False(t, returned())
		<-time.After(time.Second)
		one := f.list()[0]
		require.Equal(t, uint64(1), one.Behind, "it lacks the newest")
		require.Equal(t, api.Duration(time.Second), one.Lag)
		has("a", 5)
		require.True(t, returned())
		require.NoError(t, result())
		require.Zero(t, f.list()[0].Behind)

		has("a", 4)
		returned, result = waiting(t.Context(), f, "i")
		require.False(t, returned())
		f.SetTable(tableOf(t, "b", 3)) // the store was put back to an older state
		has("a", 4)
		require.False(t, returned())
		has("b", 3)
		require.True(t, returned(), "it is later than any table of the epoch before")
		require.NoError(t, result())
		has("a", 1)
		<-time.After(time.Second)
		one = f.list()[0]
		require.Equal(t, uint64(2), one.Behind)
		require.Equal(t, api.Duration(time.Second), one.Lag, "since the first table of the epoch")
	})
}

func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(nil)
		for revision := uint64(5); revision < 5+3*keptStamps; revision += 2 { // numbers may be left out
			f.SetTable(tableAt(t, revision))
			<-time.After(time.Millisecond)
		}
		newest := f.table.Revision()
		reportAs(t, f, "even", newest)
		reportAs(t, f, "late", newest-4)
		reportAs(t, f, "lost", 1)
		reportAs(t, f, "ahead", newest+7)
		list := f.list()
		require.Equal(t, "ahead even late lost", list[0].ID+" "+list[1].ID+" "+list[2].ID+" "+list[3].ID)
		require.Zero(t, list[0].Behind+list[1].Behind)
		require.Zero(t, list[0].Lag+list[1].Lag)
		require.Equal(t, uint64(4), list[2].Behind)
		require.Equal(t, api.Duration(2*time.Millisecond), list[2].Lag, "since the first of the tables that it lacks")
		require.Equal(t, newest-1, list[3].Behind)
		require.Greater(t, list[3].Lag, list[2].Lag)
		require.LessOrEqual(t, len(f.stamps), keptStamps)
	})
}

func TestReportsAreBounded(t *testing.T) {
	f := newFleet(nil)
	f.SetTable(tableAt(t, 5))
	long := strings.Repeat("x", maxReportText+1)
	for name, r := range map[string]api.ProxyReport{
		"no name":           {},
		"a path":            {ID: "../a"},
		"a long name":       {ID: strings.Repeat("x", maxProxyName+1)},
		"many addresses":    {ID: "a", Addresses: make([]string, maxAddresses+1)},
		"much draining":     {ID: "a", Draining: make([]string, maxDraining+1)},
		"a long build":      {ID: "a", Build: long},
		"a long epoch":      {ID: "a", Epoch: long},
		"a long instance":   {ID: "a", Draining: []string{long}},
		"a long version ID": {ID: "a", Requests: map[string]uint64{long: 1}},
	} {
		require.Equal(t, api.CodeInvalid, CodeOf(f.report(r)), name)
	}
	require.Empty(t, f.list())

	require.NoError(t, f.report(api.ProxyReport{ID: "a", Requests: map[string]uint64{"cart@main": 3, "cart@gone": 4, "nonsense": 5}}))
	require.NoError(t, f.report(api.ProxyReport{ID: "a"}), "what did not change may be left out")
	require.Equal(t, map[string]uint64{"cart@main": 3}, f.Requests(), "versions that are not there are not counted")
	require.Equal(t, 1, f.counts)
	for i := range maxProxies - 1 {
		reportAs(t, f, fmt.Sprintf("p%d", i), 5)
	}
	require.Equal(t, api.CodeUnavailable, CodeOf(f.report(api.ProxyReport{ID: "one-more"})))
	reportAs(t, f, "p0", 5)
}

func TestHistory(t *testing.T) {
	var h history
	h.reset(route.Position{Revision: 3})
	_, ok := h.since(route.Position{Revision: 2})
	require.False(t, ok)
	for revision := uint64(5); revision < 15; revision += 2 { // 5, 7, 9, 11, 13; numbers may be left out
		h.add(route.Change{Base: max(revision-2, 3), Revision: revision})
	}
	for after, want := range map[uint64]int{3: 5, 5: 4, 11: 1, 13: 0} {
		changes, ok := h.since(route.Position{Revision: after})
		require.True(t, ok, after)
		require.Len(t, changes, want, after)
		if want > 0 {
			require.Greater(t, changes[0].Revision, after)
			require.Contains(t, string(changes[0].JSON), fmt.Sprintf(`{"base":%d,`, after))
			require.Equal(t, uint64(13), changes[want-1].Revision)
		}
	}
	for _, after := range []uint64{0, 2, 4, 6, 12, 14, 100} {
		_, ok := h.since(route.Position{Revision: after})
		require.False(t, ok, after)
	}
}

func TestHistoryIsOfOneEpoch(t *testing.T) {
	var h history
	h.reset(route.Position{Epoch: "a", Revision: 3})
	h.add(route.Change{Epoch: "a", Base: 3, Revision: 4})
	for _, revision := range []uint64{3, 4} {
		_, ok := h.since(route.Position{Epoch: "a", Revision: revision})
		require.True(t, ok)
		for _, epoch := range []string{"", "b"} {
			_, ok = h.since(route.Position{Epoch: epoch, Revision: revision})
			require.False(t, ok)
		}
	}
	h.add(route.Change{Epoch: "b", Base: 1, Revision: 2, Versions: make([]route.VersionChange, maxChange+1)})
	_, ok := h.since(route.Position{Epoch: "b", Revision: 2})
	require.True(t, ok, "also where the table is the shorter way")
}

func TestHistoryIsBounded(t *testing.T) {
	var h history
	for revision := uint64(1); revision <= 2*keptChanges; revision++ {
		h.add(route.Change{Base: revision - 1, Revision: revision})
	}
	changes, ok := h.since(route.Position{Revision: keptChanges})
	require.True(t, ok)
	require.Len(t, changes, keptChanges)
	_, ok = h.since(route.Position{Revision: keptChanges - 1})
	require.False(t, ok)

	reason := strings.Repeat("x", keptChangeBytes/4)
	revision := uint64(2 * keptChanges)
	for range 8 {
		h.add(route.Change{Base: revision, Revision: revision + 1, Versions: []route.VersionChange{{Version: &route.Version{Reason: reason}}}})
		revision++
	}
	require.LessOrEqual(t, h.size, keptChangeBytes)
	changes, ok = h.since(route.Position{Revision: revision - 3})
	require.True(t, ok)
	require.Len(t, changes, 3)

	h.add(route.Change{Base: revision, Revision: revision + 1, Versions: make([]route.VersionChange, maxChange+1)})
	_, ok = h.since(route.Position{Revision: revision})
	require.False(t, ok, "the table is the shorter way")
	changes, ok = h.since(route.Position{Revision: revision + 1})
	require.True(t, ok)
	require.Empty(t, changes)
}
