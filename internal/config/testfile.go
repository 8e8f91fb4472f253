package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// TestFileName is the name of the file with the suites of a repository.
const TestFileName = "layover.test.yaml"

// TestFile is the content of layover.test.yaml.
type TestFile struct {
	SuitesByName map[string]TestSuite `yaml:"suites,omitempty" name:"suite" doc:"The suites of tests, by name"`

	source *source
}

// TestSuite is a suite of tests, and what it needs, must reach and may miss.
type TestSuite struct {
	Command    []string            `yaml:"command" doc:"What runs the tests. It is run without a shell; its requests carry the route" example:"npm test"`
	Dir        string              `yaml:"dir,omitempty" doc:"Where it is run, relative to the file. Default: the folder of the file" example:"e2e"`
	Env        map[string]string   `yaml:"env,omitempty" name:"variable" doc:"Environment variables of the command, besides those it is started with" example:"LOG: debug"`
	Service    string              `yaml:"service,omitempty" doc:"The service whose version is under test. Default: every service that has a version of the route" example:"cart"`
	Needs      map[string]TestNeed `yaml:"needs,omitempty" name:"service" doc:"What has to be there before the tests begin. A version that is not is deployed"`
	Reach      []string            `yaml:"reach,omitempty" doc:"What the tests must reach, as service or service@version; a service alone stands for the version that the route means. Default: what is under test" example:"orders@main"`
	Fallback   []string            `yaml:"fallback,omitempty" doc:"Services that may answer with their default version although the route has one of them" example:"payments"`
	Retries    int                 `yaml:"retries,omitempty" default:"0" minimum:"0" maximum:"10" doc:"How often failed tests are run again before anything is said. One that passes then has passed, and counts as flaky"`
	Timeout    api.Duration        `yaml:"timeout,omitempty" default:"15m" doc:"How long one run of the command may take"`
	Report     TestReport          `yaml:"report,omitempty" doc:"Where the results of single tests are. Default: the suite counts as one test, which passes with exit code 0"`
	Rerun      []string            `yaml:"rerun,omitempty" doc:"What runs given tests alone, to find out whose fault their failure is. {tests} becomes a regular expression that matches the ends of their names, {test} is repeated for each. Default: the whole suite runs again" example:"go test ./e2e -run {tests}"`
	Owners     []string            `yaml:"owners,omitempty" doc:"Who is told where the default versions fail a test. Default: the owner of the guilty version" example:"team-payments"`
	Quarantine []TestQuarantine    `yaml:"quarantine,omitempty" doc:"Tests whose failure does not fail the run, for a time"`
}

// TestNeed is a version that a suite needs. What is empty comes from the service's run block.
type TestNeed struct {
	Version string            `yaml:"version,omitempty" doc:"The version. Default: that of the route" example:"main"`
	Image   string            `yaml:"image,omitempty" doc:"Run this image, where the version is not there; {version} is its name" example:"registry.example.com/orders:{version}"`
	Command []string          `yaml:"command,omitempty" doc:"Run this command, where the version is not there" example:"./bin/orders"`
	Env     map[string]string `yaml:"env,omitempty" name:"variable" doc:"Environment variables of it, where it is not there" example:"SEED: small"`
}

// TestReport says where the results of single tests are.
type TestReport struct {
	Format string   `yaml:"format,omitempty" enum:"junit,tap,go-json,exit" default:"exit" doc:"Its format: JUnit XML, TAP, the output of go test -json, or exit: the exit code alone"`
	Files  []string `yaml:"files,omitempty" doc:"Its files, relative to dir; * stands for any part of a name. Default: what the command prints" example:"reports/*.xml"`
}

// TestQuarantine excuses a test for a time.
type TestQuarantine struct {
	Test   string `yaml:"test" doc:"Name of the test, as reports have it" example:"cart > adds twice"`
	Until  string `yaml:"until" doc:"The first day on which its failure fails the run again" example:"2031-05-01"`
	Reason string `yaml:"reason" doc:"Why it fails, and who mends it" example:"races with the stock job: CART-12"`
}

// Day returns the first day on which the test counts again, in UTC.
func (q TestQuarantine) Day() time.Time {
	day, _ := time.Parse(time.DateOnly, q.Until) // it was checked
	return day
}

func testFileShape() *shape { return shapeOf(reflect.TypeFor[TestFile](), nil) }

// LoadTests reads a layover.test.yaml, and checks it. The error is [*Problems] where the file could be read and has some.
func LoadTests(name string) (*TestFile, error) {
	data, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no suites of tests at %s (declare them there, or name another file with -f): %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return ParseTests(name, data)
}

// ParseTests reads data as [LoadTests] does.
func ParseTests(name string, data []byte) (*TestFile, error) {
	d, body, err := begin(name, data)
	if err != nil {
		return nil, err
	}
	file := &TestFile{source: d.source}
	if body != nil {
		d.tree(body, testFileShape(), reflect.ValueOf(file).Elem())
	}
	k := checker{collector: &d.collector}
	for _, name := range slices.Sorted(maps.Keys(file.SuitesByName)) {
		k.suite(name, file.SuitesByName[name], path{"suites", name})
	}
	return file, d.err()
}

