package cli

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/examples/shop"
	"github.com/layover-dev/layover/internal/config"
)

//go:embed demo.yaml
var demoFile string

type demoOptions struct {
	Once bool
}

func newDemoCmd(app *App) *cobra.Command {
	opts := &demoOptions{}
	cmd := &cobra.Command{
		Use:     "demo",
		GroupID: groupRun,
		Short:   "A small shop to try it with: five services, one of them in two versions",
		Long: `Run a small shop of five services that call each other through the proxy, one of them in
two versions, and print what to try. Everything lives in a temporary folder that is removed
at the end, be it by Ctrl-C or a closed terminal. With --once, run the tour instead: make each
request, check every answer, and end.

The shop is an environment of its own: of the variables that set keys of layover.yaml only
LAYOVER_PROXY_LISTEN, LAYOVER_SERVER_LISTEN and LAYOVER_BAGGAGE_KEY count here.`,
		Example: "  layover demo\n  layover demo --once",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := app.untilAlone(cmd.Context())
			defer stop()
			err := runDemo(ctx, app, opts)
			if err == nil && opts.Once && ctx.Err() != nil {
				return &silentError{code: exitInterrupted} // no tour was right that was not made to its end
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&opts.Once, "once", false, "run the tour, check every answer, and end")
	return cmd
}

// newShopCmd runs one service of the demo's shop: the demo starts this program for each.
func newShopCmd(app *App) *cobra.Command {
	return &cobra.Command{
		Use:    "shop SERVICE",
		Short:  "Run one service of the demo's shop",
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := shop.Main(args, app.Out, app.Err); code != exitOK {
				return &silentError{code: code}
			}
			return nil
		},
	}
}

func runDemo(ctx context.Context, app *App, opts *demoOptions) (err error) {
	data, err := os.MkdirTemp("", "layover-demo-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	file, err := demoConfig(app, opts.Once)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(app.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	env, err := openEnvironment(ctx, file, data, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.close()) }()

	client, err := api.NewClient(env.serverURL(), api.WithActor(app.user()))
	if err != nil {
		return err
	}
	defer client.Close()
	app.say("starting the shop\n")
	if !opts.Once {
		return env.run(ctx, func(ctx context.Context) error {
			if err := allUp(ctx, app, client); err != nil {
				return err
			}
			printDemo(app, env)
			<-ctx.Done()
			app.say("\nstopping the shop\n")
			return nil
		})
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	return env.run(ctx, func(ctx context.Context) error {
		defer end()
		if err := allUp(ctx, app, client); err != nil {
			return err
		}
		return (&tour{app: app, env: env, client: client}).run(ctx)
	})
}

// demoVariables are the settings that the demo takes from the environment. The others are
// meant for the environment of a person's own services, and the shop would not work with them.
func demoVariables() []string {
	return []string{"LAYOVER_PROXY_LISTEN", "LAYOVER_SERVER_LISTEN", "LAYOVER_BAGGAGE_KEY"}
}

// demoConfig is the embedded file with this program in it. The tour takes any free ports.
func demoConfig(app *App, anyPort bool) (*config.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	quoted, err := json.Marshal(self) // a JSON string is a YAML string
	if err != nil {
		return nil, err
	}
	file, err := config.Parse("demo.yaml", []byte(strings.ReplaceAll(demoFile, "[LAYOVER,", "["+string(quoted)+",")))
	if err != nil {
		return nil, err
	}
	var environ []string
	for _, name := range demoVariables() {
		environ = append(environ, name+"="+app.env(name))
	}
	if err := file.ApplyEnv(environ); err != nil {
		return nil, err
	}
	if anyPort {
		file.Proxy.Listen, file.Server.Listen = []string{"127.0.0.1:0"}, "127.0.0.1:0"
	}
	return file, file.Validate()
}

// allUp waits until every version runs, and tells of each.
func allUp(ctx context.Context, app *App, client *api.Client) error {
	told := map[string]bool{}
	return poll(ctx, func() (bool, error) {
		versions, err := client.Versions(ctx, api.VersionFilter{})
		if err != nil {
			return false, err
		}
		up := 0
		for _, v := range versions {
			switch v.State {
			case api.StateRunning:
				up++
				if !told[v.ID()] {
					told[v.ID()] = true
					app.say("  %s %-22s %s\n", app.green("✓"), v.ID(), addresses(v))
				}
			case api.StateFailed:
				return false, fmt.Errorf("%s did not come up: %s\n  %s", v.ID(), v.Reason, strings.Join(v.LogTail, "\n  "))
			}
		}
		return up == len(versions), nil
	})
}

func printDemo(app *App, env *environment) {
	proxyPort := port(env.proxyAddress())
	front := "http://storefront.localhost:" + proxyPort
	app.printf(`
The shop is up. In a browser:

  %[1]s                     everything at main
  http://feature-1--storefront.localhost:%[2]s          pricing at feature-1, three hops further

The same from a program, by the baggage header:

  curl %[1]s/api/products
  curl -H '%[4]s' %[1]s/api/products

Add a version of your own, look at it, and stop it again (in another terminal):

  %[3]s deploy pricing@try-1 --env PRICING_DISCOUNT=50
  %[3]s curl --route try-1 %[1]s/api/products
  %[3]s explain %[1]s --route try-1
  %[3]s ls
  %[3]s stop pricing@try-1

Ctrl-C ends it and removes everything.
`, front, proxyPort, selfCommand(app, env.serverURL()), baggageLine(env.describe(), "feature-1"))
}

// selfCommand is how a person calls this program, and the server at url, from another terminal.
func selfCommand(app *App, url string) string {
	command := "layover"
	if strings.Contains(os.Args[0], "go-build") {
		command = "go run ./cmd/layover"
	}
	if app.Server != url {
		command = "LAYOVER_SERVER=" + url + " " + command
	}
	return command
}

// demoTimeout bounds a single request of the tour.
const demoTimeout = 10 * time.Second
