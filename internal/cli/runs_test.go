package cli

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

// TestRuns_AreNotPushedOut floods a server with runs that nobody announced: one that was announced stays, also at a server that is
// started anew meanwhile.
func TestRuns_AreNotPushedOut(t *testing.T) {
	dir, backend := t.TempDir(), listenTCP(t)
	writeFile(t, dir, serverFile, backend)
	s := startServer(t, dir)
	_, err := s.BeginRun(t.Context(), api.TestRun{ID: "ci-1", Suite: "checkout"}, time.Hour)
	require.NoError(t, err)
	require.Equal(t, exitOK, s.end())
	s = startServer(t, dir)
	hop := func(run string) api.Hop {
		return api.Hop{Time: time.Now(), Service: "cart", Version: "main", Method: "GET", Path: "/", By: "baggage", Status: 200, Run: run}
	}
	require.NoError(t, s.SendHops(t.Context(), api.HopBatch{Proxy: "edge", Hops: []api.Hop{hop("ci-1"), hop("stranger")}}))
	for batch := range 3 {
		var flood []api.Hop
		for i := range 1000 {
			flood = append(flood, hop(fmt.Sprintf("flood-%d", 1000*batch+i)))
		}
		require.NoError(t, s.SendHops(t.Context(), api.HopBatch{Proxy: "edge", Hops: flood}))
	}
	reached := func(run string) int {
		r, err := s.Reached(t.Context(), run)
		require.NoError(t, err)
		return r.Requests
	}
	require.Eventually(t, func() bool { return reached("flood-2999") == 1 }, patience, 20*time.Millisecond)
	require.Equal(t, 1, reached("ci-1"))
	require.Zero(t, reached("stranger"), "of the others the newest are kept")
	require.Zero(t, reached("flood-2499"))
	require.Equal(t, 1, reached("flood-2500"))
}
