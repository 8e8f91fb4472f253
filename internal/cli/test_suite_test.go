package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/store/postgrestest"
	"github.com/layover-dev/layover/internal/suite"
)

// testScene is a version that is to be tested, behind a proxy of its own process. The tests ask it, say so, and wait until they may end.
type testScene struct {
	t         *testing.T
	dir       string
	asked     *os.File // pipes with the tests
	goOn      *os.File
	out, said lockedBuffer
}

func newTestScene(t *testing.T) *testScene {
	t.Helper()
	s := &testScene{t: t, dir: t.TempDir()}
	writeFile(t, s.dir, serverFile, cart(t))
	s.asked, s.goOn = s.pipe("asked"), s.pipe("go")
	s.file("layover.test.yaml", `
suites:
  checkout:
    command: [sh, -c, "curl -fsS http://cart.localhost/ && echo > asked && read line < go"]
    service: cart
`)
	t.Setenv("LAYOVER_PROXY_ADDRESS", freeAddress(t))
	return s
}

func (s *testScene) file(name, text string) {
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
}

func (s *testScene) pipe(name string) *os.File {
	s.t.Helper()
	require.NoError(s.t, syscall.Mkfifo(filepath.Join(s.dir, name), 0o600))
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR|syscall.O_NONBLOCK, 0)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = f.Close() })
	return f
}

// proxy starts the proxy of the servers, and deploys the version.
func (s *testScene) proxy(servers ...*program) {
	s.t.Helper()
	args := []string{"--listen", os.Getenv("LAYOVER_PROXY_ADDRESS")}
	for _, p := range servers {
		p.answers(s.t)
		args = append(args, "--server", "http://"+p.address)
	}
	_, err := servers[0].Deploy(s.t.Context(), "cart", "pr-1", api.Deployment{})
	require.NoError(s.t, err)
	startProxy(s.t, self(s.t), args...)
}

// test begins layover test.
func (s *testScene) test(server *program, run string, args ...string) (code <-chan int) {
	ended := make(chan int, 1)
	app := newApp(nil, &s.out, &s.said, []string{"LAYOVER_SERVER=http://" + server.address, "PATH=" + os.Getenv("PATH")})
	args = append([]string{"test", "-f", filepath.Join(s.dir, "layover.test.yaml"), "--route", "pr-1", "--run", run}, args...)
	go func() { ended <- execute(s.t.Context(), app, args) }()
	return ended
}

// atTheEnd lets meanwhile happen between the requests of the tests and their end.
func (s *testScene) atTheEnd(meanwhile func()) {
	s.t.Helper()
	require.NoError(s.t, s.asked.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := s.asked.Read(make([]byte, 1))
	require.NoError(s.t, err, s.said.String())
	meanwhile()
	_, err = s.goOn.WriteString("\n")
	require.NoError(s.t, err)
}

// TestTest_AServerTakesOver holds that a good run during which another server takes over is run once more, and passes.
func TestTest_AServerTakesOver(t *testing.T) {
	address := postgrestest.URL(t)
	s := newTestScene(t)
	leader := startProgram(t, s.dir, address)
	leader.answers(t)
	other := startProgram(t, s.dir, address)
	s.proxy(leader, other)
	code := s.test(other, "ci-1")
	s.atTheEnd(func() {
		require.NoError(t, leader.command.Process.Kill())
		<-leader.ended
	})
	s.atTheEnd(func() {})
	require.Equal(t, exitOK, <-code, s.said.String())
	require.Contains(t, s.out.String(), "run ci-1  not proved: the server changed during the run")
	require.Contains(t, s.out.String(), "run ci-1.again  passed")
	first, err := other.TestRun(t.Context(), "ci-1")
	require.NoError(t, err)
	require.Equal(t, api.RunUnproved, first.Status)
	require.False(t, first.Exercised)
	require.Empty(t, first.Findings, "the tests are not blamed")
	second, err := other.TestRun(t.Context(), "ci-1.again")
	require.NoError(t, err)
	require.Equal(t, api.RunPassed, second.Status)
	require.True(t, second.Exercised)
	require.Equal(t, "ci-1", second.Repeats)
	require.Equal(t, "pr-1", second.Reached.Edges[0].Version)
}

// TestTest_AServerIsStartedAnewTwice holds that a run is repeated once at most, and then neither passes nor fails.
func TestTest_AServerIsStartedAnewTwice(t *testing.T) {
	s := newTestScene(t)
	place := filepath.Join(s.dir, "layover.db")
	server := startProgram(t, s.dir, place)
	s.proxy(server)
	report := filepath.Join(s.dir, "report.xml")
	code := s.test(server, "ci-1", "--junit", report)
	for range 2 {
		s.atTheEnd(func() {
			require.NoError(t, server.command.Process.Kill())
			<-server.ended
			server = startProgramAt(t, s.dir, place, server.address)
		})
	}
	require.Equal(t, exitUnproved, <-code, s.said.String())
	require.Equal(t, 2, strings.Count(s.out.String(), "not proved: the server changed during the run"))
	xml, err := os.ReadFile(report)
	require.NoError(t, err)
	require.Contains(t, string(xml), `failures="1"`)
	require.Contains(t, string(xml), "not proved: the server changed during the run")
	runs, err := server.TestRuns(t.Context(), api.TestRunFilter{Status: api.RunUnproved})
	require.NoError(t, err)
	require.Len(t, runs, 2)
}

func TestDecide_WhereNothingIsProved(t *testing.T) {
	failed := api.TestCase{Name: "a", Outcome: "failed", Verdict: string(suite.Yours)}
	flaky := api.TestCase{Name: "b", Outcome: "failed", Verdict: string(suite.Flaky)}
	fallback := api.RunFinding{Kind: suite.UnexpectedFallback, Version: "orders@pr-1"}
	for name, test := range map[string]struct {
		cases    []api.TestCase
		findings []api.RunFinding
		status   api.RunStatus
		reason   string
	}{
		"all passed":         {nil, nil, api.RunUnproved, "the server changed"},
		"what is excused":    {[]api.TestCase{flaky}, nil, api.RunUnproved, "the server changed"},
		"a test fails":       {[]api.TestCase{failed, flaky}, nil, api.RunFailed, "the server changed; 1 test failed"},
		"and a fallback too": {nil, []api.RunFinding{fallback}, api.RunUnproved, "the server changed; unexpected fallback: orders@pr-1"},
	} {
		t.Run(name, func(t *testing.T) {
			run := &suiteRun{opts: &testOptions{FailOn: []string{string(suite.Yours)}}, unproved: "the server changed"}
			result := api.TestRun{Cases: test.cases, Findings: test.findings}
			run.decide(&result)
			require.Equal(t, test.status, result.Status)
			require.Equal(t, test.reason, result.Reason)
		})
	}
	require.NoError(t, endOf([]api.TestRun{{Status: api.RunPassed}}))
	require.Equal(t, exitUnproved, exitCode(endOf([]api.TestRun{{Status: api.RunUnproved}, {Status: api.RunPassed}})))
	require.Equal(t, exitFailed, exitCode(endOf([]api.TestRun{{Status: api.RunUnproved}, {Status: api.RunFailed}})))
}

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
