package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dashboard is what is looked at of the dashboard for Grafana.
type dashboard struct {
	Templating struct {
		List []struct {
			Name  string
			Type  string
			Query any
		}
	}
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ H, W, X, Y int }
		Targets []struct{ Expr, LegendFormat string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("telemetry/grafana-dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &d))
	return d
}

// TestDashboard_IsWhole holds what Grafana would say no word about.
func TestDashboard_IsWhole(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	known := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		known[v.Name] = true
	}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "%s has the id of another panel", p.Title)
		ids[p.ID] = true
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], "%s lies over it", p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
		require.Equal(t, p.Type == "row", len(p.Targets) == 0, p.Title)
		for _, target := range p.Targets {
			for _, name := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
				require.True(t, known[name[1]], "%s asks for the variable %s", p.Title, name[1])
			}
		}
	}
}

// TestAlerts_ByPromtool runs the tests of the alert rules, and checks the example of a configuration.
func TestAlerts_ByPromtool(t *testing.T) {
	t.Parallel()
	needsPrometheus(t)
	promtool := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "promtool", args...)
		cmd.Dir = "telemetry"
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "promtool %v: %s", args, out)
	}
	promtool("check", "rules", "alerts.yaml")
	promtool("check", "config", "prometheus.yaml")
	promtool("test", "rules", "alerts_test.yaml")
}

// TestTelemetry has a real Prometheus scrape a real server and proxy with real requests, and asks it for all that dashboard and
// alerts ask for: once with native histograms and exemplars, and once as it comes.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	needsPrometheus(t)
	s := startStage(t)
	for name, feature := range map[string]string{"native histograms": "native-histograms,exemplar-storage", "classic histograms": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPrometheus(t, s, feature)
			p.seesAll(t)
			p.evaluates(t)
			p.alerts(t)
			p.hasOnlyWhatIsExplained(t)
			if feature != "" {
				p.hasTraces(t)
			}
		})
	}
}

func needsPrometheus(t *testing.T) {
	t.Helper()
	for _, program := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("[prometheus] Prometheus is not installed: dashboard and alert rules are not run")
		}
	}
}

// stage is a server and a proxy with versions that fare differently, and requests to them until the test ends.
type stage struct{ server, proxy, admin string }

func startStage(t *testing.T) *stage {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "layover")
	runs(t, built, "go", "build", "-o", program, root+"/cmd/layover")
	instance := func(status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				w.WriteHeader(status)
			}
			_, _ = io.WriteString(w, "answered")
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	good, bad := instance(http.StatusOK), instance(http.StatusInternalServerError)
	file := filepath.Join(dir, "layover.yaml")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`
environment: dev
hold: 1s
services:
  cart:
    health: /healthz
    run: {external: {url: %q}}
  pricing:
    healing: {trace: warn}
    run: {external: {url: %q}}
`, good, good)), 0o600))

	// A process takes the port that the system gives it, and says which.
	_, serverAddress := launch(t, program, []string{"LAYOVER_SERVER_LISTEN=127.0.0.1:0"}, `server\s+http://(\S+)`, "server", "-f", file, "--data", filepath.Join(dir, "data"))
	said, proxyAddress := launch(t, program, nil, `proxy\s+http://(\S+)`, "proxy", "--server", "http://"+serverAddress, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	s := &stage{server: serverAddress, proxy: proxyAddress, admin: said(`admin\s+http://(\S+)/readyz`)}
	answer(t, "http://"+s.admin+"/readyz", "")

	// One that has not become ready has requests wait.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	for version, address := range map[string]string{"pr-1": good, "bad": bad, "late": "http://" + silent.Addr().String()} {
		args := []string{"deploy", "cart@" + version, "--url", address, "--server", "http://" + serverAddress}
		if version == "late" {
			args = append(args, "--no-wait")
		}
		runs(t, up, program, args...)
	}
	s.sendAll(t)
	return s
}

// launch starts a program, and returns what finds something in what it says, and the first thing found.
func launch(t *testing.T, program string, env []string, find string, args ...string) (said func(pattern string) string, found string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), out, out
	require.NoError(t, cmd.Start())
	text := func() string {
		data, _ := os.ReadFile(out.Name())
		return string(data)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		_ = out.Close()
		if t.Failed() {
			t.Logf("%s %s: %v\n%s", filepath.Base(program), args[0], err, text())
		}
	})
	said = func(pattern string) (found string) {
		t.Helper()
		expression := regexp.MustCompile(pattern)
		require.Eventually(t, func() bool {
			match := expression.FindStringSubmatch(text())
			if match != nil {
				found = match[1]
			}
			return match != nil
		}, up, 20*time.Millisecond, "%s does not say %s", program, pattern)
		return found
	}
	return said, said(find)
}

