package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/proxy/http1"
)

const aTrace, aSpan = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

func TestTraceparent(t *testing.T) {
	const id, parent = aTrace, aSpan
	cases := map[string]struct {
		line    string
		valid   bool
		sampled bool
	}{
		"sampled":        {"00-" + id + "-" + parent + "-01", true, true},
		"not sampled":    {"00-" + id + "-" + parent + "-00", true, false},
		"later version":  {"01-" + id + "-" + parent + "-01-more", true, true},
		"longer":         {"00-" + id + "-" + parent + "-01-more", false, false},
		"later, glued":   {"01-" + id + "-" + parent + "-01more", false, false},
		"version ff":     {"ff-" + id + "-" + parent + "-01", false, false},
		"no version":     {"zz-" + id + "-" + parent + "-01", false, false},
		"trace zero":     {"00-00000000000000000000000000000000-" + parent + "-01", false, false},
		"parent zero":    {"00-" + id + "-0000000000000000-01", false, false},
		"upper case":     {"00-" + strings.ToUpper(id) + "-" + parent + "-01", false, false},
		"too short":      {"00-" + id, false, false},
		"no flags":       {"00-" + id + "-" + parent + "-0x", false, false},
		"empty":          {"", false, false},
		"other dividers": {"00_" + id + "_" + parent + "_01", false, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			rq := request{traceparent: []string{c.line}}
			got := rq.traceOf()
			if !c.valid {
				require.Zero(t, got)
				return
			}
			require.Equal(t, id, got.id.String())
			require.Equal(t, parent, got.parent.String())
			require.Equal(t, c.sampled, got.sampled)
		})
	}
	twice := request{traceparent: []string{"00-" + id + "-" + parent + "-01", "x"}}
	require.Zero(t, twice.traceOf())
}

