package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
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
