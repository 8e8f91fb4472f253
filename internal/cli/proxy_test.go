package cli

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/edge"
	"github.com/layover-dev/layover/internal/route"
)

const patience = 30 * time.Second // for things that happen at once on an idle machine

// proxyProcess is `layover proxy` as a process of its own, and those that it hands over to.
type proxyProcess struct {
	t       *testing.T
	cmd     *exec.Cmd
	said    output
	address string // of the proxy
	admin   string
	ended   chan struct{}
}

// output is a file that one process after another writes to. A pipe would end only with
// the last of them.
type output struct{ *os.File }

func (o output) String() string {
	text, _ := os.ReadFile(o.Name()) // what cannot be read was not said
	return string(text)
}

// startProxy runs program as `layover proxy`, and waits until it serves.
func startProxy(t *testing.T, program string, args ...string) *proxyProcess {
	t.Helper()
	p := launchProxy(t, program, args...)
	p.address = p.says(`proxy   http://(\S+)`)
	p.admin = p.says(`admin   http://(\S+)/readyz`)
	p.says(`(?m)^(table) `)
	return p
}

func launchProxy(t *testing.T, program string, args ...string) *proxyProcess {
	t.Helper()
	said, err := os.CreateTemp(t.TempDir(), "said")
	require.NoError(t, err)
	p := &proxyProcess{t: t, said: output{said}, ended: make(chan struct{})}
	args = append([]string{"proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--id", "edge-1", "--linger", "500ms"}, args...)
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "LAYOVER_SERVER=")
	p.cmd.Stdout, p.cmd.Stderr = said, said
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // it is asked for the code where that counts
	}()
	t.Cleanup(func() {
		if pid := p.readiness().PID; pid != 0 && pid != p.cmd.Process.Pid {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = p.cmd.Process.Kill()
		<-p.ended
		_ = said.Close()
		if t.Failed() {
			t.Log(p.said.String())
		}
	})
	return p
}

// says waits for words of the process, and returns the last group in the newest of them.
func (p *proxyProcess) says(pattern string) string {
	p.t.Helper()
	words := regexp.MustCompile(pattern)
	var found [][]string
	require.Eventually(p.t, func() bool {
		found = words.FindAllStringSubmatch(p.said.String(), -1)
		return len(found) > 0
	}, patience, 5*time.Millisecond, "it does not say %q", pattern)
	last := found[len(found)-1]
	return last[len(last)-1]
}

func (p *proxyProcess) readiness() edge.Readiness {
	var out edge.Readiness
	if p.admin == "" {
		return out
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Get("http://" + p.admin + "/readyz")
	if err != nil {
		return out
	}
	defer func() { _ = res.Body.Close() }()
	_ = json.NewDecoder(res.Body).Decode(&out) // zero where it is none
	return out
}

// get asks the service through the proxy.
func (p *proxyProcess) get(client *http.Client, path string) (*http.Response, string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+p.address+path, nil)
	if err != nil {
		return nil, "", err
	}
	req.Host = "cart.localhost"
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return res, string(text), err
}

// waitOther waits until another process than pid serves, and returns its PID.
func (p *proxyProcess) waitOther(pid int) int {
	p.t.Helper()
	var other edge.Readiness
	require.Eventually(p.t, func() bool {
		other = p.readiness()
		return other.Ready && other.PID != pid
	}, patience, 5*time.Millisecond)
	return other.PID
}

// tableFile writes a table in which cart answers at address.
func tableFile(t *testing.T, address string) string {
	t.Helper()
	data, err := json.Marshal(route.Spec{Revision: 7, Environment: "shop", Services: []route.Service{{
		Name:     "cart",
		Versions: []route.Version{{Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "cart-1", Address: address}}}},
	}}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "table.json")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// cart is an instance: it greets, and streams where it is asked to.
func cart(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range strings.Count(r.URL.Path, "s") { // 50 ms for each
			_, _ = io.WriteString(w, ".")
			_ = http.NewResponseController(w).Flush()
			<-time.After(50 * time.Millisecond)
		}
		_, _ = io.WriteString(w, "hello")
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func self(t *testing.T) string {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	return program
}

func TestProxyHandsOver(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "next")
	table := tableFile(t, cart(t))
	p := startProxy(t, self(t), "--table", table, "--handover", socket)
	load := newProxyLoad(p)
	pid := p.cmd.Process.Pid
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	pid = p.waitOther(pid)
	require.True(t, waitFor(p.ended), "the old one ends by itself")
	require.True(t, p.cmd.ProcessState.Success(), "%s", p.cmd.ProcessState)

	// The next is nobody's child, and has other settings.
	next := launchProxy(t, self(t), "--table", table, "--handover", socket, "--debug")
	p.waitOther(pid)
	require.Eventually(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || isZombie(pid) }, patience, 5*time.Millisecond)
	load.end(t)
	require.NoError(t, next.cmd.Process.Signal(syscall.SIGTERM))
	require.True(t, waitFor(next.ended))
	_, err := net.Dial("tcp", p.address)
	require.Error(t, err, "nobody holds the listeners any more")
}

