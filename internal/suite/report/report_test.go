package report

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// summary is one line for each case.
func summary(cases []Case) string {
	var b strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&b, "%s: %s\n", c.Name, c.Outcome)
	}
	return b.String()
}

func parse(t *testing.T, name string) []Case {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	var cases []Case
	switch filepath.Ext(name) {
	case ".xml":
		cases, err = ParseJUnit(f)
	case ".tap":
		cases, err = ParseTAP(f)
	default:
		cases, err = ParseGoJSON(f)
	}
	require.NoError(t, err)
	return cases
}

// TestParse reads what real runners wrote: Go 1.26, gotestsum 1.13, Node 20, pytest 7, Playwright 1.65, Jest 30 with jest-junit
// 17, tape 5. Surefire's is by hand, after its documentation of rerunFailingTestsCount.
func TestParse(t *testing.T) {
	for name, want := range map[string]string{
		"go.json": "example.com/cart TestAdds/once: passed\nexample.com/cart TestAdds/twice: failed\nexample.com/cart TestSkips: skipped\nexample.com/cart TestPasses: passed\n" +
			"example.com/cart/broken: failed\nexample.com/cart/panics TestPanics: failed\n",
		"go-ends.json": "example.com/shop/broken: failed\nexample.com/shop/dep: failed\nexample.com/shop/exits TestFirst: passed\nexample.com/shop/exits TestExits/sub: failed\n" +
			"example.com/shop/panics TestPanics/sub: failed\nexample.com/shop/timeout TestHangs: failed\n",
		"go-count.json": "example.com/shop/count TestFlaps: failed\nexample.com/shop/count TestFlaps (2): passed\nexample.com/shop/count FuzzAdd: passed\nexample.com/shop/count FuzzAdd/seed#0: passed\n" +
			"example.com/shop/count FuzzAdd (2): passed\nexample.com/shop/count FuzzAdd/seed#0 (2): passed\nexample.com/shop/count ExampleAdd: passed\n",
		"gotestsum.xml": "example.com/shop/broken > TestMain: failed\nexample.com/shop/cart > TestAdds/twice: failed\nexample.com/shop/cart > TestSkips: skipped\nexample.com/shop/cart > TestAdds/once: passed\n" +
			"example.com/shop/cart > TestAdds/issue_#12_works: passed\nexample.com/shop/cart > TestPasses/sub: passed\nexample.com/shop/cart > TestPasses: passed\nexample.com/shop/panics > TestPanics/sub: failed\n",
		"node.tap": "cart > adds once: passed\ncart > adds twice: failed\ncart > removes: skipped\ncart > empties: skipped\nplain: passed\n",
		"node.xml": "cart > adds once: passed\ncart > adds twice: failed\ncart > removes: skipped\ncart > empties: skipped\nplain: passed\n",
		"node-nested.tap": "cart > adds: passed\ncart > when empty > adds: passed\ncart > when empty > issue #12 works: failed\ncart > later: skipped\norders > adds: failed\n" +
			"parent > sub: passed\nparent: failed\ntodo parent > sub: skipped\n",
		// Node's JUnit does not say that the parents failed, nor that one is still to be done.
		"node-nested.xml": "cart > adds: passed\ncart > when empty > adds: passed\ncart > when empty > issue #12 works: failed\ncart > later: skipped\norders > adds: failed\n" +
			"parent > sub: passed\ntodo parent > sub: failed\n",
		"tape.tap":   "adds once: passed\nadds twice: failed\nremoves: skipped\nissue #12 works: passed\nnot yet: skipped\n",
		"pytest.xml": "test_cart.TestCart > test_adds_once: passed\ntest_cart.TestCart > test_adds_twice: failed\ntest_cart > test_removes: skipped\ntest_cart > test_many[1]: passed\ntest_cart > test_many[2]: failed\n",
		"pytest-odd.xml": "test_cart > test_ctl: failed\ntest_cart > test_many[issue #12]: failed\ntest_cart > test_many[\\x07bell]: failed\ntest_cart > test_many[\\xfc]: passed\ntest_cart > test_many[a > b]: failed\n" +
			"test_cart > test_errors: failed\ntest_cart > test_tears: failed\ntest_cart > test_tears (2): failed\ntest_cart > test_xfail: skipped\ntest_cart > test_xpass: failed\n",
		"pytest-collection.xml": "pytest > test_no: failed\n",
		"surefire.xml":          "com.example.CartTest > addsOnce: passed\ncom.example.CartTest > addsTwice: failed\ncom.example.CartTest > flaps: passed\ncom.example.CartTest > breaks: failed\n",
		"playwright.xml": "pw/cart.spec.js > cart › adds once: passed\npw/cart.spec.js > cart › adds twice: failed\npw/cart.spec.js > cart › removes: skipped\n" +
			"pw/cart.spec.js > cart › flaps: passed\npw/cart.spec.js > cart › empties: skipped\npw/cart.spec.js > cart › prints: failed\n",
		"jest.xml": "cart adds once: passed\ncart adds twice: failed\ncart removes: skipped\ncart when empty adds once: passed\ncart when empty issue #12 works: failed\nplain: passed\n",
	} {
		t.Run(name, func(t *testing.T) {
			cases := parse(t, name)
			require.Equal(t, want, summary(cases))
			for _, c := range cases {
				require.Equal(t, c.Outcome == Failed, c.Outcome != Skipped && c.Message != "", "%s: %q", c.Name, c.Message)
			}
		})
	}
}

