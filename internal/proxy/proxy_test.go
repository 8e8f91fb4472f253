package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layover-dev/layover/internal/route"
)

const patience = 20 * time.Second // for things that happen at once on an idle machine

// TestMain has the process trust the certificate that httptest's servers use.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "layover-proxy-test-")
	if err != nil {
		panic(err)
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	file := filepath.Join(dir, "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	server.Close()
	if err := errors.Join(os.WriteFile(file, block, 0o600), os.Setenv("SSL_CERT_FILE", file)); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// world is a running proxy, and a client to it.
type world struct {
	*Proxy
	addr    string // the untrusted listener
	trusted string
	client  *http.Client
	records *records
	stop    func() // ends Run and waits for it
}

func newWorld(t *testing.T, options Options, services ...route.Service) *world {
	t.Helper()
	w := &world{records: &records{}}
	options.Recorder = w.records.add
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	w.Proxy = New(options)
	w.halfCloseGrace = 50 * time.Millisecond
	w.set(t, services...)
	plain, trusted := listen(t), listen(t)
	w.addr, w.trusted = plain.Addr().String(), trusted.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, Listener{Listener: plain}, Listener{Listener: trusted, Trusted: true})
	}()
	w.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	w.stop = sync.OnceFunc(func() {
		w.client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// set exchanges the table.
func (w *world) set(t *testing.T, services ...route.Service) {
	t.Helper()
	w.SetTable(compile(t, route.Spec{Services: services}))
}

func compile(t testing.TB, spec route.Spec) *route.Table {
	t.Helper()
	if spec.Environment == "" {
		spec.Environment = "test"
	}
	if spec.Hold == 0 {
		spec.Hold = patience
	}
	table, err := route.Compile(spec)
	require.NoError(t, err)
	return table
}

// get asks for a URL path of a host. The headers are name and value by turns.
func (w *world) get(t *testing.T, host, path string, headers ...string) answer {
	t.Helper()
	return w.do(t, w.request(t, http.MethodGet, host, path, nil, headers...))
}

func (w *world) request(t *testing.T, method, host, path string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.addr+path, body)
	require.NoError(t, err)
	req.Host = host
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return req
}

func (w *world) do(t *testing.T, req *http.Request) answer {
	t.Helper()
	res, err := w.client.Do(req)
	require.NoError(t, err)
	return read(t, res)
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	text string
}

func read(t *testing.T, res *http.Response) answer {
	t.Helper()
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res, string(body)}
}

// problem reads the answer as problem details, and checks what all of them have.
func (a answer) problem(t *testing.T) details {
	t.Helper()
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), a.text)
	var b details
	require.NoError(t, json.Unmarshal([]byte(a.text), &b), a.text)
	require.Equal(t, a.StatusCode, b.Status)
	require.Equal(t, a.Header.Get(ErrorHeader), string(b.Code))
	require.NotEmpty(t, b.Title)
	require.NotEmpty(t, b.Detail)
	require.NotEmpty(t, b.Hint)
	require.True(t, strings.HasSuffix(b.Type, "#"+string(b.Code)), b.Type)
	return b
}

// records keeps what the Recorder got.
type records struct {
	mu  sync.Mutex
	all []Record
}

func (r *records) add(record *Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, *record.Clone())
}

func (r *records) list() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Record(nil), r.all...)
}

// wait returns the first n records, once there are that many.
func (r *records) wait(t *testing.T, n int) []Record {
	t.Helper()
	eventually(t, func() bool { return len(r.list()) >= n })
	return r.list()[:n]
}

// eventually waits until a condition holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, patience, 2*time.Millisecond)
}

func service(name string, versions ...route.Version) route.Service {
	return route.Service{Name: name, Versions: versions}
}

func ready(name string, addresses ...string) route.Version {
	v := route.Version{Name: name, State: route.Ready}
	for _, address := range addresses {
		v.Instances = append(v.Instances, route.Instance{ID: name + "-" + address, Address: address})
	}
	return v
}

func state(name string, state route.State, reason string) route.Version {
	return route.Version{Name: name, State: state, Reason: reason}
}

