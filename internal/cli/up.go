package cli

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/store"
)

type upOptions struct {
	File  string
	Data  string
	Store string
	Debug bool
}

func (o *upOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.File, "file", "f", config.FileName, "configuration file")
	f.StringVar(&o.Data, "data", "", "folder of store, logs and instances (default: .layover beside the file)")
	f.StringVar(&o.Store, "store", "", "folder or .db file of the store, or postgres:// URL (LAYOVER_STORE; default: in the data folder)")
	f.BoolVar(&o.Debug, "debug", false, "log more")
}

func newUpCmd(app *App) *cobra.Command {
	opts := &upOptions{}
	cmd := &cobra.Command{
		Use:     "up",
		GroupID: groupRun,
		Short:   "Run server, proxy and runtimes in one process",
		Long: `Run the environment that layover.yaml describes: server, proxy and runtimes in one
process. The file is applied at the start; versions deployed since are kept, and run again.

Ctrl-C drains, and stops what it started; so does a closed terminal, unless nohup keeps it
away. After a crash the next start adopts what still runs.`,
		Example: `  layover up
  layover up -f examples/shop/layover.yaml
  LAYOVER_PROXY_LISTEN=127.0.0.1:9090 layover up`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUp(cmd.Context(), app, opts, openEnvironment) },
	}
	opts.flags(cmd)
	return cmd
}

func newServerCmd(app *App) *cobra.Command {
	opts := &upOptions{}
	cmd := &cobra.Command{
		Use:     "server",
		GroupID: groupRun,
		Short:   "Run server and runtimes, for proxies that run apart",
		Long: `Run the environment that layover.yaml describes as layover up does, but without a proxy in
the process: proxies follow this server, and serve on while it is away. Instances and previews
reach them at proxy.address (LAYOVER_PROXY_ADDRESS).

Where the store is a PostgreSQL database, several servers can share it: one has it and does the
work, the others answer from the store or ask that one, and one of them takes over where it is
gone.

Ctrl-C and SIGTERM end the server alone. What it started goes on, the proxies serve it, and the
next start adopts it. To end versions, stop them first.`,
		Example: `  layover server
  LAYOVER_PROXY_ADDRESS=10.0.0.7:8080 layover server -f shop/layover.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for {
				err := runUp(cmd.Context(), app, opts, openServer)
				if !errors.Is(err, store.ErrTaken) || cmd.Context().Err() != nil {
					return err
				}
				printError(app, err) // and stand by
			}
		},
	}
	opts.flags(cmd)
	return cmd
}

// opener is openEnvironment or openServer.
type opener func(ctx context.Context, file *config.File, data string, log *slog.Logger) (*environment, error)

func runUp(ctx context.Context, app *App, opts *upOptions, open opener) error {
	ctx, stop := app.untilAlone(ctx)
	defer stop()
	file, err := loadFile(app, opts.File)
	if err != nil {
		return err
	}
	if err := setStore(file, opts.Store); err != nil {
		return err
	}
	data := dataFolder(opts.File, opts.Data)
	level := slog.LevelWarn
	if opts.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(app.Err, &slog.HandlerOptions{Level: level}))
	limitMemory(log, memlimit.FromCgroup)
	env, err := open(ctx, file, data, log)
	if err != nil {
		return err
	}
	defer func() { _ = env.close() }()
	app.say("environment %s\n  server  %s\n", app.bold(file.Environment), env.serverURL())
	for _, l := range env.proxies {
		scheme := "http"
		if l.TLS != nil {
			scheme = "https"
		}
		app.say("  proxy   %s://%s\n", scheme, reachable(l.Listener.Addr().String()))
	}
	if env.apart {
		app.say("  proxy   runs apart: see layover ls proxies\n")
	}
	before, err := env.control.LastEvent(ctx)
	if err != nil {
		return err
	}
	err = env.run(ctx, func(ctx context.Context) error { return watchUp(ctx, app, env, before) })
	switch {
	case ctx.Err() == nil:
	case env.apart:
		app.say("the server ended; what it started goes on\n")
	default:
		app.say("stopped\n")
	}
	return err
}

// loadFile reads the configuration, with the environment variables over it.
func loadFile(app *App, name string) (*config.File, error) {
	err := checkReadable(name, config.FileName, "write one with `layover init`, name it with -f, or try `layover demo`")
	if err != nil {
		return nil, err
	}
	file, err := config.Load(name)
	if err != nil {
		return nil, err
	}
	if err := file.ApplyEnv(app.Environ); err != nil {
		return nil, err
	}
	return file, file.Validate()
}

// watchUp tells what happens in the environment behind the event after, until ctx ends.
func watchUp(ctx context.Context, app *App, env *environment, after int64) error {
	stop := context.AfterFunc(ctx, func() {
		if !env.apart {
			app.say("draining; again to leave at once\n")
		}
	})
	defer stop()
	told := []api.EventType{
		api.EventDeployDone, api.EventDeployFailed, api.EventVersionStopped, api.EventVersionRemoved,
		api.EventInstanceExited, api.EventInstanceAdopted, api.EventInstanceHealth, api.EventOrphanFound, api.EventOrphanEnded,
	}
	for {
		events, err := env.control.Events(ctx, after, 256)
		if err != nil {
			return err
		}
		for _, e := range events {
			after = e.ID
			if slices.Contains(told, e.Type) {
				tellEvent(app, e)
			}
		}
		if len(events) == 0 {
			if err := env.control.WaitEvents(ctx, after); err != nil {
				return nil //nolint:nilerr // only ctx ends it
			}
		}
	}
}

func tellEvent(app *App, e api.Event) {
	mark := app.green("✓")
	if e.Type == api.EventDeployFailed || e.Type == api.EventInstanceExited {
		mark = app.red("✗")
	}
	app.say("  %s %s%s\n", mark, e.Message, took(e))
	for _, line := range e.LogTail {
		app.say("    | %s\n", line)
	}
}
