package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits of the servers. There is none on the time that a request or answer may take:
// streams have no end.
const (
	readHeaderTimeout    = 15 * time.Second
	clientIdleTimeout    = 3 * time.Minute // longer than clients keep connections, so that they close first
	maxHeaderBytes       = 1 << 20         // a baggage field over the 8,192 bytes that are read is still forwarded
	maxConcurrentStreams = 1000            // per connection: services share one for all their gRPC streams
	cutTimeout           = 2 * time.Second // for requests to end once they are cut off

	// How long to wait before Accept is tried again where the system has no descriptors left.
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// Listener is a place where a proxy accepts connections: HTTP/1.1 and HTTP/2, and that
// without TLS by prior knowledge or Upgrade.
type Listener struct {
	net.Listener

	// TLS is what connections are encrypted with; see [Certificates.TLSConfig]. Nil
	// means not at all.
	TLS *tls.Config

	// Trusted says that only people who may see the whole environment reach
	// it: an unknown host is answered with the hosts that it resembles.
	Trusted bool
}

// errStopping is the cause that ends requests which outlast the drain.
var errStopping = errors.New("the proxy is being stopped")

// Run serves on all listeners until ctx ends or one of them fails. Then it stops accepting,
// lets go of held requests, gives those in flight DrainTimeout to end, and closes
// what is left. It closes the listeners. Call it once for a proxy.
func (p *Proxy) Run(ctx context.Context, listeners ...Listener) error {
	requests, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	group, ctx := errgroup.WithContext(ctx)
	servers := make([]*http.Server, len(listeners))
	for i, listener := range listeners {
		conns := newHandoff(listener.Addr())
		servers[i] = p.server(requests, listener.Trusted, conns)
		group.Go(func() error {
			if err := servers[i].Serve(conns); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", listener.Addr(), err)
			}
			return nil
		})
		group.Go(func() error { return p.accept(listener, conns) })
	}
	group.Go(func() error {
		<-ctx.Done()
		p.drain(servers, cut)
		return nil
	})
	return group.Wait()
}

// accept hands the connections of a listener to the server behind conns, until that
// closes conns. It ends the listener.
func (p *Proxy) accept(listener Listener, conns *handoff) error {
	defer func() { _ = listener.Close() }()
	stop := context.AfterFunc(conns.closed, func() { _ = listener.Close() })
	defer stop()
	config := listener.TLS
	if config != nil {
		config = batchHTTP2(config)
	}
	pause := time.Duration(0)
	for {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			pause = 0
			go p.admit(conn, config, conns)
		case conns.closed.Err() != nil:
			return nil
		case isShortage(err):
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			p.options.Logger.Warn("connections wait: none can be accepted", "listener", listener.Addr().String(), "err", err)
			select {
			case <-time.After(pause):
			case <-conns.closed.Done():
			}
		default:
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		}
	}
}

// admit makes of a new connection what the server gets to see.
func (p *Proxy) admit(conn net.Conn, config *tls.Config, conns *handoff) {
	// A peer that is slow with its header must not outlast the proxy.
	stop := context.AfterFunc(conns.closed, func() { _ = conn.Close() })
	defer stop()
	client, err := unwrapProxied(conn, p.proxied)
	if err != nil {
		p.options.Logger.Debug("connection refused", "peer", conn.RemoteAddr().String(), "err", err)
		_ = conn.Close()
		return
	}
	client = newBatchConn(client)
	if config != nil {
		client = tls.Server(client, config) // the server shakes hands
	}
	if !conns.give(client) {
		_ = client.Close()
	}
}

// isShortage says whether Accept may work again once others have given something back.
func isShortage(err error) bool {
	for _, shortage := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, shortage) {
			return true
		}
	}
	return false
}

// handoff is a listener whose connections come from within the program.
type handoff struct {
	addr   net.Addr
	conns  chan net.Conn
	closed context.Context // ends when the server no longer accepts
	end    context.CancelFunc
}

func newHandoff(addr net.Addr) *handoff {
	closed, end := context.WithCancel(context.Background())
	return &handoff{addr: addr, conns: make(chan net.Conn), closed: closed, end: end}
}

// give hands a connection over. It says whether there was somebody to take it.
func (h *handoff) give(conn net.Conn) bool {
	select {
	case h.conns <- conn:
		return true
	case <-h.closed.Done():
		return false
	}
}

// Accept is for [net/http.Server].
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.closed.Done():
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and with it the listener that the connections came from.
func (h *handoff) Close() error {
	h.end()
	return nil
}

// Addr returns the address of the listener that the connections came from.
func (h *handoff) Addr() net.Addr { return h.addr }

func (p *Proxy) server(requests context.Context, trusted bool, conns *handoff) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !wantsH2C(r) || !p.upgradeH2C(w, r, conns) {
				p.serve(w, r, trusted)
			}
		}),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(p.options.Logger.Handler(), slog.LevelDebug),
		Protocols:         &protocols,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       clientIdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxConcurrentStreams,
			SendPingTimeout:      pingAfter,
			PingTimeout:          pingTimeout,
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is for the service
	}
}

// drain ends the servers. Their Shutdown does not wait for upgraded connections, so the
// requests are counted apart.
func (p *Proxy) drain(servers []*http.Server, cut context.CancelCauseFunc) {
	p.stop.Do(func() { close(p.stopping) })
	ctx, cancel := context.WithTimeout(context.Background(), p.options.DrainTimeout)
	defer cancel()
	var group errgroup.Group
	for _, server := range servers {
		group.Go(func() error { return server.Shutdown(ctx) })
	}
	if err := errors.Join(group.Wait(), p.active.waitIdle(ctx)); err != nil {
		p.options.Logger.Warn("requests cut off at the end of the drain", "requests", p.active.count.Load())
		cut(errStopping)
		for _, server := range servers {
			_ = server.Close() // what Shutdown left; its listeners are closed already
		}
		ctx, cancel := context.WithTimeout(context.Background(), cutTimeout)
		defer cancel()
		if err := p.active.waitIdle(ctx); err != nil {
			p.options.Logger.Error("requests did not end", "requests", p.active.count.Load())
		}
	}
	p.transports.closeIdle()
}
