package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// ParseGoJSON reads the output of go test -json (go doc test2json). A test is named by its package and its name. A test that
// failed through its subtests alone is none of the cases, and neither is a package, unless it failed apart from any test.
// Lines that are no JSON, as a test prints them that writes to the standard error, are passed over.
func ParseGoJSON(r io.Reader) ([]Case, error) {
	type event struct {
		Action     string
		Package    string
		ImportPath string
		Test       string
		Elapsed    float64
		Output     string
	}
	lines := bufio.NewReaderSize(&bounded{r, maxBytes}, 64<<10)
	type key struct{ pkg, test string }
	outputs := map[key]*strings.Builder{}
	outcomes := map[key]Case{}
	var order []key
	seen := false
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if len(line) > 0 && line[0] == '{' && json.Unmarshal(line, &e) == nil && e.Action != "" {
			seen = true
			k := key{e.Package, e.Test}
			if e.Package == "" {
				k.pkg, _, _ = strings.Cut(e.ImportPath, " ") // "pkg [pkg.test]": what was built for the tests of pkg
			}
			switch e.Action {
			case "output", "build-output":
				b := outputs[k]
				if b == nil {
					b = &strings.Builder{}
					outputs[k] = b
				}
				if b.Len() < 2*maxMessage {
					b.WriteString(e.Output)
				}
			case "pass", "fail", "skip":
				if _, twice := outcomes[k]; !twice {
					order = append(order, k)
				}
				c := Case{Name: strings.TrimSpace(k.pkg + " " + k.test), Duration: seconds(e.Elapsed)}
				switch e.Action {
				case "pass":
					c.Outcome = Passed
				case "skip":
					c.Outcome = Skipped
				default:
					c.Outcome = Failed
				}
				outcomes[k] = c
			}
			if len(outcomes) > maxCases {
				return nil, errTooMany
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if !seen {
		return nil, errors.New("it is no output of go test -json")
	}
	failedBelow := map[key]bool{} // tests and packages of which something within failed
	hasTests := map[string]bool{}
	for k, c := range outcomes {
		if k.test == "" {
			continue
		}
		hasTests[k.pkg] = true
		if c.Outcome != Failed {
			continue
		}
		failedBelow[key{k.pkg, ""}] = true
		for at := strings.LastIndexByte(k.test, '/'); at > 0; at = strings.LastIndexByte(k.test[:at], '/') {
			failedBelow[key{k.pkg, k.test[:at]}] = true
		}
	}
	var out list
	for _, k := range order {
		c := outcomes[k]
		if k.test == "" && c.Outcome != Failed || c.Outcome == Failed && failedBelow[k] {
			continue
		}
		if b := outputs[k]; b != nil && c.Outcome == Failed {
			c.Message = b.String()
		}
		if err := out.add(c); err != nil {
			return nil, err
		}
	}
	return out.cases, nil
}
