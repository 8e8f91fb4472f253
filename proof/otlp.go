package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layover-dev/layover/bench/harness"
)

// The request that is looked for.
const (
	otlpTrace = "0af7651916cd43dd8448eb211c80319c"
	otlpRoute = "feature-1"
)

// otlpScene is the shop under `layover up`, which sends its telemetry to a real Collector, that to a real Jaeger and to the proof; a
// real Prometheus scrapes it.
type otlpScene struct {
	*environment
	dir        string
	query      string // of Jaeger
	prometheus string
	stops      []func()

	mu      sync.Mutex
	lines   map[string]map[string]string // what a line of a log says of itself, by its text
	metrics map[string]bool              // "name service version"
}

// proveOTLP finds one request of the shop wherever telemetry goes, by its version.
func proveOTLP(ctx context.Context) (result, error) {
	e, done, err := newEnvironment(ctx)
	if err != nil {
		return result{}, err
	}
	defer done()
	s := &otlpScene{environment: e, dir: e.dir, lines: map[string]map[string]string{}, metrics: map[string]bool{}}
	defer func() {
		for _, stop := range slices.Backward(s.stops) {
			stop()
		}
	}()
	if err := s.set(ctx); err != nil {
		return result{}, err
	}
	found := 0
	checks := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"Jaeger has the trace, with a version on every hop", s.traceIsThere},
		{"Jaeger finds it by layover.version", s.traceIsFound},
		{"what the application sent itself names version and route", s.applicationIsStamped},
		{"Prometheus has the metric of the version, with the trace as exemplar", s.metricIsScraped},
		{"the Collector gets the metric of the version", s.metricIsPushed},
		{"the Collector gets the log of the instance, with version, route and trace", s.logIsThere},
	}
	for _, check := range checks {
		what, err := check.do(ctx)
		if err != nil {
			fmt.Printf("  %s: NO: %s\n", check.name, err)
			continue
		}
		found++
		fmt.Printf("  %s: %s\n", check.name, what)
	}
	return result{
		figure: fmt.Sprintf("%d of %d found, in Jaeger 1.76.0, Prometheus of this system, and behind Collector 0.165.0", found, len(checks)),
		bar:    "all", ok: found == len(checks),
	}, nil
}

// set starts everything, and makes the request.
func (s *otlpScene) set(ctx context.Context) error {
	jaeger, spans, query, err := harness.StartJaeger(ctx)
	if err != nil {
		return err
	}
	s.query = query
	s.stops = append(s.stops, jaeger.Stop)
	sink, err := s.serveSink()
	if err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	collector, err := harness.StartCollector(ctx, s.dir, fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:%s"}}}}
processors: {batch: {timeout: 100ms}}
exporters:
  otlp: {endpoint: "%s", tls: {insecure: true}}
  otlphttp: {endpoint: "http://%s", compression: gzip}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], processors: [batch], exporters: [otlp]}
    metrics: {receivers: [otlp], processors: [batch], exporters: [otlphttp]}
    logs: {receivers: [otlp], processors: [batch], exporters: [otlphttp]}
`, ports[0], spans, sink))
	if err != nil {
		return err
	}
	s.stops = append(s.stops, collector.Stop)
	for what, address := range map[string]string{"Jaeger": query, "the Collector": "127.0.0.1:" + ports[0]} {
		if err := until(ctx, time.Minute, func() (bool, error) {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return false, nil
			}
			return true, conn.Close()
		}, func() string { return what + " does not come up: " + jaeger.Said() + collector.Said() }); err != nil {
			return err
		}
	}
	if err := s.write(s.config(ports[0], ports[1])); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := s.startPrometheus(ports[2]); err != nil {
		return err
	}
	if err := s.allRun(ctx); err != nil {
		return err
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cart.localhost/cart", nil)
	if err != nil {
		return err
	}
	rq.Header.Set("Baggage", "tenant=acme,dynamic_route="+otlpRoute)
	rq.Header.Set("Traceparent", "00-"+otlpTrace+"-00f067aa0ba902b7-00")
	res, err := s.http.Do(rq)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the shop answered %s", res.Status)
	}
	return nil
}

func (s *otlpScene) config(collector, receiver string) string {
	service := func(name, more string) string {
		return "  " + name + ": {run: {process: {command: [" + s.binary + ", shop, " + name + "]}}" + more + "}\n"
	}
	versions := ", versions: {" + otlpRoute + ": {}}"
	return "environment: proof\nproxy: {listen: '127.0.0.1:" + s.proxyPort + `'}
telemetry:
  otlp: {endpoint: "http://127.0.0.1:` + collector + `"}
  receiver: {listen: "127.0.0.1:` + receiver + `"}
  metrics: {every: 1s}
  traces: {sample: 0, baggage: tenant}
