package cli

import (
	"errors"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
)

func newVersionCmd(app *App) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Which build this is, and which the server is",
		Long:    "Print which build this is, and which the server is. That no server answers is told, and no error.",
		Example: "  layover version\n  layover version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := struct {
				Client api.Build  `json:"client"`
				Server *api.Build `json:"server,omitempty"`
			}{Client: build()}
			client, err := app.Client()
			if err != nil {
				return err
			}
			b, err := client.ServerBuild(cmd.Context())
			if err == nil {
				out.Server = &b
			}
			if asJSON {
				return errors.Join(app.json(out), tellNoServer(app, err))
			}
			app.printf("layover %s (%s, %s)\n", out.Client.Version, out.Client.Commit, out.Client.Go)
			if out.Server != nil {
				app.printf("server  %s (%s) at %s\n", out.Server.Version, out.Server.Commit, app.Server)
			}
			return tellNoServer(app, err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// tellNoServer says that no server answers, which is no failure of a command that tells the
// build of this program. Whatever else is wrong with the server is.
func tellNoServer(app *App, err error) error {
	unreachable, ok := errors.AsType[*api.UnreachableError](err)
	if !ok {
		return err
	}
	app.say("%s\n", unreachable)
	return nil
}

// build reads what the Go linker noted about this binary.
func build() api.Build {
	b := api.Build{Version: "devel", Commit: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Commit = s.Value[:min(12, len(s.Value))]
		}
	}
	return b
}
