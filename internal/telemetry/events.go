package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Events counts what happens in an environment, since the server has been working on it. It is a [prometheus.Collector].
type Events struct {
	byType *prometheus.CounterVec
	deploy prometheus.Histogram
}

// NewEvents returns metrics of events. The types are those that are counted from 0 on: who alerts on one of them sees the first.
func NewEvents(types ...string) *Events {
	e := &Events{
		byType: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "layover_events_total", Help: "Events of the environment since the server works on it, by type: deploy.done, deploy.failed, version.waking and so on."}, []string{"type"}),
		deploy: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "layover_deploy_duration_seconds", Help: "How long deployments took that came up.", Buckets: []float64{.25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	for _, t := range types {
		e.byType.WithLabelValues(t)
	}
	return e
}

// Count counts an event.
func (e *Events) Count(kind string) { e.byType.WithLabelValues(kind).Inc() }

// Deployed notes how long a deployment took.
func (e *Events) Deployed(took time.Duration) { e.deploy.Observe(took.Seconds()) }

// Describe implements [prometheus.Collector].
func (e *Events) Describe(to chan<- *prometheus.Desc) {
	e.byType.Describe(to)
	e.deploy.Describe(to)
}

// Collect implements [prometheus.Collector].
func (e *Events) Collect(to chan<- prometheus.Metric) {
	e.byType.Collect(to)
	e.deploy.Collect(to)
}