// TestParse_Message holds that it is said why a test failed, by what the runners above wrote.
func TestParse_Message(t *testing.T) {
	for _, want := range []struct{ file, test, text string }{
		{"go.json", "example.com/cart TestAdds/twice", "cart_test.go:3: got 3, want 2"},
		{"go.json", "example.com/cart/broken", "undefined: undefined"},
		{"go.json", "example.com/cart TestSkips", "not here"},
		{"go-ends.json", "example.com/shop/broken", `dep.go:2:13: cannot use "no"`}, // what did not build is another package
		{"go-ends.json", "example.com/shop/exits TestExits/sub", "no database"},
		{"go-ends.json", "example.com/shop/panics TestPanics/sub", "panic: assignment to entry in nil map"}, // which the parent prints
		{"go-ends.json", "example.com/shop/timeout TestHangs", "panic: test timed out after 2s"},
		{"gotestsum.xml", "example.com/shop/cart > TestSkips", "c_test.go:5: no database"},
		{"gotestsum.xml", "example.com/shop/panics > TestPanics/sub", "panic: assignment to entry in nil map"},
		{"node.tap", "cart > adds twice", "error: '3 == 2'"},
		{"node-nested.tap", "orders > adds", "\n  ...\n  ok 9 - evil\n"}, // a text in YAML
		{"node-nested.xml", "orders > adds", "a ]]> b"},
		{"pytest.xml", "test_cart > test_removes", "not here"},
		{"surefire.xml", "com.example.CartTest > addsTwice", "but was: <3>"},
		{"surefire.xml", "com.example.CartTest > breaks", "NullPointerException"},
		{"playwright.xml", "pw/cart.spec.js > cart › adds twice", "Received: 3"},
		{"jest.xml", "cart when empty issue #12 works", "Error: array[0]]> red"},
		{"tape.tap", "adds twice", "expected: 2"},
	} {
		c := find(t, parse(t, want.file), want.test)
		require.Contains(t, c.Message, want.text, "%s: %s", want.file, want.test)
	}
	twice := find(t, parse(t, "surefire.xml"), "com.example.CartTest > addsTwice")
	require.Equal(t, 1000250*time.Millisecond, twice.Duration)
	require.NotContains(t, twice.Message, "again") // of rerunFailure
	require.Equal(t, 1, strings.Count(twice.Message, "expected: <2>"))
	nested := find(t, parse(t, "node-nested.tap"), "orders > adds")
	require.Equal(t, "/src/n.test.mjs", nested.File)
	require.Positive(t, nested.Duration)
}

