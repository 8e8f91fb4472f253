package forward

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/http/httpproxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seen is what a server got.
type seen struct {
	Host, Baggage, Traceparent, Proto, Path, Forwarded, Agent, Scheme string
	Body                                                              int
}

// layover stands for Layover's proxy: it says what it got, over HTTP/1.1 and h2c.
func layover(t *testing.T) string {
	t.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "echo" {
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Baggage: "+r.Header.Get("Baggage")+"\r\n\r\n")
			line, _ := buffered.ReadString('\n')
			_, _ = io.WriteString(conn, line)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-End")
		_ = json.NewEncoder(w).Encode(seen{
			Host: r.Host, Baggage: strings.Join(r.Header.Values("Baggage"), "|"), Traceparent: r.Header.Get("Traceparent"), Proto: r.Proto, Path: r.URL.String(),
			Forwarded: r.Header.Get("X-Forwarded-For"), Agent: r.Header.Get("User-Agent"), Scheme: r.Header.Get("X-Forwarded-Proto"), Body: int(n),
		})
		w.Header().Set("X-End", "yes")
	}))
	s.Config.Protocols = &protocols
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func start(t *testing.T, o Options) (*Proxy, *http.Client) {
	t.Helper()
	o.BaggageKey = "dynamic_route"
	if o.Proxy == "" {
		o.Proxy = layover(t)
	}
	o.Ours = func(host string) bool { return strings.HasSuffix(withoutPort(host), ".shop.test") }
	p, err := Start(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	roots := x509.NewCertPool()
	roots.AddCert(p.ca.cert)
	transport := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: p.Address()}), TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return p, &http.Client{Transport: transport}
}

func get(t *testing.T, client *http.Client, address string, header ...string) (got seen) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader("hello"))
	require.NoError(t, err)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.NoError(t, json.NewDecoder(res.Body).Decode(&got))
	return got
}

