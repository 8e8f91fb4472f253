package telemetry

import (
	"context"
	"encoding/hex"
	"math"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// MetricSink takes metrics to send, and says whether it had room for them.
type MetricSink interface {
	Metrics(m []*metrics.ResourceMetrics) bool
}

// Source names who tells of itself: the attributes of the resource.
type Source struct {
	Service     string // "layover-proxy" or "layover-server"
	Process     string // one of its own for each process, such as a UUID: what a process counts begins at 0
	Name        string // of the proxy, or the address of the server; the next process may have the same
	Environment string
	Build       string
}

// resource is the source in the words of OpenTelemetry (semantic conventions for services: service.instance.id is unique for each
// process).
func (s *Source) resource() *resource.Resource {
	return &resource.Resource{Attributes: []*common.KeyValue{
		text("service.name", s.Service), text("service.version", s.Build), text("service.instance.id", s.Process),
		text("deployment.environment.name", s.Environment), text("layover.environment", s.Environment),
		text(strings.Replace(s.Service, "-", ".", 1), s.Name), // layover.proxy or layover.server
	}}
}

// pushPoints is how many data points are handed over at once, about: a request with them stays below what receivers take.
const pushPoints = 2000

// PushMetrics hands what a registry has to a sink, at an interval, and once more when ctx ends: native histograms as
// exponential ones, and all with their exemplars (OpenTelemetry: Prometheus and OpenMetrics Compatibility). The bridge of
// OpenTelemetry's SDK would lose the exemplars of those. What the sink has no room for it counts itself.
func PushMetrics(ctx context.Context, from prometheus.Gatherer, source Source, sink MetricSink, every time.Duration) error {
	p := pusher{sink: sink, began: time.Now(), build: source.Build, resource: source.resource()}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.push(from)
		case <-ctx.Done():
			p.push(from)
			return nil
		}
	}
}

type pusher struct {
	sink     MetricSink
	began    time.Time // since when what does not say so is counted
	build    string
	resource *resource.Resource
}

// push hands over all that there is at the moment.
func (p *pusher) push(from prometheus.Gatherer) {
	families, _ := from.Gather() // what cannot be gathered is missing; /metrics says why
	now := time.Now()
	var some []*metrics.Metric
	points := 0
	flush := func() {
		if points > 0 {
			p.sink.Metrics([]*metrics.ResourceMetrics{{Resource: p.resource, ScopeMetrics: []*metrics.ScopeMetrics{{
				Scope: &common.InstrumentationScope{Name: "github.com/layover-dev/layover/internal/telemetry", Version: p.build}, Metrics: some,
			}}}})
		}
		some, points = nil, 0
	}
	for _, f := range families {
		for all := f.GetMetric(); len(all) > 0; {
			n := min(len(all), pushPoints-points)
			some = append(some, p.metric(f, all[:n], now))
			if all, points = all[n:], points+n; points == pushPoints {
				flush()
			}
		}
	}
	flush()
}

// metric turns series of a family into a metric.
func (p *pusher) metric(f *dto.MetricFamily, series []*dto.Metric, now time.Time) *metrics.Metric {
	m := &metrics.Metric{Name: f.GetName(), Description: f.GetHelp(), Unit: f.GetUnit()}
	at := nanoseconds(now)
	const cumulative = metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	switch {
	case f.GetType() == dto.MetricType_COUNTER:
		sum := &metrics.Sum{IsMonotonic: true, AggregationTemporality: cumulative}
		for _, s := range series {
			c := s.GetCounter()
			point := number(s, c.GetValue(), at)
			point.StartTimeUnixNano = p.since(c.GetCreatedTimestamp())
			point.Exemplars = exemplars(c.GetExemplar())
			sum.DataPoints = append(sum.DataPoints, point)
		}
		m.Data = &metrics.Metric_Sum{Sum: sum}
	case f.GetType() == dto.MetricType_SUMMARY:
		summary := &metrics.Summary{}
		for _, s := range series {
			from := s.GetSummary()
			point := &metrics.SummaryDataPoint{Attributes: labels(s), StartTimeUnixNano: p.since(from.GetCreatedTimestamp()), TimeUnixNano: at, Count: from.GetSampleCount(), Sum: from.GetSampleSum()}
			for _, q := range from.GetQuantile() {
				point.QuantileValues = append(point.QuantileValues, &metrics.SummaryDataPoint_ValueAtQuantile{Quantile: q.GetQuantile(), Value: q.GetValue()})
			}
			summary.DataPoints = append(summary.DataPoints, point)
		}
		m.Data = &metrics.Metric_Summary{Summary: summary}
	case f.GetType() == dto.MetricType_HISTOGRAM && isNative(series[0].GetHistogram()):
		histogram := &metrics.ExponentialHistogram{AggregationTemporality: cumulative}
		for _, s := range series {
			histogram.DataPoints = append(histogram.DataPoints, p.exponential(s, at))
		}
		m.Data = &metrics.Metric_ExponentialHistogram{ExponentialHistogram: histogram}
	case f.GetType() == dto.MetricType_HISTOGRAM:
		histogram := &metrics.Histogram{AggregationTemporality: cumulative}
		for _, s := range series {
			histogram.DataPoints = append(histogram.DataPoints, p.classic(s, at))
		}
		m.Data = &metrics.Metric_Histogram{Histogram: histogram}
	default:
		gauge := &metrics.Gauge{}
		for _, s := range series {
			gauge.DataPoints = append(gauge.DataPoints, number(s, s.GetGauge().GetValue()+s.GetUntyped().GetValue(), at)) // one of the two is there
		}
		m.Data = &metrics.Metric_Gauge{Gauge: gauge}
	}
	return m
}