// TestOtherTraces: what other tracers send, as their documents show it.
func TestOtherTraces(t *testing.T) {
	const id, span, half = aTrace, aSpan, "a3ce929d0e0e4736"
	set := func(values ...any) (f tracing) {
		for i := 0; i < len(values); i += 2 {
			f[values[i].(http1.Name)-http1.FirstTrace] = values[i+1].(string)
		}
		return f
	}
	for name, c := range map[string]struct {
		fields   tracing
		id, span string
		sampled  bool
		from     traceFrom
	}{
		"b3":                     {set(http1.B3, id+"-"+span+"-1"), id, span, true, traceOther},
		"b3, debug":              {set(http1.B3, id+"-"+span+"-d-05e3ac9a4f6e3b90"), id, span, true, traceOther},
		"b3, not":                {set(http1.B3, id+"-"+span+"-0"), id, span, false, traceOther},
		"b3, only a state":       {set(http1.B3, "0"), "", "", false, traceNone},
		"b3, 64 bits":            {set(http1.B3, half+"-"+span), "0000000000000000" + half, span, false, traceOther},
		"b3, several":            {set(http1.B3TraceID, strings.ToUpper(id), http1.B3SpanID, span, http1.B3Sampled, "1"), id, span, true, traceOther},
		"b3, bad":                {set(http1.B3TraceID, "x"+id[1:], http1.B3SpanID, span), "", "", false, traceNone},
		"b3, long":               {set(http1.B3TraceID, id+"00"), "", "", false, traceNone},
		"uber":                   {set(http1.UberTrace, id+":"+span+":0:1"), id, span, true, traceOther},
		"uber, escaped":          {set(http1.UberTrace, "4736%3A2b7%3A0%3A0"), "00000000000000000000000000004736", "00000000000002b7", false, traceOther},
		"uber, bad":              {set(http1.UberTrace, ":::"), "", "", false, traceNone},
		"sentry":                 {set(http1.SentryTrace, id+"-"+span+"-1"), id, span, true, traceSentry},
		"sentry, deferred":       {set(http1.SentryTrace, id+"-"+span), id, span, false, traceSentry},
		"sentry, bad":            {set(http1.SentryTrace, half+"-"+span), "", "", false, traceNone},
		"datadog":                {set(http1.DatadogTrace, "11803532876627986230", http1.DatadogParent, "67667974448284343", http1.DatadogSampled, "2", http1.DatadogTags, "_dd.p.dm=-1,_dd.p.tid=4bf92f3577b34da6"), id, span, true, traceOther},
		"datadog, 64 bits":       {set(http1.DatadogTrace, "11803532876627986230", http1.DatadogSampled, "0"), "0000000000000000" + half, "", false, traceOther},
		"datadog, dropped":       {set(http1.DatadogTrace, "11803532876627986230", http1.DatadogSampled, "-1", http1.DatadogTags, "_dd.p.tid=zz"), "0000000000000000" + half, "", false, traceOther},
		"datadog, bad":           {set(http1.DatadogTrace, "-5"), "", "", false, traceNone},
		"x-ray":                  {set(http1.XRayTrace, "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent="+span+";Sampled=1"), id, span, true, traceOther},
		"x-ray, from a balancer": {set(http1.XRayTrace, "Self=1-67891234-12456789abcdef012345678;Root=1-4bf92f35-77b34da6a3ce929d0e0e4736"), id, "", false, traceBalancer},
		"x-ray, bad":             {set(http1.XRayTrace, "Root=2-4bf92f35-77b34da6a3ce929d0e0e4736"), "", "", false, traceNone},
		"request, uuid":          {set(http1.RequestID, "4BF92F35-77b3-4da6-a3ce-929d0e0e4736"), id, "", false, traceRequest},
		"request, digits":        {set(http1.RequestID, id), id, "", false, traceRequest},
		"request, any":           {set(http1.RequestID, "job-17"), RequestTrace("job-17").String(), "", false, traceRequest},
		"a tracer's first":       {set(http1.RequestID, "job-17", http1.B3, id+"-"+span+"-1"), id, span, true, traceOther},
	} {
		t.Run(name, func(t *testing.T) {
			rq := request{tracing: c.fields}
			got := rq.traceOf()
			require.Equal(t, c.id, got.id.String())
			require.Equal(t, c.span, got.parent.String())
			require.Equal(t, c.sampled, got.sampled)
			require.Equal(t, c.from, got.from)
		})
	}
	rq := request{tracing: set(http1.B3, id+"-"+span+"-1"), traceparent: []string{"00-11111111111111111111111111111111-" + span + "-00"}}
	require.Equal(t, "11111111111111111111111111111111", rq.traceOf().id.String(), "what W3C says goes first")
}

func FuzzTraceOf(f *testing.F) {
	f.Add("00-"+aTrace+"-"+aSpan+"-01", aTrace+"-"+aSpan+"-1", "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736", "11803532876627986230", "_dd.p.tid=4bf92f3577b34da6", aTrace+":1:0:1", "x")
	f.Fuzz(func(t *testing.T, parent, b3, xray, datadog, tags, uber, request string) {
		rq := requestWith(parent, b3, xray, datadog, tags, uber, request)
		got := rq.traceOf()
		require.Equal(t, got.id == (TraceID{}), got.from == traceNone)
	})
}

func requestWith(parent, b3, xray, datadog, tags, uber, name string) *request {
	rq := &request{traceparent: []string{parent}}
	for at, value := range map[http1.Name]string{http1.B3: b3, http1.XRayTrace: xray, http1.DatadogTrace: datadog, http1.DatadogTags: tags, http1.UberTrace: uber, http1.RequestID: name} {
		rq.tracing[at-http1.FirstTrace] = value
	}
	return rq
}

// seesTrace is an instance that answers with the fields of traces that it got.
func seesTrace(t *testing.T) string {
	return instance(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header["Traceparent"], "|")+" "+r.Header.Get("B3")+r.Header.Get("Tracestate"))
	})
}

func share(route string) float64 {
	if route == "pr-1" {
		return 1
	}
	return 0
}