func TestProxyTellsSystemdWhoServes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { require.NoError(t, systemd.Close()) }()
	require.NoError(t, systemd.SetReadDeadline(time.Now().Add(patience)))
	told := func() string {
		text := make([]byte, 1<<10)
		n, err := systemd.Read(text)
		require.NoError(t, err)
		return string(text[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	p := startProxy(t, self(t), "--table", tableFile(t, cart(t)))
	pid := p.cmd.Process.Pid
	require.Equal(t, fmt.Sprintf("MAINPID=%d\nREADY=1\n", pid), told())
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	next := told()
	require.Equal(t, fmt.Sprintf("MAINPID=%d\nREADY=1\n", p.waitOther(pid)), next)
}

func TestProxyGoesOnWhereTheNextIsBroken(t *testing.T) {
	program := filepath.Join(t.TempDir(), "layover")
	install := func(data []byte) {
		require.NoError(t, os.WriteFile(program+".new", data, 0o700))
		require.NoError(t, os.Rename(program+".new", program))
	}
	good, err := os.ReadFile(self(t))
	require.NoError(t, err)
	install(good)
	p := startProxy(t, program, "--table", tableFile(t, cart(t)), "--ready-within", "2s")
	load := newProxyLoad(p)
	pid := p.cmd.Process.Pid
	for name, test := range map[string]struct{ file, want string }{
		"crashes":      {"#!/bin/sh\nexit 7\n", "exit status 7"},
		"not a binary": {"\x7fELF garbage", "start the new process"},
		"hangs":        {"#!/bin/sh\nexec sleep 60\n", "was not ready within 2s"},
	} {
		install([]byte(test.file))
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
		p.says(`the hand-over failed; this process goes on.*` + test.want)
		require.Equal(t, pid, p.readiness().PID, name)
	}
	install(good)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.waitOther(pid)
	load.end(t)
}

func TestProxyWithoutATableDoesNotTakeOver(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "next")
	p := startProxy(t, self(t), "--table", tableFile(t, cart(t)), "--handover", socket)
	load := newProxyLoad(p)
	next := launchProxy(t, self(t), "--server", deadServer(t), "--handover", socket, "--ready-within", "300ms")
	require.True(t, waitFor(next.ended))
	require.Equal(t, exitFailed, next.cmd.ProcessState.ExitCode())
	require.Contains(t, next.said.String(), "there is no table after 300ms")
	p.says("the hand-over failed; this process goes on.*there is no table after 300ms")
	require.Equal(t, p.cmd.Process.Pid, p.readiness().PID)
	load.end(t)
}

func TestProxyWithoutATable(t *testing.T) {
	p := startProxy(t, self(t), "--server", deadServer(t))
	require.Contains(t, p.said.String(), "none yet")
	res, text, err := p.get(http.DefaultClient, "/")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "no-table", res.Header.Get("Layover-Error"))
	require.NotEmpty(t, res.Header.Get("Retry-After"))
	require.Contains(t, text, "/readyz")
	require.False(t, p.readiness().Ready)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.True(t, waitFor(p.ended))
	require.True(t, p.cmd.ProcessState.Success(), "%s", p.cmd.ProcessState)
}

func TestProxyMetrics(t *testing.T) {
	p := startProxy(t, self(t), "--table", tableFile(t, cart(t)))
	_, _, err := p.get(http.DefaultClient, "/")
	require.NoError(t, err)
	res, err := http.Get("http://" + p.admin + "/metrics")
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	for _, line := range []string{
		"layover_ready 1", "layover_table_revision 7", "layover_server_connected 0", "layover_table_stale 0",
		`layover_requests_total{by="default",fallback="",service="cart",status="2xx",version="main"} 1`, `layover_records_dropped_total{for="requests"} 0`,
	} {
		require.Contains(t, string(text), line+"\n")
	}
}

