package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// ParseGoJSON reads the output of go test -json (go doc test2json). A test is named by its package and its name. A test that
// failed through its subtests alone is none of the cases, and neither is a package, unless it failed apart from any test. A test
// that began and did not end, as where the program exits or the time is up, failed. Lines that are no JSON, as a test prints
// them that writes to the standard error, are passed over.
func ParseGoJSON(r io.Reader) ([]Case, error) {
	p := &goParser{running: map[goKey]*goTest{}, packages: map[string]string{}}
	lines := bufio.NewReaderSize(&bounded{r, maxBytes}, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		var e goEvent
		if len(line) > 0 && line[0] == '{' && json.Unmarshal(line, &e) == nil {
			p.event(&e)
		}
		if len(p.tests) > 2*maxCases { // with packages and parents
			return nil, errTooMany
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if !p.seen {
		return nil, errors.New("it is no output of go test -json")
	}
	cases, err := withoutParents(p.cases())
	for i := range cases {
		if c := &cases[i]; c.Outcome == Failed && c.Message == "" {
			c.Message = "it failed without a word"
		}
	}
	return cases, err
}

type goEvent struct {
	Action      string
	Package     string
	ImportPath  string // of what is built
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// goKey is a test, a package where it has no test, and what is built where it has no package.
type goKey struct{ pkg, test, built string }

// goTest is one run of a test: there are several with -count.
type goTest struct {
	key     goKey
	outcome Outcome // "" for one that has not ended
	elapsed float64
	output  excerpt
	build   string // what failed to build
}

type goParser struct {
	seen     bool
	running  map[goKey]*goTest // the last run of each
	tests    []*goTest
	packages map[string]string // the last action of each
}

func (p *goParser) event(e *goEvent) {
	k := goKey{e.Package, e.Test, ""}
	if e.Package == "" {
		k.built = e.ImportPath
	}
	if k == (goKey{}) {
		return
	}
	switch e.Action {
	case "start", "run":
		p.seen = true
		p.begin(k)
	case "output", "build-output":
		p.seen = true
		p.last(k).output.add(e.Output)
	case "pass", "fail", "skip":
		p.seen = true
		t := p.last(k)
		if t.outcome != "" {
			t = p.begin(k)
		}
		t.outcome = map[string]Outcome{"pass": Passed, "fail": Failed, "skip": Skipped}[e.Action]
		t.elapsed, t.build = e.Elapsed, e.FailedBuild
		if t.outcome == Passed {
			t.output = excerpt{}
		}
	case "bench": // a benchmark ended
		p.last(k).outcome = Passed
	default:
		return
	}
	if e.Package != "" && e.Test == "" {
		p.packages[e.Package] = e.Action
	}
}

func (p *goParser) begin(k goKey) *goTest {
	t := &goTest{key: k}
	p.running[k] = t
	p.tests = append(p.tests, t)
	return t
}

func (p *goParser) last(k goKey) *goTest {
	if t := p.running[k]; t != nil {
		return t
	}
	return p.begin(k)
}

func (p *goParser) cases() []within {
	var all []within
	for _, t := range p.tests {
		c := within{group: t.key.pkg, name: t.key.test, inGo: true}
		c.Name, c.Outcome, c.Duration = strings.TrimSpace(t.key.pkg+" "+t.key.test), t.outcome, seconds(t.elapsed)
		ended := p.packages[t.key.pkg]
		switch {
		case t.key.built != "", t.key.test == "" && (t.outcome == Passed || t.outcome == Skipped):
			continue // that it did not build is said of the packages that need it
		case t.outcome == Skipped:
			c.Message = told(t.output.String())
		case t.outcome == Failed:
			c.Message = told(t.output.String())
			if built := p.running[goKey{built: t.build}]; t.build != "" && built != nil {
				c.Message = built.output.String() + "\n" + c.Message
			}
		case t.outcome == "":
			if ended == "pass" || ended == "skip" || strings.HasPrefix(t.key.test, "Benchmark") { // these say no end
				continue
			}
			c.Outcome, c.Message = Failed, told(t.output.String())
			if c.Message == "" {
				c.Message = "it began, and did not end"
			}
		}
		all = append(all, c)
	}
	return all
}

// excerpt keeps the beginning and the end of a text: a log may be long, and why a test failed stands at its end.
type excerpt struct {
	head, tail []byte
	left       bool // something between them is left out
}

const maxExcerpt = maxMessage/2 - 8

func (e *excerpt) add(text string) {
	if room := maxExcerpt - len(e.head); room > 0 {
		n := min(room, len(text))
		e.head, text = append(e.head, text[:n]...), text[n:]
	}
	if len(text) > maxExcerpt {
		text, e.tail, e.left = text[len(text)-maxExcerpt:], nil, true
	}
	e.tail = append(e.tail, text...)
	if over := len(e.tail) - maxExcerpt; over > maxExcerpt {
		e.tail, e.left = append([]byte(nil), e.tail[over:]...), true
	}
}

func (e *excerpt) String() string {
	tail, left := e.tail, e.left
	if over := len(tail) - maxExcerpt; over > 0 {
		tail, left = tail[over:], true
	}
	if left {
		return string(e.head) + "\n…\n" + string(tail)
	}
	return string(e.head) + string(tail)
}
