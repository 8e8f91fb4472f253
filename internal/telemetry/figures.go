package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layover-dev/layover/internal/telemetry/otlp"
	"github.com/layover-dev/layover/internal/telemetry/receiver"
)

// ProxyFigures is what a proxy shows of itself at one moment.
type ProxyFigures struct {
	Revision uint64            // of the table that requests are decided on
	InFlight map[string]int64  // requests in progress, by version ("cart@main")
	Held     int64             // requests that wait for a version
	Wakes    uint64            // how often the server was asked to wake one
	Ejected  int               // instances that get no requests, as they failed
	Open     int64             // connections of clients
	Refused  uint64            // the same, refused as there were too many
	Dropped  map[string]uint64 // records of requests that were lost, by what they were for

	Received map[string]receiver.Stats // requests with telemetry of applications; nil where none is taken in
	Taking   int64                     // bytes that those take which are taken in now
	Follows  *FollowerFigures          // nil where the proxy is in the server's process
	OTLP     map[string]otlp.Stats
	Build    string // version of the program
}

// FollowerFigures is how a proxy of its own follows the servers.
type FollowerFigures struct {
	Ready         bool
	Age           float64 // seconds since a server said something last; -1 where none ever did
	Connected     bool
	Stale         bool
	Applied       uint64
	CacheRevision uint64
	CacheErrors   uint64
	Draining      int
}

// ServerFigures is what a server shows of the environment at one moment; of one that stands by, Leader, OTLP and Build.
type ServerFigures struct {
	Leader   bool           // it has the store
	Revision uint64         // of the newest table
	Versions map[string]int // by state
	Services int
	Proxies  []ProxyFigure
	Webhooks []WebhookFigure
	Requests uint64 // that proxies told of
	Dropped  uint64 // that they could not tell of

	Refusals     []RefusalFigure // of webhooks of forges
	ForgeRemoved *uint64         // versions that ended with their branch; nil where there are no forges

	Gateway *bool // whether Traefik's configuration is in Redis as it is wanted; nil where none is to be
	// GatewayUnasked is for how many seconds Traefik has not asked for its configuration; nil where it never did, or has it from Redis.
	GatewayUnasked *float64

	LinesDropped uint64 // of logs, as there was no room to send them
	OTLP         map[string]otlp.Stats
	Build        string
}

// ProxyFigure is a proxy as the server knows it.
type ProxyFigure struct {
	ID     string
	Behind uint64  // revisions
	Lag    float64 // seconds that it has been behind
}

// RefusalFigure is how many webhooks of a forge were refused for a reason.
type RefusalFigure struct {
	Forge, Reason string
	Count         uint64
}

// WebhookFigure is a webhook.
type WebhookFigure struct {
	Name         string
	Behind, Dead int64
}

// maxSeries is how many versions or proxies have a series of such a figure: those with the most.
const maxSeries = 1000

// scrape writes metrics of what is true now.
type scrape chan<- prometheus.Metric

func (s scrape) put(kind prometheus.ValueType, value float64, name, help string, labels ...string) {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	s <- prometheus.MustNewConstMetric(prometheus.NewDesc("layover_"+name, help, names, nil), kind, value, values...)
}

func (s scrape) gauge(value float64, name, help string, labels ...string) {
	s.put(prometheus.GaugeValue, value, name, help, labels...)
}

func (s scrape) count(value float64, name, help string, labels ...string) {
	s.put(prometheus.CounterValue, value, name, help, labels...)
}

// figures is a collector of what is asked for at each scrape. It describes nothing before: what there is depends on the moment.
type figures func(scrape)

// Describe implements [prometheus.Collector].
func (figures) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (f figures) Collect(to chan<- prometheus.Metric) { f(to) }

