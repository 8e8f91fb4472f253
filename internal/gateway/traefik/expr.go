package traefik

import (
	"errors"
	"fmt"
	"strings"
)

// expr is a rule of Traefik's as it was read: a matcher with its texts, or others joined.
type expr struct {
	op    op
	parts []*expr
	name  string   // of a matcher
	texts []string // of a matcher
}

type op byte

const (
	opMatch op = iota
	opNot      // of one part
	opAnd      // of two
	opOr       // of two
)

// maxRuleDepth bounds the brackets and "!" of a rule that somebody else wrote.
const maxRuleDepth = 100

// parseRule reads a rule in Traefik's language. It knows nothing of the matchers.
func parseRule(rule string) (*expr, error) {
	p := ruleParser{rest: rule}
	e, err := p.or()
	if err == nil && strings.TrimSpace(p.rest) != "" {
		err = fmt.Errorf("%q is left", p.rest)
	}
	if err != nil {
		return nil, fmt.Errorf("read the rule %s: %w", rule, err)
	}
	return e, nil
}

type ruleParser struct {
	rest  string
	depth int
}

// take takes text from the front, with the space before it, if it is there.
func (p *ruleParser) take(text string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " \t\r\n"), text)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *ruleParser) or() (*expr, error) { return p.joined(opOr, "||", p.and) }

func (p *ruleParser) and() (*expr, error) { return p.joined(opAnd, "&&", p.one) }

// joined reads what sign stands between, from left to right.
func (p *ruleParser) joined(op op, sign string, next func() (*expr, error)) (*expr, error) {
	left, err := next()
	for err == nil && p.take(sign) {
		var right *expr
		if right, err = next(); err == nil {
			left = &expr{op: op, parts: []*expr{left, right}}
		}
	}
	return left, err
}

func (p *ruleParser) one() (*expr, error) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxRuleDepth {
		return nil, fmt.Errorf("there are more than %d brackets within each other", maxRuleDepth)
	}
	switch {
	case p.take("!"):
		e, err := p.one()
		return &expr{op: opNot, parts: []*expr{e}}, err
	case p.take("("):
		e, err := p.or()
		if err == nil && !p.take(")") {
			err = errors.New(`a ")" is missing`)
		}
		return e, err
	}
	name, rest, ok := strings.Cut(strings.TrimLeft(p.rest, " \t\r\n"), "(")
	if !ok {
		return nil, fmt.Errorf("%q is no matcher", p.rest)
	}
	p.rest = rest
	texts, err := p.arguments()
	return &expr{name: strings.TrimSpace(name), texts: texts}, err
}

// arguments reads texts up to the closing bracket.
func (p *ruleParser) arguments() (args []string, err error) {
	for {
		quote := "`"
		if p.take(`"`) {
			quote = `"`
		} else if !p.take("`") {
			return nil, fmt.Errorf("a text is missing before %q", p.rest)
		}
		text, rest, ok := strings.Cut(p.rest, quote)
		if !ok {
			return nil, errors.New("a text does not end")
		}
		args, p.rest = append(args, text), rest
		switch {
		case p.take(")"):
			return args, nil
		case !p.take(","):
			return nil, fmt.Errorf("a comma is missing before %q", p.rest)
		}
	}
}
