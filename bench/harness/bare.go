package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/layover-dev/layover/internal/route"
)

// reverseProxy is Go's own, bare: one map from host and version to an address.
type reverseProxy struct{}

// Name is "reverseproxy".
func (reverseProxy) Name() string { return "reverseproxy" }

// Install has nothing to do.
func (reverseProxy) Install(context.Context) error { return nil }

// Start runs it.
func (reverseProxy) Start(ctx context.Context, s Setup) (*Running, error) {
	table, err := s.writeFile("table", bareTable(s))
	if err != nil {
		return nil, err
	}
	p, err := startRole("reverseproxy", ProxyCPU, table)
	if err != nil {
		return nil, err
	}
	return bareRunning(ctx, p)
}

// fastHTTP is the server and client of the library of that name, bare, from a module of its own.
type fastHTTP struct{ binary string }

// Name is "fasthttp".
func (*fastHTTP) Name() string { return "fasthttp" }

// Install builds it.
func (f *fastHTTP) Install(ctx context.Context) error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	folder, err := moduleDir(ctx, "bench/peers/fasthttp")
	if err != nil {
		return err
	}
	f.binary = filepath.Join(cache, "bench-fasthttp")
	return buildPeer(ctx, folder, f.binary, []string{"."}) // a second with Go's cache
}

// Start runs it.
func (f *fastHTTP) Start(ctx context.Context, s Setup) (*Running, error) {
	table, err := s.writeFile("table", bareTable(s))
	if err != nil {
		return nil, err
	}
	p, err := start(exec.Command(f.binary, table), ProxyCPU)
	if err != nil {
		return nil, err
	}
	return bareRunning(ctx, p)
}

// bareRunning waits for the address that a bare proxy writes.
func bareRunning(ctx context.Context, p *Process) (*Running, error) {
	var address string
	if err := p.answer(ctx, &address); err != nil {
		p.Stop()
		return nil, err
	}
	return &Running{Process: p, Address: address}, nil
}

// bareTable is a line for each route: host|version, a tab, the address.
func bareTable(s Setup) string {
	var b strings.Builder
	s.Routes.each(func(host, version string, backend int) {
		fmt.Fprintf(&b, "%s|%s\t%s\n", host, version, s.Backend.Address(s.Routes.Protocol, backend))
	})
	return b.String()
}

func serveReverseProxy(in io.Reader, out io.Writer) error {
	var path string
	if err := readOrder(in, &path); err != nil {
		return err
	}
	table, err := readTable(path)
	if err != nil {
		return err
	}
	var buffers sync.Pool
	buffers.New = func() any { return make([]byte, 32<<10) }
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.Host = "http", r.In.Host
			version := versionIn(r.In.Header.Get("Baggage"))
			address, ok := table[r.In.Host+"|"+version]
			if !ok {
				address = table[r.In.Host+"|"+route.DefaultVersion]
			}
			r.Out.URL.Host = address
			r.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		BufferPool: (*pooled)(&buffers),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(l.Addr().String()); err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, in); os.Exit(0) }() // the parent is gone
	return http.Serve(l, proxy)                                //nolint:gosec // a measurement has no slow clients
}

type pooled sync.Pool

// Get lends a buffer.
func (p *pooled) Get() []byte { return (*sync.Pool)(p).Get().([]byte) }

// Put takes it back.
func (p *pooled) Put(b []byte) { (*sync.Pool)(p).Put(b) } //nolint:staticcheck // one allocation more is nothing beside those of the proxy

func readTable(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	table := map[string]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		key, address, _ := strings.Cut(lines.Text(), "\t")
		table[key] = address
	}
	return table, lines.Err()
}

// versionIn reads the version from baggage, without the care that it takes to do so rightly.
func versionIn(baggage string) string {
	_, after, ok := strings.Cut(baggage, route.DefaultBaggageKey+"=")
	if !ok {
		return route.DefaultVersion
	}
	if end := strings.IndexAny(after, ",;"); end >= 0 {
		after = after[:end]
	}
	return after
}
