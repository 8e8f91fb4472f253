package server

import (
	"context"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/route"
)

// Control is what the server serves: the rules of one environment. Its errors
// that may be shown are [*control.Error]. [*control.Control] is one.
type Control interface {
	Services
	Versions
	Routes
	Tables
	Proxies
	Events
	Drifts

	// Ready returns nil when the environment can be changed, or why it cannot.
	Ready(ctx context.Context) error
}

var _ Control = (*control.Control)(nil)

// Services keeps the services of the environment.
type Services interface {
	Services(ctx context.Context) ([]api.Service, error)
	PutService(ctx context.Context, s api.Service) error
	RemoveService(ctx context.Context, name, actor string) error
}

// Versions runs the versions of services. What changes a version returns when
// the wish is recorded; the work goes on, and events tell of it.
type Versions interface {
	VersionPage(ctx context.Context, p control.Page) (versions []api.Version, next string, err error)
	Version(ctx context.Context, key control.Key) (api.Version, error)
	Deploy(ctx context.Context, key control.Key, d api.Deployment) (api.Version, error)
	Start(ctx context.Context, key control.Key, by control.By) (api.Version, error)
	Stop(ctx context.Context, key control.Key, by control.By) (api.Version, error)
	Restart(ctx context.Context, key control.Key, by control.By) (api.Version, error)
	Remove(ctx context.Context, key control.Key, by control.By) (api.Version, error)
	Rollback(ctx context.Context, key control.Key, to int64, by control.By) (api.Version, error)
	Scale(ctx context.Context, key control.Key, replicas int, by control.By) (api.Version, error)
	History(ctx context.Context, key control.Key) ([]api.Generation, error)
	Sleep(ctx context.Context, key control.Key, by control.By) (api.Version, error)
	Wake(ctx context.Context, key control.Key, by control.By) (api.Version, error)
	Extend(ctx context.Context, key control.Key, e api.Extension, by control.By) (api.Version, error)
	Logs(ctx context.Context, q control.LogQuery) (control.Log, error)
}

// Drifts tells in what the runtimes differ from what is wanted. Collect removes what nobody
// wants, unless it is a dry run.
type Drifts interface {
	Drift(ctx context.Context) ([]api.Drift, error)
	Collect(ctx context.Context, dryRun bool) ([]api.Drift, error)
}

// Routes keeps the named routes.
type Routes interface {
	Routes(ctx context.Context) ([]api.NamedRoute, error)
	PutRoute(ctx context.Context, r api.NamedRoute, actor string) error
	RemoveRoute(ctx context.Context, name, actor string) error
}

// Tables gives the routing table. WaitTable returns the table in force once it is of another
// epoch than after, or its revision is above, and other proxies may have it. TableChanges
// returns the changes that lead there from the table at after, oldest first, and false where
// they are not all kept, or are of another epoch.
type Tables interface {
	Table() *route.Table
	WaitTable(ctx context.Context, after route.Position) (*route.Table, error)
	TableChanges(after route.Position) ([]control.TableChange, bool)
}

// Proxies knows the stand-alone proxies by what they report.
type Proxies interface {
	Proxies(ctx context.Context) ([]api.Proxy, error)
	ReportProxy(ctx context.Context, r api.ProxyReport) error
}

// Events gives the event log. Events returns at most limit events with an ID
// above after, oldest first; WaitEvents returns when there is one.
type Events interface {
	Events(ctx context.Context, after int64, limit int) ([]api.Event, error)
	WaitEvents(ctx context.Context, after int64) error
	LastEvent(ctx context.Context) (int64, error)
}