// isNative says whether a histogram has buckets of its own making: those have a zero bucket, if nothing else.
func isNative(h *dto.Histogram) bool {
	return h.GetZeroThreshold() > 0 || len(h.GetPositiveSpan()) > 0 || len(h.GetNegativeSpan()) > 0
}

// exponential is a native histogram. None of ours has negative values.
func (p *pusher) exponential(s *dto.Metric, at uint64) *metrics.ExponentialHistogramDataPoint {
	h := s.GetHistogram()
	found := h.GetExemplars()
	for _, b := range h.GetBucket() {
		if len(h.GetExemplars()) == 0 && b.GetExemplar() != nil {
			found = append(found, b.GetExemplar())
		}
	}
	sum := h.GetSampleSum()
	return &metrics.ExponentialHistogramDataPoint{
		Attributes: labels(s), StartTimeUnixNano: p.since(h.GetCreatedTimestamp()), TimeUnixNano: at, Count: h.GetSampleCount(), Sum: &sum,
		Scale: h.GetSchema(), ZeroCount: h.GetZeroCount(), ZeroThreshold: h.GetZeroThreshold(),
		Positive: exponentialBuckets(h.GetPositiveSpan(), h.GetPositiveDelta()), Exemplars: exemplars(found...),
	}
}

// exponentialBuckets writes out spans of buckets, each of which differs from the one before by its delta. Prometheus counts
// buckets by their upper bounds, OTLP by their lower ones.
func exponentialBuckets(spans []*dto.BucketSpan, deltas []int64) *metrics.ExponentialHistogramDataPoint_Buckets {
	if len(spans) == 0 {
		return nil
	}
	buckets := &metrics.ExponentialHistogramDataPoint_Buckets{Offset: spans[0].GetOffset() - 1}
	count := int64(0)
	for i, span := range spans {
		if i > 0 {
			buckets.BucketCounts = append(buckets.BucketCounts, make([]uint64, max(span.GetOffset(), 0))...)
		}
		for range min(int(span.GetLength()), len(deltas)) {
			count += deltas[0]
			deltas = deltas[1:]
			buckets.BucketCounts = append(buckets.BucketCounts, uint64(max(count, 0)))
		}
	}
	return buckets
}

func (p *pusher) classic(s *dto.Metric, at uint64) *metrics.HistogramDataPoint {
	h, sum := s.GetHistogram(), s.GetHistogram().GetSampleSum()
	point := &metrics.HistogramDataPoint{Attributes: labels(s), StartTimeUnixNano: p.since(h.GetCreatedTimestamp()), TimeUnixNano: at, Count: h.GetSampleCount(), Sum: &sum}
	below := uint64(0)
	for _, b := range h.GetBucket() {
		point.Exemplars = append(point.Exemplars, exemplars(b.GetExemplar())...)
		if !math.IsInf(b.GetUpperBound(), 1) { // that is there for its exemplar, if at all
			point.ExplicitBounds = append(point.ExplicitBounds, b.GetUpperBound())
			point.BucketCounts = append(point.BucketCounts, b.GetCumulativeCount()-below)
			below = b.GetCumulativeCount()
		}
	}
	point.BucketCounts = append(point.BucketCounts, h.GetSampleCount()-below)
	return point
}

func number(s *dto.Metric, value float64, at uint64) *metrics.NumberDataPoint {
	return &metrics.NumberDataPoint{Attributes: labels(s), TimeUnixNano: at, Value: &metrics.NumberDataPoint_AsDouble{AsDouble: value}}
}

func labels(s *dto.Metric) []*common.KeyValue {
	var all []*common.KeyValue
	for _, l := range s.GetLabel() {
		if l.GetValue() != "" { // in Prometheus an empty label is none
			all = append(all, text(l.GetName(), l.GetValue()))
		}
	}
	return all
}

func exemplars(all ...*dto.Exemplar) []*metrics.Exemplar {
	var out []*metrics.Exemplar
	for _, e := range all {
		if e == nil {
			continue
		}
		one := &metrics.Exemplar{TimeUnixNano: nanoseconds(e.GetTimestamp().AsTime()), Value: &metrics.Exemplar_AsDouble{AsDouble: e.GetValue()}}
		for _, l := range e.GetLabel() {
			if id, err := hex.DecodeString(l.GetValue()); err == nil && l.GetName() == exemplarTrace && len(id) == 16 {
				one.TraceId = id
			}
		}
		out = append(out, one)
	}
	return out
}

// since is when counting began.
func (p *pusher) since(created *timestamppb.Timestamp) uint64 {
	if created.IsValid() {
		return nanoseconds(created.AsTime())
	}
	return nanoseconds(p.began)
}

func nanoseconds(t time.Time) uint64 { return uint64(max(t.UnixNano(), 0)) }