// sendAll sends requests of all kinds, all the time.
func (s *stage) sendAll(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var traces atomic.Int64
	send := func(host, route string, trace int64) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.proxy+"/", strings.NewReader("asked"))
		if err != nil {
			return
		}
		req.Host = host
		if route != "" {
			req.Header.Set("Baggage", "dynamic_route="+route)
		}
		req.Header.Set("Traceparent", fmt.Sprintf("00-%032x-00f067aa0ba902b7-01", trace))
		if res, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			trace := traces.Add(1)
			send("cart.localhost", []string{"", "pr-1", "bad", "nothing"}[n%4], trace)
			send("pricing.localhost", "", trace) // where cart had a route, it is lost
			send("nobody.localhost", "", trace)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		for ctx.Err() == nil {
			send("cart.localhost", "late", traces.Add(1))
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-waits
	})
}

// prometheusServer is one that runs.
type prometheusServer struct{ url string }

// startPrometheus runs Prometheus with the example of its configuration, but for the addresses and the time.
func startPrometheus(t *testing.T, s *stage, feature string) *prometheusServer {
	t.Helper()
	dir := t.TempDir()
	example, err := os.ReadFile("telemetry/prometheus.yaml")
	require.NoError(t, err)
	text := string(example)
	for from, to := range map[string]string{
		"127.0.0.1:7070": s.server, "127.0.0.1:7071": s.admin, "scrape_interval: 15s": "scrape_interval: 1s", "evaluation_interval: 15s": "evaluation_interval: 1s",
	} {
		require.Contains(t, text, from)
		text = strings.ReplaceAll(text, from, to)
	}
	rules, err := os.ReadFile("telemetry/alerts.yaml")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yaml"), []byte(text), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alerts.yaml"), rules, 0o600))
	args := []string{"--config.file=" + filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + freeAddress(t)}
	if feature != "" {
		args = append(args, "--enable-feature="+feature)
	}
	launch(t, "prometheus", nil, `(Server is ready to receive web requests)`, args...)
	return &prometheusServer{url: "http://" + strings.TrimPrefix(args[2], "--web.listen-address=")}
}

// freeAddress is one that nobody listens on: Prometheus does not say which port it was given.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// get asks the API, which has to do what it is asked.
func (p *prometheusServer) get(t *testing.T, path string, query url.Values, into any) {
	t.Helper()
	res, err := http.Get(p.url + path + "?" + query.Encode())
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	require.NoError(t, json.Unmarshal(text, &answer), "%s", text)
	require.Equal(t, "success", answer.Status, "%s: %s", query, answer.Error)
	require.NoError(t, json.Unmarshal(answer.Data, into))
}

type sample struct {
	Metric map[string]string
	Value  [2]any
}

func (p *prometheusServer) query(t *testing.T, expression string) []sample {
	t.Helper()
	var data struct{ Result []sample }
	p.get(t, "/api/v1/query", url.Values{"query": {expression}}, &data)
	return data.Result
}

// seesAll holds that each expression of the dashboard is one, and that those that say something in this test do.
func (p *prometheusServer) seesAll(t *testing.T) {
	t.Helper()
	empty := regexp.MustCompile(`layover_(retries|otlp_items)_total|layover_webhook_|healed-`) // nothing of the kind happens here
	fill := strings.NewReplacer("$__rate_interval", "10s", "$service", "cart", "$baseline", "main", "$version", ".*")
	checked := 0
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			checked++
			expression := fill.Replace(target.Expr)
			if strings.Contains(expression, "layover_lost_routes_total") {
				expression = strings.ReplaceAll(expression, `"cart"`, `"pricing"`)
			}
			if empty.MatchString(expression) {
				p.query(t, expression)
				continue
			}
			require.Eventually(t, func() bool { return len(p.query(t, expression)) > 0 }, up, 200*time.Millisecond, "%s: %s", panel.Title, expression)
		}
	}
	require.Greater(t, checked, 25)

	require.Eventually(t, func() bool {
		versions := map[string]bool{}
		for _, s := range p.query(t, `sum by (version) (rate(layover_requests_total{service="cart"}[10s])) > 0`) {
			versions[s.Metric["version"]] = true
		}
		return versions["main"] && versions["pr-1"] && versions["bad"] && versions["late"]
	}, up, 200*time.Millisecond)
	for _, s := range p.query(t, fill.Replace(panelExpression(t, "Latency, p95"))) {
		if s.Metric["version"] != "late" {
			require.NotContains(t, []any{"NaN", "+Inf"}, s.Value[1], "%v", s.Metric)
		}
	}
	failing := p.query(t, fill.Replace(panelExpression(t, "Failures")))
	require.NotEmpty(t, failing)
	for _, s := range failing {
		want := map[string]any{"main": "0", "pr-1": "0", "bad": "1", "late": "1"}[s.Metric["version"]]
		require.Equal(t, want, s.Value[1], "%v", s.Metric)
	}
}

