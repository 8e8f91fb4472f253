// Package forward is a private HTTP proxy that puts a route into the requests of one program, so that the program needs no change.
//
// It listens on loopback. Requests to hosts of the environment get the baggage members of the route and of the test run, and go to
// Layover's proxy, whatever DNS says of those hosts; where they have no trace, one begins with them. What is for other hosts is passed on as it is. It understands what
// programs do with HTTP_PROXY and HTTPS_PROXY: requests in absolute form (RFC 9112, section 3.2.2), and CONNECT (RFC 9110,
// section 9.3.6), within which it finds out whether TLS, HTTP/2 or HTTP/1.1 is spoken.
package forward

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// Options say what a Proxy carries, and where to.
type Options struct {
	Route      string                                // "" for none: only the run is added
	Run        string                                // ID of the test run; "" for none
	BaggageKey string                                // of the route
	Proxy      string                                // host:port of Layover's proxy
	Ours       func(host string) bool                // says whether a host, with or without port, is one of the environment
	Hosts      []string                              // of the environment that are known by name, to be kept out of NO_PROXY
	Upstream   func(*http.Request) (*url.URL, error) // the proxy for other hosts; nil for none
}

// Proxy is a running proxy.
type Proxy struct {
	opts    Options
	ln      net.Listener
	conns   *conns
	server  *http.Server
	inner   *http.Server // within tunnels
	tunnels *tunnels
	ca      *authority
	ours    *httputil.ReverseProxy
	others  *httputil.ReverseProxy
	plain   *http.Transport
	h2c     *http.Transport
	outside *http.Transport

	mu     sync.Mutex
	counts map[string]int
}

// Bounds of what programs may do.
const (
	maxHead     = 1 << 20
	dialTimeout = 10 * time.Second
	sniffTime   = 30 * time.Second // until a tunnel's first byte
	maxHosts    = 1000             // that are counted apart
	maxConns    = 4096             // of programs; further ones wait
	idleProgram = 3 * time.Minute  // as Layover's proxy: programs close first
	idleLayover = time.Minute      // shorter than that proxy's, which so never closes what is about to be used
)

// Start returns a proxy that listens on loopback.
func Start(o Options) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	ca, err := newAuthority()
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	p := &Proxy{opts: o, ln: ln, ca: ca, counts: map[string]int{}, tunnels: newTunnels(ln.Addr())}
	p.conns = newConns(ln, maxConns)
	toLayover := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, o.Proxy)
	}
	p.plain = &http.Transport{DialContext: toLayover, DisableCompression: true, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: idleLayover}
	p.h2c = &http.Transport{DialContext: toLayover, DisableCompression: true, Protocols: new(http.Protocols), IdleConnTimeout: idleLayover}
	p.h2c.Protocols.SetUnencryptedHTTP2(true)
	p.outside = &http.Transport{DialContext: p.dial, Proxy: o.Upstream, DisableCompression: true, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: idleLayover}
	quiet := log.New(io.Discard, "", 0)
	p.ours = &httputil.ReverseProxy{Rewrite: p.carry, Transport: roundTripper(p.toLayover), ErrorLog: quiet, ErrorHandler: p.refuse}
	p.others = &httputil.ReverseProxy{Rewrite: keepForwarded, Transport: roundTripper(p.toOthers), ErrorLog: quiet, ErrorHandler: p.refuse}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: sniffTime, IdleTimeout: idleProgram, MaxHeaderBytes: maxHead, ErrorLog: quiet}
	p.inner = &http.Server{
		Handler: http.HandlerFunc(p.serveTunnelled), ReadHeaderTimeout: sniffTime, IdleTimeout: idleProgram, MaxHeaderBytes: maxHead, ErrorLog: quiet, Protocols: &protocols,
	}
	go func() { _ = p.server.Serve(p.conns) }()
	go func() { _ = p.inner.Serve(p.tunnels) }()
	return p, nil
}

// Address is where the proxy listens, as host:port.
func (p *Proxy) Address() string { return p.ln.Addr().String() }

// Close ends the proxy, and all that goes through it.
func (p *Proxy) Close() error {
	err := errors.Join(p.server.Close(), p.inner.Close(), p.tunnels.Close())
	p.conns.end() // tunnels and upgraded connections are no longer the servers'
	for _, t := range []*http.Transport{p.plain, p.h2c, p.outside} {
		t.CloseIdleConnections()
	}
	return err
}

// Counts returns how many requests went to each host of the environment.
func (p *Proxy) Counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

