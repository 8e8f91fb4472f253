package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Origin  string // the file, environment variable or flag it came from
	Line    int    // from 1; 0 where it did not come from a file
	Col     int    // from 1, in characters
	Message string // what is wrong, and with which thing
	Hint    string // what to do about it; may be empty
	Snippet string // the source line and a caret below the place; empty without a line
}

// String renders p over several lines, without a newline at the end.
func (p Problem) String() string {
	var out strings.Builder
	if p.Origin != "" {
		out.WriteString(p.Origin + ":")
	}
	if p.Line > 0 {
		fmt.Fprintf(&out, "%d:%d:", p.Line, p.Col)
	}
	if out.Len() > 0 {
		out.WriteByte(' ')
	}
	out.WriteString(p.Message)
	if p.Snippet != "" {
		out.WriteString("\n" + p.Snippet)
	}
	if p.Hint != "" {
		out.WriteString("\n    hint: " + p.Hint)
	}
	return out.String()
}

// Problems is an error that holds everything wrong with a configuration, in
// the order of the file.
type Problems struct {
	All []Problem
}

// Error renders every problem, an empty line between them.
func (ps *Problems) Error() string {
	parts := make([]string, len(ps.All))
	for i, p := range ps.All {
		parts[i] = p.String()
	}
	return strings.Join(parts, "\n\n")
}

// maxProblems is how many problems one report holds; a person who meets more
// has another kind of file at hand.
const maxProblems = 100

// collector gathers problems of one file.
type collector struct {
	source   *source
	problems []Problem
	dropped  int
}

// add records a problem at a place of the file.
func (c *collector) add(at position, hint, format string, args ...any) {
	if len(c.problems) == maxProblems {
		c.dropped++
		return
	}
	p := Problem{Message: fmt.Sprintf(format, args...), Hint: hint, Origin: at.origin}
	if at.origin == "" && c.source != nil {
		p.Origin = c.source.name
		if at.line > 0 {
			p.Line, p.Col = at.line, max(at.col, 1)
			p.Snippet = c.source.snippet(p.Line, p.Col, at.width)
		}
	}
	c.problems = append(c.problems, p)
}

// err returns what was collected as one error, nil where there is nothing.
func (c *collector) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	sorted := slices.Clone(c.problems)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	if c.dropped > 0 {
		sorted = append(sorted, Problem{Message: fmt.Sprintf("and %d more problems", c.dropped)})
	}
	return &Problems{All: sorted}
}

// position is a place in the file, or the variable or flag a value came from.
type position struct {
	line, col int
	width     int // characters to underline; 0 means one
	origin    string
}

// source is the text of a file, and where each value of it stands.
type source struct {
	name   string // as the user gave it
	dir    string // absolute folder
	lines  []string
	keys   map[string]position // of the keys, by path
	values map[string]position // of the values, by path
}

func newSource(name, dir, text string) *source {
	return &source{
		name:   name,
		dir:    dir,
		lines:  strings.Split(text, "\n"),
		keys:   map[string]position{},
		values: map[string]position{},
	}
}

// snippetWidth is how many characters of a long line are shown.
const snippetWidth = 100

// snippet renders one line with carets below width characters from col. A line with a
// password is not shown.
func (s *source) snippet(line, col, width int) string {
	if line > len(s.lines) || HasPassword(s.lines[line-1]) {
		return ""
	}
	text := []rune(strings.TrimRight(s.lines[line-1], "\r"))
	for i, r := range text {
		if r == '\t' || !unicode.IsPrint(r) {
			text[i] = ' '
		}
	}
	start := min(max(0, col-1-snippetWidth/2), max(0, len(text)-snippetWidth))
	if len(text) <= snippetWidth {
		start = 0
	}
	end := min(len(text), start+snippetWidth)
	column := min(col-1, len(text)) - start
	width = max(1, min(width, end-start-column))
	head, tail := "", ""
	if start > 0 {
		head = "…"
	}
	if end < len(text) {
		tail = "…"
	}
	margin := fmt.Sprintf("%5d | ", line)
	shown := strings.TrimRight(head+string(text[start:end])+tail, " ")
	caret := strings.Repeat(" ", len([]rune(head))+column) + strings.Repeat("^", width)
	return margin + shown + "\n      | " + caret
}

// path names a place in the file: the keys and list positions that lead to it.
type path []string

func (p path) with(parts ...string) path { return append(slices.Clone(p), parts...) }

// id is unambiguous whatever the keys hold.
func (p path) id() string { return strings.Join(p, "\x00") }

func (p path) String() string { return strings.Join(p, ".") }

// value returns where the value at p stands, or else the nearest thing around it.
func (s *source) value(p path) position {
	for ; len(p) > 0; p = p[:len(p)-1] {
		if at, ok := s.values[p.id()]; ok {
			return at
		}
		if at, ok := s.keys[p.id()]; ok {
			return at
		}
	}
	return position{}
}

// key returns where the key at p stands, or else the nearest thing around it.
func (s *source) key(p path) position {
	for ; len(p) > 0; p = p[:len(p)-1] {
		if at, ok := s.keys[p.id()]; ok {
			return at
		}
		if at, ok := s.values[p.id()]; ok {
			return at
		}
	}
	return position{}
}
