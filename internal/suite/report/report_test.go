package report

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestParse reads what real runners wrote: Go 1.26, Node 20, pytest 7; and the examples of Surefire and Playwright.
func TestParse(t *testing.T) {
	for name, want := range map[string]string{
		"go.json": "example.com/cart TestAdds/once: passed\nexample.com/cart TestAdds/twice: failed\nexample.com/cart TestSkips: skipped\nexample.com/cart TestPasses: passed\n" +
			"example.com/cart/broken: failed\nexample.com/cart/panics TestPanics: failed\n",
		"node.tap":       "cart > adds once: passed\ncart > adds twice: failed\ncart > removes: skipped\ncart > empties: skipped\nplain: passed\n",
		"node.xml":       "test > adds once: passed\ntest > adds twice: failed\ntest > removes: skipped\ntest > empties: skipped\ntest > plain: passed\n",
		"pytest.xml":     "test_cart.TestCart > test_adds_once: passed\ntest_cart.TestCart > test_adds_twice: failed\ntest_cart > test_removes: skipped\ntest_cart > test_many[1]: passed\ntest_cart > test_many[2]: failed\n",
		"surefire.xml":   "com.example.CartTest > addsOnce: passed\ncom.example.CartTest > addsTwice: failed\ncom.example.CartTest > flaps: passed\ncom.example.CartTest > breaks: failed\n",
		"playwright.xml": "cart.spec.ts > cart › adds once: passed\ncart.spec.ts > cart › adds twice: failed\ncart.spec.ts > cart › removes: skipped\n",
	} {
		t.Run(name, func(t *testing.T) {
			cases := parse(t, name)
			got, wanted := strings.Split(summary(cases), "\n"), strings.Split(want, "\n")
			require.ElementsMatch(t, wanted, got)
			for _, c := range cases {
				if c.Outcome == Failed {
					require.NotEmpty(t, c.Message, c.Name)
				}
			}
		})
	}
	for _, c := range parse(t, "surefire.xml") {
		if strings.HasSuffix(c.Name, "addsTwice") {
			require.Equal(t, 1000250*time.Millisecond, c.Duration)
			require.Contains(t, c.Message, "but was: <3>")
			require.NotContains(t, c.Message, "again")
		}
	}
}

func TestParseTAP(t *testing.T) {
	for text, want := range map[string]string{
		"1..2\nok 1 - a\nnot ok 2 - b # TODO later\n":              "a: passed\nb: skipped\n",
		"ok\nnot ok\n1..2\n":                                       "test: passed\ntest (2): failed\n",
		"1..3\nok 1 a\nBail out! no database\n":                    "a: passed\nbail out: failed\n",
		"1..3\nok 1 a\n":                                           "a: passed\nthe plan of TAP: failed\n",
		"    ok 1 - x\n    1..1\nok 1 - a\n    ok 1 - x\nok 2 - b": "a > x: passed\nb > x: passed\n",
		"        not ok 1 - z\n    not ok 1 - y\nnot ok 1 - a\n":   "a > y > z: failed\n",
		"    ok 1 - y\nnot ok 1 - a\n":                             "a > y: passed\na: failed\n",
		"1..0 # skipped\n":                                         "",
		"ok 1 - a \\# b # SKIP no\n":                               "a # b: skipped\n",
	} {
		cases, err := ParseTAP(strings.NewReader(text))
		require.NoError(t, err)
		require.Equal(t, want, summary(cases), text)
	}
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
	cases, err := ParseJUnit(strings.NewReader(`<testsuites/>`))
	require.NoError(t, err)
	require.Empty(t, cases)
	cases, err = ParseJUnit(strings.NewReader("<testsuite><testcase name='a\x01\xff'><failure>\x1b[31mred\xff</failure></testcase></testsuite>"))
	require.NoError(t, err)
	require.Equal(t, "[31mred?", cases[0].Message)
	_, err = ParseTAP(&bounded{endless{}, maxBytes + 1})
	require.Error(t, err)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '\n'
	}
	return len(p), nil
}

// TestWriteJUnit holds that what is written is read back.
func TestWriteJUnit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in list
		for range rapid.IntRange(0, 5).Draw(t, "cases") {
			c := Case{Name: rapid.String().Draw(t, "name"), Outcome: rapid.SampledFrom([]Outcome{Passed, Failed, Skipped}).Draw(t, "outcome")}
			c.Duration = time.Duration(rapid.IntRange(0, 1_000_000).Draw(t, "ms")) * time.Millisecond
			require.NoError(t, in.add(c))
		}
		var b bytes.Buffer
		require.NoError(t, WriteJUnit(&b, "suite", in.cases))
		out, err := ParseJUnit(&b)
		require.NoError(t, err)
		require.Len(t, out, len(in.cases))
		for i := range out {
			require.Equal(t, in.cases[i].Outcome, out[i].Outcome)
			require.InDelta(t, in.cases[i].Duration, out[i].Duration, 1e6)
		}
	})
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
			require.LessOrEqual(t, len(c.Message), maxMessage)
			require.Contains(t, []Outcome{Passed, Failed, Skipped}, c.Outcome)
			require.GreaterOrEqual(t, c.Duration, time.Duration(0))
		}
	})
}

func FuzzParseJUnit(f *testing.F)  { fuzz(f, ParseJUnit) }
func FuzzParseTAP(f *testing.F)    { fuzz(f, ParseTAP) }
func FuzzParseGoJSON(f *testing.F) { fuzz(f, ParseGoJSON) }
