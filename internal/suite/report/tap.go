package report

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

var (
	tapResult   = regexp.MustCompile(`^(not )?ok(?:\s+(\d+))?(?:\s+(?:-\s+)?(.*)|)$`)
	tapPlan     = regexp.MustCompile(`^1\.\.(\d+)(?:\s*#.*)?$`)
	tapAside    = regexp.MustCompile(`(?i)^#\s*(?:(skip\S*|todo)(?:[\s:]+(.*))?|time=([0-9.]+)(ms|s))$`)
	tapTime     = regexp.MustCompile(`^duration_ms:\s*([0-9.]+)`)
	tapLocation = regexp.MustCompile(`^location:\s*'?(?:file://)?([^':]+)(?::\d+){0,2}'?$`) // of Node
)

// ParseTAP reads TAP, version 12 to 14 (testanything.org), with subtests: those of version 14, and those in braces of node-tap.
// Tests are named by those they lie in, and their own description. Lines that are none of TAP are passed over. A plan that is
// not met or not there, and "Bail out!", are failures of their own: tests are missing then.
func ParseTAP(r io.Reader) ([]Case, error) {
	p := &tapParser{}
	for i := range p.levels {
		p.levels[i].planned = -1
	}
	lines := bufio.NewReaderSize(&bounded{r, maxBytes}, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		for long := err; errors.Is(long, bufio.ErrBufferFull); { // the rest of a line that is none of TAP, or a long name
			_, long = lines.ReadSlice('\n')
			err = long
		}
		if err := p.line(strings.TrimRight(string(line), "\r\n")); err != nil {
			return nil, err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if !p.seen {
		return nil, errors.New("it is no TAP: it has no plan and no result")
	}
	p.close(0)
	var out list
	for _, c := range p.cases {
		if err := out.add(c.Case); err != nil {
			return nil, err
		}
	}
	return out.cases, nil
}

// tapParser reads line by line. The result of a test comes behind those of its subtests.
type tapParser struct {
	seen   bool
	bailed bool
	cases  []tapCase
	levels [maxDepth]tapLevel // by depth: 0 for the tests that lie in none
	yaml   int                // where the block of YAML begins that is being read, and 1; 0 for none
	last   int                // the case that such a block belongs to; -1 for one that is not kept
	ready  bool               // a block may begin
}

type tapCase struct {
	Case
	depth int // in which its name is complete
}

// tapLevel is what is known of the tests that lie in one.
type tapLevel struct {
	planned int // -1 for no plan
	results int
	braced  *tapLine // a test whose subtests are being read: "ok 1 - a {"
}

// tapLine is a result.
type tapLine struct {
	failed bool
	number string
	text   string
}

func (p *tapParser) add(c tapCase) {
	p.cases = append(p.cases, c)
	p.last = len(p.cases) - 1
}

func (p *tapParser) line(text string) error {
	if len(p.cases) > maxCases {
		return errTooMany
	}
	trimmed := strings.TrimLeft(text, " \t")
	indent := len(text) - len(trimmed)
	if p.yaml > 0 {
		p.yamlLine(trimmed, indent)
		return nil
	}
	ready := p.ready
	p.ready = false
	switch {
	case ready && trimmed == "---":
		p.yaml = indent + 1
		return nil
	case strings.HasPrefix(trimmed, "Bail out!"):
		p.seen, p.bailed = true, true
		p.add(tapCase{Case: Case{Name: "bail out", Outcome: Failed, Message: strings.TrimPrefix(trimmed, "Bail out!")}})
		return nil
	case strings.HasPrefix(text, "TAP version "): // another program's, perhaps
		if p.levels[0].planned >= 0 && p.levels[0].results > 0 {
			p.close(0)
		}
		return nil
	}
	plan, result := tapPlan.FindStringSubmatch(trimmed), tapResult.FindStringSubmatch(trimmed)
	if plan == nil && result == nil && trimmed != "}" {
		return nil
	}
	depth := indentOf(text[:indent])
	if depth >= maxDepth {
		return errors.New("it is no TAP: its tests lie too deep in each other")
	}
	level := &p.levels[depth]
	switch {
	case plan != nil:
		p.seen = true
		if n, err := strconv.Atoi(plan[1]); err == nil && n <= maxCases {
			level.planned = n
		} else {
			return errTooMany
		}
	case result != nil:
		p.seen, p.ready = true, true
		p.unbrace(depth)
		line := tapLine{result[1] != "", result[2], result[3]}
		if strings.HasSuffix(line.text, "{") && (line.text == "{" || strings.HasSuffix(line.text, " {")) {
			level.braced = &line
			return nil
		}
		p.result(depth, line)
	case level.braced != nil:
		line := *level.braced
		line.text, level.braced = strings.TrimSuffix(line.text, "{"), nil
		p.result(depth, line)
	}
	return nil
}

// unbrace takes in what seemed to have subtests in braces, and has a name that ends so.
func (p *tapParser) unbrace(depth int) {
	if line := p.levels[depth].braced; line != nil {
		p.levels[depth].braced = nil
		p.result(depth, *line)
	}
}

// close ends a level, and those that lie in it: what its plan says is there, or there is a failure.
func (p *tapParser) close(depth int) {
	for d := maxDepth - 1; d >= depth; d-- {
		p.unbrace(d)
		level := p.levels[d]
		message := ""
		switch {
		case p.bailed:
		case level.planned < 0 && d == 0:
			message = fmt.Sprintf("there is no plan (1..N), and so %d results may not be all", level.results)
		case level.planned >= 0 && level.planned != level.results:
			message = fmt.Sprintf("%d results were planned, and there are %d", level.planned, level.results)
		}
		if message != "" {
			p.add(tapCase{Case{Name: "the plan of TAP", Outcome: Failed, Message: message}, d})
		}
		p.levels[d] = tapLevel{planned: -1}
	}
}

// result takes in a result, and puts its name before those of its subtests, which came before it. It is a case of its own where
// it has none, or failed and none of them did.
func (p *tapParser) result(depth int, line tapLine) {
	p.close(depth + 1)
	p.levels[depth].results++
	c := tapCase{Case{Outcome: Passed}, depth}
	if line.failed {
		c.Outcome = Failed
	}
	excused := p.describe(&c.Case, line)
	below, failedBelow := false, false
	for i := len(p.cases) - 1; i >= 0 && p.cases[i].depth > depth; i-- {
		sub := &p.cases[i]
		sub.Name, sub.depth = clean(joined(c.Name, sub.Name), maxName), depth
		if excused && sub.Outcome == Failed {
			sub.Outcome = Skipped
		}
		below, failedBelow = true, failedBelow || sub.Outcome == Failed
	}
	if p.last = -1; !below || c.Outcome == Failed && !failedBelow {
		p.add(c)
	}
}

// describe takes name, directive and time from the text of a result. A test with "# SKIP …" or "# TODO …" is excused, however it
// ended. "\#" is no directive, and neither is what has another word behind it.
func (p *tapParser) describe(c *Case, line tapLine) (excused bool) {
	text := line.text
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' {
			i++
			continue
		}
		if text[i] != '#' || i > 0 && text[i-1] != ' ' && text[i-1] != '\t' {
			continue
		}
		aside := tapAside.FindStringSubmatch(strings.TrimSpace(text[i:]))
		if aside == nil {
			continue
		}
		if aside[1] != "" {
			c.Outcome, c.Message, excused = Skipped, strings.TrimSpace(aside[2]), true
		} else if s, err := strconv.ParseFloat(aside[3], 64); err == nil {
			if aside[4] == "ms" {
				s /= 1000
			}
			c.Duration = seconds(s)
		}
		text = text[:i]
		break
	}
	c.Name = strings.TrimSpace(strings.NewReplacer(`\#`, "#", `\\`, `\`).Replace(text))
	if c.Name == "" {
		c.Name = strings.TrimSpace("test " + line.number)
	}
	return excused
}

// yamlLine is a line of a block of YAML, which ends in "..." no deeper than it began: a text in it may have that line too.
func (p *tapParser) yamlLine(text string, indent int) {
	if text == "..." && indent < p.yaml {
		p.yaml = 0
		return
	}
	if p.last < 0 {
		return
	}
	c := &p.cases[p.last]
	if m := tapTime.FindStringSubmatch(text); m != nil && c.Duration == 0 {
		ms, _ := strconv.ParseFloat(m[1], 64)
		c.Duration = seconds(ms / 1000)
	} else if m := tapLocation.FindStringSubmatch(text); m != nil && c.File == "" {
		c.File = m[1]
	} else if c.Outcome == Failed && len(c.Message) < maxMessage {
		c.Message += strings.Repeat(" ", max(0, indent-p.yaml+1)) + clean(text, maxMessage) + "\n"
	}
}

// indentOf is how deep a line lies: four spaces, or a tab, for each level.
func indentOf(indent string) int {
	return (len(indent) + 3*strings.Count(indent, "\t")) / 4
}