func TestSample(t *testing.T) {
	type test struct {
		fields   []string
		recorded bool
		passes   string // of what the instance gets: trace, "new" where the proxy begins it, and flags; "same" where it is left alone
	}
	sampled, unsampled, routed := "00-"+aTrace+"-"+aSpan+"-01", "00-"+aTrace+"-"+aSpan+"-02", "dynamic_route=pr-1"
	eachCase(t, map[string]test{
		"nothing":                 {nil, false, "same"},
		"of a route":              {[]string{"Baggage", routed}, true, "new-03"},
		"of a caller":             {[]string{"Traceparent", sampled}, true, aTrace + "-01"},
		"not of a caller":         {[]string{"Traceparent", unsampled}, false, "same"},
		"of both":                 {[]string{"Traceparent", unsampled, "Baggage", routed}, true, aTrace + "-03"},
		"another tracer's":        {[]string{"B3", aTrace + "-" + aSpan + "-1"}, true, "same"},
		"another tracer's, not":   {[]string{"B3", aTrace + "-" + aSpan + "-0"}, false, "same"},
		"a request's name":        {[]string{"X-Request-Id", aTrace, "Baggage", routed}, true, "new-03"},
		"a balancer's":            {[]string{"X-Amzn-Trace-Id", "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736", "Baggage", routed}, true, aTrace + "-01"},
		"Sentry's":                {[]string{"Sentry-Trace", aTrace + "-" + aSpan + "-1"}, true, "same"},
		"unknown flags":           {[]string{"Traceparent", "00-" + aTrace + "-" + aSpan + "-fe", "Baggage", routed}, true, aTrace + "-03"},
		"another's state":         {[]string{"Traceparent", "00-bad", "Tracestate", "dd=s:1", "Baggage", routed}, true, "new-03"},
		"a request's name, plain": {[]string{"X-Request-Id", aTrace}, false, "same"},
		"two traces":              {[]string{"Traceparent", sampled, "Traceparent", sampled, "Baggage", routed}, true, "new-03"},
	}, func(t *testing.T, path, _ string, c test) {
		w := newWorld(t, Options{NoFastPath: path == "net/http", Sample: share}, service("cart", ready("main", seesTrace(t)), ready("pr-1", seesTrace(t))))
		w.addr = w.trusted
		text := w.get(t, "cart.localhost", "/", c.fields...).text
		r := w.records.wait(t, 1)[0]
		require.Equal(t, c.recorded, r.Recorded)
		line, b3, _ := strings.Cut(text, " ")
		if c.passes == "same" {
			want := http.Header{}
			for i := 0; i < len(c.fields); i += 2 {
				want.Add(c.fields[i], c.fields[i+1])
			}
			require.Equal(t, strings.Join(want["Traceparent"], "|"), line)
			require.Equal(t, want.Get("B3"), b3)
			require.Equal(t, c.recorded, r.SpanID != SpanID{})
			return
		}
		trace, flags, _ := strings.Cut(c.passes, "-")
		if trace == "new" {
			trace = r.TraceID.String()
			require.NotEqual(t, aTrace, trace)
			require.Zero(t, r.ParentID)
			require.False(t, r.Named)
			require.NotContains(t, text, "dd=s:1")
		}
		require.Len(t, trace, 32)
		require.Equal(t, "00-"+trace+"-"+r.SpanID.String()+"-"+flags, line)
		require.NotZero(t, parseTraceparent(line))
	})
}

