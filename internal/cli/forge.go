package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/forge"
	"github.com/layover-dev/layover/internal/receipt"
	"github.com/layover-dev/layover/internal/server"
	"github.com/layover-dev/layover/internal/telemetry"
	"github.com/layover-dev/layover/internal/testrun"
)

// forgesOf are the forges that the file declares, with what environment variables say.
func forgesOf(file *config.File, getenv func(string) string) (out []forge.Forge, every time.Duration, err error) {
	for _, f := range file.Forges {
		one := forge.Forge{Name: f.Name, Kind: f.Kind, URL: f.URL, Repositories: f.Repositories, Comment: f.Comment, Status: f.Status}
		if one.Secret, err = secretOf(f.SecretEnv, file.AbsoluteFile(f.SecretFile), getenv); err == nil {
			one.Token, err = secretOf(f.TokenEnv, file.AbsoluteFile(f.TokenFile), getenv)
		}
		if err != nil {
			return nil, 0, &control.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("the forge %s: %s", f.Name, err), Hint: "set it, or take it out of layover.yaml"}
		}
		out = append(out, one)
		if asked := time.Duration(f.Every); asked > 0 && (every == 0 || asked < every) {
			every = asked
		}
	}
	return out, every, nil
}

// secretOf reads a secret from a variable, or from a file each time; nil where neither is named.
func secretOf(variable, file string, getenv func(string) string) (func() ([]byte, error), error) {
	switch {
	case variable != "":
		secret := getenv(variable)
		if secret == "" {
			return nil, fmt.Errorf("the variable %s has no secret", variable)
		}
		return func() ([]byte, error) { return []byte(secret), nil }, nil
	case file != "":
		read := func() ([]byte, error) { return readSecret(file) }
		if _, err := read(); err != nil { // better now than at the first event
			return nil, err
		}
		return read, nil
	}
	return nil, nil //nolint:nilnil // there is none
}

// forged is what forges get to know of the environment.
type forged struct {
	control  *control.Control
	receipts *receipt.Store
	tests    *testrun.Keeper
}

func (f forged) Versions(ctx context.Context) ([]api.Version, error) {
	var all []api.Version
	for page := (control.Page{Limit: 1000}); ; {
		versions, next, err := f.control.VersionPage(ctx, page)
		all = append(all, versions...)
		if err != nil || next == "" {
			return all, err
		}
		last := versions[len(versions)-1]
		page.After = control.Key{Service: last.Service, Version: last.Name}
	}
}

func (f forged) Remove(ctx context.Context, v api.Version, actor string) (bool, error) {
	key := control.Key{Service: v.Service, Version: v.Name}
	now, err := f.control.Version(ctx, key)
	if err == nil && now.Generation != v.Generation {
		return false, nil // it was deployed anew: that is another one
	}
	if err == nil {
		_, err = f.control.Remove(ctx, key, control.By{Actor: actor, Branch: v.Branch})
	}
	if err != nil && control.CodeOf(err) == api.CodeNotFound {
		return false, nil // somebody was faster
	}
	return err == nil, err
}

func (f forged) TestRuns(ctx context.Context, id string) ([]api.TestRun, error) {
	return f.tests.Runs(ctx, api.TestRunFilter{Version: id, Limit: 100})
}

// Requests are those that receipts tell of: of a version, or of the default one where none is named.
func (f forged) Requests(service, version string) (requests, failed int) {
	if version == "" {
		if s := f.control.Table().Service(service); s != nil {
			version = s.Definition().Default
		}
	}
	for _, e := range f.receipts.Endpoints(api.VersionFilter{Service: service, Version: version}) {
		requests, failed = requests+e.Requests, failed+e.Errors
	}
	return requests, failed
}

// openForges makes what takes webhooks of forges and tells them; nil where there are none.
func (e *environment) openForges() error {
	forges, every, err := forgesOf(e.file, os.Getenv)
	if err != nil || len(forges) == 0 {
		return err
	}
	e.forges, err = forge.New(forge.Options{
		Environment: e.file.Environment, Forges: forges, Every: every, Logger: e.log, Of: forged{e.control, e.receipts, e.tests}, Store: e.store,
	})
	return err
}

// forgeFigures are the counts of forges.
func (e *environment) forgeFigures(f *telemetry.ServerFigures) {
	if e.forges == nil {
		return
	}
	refused, removed := e.forges.Stats()
	f.ForgeRemoved = &removed
	for r, n := range refused {
		f.Refusals = append(f.Refusals, telemetry.RefusalFigure{Forge: r.Forge, Reason: r.Reason, Count: n})
	}
}

// forgeHandler takes webhooks; nil where there are no forges.
func (e *environment) forgeHandler() server.Forges {
	if e.forges == nil {
		return nil
	}
	return e.forges
}

func newForgeCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "forge",
		GroupID: groupTests,
		Short:   "GitHub, GitLab and Bitbucket, with whose branches versions end",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newForgeListCmd(app, false), newForgeListCmd(app, true))
	return cmd
}

// newForgeListCmd is ls, or check, which asks the forges and fails where something is wrong.
func newForgeListCmd(app *App, check bool) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the forges, their repositories, and webhooks that were refused",
		Example: "  layover forge ls\n  layover forge ls --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			forges, err := client.Forges(cmd.Context(), check)
			if err != nil {
				return err
			}
			if asJSON {
				err = app.json(forges)
			} else {
				showForges(app, forges)
			}
			if err == nil && slices.ContainsFunc(forges, func(f api.Forge) bool { return len(f.Problems) > 0 }) {
				return &silentError{exitFailed}
			}
			return err
		},
	}
	if check {
		cmd.Use, cmd.Aliases, cmd.Short = "check", nil, "Ask each forge for its repositories, and say what is wrong"
		cmd.Example = "  layover forge check"
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showForges(app *App, forges []api.Forge) {
	if len(forges) == 0 {
		app.say("no forges; declare them in layover.yaml\n")
	}
	var rows [][]string
	for _, f := range forges {
		refused := uint64(0)
		for _, n := range f.Refused {
			refused += n
		}
		does := []string{}
		for word, is := range map[string]bool{"webhooks": f.Webhooks, "asks": f.Asked, "comments": f.Comment, "status": f.Status} {
			if is {
				does = append(does, word)
			}
		}
		slices.Sort(does)
		for _, r := range f.Repositories {
			rows = append(rows, []string{f.Name, f.Kind, r.Name, strings.Join(r.Services, ","), cmp.Or(strings.Join(does, ","), "-"), strconv.FormatUint(refused, 10)})
		}
	}
	app.table([]string{"FORGE", "KIND", "REPOSITORY", "SERVICES", "DOES", "REFUSED"}, rows)
	for _, f := range forges {
		for _, p := range f.Problems {
			app.say("%s %s: %s\n", app.red("✗"), f.Name, p)
		}
	}
}
