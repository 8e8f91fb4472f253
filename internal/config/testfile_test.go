package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestLoadTests(t *testing.T) {
	file, err := LoadTests("testdata/tests-full.yaml")
	require.NoError(t, err)
	require.Equal(t, []string{"checkout", "smoke"}, file.Suites())
	s, ok := file.Suite("checkout")
	require.True(t, ok)
	here, err := filepath.Abs("testdata/e2e")
	require.NoError(t, err)
	require.Equal(t, here, s.Dir)
	require.Equal(t, []string{"npm", "test"}, s.Command)
	require.Equal(t, []string{"npm", "test", "--", "-t", "{tests}"}, s.Rerun)
	require.Equal(t, []string{"reports/*.xml"}, s.Report.Files)
	require.Equal(t, time.Date(2031, 5, 1, 0, 0, 0, 0, time.UTC), s.Quarantine[0].Day())
	s, _ = file.Suite("smoke")
	require.Equal(t, "exit", s.Report.Format)
	require.Equal(t, api.Duration(15*time.Minute), s.Timeout)
	_, ok = file.Suite("unknown")
	require.False(t, ok)
	first, last := file.Lines("checkout")
	require.Equal(t, []int{2, 19}, []int{first, last})
	first, last = file.Lines("smoke")
	require.Equal(t, 20, first)
	require.GreaterOrEqual(t, last, 21)
	_, err = LoadTests("testdata/none.yaml")
	require.ErrorIs(t, err, os.ErrNotExist)
	empty, err := ParseTests("x", nil)
	require.NoError(t, err)
	require.Empty(t, empty.Suites())
}

func TestParseTests_TellsAllProblems(t *testing.T) {
	_, err := ParseTests("layover.test.yaml", []byte(`suites:
  Checkout:
    comand: npm test
    dir: /tmp
    env: {"a=b": x}
    service: "a b"
    needs: {cart: {image: "x y", command: z}}
    reach: ["cart@@"]
    retries: 99
    timeout: -1s
    report: {format: junit}
    rerun: npm test
    quarantine: [{test: x, until: tomorrow, reason: y}]
  b:
    command: x
    report: {files: ["../*.xml", "[", "/x"]}
    rerun: go test -run {tests}
`))
	problems, ok := errors.AsType[*Problems](err)
	require.True(t, ok, err)
	var text strings.Builder
	for _, p := range problems.All {
		fmt.Fprintf(&text, "%d: %s\n", p.Line, p.Message)
		require.NotEmpty(t, p.Snippet, p.Message)
	}
	for _, want := range []string{
		`2: suite name "Checkout" has upper-case letters`, `3: `, `4: `, `5: `, `6: service name`, `7: `, `8: version name`, `9: `, `10: `, `11: `, `12: `, `13: `,
		`16: suites.b.report.files: nothing says`, `is not below the suite's folder`, `is no pattern`, `17: `,
	} {
		require.Contains(t, text.String(), want)
	}
}

func FuzzParseTests(f *testing.F) {
	full, err := os.ReadFile("testdata/tests-full.yaml")
	require.NoError(f, err)
	f.Add(full)
	f.Add([]byte("suites: {a: {command: [], needs: {b: *x}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseTests("layover.test.yaml", data)
		if err != nil {
			return
		}
		for _, name := range file.Suites() {
			_, _ = file.Suite(name)
			first, last := file.Lines(name)
			require.LessOrEqual(t, first, last)
		}
	})
}

func TestTestFile_SchemaAndReference(t *testing.T) {
	text, err := SchemaOfTests()
	require.NoError(t, err)
	golden(t, "../../layover.test.schema.json", text)
	var root jsonSchema
	require.NoError(t, json.Unmarshal(text, &root))
	sameKeys(t, testFileShape(), &root, "file")

	intro, err := os.ReadFile("testdata/tests-intro.md")
	require.NoError(t, err)
	example, err := os.ReadFile("testdata/tests-full.yaml")
	require.NoError(t, err)
	var out bytes.Buffer
	out.Write(intro)
	fmt.Fprintf(&out, "\n## A full example\n\n```yaml\n%s```\n\n## Keys\n", example)
	writeKeys(&out, testFileShape(), "", "Top level")
	golden(t, "../../docs/test-file.md", out.Bytes())
}
