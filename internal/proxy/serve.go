package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits of the servers. There is none on the time that a request or answer may take:
// streams have no end.
const (
	maxHeaderBytes       = 1 << 20         // a baggage field over the 8,192 bytes that are read is still forwarded
	maxConcurrentStreams = 1000            // per connection: services share one for all their gRPC streams
	cutTimeout           = 2 * time.Second // for requests to end once they are cut off
)

// Listener is a place where a proxy accepts connections: HTTP/1.1, and HTTP/2
// without TLS by prior knowledge.
type Listener struct {
	net.Listener

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
		servers[i] = p.server(requests, listener.Trusted)
		limited := &limitedListener{Listener: listener.Listener, limit: p.conns, trusted: listener.Trusted, plain: true}
		group.Go(func() error {
			if err := servers[i].Serve(limited); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", listener.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		p.drain(servers, cut)
		return nil
	})
	return group.Wait()
}

func (p *Proxy) server(requests context.Context, trusted bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, trusted) }),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(p.options.Logger.Handler(), slog.LevelDebug),
		Protocols:         &protocols,
		ReadHeaderTimeout: p.options.HeaderTimeout,
		IdleTimeout:       p.options.IdleTimeout,
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