func TestProxy_Carries(t *testing.T) {
	p, client := start(t, Options{Route: "pr-1", Run: "ci-1"})
	for _, scheme := range []string{"http", "https"} {
		got := get(t, client, scheme+"://cart.shop.test:8080/items?a=b", "baggage: user=ana,dynamic_route=old", "baggage: x=y", "X-Forwarded-For: 10.1.2.3")
		require.Equal(t, "dynamic_route=pr-1,layover_run=ci-1,user=ana|x=y", got.Baggage)
		require.Equal(t, "cart.shop.test:8080", got.Host)
		require.Equal(t, "/items?a=b", got.Path)
		require.Equal(t, "10.1.2.3", got.Forwarded)
		require.Equal(t, 5, got.Body)
		require.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`, got.Traceparent)
		require.Equal(t, map[string]string{"https": "https"}[scheme], got.Scheme)
	}
	got := get(t, client, "http://cart.shop.test/", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "User-Agent: mine")
	require.Equal(t, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", got.Traceparent)
	require.Equal(t, "mine", got.Agent)
	require.Empty(t, get(t, client, "http://cart.shop.test/", "b3: 0").Traceparent)
	require.Equal(t, map[string]int{"cart.shop.test": 4}, p.Counts())
}

func TestProxy_WithoutRoute(t *testing.T) {
	_, client := start(t, Options{Run: "ci-1"})
	require.Equal(t, "layover_run=ci-1,dynamic_route=own", get(t, client, "http://cart.shop.test/", "baggage: dynamic_route=own").Baggage)
	_, client = start(t, Options{})
	got := get(t, client, "http://cart.shop.test/")
	require.Empty(t, got.Baggage+got.Traceparent)
}

// TestProxy_SpeaksHTTP2 goes the ways that gRPC does: h2c in a tunnel, and h2 over TLS.
func TestProxy_SpeaksHTTP2(t *testing.T) {
	p, _ := start(t, Options{Route: "pr-1"})
	tunnelTo := func(t *testing.T) net.Conn {
		conn, err := net.Dial("tcp", p.Address())
		require.NoError(t, err)
		_, err = io.WriteString(conn, "CONNECT greet.shop.test:50051 HTTP/1.1\r\nHost: greet.shop.test:50051\r\n\r\n")
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		res, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode)
		return &readAhead{Conn: conn, reader: reader}
	}
	for name, scheme := range map[string]string{"h2c": "http", "TLS": "https"} {
		t.Run(name, func(t *testing.T) {
			roots := x509.NewCertPool()
			roots.AddCert(p.ca.cert)
			transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return tunnelTo(t), nil }}
			transport.TLSClientConfig = &tls.Config{RootCAs: roots}
			transport.Protocols.SetUnencryptedHTTP2(scheme == "http")
			transport.Protocols.SetHTTP2(scheme == "https")
			defer transport.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, scheme+"://greet.shop.test:50051/a.B/C", bytes.NewReader(make([]byte, 4<<20)))
			require.NoError(t, err)
			res, err := transport.RoundTrip(req)
			require.NoError(t, err)
			defer func() { _ = res.Body.Close() }()
			var got seen
			require.NoError(t, json.NewDecoder(res.Body).Decode(&got))
			_, _ = io.Copy(io.Discard, res.Body)
			require.Equal(t, "HTTP/2.0", got.Proto)
			require.Equal(t, "dynamic_route=pr-1", got.Baggage)
			require.Equal(t, 4<<20, got.Body)
			require.Equal(t, "yes", res.Trailer.Get("X-End"))
		})
	}
}

func TestProxy_Upgrades(t *testing.T) {
	p, _ := start(t, Options{Route: "pr-1"})
	conn, err := net.Dial("tcp", p.Address())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "GET http://cart.shop.test/ws HTTP/1.1\r\nHost: cart.shop.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	require.NoError(t, err)
	require.Equal(t, 101, res.StatusCode)
	require.Equal(t, "dynamic_route=pr-1", res.Header.Get("X-Baggage"))
	_, err = io.WriteString(conn, "hello\n")
	require.NoError(t, err)
	line, err := reader.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
}

// TestProxy_LeavesOthersAlone holds that no baggage goes to hosts that are none of ours, directly or by another proxy.
func TestProxy_LeavesOthersAlone(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(seen{Host: r.Host, Baggage: r.Header.Get("Baggage"), Traceparent: r.Header.Get("Traceparent"), Path: r.RequestURI})
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	p, client := start(t, Options{Route: "pr-1", Run: "ci-1"})
	client.Transport.(*http.Transport).TLSClientConfig.RootCAs.AddCert(secure.Certificate())
	for _, address := range []string{plain.URL, secure.URL} {
		got := get(t, client, address+"/x")
		require.Empty(t, got.Baggage+got.Traceparent)
		require.Equal(t, "/x", got.Path)
	}
	require.Zero(t, p.Requests())

	outer, _ := start(t, Options{})
	_, client = start(t, Options{Route: "pr-1", Upstream: http.ProxyURL(&url.URL{Scheme: "http", Host: outer.Address()})})
	client.Transport.(*http.Transport).TLSClientConfig.RootCAs.AddCert(secure.Certificate())
	for _, address := range []string{plain.URL, secure.URL} {
		require.Empty(t, get(t, client, address+"/x").Baggage)
	}
}

func TestProxy_SaysWhatIsWrong(t *testing.T) {
	p, client := start(t, Options{Proxy: "127.0.0.1:1"})
	res, err := client.Get("http://cart.shop.test/")
	require.NoError(t, err)
	text, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
	require.Contains(t, string(text), "cannot reach cart.shop.test by way of Layover's proxy at 127.0.0.1:1")
	res, err = http.Get("http://" + p.Address() + "/")
	require.NoError(t, err)
	_ = res.Body.Close()
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	_, err = client.Get("https://nowhere.invalid/")
	require.ErrorContains(t, err, "Bad Gateway")
}

func TestEnviron(t *testing.T) {
	p, _ := start(t, Options{Route: "pr-1"})
	dir := t.TempDir()
	environ, err := p.Environ([]string{
		"PATH=/bin", "HTTP_PROXY=http://old:3128", "ALL_PROXY=socks5://old", "NO_PROXY=.shop.test,localhost,10.0.0.0/8,*", "NODE_OPTIONS=--max-old-space-size=99", "JAVA_TOOL_OPTIONS=-Xmx1g",
	}, dir)
	require.NoError(t, err)
	got := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		require.NotContains(t, got, name, "twice")
		got[name] = value
	}
	require.Equal(t, "/bin", got["PATH"])
	require.Equal(t, "http://"+p.Address(), got["HTTP_PROXY"])
	require.Equal(t, got["HTTP_PROXY"], got["https_proxy"])
	require.NotContains(t, got, "ALL_PROXY")
	require.Equal(t, "<-loopback>,localhost,10.0.0.0/8", got["NO_PROXY"])
	require.Contains(t, got["NODE_OPTIONS"], "--max-old-space-size=99 --require "+dir)
	require.Contains(t, got["JAVA_TOOL_OPTIONS"], "-Xmx1g -Dhttp.proxyHost=127.0.0.1")
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "LAYOVER_CA_FILE"} {
		info, err := os.Stat(got[name])
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		text, err := os.ReadFile(got[name])
		require.NoError(t, err)
		require.NotContains(t, string(text), "PRIVATE")
	}
	_, err = p.Environ([]string{"SSL_CERT_FILE=/nowhere"}, dir)
	require.ErrorContains(t, err, "SSL_CERT_FILE")
}

// TestEnviron_KeepsCertificatesOfUser holds that a variable still names what it named, with the authority added.
func TestEnviron_KeepsCertificatesOfUser(t *testing.T) {
	p, _ := start(t, Options{})
	mine := t.TempDir()
	var given []string
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"} {
		file := filepath.Join(mine, name)
		require.NoError(t, os.WriteFile(file, []byte("# of "+name), 0o600))
		given = append(given, name+"="+file)
	}
	environ, err := p.Environ(given, t.TempDir())
	require.NoError(t, err)
	for name, from := range map[string]string{
		"SSL_CERT_FILE": "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE": "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS": "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE": "SSL_CERT_FILE",
	} {
		at := slices.IndexFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		require.GreaterOrEqual(t, at, 0, name)
		text, err := os.ReadFile(strings.TrimPrefix(environ[at], name+"="))
		require.NoError(t, err)
		require.Contains(t, string(text), "# of "+from+"\n")
		require.Contains(t, string(text), string(p.ca.pem()))
	}
}

// FuzzBypass holds that no list of exceptions leads a program past the proxy to a host of the environment, as Go reads the list.
func FuzzBypass(f *testing.F) {
	for _, list := range []string{"", "localhost,.localhost", ".shop.test", "*", "shop.test:80,*.shop.test", "10.0.0.0/8, cart.shop.test ,x", ".test", "TEST.", "CART.Shop.Test", "<-loopback>"} {
		f.Add(list)
	}
	p := &Proxy{opts: Options{Hosts: []string{"cart.shop.test"}, Ours: func(host string) bool { return strings.HasSuffix(strings.ToLower(withoutPort(host)), ".shop.test") }}}
	f.Fuzz(func(t *testing.T, list string) {
		config := httpproxy.Config{HTTPProxy: "http://127.0.0.1:1", NoProxy: p.bypass(list)}
		to, err := config.ProxyFunc()(&url.URL{Scheme: "http", Host: "cart.shop.test"})
		require.NoError(t, err)
		require.NotNil(t, to, "%q became %q", list, config.NoProxy)
	})
}

// TestProxy_CloseEndsTunnels holds that nothing outlives the proxy, be it a tunnel or an upgraded connection.
func TestProxy_CloseEndsTunnels(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	p, err := Start(Options{Proxy: "127.0.0.1:1", Ours: func(host string) bool { return strings.HasPrefix(host, "cart.") }})
	require.NoError(t, err)
	for _, target := range []string{silent.Addr().String(), "cart.shop.test:80"} {
		conn, err := net.Dial("tcp", p.Address())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, connectIn(conn, target))
		defer func() {
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
			_, err := conn.Read(make([]byte, 1))
			require.Error(t, err)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		}()
	}
	require.NoError(t, p.Close())
}

func connectIn(conn net.Conn, target string) error {
	if _, err := io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 1), &http.Request{Method: http.MethodConnect})
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return err
}

// TestProxy_NeverCallsItself holds that no request goes round and round.
func TestProxy_NeverCallsItself(t *testing.T) {
	p, client := start(t, Options{})
	conn, err := net.Dial("tcp", p.Address())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.ErrorContains(t, connectIn(conn, p.Address()), "502")
	client.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: p.Address()}, nil }
	res, err := client.Get("http://" + p.Address() + "/")
	require.NoError(t, err)
	text, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
	require.Contains(t, string(text), "itself")
}

// TestProxy_CarriesGRPC has gRPC's own client pass its interoperability cases against its own server, of all four kinds.
func TestProxy_CarriesGRPC(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var baggage sync.Map
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			in, _ := metadata.FromIncomingContext(ctx)
			baggage.Store(strings.Join(in.Get("baggage"), "|"), true)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			in, _ := metadata.FromIncomingContext(stream.Context())
			baggage.Store(strings.Join(in.Get("baggage"), "|"), true)
			return next(srv, stream)
		}),
	)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(server.Stop)
	p, _ := start(t, Options{Route: "pr-1", Proxy: ln.Addr().String()})
	roots := x509.NewCertPool()
	roots.AddCert(p.ca.cert)
	for name, creds := range map[string]credentials.TransportCredentials{"plain": insecure.NewCredentials(), "TLS": credentials.NewClientTLSFromCert(roots, "")} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient("passthrough:///greet.shop.test:50051", grpc.WithTransportCredentials(creds), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				conn, err := net.Dial("tcp", p.Address())
				if err != nil {
					return nil, err
				}
				return conn, connectIn(conn, "greet.shop.test:50051")
			}))
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			client := testgrpc.NewTestServiceClient(conn)
			ctx := t.Context()
			interop.DoEmptyUnaryCall(ctx, client)
			interop.DoLargeUnaryCall(ctx, client)
			interop.DoClientStreaming(ctx, client)
			interop.DoServerStreaming(ctx, client)
			interop.DoPingPong(ctx, client)
			interop.DoEmptyStream(ctx, client)
			interop.DoStatusCodeAndMessage(ctx, client)
			interop.DoCancelAfterFirstResponse(ctx, client)
			interop.DoCustomMetadata(ctx, client)
		})
	}
	baggage.Range(func(text, _ any) bool {
		require.Equal(t, "dynamic_route=pr-1", text)
		return true
	})
}

// TestPreload runs a real Node, which asks no proxy by itself before 22.21 and 24.5.
func TestPreload(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no node")
	}
	p, _ := start(t, Options{Route: "pr-1"})
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "other "+r.Header.Get("Baggage")) }))
	defer other.Close()
	script := filepath.Join(t.TempDir(), "calls.cjs")
	require.NoError(t, os.WriteFile(script, []byte(`
const http = require('node:http'), https = require('node:https');
const get = (from, url, options) => new Promise((ok, no) => from.get(url, options || {}, (r) => { let b = ''; r.on('data', (d) => (b += d)); r.on('end', () => ok(b)); }).on('error', no));
(async () => {
  const say = (name, text) => console.log(name, text.trim());
  say('fetch', await (await fetch('http://cart.shop.test:8080/')).text());
  say('fetch-tls', await (await fetch('https://cart.shop.test/', { method: 'POST', body: 'hello' })).text());
  say('http', await get(http, 'http://cart.shop.test:8080/'));
  say('https', await get(https, 'https://cart.shop.test/'));
  const agent = new http.Agent({ keepAlive: true });
  for (let i = 0; i < 3; i++) say('agent' + i, await get(http, 'http://cart.shop.test/', { agent }));
  agent.destroy();
  say('loopback', await get(http, process.argv[2]));
  say('loopback-fetch', await (await fetch(process.argv[2])).text());
  try { await fetch('https://nowhere.invalid/'); say('nowhere', 'reached'); } catch (e) { say('nowhere', String(e.cause || e)); }
})();
`), 0o600))
	environ, err := p.Environ(os.Environ(), t.TempDir())
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), node, script, other.URL)
	cmd.Env = environ
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, said.String())
	lines := map[string]string{}
	for line := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		name, text, _ := strings.Cut(line, " ")
		lines[name] = text
	}
	for _, name := range []string{"fetch", "fetch-tls", "http", "https", "agent0", "agent1", "agent2"} {
		require.Contains(t, lines[name], `"Baggage":"dynamic_route=pr-1"`, name)
	}
	require.Contains(t, lines["fetch-tls"], `"Body":5`)
	require.Equal(t, "other", lines["loopback"])
	require.Equal(t, "other", lines["loopback-fetch"])
	require.NotEmpty(t, lines["nowhere"])
	require.NotContains(t, lines["nowhere"], "reached")
}
