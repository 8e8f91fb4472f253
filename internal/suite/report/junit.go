package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ParseJUnit reads JUnit XML, as Surefire, pytest, Jest, Playwright, gotestsum and Node write it. A test is named by its
// class and its name.
func ParseJUnit(r io.Reader) ([]Case, error) {
	text, err := io.ReadAll(&bounded{r, maxBytes})
	if err != nil {
		return nil, err
	}
	d := xml.NewDecoder(bytes.NewReader(xmlText(text)))
	d.Strict = false
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // names and messages in ASCII are the same
	var out list
	var current *junitCase
	depth, seen := 0, false
	for {
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
			switch t.Name.Local {
			case "testsuites", "testsuite":
				seen = true
			case "testcase":
				seen = true
				current = newJUnitCase(t.Attr)
			default:
				current.begin(t)
			}
		case xml.CharData:
			current.text(t)
		case xml.EndElement:
			depth--
			if t.Name.Local == "testcase" && current != nil {
				if err := out.add(current.Case); err != nil {
					return nil, err
				}
				current = nil
			} else {
				current.end(t.Name.Local)
			}
		}
	}
	if !seen {
		return nil, errors.New("it is no JUnit XML: it has no testsuite")
	}
	return out.cases, nil
}

// junitCase is a test that is being read.
type junitCase struct {
	Case
	in string // the element whose text is wanted
}

func newJUnitCase(attributes []xml.Attr) *junitCase {
	c := &junitCase{Case: Case{Outcome: Passed}}
	var class, name string
	for _, a := range attributes {
		switch a.Name.Local {
		case "classname":
			class = a.Value
		case "name":
			name = a.Value
		case "file":
			c.File = clean(a.Value, maxName)
		case "time":
			s, _ := strconv.ParseFloat(strings.ReplaceAll(a.Value, ",", ""), 64) // Surefire writes 1,234.5
			c.Duration = seconds(s)
		case "status", "result": // of some runners
			if a.Value == "disabled" || a.Value == "skipped" {
				c.Outcome = Skipped
			}
		}
	}
	if class == name {
		class = ""
	}
	c.Name = joined(class, name)
	return c
}

// begin is the start of an element within a test.
func (c *junitCase) begin(t xml.StartElement) {
	if c == nil {
		return
	}
	switch t.Name.Local {
	case "failure", "error":
		c.Outcome = Failed
	case "skipped":
		if c.Outcome != Failed {
			c.Outcome = Skipped
		}
	default: // rerunFailure and flakyFailure of Surefire say nothing of how it ended
		return
	}
	c.in = t.Name.Local
	for _, a := range t.Attr {
		if a.Name.Local == "message" && c.Outcome == Failed {
			c.Message += clean(a.Value, maxMessage) + "\n"
		}
	}
}

func (c *junitCase) text(text []byte) {
	if c == nil || c.in != "failure" && c.in != "error" || len(c.Message) > maxMessage {
		return
	}
	more := strings.TrimSpace(clean(string(text), maxMessage))
	if first, _, _ := strings.Cut(c.Message, "\n"); first != "" && strings.HasPrefix(more, first) {
		c.Message = "" // the text begins with the message
	}
	c.Message += more + "\n"
}

func (c *junitCase) end(name string) {
	if c != nil && c.in == name {
		c.in = ""
	}
}

// xmlText replaces what XML cannot hold and test runners write nonetheless: control characters and bytes that are no UTF-8.
func xmlText(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(out, '?')
		case r < ' ' && r != '\n' && r != '\t' && r != '\r', r == 0xfffe, r == 0xffff:
			out = append(out, ' ')
		default:
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}

// WriteJUnit writes cases as JUnit XML, in one suite with the given name.
func WriteJUnit(w io.Writer, name string, cases []Case) error {
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
	type testsuite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	out := testsuite{Name: name, Tests: len(cases)}
	for _, c := range cases {
		t := testcase{Name: c.Name, File: c.File, Time: strconv.FormatFloat(c.Duration.Seconds(), 'f', 3, 64)}
		if class, rest, ok := strings.Cut(c.Name, " > "); ok {
			t.Class, t.Name = class, rest
		}
		switch c.Outcome {
		case Failed:
			out.Failures++
			first, _, _ := strings.Cut(c.Message, "\n")
			t.Failure = &message{first, c.Message}
		case Skipped:
			out.Skipped++
			t.Skipped = &message{Message: c.Message}
		case Passed:
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
