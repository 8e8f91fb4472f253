package cli

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/store"
	"github.com/layover-dev/layover/internal/telemetry"
)

// standBy listens, and returns the store as soon as it is this server's. Meanwhile it answers what it can by itself, and
// asks the server that has the store for the rest.
func (e *environment) standBy(ctx context.Context, address string) (*store.DB, error) {
	if err := e.listen(ctx); err != nil {
		return nil, err
	}
	shared, err := store.JoinPostgres(ctx, address)
	if err != nil {
		return nil, err
	}
	standby, err := server.NewStandby(server.StandbyOptions{
		Known:          control.NewStandby(shared),
		Environment:    e.describe(),
		Build:          build(),
		AllowedHosts:   e.allowedHosts(),
		AllowedOrigins: e.file.Server.AllowedOrigins,
		Metrics:        telemetry.Handler(telemetry.NewRegistry(telemetry.Server(func() telemetry.ServerFigures { return telemetry.ServerFigures{Build: build().Version} }))),
		Logger:         e.log,
	})
	if err != nil {
		return nil, errors.Join(err, shared.Close())
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
	db, err := shared.Take(ctx, func(h store.Holder) {
		standby.Lead(h.URL, h.Known)
		serve()
		if h.Name != holder {
			holder = h.Name
			e.log.Warn("standing by: another server has the store", "holder", h.Name, "server", e.serverURL())
		}
	})
	endServing()
	if err = errors.Join(err, group.Wait()); err != nil {
		return nil, errors.Join(err, shared.Close())
	}
	return db, nil
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
