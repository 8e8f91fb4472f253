package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	var out bytes.Buffer
	app := &App{Out: &out, Terminal: true, Color: true}
	header := []string{"NAME", "STATE", "WHY"}
	rows := [][]string{{"a", app.green("running"), ""}, {"größer", "starting", "it is cold"}, {"c", app.red("failed"), "x"}}

	app.table(header, rows)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	require.Len(t, lines, 4)
	require.Equal(t, "NAME    STATE     WHY", lines[0])
	require.Contains(t, lines[1], "\x1b[32mrunning\x1b[0m")
	require.Equal(t, "größer  starting  it is cold", lines[2])
	require.Equal(t, strings.Index(lines[0], "WHY")+len("x"), lipgloss.Width(lines[3]), "colours take no room")

	out.Reset()
	app.Terminal, app.Color = false, false
	app.table(header, [][]string{{"a", app.green("running"), "b"}})
	require.Equal(t, "a\trunning\tb\n", out.String(), "a pipe gets neither header nor colours")

	out.Reset()
	app.Terminal = true
	app.table(header, nil)
	require.Empty(t, out.String())
}

func TestColor(t *testing.T) {
	for name, test := range map[string]struct {
		app  App
		want string
	}{
		"terminal":       {App{Color: true}, "\x1b[31mx\x1b[0m"},
		"pipe":           {App{}, "x"},
		"not wanted":     {App{Color: true, NoColor: true}, "x"},
		"dumb, no color": {*newApp(nil, &bytes.Buffer{}, &bytes.Buffer{}, []string{"NO_COLOR=1"}), "x"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, test.app.red("x"))
		})
	}
}

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "",
		"plain":               "plain",
		"first\nsecond":       "first",
		"a\tb\rc":             "a b c",
		"\x1b[2Jgone \u009bx": " [2Jgone  x",
	} {
		require.Equal(t, want, oneLine(text), "%q", text)
	}
}

func TestAge(t *testing.T) {
	pipe, terminal := &App{}, &App{Terminal: true}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("east", 3600))
	require.Equal(t, "2026-01-02T02:04:05Z", pipe.age(at))
	require.Equal(t, "-", pipe.age(time.Time{}))
	require.Equal(t, "5m", terminal.age(time.Now().Add(-5*time.Minute-time.Second)))
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", time.Minute: "1m", 47 * time.Hour: "47h", 48 * time.Hour: "2d",
	} {
		require.Equal(t, want, shortDuration(d))
	}
	for d, want := range map[time.Duration]string{
		1234 * time.Nanosecond: "1µs", 12_345 * time.Microsecond: "12ms", 1_234_567 * time.Microsecond: "1.23s", 61_400 * time.Millisecond: "1m1s",
	} {
		require.Equal(t, want, roundDuration(d).String())
	}
}

func TestServer(t *testing.T) {
	app := newApp(nil, &bytes.Buffer{}, &bytes.Buffer{}, []string{"LAYOVER_SERVER=http://a:1", "LAYOVER_SERVER=http://b:2"})
	require.Equal(t, "http://b:2", app.Server, "of two, the last one counts")
	require.Equal(t, defaultServer, newApp(nil, nil, nil, []string{"LAYOVER_SERVER="}).Server)
	app.Server = "ftp://x"
	_, err := app.Client()
	require.Equal(t, exitUsage, exitCode(err))
}
