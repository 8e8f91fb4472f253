package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ParseJUnit reads JUnit XML, as Surefire, pytest, Jest, Playwright, gotestsum and Node write it. A test is named by its class
// and its name, and by the suites it lies in where it has no class; one that is the whole report is none of them. A suite is no
// case, unless it has an error of its own.
func ParseJUnit(r io.Reader) ([]Case, error) {
	text, err := io.ReadAll(&bounded{r, maxBytes})
	if err != nil {
		return nil, err
	}
	d := xml.NewDecoder(bytes.NewReader(xmlText(text)))
	d.Strict = false
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // names and messages in ASCII are the same
	var p junitParser
	for depth := 0; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is no JUnit XML: %w", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return nil, errors.New("it is no JUnit XML: its elements lie too deep in each other")
			}
			p.begin(t, depth == 1)
		case xml.CharData:
			p.text(t)
		case xml.EndElement:
			depth--
			p.end(t.Name.Local)
		}
		if len(p.cases) > 2*maxCases { // with parents
			return nil, errTooMany
		}
	}
	if !p.seen {
		return nil, errors.New("it is no JUnit XML: it has no testsuite")
	}
	return withoutParents(p.cases)
}

type junitParser struct {
	seen    bool
	suites  []junitSuite // that the parser is in
	current *within      // likewise
	problem *junitProblem
	cases   []within
}

type junitSuite struct {
	name, file string
	whole      bool // it is the whole report
}

// junitProblem is a failure, an error, or why a test was skipped.
type junitProblem struct {
	element string
	kind    string // the type: of an exception, mostly
	message string
	text    []byte
}

// attributes are those of an element, by name.
func attributes(t xml.StartElement) map[string]string {
	out := map[string]string{}
	for _, a := range t.Attr {
		out[a.Name.Local] = a.Value
	}
	return out
}

func (p *junitParser) begin(t xml.StartElement, whole bool) {
	switch element := t.Name.Local; element {
	case "testsuites":
		p.seen = true
	case "testsuite":
		p.seen = true
		a := attributes(t)
		p.suites = append(p.suites, junitSuite{oneLine(a["name"]), p.file(a), whole})
	case "testcase":
		p.seen = true
		p.current = p.testcase(attributes(t))
	case "failure", "error", "skipped": // rerunFailure and flakyFailure of Surefire say nothing of how it ended
		if p.problem == nil {
			a := attributes(t)
			p.problem = &junitProblem{element: element, kind: a["type"], message: strings.TrimSpace(clean(a["message"], maxMessage))}
		}
	}
}

// file is where something is: as it says, or the suite around it.
func (p *junitParser) file(a map[string]string) string {
	if len(p.suites) > 0 && a["file"] == "" && a["filepath"] == "" {
		return p.suites[len(p.suites)-1].file
	}
	if a["file"] != "" {
		return a["file"]
	}
	return a["filepath"]
}

func (p *junitParser) testcase(a map[string]string) *within {
	c := &within{Case: Case{Outcome: Passed, File: p.file(a)}, group: a["classname"], name: a["name"]}
	c.Name = p.named(a["classname"], a["name"])
	s, _ := strconv.ParseFloat(strings.ReplaceAll(a["time"], ",", ""), 64) // Surefire writes 1,234.5
	c.Duration = seconds(s)
	for _, how := range []string{a["status"], a["result"]} { // GoogleTest and others
		switch how {
		case "disabled", "skipped", "notrun", "suppressed":
			c.Outcome = Skipped
		}
	}
	if c.group == "" && len(p.suites) > 0 {
		c.group = p.suites[len(p.suites)-1].name
	}
	return c
}

// nodeClass is what the runner of Node writes for the class of every test.
const nodeClass = "test"

// named is the name of a test. It is the same in all runs, and the same from Node's TAP.
func (p *junitParser) named(class, name string) string {
	switch class = strings.TrimSpace(class); class {
	case strings.TrimSpace(name): // of Jest
		return name
	case "", nodeClass:
		return joined(p.path(), name)
	default:
		return joined(class, name)
	}
}

// path is the name of the suites that the parser is in.
func (p *junitParser) path() string {
	var names []string
	for _, s := range p.suites {
		if !s.whole {
			names = append(names, s.name)
		}
	}
	return joined(names...)
}

func (p *junitParser) text(text []byte) {
	if p.problem != nil && len(p.problem.text) < 2*maxMessage {
		p.problem.text = append(p.problem.text, text[:min(len(text), 2*maxMessage)]...)
	}
}

func (p *junitParser) end(element string) {
	switch {
	case element == "testsuite" && len(p.suites) > 0:
		p.suites = p.suites[:len(p.suites)-1]
	case element == "testcase" && p.current != nil:
		p.cases = append(p.cases, *p.current)
		p.current, p.problem = nil, nil
	case p.problem != nil && p.problem.element == element:
		problem := p.problem
		p.problem = nil
		if p.current != nil {
			problem.tell(p.current)
		} else if element != "skipped" { // of the suite: its set-up failed
			c := within{Case: Case{Name: p.path(), File: p.file(nil)}}
			if c.Name == "" && len(p.suites) > 0 {
				c.Name = p.suites[0].name
			}
			problem.tell(&c)
			p.cases = append(p.cases, c)
		}
	}
}