// Requests returns how many requests went to the environment.
func (p *Proxy) Requests() (n int) {
	for _, of := range p.Counts() {
		n += of
	}
	return n
}

// serve answers a program.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.Host == "" || r.URL.Scheme != "http" && r.URL.Scheme != "https":
		http.Error(w, "This is the forward proxy of layover exec: it takes requests in absolute form, and CONNECT, as programs that honour HTTP_PROXY send them.", http.StatusBadRequest)
	case p.opts.Ours(r.URL.Host):
		r.Host = r.URL.Host
		p.ours.ServeHTTP(w, r)
	default:
		p.others.ServeHTTP(w, r)
	}
}

// serveTunnelled answers a request within a tunnel to a host of the environment.
func (p *Proxy) serveTunnelled(w http.ResponseWriter, r *http.Request) { p.ours.ServeHTTP(w, r) }

// carry makes the request that Layover's proxy gets.
func (p *Proxy) carry(pr *httputil.ProxyRequest) {
	p.count(pr.In.Host)
	keepForwarded(pr)
	out := pr.Out
	out.URL.Scheme, out.URL.Host, out.Host = "http", p.opts.Proxy, pr.In.Host
	lines := pr.In.Header.Values("Baggage")
	if p.opts.Run != "" {
		lines = route.PrependMember(lines, route.RunKey, p.opts.Run)
	}
	if p.opts.Route != "" {
		lines = route.PrependMember(lines, p.opts.BaggageKey, p.opts.Route)
	}
	if len(lines) > 0 {
		out.Header["Baggage"] = lines
	}
	if secure := pr.In.TLS != nil || pr.In.URL.Scheme == "https"; secure && len(out.Header["X-Forwarded-Proto"]) == 0 {
		out.Header["X-Forwarded-Proto"] = []string{"https"} // the program's TLS ends here
	}
	if p.opts.Run != "" && !isTraced(out.Header) {
		out.Header["Traceparent"] = []string{newTraceparent()}
	}
}

// isTraced says whether the program sends a trace of its own.
func isTraced(h http.Header) bool {
	for _, name := range []string{"Traceparent", "B3", "X-B3-Traceid", "X-Datadog-Trace-Id", "X-Amzn-Trace-Id", "Uber-Trace-Id", "Sentry-Trace"} {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

// newTraceparent begins a trace (W3C Trace Context, section 3.2), to be recorded: most services that lose baggage pass that on, and so
// it is known which requests belong to the run nonetheless.
func newTraceparent() string {
	var ids [24]byte
	_, _ = rand.Read(ids[:]) // never fails
	return fmt.Sprintf("00-%x-%x-01", ids[:16], ids[16:])
}

// keepForwarded passes on what other proxies said, and sets nothing of its own: the program is the client.
func keepForwarded(pr *httputil.ProxyRequest) {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values := pr.In.Header[name]; len(values) > 0 {
			pr.Out.Header[name] = slices.Clone(values)
		}
	}
	if _, named := pr.In.Header["User-Agent"]; !named {
		pr.Out.Header["User-Agent"] = nil // net/http would name itself
	}
}

func (p *Proxy) count(host string) {
	host = strings.ToLower(withoutPort(host))
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.counts[host]; known || len(p.counts) < maxHosts {
		p.counts[host]++
	}
}

// toLayover sends a request in the protocol that it came in: gRPC needs HTTP/2.
func (p *Proxy) toLayover(r *http.Request) (*http.Response, error) {
	if r.ProtoMajor == 2 {
		return flushed(p.h2c.RoundTrip(r))
	}
	return flushed(p.plain.RoundTrip(r))
}

func (p *Proxy) toOthers(r *http.Request) (*http.Response, error) {
	return flushed(p.outside.RoundTrip(r))
}

// flushed has a response passed on as it comes, unless it has no body: ReverseProxy flushes what is of unknown length. Were it to
// flush all, it would cut the end of the stream off an answer of gRPC that is trailers alone, which so would be none.
func flushed(res *http.Response, err error) (*http.Response, error) {
	if err == nil && res.ContentLength > 0 {
		res.ContentLength = -1 // the header says it still
	}
	return res, err
}

func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	at := r.Host
	if p.opts.Ours(r.Host) {
		at += " by way of Layover's proxy at " + p.opts.Proxy
	}
	http.Error(w, fmt.Sprintf("layover exec cannot reach %s: %v", at, err), http.StatusBadGateway)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// withoutPort is a host without its port, and without the brackets of an IPv6 address.
func withoutPort(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}