func find(t *testing.T, cases []Case, name string) Case {
	t.Helper()
	i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == name })
	require.GreaterOrEqual(t, i, 0, "there is no %q", name)
	return cases[i]
}

func TestParseJUnit(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"suites in suites":               {`<testsuites><testsuite name="a"><testsuite name="b"><testcase name="c"/></testsuite><testcase name="d"/></testsuite></testsuites>`, "a > b > c: passed\na > d: passed\n"},
		"a suite that is the whole":      {`<testsuite name="a"><testsuite name="b"><testcase name="c"/></testsuite><testcase name="d"/></testsuite>`, "b > c: passed\nd: passed\n"},
		"a class is enough":              {`<testsuite name="a"><testsuite name="b"><testcase classname="X" name="c"/></testsuite></testsuite>`, "X > c: passed\n"},
		"the same name twice":            {`<testsuite><testcase name="a"/><testcase name="a"><failure/></testcase><testcase name="a (2)"/></testsuite>`, "a: passed\na (2): failed\na (2) (2): passed\n"},
		"no case":                        {`<testsuites/>`, ""},
		"failure and error":              {`<testsuite><testcase name="a"><failure/><error/></testcase></testsuite>`, "a: failed\n"},
		"failure and skipped":            {`<testsuite><testcase name="a"><failure/><skipped/></testcase><testcase name="b"><skipped/><failure/></testcase></testsuite>`, "a: failed\nb: failed\n"},
		"to be done, of Node":            {`<testsuite><testcase name="a"><skipped type="todo"/><failure/></testcase><testcase name="b"><failure/><skipped type="todo"/></testcase></testsuite>`, "a: skipped\nb: skipped\n"},
		"not run, of GoogleTest":         {`<testsuite><testcase name="a" status="notrun" result="suppressed"/><testcase name="b" status="run" result="skipped"/></testsuite>`, "a: skipped\nb: skipped\n"},
		"a suite that cannot begin":      {`<testsuite name="a"><error message="no database"/><testsuite name="b"><failure/></testsuite><testcase name="c"/></testsuite>`, "a: failed\nb: failed\nc: passed\n"},
		"a failed class of Surefire":     {`<testsuite><testcase classname="X" name=""><error/></testcase><testcase classname="X" name="a"><failure/></testcase></testsuite>`, "X: failed\nX > a: failed\n"},
		"slashes are no subtests":        {`<testsuite><testcase classname="X" name="a"><failure/></testcase><testcase classname="X" name="a/b"><failure/></testcase></testsuite>`, "X > a: failed\nX > a/b: failed\n"},
		"references to what XML forbids": {`<testsuite><testcase name="a&#27;[31mb&#x1B;[0m&#0;&#xFFFF;&#99999999;"/></testsuite>`, "ab ?&#99999999;: passed\n"},
		"an end of CDATA without one":    {`<testsuite><testcase name="a"><failure>x[y[0]]> z</failure></testcase><testcase name="b"><failure><![CDATA[<]]]]><![CDATA[>]]></failure></testcase></testsuite>`, "a: failed\nb: failed\n"},
		"another encoding":               {`<?xml version="1.0" encoding="ISO-8859-1"?><testsuite><testcase name="a"/></testsuite>`, "a: passed\n"},
		"a byte order mark":              {"\ufeff<testsuite><testcase name='a'/></testsuite>", "a: passed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			cases, err := ParseJUnit(strings.NewReader(test.text))
			require.NoError(t, err)
			require.Equal(t, test.want, summary(cases))
		})
	}
	cases, err := ParseJUnit(strings.NewReader("<testsuite file='s'><testcase name='a\x01\xff'><failure message='\x1b[1mcolour'>\x1b[31mred\xff</failure></testcase><testcase name='b' file='f'/></testsuite>"))
	require.NoError(t, err)
	require.Equal(t, []Case{{Name: "a ?", Outcome: Failed, Message: "colour\nred?", File: "s"}, {Name: "b", Outcome: Passed, File: "f"}}, cases)
	for _, brokenOff := range []string{"<testsuite><testcase name='a'/>", "<testsuite><testcase name='a'>", "<testsuite><testcase name='a'/></testsuite", "<testsuite><testcase name='a'><failure>no"} {
		_, err := ParseJUnit(strings.NewReader(brokenOff))
		require.ErrorContains(t, err, "it is no JUnit XML", brokenOff)
	}
	_, err = ParseJUnit(strings.NewReader(strings.Repeat("<testsuite>", maxDepth+1)))
	require.ErrorContains(t, err, "too deep")
}