// tell says of a test how it ended, and why. What was still to be done is excused, as with TAP.
func (j *junitProblem) tell(c *within) {
	message := strings.TrimSpace(clean(string(j.text), maxMessage))
	if !strings.Contains(message, j.message) {
		message = strings.TrimSpace(j.message + "\n" + message)
	}
	if j.element == "failure" && j.message == "Failed" && goTestName(c.name) { // as gotestsum and go-junit-report say it
		c.inGo = true
		message = told(strings.TrimPrefix(message, "Failed\n"))
	}
	todo := j.kind == "todo" // of Node, as is a reason "true" for none
	switch {
	case j.element == "skipped":
		if j.message != "" { // the text behind it says where
			message = j.message
		}
		if strings.HasPrefix(message, "=== RUN ") { // of gotestsum
			message = told(message)
		}
		if message == "true" && (todo || j.kind == "skipped") {
			message = ""
		}
		if c.Outcome != Failed || todo {
			c.Outcome, c.Message = Skipped, message
			c.excused = c.excused || todo
		}
	case !c.excused:
		if c.Outcome != Failed {
			c.Outcome, c.Message = Failed, ""
		}
		c.Message = strings.TrimSpace(c.Message + "\n" + message)
	}
}

func goTestName(name string) bool {
	return strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz")
}

// forbidden are references to characters that XML cannot hold, and that test runners write nonetheless.
var forbidden = regexp.MustCompile(`&#(?:x[0-9A-Fa-f]{1,6}|[0-9]{1,7});`)

// xmlText makes XML of what test runners write for it: without colours, control characters, bytes that are no UTF-8, and an end
// of CDATA where there is none.
func xmlText(text []byte) []byte {
	text = forbidden.ReplaceAllFunc(text, func(ref []byte) []byte {
		digits, base := string(ref[2:len(ref)-1]), 10
		if digits[0] == 'x' {
			digits, base = digits[1:], 16
		}
		if n, err := strconv.ParseUint(digits, base, 31); err != nil || inXML(rune(n)) {
			return ref
		} else if n < ' ' {
			return []byte{byte(n)}
		}
		return []byte("?")
	})
	text = colours.ReplaceAll(text, nil)
	out := make([]byte, 0, len(text))
	cdata := false
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(out, '?')
		case !inXML(r):
			out = append(out, ' ')
		case !cdata && r == '<' && bytes.HasPrefix(text, []byte("<![CDATA[")):
			cdata, n = true, len("<![CDATA[")
			out = append(out, text[:n]...)
		case r == ']' && bytes.HasPrefix(text, []byte("]]>")):
			if n = len("]]>"); cdata {
				out = append(out, "]]>"...)
			} else {
				out = append(out, "]]&gt;"...)
			}
			cdata = false
		default:
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}

// inXML reports whether XML can hold a character.
func inXML(r rune) bool {
	return r == '\n' || r == '\t' || r == '\r' || r >= ' ' && r <= 0xd7ff || r >= 0xe000 && r <= 0xfffd || r >= 0x10000 && r <= 0x10ffff
}

// Property is something that is said of all cases together.
type Property struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

// WriteJUnit writes cases as JUnit XML, in one suite with the given name and properties. ParseJUnit reads the cases back as they are.
func WriteJUnit(w io.Writer, name string, cases []Case, properties ...Property) error {
	type message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		File    string   `xml:"file,attr,omitempty"`
		Time    string   `xml:"time,attr"`
		Failure *message `xml:"failure"`
		Skipped *message `xml:"skipped"`
	}
	type about struct {
		Properties []Property `xml:"property"`
	}
	type testsuite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		About    *about     `xml:"properties"`
		Cases    []testcase `xml:"testcase"`
	}
	out := testsuite{Name: name, Tests: len(cases)}
	if len(properties) > 0 {
		out.About = &about{properties}
	}
	for _, c := range cases {
		t := testcase{Name: c.Name, File: c.File, Time: strconv.FormatFloat(c.Duration.Seconds(), 'f', -1, 64)}
		if class, rest, ok := strings.Cut(c.Name, " > "); ok && class != nodeClass && class != rest && joined(class, rest) == c.Name {
			t.Class, t.Name = class, rest
		}
		switch c.Outcome {
		case Passed:
		case Skipped:
			out.Skipped++
			t.Skipped = &message{Message: c.Message}
		default:
			out.Failures++
			first, _, _ := strings.Cut(c.Message, "\n")
			t.Failure = &message{first, c.Message}
		}
		out.Cases = append(out.Cases, t)
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(out); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
