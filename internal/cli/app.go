package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"github.com/layover-dev/layover/api"
)

// defaultServer is where `layover up` listens unless told otherwise.
const defaultServer = "http://127.0.0.1:7070"

// App is what every command needs: streams, the environment, and the server to talk to.
type App struct {
	In       io.Reader
	Out, Err io.Writer
	Environ  []string
	Server   string // URL of the API
	NoColor  bool
	Terminal bool // Out is a terminal: tables and ages; else tabs and RFC 3339
	Color    bool // Out and Err are terminals that show colours
	Asks     bool // In and Err are terminals: somebody can answer

	who string // see user; "" before it was looked for
}

func newApp(stdin io.Reader, stdout, stderr io.Writer, environ []string) *App {
	app := &App{In: stdin, Out: stdout, Err: stderr, Environ: environ}
	first, _, _ := strings.Cut(app.env("LAYOVER_SERVER"), ",") // a proxy may follow the others, too
	app.Server = cmp.Or(strings.TrimSpace(first), defaultServer)
	app.NoColor = app.env("NO_COLOR") != ""
	app.Terminal = isTerminal(stdout)
	app.Color = app.Terminal && isTerminal(stderr) && app.env("TERM") != "dumb"
	app.Asks = isTerminal(stdin) && isTerminal(stderr)
	return app
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Client returns a client for the server that was named.
func (a *App) Client() (*api.Client, error) {
	client, err := api.NewClient(a.Server, api.WithActor(a.user()), api.WithLost(a.tellLost))
	if err != nil {
		return nil, usagef("it should look like "+defaultServer, "the server %q: %s", a.Server, err)
	}
	return client, nil
}

// tellLost tells a person who waits for the server that it has gone, and that it is back.
func (a *App) tellLost(err error) {
	if err == nil {
		a.say("the server is back\n")
		return
	}
	a.say("the server is gone, waiting for it to come back: %s\n", err)
}

// env returns the value of an environment variable.
func (a *App) env(name string) string {
	for _, v := range slices.Backward(a.Environ) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// printf writes to the standard output. A reader that went away is not our concern.
func (a *App) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Out, format, args...)
}

// say writes to the standard error what a person should see while they wait.
func (a *App) say(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Err, format, args...)
}

// json writes v as indented JSON.
func (a *App) json(v any) error {
	enc := json.NewEncoder(a.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// jsonLine writes v as JSON on one line.
func (a *App) jsonLine(v any) error {
	enc := json.NewEncoder(a.Out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes rows under a header: aligned on a terminal, with single tabs and
// no header in a pipe. Where there are no rows it writes nothing.
func (a *App) table(header []string, rows [][]string) {
	if !a.Terminal {
		for _, row := range rows {
			a.printf("%s\n", strings.Join(row, "\t"))
		}
		return
	}
	if len(rows) == 0 {
		return
	}
	widths := make([]int, len(header))
	rows = append([][]string{header}, rows...)
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], lipgloss.Width(text)) // colours have no width
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, text := range row {
			line.WriteString(text)
			line.WriteString(strings.Repeat(" ", widths[i]-lipgloss.Width(text)+2))
		}
		a.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
}

// oneLine makes text from elsewhere fit into a cell of a table: its first line,
// without tabs and other characters that a terminal may act on.
func oneLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return strings.Map(func(r rune) rune {
		if r == '\t' || controls(r) {
			return ' '
		}
		return r
	}, text)
}

// age writes a time as an age on a terminal, and as RFC 3339 in a pipe.
func (a *App) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if !a.Terminal {
		return t.UTC().Format(time.RFC3339)
	}
	return shortDuration(time.Since(t))
}

func shortDuration(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func (a *App) red(s string) string   { return a.paint("31", s) }
func (a *App) green(s string) string { return a.paint("32", s) }
func (a *App) faint(s string) string { return a.paint("2", s) }
func (a *App) bold(s string) string  { return a.paint("1", s) }

func (a *App) paint(code, s string) string {
	if a.NoColor || !a.Color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