func TestParseTAP(t *testing.T) {
	for text, want := range map[string]string{
		"1..2\nok 1 - a\nnot ok 2 - b # TODO later\n":                            "a: passed\nb: skipped\n",
		"ok\nnot ok\n1..2\n":                                                     "test: passed\ntest (2): failed\n",
		"1..3\nok 1 a\nBail out! no database\n":                                  "a: passed\nbail out: failed\n",
		"1..3\nok 1 a\n":                                                         "a: passed\nthe plan of TAP: failed\n",
		"1..1\nok 1 a\nok 2 b\n":                                                 "a: passed\nb: passed\nthe plan of TAP: failed\n",
		"ok 1 a\n":                                                               "a: passed\nthe plan of TAP: failed\n", // it broke off: Node writes the plan at the end
		"1..1\n    1..2\n    ok 1 - x\nok 1 - a\n":                               "a > x: passed\na > the plan of TAP: failed\n",
		"1..2\nok 1 a\n    ok 1 x\n    1..2\n":                                   "a: passed\nx: passed\nthe plan of TAP: failed\nthe plan of TAP (2): failed\n",
		"    ok 1 - x\n    1..1\nok 1 - a\n    ok 1 - x\nok 2 - b\n1..2":         "a > x: passed\nb > x: passed\n",
		"        not ok 1 - z\n    not ok 1 - y\nnot ok 1 - a\n1..1\n":           "a > y > z: failed\n",
		"    ok 1 - y\nnot ok 1 - a\n1..1\n":                                     "a > y: passed\na: failed\n",
		"\tnot ok 1 - y\nnot ok 1 - a # TODO b\n1..1\n":                          "a > y: skipped\n",
		"1..0 # skipped\n":                                                       "",
		"1..1\nok 1 - a \\# b # SKIP no\n":                                       "a # b: skipped\n",
		"1..3\nok 1 - issue #12\nok 2 - issue # 13\nok 3 - # todos\n":            "issue #12: passed\nissue # 13: passed\n# todos: passed\n",
		"1..2\nok 1 - a # time=12.5ms\nnot ok 2 - b # Skipped: no\n":             "a: passed\nb: skipped\n",
		"ok, connected\nokay\nok-ish\n1..2 is a range\n1..1\nok 1 - a\n":         "a: passed\n",
		"1..1\nok 1 - a {\n    ok 1 - b\n    1..1\n}\n":                          "a > b: passed\n",
		"1..3\nok 1 - a {\nok 2 - b\nok 3 - c {\n":                               "a {: passed\nb: passed\nc {: passed\n",
		"1..2\r\nok 1 - a\r\nnot ok 2 - b\r\n":                                   "a: passed\nb: failed\n",
		"TAP version 13\n1..1\nok 1 - a\nTAP version 13\nok 1 - a\n1..1\n":       "a: passed\na (2): passed\n",
		"TAP version 13\n1..2\nok 1 - a\nTAP version 13\nok 1 - a\n1..1\n":       "a: passed\nthe plan of TAP: failed\na (2): passed\n",
		"1..2\nnot ok 1 - a\n  ---\n  x: |-\n    ...\n    ok 5\n  ...\nok 2 b\n": "a: failed\nb: passed\n",
		"1..2\nok 1 - a\n  ---\n  x: 1\nok 2 b\n":                                "a: passed\nthe plan of TAP: failed\n",
		"1..2\nok 1 - a\n" + strings.Repeat("x", 1<<20) + "\nok 2 - b\n":         "a: passed\nb: passed\n",
	} {
		cases, err := ParseTAP(strings.NewReader(text))
		require.NoError(t, err)
		require.Equal(t, want, summary(cases), "%.200s", text)
	}
	cases, err := ParseTAP(strings.NewReader("1..2\nok 1 - a # time=12.5ms\nok 2 - b # SKIP no database\n"))
	require.NoError(t, err)
	require.Equal(t, []Case{{Name: "a", Outcome: Passed, Duration: 12500 * time.Microsecond}, {Name: "b", Outcome: Skipped, Message: "no database"}}, cases)
	_, err = ParseTAP(strings.NewReader("1..1\n" + strings.Repeat("    ", maxDepth) + "ok 1 a\n"))
	require.ErrorContains(t, err, "too deep")
	_, err = ParseTAP(strings.NewReader("1..99999999999999999999\n"))
	require.ErrorIs(t, err, errTooMany)
}

