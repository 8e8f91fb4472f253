package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/internal/route"
)

// Limits of the servers. There is none on the time that a request or answer may take:
// streams have no end.
const (
	maxConcurrentStreams = 1000            // per connection: services share one for all their gRPC streams
	maxReadFrame         = 16 << 10        // bytes: a connection has a buffer for one, of whatever size a client announces
	cutTimeout           = 2 * time.Second // for requests to end once they are cut off

	// How long to wait before Accept is tried again where the system has no descriptors left.
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// errStopping is the cause that ends requests which outlast the drain.
var errStopping = errors.New("the proxy is being stopped")

// Run serves on all listeners until ctx ends or one of them fails. Then it stops accepting,
// lets go of held requests, gives those in flight DrainTimeout to end, and closes
// what is left. It closes the listeners. Call it once for a proxy.
func (p *Proxy) Run(ctx context.Context, listeners ...Listener) error {
	if parking, err := newParking(); err == nil {
		p.parking = parking
		var parked sync.WaitGroup
		parked.Go(parking.run)
		defer func() {
			parking.close()
			p.clients.each((*fastConn).close)
			parked.Wait()
			parking.free()
		}()
	}
	requests, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	group, ctx := errgroup.WithContext(ctx)
	servers := make([]*http.Server, len(listeners))
	for i, listener := range listeners {
		d := newDoor(p, listener)
		servers[i] = p.server(requests, d)
		group.Go(func() error {
			if err := servers[i].Serve(d); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serve %s: %w", listener.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			if err := d.run(); err != nil {
				return fmt.Errorf("accept on %s: %w", listener.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		p.sweep(ctx)
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		p.drain(servers, cut)
		return nil
	})
	return group.Wait()
}

func (p *Proxy) server(requests context.Context, d *door) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !wantsH2C(r) || !p.upgradeH2C(w, r, d) {
				p.serve(w, r, d.Trusted)
			}
		}),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(p.options.Logger.Handler(), slog.LevelDebug),
		Protocols:         &protocols,
		ConnContext:       withConn,
		ReadHeaderTimeout: p.options.HeaderTimeout,
		IdleTimeout:       p.options.IdleTimeout,
		WriteTimeout:      serverLimit(p.sendTimeout), // of a stream of HTTP/2; see sendLimit
		MaxHeaderBytes:    p.options.Header.Bytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxConcurrentStreams,
			SendPingTimeout:      pingAfter,
			PingTimeout:          pingTimeout,
			MaxReadFrameSize:     maxReadFrame,
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
	group.Go(func() error {
		p.clients.drain(ctx)
		return nil
	})
	if err := errors.Join(group.Wait(), p.active.waitIdle(ctx)); err != nil {
		p.options.Logger.Warn("requests cut off at the end of the drain", "requests", p.active.count.Load())
		cut(errStopping)
		p.clients.each((*fastConn).cutOff)
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
	p.pools.closeIdle()
}

// sweepEvery is how often connections that are no longer used are looked for.
const sweepEvery = time.Second

// sweep closes idle connections to instances, and forgets what has left the table, until
// ctx ends. It is no part of SetTable, so that a change costs what it changes.
func (p *Proxy) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var swept *route.Table
	for {
		select {
		case now := <-tick.C:
			p.pools.sweep(now)
			p.transports.sweep(now)
			if table := p.Table(); table != swept {
				p.versions.sweep(table)
				p.flights.sweep(table)
				p.callers.sweep()
				swept = table
			}
		case <-ctx.Done():
			return
		}
	}
}
