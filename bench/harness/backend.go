package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/layover-dev/layover/internal/route"
)

// backendHeader carries the backend's number where the body cannot.
const backendHeader = "x-backend"

// What route sets can speak beside plain HTTP/1.1 and HTTP/2. Proxies know those two only.
const (
	GRPC    route.Protocol = "grpc"     // unary calls
	Bulk    route.Protocol = "bulk"     // HTTP/1.1 to a backend that takes and makes big bodies
	BulkH2C route.Protocol = "bulk-h2c" // the same over HTTP/2
)

// Backend is the process that all versions of all routes run at. It knows by the
// address it is reached at which one it is, and its answer says so.
type Backend struct {
	*Process
	ports ports
}

type ports struct {
	HTTP1 int `json:"http1"`
	H2C   int `json:"h2c"`
	GRPC  int `json:"grpc"`
	Bulk  int `json:"bulk"`
}

// StartBackend starts it. Processes other than proxies share its processor.
func StartBackend(ctx context.Context) (*Backend, error) {
	p, err := startRole("backend", LoadCPU, struct{}{})
	if err != nil {
		return nil, err
	}
	b := &Backend{Process: p}
	if err := p.answer(ctx, &b.ports); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start the backend: %w", err)
	}
	return b, nil
}

// Address is where one of the backends is reached.
func (b *Backend) Address(protocol route.Protocol, backend int) string {
	port := b.ports.HTTP1
	switch protocol {
	case route.H2C:
		port = b.ports.H2C
	case GRPC:
		port = b.ports.GRPC
	case Bulk, BulkH2C:
		port = b.ports.Bulk
	}
	return net.JoinHostPort(backendIP(backend), strconv.Itoa(port))
}

// serveBackend is the role: it lasts until its standard input ends.
func serveBackend(in io.Reader, out io.Writer) error {
	var found ports
	for port, serve := range map[*int]func([]net.Listener) error{
		&found.HTTP1: serveHTTP1, &found.H2C: serveH2C, &found.GRPC: serveGRPC, &found.Bulk: serveBulk,
	} {
		listeners, err := listenAtAll()
		if err != nil {
			return err
		}
		*port = listeners[0].Addr().(*net.TCPAddr).Port
		if err := serve(listeners); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(out).Encode(found); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

// listenAtAll listens on one port at the addresses of all backends.
func listenAtAll() ([]net.Listener, error) {
	var failed error
	for range 20 { // the port may be taken at one of them
		var listeners []net.Listener
		port := "0"
		for i := range Backends {
			l, err := net.Listen("tcp", net.JoinHostPort(backendIP(i), port))
			if err != nil {
				failed = err
				break
			}
			listeners = append(listeners, l)
			_, port, _ = net.SplitHostPort(l.Addr().String())
		}
		if len(listeners) == Backends {
			return listeners, nil
		}
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	return nil, fmt.Errorf("listen at %d loopback addresses: %w", Backends, failed)
}

func number(local net.Addr) int { return int(local.(*net.TCPAddr).IP.To4()[3]) - 2 }

// serveHTTP1 answers requests without a body by a loop over the connection that
// costs little, so that it is the proxy which is at its limit.
func serveHTTP1(listeners []net.Listener) error {
	for i, l := range listeners {
		body := body(i)
		answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go answerAll(conn, answer)
			}
		}()
	}
	return nil
}

func body(backend int) string { return fmt.Sprintf("backend-%02d\n", backend) }

func answerAll(conn net.Conn, answer []byte) {
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 8192)
	n := 0
	for {
		got, err := conn.Read(buf[n:])
		if err != nil {
			return
		}
		n += got
		for {
			end := bytes.Index(buf[:n], []byte("\r\n\r\n"))
			if end < 0 {
				break
			}
			n = copy(buf, buf[end+4:n])
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
		if n == len(buf) {
			return // no head of ours is that long
		}
	}
}

func serveH2C(listeners []net.Listener) error {
	serveNetHTTP(listeners, sayWho)
	return nil
}

// sayWho answers with the backend's number.
func sayWho(w http.ResponseWriter, r *http.Request) {
	text := body(number(r.Context().Value(http.LocalAddrContextKey).(net.Addr)))
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = io.WriteString(w, text) // the client may be gone
}

// serveNetHTTP serves HTTP/1.1 and HTTP/2 without TLS.
func serveNetHTTP(listeners []net.Listener, handler http.HandlerFunc) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: &protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000}} //nolint:gosec // for the proxy only
	for _, l := range listeners {
		go func() { _ = server.Serve(l) }() // until the process ends
	}
}

func serveGRPC(listeners []net.Listener) error {
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, healthServer{})
	for _, l := range listeners {
		go func() { _ = server.Serve(l) }() // until the process ends
	}
	return nil
}

// healthServer is a unary call that says in its header which backend answers.
type healthServer struct {
	grpc_health_v1.UnimplementedHealthServer
}

// Check answers with the number of the backend.
func (healthServer) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("a call without a peer")
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs(backendHeader, strconv.Itoa(number(from.LocalAddr)))); err != nil {
		return nil, err
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// readOrder reads the first line.
func readOrder(in io.Reader, into any) error {
	reader, ok := in.(*bufio.Reader)
	if !ok {
		reader = bufio.NewReader(in)
	}
	line, err := reader.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}