// Suites returns the names of the suites, sorted.
func (f *TestFile) Suites() []string { return slices.Sorted(maps.Keys(f.SuitesByName)) }

// Suite returns a suite with its defaults, and its folder absolute.
func (f *TestFile) Suite(name string) (TestSuite, bool) {
	s, ok := f.SuitesByName[name]
	if s.Timeout == 0 {
		s.Timeout = api.Duration(15 * time.Minute)
	}
	if s.Report.Format == "" {
		s.Report.Format = "exit"
	}
	s.Dir = filepath.Join(f.source.dir, s.Dir)
	return s, ok
}

// Lines returns which lines of the file a suite takes, the first and the last one, from 1.
func (f *TestFile) Lines(name string) (first, last int) {
	at := f.source.key(path{"suites", name})
	first, last = at.line, len(f.source.lines)
	for _, other := range f.Suites() {
		if line := f.source.key(path{"suites", other}).line; line > first {
			last = min(last, line-1)
		}
	}
	for i := first; i < last; i++ { // a line that is not indented is none of it
		if line := f.source.lines[i]; strings.TrimSpace(line) != "" && !strings.HasPrefix(line, " ") {
			return first, i
		}
	}
	return first, last
}

// suite checks one suite.
func (k checker) suite(name string, s TestSuite, p path) {
	k.name(name, k.source.key(p), "suite")
	if s.Command != nil && (len(s.Command) == 0 || s.Command[0] == "") {
		k.value(p.with("command"), "write the program and its arguments", "the command is empty")
	}
	if filepath.IsAbs(s.Dir) {
		k.value(p.with("dir"), "name it from the folder of this file", "%s is absolute: others have the repository elsewhere", clip(s.Dir))
	}
	for _, variable := range slices.Sorted(maps.Keys(s.Env)) {
		k.variable(variable, s.Env[variable], p.with("env"))
	}
	if s.Service != "" {
		k.name(s.Service, k.source.value(p.with("service")), "service")
	}
	for _, service := range slices.Sorted(maps.Keys(s.Needs)) {
		k.need(service, s.Needs[service], p.with("needs", service))
	}
	for i, text := range s.Reach {
		at := k.source.value(p.with("reach", strconv.Itoa(i)))
		service, version, scoped := strings.Cut(text, "@")
		k.name(service, at, "service")
		if scoped {
			k.name(version, at, "version")
		}
	}
	for i, service := range s.Fallback {
		k.name(service, k.source.value(p.with("fallback", strconv.Itoa(i))), "service")
	}
	if s.Timeout < 0 {
		k.value(p.with("timeout"), "", "%s is negative", s.Timeout)
	}
	if len(s.Report.Files) > 0 && (s.Report.Format == "" || s.Report.Format == "exit") {
		k.key(p.with("report", "files"), "set format: junit, tap or go-json", "nothing says what the files are")
	}
	if s.Report.Format == "junit" && len(s.Report.Files) == 0 {
		k.key(p.with("report"), "add files, such as reports/*.xml", "JUnit XML is in files, and none are named")
	}
	for i, pattern := range s.Report.Files {
		at := p.with("report", "files", strconv.Itoa(i))
		if _, err := filepath.Match(pattern, ""); err != nil {
			k.value(at, "", "%q is no pattern of file names: %v", clip(pattern), err)
		}
		if filepath.IsAbs(pattern) || strings.HasPrefix(filepath.Clean(pattern), "..") {
			k.value(at, "name it from the suite's dir", "%s is not below the suite's folder", clip(pattern))
		}
	}
	if s.Rerun != nil && !slices.ContainsFunc(s.Rerun, func(word string) bool { return strings.Contains(word, "{test}") || strings.Contains(word, "{tests}") }) {
		k.value(p.with("rerun"), "put {tests} where the command takes the tests to run", "nothing says which tests are to run again")
	}
	if s.Rerun != nil && (s.Report.Format == "" || s.Report.Format == "exit") {
		k.key(p.with("rerun"), "set report as well", "without a report no single test is known to fail")
	}
	for i, q := range s.Quarantine {
		if _, err := time.Parse(time.DateOnly, q.Until); err != nil && q.Until != "" {
			k.value(p.with("quarantine", strconv.Itoa(i), "until"), "write it like 2031-05-01", "%q is no day", clip(q.Until))
		}
	}
}

func (k checker) need(service string, n TestNeed, p path) {
	k.name(service, k.source.key(p), "service")
	if n.Version != "" {
		k.name(n.Version, k.source.value(p.with("version")), "version")
	}
	if n.Image != "" && n.Command != nil {
		k.key(p.with("command"), "leave one of them out", "a version runs in one way, and there is an image")
	}
	k.command(n.Command, p.with("command"))
	k.image(n.Image, p.with("image"))
	k.env(n.Env, p.with("env"))
}
