package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/receipt"
	"github.com/layover-dev/layover/internal/server"
)

func TestReceipts(t *testing.T) {
	e := newEnv(t, func(o *server.Options) { o.Receipts = receipt.New(receipt.Options{Settle: time.Nanosecond}) })
	client, err := api.NewClient(e.url)
	require.NoError(t, err)
	defer client.Close()
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	began := time.Now().Add(-time.Minute)
	hop := func(after, took time.Duration, service, caller string) api.Hop {
		h := api.Hop{Trace: trace, Time: began.Add(after), Duration: api.Duration(took), Service: service, Version: "main", Instance: service + "-1", Route: "pr-1", By: "baggage", Status: 200}
		if caller != "" {
			h.Caller, h.CallerOf = caller+"-1", caller+"@main"
		}
		return h
	}
	require.NoError(t, client.SendHops(t.Context(), api.HopBatch{Proxy: "edge-1", Dropped: 3, Hops: []api.Hop{hop(time.Second, time.Second, "cart", "web"), hop(0, 5*time.Second, "web", "")}}))

	r, err := client.Receipt(t.Context(), trace)
	require.NoError(t, err)
	require.Equal(t, "cart@main", r.Roots[0].Calls[0].ID())
	require.EqualValues(t, 3, r.Dropped)
	_, err = client.Receipt(t.Context(), strings.Repeat("0", 31)+"1")
	require.ErrorContains(t, err, "no request with trace")

	list, err := client.Requests(t.Context(), api.HopFilter{Service: "cart"}, 0)
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	newer, err := client.Requests(t.Context(), api.HopFilter{}, list.Last)
	require.NoError(t, err)
	require.Empty(t, newer.Items)

	x, err := client.XRay(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.VerdictCarries, x.Edges[0].Verdict)
	picture, err := client.XRayPicture(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(picture), "<svg")

	for path, status := range map[string]int{
		"/api/v1/receipts/xyz": 422, "/api/v1/requests?status=9xx": 422, "/api/v1/requests?limit=5000": 422, "/api/v1/requests?color=red": 422,
	} {
		require.Equal(t, status, e.ask(t, "GET", path, "").problem(t).Status, path)
	}
	require.Equal(t, 422, e.ask(t, "POST", "/api/v1/records", `{"proxy": "", "dropped": 0, "hops": []}`).problem(t).Status)
}

func TestReceipts_Off(t *testing.T) {
	e := newEnv(t)
	client, err := api.NewClient(e.url)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.SendHops(t.Context(), api.HopBatch{Proxy: "edge-1", Hops: []api.Hop{{Time: time.Now(), Service: "cart", Version: "main"}}}))
	x, err := client.XRay(t.Context())
	require.NoError(t, err)
	require.Empty(t, x.Edges)
}
