package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/suite/report"
)

// command runs the command of the suite, and reads its report.
func (t *suiteRun) command(ctx context.Context, value, id string, command []string) ([]api.TestCase, error) {
	running, cancel := context.WithTimeout(ctx, time.Duration(t.job.suite.Timeout))
	defer cancel()
	env := []string{"LAYOVER_SUITE=" + t.job.name}
	for name, text := range t.job.suite.Env {
		env = append(env, name+"="+text)
	}
	out := t.app.Out
	if t.opts.JSON {
		out = t.app.Err
	}
	var printed bytes.Buffer
	kept := &boundedWriter{to: &printed, left: maxPrinted}
	shown, said := io.Writer(nil), io.Writer(t.app.Err)
	var hidden bytes.Buffer
	if t.opts.Quiet {
		both := &boundedWriter{to: &hidden, left: maxPrinted}
		shown, said = io.MultiWriter(kept, both), both
	} else {
		shown = io.MultiWriter(kept, out)
	}
	began := time.Now()
	exit, _, err := runWithRoute(running, t.app, t.aim, routed{
		Route: value, Run: id, Command: command, Dir: t.job.suite.Dir, Env: env, Stdout: shown, Stderr: said, Apart: true,
	})
	if err == nil && exit != 0 {
		_, _ = io.Copy(out, &hidden)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case running.Err() != nil:
		return nil, fmt.Errorf("the tests did not end within %s (timeout in %s)", t.job.suite.Timeout, t.opts.File)
	case err != nil:
		return nil, err
	case exit == exitNotFound || exit == exitNotExecutable:
		return nil, fmt.Errorf("%s cannot be run, or what it runs: is it installed? (exit code %d)", command[0], exit)
	}
	return t.report(&printed, exit, began)
}

// maxPrinted bounds what is kept of what a command prints, in bytes.
const maxPrinted = 64 << 20

// boundedWriter takes all, and keeps the beginning.
type boundedWriter struct {
	to   io.Writer
	left int
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	_, err := w.to.Write(p[:n])
	return len(p), err
}

// report reads the results of single tests.
func (t *suiteRun) report(printed io.Reader, exit int, began time.Time) ([]api.TestCase, error) {
	r := t.job.suite.Report
	whole := api.TestCase{Name: t.job.name, Outcome: string(report.Passed), Took: api.Duration(time.Since(began))}
	if exit != 0 {
		whole.Outcome, whole.Message = string(report.Failed), fmt.Sprintf("the command ended with exit code %d", exit)
	}
	if r.Format == "exit" {
		return []api.TestCase{whole}, nil
	}
	readers := []io.Reader{printed}
	if len(r.Files) > 0 {
		readers = nil
		names, err := t.files(began)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			f, err := os.Open(name)
			if err != nil {
				return nil, fmt.Errorf("read the report: %w", err)
			}
			defer func() { _ = f.Close() }()
			readers = append(readers, f)
		}
	}
	var out []api.TestCase
	names := takenNames{}
	failed := false
	for _, in := range readers {
		cases, err := readReport(r.Format, in)
		if err != nil {
			return nil, fmt.Errorf("read the report (%s): %w; the command ended with exit code %d", r.Format, err, exit)
		}
		for _, c := range cases {
			name := names.take(cut(c.Name, 480))
			failed = failed || c.Outcome == report.Failed
			out = append(out, api.TestCase{Name: name, Outcome: string(c.Outcome), Took: api.Duration(c.Duration), Message: cut(c.Message, 4000)})
		}
	}
	if exit != 0 && !failed { // it failed apart from any test
		whole.Name = names.take(whole.Name)
		out = append(out, whole)
	}
	return out, nil
}

// takenNames are names of tests, and how many begin with each: a report in several files may have the same one in each.
type takenNames map[string]int

// take returns a name that is not taken, with a number behind it where it has to.
func (t takenNames) take(name string) string {
	out := name
	for t[out] > 0 {
		t[name]++
		out = fmt.Sprintf("%s (%d)", name, t[name])
	}
	t[out]++
	return out
}

func readReport(format string, in io.Reader) ([]report.Case, error) {
	switch format {
	case "junit":
		return report.ParseJUnit(in)
	case "tap":
		return report.ParseTAP(in)
	default:
		return report.ParseGoJSON(in)
	}
}

// files are those of the report that this run has written.
func (t *suiteRun) files(began time.Time) ([]string, error) {
	var all []string
	old := 0
	for _, pattern := range t.job.suite.Report.Files {
		found, err := filepath.Glob(filepath.Join(t.job.suite.Dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			info, err := os.Stat(name)
			if err != nil || info.ModTime().Before(began.Add(-2*time.Second)) { // as file systems round
				old++
				continue
			}
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		more := ""
		if old > 0 {
			more = fmt.Sprintf(", only %d that are older than this run", old)
		}
		return nil, fmt.Errorf("the tests left no report: there is no %s in %s%s", strings.Join(t.job.suite.Report.Files, ", "), t.job.suite.Dir, more)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
