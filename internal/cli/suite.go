package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
)

func newSuiteCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "suite",
		GroupID: groupTests,
		Short:   "Suites of tests that any repository can run",
		Long: `A shared suite is one that a repository has published: its name, and where Git finds it at a
ref. Whoever runs it with layover test --suite NAME@REF gets its files from there. Which services
it touches is learned from the receipts of its runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSuiteListCmd(app), newSuitePublishCmd(app), newSuiteRemoveCmd(app))
	return cmd
}

func newSuiteListCmd(app *App) *cobra.Command {
	var service string
	asJSON := false
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the shared suites, and what each touches",
		Example: "  layover suite ls\n  layover suite ls --touches cart --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := app.Client()
			if err != nil {
				return err
			}
			suites, err := client.Suites(cmd.Context(), service)
			if err != nil {
				return err
			}
			if asJSON {
				return app.json(suites)
			}
			var rows [][]string
			for _, s := range suites {
				var touches []string
				for _, t := range s.Touches {
					touches = append(touches, t.Service)
				}
				rows = append(rows, []string{
					s.Name, s.Ref, s.Commit[:min(len(s.Commit), 12)], cmp.Or(strings.Join(touches, ","), "-"), cmp.Or(oneLine(strings.Join(s.Owners, ",")), "-"),
					app.age(s.Published), oneLine(s.Repository),
				})
			}
			app.table([]string{"SUITE", "REF", "COMMIT", "TOUCHES", "OWNERS", "PUBLISHED", "REPOSITORY"}, rows)
			return nil
		},
	}
	cmd.Flags().StringVar(&service, "touches", "", "only those that touch this service, or say they test it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newSuitePublishCmd(app *App) *cobra.Command {
	var file, ref, repository, note string
	var replace bool
	cmd := &cobra.Command{
		Use:   "publish SUITE --ref REF",
		Short: "Publish a suite of this repository at a Git ref",
		Long: `Make a suite of a layover.test.yaml known to all. The ref is a tag or branch that the repository
