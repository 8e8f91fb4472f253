package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestRerunCommand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tests  []string
		format string
		want   string
		finds  string // what the runner compares with
		not    string
	}{
		"Go":             {[]string{"example.com/shop TestB", "example.com/shop TestA"}, "go-json", "^(TestA|TestB)$", "TestA", "TestAll"},
		"Go, a subtest":  {[]string{"example.com/shop TestA/sub_(x)", "example.com/shop TestA/b"}, "go-json", "^(TestA)$", "TestA", "TestA2"},
		"Go in JUnit":    {[]string{"example.com/shop > TestA/sub"}, "junit", "(TestA)$", "TestA", "TestB"},
		"Playwright":     {[]string{"e2e/a.spec.js > group › inner (x)?"}, "junit", `(inner \(x\)\?)$`, "chromium e2e/a.spec.js group inner (x)?", "chromium e2e/a.spec.js group inner (x)? once more"},
		"Jest":           {[]string{"cart adds twice"}, "junit", "(cart adds twice)$", "cart adds twice", "cart adds"},
		"Mocha":          {[]string{"adds twice > cart adds twice"}, "junit", "(cart adds twice)$", "cart adds twice", "cart adds"},
		"Vitest":         {[]string{"cart.test.js > cart > adds"}, "junit", "(adds)$", "cart adds", "cart adds twice"},
		"a test of Test": {[]string{"cart uses Test/fixtures"}, "junit", "(cart uses Test/fixtures)$", "cart uses Test/fixtures", "Test"},
		"TAP":            {[]string{"sub > b"}, "tap", "(b)$", "b", "c"},
		"an odd end":     {[]string{"sub > "}, "tap", `(sub > )$`, "sub > ", "sub"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := rerunCommand([]string{"run", "-g={tests}"}, c.tests, c.format)
			require.Equal(t, []string{"run", "-g=" + c.want}, got)
			require.Regexp(t, got[1][3:], c.finds)
			require.NotRegexp(t, got[1][3:], c.not)
		})
	}
	require.Equal(t, []string{"t", "--only", "x > a", "x > b"}, rerunCommand([]string{"t", "--only", "{test}"}, []string{"x > a", "x > b"}, "junit"))
	require.Equal(t, []string{"t", "TestA/b"}, rerunCommand([]string{"t", "{test}"}, []string{"example.com/shop TestA/b"}, "go-json"))
}

func TestTakenNames(t *testing.T) {
	t.Parallel()
	names := takenNames{}
	var got []string
	for _, name := range []string{"x", "x (2)", "x", "x", "x (2)", "y"} {
		got = append(got, names.take(name))
	}
	require.Equal(t, []string{"x", "x (2)", "x (3)", "x (4)", "x (2) (2)", "y"}, got)
}

// What is too much for the server is counted, and the failed tests are kept first.
func TestFit(t *testing.T) {
	t.Parallel()
	var r api.TestRun
	for i := range 20_000 {
		c := api.TestCase{Name: fmt.Sprintf("test %d", i), Outcome: "passed"}
		if i%100 == 0 {
			c.Outcome, c.Message, c.Excused = "failed", strings.Repeat("<", 4000), i%200 == 0
		}
		r.Cases = append(r.Cases, c)
	}
	got := fit(r)
	text, err := json.Marshal(got.Cases)
	require.NoError(t, err)
	require.Less(t, len(text), 900_000)
	require.Less(t, len(got.Cases), 20_000)
	require.Equal(t, "failed", got.Cases[199].Outcome)
	require.Equal(t, 20_000-len(got.Cases), got.Omitted.Passed)
	got.Count()
	require.Equal(t, []int{19_800, 200, 100}, []int{got.Passed, got.Failed, got.Excused})
	require.Len(t, r.Cases, 20_000)
	require.Empty(t, r.Omitted)
}
