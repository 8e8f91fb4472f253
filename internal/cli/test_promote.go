package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/internal/config"
)

func newTestPromoteCmd(app *App) *cobra.Command {
	var file, to, as string
	cmd := &cobra.Command{
		Use:   "promote SUITE --to FOLDER",
		Short: "Move a suite from this repository to a shared one, with its history",
		Long: `Move a suite of a layover.test.yaml to the repository that is checked out at FOLDER: its entry
in the file, its folder where it has one of its own, and what is known of its tests. Both
repositories are changed in their working trees, and nothing is committed; nothing is changed
where something is in the way. Then commit both, and publish the suite from there.`,
		Example: `  layover test promote checkout --to ../shared-tests
  layover test promote checkout --to ../shared-tests --as checkout-flow
  git -C ../shared-tests add -A && git -C ../shared-tests commit -m 'checkout, from cart'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(completeOwn),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPromote(cmd.Context(), app, file, args[0], to, as)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", config.TestFileName, "file with the suite")
	f.StringVar(&to, "to", "", "folder in the shared repository, where its layover.test.yaml is or is to be")
	f.StringVar(&as, "as", "", "name of the suite there (default: as here)")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// promotion is a suite that moves.
type promotion struct {
	name, as     string
	file, target string // the two layover.test.yaml
	entry        string // the lines of the suite
	rest         string // the file without them
	joined       string // the target with them
	dir, newDir  string // its folder, where it is the suite's own
}

func runPromote(ctx context.Context, app *App, file, name, to, as string) error {
	p, err := planPromotion(file, name, to, as)
	if err != nil {
		return err
	}
	client, err := app.Client()
	if err != nil {
		return err
	}
	before := ownName(repositoryOf(ctx, filepath.Dir(file)), file, name)
	if err := client.RenameSuite(ctx, before, p.as); err != nil {
		return err
	}
	if err := p.move(); err != nil {
		return errors.Join(err, client.RenameSuite(ctx, p.as, before))
	}
	app.printf("%s is %s of %s now, with the history of its tests\n", before, app.bold(p.as), to)
	if p.dir != "" {
		app.printf("  %s is %s\n", p.dir, p.newDir)
	}
	app.printf("  commit both repositories, and publish it there: layover suite publish %s --ref REF\n", p.as)
	return nil
}

// planPromotion finds out what is to be moved, and whether it can be.
func planPromotion(file, name, to, as string) (*promotion, error) {
	tests, err := config.LoadTests(file)
	if err != nil {
		return nil, err
	}
	s, ok := tests.Suite(name)
	if !ok {
		return nil, usagef("it has "+strings.Join(tests.Suites(), ", "), "there is no suite %q in %s", name, file)
	}
	if as == "" {
		as = name
	}
	if info, err := os.Stat(to); err != nil || !info.IsDir() {
		return nil, usagef("git clone the shared repository, and name its folder", "--to: %s is no folder", to)
	}
	p := &promotion{name: name, as: as, file: file, target: filepath.Join(to, config.TestFileName)}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(text), "\n")
	first, last := tests.Lines(name)
	key := lines[first-1]
	if !strings.HasPrefix(strings.TrimLeft(key, " "), name+":") && !strings.HasPrefix(strings.TrimLeft(key, " "), `"`+name+`":`) {
		return nil, usagef("write each suite on lines of its own", "suite %s of %s cannot be cut out", name, file)
	}
	indent := key[:len(key)-len(strings.TrimLeft(key, " "))]
	_, after, _ := strings.Cut(key, ":")
	p.entry = indent + as + ":" + after + strings.Join(lines[first:last], "")
	if !strings.HasSuffix(p.entry, "\n") {
		p.entry += "\n"
	}
	p.rest = strings.Join(slices.Concat(lines[:first-1], lines[last:]), "")
	if err := p.join(indent); err != nil {
		return nil, err
	}
	here := filepath.Dir(mustAbs(file))
	if rel, err := filepath.Rel(here, s.Dir); err == nil && rel != "." && !strings.HasPrefix(rel, "..") && !p.usedByOthers(tests, s.Dir) {
		p.dir, p.newDir = s.Dir, filepath.Join(to, rel)
		if _, err := os.Stat(p.newDir); err == nil {
			return nil, usagef("move or rename it", "%s is there already", p.newDir)
		}
	}
	return p, nil
}

// usedByOthers says whether another suite of the file is run in the folder, too.
func (p *promotion) usedByOthers(tests *config.TestFile, dir string) bool {
	for _, other := range tests.Suites() {
		if s, _ := tests.Suite(other); other != p.name && s.Dir == dir {
			return true
		}
	}
	return false
}

// join makes the text of the target.
func (p *promotion) join(indent string) error {
	text, err := os.ReadFile(p.target)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte("suites:\n"), nil
	}
	if err != nil {
		return err
	}
	there, err := config.ParseTests(p.target, text)
	if err != nil {
		return err
	}
	if _, taken := there.SuitesByName[p.as]; taken {
		return usagef("give it another name with --as", "there is a suite %q in %s", p.as, p.target)
	}
	p.joined = strings.TrimRight(string(text), "\n") + "\n"
	if len(there.SuitesByName) == 0 && !strings.Contains(p.joined, "suites:") {
		p.joined += "suites:\n"
	}
	if others := there.Suites(); len(others) > 0 {
		first, _ := there.Lines(others[0])
		line := strings.Split(p.joined, "\n")[first-1]
		if theirs := line[:len(line)-len(strings.TrimLeft(line, " "))]; theirs != indent {
			p.entry = theirs + strings.TrimPrefix(strings.ReplaceAll(p.entry, "\n"+indent, "\n"+theirs), indent)
		}
	}
	p.joined += p.entry
	got, err := config.ParseTests(p.target, []byte(p.joined))
	if err != nil {
		return fmt.Errorf("with the suite %s would not be valid: %w", p.target, err)
	}
	if _, ok := got.SuitesByName[p.as]; !ok {
		return usagef("put suites: at the end of that file", "suite %s cannot be added to %s", p.as, p.target)
	}
	if _, err := config.ParseTests(p.file, []byte(p.rest)); err != nil {
		return fmt.Errorf("without the suite %s would not be valid: %w", p.file, err)
	}
	return nil
}

// move writes both files, and moves the folder. Where something fails, what was done is undone.
func (p *promotion) move() (err error) {
	old, readErr := os.ReadFile(p.target)
	if p.dir != "" {
		if err := os.MkdirAll(filepath.Dir(p.newDir), 0o755); err != nil { //nolint:gosec // a working tree
			return err
		}
		if err := os.CopyFS(p.newDir, os.DirFS(p.dir)); err != nil {
			return errors.Join(fmt.Errorf("copy %s: %w", p.dir, err), os.RemoveAll(p.newDir))
		}
	}
	undo := func(err error) error {
		if readErr == nil {
			err = errors.Join(err, os.WriteFile(p.target, old, 0o644)) //nolint:gosec // a working tree
		} else {
			_ = os.Remove(p.target)
		}
		if p.dir != "" {
			err = errors.Join(err, os.RemoveAll(p.newDir))
		}
		return err
	}
	if err := os.WriteFile(p.target, []byte(p.joined), 0o644); err != nil { //nolint:gosec // likewise
		return undo(err)
	}
	if err := os.WriteFile(p.file, []byte(p.rest), 0o644); err != nil { //nolint:gosec // likewise
		return undo(err)
	}
	if p.dir != "" {
		return os.RemoveAll(p.dir)
	}
	return nil
}

func mustAbs(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