func TestParseGoJSON(t *testing.T) {
	event := func(action, test string) string {
		return fmt.Sprintf(`{"Action":%q,"Package":"p","Test":%q}`, action, test) + "\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"it broke off between tests":    {event("start", "") + event("run", "TestA") + event("pass", "TestA"), "p: failed\np TestA: passed\n"},
		"it broke off in a test":        {event("start", "") + event("run", "TestA"), "p TestA: failed\n"},
		"it broke off in a subtest":     {event("start", "") + event("run", "TestA") + event("run", "TestA/b"), "p TestA/b: failed\n"},
		"a package fails on its own":    {event("start", "") + event("run", "TestA") + event("pass", "TestA") + event("fail", ""), "p: failed\np TestA: passed\n"},
		"a package is run twice":        {event("start", "") + event("fail", "") + event("start", "") + event("pass", ""), "p: failed\n"},
		"a package has no tests":        {event("start", "") + event("skip", ""), ""},
		"a benchmark ends without word": {event("start", "") + event("run", "BenchmarkA") + event("run", "TestA") + event("fail", "TestA") + event("fail", ""), "p TestA: failed\n"},
		"lines between":                 {"# p\n{not JSON}\n{}\n\n" + event("pass", "TestA") + "FAIL\n" + `{"Action":"pass","Package":"p","Test":"TestB"}`, "p TestA: passed\np TestB: passed\n"},
		"a subtest fails once of twice": {event("fail", "TestA/b") + event("fail", "TestA") + event("pass", "TestA/b") + event("pass", "TestA"), "p TestA/b: failed\np TestA/b (2): passed\np TestA: passed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			cases, err := ParseGoJSON(strings.NewReader(test.text))
			require.NoError(t, err)
			require.Equal(t, test.want, summary(cases))
		})
	}
	var long strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&long, `{"Action":"output","Package":"p","Test":"TestA","Output":"line %d ü\n"}`+"\n", i)
	}
	cases, err := ParseGoJSON(strings.NewReader(long.String() + event("fail", "TestA")))
	require.NoError(t, err)
	require.LessOrEqual(t, len(cases[0].Message), maxMessage)
	require.Regexp(t, `(?s)^line 0 ü\n.*\n…\n.*line 4999 ü$`, cases[0].Message) // why it failed is at the end
}

func TestParse_WhatIsNone(t *testing.T) {
	for _, text := range []string{"", "hello", "<html><body>x</body></html>", `{"a":1}`} {
		_, err := ParseJUnit(strings.NewReader(text))
		require.Error(t, err, text)
		_, err = ParseTAP(strings.NewReader(text))
		require.Error(t, err, text)
		_, err = ParseGoJSON(strings.NewReader(text))
		require.Error(t, err, text)
	}
}