func TestProxyRefusesBadInput(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	garbage := filepath.Join(t.TempDir(), "table.json")
	require.NoError(t, os.WriteFile(garbage, []byte("{"), 0o600))
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"server":       {[]string{"--server", "ftp://x"}, exitUsage, "http://127.0.0.1:7070"},
		"listen":       {[]string{"--listen", "nowhere"}, exitUsage, "--listen"},
		"docker":       {[]string{"--listen", "docker:8080"}, exitUsage, "bridge"},
		"id":           {[]string{"--id", "a b", "--admin", "off"}, exitUsage, "--id"},
		"table":        {[]string{"--table", "/nowhere", "--admin", "off"}, exitUsage, "/api/v1/table"},
		"no table":     {[]string{"--table", garbage, "--admin", "off"}, exitUsage, garbage},
		"file":         {[]string{"-f", "/nowhere.yaml"}, exitUsage, "/nowhere.yaml"},
		"port in use":  {[]string{"--listen", taken.Addr().String()}, exitFailed, "LAYOVER_PROXY_LISTEN"},
		"admin in use": {[]string{"--admin", taken.Addr().String()}, exitFailed, "--admin"},
		"argument":     {[]string{"http://x"}, exitUsage, "--help"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			app := newApp(strings.NewReader(""), &out, &out, nil)
			code := execute(t.Context(), app, append([]string{"proxy", "--listen", "127.0.0.1:0"}, test.args...))
			require.Equal(t, test.code, code, out.String())
			require.Contains(t, out.String(), test.want)
		})
	}
}

func TestProxyFollowsEveryServerOfTheVariable(t *testing.T) {
	app := newApp(nil, io.Discard, io.Discard, []string{"LAYOVER_SERVER=http://a:7070, b:7070"})
	require.Equal(t, "http://a:7070", app.Server, "other commands take the first")
	servers, err := proxyServers(app, &proxyCmdOptions{})
	require.NoError(t, err)
	require.Len(t, servers, 2)
	require.Equal(t, "http://b:7070", servers[1].URL())

	servers, err = proxyServers(app, &proxyCmdOptions{Servers: []string{"http://c:7070"}})
	require.NoError(t, err)
	require.Len(t, servers, 1)

	app = newApp(nil, io.Discard, io.Discard, nil)
	servers, err = proxyServers(app, &proxyCmdOptions{})
	require.NoError(t, err)
	require.Equal(t, defaultServer, servers[0].URL())
	servers, err = proxyServers(app, &proxyCmdOptions{Table: "table.json"})
	require.NoError(t, err)
	require.Empty(t, servers, "a fixed table needs none")
}

// proxyLoad asks again and again, on new and on kept connections, and streams.
type proxyLoad struct {
	stop   atomic.Bool
	asked  atomic.Int64
	group  sync.WaitGroup
	mu     sync.Mutex
	faults []string
}

func newProxyLoad(p *proxyProcess) *proxyLoad {
	l := &proxyLoad{}
	kept := &http.Client{Transport: &http.Transport{}}
	once := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for i := range 4 {
		client, path := kept, "/"
		if i%2 == 1 {
			client = once
		}
		if i == 2 {
			path = "/sssss"
		}
		l.group.Go(func() {
			for !l.stop.Load() {
				res, text, err := p.get(client, path)
				if err == nil && (res.StatusCode != http.StatusOK || !strings.HasSuffix(text, "hello")) {
					err = fmt.Errorf("%s: %s", res.Status, text)
				}
				if err != nil {
					l.mu.Lock()
					l.faults = append(l.faults, err.Error())
					l.mu.Unlock()
				}
				l.asked.Add(1)
			}
			client.CloseIdleConnections()
		})
	}
	return l
}

func (l *proxyLoad) end(t *testing.T) {
	t.Helper()
	l.stop.Store(true)
	l.group.Wait()
	require.Empty(t, l.faults)
	require.Greater(t, l.asked.Load(), int64(20))
}

func waitFor(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}

// deadServer is the URL of a server that does not answer.
func deadServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return "http://" + l.Addr().String()
}

// isZombie says whether a process has ended that nobody has waited for: whose parent did not.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// otlpSink is a receiver of OTLP/HTTP that keeps the texts of what it gets.
type otlpSink struct {
	mu   sync.Mutex
	text strings.Builder
}