// TestSample_Strangers: who is not known has nothing recorded that is not of the share, and its fields are left alone. Where its trace
// is of the share, it goes on.
func TestSample_Strangers(t *testing.T) {
	sampled := "00-" + aTrace + "-" + aSpan + "-01"
	eachCase(t, map[string]struct {
		trusted, follow, caller bool
		fields                  []string
		recorded                bool
	}{
		"a stranger":             {fields: []string{"Traceparent", sampled}},
		"another tracer's":       {fields: []string{"B3", aTrace + "-" + aSpan + "-1"}},
		"of the share":           {fields: []string{"Traceparent", sampled, "Baggage", "dynamic_route=pr-1"}, recorded: true},
		"at a trusted listener":  {trusted: true, fields: []string{"Traceparent", sampled}, recorded: true},
		"who may":                {follow: true, fields: []string{"Traceparent", sampled}, recorded: true},
		"an instance":            {caller: true, fields: []string{"Traceparent", sampled}, recorded: true},
		"an instance, unsampled": {caller: true, fields: []string{"Traceparent", "00-" + aTrace + "-" + aSpan + "-00"}},
	}, func(t *testing.T, path, _ string, c struct {
		trusted, follow, caller bool
		fields                  []string
		recorded                bool
	},
	) {
		w := newWorld(t, Options{NoFastPath: path == "net/http", Sample: share, FollowUntrusted: c.follow}, service("cart", ready("main", seesTrace(t)), ready("pr-1", seesTrace(t))))
		before := 0
		if c.caller {
			caller := ready("main", seesTrace(t))
			caller.Instances[0].From = "127.0.0.1"
			w.set(t, service("cart", ready("main", seesTrace(t))), service("shop", caller))
			w.get(t, "shop.localhost", "/") // from now on it is known
			before = len(w.records.wait(t, 1))
		}
		if c.trusted {
			w.addr = w.trusted
		}
		text := w.get(t, "cart.localhost", "/", c.fields...).text
		all := w.records.wait(t, before+1)
		r := all[len(all)-1]
		require.Equal(t, c.recorded, r.Recorded)
		require.Equal(t, aTrace, r.TraceID.String(), "the trace is the one that came")
		if !c.recorded {
			require.Zero(t, r.SpanID)
			require.Contains(t, text, c.fields[1], "what came goes on")
		}
	})
}

// TestSample_SharesAgree: whichever proxy a trace passes, the same traces are recorded, and as many as was asked for.
func TestSample_SharesAgree(t *testing.T) {
	const all = 100_000
	n := 0
	for range all {
		var id TraceID
		random(id[:])
		if isOfShare(id, 0.1) {
			n++
			require.True(t, isOfShare(id, 0.2), "a larger share has what a smaller one has")
		}
		require.True(t, isOfShare(id, 1))
		require.False(t, isOfShare(id, 0))
	}
	require.InDelta(t, all/10, n, all/100)
}

func TestReceiptInAnswer(t *testing.T) {
	eachPath(t, func(t *testing.T, path string) {
		var asked TraceID
		w := newWorld(t, Options{NoFastPath: path == "net/http", Receipt: func(_ context.Context, id TraceID) string {
			asked = id
			return "pricing@main; by=default; depth=1; status=200"
		}}, service("cart", ready("main", seesTrace(t)), ready("pr-1", seesTrace(t))), service("empty"))
		ask := func(address, host string, fields ...string) answer {
			r := w.request(t, http.MethodGet, host, "/", nil, append(fields, ReceiptHeader, "1")...)
			r.URL.Host = address
			return w.do(t, r)
		}
		a := ask(w.trusted, "cart.localhost", "Baggage", "dynamic_route=pr-1")
		require.Equal(t, "cart@pr-1; route=pr-1; by=baggage; depth=0; status=200, pricing@main; by=default; depth=1; status=200", a.Header.Get(ReceiptHeader))
		require.Equal(t, asked.String(), a.Header.Get(TraceHeader))
		trace := parseTraceparent(strings.TrimSpace(a.text))
		require.Equal(t, asked, trace.id, "the services get the trace, so that their calls are known")
		require.False(t, trace.sampled, "which makes nobody record it")

		a = ask(w.trusted, "cart.localhost", "Traceparent", "00-"+aTrace+"-"+aSpan+"-01")
		require.Equal(t, aTrace, a.Header.Get(TraceHeader))
		require.Contains(t, a.text, "00-"+aTrace+"-"+aSpan+"-01", "nobody records a span of the proxy's that could be its parent")

		a = ask(w.trusted, "empty.localhost")
		require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
		require.Contains(t, a.Header.Get(ReceiptHeader), "status=503")

		a = ask(w.addr, "cart.localhost")
		require.Empty(t, a.Header.Get(ReceiptHeader), "who asks from outside gets none")
		require.Empty(t, strings.TrimSpace(a.text))
	})
}