defaults:
  health: /healthz
  env: {HTTP_PROXY: "http://{proxy}", LAYOVER_PROXY: "{proxy}"}
services:
` + service("storefront", "") + service("cart", versions) + service("pricing", versions) + service("recommendations", "") +
		service("inventory", ", protocol: h2c, health: tcp")
}

// startPrometheus runs the real Prometheus, which scrapes the server.
func (s *otlpScene) startPrometheus(port string) error {
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		return fmt.Errorf("this proof wants Prometheus (Debian: apt-get install prometheus): %w", err)
	}
	file := filepath.Join(s.dir, "prometheus.yml")
	config := "scrape_configs: [{job_name: layover, scrape_interval: 1s, static_configs: [{targets: ['" + strings.TrimPrefix(s.serverURL, "http://") + "']}]}]\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	s.prometheus = "127.0.0.1:" + port
	said := &bytes.Buffer{}
	cmd := exec.Command(binary, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(s.dir, "prometheus"), "--web.listen-address="+s.prometheus,
		"--enable-feature=native-histograms,exemplar-storage", "--log.level=error")
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		return err
	}
	s.stops = append(s.stops, func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was interrupted
	})
	return nil
}

// serveSink is where the Collector sends metrics and logs: OTLP/HTTP with protobuf.
func (s *otlpScene) serveSink() (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }() // it is closed below
	s.stops = append(s.stops, func() { _ = server.Close() })
	return l.Addr().String(), nil
}

// ServeHTTP takes in what the Collector sends.
func (s *otlpScene) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	text, err := io.ReadAll(body)
	if err == nil {
		err = s.take(r.URL.Path, text)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
}

func (s *otlpScene) take(path string, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if path == "/v1/metrics" {
		var m colmetrics.ExportMetricsServiceRequest
		if err := proto.Unmarshal(text, &m); err != nil {
			return err
		}
		for _, rm := range m.GetResourceMetrics() {
			for _, sm := range rm.GetScopeMetrics() {
				for _, one := range sm.GetMetrics() {
					for _, p := range one.GetSum().GetDataPoints() {
						a := textsOf(p.GetAttributes())
						s.metrics[one.GetName()+" "+a["service"]+" "+a["version"]] = true
					}
				}
			}
		}
		return nil
	}
	var m collogs.ExportLogsServiceRequest
	if err := proto.Unmarshal(text, &m); err != nil {
		return err
	}
	for _, rl := range m.GetResourceLogs() {
		for _, sl := range rl.GetScopeLogs() {
			for _, line := range sl.GetLogRecords() {
				all := textsOf(append(slices.Clone(rl.GetResource().GetAttributes()), line.GetAttributes()...))
				all["trace"] = fmt.Sprintf("%x", line.GetTraceId())
				s.lines[line.GetBody().GetStringValue()] = all
			}
		}
	}
	return nil
}

func textsOf(list []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		out[kv.GetKey()] = kv.GetValue().GetStringValue()
	}
	return out
}

// jaegerTrace is a trace as Jaeger's API has it.
type jaegerTrace struct {
	Spans []struct {
		SpanID        string                    `json:"spanID"`
		OperationName string                    `json:"operationName"`
		ProcessID     string                    `json:"processID"`
		References    []struct{ SpanID string } `json:"references"`
		Tags          []jaegerTag               `json:"tags"`
	} `json:"spans"`
	Processes map[string]struct {
		ServiceName string      `json:"serviceName"`
		Tags        []jaegerTag `json:"tags"`
	} `json:"processes"`
}

type jaegerTag struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

func tagOf(tags []jaegerTag, key string) string {
	for _, tag := range tags {
		if tag.Key == key {
			return fmt.Sprint(tag.Value)
		}
	}
	return ""
}

// ask asks a program for JSON.
func (s *otlpScene) askJSON(ctx context.Context, address string, to any) error {
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(rq)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	return json.NewDecoder(res.Body).Decode(to)
}

// patience is how long telemetry may be on its way.
const patience = 20 * time.Second

// traces asks Jaeger until what it has satisfies.
func (s *otlpScene) traces(ctx context.Context, path string, fits func(jaegerTrace) error) error {
	last := errors.New("nothing yet")
	return until(ctx, patience, func() (bool, error) {
		var answer struct{ Data []jaegerTrace }
		if err := s.askJSON(ctx, s.query+path, &answer); err != nil || len(answer.Data) == 0 {
			return false, nil
		}
		last = fits(answer.Data[0])
		return last == nil, nil
	}, func() string { return last.Error() })
}

func (s *otlpScene) traceIsThere(ctx context.Context) (string, error) {
	want := map[string]string{"cart": otlpRoute, "pricing": otlpRoute, "inventory": "main"}
	var seen []string
	err := s.traces(ctx, "/api/traces/"+otlpTrace, func(t jaegerTrace) error {
		got := map[string]string{}
		seen = nil
		for _, span := range t.Spans {
			if t.Processes[span.ProcessID].ServiceName != "layover-proxy" {
				continue
			}
			service := tagOf(span.Tags, "layover.service")
			got[service] = tagOf(span.Tags, "layover.version")
			seen = append(seen, service+"@"+got[service])
			if service == "cart" && (tagOf(span.Tags, "layover.route") != otlpRoute || tagOf(span.Tags, "layover.by") != "baggage" || tagOf(span.Tags, "baggage.tenant") != "acme") {
				return errors.New("the span of cart lacks route, by or baggage")
			}
			if len(span.References) == 0 {
				return fmt.Errorf("the span of %s has no parent", service)
			}
		}
		for service, version := range want {
			if got[service] != version {
				return fmt.Errorf("%s is %q, not %s: %v", service, got[service], version, seen)
			}
		}
		return nil
	})
	return strings.Join(seen, ", "), err
}

func (s *otlpScene) traceIsFound(ctx context.Context) (string, error) {
	tags := url.QueryEscape(`{"layover.version":"` + otlpRoute + `"}`)
	found := 0
	err := s.traces(ctx, "/api/traces?service=layover-proxy&tags="+tags, func(t jaegerTrace) error {
		if found = len(t.Spans); found == 0 {
			return errors.New("a trace without spans")
		}
		return nil
	})
	return fmt.Sprintf("a trace of %d spans", found), err
}

func (s *otlpScene) applicationIsStamped(ctx context.Context) (string, error) {
	var says string
	err := s.traces(ctx, "/api/traces/"+otlpTrace, func(t jaegerTrace) error {
		for _, span := range t.Spans {
			process := t.Processes[span.ProcessID]
			if process.ServiceName != "cart" {
				continue
			}
			if version := tagOf(process.Tags, "layover.version"); version != otlpRoute || tagOf(process.Tags, "layover.service") != "cart" || tagOf(process.Tags, "layover.environment") != "proof" {
				return fmt.Errorf("the resource of cart's own span says layover.version %q", version)
			}
			if route := tagOf(span.Tags, "layover.route"); route != otlpRoute {
				return fmt.Errorf("cart's own span says layover.route %q", route)
			}
			says = fmt.Sprintf("%q of %s", span.OperationName, tagOf(process.Tags, "layover.instance"))
			return nil
		}
		return errors.New("there is no span of cart's own")
	})
	return says, err
}

func (s *otlpScene) metricIsScraped(ctx context.Context) (string, error) {
	query := func(path, expression string, to any) error {
		return s.askJSON(ctx, s.prometheus+path+"?query="+url.QueryEscape(expression)+"&start="+fmt.Sprint(time.Now().Add(-time.Minute).Unix())+"&end="+fmt.Sprint(time.Now().Unix()+1), to)
	}
	why := "Prometheus does not answer"
	return "layover_requests_total and a bucket of layover_request_duration_seconds", until(ctx, patience, func() (bool, error) {
		var requests struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if err := query("/api/v1/query", `sum(layover_requests_total{service="cart",version="`+otlpRoute+`",by="baggage",status="2xx"})`, &requests); err != nil || len(requests.Data.Result) == 0 {
			why = fmt.Sprintf("there is no metric: %v", err)
			return false, nil
		}
		var exemplars struct {
			Data []struct {
				Exemplars []struct{ Labels map[string]string }
			}
		}
		if err := query("/api/v1/query_exemplars", `layover_requests_total{service="cart",version="`+otlpRoute+`"}`, &exemplars); err != nil || len(exemplars.Data) == 0 {
			why = fmt.Sprintf("there is no exemplar: %v", err)
			return false, nil
		}
		if id := exemplars.Data[0].Exemplars[0].Labels["trace_id"]; id != otlpTrace {
			return false, fmt.Errorf("the exemplar is of trace %s", id)
		}
		return true, nil
	}, func() string { return why })
}

func (s *otlpScene) metricIsPushed(ctx context.Context) (string, error) {
	want := "layover_requests_total cart " + otlpRoute
	return want, until(ctx, patience, func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.metrics[want], nil
	}, func() string { return fmt.Sprintf("there are %d metrics, and not %s", len(s.metrics), want) })
}

func (s *otlpScene) logIsThere(ctx context.Context) (line string, err error) {
	err = until(ctx, patience, func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for text, says := range s.lines {
			if says["layover.service"] == "cart" && says["layover.version"] == otlpRoute && says["layover.route"] == otlpRoute && says["trace"] == otlpTrace {
				line = text
				return true, nil
			}
		}
		return false, nil
	}, func() string { return fmt.Sprintf("of %d lines none has all of that", len(s.lines)) })
	return line, err
}
