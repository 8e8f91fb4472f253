package telemetry

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layover-dev/layover/internal/proxy"
)

// DefaultVersions is how many versions have series of their own where nothing is said.
const DefaultVersions = 1000

// Other is the service and version of requests to versions beyond those that have series of their own.
const Other = "(other)"

// RequestOptions bound the metrics of requests.
type RequestOptions struct {
	Versions int // that have series of their own; 0 means DefaultVersions
	// Has says whether the table has a version, or with "" the service: the series of others end.
	Has func(service, version string) bool
}

// Requests are the metrics of what passes a proxy, by service and version. It is a [prometheus.Collector].
//
// The series of a version end within a minute of its leaving the table, whether or not somebody scrapes; not at once, so that
// its last requests are seen. Versions beyond the bound share those of [Other], and how many requests that were is counted.
type Requests struct {
	options RequestOptions

	requests     *prometheus.CounterVec
	errors       *prometheus.CounterVec
	retries      *prometheus.CounterVec
	lost         *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	requestSize  *prometheus.HistogramVec
	responseSize *prometheus.HistogramVec
	held         *prometheus.HistogramVec
	cut          prometheus.Counter

	byID  sync.Map // versionID -> *versionSeries
	count atomic.Int64
}

type versionID struct{ service, version string }

// What labels have few values: By, Fallback, and the class of the status.
const (
	bys       = 8
	fallbacks = 4
	classes   = 6 // 1xx to 5xx, and none
)

// versionSeries are the series of a version, made where they are first needed.
type versionSeries struct {
	id   versionID
	used atomic.Int64 // Unix time of the last request

	known [bys][fallbacks][classes]atomic.Pointer[series]

	mu    sync.Mutex
	left  time.Time // when a sweep first found that the table does not have it; zero while it does
	ended bool
	codes map[string]bool // of its errors
}

// series are those of requests that are alike.
type series struct {
	labels                              []string
	requests                            prometheus.Counter
	duration, requestSize, responseSize prometheus.Observer

	shown [durationBuckets + 1]atomic.Int64 // of each bucket of duration, and what lies above: Unix time of its last exemplar
}

// exemplarTrace is the label of exemplars.
const exemplarTrace = "trace_id"

const durationBuckets = 11

// durations are the upper bounds of the buckets of layover_request_duration_seconds.
func durations() [durationBuckets]float64 {
	return [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

var perRequest = []string{"service", "version", "by", "fallback", "status"}

// NewRequests returns metrics that nobody has counted in yet.
func NewRequests(o RequestOptions) *Requests {
	if o.Versions == 0 {
		o.Versions = DefaultVersions
	}
	histogram := func(name, help string, buckets []float64, labels []string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "layover_" + name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "layover_" + name, Help: help}, labels)
	}
	sizes, times := prometheus.ExponentialBuckets(100, 10, 6), durations()
	version := []string{"service", "version"}
	return &Requests{
		options:  o,
		requests: counter("requests_total", "Requests, by what answered and why: the source of the route, why the default version answered in spite of one, and the class of the status.", perRequest...),
		errors:   counter("errors_total", "Requests that Layover answered itself, or cut off, by the code of the problem.", "service", "version", "code"),
		retries:  counter("retries_total", "Further instances that requests were sent to, as one could not be connected to.", version...),
		lost:     counter("lost_routes_total", "Requests whose route a service before had lost, where healing looks for that. The version is that which answered.", version...),
		duration: histogram("request_duration_seconds", "Time from the header of the request to the last byte of the answer.", times[:], perRequest),
		requestSize: histogram("request_size_bytes", "Size of the body of requests.",
			sizes, perRequest),
		responseSize: histogram("response_size_bytes", "Size of the body of answers.", sizes, perRequest),
		held:         histogram("held_seconds", "How long requests waited for a version that was asleep or starting; those that waited.", []float64{.1, .5, 1, 2.5, 5, 10, 30, 60}, version),
		cut:          prometheus.NewCounter(prometheus.CounterOpts{Name: "layover_metrics_cut_requests_total", Help: "Requests counted under (other), as more versions were called than have series of their own."}),
	}
}

// Record is a [proxy.Options.Recorder].
func (m *Requests) Record(r *proxy.Record) {
	v := m.of(versionID{r.Service, r.Version}, r.Time.Unix())
	by, fallback, class := min(int(r.By), bys-1), min(int(r.Fallback), fallbacks-1), min(r.Status/100, classes-1)
	s := v.known[by][fallback][class].Load()
	if s == nil {
		if s = m.add(v, r, by, fallback, class); s == nil {
			return // the version has ended
		}
	}
	if (r.Recorded || r.Sampled) && s.takesExemplar(r) {
		s.withExemplar(r)
	} else {
		s.requests.Inc()
		s.duration.Observe(r.Duration.Seconds())
	}
	s.requestSize.Observe(float64(r.BytesIn))
	s.responseSize.Observe(float64(r.BytesOut))
	if r.Error != "" || r.Held > 0 || r.Moves > 0 || r.Lost != "" {
		m.unusual(v, r)
	}
}

// takesExemplar says whether a trace that somebody records is to be named: one of each bucket a second, as more would not be
// scraped, and each costs as much as ten requests.
func (s *series) takesExemplar(r *proxy.Record) bool {
	if r.TraceID == (proxy.TraceID{}) {
		return false
	}
	bucket, seconds := 0, r.Duration.Seconds()
	for _, bound := range durations() {
		if seconds <= bound {
			break
		}
		bucket++
	}
	now, last := r.Time.Unix(), s.shown[bucket].Load()
	return last != now && s.shown[bucket].CompareAndSwap(last, now)
}

