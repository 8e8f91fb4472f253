package cli

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/store"
)

// standBy listens, and returns the store as soon as it is this server's. Meanwhile it answers with what the
// server says that has the store.
func (e *environment) standBy(ctx context.Context, address string) (*store.DB, error) {
	if err := e.listen(ctx); err != nil {
		return nil, err
	}
	var leader atomic.Pointer[string]
	leader.Store(new(string))
	standby, err := server.NewStandby(server.StandbyOptions{
		Leader:         func() string { return *leader.Load() },
		AllowedHosts:   e.allowedHosts(),
		AllowedOrigins: e.file.Server.AllowedOrigins,
		Logger:         e.log,
	})
	if err != nil {
		return nil, err
	}
	serving, endServing := context.WithCancel(ctx)
	defer endServing()
	var group errgroup.Group
	serve := sync.OnceFunc(func() {
		group.Go(func() error {
			return standby.Serve(serving, e.serverLis.(*net.TCPListener)) //nolint:forcetypeassert // listen makes no other
		})
	})
	holder := ""
	db, err := store.WaitPostgres(ctx, address, func(h store.Holder) {
		serve()
		if h.Name != holder {
			holder = h.Name
			e.log.Warn("standing by: another server has the store", "holder", h.Name, "server", e.serverURL())
		}
		if h.URL != *leader.Load() {
			leader.Store(&h.URL)
		}
	})
	endServing()
	if ended := group.Wait(); ended != nil && err == nil {
		err = errors.Join(ended, db.Close())
	}
	return db, err
}

// sharedURL is where other servers reach this one.
func (e *environment) sharedURL() string {
	if e.file.Server.Address != "" {
		return "http://" + e.file.Server.Address
	}
	return e.serverURL()
}

// allowedHosts are the names that this server answers for: those that were set, and its own.
func (e *environment) allowedHosts() []string {
	if e.file.Server.Address == "" {
		return e.file.Server.AllowedHosts
	}
	return append(slices.Clone(e.file.Server.AllowedHosts), e.file.Server.Address)
}
