package traefik

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// HostRule is what a rule says of hosts. The rule may be one that somebody else wrote, in all of Traefik's language.
type HostRule struct {
	covers  func(host string) verdict
	samples []string
}

// verdict is what is known of a rule where of a request only its host is.
type verdict int8

const (
	never verdict = iota - 1
	maybe
	always
)

// ReadHosts reads a rule. What it does not know may be true of any host.
func ReadHosts(rule string) (*HostRule, error) {
	e, err := parseRule(rule)
	if err != nil {
		return nil, err
	}
	r := &HostRule{}
	r.covers = r.read(e)
	slices.Sort(r.samples)
	r.samples = slices.DeleteFunc(slices.Compact(r.samples), func(host string) bool { return !r.MayCover(host) })
	return r, nil
}

// MayCover says whether the rule can be true of a request for a host, which is in lower case and has no port.
func (r *HostRule) MayCover(host string) bool { return r.covers(host) != never }

// Samples are hosts that the rule can be true of: each that it names, and one for each expression.
// A rule without any looks at no host.
func (r *HostRule) Samples() []string { return r.samples }

func (r *HostRule) read(e *expr) func(string) verdict {
	if e.op == opMatch {
		return r.match(e.name, e.texts)
	}
	parts := make([]func(string) verdict, len(e.parts))
	for i, part := range e.parts {
		parts[i] = r.read(part)
	}
	switch e.op {
	case opNot:
		return func(host string) verdict { return -parts[0](host) }
	case opAnd:
		return func(host string) verdict { return min(parts[0](host), parts[1](host)) }
	default:
		return func(host string) verdict { return max(parts[0](host), parts[1](host)) }
	}
}

// match reads a matcher. Traefik 2 has several texts in one, and HostHeader for Host.
func (r *HostRule) match(name string, texts []string) func(string) verdict {
	unknown := func(string) verdict { return maybe }
	switch {
	case strings.EqualFold(name, "Host"), strings.EqualFold(name, "HostHeader"):
		hosts := make([]string, len(texts))
		for i, text := range texts {
			hosts[i] = strings.TrimSuffix(strings.ToLower(text), ".")
		}
		r.samples = append(r.samples, hosts...)
		return func(host string) verdict { return verdictOf(slices.Contains(hosts, strings.TrimSuffix(host, "."))) }
	case strings.EqualFold(name, "HostRegexp"):
		var all []*regexp.Regexp
		for _, text := range texts {
			re, err := regexp.Compile(text)
			if err != nil || isTemplate(text) {
				return unknown
			}
			all = append(all, re)
			if sample := sampleOf(text); re.MatchString(sample) {
				r.samples = append(r.samples, sample)
			}
		}
		return func(host string) verdict {
			return verdictOf(slices.ContainsFunc(all, func(re *regexp.Regexp) bool { return re.MatchString(host) }))
		}
	}
	return unknown
}

// isTemplate says whether an expression is one of Traefik 2: "{subdomain:[a-z]+}.example.com".
func isTemplate(text string) bool {
	_, after, found := strings.Cut(text, "{")
	return found && after != "" && strings.IndexByte("0123456789,", after[0]) < 0
}

func verdictOf(is bool) verdict {
	if is {
		return always
	}
	return never
}

// sampleOf returns a text that an expression matches; where it looks back or ahead, that may be none.
func sampleOf(expression string) string {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return ""
	}
	var b strings.Builder
	writeSample(&b, re)
	return strings.ToLower(b.String())
}

func writeSample(b *strings.Builder, re *syntax.Regexp) {
	switch re.Op {
	case syntax.OpLiteral:
		b.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		b.WriteRune(sampleRune(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte('x')
	case syntax.OpConcat, syntax.OpCapture, syntax.OpPlus:
		for _, sub := range re.Sub {
			writeSample(b, sub)
		}
	case syntax.OpAlternate:
		writeSample(b, re.Sub[0])
	case syntax.OpRepeat:
		for range re.Min {
			writeSample(b, re.Sub[0])
		}
	}
}

// sampleRune is "x" where a class has it, else the first that stands in a host.
func sampleRune(ranges []rune) rune {
	has := func(r rune) bool {
		for i := 0; i+1 < len(ranges); i += 2 {
			if ranges[i] <= r && r <= ranges[i+1] {
				return true
			}
		}
		return false
	}
	for _, r := range "xabcdefghijklmnopqrstuvwyz0123456789-_" {
		if has(r) || has(unicode.ToUpper(r)) {
			return r
		}
	}
	if len(ranges) > 0 {
		return ranges[0]
	}
	return 'x'
}
