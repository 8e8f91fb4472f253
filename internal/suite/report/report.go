// Package report reads what runners of tests say of single tests: JUnit XML, TAP, and the output of go test -json.
package report

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Outcome is how a test went.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Case is one test.
type Case struct {
	Name     string // unique in a report, and the same from run to run
	Outcome  Outcome
	Duration time.Duration
	Message  string // why it failed
	File     string // where it is; "" where the report does not say
}

// Bounds of a report.
const (
	maxBytes   = 64 << 20
	maxCases   = 100_000
	maxName    = 1 << 10
	maxMessage = 4 << 10
	maxDepth   = 64
)

// errTooLarge says that a report is larger than any that a person reads.
var errTooLarge = fmt.Errorf("it is larger than %d MiB", maxBytes>>20)

// bounded reads at most maxBytes, and fails behind that.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.from.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// list gathers cases under names that are unique.
type list struct {
	cases []Case
	taken map[string]int
}

var errTooMany = errors.New("it has too many tests")

func (l *list) add(c Case) error {
	if len(l.cases) == maxCases {
		return errTooMany
	}
	if l.taken == nil {
		l.taken = map[string]int{}
	}
	c.Name = clean(strings.Join(strings.Fields(c.Name), " "), maxName)
	if c.Name == "" {
		c.Name = "unnamed"
	}
	base := c.Name
	for l.taken[c.Name] > 0 {
		l.taken[base]++
		c.Name = fmt.Sprintf("%s (%d)", base, l.taken[base])
	}
	l.taken[c.Name]++
	c.Message = clean(strings.TrimSpace(c.Message), maxMessage)
	c.Duration = max(c.Duration, 0)
	l.cases = append(l.cases, c)
	return nil
}

// clean is valid text without control characters but newline and tab, of at most so many bytes.
func clean(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), 2*most)], "\uFFFD"))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

// seconds is a duration that a report gives as a number of seconds.
func seconds(s float64) time.Duration {
	if s != s || s < 0 || s > 1e7 {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}

// joined is the name of a test within others.
func joined(parts ...string) string {
	var kept []string
	for _, part := range parts {
		if part = strings.TrimSpace(part); part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, " > ")
}