has; its commit is noted, and a ref that names another commit later is refused, unless --replace.`,
		Example: `  git tag v3 && git push origin v3
  layover suite publish checkout-flow --ref v3`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(completeOwn),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			tests, err := config.LoadTests(file)
			if err != nil {
				return err
			}
			s, ok := tests.Suite(args[0])
			if !ok {
				return usagef("it has "+strings.Join(tests.Suites(), ", "), "there is no suite %q in %s", args[0], file)
			}
			dir := filepath.Dir(file)
			commit, err := git(ctx, dir, "rev-parse", "--verify", "--end-of-options", ref+"^{commit}")
			if err != nil {
				return usagef("git tag "+ref, "--ref: %s is no commit of this repository: %s", ref, err)
			}
			top, err := git(ctx, dir, "rev-parse", "--show-prefix")
			if err != nil {
				return err
			}
			if repository == "" {
				if repository = repositoryOf(ctx, dir); repository == "" {
					return usagef("name it with --repository", "this repository has no remote called origin")
				}
			}
			client, err := app.Client()
			if err != nil {
				return err
			}
			var services []string
			if s.Service != "" {
				services = []string{s.Service}
			}
			out, err := client.PublishSuite(ctx, api.Suite{
				Name: args[0], Ref: ref, Repository: repository, Commit: commit, File: filepath.ToSlash(filepath.Join(top, filepath.Base(file))),
				Services: services, Owners: s.Owners, Note: note,
			}, replace)
			if err != nil {
				return err
			}
			app.printf("%s@%s is published: commit %s of %s\n", app.bold(out.Name), out.Ref, out.Commit[:12], out.Repository)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", config.TestFileName, "file with the suite")
	f.StringVar(&ref, "ref", "", "tag or branch of Git: the version of the suite")
	f.StringVar(&repository, "repository", "", "where Git finds the repository, without a password (default: its origin)")
	f.StringVar(&note, "note", "", "what is new in it")
	f.BoolVar(&replace, "replace", false, "also where the ref names another commit now")
	_ = cmd.MarkFlagRequired("ref")
	return cmd
}

func newSuiteRemoveCmd(app *App) *cobra.Command {
	return &cobra.Command{
		Use:     "rm SUITE@REF",
		Short:   "Forget a version of a shared suite",
		Long:    "Forget a version of a shared suite. Its runs, and what they taught, stay.",
		Example: "  layover suite rm checkout-flow@v1",
		Args:    cobra.ExactArgs(1),

		ValidArgsFunction: completeFirst(completeShared(app)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, ref, ok := strings.Cut(args[0], "@")
			if !ok || name == "" || ref == "" {
				return usagef("for example checkout-flow@v1", "%q is not SUITE@REF", args[0])
			}
			client, err := app.Client()
			if err != nil {
				return err
			}
			if err := client.UnpublishSuite(cmd.Context(), name, ref); err != nil {
				return err
			}
			app.printf("%s is gone\n", args[0])
			return nil
		},
	}
}

// sharedJobs gets the files of shared suites, given as NAME or NAME@REF.
func sharedJobs(ctx context.Context, app *App, client *api.Client, names []string) ([]suiteJob, error) {
	if len(names) == 0 {
		return nil, nil
	}
	published, err := client.Suites(ctx, "")
	if err != nil {
		return nil, err
	}
	var jobs []suiteJob
	for _, text := range names {
		s, err := findSuite(published, text)
		if err != nil {
			return nil, err
		}
		dir, err := checkOut(ctx, app, s)
		if err != nil {
			return nil, err
		}
		file, err := config.LoadTests(filepath.Join(dir, filepath.FromSlash(s.File)))
		if err != nil {
			return nil, fmt.Errorf("suite %s@%s: %w", s.Name, s.Ref, err)
		}
		tests, ok := file.Suite(s.Name)
		if !ok {
			return nil, usagef("publish it again", "suite %s is no longer in %s of %s at %s", s.Name, s.File, s.Repository, s.Ref)
		}
		jobs = append(jobs, suiteJob{suite: tests, name: s.Name, ref: s.Ref, from: s.Repository})
	}
	return jobs, nil
}

// findSuite finds the version of a suite that is meant: the newest where no ref is given.
func findSuite(published []api.Suite, text string) (found api.Suite, err error) {
	name, ref, exact := strings.Cut(text, "@")
	var refs []string
	for _, s := range published {
		if s.Name != name {
			continue
		}
		refs = append(refs, s.Ref)
		if exact && s.Ref == ref || !exact && s.Published.After(found.Published) {
			found = s
		}
	}
	switch {
	case found.Name != "":
		return found, nil
	case len(refs) > 0:
		return found, usagef("it has "+strings.Join(refs, ", "), "suite %s has no version %s", name, ref)
	}
	return found, usagef("layover suite ls lists them; layover suite publish makes one known", "there is no shared suite %q", name)
}

// checkOut gets the commit of a suite from its repository, once, and returns the folder.
func checkOut(ctx context.Context, app *App, s api.Suite) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for shared suites: %w", err)
	}
	dir := filepath.Join(cache, "layover", "suites", s.Name+"-"+s.Commit)
	if head, err := git(ctx, dir, "rev-parse", "HEAD"); err == nil && head == s.Commit {
		if _, err := git(ctx, dir, "checkout", "--quiet", "--force", s.Commit); err == nil {
			return dir, nil
		}
	}
	app.say("getting suite %s@%s from %s\n", s.Name, s.Ref, s.Repository)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // as other caches
		return "", err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), ".new-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	failed := func(err error) error {
		return &control.Error{
			Code: api.CodeUnavailable, Message: fmt.Sprintf("suite %s@%s cannot be got from %s: %s", s.Name, s.Ref, s.Repository, err),
			Hint: "may you read that repository, and does it still have the ref? git ls-remote " + s.Repository,
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"fetch", "--quiet", "--depth", "1", "--end-of-options", s.Repository, s.Commit},
		{"checkout", "--quiet", "--detach", s.Commit},
	} {
		if _, err := git(ctx, fresh, args...); err == nil {
			continue
		} else if args[0] != "fetch" {
			return "", failed(err)
		}
		// Not every server gives commits: then by the ref, which may have moved on.
		if _, err := git(ctx, fresh, "fetch", "--quiet", "--depth", "200", "--end-of-options", s.Repository, s.Ref); err != nil {
			return "", failed(err)
		}
	}
	if err := os.Rename(fresh, dir); err != nil {
		if head, other := git(ctx, dir, "rev-parse", "HEAD"); other != nil || head != s.Commit { // else another run was faster
			_ = os.RemoveAll(dir)
			if err := os.Rename(fresh, dir); err != nil {
				return "", err
			}
		}
	}
	return dir, nil
}

// gitTimeout bounds a command of Git.
const gitTimeout = 5 * time.Minute

// git runs Git in a folder, and returns what it prints, without the last newline. It asks nobody for a password.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		if last := lines[len(lines)-1]; last != "" {
			return "", fmt.Errorf("git %s: %s", args[0], strings.TrimPrefix(last, "fatal: "))
		}
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimRight(string(out), "\r\n"), nil
}

// repositoryOf is where Git finds the repository of a folder, without credentials; "" where that is not known.
func repositoryOf(ctx context.Context, dir string) string {
	remote, err := git(ctx, dir, "remote", "get-url", "origin")
	if err != nil {
		return ""
	}
	if scheme, rest, ok := strings.Cut(remote, "://"); ok {
		if at := strings.LastIndexByte(rest[:max(0, strings.IndexByte(rest+"/", '/'))], '@'); at >= 0 && scheme != "ssh" {
			rest = rest[at+1:]
		}
		return scheme + "://" + rest
	}
	if filepath.IsAbs(remote) {
		return "file://" + remote
	}
	return remote
}
