// Package telemetry is the only one that sets up the SDKs of metrics and traces.
package telemetry

import (
	"maps"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxVersions is how many versions have a time series of their own: those with the most
// requests. A scrape stays small in an environment of a million versions.
const maxVersions = 1000

// ProxyFigures is what a stand-alone proxy shows of itself at one moment.
type ProxyFigures struct {
	Ready         bool
	Revision      uint64
	Age           float64 // seconds since a server said something last
	Connected     bool
	Stale         bool
	Applied       uint64
	CacheRevision uint64
	CacheErrors   uint64
	Draining      int
	Requests      map[string]uint64 // by service@version
	Dropped       uint64            // records that no log took
	Version       string            // of the program
}

// ProxyMetrics answers with the metrics of a stand-alone proxy in the text form of
// Prometheus. figures is called once for each scrape: nothing is counted here, and no
// request passes here.
func ProxyMetrics(figures func() ProxyFigures) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		newProxyCollector(figures),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

type proxyCollector struct {
	figures func() ProxyFigures

	build, ready, revision, age, connected, stale, applied *prometheus.Desc
	cacheRevision, cacheErrors, draining                   *prometheus.Desc
	requests, versions, dropped                            *prometheus.Desc
}

func newProxyCollector(figures func() ProxyFigures) *proxyCollector {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("layover_"+name, help, labels, nil)
	}
	return &proxyCollector{
		figures:       figures,
		build:         describe("build_info", "Which program this is.", "version"),
		ready:         describe("ready", "Whether there is a table to decide on, and the proxy is not being stopped."),
		revision:      describe("table_revision", "Revision of the table that requests are decided on."),
		age:           describe("table_age_seconds", "Seconds since a server said something last; -1 where none ever did."),
		connected:     describe("server_connected", "Whether a server is followed."),
		stale:         describe("table_stale", "Whether newer tables may exist that this proxy cannot get."),
		applied:       describe("table_applied_total", "Tables taken up since the start."),
		cacheRevision: describe("table_cache_revision", "Revision of the table on disk; 0 where there is none."),
		cacheErrors:   describe("table_cache_errors_total", "Tables that could not be written to disk."),
		draining:      describe("draining_instances", "Instances that have left the table and still have requests in flight."),
		requests:      describe("requests_total", "Requests answered by a version that is in the table; the 1000 with the most.", "service_version"),
		versions:      describe("requested_versions", "Versions in the table that have answered a request."),
		dropped:       describe("records_dropped_total", "Records of requests that the access log was too slow for."),
	}
}

// Describe implements [prometheus.Collector].
func (c *proxyCollector) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, to) }

// Collect implements [prometheus.Collector].
func (c *proxyCollector) Collect(to chan<- prometheus.Metric) {
	now := c.figures()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	count := func(desc *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	gauge(c.build, 1, now.Version)
	gauge(c.ready, truth(now.Ready))
	gauge(c.revision, float64(now.Revision))
	gauge(c.age, now.Age)
	gauge(c.connected, truth(now.Connected))
	gauge(c.stale, truth(now.Stale))
	count(c.applied, now.Applied)
	gauge(c.cacheRevision, float64(now.CacheRevision))
	count(c.cacheErrors, now.CacheErrors)
	gauge(c.draining, float64(now.Draining))
	gauge(c.versions, float64(len(now.Requests)))
	count(c.dropped, now.Dropped)
	for _, version := range busiest(now.Requests) {
		count(c.requests, now.Requests[version], version)
	}
}

func busiest(requests map[string]uint64) []string {
	versions := slices.Collect(maps.Keys(requests))
	if len(versions) <= maxVersions {
		return versions
	}
	slices.SortFunc(versions, func(a, b string) int {
		if requests[a] != requests[b] {
			if requests[a] > requests[b] {
				return -1
			}
			return 1
		}
		if a < b {
			return -1
		}
		return 1
	})
	return versions[:maxVersions]
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