// says is an instance that answers with its name.
func says(t testing.TB, name string) string {
	t.Helper()
	return instance(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

// instance starts a server and returns its address.
func instance(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// h2cInstance starts a server that speaks nothing but HTTP/2 without TLS.
func h2cInstance(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// h2cClient returns a client that speaks HTTP/2 without TLS.
func h2cClient(t testing.TB) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// deadAddress returns an address where nobody listens.
func deadAddress(t testing.TB) string {
	t.Helper()
	l := listen(t)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// wire is a bare connection.
type wire struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *wire {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return &wire{conn, bufio.NewReader(conn)}
}

// send writes lines that end in CRLF.
func (c *wire) send(t *testing.T, lines ...string) {
	t.Helper()
	_, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n")
	require.NoError(t, err)
}

func (c *wire) response(t *testing.T, method string) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	require.NoError(t, err)
	return res
}

func (c *wire) answer(t *testing.T, method string) answer {
	t.Helper()
	return read(t, c.response(t, method))
}

func TestProxy_RoutesByBaggage(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "main")), ready("pr-1", says(t, "pr-1"))),
		service("pricing", ready("main", says(t, "pricing"))))

	a := w.get(t, "cart.localhost", "/")
	require.Equal(t, "main", a.text)
	require.Contains(t, a.Header.Get(ServedByHeader), "cart@main")

	a = w.get(t, "CART.localhost.:8080", "/", "Baggage", "x=1,dynamic_route=pr-1")
	require.Equal(t, "pr-1", a.text)
	require.Equal(t, "cart@pr-1; route=pr-1; by=baggage", a.Header.Get(ServedByHeader))

	a = w.get(t, "pricing.localhost", "/", "Baggage", "dynamic_route=pr-1")
	require.Equal(t, "pricing", a.text)
	require.Contains(t, a.Header.Get(ServedByHeader), "fallback=default")

	require.Equal(t, map[string]uint64{"cart@main": 1, "cart@pr-1": 1, "pricing@main": 1}, w.Requests())
}

func TestProxy_Record(t *testing.T) {
	w := newWorld(t, Options{}, service("cart", ready("main", says(t, "hello"))))
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	w.do(t, w.request(t, http.MethodPost, "cart.localhost", "/a/b?c=d", strings.NewReader("12345"),
		"Traceparent", "00-"+trace+"-00f067aa0ba902b7-01", "Baggage", "dynamic_route=nothing"))
	w.get(t, "nowhere.test", "/")

	all := w.records.wait(t, 2)
	r := all[0]
	require.Equal(t, "cart", r.Service)
	require.Equal(t, "main", r.Version)
	require.NotEmpty(t, r.Instance)
	require.Equal(t, "nothing", r.Route)
	require.Equal(t, route.ByBaggage, r.By)
	require.Equal(t, route.FallbackUnknown, r.Fallback)
	require.Equal(t, http.MethodPost, r.Method)
	require.Equal(t, "/a/b", r.Path)
	require.Equal(t, http.StatusOK, r.Status)
	require.EqualValues(t, 5, r.BytesIn)
	require.EqualValues(t, 5, r.BytesOut)
	require.Equal(t, trace, r.TraceID.String())
	require.Equal(t, "127.0.0.1", r.Peer.Addr().String())
	require.NotZero(t, r.Peer.Port())
	require.NotEmpty(t, r.Upstream)
	require.Positive(t, r.FirstByte)
	require.GreaterOrEqual(t, r.Duration, r.FirstByte)
	require.Empty(t, r.Error)

	require.Equal(t, string(CodeUnknownHost), all[1].Error)
	require.Equal(t, http.StatusNotFound, all[1].Status)
	require.Empty(t, all[1].Service)
	require.Empty(t, all[1].Instance)
}

func TestProxy_RoundRobinIsEven(t *testing.T) {
	addresses := []string{says(t, "a"), says(t, "b"), says(t, "c")}
	w := newWorld(t, Options{}, service("cart", ready("main", addresses...)))
	got := make(map[string]int)
	for range 30 {
		got[w.get(t, "cart.localhost", "/").text]++
	}
	require.Equal(t, map[string]int{"a": 10, "b": 10, "c": 10}, got)
}

func TestProxy_ForgetsVersionsAndInstancesThatLeft(t *testing.T) {
	address := says(t, "x")
	w := newWorld(t, Options{}, service("cart", ready("main", address), ready("pr-1", address)))
	w.get(t, "cart.localhost", "/")
	w.get(t, "cart.localhost", "/", "Baggage", "dynamic_route=pr-1")
	require.Len(t, w.Requests(), 2)
	w.records.wait(t, 2) // both are over for the proxy too

	w.set(t, service("cart", ready("main", address)))
	require.Equal(t, map[string]uint64{"cart@main": 1}, w.Requests())
	eventually(t, func() bool {
		kept := 0
		w.flights.byID.Range(func(any, any) bool { kept++; return true })
		return kept == 1
	})

	w.set(t, service("cart", ready("main", address), ready("pr-1", address)))
	require.Equal(t, map[string]uint64{"cart@main": 1}, w.Requests())
}

func TestProxy_EmptyTable(t *testing.T) {
	p := New(Options{Logger: slog.New(slog.DiscardHandler)})
	for _, want := range []struct {
		status int
		code   Code
	}{{http.StatusServiceUnavailable, CodeNoTable}, {http.StatusNotFound, CodeUnknownHost}} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://cart.localhost/", nil))
		require.Equal(t, want.status, w.Code)
		require.Equal(t, string(want.code), w.Header().Get(ErrorHeader))
		p.SetTable(route.EmptyTable())
	}
	require.NoError(t, p.WaitIdle(t.Context(), "never-seen"))
	require.Empty(t, p.Requests())
}

// letPass lets time go by, where what is tested is what does or does not happen meanwhile.
func letPass(d time.Duration) { <-time.After(d) }
