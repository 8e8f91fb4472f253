package cli

import (
	"regexp"
	"strings"
	"unicode"
)

// escape matches what a terminal would take as a command: sequences that end by themselves, strings (of
// titles, links, clipboards) up to their end or that of the line, and two-character ones.
const escape = "(?:\x1b\\[|\u009b)[0-?]*[ -/]*[@-~]?" +
	"|(?:\x1b[\\]PX^_]|[\u009d\u0090\u0098\u009e\u009f])[^\x07\x1b\u009c]*(?:\x07|\x1b\\\\|\u009c)?" +
	"|\x1b[ -/]*[0-~]?"

// terminalText makes text from elsewhere harmless to a terminal: of all control sequences only colours
// and the like (SGR) work, and they end with the line.
func terminalText(text string) string {
	if !strings.ContainsFunc(text, controls) {
		return text
	}
	var out strings.Builder
	coloured, from := false, 0
	for _, at := range regexp.MustCompile(escape).FindAllStringIndex(text, -1) {
		out.WriteString(withoutControls(text[from:at[0]]))
		if sequence := text[at[0]:at[1]]; isColour(sequence) {
			out.WriteString(sequence)
			coloured = true
		}
		from = at[1]
	}
	out.WriteString(withoutControls(text[from:]))
	if coloured {
		out.WriteString("\x1b[0m")
	}
	return out.String()
}

// isColour says whether a control sequence only changes how text looks: SGR.
func isColour(sequence string) bool {
	parameters, isCSI := strings.CutPrefix(sequence, "\x1b[")
	parameters, isSGR := strings.CutSuffix(parameters, "m")
	return isCSI && isSGR && strings.Trim(parameters, "0123456789;:") == ""
}

// withoutControls makes characters that a terminal may act on visible.
func withoutControls(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\r':
			return ' '
		case controls(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// controls says whether a terminal may act on a character: control characters but the tab, and those that
// turn the direction of text around.
func controls(r rune) bool {
	return unicode.IsControl(r) && r != '\t' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}
