package cli

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

func TestListProxies(t *testing.T) {
	c := newTerminal(t)
	require.Equal(t, exitOK, c.run(t.Context(), "ls", "proxies"))
	require.Empty(t, c.out.String())
	require.Contains(t, c.err.String(), "no stand-alone proxy")
	require.Equal(t, exitOK, c.run(t.Context(), "ls", "proxies", "--json"))
	require.Equal(t, "[]\n", c.out.String(), "an empty list is no null")

	c.SetTable(route.Spec{Revision: 9})
	for _, r := range []api.ProxyReport{
		{ID: "edge-2", Addresses: []string{"10.0.0.8:80", "10.0.0.8:443"}, Revision: 7, Build: "1.2.3", StartedAt: time.Now()},
		{ID: "edge-1", Revision: 9, Requests: map[string]uint64{"cart@main": 5, "cart@x": 2}, StartedAt: time.Now()},
	} {
		require.NoError(t, c.ReportProxy(t.Context(), r))
	}
	require.Equal(t, exitOK, c.run(t.Context(), "ls", "proxies"))
	require.Regexp(t, `^edge-1\t-\t9\t0\t-\t20[0-9T:-]+Z\t7\t-\nedge-2\t10.0.0.8:80,10.0.0.8:443\t7\t2\t1s\t20[0-9T:-]+Z\t0\t1.2.3\n$`, c.out.String())

	c.app.Terminal = true
	require.Equal(t, exitOK, c.run(t.Context(), "ls", "proxies"))
	require.Contains(t, c.out.String(), "ID      ADDRESS                   REVISION  BEHIND  LAG  SEEN  REQUESTS  BUILD\n")

	require.Equal(t, exitOK, c.run(t.Context(), "ls", "proxies", "--json"))
	var all []api.Proxy
	require.NoError(t, json.Unmarshal(c.out.Bytes(), &all))
	require.Len(t, all, 2)
	require.Equal(t, uint64(2), all[1].Behind)

	require.Equal(t, exitUsage, c.run(t.Context(), "ls", "proxys"))
	require.Contains(t, c.err.String(), "did you mean: layover ls proxies")
}
