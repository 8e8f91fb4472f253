package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/internal/config"
)

// composeFiles are the names that Docker Compose looks for.
var composeFiles = []string{"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"} //nolint:gochecknoglobals // never changed

func newInitCmd(app *App) *cobra.Command {
	var (
		out, compose string
		force        bool
	)
	cmd := &cobra.Command{
		Use:     "init",
		GroupID: groupRun,
		Short:   "Write a layover.yaml, from a compose.yaml where there is one",
		Example: "  layover init\n  layover init --compose deploy/compose.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if compose == "" {
				compose = findCompose(filepath.Dir(out))
			}
			return runInit(app, out, compose, force)
		},
	}
	cmd.Flags().StringVarP(&out, "file", "f", config.FileName, "file to write")
	cmd.Flags().StringVar(&compose, "compose", "", "compose file to begin from (default: the one beside it)")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	return cmd
}

func findCompose(dir string) string {
	for _, name := range composeFiles {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

func runInit(app *App, out, compose string, force bool) error {
	text, notes := config.Template(), []string(nil)
	if compose != "" {
		var err error
		if err = checkReadable(compose, "compose.yaml", "name another with --compose, or leave it out for a template"); err != nil {
			return err
		}
		if text, notes, err = config.FromCompose(compose); err != nil {
			return usagef("check it with: docker compose config", "%s", err)
		}
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(out, flags, 0o644) //nolint:gosec // the user names it, and it holds no secret of ours
	if errors.Is(err, fs.ErrExist) {
		return usagef("replace it with --force, or write another with -f", "%s is there already", out)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	from := ""
	if compose != "" {
		from = " from " + compose
	}
	app.printf("%s is written%s; look at it, then: layover up\n", out, from)
	for _, note := range notes {
		app.say("  note: %s\n", strings.TrimSpace(note))
	}
	return nil
}

// checkReadable refuses a file that is not there, and a folder in its place, before a reader
// says so in words of its own. usual is the name that such a file has in a folder.
func checkReadable(name, usual, hint string) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usagef(hint, "there is no %s here", name)
	case err == nil && info.IsDir():
		return usagef("name the file in it, such as "+filepath.Join(name, usual), "%s is a folder", name)
	}
	return nil
}

func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

func newValidateCmd(app *App) *cobra.Command {
	name := ""
	cmd := &cobra.Command{
		Use:     "validate",
		GroupID: groupRun,
		Short:   "Check a layover.yaml, and show every problem at once",
		Example: "  layover validate\n  layover validate -f ci/layover.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			file, err := loadFile(app, name)
			if err != nil {
				return err
			}
			app.printf("%s is fine: %s, %s, %s\n", name, count(len(file.Services()), "service"),
				count(len(file.Versions()), "version"), count(len(file.Routes()), "route"))
			return nil
		},
	}
	cmd.Flags().StringVarP(&name, "file", "f", config.FileName, "file to check")
	return cmd
}
