package cli

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/layover-dev/layover/api"
)

// variable is one that is exported to later steps of a job. Its value is a name or an address: it has no line breaks.
type variable struct{ name, value string }

// exported is what later steps get to know. Of the default versions there is no route.
func exported(done []ciDeployed, version string) []variable {
	out := []variable{{"LAYOVER_ROUTE", version}, {"LAYOVER_VERSION", version}}
	for _, d := range done {
		if d.Error == "" && d.Result.PreviewURL != "" {
			out = append(out, variable{"LAYOVER_PREVIEW_URL_" + variableName(d.Service), oneLine(d.Result.PreviewURL)})
		}
	}
	return out
}

// export tells the CI system, in the way that its manual names.
func export(app *App, job ciJob, file string, out []variable, done []ciDeployed) error {
	var plain, shell strings.Builder
	for _, v := range out {
		fmt.Fprintf(&plain, "%s=%s\n", v.name, v.value)
		fmt.Fprintf(&shell, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
	}
	if job.System == "gitlab-ci" {
		file = cmp.Or(file, "layover.env")
	}
	if file != "" {
		if err := os.WriteFile(file, []byte(plain.String()), 0o600); err != nil {
			return fmt.Errorf("write --export: %w", err)
		}
	}
	switch job.System {
	case "github-actions":
		var outputs strings.Builder
		for _, v := range out {
			// A delimiter that nobody can know, as the manual asks.
			end := "layover_" + rand.Text()
			fmt.Fprintf(&outputs, "%s<<%s\n%s\n%s\n", v.name, end, v.value, end)
		}
		for variable, text := range map[string]string{"GITHUB_OUTPUT": outputs.String(), "GITHUB_ENV": outputs.String(), "GITHUB_STEP_SUMMARY": summary(job, out, done)} {
			if err := appendTo(app.env(variable), text); err != nil {
				return fmt.Errorf("write to the file of %s: %w", variable, err)
			}
		}
	case "circleci":
		if err := appendTo(app.env("BASH_ENV"), shell.String()); err != nil {
			return fmt.Errorf("write to the file of BASH_ENV: %w", err)
		}
	case "azure-pipelines":
		for _, v := range out {
			app.printf("##vso[task.setvariable variable=%s;isOutput=true]%s\n", v.name, strings.NewReplacer("%", "%AZP25").Replace(v.value))
			app.printf("##vso[task.setvariable variable=%s]%s\n", v.name, strings.NewReplacer("%", "%AZP25").Replace(v.value))
		}
	case "buildkite":
		agent, err := exec.LookPath("buildkite-agent")
		if err != nil {
			return nil //nolint:nilerr // outside of an agent
		}
		for _, v := range out {
			if text, err := exec.Command(agent, "meta-data", "set", v.name, v.value).CombinedOutput(); err != nil { //nolint:noctx // names and addresses
				return fmt.Errorf("buildkite-agent meta-data set %s: %w: %s", v.name, err, text)
			}
		}
	}
	return nil
}

// appendTo appends to a file of the CI system, where it names one.
func appendTo(name, text string) error {
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// summary is the job's summary, as Markdown.
func summary(job ciJob, out []variable, done []ciDeployed) string {
	var b strings.Builder
	b.WriteString("### Layover\n\n| service | version | state | preview |\n|---|---|---|---|\n")
	for _, d := range done {
		state, preview := string(api.StateRunning)+" after "+d.Took, "–"
		if d.Error != "" {
			first, _, _ := strings.Cut(d.Error, "\n")
			state = "**failed**: " + markdown(first)
		} else if d.Result.PreviewURL != "" {
			preview = "<" + d.Result.PreviewURL + ">"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", markdown(d.Service), markdown(d.Version), state, preview)
	}
	if value := out[0].value; value != "" {
		fmt.Fprintf(&b, "\nRoute `%s`, from branch %s. Aim tests at it: `layover test --route %s`\n", value, markdown(cmp.Or(job.Origin.Branch, "?")), value)
	}
	return b.String()
}

// markdown is text that means nothing in a cell of a table in Markdown, and in HTML.
func markdown(text string) string {
	var b strings.Builder
	for _, r := range oneLine(text) {
		switch {
		case strings.ContainsRune("\\`*_{}[]()#+-.!|~>", r):
			b.WriteString("\\" + string(r))
		case r == '<':
			b.WriteString("&lt;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '@':
			b.WriteString("&#64;") // mentions nobody
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// ciGroup begins a group of lines that the CI system folds, and returns what ends it.
func ciGroup(app *App, job ciJob, title string) (end func()) {
	switch job.System {
	case "github-actions":
		app.say("::group::%s\n", oneLine(title))
		return func() { app.say("::endgroup::\n") }
	case "azure-pipelines":
		app.say("##[group]%s\n", oneLine(title))
		return func() { app.say("##[endgroup]\n") }
	case "buildkite":
		app.say("--- %s\n", oneLine(title))
	}
	return func() {}
}