func panelExpression(t *testing.T, title string) string {
	t.Helper()
	for _, p := range readDashboard(t).Panels {
		if p.Title == title {
			return p.Targets[0].Expr
		}
	}
	t.Fatalf("there is no panel %q", title)
	return ""
}

// evaluates holds that Prometheus has evaluated all rules, without an error.
func (p *prometheusServer) evaluates(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		p.get(t, "/api/v1/rules", nil, &data)
		known := 0
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				require.NotEqual(t, "err", r.Health, "%s: %s", r.Name, r.LastError)
				if r.Health == "ok" {
					known++
				}
			}
		}
		return known >= 15
	}, up, 200*time.Millisecond)
}

// alerts holds that there are those that there should be, and no other.
func (p *prometheusServer) alerts(t *testing.T) {
	t.Helper()
	active := func() map[string]bool {
		var data struct {
			Alerts []struct{ Labels map[string]string }
		}
		p.get(t, "/api/v1/alerts", nil, &data)
		found := map[string]bool{}
		for _, a := range data.Alerts {
			found[strings.TrimSpace(a.Labels["alertname"]+" "+a.Labels["service"]+"@"+a.Labels["version"])] = true
		}
		return found
	}
	want := map[string]bool{
		"LayoverVersionFailsMoreThanMain cart@bad": true, "LayoverHeldRequestsTimeOut cart@late": true, "LayoverRoutesLost pricing@": true,
	}
	require.Eventually(t, func() bool {
		now := active()
		delete(now, "LayoverVersionFailsMoreThanMain cart@late") // once enough of them have waited
		return len(now) == len(want) && now["LayoverVersionFailsMoreThanMain cart@bad"] && now["LayoverHeldRequestsTimeOut cart@late"] && now["LayoverRoutesLost pricing@"]
	}, up, 200*time.Millisecond, "%v", active)
}

// hasTraces holds that Prometheus has kept a trace of a request, and histograms with buckets of their own making.
func (p *prometheusServer) hasTraces(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		var series []struct {
			SeriesLabels map[string]string
			Exemplars    []struct{ Labels map[string]string }
		}
		now := time.Now()
		p.get(t, "/api/v1/query_exemplars", url.Values{
			"query": {`layover_request_duration_seconds{version="pr-1"}`}, "start": {fmt.Sprint(now.Add(-time.Minute).Unix())}, "end": {fmt.Sprint(now.Unix() + 1)},
		}, &series)
		for _, s := range series {
			for _, e := range s.Exemplars {
				if regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(e.Labels["trace_id"]) {
					return true
				}
			}
		}
		return false
	}, up, 200*time.Millisecond, "no exemplar is kept")
	require.NotEmpty(t, p.query(t, `histogram_count(layover_request_duration_seconds{version="pr-1"})`))
}

// hasOnlyWhatIsExplained holds that the page on metrics has all that are there, and no other.
func (p *prometheusServer) hasOnlyWhatIsExplained(t *testing.T) {
	t.Helper()
	page, err := os.ReadFile(root + "/docs/howto/metrics.md")
	require.NoError(t, err)
	explained := map[string]bool{}
	for _, name := range regexp.MustCompile("`(layover_\\w+)`").FindAllStringSubmatch(string(page), -1) {
		explained[name[1]] = true
	}
	var names []string
	p.get(t, "/api/v1/label/__name__/values", nil, &names)
	found := map[string]bool{}
	for _, name := range names {
		if strings.HasPrefix(name, "layover_") {
			found[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] = true
		}
	}
	require.Greater(t, len(found), 30)
	for name := range found {
		require.True(t, explained[name], "docs/howto/metrics.md does not explain %s", name)
	}
	for name := range explained {
		switch name {
		// Nothing of the kind happens here.
		case "layover_retries_total", "layover_otlp_items_total", "layover_received_total", "layover_received_memory_bytes",
			"layover_webhook_behind_events", "layover_webhook_dead_letters", "layover_gateway_written", "layover_gateway_unasked_seconds",
			"layover_forge_webhooks_refused_total", "layover_forge_versions_removed_total":
		default:
			require.True(t, found[name], "docs/howto/metrics.md explains %s, which is not there", name)
		}
	}
}
