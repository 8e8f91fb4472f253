package telemetry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/telemetry/otlp"
	"github.com/layover-dev/layover/internal/telemetry/receiver"
)

func scraped(t *testing.T, all ...prometheus.Collector) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(NewRegistry(all...)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

func TestProxyFigures(t *testing.T) {
	text := scraped(t, Proxy(func() ProxyFigures {
		return ProxyFigures{
			Revision: 42, InFlight: map[string]int64{"cart@main": 3}, Held: 2, Wakes: 5, Ejected: 1, Open: 9, Refused: 4, Build: "1.2.3",
			Dropped: map[string]uint64{"access_log": 9}, OTLP: map[string]otlp.Stats{"traces": {Sent: 1, Dropped: 2, Refused: 3}},
			Received: map[string]receiver.Stats{"logs": {Refused: 6}}, Taking: 4096,
			Follows: &FollowerFigures{Ready: true, Age: 1.5, Stale: true, Applied: 3, CacheRevision: 41, CacheErrors: 2, Draining: 1},
		}
	}))
	for _, line := range []string{
		`layover_build_info{version="1.2.3"} 1`, "layover_ready 1", "layover_table_revision 42", "layover_table_age_seconds 1.5",
		"layover_server_connected 0", "layover_table_stale 1", "layover_table_applied_total 3", "layover_table_cache_revision 41",
		"layover_table_cache_errors_total 2", "layover_draining_instances 1", `layover_records_dropped_total{for="access_log"} 9`,
		`layover_in_flight_requests{service="cart",version="main"} 3`, "layover_held_requests 2", "layover_wakes_total 5", "layover_ejected_instances 1",
		"layover_connections 9", "layover_connections_refused_total 4", `layover_otlp_items_total{kind="traces",result="refused"} 3`,
		`layover_received_total{kind="logs",result="refused"} 6`, "layover_received_memory_bytes 4096",
	} {
		require.Contains(t, text, line+"\n")
	}
	require.NotContains(t, scraped(t, Proxy(func() ProxyFigures { return ProxyFigures{} })), "layover_ready", "one in the server's process follows nobody")
}

func TestServerFigures(t *testing.T) {
	written, unasked := false, 2.5
	figures := ServerFigures{
		Gateway: &written, GatewayUnasked: &unasked,
		Leader: true, Revision: 7, Versions: map[string]int{"ready": 3, "asleep": 2}, Services: 2, Requests: 5, Dropped: 1,
		Proxies: []ProxyFigure{{ID: "edge-1", Behind: 2, Lag: 0.5}}, Webhooks: []WebhookFigure{{Name: "chat", Behind: 1, Dead: 4}},
	}
	text := scraped(t, Server(func() ServerFigures { return figures }), Proxy(func() ProxyFigures { return ProxyFigures{} }))
	for _, line := range []string{
		"layover_server_leader 1", "layover_server_table_revision 7", `layover_versions{state="asleep"} 2`, "layover_services 2",
		"layover_proxies 1", `layover_proxy_behind_revisions{proxy="edge-1"} 2`, `layover_proxy_lag_seconds{proxy="edge-1"} 0.5`,
		`layover_webhook_behind_events{webhook="chat"} 1`, `layover_gateway_written{gateway="traefik-redis"} 0`, `layover_gateway_unasked_seconds{gateway="traefik-http"} 2.5`, `layover_webhook_dead_letters{webhook="chat"} 4`,
		"layover_receipt_requests_total 5", "layover_receipt_requests_dropped_total 1",
	} {
		require.Contains(t, text, line+"\n")
	}
	figures.Leader = false
	text = scraped(t, Server(func() ServerFigures { return figures }))
	require.Contains(t, text, "layover_server_leader 0\n")
	require.NotContains(t, text, "layover_versions", "the one that leads tells that")
}

// TestProxyFigures_AreBounded holds that a million busy versions are no million series.
func TestProxyFigures_AreBounded(t *testing.T) {
	busy := map[string]int64{}
	for i := range 2 * maxSeries {
		busy[fmt.Sprint("cart@pr-", i)] = int64(i)
	}
	text := scraped(t, Proxy(func() ProxyFigures { return ProxyFigures{InFlight: busy} }))
	require.Equal(t, maxSeries, strings.Count(text, "\nlayover_in_flight_requests{"))
	require.Contains(t, text, fmt.Sprintf("version=\"pr-%d\"", 2*maxSeries-1), "those with the most")
	require.NotContains(t, text, fmt.Sprintf("version=\"pr-%d\"", maxSeries-1))
}

func TestEvents(t *testing.T) {
	e := NewEvents("deploy.failed")
	e.Count("deploy.done")
	e.Deployed(2 * time.Second)
	text := scraped(t, e)
	for _, line := range []string{
		`layover_events_total{type="deploy.done"} 1`, `layover_events_total{type="deploy.failed"} 0`,
		`layover_deploy_duration_seconds_bucket{le="1"} 0`, `layover_deploy_duration_seconds_bucket{le="2.5"} 1`,
	} {
		require.Contains(t, text, line+"\n")
	}
}
