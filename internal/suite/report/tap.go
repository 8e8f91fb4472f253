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
	tapResult = regexp.MustCompile(`^(not )?ok\b(?:\s+(\d+))?\s*(?:-\s+)?(.*)$`)
	tapPlan   = regexp.MustCompile(`^1\.\.(\d+)\b`)
	tapTime   = regexp.MustCompile(`^\s*duration_ms:\s*([0-9.]+)`)
)

// ParseTAP reads TAP, version 12 to 14 (testanything.org), with the subtests of version 14. Tests are named by those they lie
// in, and their own description. Lines that are none of TAP are passed over. A plan that is not met, and "Bail out!", are
// failures of their own: tests are missing then.
func ParseTAP(r io.Reader) ([]Case, error) {
	p := &tapParser{planned: -1}
	lines := bufio.NewScanner(&bounded{r, maxBytes})
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if err := p.line(strings.TrimRight(lines.Text(), "\r")); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if !p.seen {
		return nil, errors.New("it is no TAP: it has no plan and no result")
	}
	if p.planned >= 0 && p.results != p.planned && !p.bailed {
		p.add(tapCase{Case: Case{Name: "the plan of TAP", Outcome: Failed, Message: fmt.Sprintf("%d results were planned, and there are %d", p.planned, p.results)}})
	}
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
	seen    bool
	bailed  bool
	planned int // at the top; -1 for no plan
	results int // likewise
	cases   []tapCase
	yaml    bool
	last    int // the case that a block of YAML belongs to; -1 for one that is not kept
	ready   bool
}

type tapCase struct {
	Case
	depth int // in which its name is complete
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
	if p.yaml {
		p.yamlLine(trimmed)
		return nil
	}
	ready := p.ready
	p.ready = false
	switch {
	case ready && trimmed == "---":
		p.yaml = true
		return nil
	case strings.HasPrefix(trimmed, "Bail out!"):
		p.seen, p.bailed = true, true
		p.add(tapCase{Case: Case{Name: "bail out", Outcome: Failed, Message: strings.TrimSpace(strings.TrimPrefix(trimmed, "Bail out!"))}})
		return nil
	}
	depth := indentOf(text)
	if m := tapPlan.FindStringSubmatch(trimmed); m != nil {
		p.seen = true
		if depth == 0 {
			p.planned, _ = strconv.Atoi(m[1])
		}
		return nil
	}
	if m := tapResult.FindStringSubmatch(trimmed); m != nil {
		p.seen, p.ready = true, true
		p.result(depth, m[1] != "", m[2], m[3])
	}
	return nil
}

// result takes in a result, and puts its name before those of its subtests, which came before it. It is a case of its own where it has
// none, or failed and none of them did.
func (p *tapParser) result(depth int, failed bool, number, text string) {
	name, directive := cutDirective(text)
	if name == "" {
		name = "test " + number
	}
	c := tapCase{Case: Case{Name: name, Outcome: Passed}, depth: depth}
	word := strings.ToLower(directive)
	switch {
	case strings.HasPrefix(word, "skip"), strings.HasPrefix(word, "todo"):
		c.Outcome, c.Message = Skipped, directive
	case failed:
		c.Outcome = Failed
	}
	if depth == 0 {
		p.results++
	}
	below, failedBelow := false, false
	for i := len(p.cases) - 1; i >= 0 && p.cases[i].depth > depth; i-- {
		sub := &p.cases[i]
		sub.Name, sub.depth = clean(joined(name, sub.Name), maxName), depth
		below, failedBelow = true, failedBelow || sub.Outcome == Failed
	}
	if p.last = -1; !below || c.Outcome == Failed && !failedBelow {
		p.add(c)
	}
}

func (p *tapParser) yamlLine(text string) {
	if text == "..." {
		p.yaml = false
		return
	}
	if p.last < 0 {
		return
	}
	c := &p.cases[p.last]
	if m := tapTime.FindStringSubmatch(text); m != nil {
		ms, _ := strconv.ParseFloat(m[1], 64)
		c.Duration = seconds(ms / 1000)
	} else if c.Outcome == Failed && len(c.Message) < maxMessage {
		c.Message += text + "\n"
	}
}

// indentOf is how deep a line lies: four spaces, or a tab, for each level.
func indentOf(text string) (depth int) {
	spaces := 0
	for _, c := range text {
		switch c {
		case ' ':
			spaces++
		case '\t':
			spaces += 4
		default:
			return spaces / 4
		}
	}
	return spaces / 4
}

// cutDirective takes "# SKIP …" and "# TODO …" off a description. "\#" is no directive.
func cutDirective(text string) (name, directive string) {
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' {
			i++
			continue
		}
		if text[i] == '#' && (i == 0 || text[i-1] == ' ') {
			return unescapeTAP(text[:i]), strings.TrimSpace(text[i+1:])
		}
	}
	return unescapeTAP(text), ""
}

func unescapeTAP(text string) string {
	return strings.TrimSpace(strings.NewReplacer(`\#`, "#", `\\`, `\`).Replace(text))
}