// ServeHTTP takes in a request.
func (s *otlpSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := gzip.NewReader(r.Body)
	if err != nil || r.Header.Get("Api-Key") != "s3cret" {
		http.Error(w, "what is that", http.StatusBadRequest)
		return
	}
	text, _ := io.ReadAll(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(text) // protobuf has texts as they are
}

// all returns what the group of a pattern matched, once each, in order.
func (s *otlpSink) all(pattern string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(s.text.String(), -1) {
		found = append(found, match[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (s *otlpSink) has(text string) func() bool {
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Contains(s.text.String(), text)
	}
}

// sendsTelemetry has proxies that are started pass on and send telemetry to a sink.
func sendsTelemetry(t *testing.T) *otlpSink {
	t.Helper()
	sink := &otlpSink{}
	collector := httptest.NewServer(sink)
	t.Cleanup(collector.Close)
	for name, value := range map[string]string{
		"OTLP_ENDPOINT": collector.URL, "OTLP_PROTOCOL": "http", "OTLP_HEADERS_ENV": "KEYS", "RECEIVER_LISTEN": "127.0.0.1:0", "TRACES_SAMPLE": "1",
	} {
		t.Setenv("LAYOVER_TELEMETRY_"+name, value)
	}
	t.Setenv("KEYS", "api-key=s3cret")
	return sink
}

// sendSpan sends a span as an instance of cart@feature-9 does.
func sendSpan(t *testing.T, client *http.Client, receiver, name string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+receiver+"/v1/traces",
		strings.NewReader(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"`+name+`","traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7"}]}]}]}`))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Layover-Instance", "cart@feature-9/i-9")
	res, err := client.Do(r)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body) // so that the connection is used again
	require.NoError(t, errors.Join(err, res.Body.Close()))
	require.Equal(t, http.StatusOK, res.StatusCode)
	return res
}

// TestProxySendsTelemetry: a proxy of its own sends spans and what applications send it, and goes on with that when another process
// takes over. The key is in no log.
func TestProxySendsTelemetry(t *testing.T) {
	sink := sendsTelemetry(t)
	p := startProxy(t, self(t), "--table", tableFile(t, cart(t)))
	receiver := p.says(`otlp    http://(\S+)`)
	sendSpan(t, http.DefaultClient, receiver, "of-the-first")
	_, _, err := p.get(http.DefaultClient, "/")
	require.NoError(t, err)
	for _, text := range []string{"of-the-first", "feature-9", "layover-proxy", "GET cart"} {
		require.Eventually(t, sink.has(text), patience, 5*time.Millisecond, text)
	}

	pid := p.cmd.Process.Pid
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.waitOther(pid)
	p.says("(handed over; draining)")
	require.True(t, sendSpan(t, http.DefaultClient, receiver, "of-the-last").Close, "the sender is to go to the next one")
	require.False(t, sendSpan(t, http.DefaultClient, receiver, "of-the-next").Close)
	require.True(t, waitFor(p.ended))
	require.True(t, p.cmd.ProcessState.Success(), "%s", p.cmd.ProcessState)
	require.Eventually(t, sink.has("of-the-last"), patience, 5*time.Millisecond, "what the first took in until it ended is sent")
	require.Eventually(t, sink.has("of-the-next"), patience, 5*time.Millisecond)
	require.Eventually(t, sink.has("layover_requests_total"), patience, 5*time.Millisecond, "the first has sent its metrics at its end")
	require.NotContains(t, p.said.String(), "s3cret")

	require.NoError(t, syscall.Kill(p.readiness().PID, syscall.SIGTERM))
	require.Eventually(t, func() bool {
		return len(sink.all(`(?s)service\.instance\.id.{2,6}?([0-9a-f]{8}-[0-9a-f-]{27})`)) == 2
	}, patience, 5*time.Millisecond, "each of the two processes is one of its own: what they count is not to be mixed up")
	require.Equal(t, []string{"edge-1"}, sink.all(`(?s)layover\.proxy.{2,6}?([a-z]+-[0-9]+)`), "by the name of the proxy they are one")
}

// TestProxyTelemetryOfOneThatDoesNotTakeOver: a process that has no table yet takes in nothing, as it does not know who sends.
func TestProxyTelemetryOfOneThatDoesNotTakeOver(t *testing.T) {
	sink := sendsTelemetry(t)
	socket := filepath.Join(t.TempDir(), "next")
	p := startProxy(t, self(t), "--table", tableFile(t, cart(t)), "--handover", socket)
	receiver := p.says(`otlp    http://(\S+)`)
	next := launchProxy(t, self(t), "--server", deadServer(t), "--handover", socket, "--ready-within", "1s")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	sent := 0
	for ended := false; !ended; sent++ {
		select {
		case <-next.ended:
			ended = true
		default:
		}
		sendSpan(t, client, receiver, "a-span")
	}
	count := func(text string) int {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		return strings.Count(sink.text.String(), text)
	}
	require.Eventually(t, func() bool { return count("a-span") == sent }, patience, 5*time.Millisecond)
	require.Equal(t, sent, count("feature-9"), "each with its version")
}