// withExemplar counts a request whose trace is recorded: who looks at the metric finds it.
func (s *series) withExemplar(r *proxy.Record) {
	exemplar := prometheus.Labels{exemplarTrace: r.TraceID.String()}
	s.requests.(prometheus.ExemplarAdder).AddWithExemplar(1, exemplar)
	s.duration.(prometheus.ExemplarObserver).ObserveWithExemplar(r.Duration.Seconds(), exemplar)
}

func (m *Requests) unusual(v *versionSeries, r *proxy.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return
	}
	if r.Error != "" {
		if v.codes == nil {
			v.codes = map[string]bool{}
		}
		v.codes[r.Error] = true
		m.errors.WithLabelValues(v.id.service, v.id.version, r.Error).Inc()
	}
	if r.Held > 0 {
		m.held.WithLabelValues(v.id.service, v.id.version).Observe(r.Held.Seconds())
	}
	if r.Moves > 0 {
		m.retries.WithLabelValues(v.id.service, v.id.version).Add(float64(r.Moves))
	}
	if r.Lost != "" {
		m.lost.WithLabelValues(v.id.service, v.id.version).Inc()
	}
}

// of returns the series of a version, or those of all that have none of their own.
func (m *Requests) of(id versionID, now int64) *versionSeries {
	found, ok := m.byID.Load(id)
	if !ok {
		if m.count.Load() >= int64(m.options.Versions) && id.service != "" {
			m.cut.Inc()
			id = versionID{Other, Other}
		}
		var had bool
		if found, had = m.byID.LoadOrStore(id, &versionSeries{id: id}); !had {
			m.count.Add(1)
		}
	}
	v := found.(*versionSeries)
	if v.used.Load() != now {
		v.used.Store(now)
	}
	return v
}

// add makes series; nil where the version has ended.
func (m *Requests) add(v *versionSeries, r *proxy.Record, by, fallback, class int) *series {
	v.mu.Lock()
	defer v.mu.Unlock()
	place := &v.known[by][fallback][class]
	if s := place.Load(); s != nil || v.ended {
		return s
	}
	status := "none"
	if class > 0 {
		status = strconv.Itoa(class) + "xx"
	}
	labels := []string{v.id.service, v.id.version, r.By.String(), r.Fallback.String(), status}
	s := &series{
		labels: labels, requests: m.requests.WithLabelValues(labels...), duration: m.duration.WithLabelValues(labels...),
		requestSize: m.requestSize.WithLabelValues(labels...), responseSize: m.responseSize.WithLabelValues(labels...),
	}
	place.Store(s)
	return s
}

// Series end within a minute of their version, and not before somebody who scrapes every 15 seconds has seen the last of it.
const (
	sweepEvery = 10 * time.Second // versions are looked for that have left the table
	lingers    = 30 * time.Second // behind the first such look
)

// idleFor is after how long without a request a version lets go of its series, where others have none.
const idleFor = time.Hour

// Run ends the series of versions that have left the table, until ctx ends.
func (m *Requests) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			m.Sweep(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// Sweep does so once.
func (m *Requests) Sweep(now time.Time) {
	full := m.count.Load() >= int64(m.options.Versions)
	m.byID.Range(func(key, found any) bool {
		id, v := key.(versionID), found.(*versionSeries)
		has := id.service == "" || id.service == Other || m.options.Has(id.service, id.version) // without a service: no host was known
		if v.isOver(now, has, full) {
			m.end(v)
		}
		return true
	})
}

// isOver says whether series are to end: some time after their version, or at once where others wait for room.
func (v *versionSeries) isOver(now time.Time, has, full bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case has:
		v.left = time.Time{}
		return full && now.Unix()-v.used.Load() > int64(idleFor/time.Second)
	case v.left.IsZero():
		v.left = now
	}
	return full || now.Sub(v.left) >= lingers
}

// end takes away the series of a version.
func (m *Requests) end(v *versionSeries) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return
	}
	v.ended = true
	m.byID.Delete(v.id)
	m.count.Add(-1)
	for by := range v.known {
		for fallback := range v.known[by] {
			for class := range v.known[by][fallback] {
				if s := v.known[by][fallback][class].Load(); s != nil {
					m.requests.DeleteLabelValues(s.labels...)
					m.duration.DeleteLabelValues(s.labels...)
					m.requestSize.DeleteLabelValues(s.labels...)
					m.responseSize.DeleteLabelValues(s.labels...)
				}
			}
		}
	}
	for code := range v.codes {
		m.errors.DeleteLabelValues(v.id.service, v.id.version, code)
	}
	m.held.DeleteLabelValues(v.id.service, v.id.version)
	m.retries.DeleteLabelValues(v.id.service, v.id.version)
	m.lost.DeleteLabelValues(v.id.service, v.id.version)
}

func (m *Requests) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.errors, m.retries, m.lost, m.duration, m.requestSize, m.responseSize, m.held, m.cut}
}

// Describe implements [prometheus.Collector].
func (m *Requests) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(to)
	}
}

// Collect implements [prometheus.Collector].
func (m *Requests) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(to)
	}
}
