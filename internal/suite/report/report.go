// Package report reads what runners of tests say of single tests: JUnit XML, TAP, and the output of go test -json. What is
// missing in a report, as a test that began and did not end, is a failed case: a report that broke off proves nothing.
package report

import (
	"fmt"
	"io"
	"math"
	"regexp"
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
	Message  string // why it failed, or was skipped: at most 4 KiB
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

// bounded reads at most so many bytes, and fails where there are more.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if n, err := b.from.Read(p[:min(len(p), 1)]); n == 0 {
			return 0, err
		}
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

var errTooMany = fmt.Errorf("it has more than %d tests", maxCases)

func (l *list) add(c Case) error {
	if len(l.cases) == maxCases {
		return errTooMany
	}
	if l.taken == nil {
		l.taken = map[string]int{}
	}
	c.Name = oneLine(c.Name)
	if c.Name == "" {
		c.Name = "unnamed"
	}
	base := c.Name
	for l.taken[c.Name] > 0 {
		l.taken[base]++
		c.Name = fmt.Sprintf("%s (%d)", base, l.taken[base])
	}
	l.taken[c.Name]++
	c.File = oneLine(c.File)
	c.Message = strings.TrimSpace(clean(strings.TrimSpace(c.Message), maxMessage))
	c.Duration = max(c.Duration, 0)
	l.cases = append(l.cases, c)
	return nil
}

// oneLine is the name of something, its spaces made single ones.
func oneLine(text string) string {
	return strings.TrimSpace(clean(strings.Join(strings.Fields(clean(text, 4*maxName)), " "), maxName))
}

// colours are what a terminal shows as colours and the like.
var colours = regexp.MustCompile(`\x1b\[[0-9:;<=>?]*[ -/]*[@-~]`)

// clean is valid text without colours and control characters but newline and tab, of at most so many bytes.
func clean(text string, most int) string {
	text = strings.ToValidUTF8(text[:min(len(text), 2*most)], "\uFFFD")
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) && r != 0xfffe && r != 0xffff { // the last two are none of XML
			return r
		}
		return -1
	}, colours.ReplaceAllString(text, ""))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

// seconds is a duration that a report gives as a number of seconds.
func seconds(s float64) time.Duration {
	if s > 0 && s < 1e7 { // NaN is neither
		return time.Duration(math.Round(s * float64(time.Second)))
	}
	return 0
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

// within is a case that lies in a group, such as a package of Go, under a name of its own there.
type within struct {
	Case
	group, name string
	inGo        bool // "/" in its name says what it lies in, and no name that it is a package
	excused     bool // it is still to be done, and so may fail
}

// withoutParents leaves out the tests and packages of Go that failed through what lies in them: TestX where TestX/sub failed,
// and its package. What they printed themselves, such as a panic, goes to those subtests.
func withoutParents(all []within) ([]Case, error) {
	type key struct{ group, name string }
	failedBelow := map[key]bool{}
	for _, c := range all {
		if c.Outcome != Failed || c.name == "" || !c.inGo {
			continue
		}
		failedBelow[key{c.group, ""}] = true
		for name, n := above(c.name), 0; name != "" && n < maxDepth; name, n = above(name), n+1 {
			failedBelow[key{c.group, name}] = true
		}
	}
	said := map[key]string{}
	for _, c := range all {
		if k := (key{c.group, c.name}); c.inGo && c.name != "" && c.Outcome == Failed && failedBelow[k] {
			said[k] = c.Message
		}
	}
	var out list
	for _, c := range all {
		if c.Outcome == Failed && c.inGo {
			if failedBelow[key{c.group, c.name}] {
				continue
			}
			for name, n := above(c.name), 0; name != "" && n < maxDepth && len(c.Message) < maxMessage; name, n = above(name), n+1 {
				c.Message = strings.TrimSpace(c.Message + "\n" + said[key{c.group, name}])
			}
		}
		if err := out.add(c.Case); err != nil {
			return nil, err
		}
	}
	return out.cases, nil
}

// above is the name of the test of Go that a subtest lies in; "" for one that lies in none.
func above(name string) string {
	return name[:max(0, strings.LastIndexByte(name, '/'))]
}

// frames are the lines that testing adds to what a test prints.
var frames = regexp.MustCompile(`(?m)^ *(?:=== (?:RUN|PAUSE|CONT|NAME) |--- (?:PASS|FAIL|SKIP): ).*\n?`)

// told is what a test of Go printed itself.
func told(text string) string {
	return strings.Trim(frames.ReplaceAllString(text, ""), "\n")
}