// Proxy returns the metrics of a proxy. now is called for each scrape: nothing is counted here, and no request passes here.
func Proxy(now func() ProxyFigures) prometheus.Collector {
	return figures(func(s scrape) {
		p := now()
		s.gauge(1, "build_info", "Which program this is.", "version", p.Build)
		s.gauge(float64(p.Revision), "table_revision", "Revision of the table that requests are decided on.")
		for _, id := range most(p.InFlight, maxSeries) {
			service, version, _ := strings.Cut(id, "@")
			s.gauge(float64(p.InFlight[id]), "in_flight_requests", "Requests in progress at a version, streams and upgraded connections included; the 1000 with the most.", "service", service, "version", version)
		}
		s.gauge(float64(p.Held), "held_requests", "Requests that wait for a version that is asleep or starting.")
		s.count(float64(p.Wakes), "wakes_total", "How often the server was asked to wake a version.")
		s.gauge(float64(p.Ejected), "ejected_instances", "Instances that get no requests, as they could not be connected to or failed.")
		s.gauge(float64(p.Open), "connections", "Connections that clients have open.")
		s.count(float64(p.Refused), "connections_refused_total", "Connections refused, as there were too many.")
		for _, what := range slices.Sorted(maps.Keys(p.Dropped)) {
			s.count(float64(p.Dropped[what]), "records_dropped_total", "Records of requests that were lost on the way to the access log, the server (requests) or the receiver of spans.", "for", what)
		}
		for _, kind := range slices.Sorted(maps.Keys(p.Received)) {
			help := "Requests with telemetry of applications: stamped with their version, of unknown senders, refused."
			s.count(float64(p.Received[kind].Stamped), "received_total", help, "kind", kind, "result", "stamped")
			s.count(float64(p.Received[kind].Unknown), "received_total", help, "kind", kind, "result", "unknown")
			s.count(float64(p.Received[kind].Refused), "received_total", help, "kind", kind, "result", "refused")
		}
		if p.Received != nil {
			s.gauge(float64(p.Taking), "received_memory_bytes", "Memory that requests with telemetry of applications take now, while they are read and decoded; at most.")
		}
		if f := p.Follows; f != nil {
			s.gauge(truth(f.Ready), "ready", "Whether there is a table to decide on, and the proxy is not being stopped.")
			s.gauge(f.Age, "table_age_seconds", "Seconds since a server said something last; -1 where none ever did.")
			s.gauge(truth(f.Connected), "server_connected", "Whether a server is followed.")
			s.gauge(truth(f.Stale), "table_stale", "Whether newer tables may exist that this proxy cannot get.")
			s.count(float64(f.Applied), "table_applied_total", "Tables taken up since the start.")
			s.gauge(float64(f.CacheRevision), "table_cache_revision", "Revision of the table on disk; 0 where there is none.")
			s.count(float64(f.CacheErrors), "table_cache_errors_total", "Tables that could not be written to disk.")
			s.gauge(float64(f.Draining), "draining_instances", "Instances that have left the table and still have requests in flight.")
		}
		s.otlp(p.OTLP)
	})
}

// Server returns the metrics of a server; now is called for each scrape.
func Server(now func() ServerFigures) prometheus.Collector {
	return figures(func(s scrape) {
		f := now()
		s.gauge(1, "server_build_info", "Which program the server is.", "version", f.Build)
		s.gauge(truth(f.Leader), "server_leader", "Whether the server has the store; one that stands by says nothing of the environment.")
		if !f.Leader {
			return
		}
		s.gauge(float64(f.Revision), "server_table_revision", "Revision of the newest table.")
		s.gauge(float64(f.Services), "services", "Services of the environment.")
		for _, state := range slices.Sorted(maps.Keys(f.Versions)) {
			s.gauge(float64(f.Versions[state]), "versions", "Versions that may be routed to, by what they are.", "state", state)
		}
		s.gauge(float64(len(f.Proxies)), "proxies", "Proxies that report to the server.")
		for _, p := range f.Proxies[:min(len(f.Proxies), maxSeries)] {
			s.gauge(float64(p.Behind), "proxy_behind_revisions", "How many revisions a proxy's table is behind the newest.", "proxy", p.ID)
			s.gauge(p.Lag, "proxy_lag_seconds", "For how long a proxy has been behind.", "proxy", p.ID)
		}
		for _, w := range f.Webhooks {
			s.gauge(float64(w.Behind), "webhook_behind_events", "Events that a webhook has not looked at yet.", "webhook", w.Name)
			s.gauge(float64(w.Dead), "webhook_dead_letters", "Deliveries of a webhook that were given up.", "webhook", w.Name)
		}
		s.count(float64(f.Requests), "receipt_requests_total", "Requests that proxies told the server of.")
		s.count(float64(f.Dropped), "receipt_requests_dropped_total", "Requests that they could not tell it of.")
		for _, r := range f.Refusals {
			s.count(float64(r.Count), "forge_webhooks_refused_total", "Webhooks of forges that nothing came of, by reason.", "forge", r.Forge, "reason", r.Reason)
		}
		if f.ForgeRemoved != nil {
			s.count(float64(*f.ForgeRemoved), "forge_versions_removed_total", "Versions that ended with their branch or pull request.")
		}
		if f.Gateway != nil {
			s.gauge(truth(*f.Gateway), "gateway_written", "Whether the configuration of Traefik is in Redis as it is wanted.", "gateway", "traefik-redis")
		}
		if f.GatewayUnasked != nil {
			s.gauge(*f.GatewayUnasked, "gateway_unasked_seconds", "For how long Traefik has not asked the server for its configuration.", "gateway", "traefik-http")
		}
		s.count(float64(f.LinesDropped), "log_lines_dropped_total", "Lines of logs that were not sent, as there was no room.")
		s.otlp(f.OTLP)
	})
}

func (s scrape) otlp(stats map[string]otlp.Stats) {
	for _, kind := range slices.Sorted(maps.Keys(stats)) {
		help := "Spans, data points and lines for the receiver of OTLP: sent, dropped as there was no room, refused by it."
		s.count(float64(stats[kind].Sent), "otlp_items_total", help, "kind", kind, "result", "sent")
		s.count(float64(stats[kind].Dropped), "otlp_items_total", help, "kind", kind, "result", "dropped")
		s.count(float64(stats[kind].Refused), "otlp_items_total", help, "kind", kind, "result", "refused")
	}
}

// most returns the keys with the largest values, as many as there may be.
func most(values map[string]int64, n int) []string {
	keys := slices.Collect(maps.Keys(values))
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(values[b], values[a]), strings.Compare(a, b)) })
	return keys[:min(n, len(keys))]
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