// TestParse_Bounds holds that a report is bounded in bytes and in tests.
func TestParse_Bounds(t *testing.T) {
	var wrote strings.Builder
	b := &bounded{strings.NewReader("12345"), 5}
	_, err := io.Copy(&wrote, b)
	require.NoError(t, err)
	require.Equal(t, "12345", wrote.String())
	_, err = io.Copy(io.Discard, &bounded{strings.NewReader("123456"), 5})
	require.ErrorIs(t, err, errTooLarge)

	for name, parser := range map[string]struct {
		parse func(io.Reader) ([]Case, error)
		each  string
	}{
		"JUnit":   {ParseJUnit, `<testcase name="a"/>`},
		"TAP":     {ParseTAP, "ok a\n"},
		"Go JSON": {ParseGoJSON, `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parser.parse(io.MultiReader(strings.NewReader("<testsuite>"), strings.NewReader(strings.Repeat(parser.each, maxCases+2)), strings.NewReader("</testsuite>")))
			require.ErrorIs(t, err, errTooMany)
		})
	}
}

// TestWriteJUnit holds that what is written is read back.
func TestWriteJUnit(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`(a| > |test|TestA|/|  | \(2\)|\n|--- FAIL: |]]>|&#27;|<|"){0,8}`))
	rapid.Check(t, func(t *rapid.T) {
		var in list
		for range rapid.IntRange(0, 5).Draw(t, "cases") {
			c := Case{Name: text.Draw(t, "name"), Outcome: rapid.SampledFrom([]Outcome{Passed, Failed, Skipped}).Draw(t, "outcome"), File: text.Draw(t, "file")}
			if c.Outcome != Passed {
				c.Message = text.Draw(t, "message")
			}
			c.Duration = time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "duration"))
			require.NoError(t, in.add(c))
		}
		requireReadBack(t, in.cases)
	})
}

// TestWriteJUnit_OfRunners holds the same for what the runners wrote.
func TestWriteJUnit_OfRunners(t *testing.T) {
	files, err := filepath.Glob("testdata/*.*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		requireReadBack(t, parse(t, filepath.Base(file)))
	}
	var b bytes.Buffer
	require.NoError(t, WriteJUnit(&b, "suite", []Case{{Name: "a", Outcome: "unheard of"}}))
	require.Contains(t, b.String(), "<failure") // and it is nothing that passes
	requireReadBack(t, []Case{{Name: "p > TestA", Outcome: Failed, Message: "x"}, {Name: "p > TestA/b", Outcome: Failed, Message: "y"}})
}

func requireReadBack(t require.TestingT, cases []Case) {
	var b bytes.Buffer
	require.NoError(t, WriteJUnit(&b, "suite", cases, Property{"layover.summary", "passed"}))
	out, err := ParseJUnit(&b)
	require.NoError(t, err)
	require.Len(t, out, len(cases))
	for i := range out {
		require.Equal(t, cases[i], out[i])
	}
}

func fuzz(f *testing.F, parse func(io.Reader) ([]Case, error)) {
	files, err := filepath.Glob("testdata/*.*")
	require.NoError(f, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cases, err := parse(bytes.NewReader(text))
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, c := range cases {
			require.False(t, names[c.Name], "twice: %q", c.Name)
			names[c.Name] = true
			require.NotEmpty(t, c.Name)
			require.LessOrEqual(t, len(c.Message), maxMessage)
			for _, text := range []string{c.Name, c.Message, c.File} {
				require.True(t, utf8.ValidString(text), "%q", text)
				require.False(t, strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }), "%q", text)
			}
			require.Contains(t, []Outcome{Passed, Failed, Skipped}, c.Outcome)
			require.GreaterOrEqual(t, c.Duration, time.Duration(0))
		}
		var b bytes.Buffer
		require.NoError(t, WriteJUnit(&b, "suite", cases))
		again, err := ParseJUnit(&b)
		require.NoError(t, err)
		require.Len(t, again, len(cases))
	})
}

func FuzzParseJUnit(f *testing.F)  { fuzz(f, ParseJUnit) }
func FuzzParseTAP(f *testing.F)    { fuzz(f, ParseTAP) }
func FuzzParseGoJSON(f *testing.F) { fuzz(f, ParseGoJSON) }
