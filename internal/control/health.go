package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

const (
	defaultInterval = 5 * time.Second
	minInterval     = 10 * time.Millisecond
	defaultFailures = 3
	defaultCheck    = 2 * time.Second  // one check
	defaultTimeout  = 2 * time.Minute  // a deployment, from the start of its instance
	defaultDrain    = 10 * time.Second // requests in flight
	defaultGrace    = 10 * time.Second // SIGTERM to SIGKILL

	// aliveFor is how long a process has to live to count as healthy where nothing else is checked.
	aliveFor = 300 * time.Millisecond
	// listens is how long a TCP check waits for the other side to hang up: the
	// port of a container accepts before anything listens inside.
	listens = 20 * time.Millisecond
	// listensApart is the same where the instance has a network of its own: the engine's proxy in front of it takes
	// longer on a busy machine.
	listensApart = 100 * time.Millisecond
)

// checksAtOnce is how many addresses of one instance are checked at a time.
const checksAtOnce = 8

// interval is the time between checks of a healthy instance.
func interval(s api.Service) time.Duration {
	return max(s.Health.Interval.Or(defaultInterval), minInterval)
}

// checkHealth asks one address whether it is healthy, in the service's own way.
func checkHealth(ctx context.Context, s api.Service, a Address) error {
	ctx, cancel := context.WithTimeout(ctx, s.Health.Timeout.Or(defaultCheck))
	defer cancel()
	switch healthKind(s.Health) {
	case api.HealthProcess:
		return nil // the watcher tells when it ends
	case api.HealthHTTP:
		return checkHTTP(ctx, s, a)
	default:
		return checkTCP(ctx, a)
	}
}

func healthKind(h api.Health) string {
	switch {
	case h.Kind != "":
		return h.Kind
	case h.Path != "":
		return api.HealthHTTP
	default:
		return api.HealthTCP
	}
}

func checkTCP(ctx context.Context, a Address) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.HostPort)
	if err != nil {
		return fmt.Errorf("nothing accepts connections at %s: %w", a.HostPort, cause(err))
	}
	defer func() { _ = conn.Close() }()
	wait := listens
	if a.From != "" { // in front of a container there may be a proxy of the engine, which accepts for it, and closes when it finds nobody
		wait = listensApart
	}
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s accepts connections and closes them at once", a.HostPort)
	}
	return nil
}

func checkHTTP(ctx context.Context, s api.Service, a Address) error {
	path := s.Health.Path
	if path == "" {
		path = "/"
	}
	scheme := "http"
	if a.TLS {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+a.HostPort+path, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", path, err)
	}
	req.Header.Set("User-Agent", "layover-health")
	req.Host = a.Host
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{ServerName: a.ServerName, MinVersion: tls.VersionTLS12},
	}
	if route.Protocol(s.Protocol) == route.H2C {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("GET %s at %s: %w", path, a.HostPort, cause(err))
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.CopyN(io.Discard, res.Body, 4<<10)
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return &statusError{path: path, hostPort: a.HostPort, status: res.StatusCode}
	}
	return nil
}

// statusError is an answer that says that an instance is not healthy.
type statusError struct {
	path, hostPort string
	status         int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("GET %s at %s answers %d", e.path, e.hostPort, e.status)
}

// cause cuts the operation and the addresses off a network error: the caller names them better.
func cause(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
