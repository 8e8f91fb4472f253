package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTerminalText(t *testing.T) {
	for text, want := range map[string]string{
		"plain\ttext":                 "plain\ttext",
		"\x1b[31mred\x1b[0m":          "\x1b[31mred\x1b[0m\x1b[0m",
		"\x1b[38;5;9mred":             "\x1b[38;5;9mred\x1b[0m",
		"\x1b[2Jcleared":              "cleared",
		"\x1b[10;10Hmoved":            "moved",
		"\x1b[?1049hother screen":     "other screen",
		"\x1b]0;title\x07after":       "after",
		"\x1b]52;c;aGk=\x1b\\after":   "after",
		"\x1b]8;;http://evil\x07link": "link",
		"\x1b]0;no end of it":         "",
		"\x1bPq#0\x1b\\after":         "after",
		"\x1bcreset":                  "reset",
		"\x1b(0charset":               "charset",
		"\u009b2Jeight bits":          "eight bits",
		"\u009d0;title\x07after":      "after",
		"a\x07b\x08c":                 "a\uFFFDb\uFFFDc",
		"10%\r20%":                    "10% 20%",
		"\x1b[>4;2mkeyboard":          "keyboard",
		"\x1b[31":                     "",
		"\x1b[3\x1b[31mx":             "\x1b[31mx\x1b[0m",
		"\uFFFF2J":                    "\uFFFF2J",
		"\u202eturned":                "\uFFFDturned",
		"ends with \x1b":              "ends with ",
	} {
		require.Equal(t, want, terminalText(text), "%q", text)
	}
}

// FuzzTerminalText looks for a text that gives a terminal more than colours.
func FuzzTerminalText(f *testing.F) {
	f.Add("\x1b[3\x1b[31m\x1b]0;x\x07\u009b2J")
	f.Add("\x1b\x1b[31m[2J")
	f.Fuzz(func(t *testing.T, text string) {
		rest := terminalText(strings.ToValidUTF8(text, "?"))
		for strings.Contains(rest, "\x1b") {
			_, after, _ := strings.Cut(rest, "\x1b")
			require.Regexp(t, `^\[[0-9;:]*m`, after)
			rest = after
		}
		require.False(t, strings.ContainsFunc(strings.ReplaceAll(terminalText(strings.ToValidUTF8(text, "?")), "\x1b", ""), controls))
	})
}
