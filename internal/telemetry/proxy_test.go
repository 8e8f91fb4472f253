package telemetry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func scrape(t *testing.T, figures ProxyFigures) string {
	t.Helper()
	w := httptest.NewRecorder()
	ProxyMetrics(func() ProxyFigures { return figures }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

func TestProxyMetrics(t *testing.T) {
	text := scrape(t, ProxyFigures{
		Ready: true, Revision: 42, Age: 1.5, Stale: true, Applied: 3, CacheRevision: 41, CacheErrors: 2, Draining: 1,
		Requests: map[string]uint64{"cart@main": 7}, Dropped: 9, Version: "1.2.3",
	})
	for _, line := range []string{
		`layover_build_info{version="1.2.3"} 1`, "layover_ready 1", "layover_table_revision 42", "layover_table_age_seconds 1.5",
		"layover_server_connected 0", "layover_table_stale 1", "layover_table_applied_total 3", "layover_table_cache_revision 41",
		"layover_table_cache_errors_total 2", "layover_draining_instances 1", "layover_records_dropped_total 9",
		`layover_requests_total{service_version="cart@main"} 7`, "layover_requested_versions 1",
	} {
		require.Contains(t, text, line+"\n")
	}
}

// TestScrapeIsBounded holds that a million versions are no million time series.
func TestScrapeIsBounded(t *testing.T) {
	requests := map[string]uint64{}
	for i := range 2 * maxVersions {
		requests[fmt.Sprint("cart@pr-", i)] = uint64(i)
	}
	text := scrape(t, ProxyFigures{Requests: requests})
	require.Equal(t, maxVersions, strings.Count(text, "\nlayover_requests_total{"))
	require.Contains(t, text, fmt.Sprintf("\"cart@pr-%d\"", 2*maxVersions-1), "those with the most")
	require.NotContains(t, text, fmt.Sprintf("\"cart@pr-%d\"", maxVersions-1))
	require.Contains(t, text, fmt.Sprintf("layover_requested_versions %d\n", 2*maxVersions))
}
