package receiver

import (
	"slices"
	"strings"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/layover-dev/layover/internal/proxy"
)

func (r *Receiver) takeTraces(all []*trace.ResourceSpans, from sender) bool {
	all = slices.DeleteFunc(all, func(rs *trace.ResourceSpans) bool { return len(rs.GetScopeSpans()) == 0 })
	for _, rs := range all {
		rs.Resource = r.stamp(rs.GetResource(), from)
		for _, ss := range rs.GetScopeSpans() {
			for _, span := range ss.GetSpans() {
				span.Attributes = r.stampRoute(span.GetAttributes(), span.GetTraceId())
			}
		}
	}
	return r.options.Sink.Traces(all)
}

func (r *Receiver) takeMetrics(all []*metrics.ResourceMetrics, from sender) bool {
	all = slices.DeleteFunc(all, func(rm *metrics.ResourceMetrics) bool { return len(rm.GetScopeMetrics()) == 0 })
	for _, rm := range all {
		rm.Resource = r.stamp(rm.GetResource(), from)
	}
	return r.options.Sink.Metrics(all)
}

func (r *Receiver) takeLogs(all []*logs.ResourceLogs, from sender) bool {
	all = slices.DeleteFunc(all, func(rl *logs.ResourceLogs) bool { return len(rl.GetScopeLogs()) == 0 })
	for _, rl := range all {
		rl.Resource = r.stamp(rl.GetResource(), from)
		for _, sl := range rl.GetScopeLogs() {
			for _, line := range sl.GetLogRecords() {
				line.Attributes = r.stampRoute(line.GetAttributes(), line.GetTraceId())
			}
		}
	}
	return r.options.Sink.Logs(all)
}

// stamp says of a resource which version it is of. What it said of that itself is replaced; where nobody knows, it stays.
func (r *Receiver) stamp(res *resource.Resource, from sender) *resource.Resource {
	if from.version == "" {
		return res
	}
	if res == nil {
		res = &resource.Resource{}
	}
	res.Attributes = slices.DeleteFunc(res.GetAttributes(), func(kv *common.KeyValue) bool {
		switch kv.GetKey() {
		case "layover.environment", "layover.service", "layover.version", "layover.instance":
			return true
		}
		return false
	})
	for _, a := range [][2]string{
		{"layover.environment", r.options.Environment}, {"layover.service", from.service}, {"layover.version", from.version}, {"layover.instance", from.instance},
	} {
		if a[1] != "" {
			res.Attributes = append(res.Attributes, stringOf(a[0], a[1]))
		}
	}
	return res
}

// stampRoute adds the route of a trace to what is of it.
func (r *Receiver) stampRoute(list []*common.KeyValue, trace []byte) []*common.KeyValue {
	var id proxy.TraceID
	if len(trace) != len(id) {
		return list
	}
	name := r.options.Proxy.TraceRoute(proxy.TraceID(trace))
	if name == "" {
		return list
	}
	list = slices.DeleteFunc(list, func(kv *common.KeyValue) bool { return kv.GetKey() == "layover.route" })
	return append(list, stringOf("layover.route", name))
}

func stringOf(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\uFFFD")}}}
}
