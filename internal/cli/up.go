package cli

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
)

type upOptions struct {
	File  string
	Data  string
	Debug bool
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := app.untilAlone(cmd.Context())
			defer stop()
			return runUp(ctx, app, opts)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opts.File, "file", "f", config.FileName, "configuration file")
	f.StringVar(&opts.Data, "data", "", "folder of store, logs and instances (default: .layover beside the file)")
	f.BoolVar(&opts.Debug, "debug", false, "log more")
	return cmd
}

func runUp(ctx context.Context, app *App, opts *upOptions) error {
	file, err := loadFile(app, opts.File)
	if err != nil {
		return err
	}
	data := opts.Data
	if data == "" {
		data = filepath.Join(filepath.Dir(opts.File), ".layover")
	}
	level := slog.LevelWarn
	if opts.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(app.Err, &slog.HandlerOptions{Level: level}))
	env, err := openEnvironment(ctx, file, data, log)
	if err != nil {
		return err
	}
	defer func() { _ = env.close() }()
	app.say("environment %s\n  server  %s\n", app.bold(file.Environment), env.serverURL())
	for _, l := range env.proxies {
		app.say("  proxy   http://%s\n", reachable(l.Listener.Addr().String()))
	}
	before, err := env.control.LastEvent(ctx)
	if err != nil {
		return err
	}
	err = env.run(ctx, func(ctx context.Context) error { return watchUp(ctx, app, env, before) })
	if ctx.Err() != nil {
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
	stop := context.AfterFunc(ctx, func() { app.say("draining; again to leave at once\n") })
	defer stop()
	told := []api.EventType{
		api.EventDeployDone, api.EventDeployFailed, api.EventVersionStopped, api.EventVersionRemoved,
		api.EventInstanceExited, api.EventInstanceAdopted, api.EventInstanceHealth, api.EventOrphanEnded,
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
