package config

import (
	"errors"
	"flag"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with the file at name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(name, got, 0o644))
	}
	want, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run the tests with -update if this is what it should be")
}

// TestBadFiles holds the whole report for each bad file.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = Parse("layover.yaml", data)
			problems, ok := errors.AsType[*Problems](err)
			require.True(t, ok, "%v", err)
			line := 0
			for _, p := range problems.All {
				require.GreaterOrEqual(t, p.Line, line, "problems are in the order of the file")
				require.Positive(t, p.Col)
				require.NotEmpty(t, p.Snippet)
				line = p.Line
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", []byte(err.Error()+"\n"))
		})
	}
}

func TestLoadFull(t *testing.T) {
	file, err := Load("testdata/full.yaml")
	require.NoError(t, err)
	here, err := filepath.Abs("testdata")
	require.NoError(t, err)
	health := api.Health{Path: "/healthz", Interval: api.Duration(time.Second)}

	require.Equal(t, []api.Service{
		{
			Name: "cart", Hosts: []string{"cart", "cart.shop.localhost", "*.cart.test"}, Default: "stable", Health: health,
			Run:     api.Run{Process: &api.Process{Command: []string{"./cart", "-name", "my cart", "-port", "{port}"}, Dir: filepath.Join(here, "cart")}},
			Env:     map[string]string{"LOG_LEVEL": "debug", "PORT_LABEL": "8080", "CATALOG": "http://catalog.shop.localhost"},
			Timeout: api.Duration(45 * time.Second), Grace: api.Duration(10 * time.Second), Drain: api.Duration(10 * time.Second),
			Setup:    &api.Hook{Command: []string{"./cart", "migrate"}, Dir: filepath.Join(here, "db"), Timeout: api.Duration(time.Minute)},
			Teardown: &api.Hook{Command: []string{"./cart", "drop"}, Env: map[string]string{"FORCE": "1"}},
		},
		{
			Name: "catalog", Hosts: []string{"catalog.shop.localhost"}, Default: "main", Protocol: "h2c",
			Health:  api.Health{Kind: "process", Interval: api.Duration(time.Second)},
			Run:     api.Run{Docker: &api.Docker{Image: "registry.example.com/catalog:{version}", Command: []string{"serve", "--port", "9000"}, Port: 9000, Memory: "256m", CPUs: 0.5}},
			Env:     map[string]string{"LOG_LEVEL": "info", "PORT_LABEL": "8080"},
			Timeout: api.Duration(45 * time.Second), Grace: api.Duration(time.Second), Drain: api.Duration(10 * time.Second),
		},
		{
			Name: "payments", Hosts: []string{"payments.shop.localhost"}, Default: "main",
			Health:  api.Health{Kind: "tcp", Interval: api.Duration(time.Second), Failures: 5},
			Run:     api.Run{External: &api.External{URL: "https://payments.example.com", RewriteHost: true}},
			Env:     map[string]string{"LOG_LEVEL": "info", "PORT_LABEL": "8080"},
			Timeout: api.Duration(45 * time.Second), Grace: api.Duration(10 * time.Second), Drain: api.Duration(10 * time.Second),
		},
	}, file.Services())

	from := func(d api.Deployment) api.Deployment { d.Source = "file"; return d }
	require.Equal(t, []VersionDeployment{
		{"cart", "1.10", from(api.Deployment{Overrides: api.Overrides{Image: "registry.example.com/cart:1.10"}})},
		{"cart", "feature-2981", from(api.Deployment{
			Overrides: api.Overrides{Dir: filepath.Join(filepath.Dir(here), "cart-feature-2981"), Teardown: &api.Hook{Off: true}},
			Branch:    "feature/2981", Owner: "ana", Timeout: api.Duration(5 * time.Second),
		})},
		{"cart", "stable", from(api.Deployment{})},
		{"catalog", "main", from(api.Deployment{})},
		{"payments", "main", from(api.Deployment{})},
		{"payments", "sandbox", from(api.Deployment{Overrides: api.Overrides{URL: "http://127.0.0.1:9999"}})},
	}, file.Versions())

	require.Equal(t, []api.NamedRoute{
		{Name: "ana", Parent: "team-a", Picks: map[string]string{"cart": "feature-2981"}},
		{Name: "team-a", Picks: map[string]string{"cart": "1.10", "payments": "sandbox"}},
	}, file.Routes())

	require.Equal(t, []Listener{
		{Entry: "127.0.0.1:8080", Host: "127.0.0.1", Port: "8080", Trusted: true},
		{Entry: "docker:8080", Port: "8080", Docker: true, Trusted: true},
		{Entry: ":8443", Port: "8443", TLS: true},
	}, file.Listeners())
	require.Equal(t, []KeyPair{
		{CertFile: filepath.Join(file.Dir(), "tls/shop.crt"), KeyFile: filepath.Join(file.Dir(), "tls/shop.key")},
		{CertFile: "/etc/tls/other.crt", KeyFile: "/etc/tls/other.key"},
	}, file.KeyPairs())
	require.Equal(t, "route", file.BaggageKey)
	require.Equal(t, []string{"layover.example.com"}, file.Server.AllowedHosts)
	require.Equal(t, api.Duration(10*time.Second), file.Hold)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}, Networks(file.Proxy.TrustForwarded))
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}, Networks(file.Proxy.ProxyProtocolFrom))
	require.NoError(t, file.Validate())
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "comment": "# nothing\n", "marker": "---\n", "null": "~\n"} {
		t.Run(name, func(t *testing.T) {
			file, err := Parse("layover.yaml", []byte(text))
			require.NoError(t, err)
			want := Default()
			want.source = file.source
			require.Equal(t, want, file)
		})
	}
}

// TestDefaultsAreDocumented holds that a default in code is the one in the tags.
func TestDefaultsAreDocumented(t *testing.T) {
	file := Default()
	for _, v := range Variables() {
		k := fileShape()
		var found *key
		for part := range strings.SplitSeq(v.Key, ".") {
			found = k.key(part)
			k = found.shape
		}
		if found.fallback == "" {
			continue
		}
		changed := Default()
		require.NoError(t, changed.Set(v.Key, found.fallback, "test"))
		changed.source = nil
		require.Equal(t, file, changed, v.Key)
	}
	require.NoError(t, file.Validate())
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(filepath.Join(dir, "layover.yaml"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "layover init")
	_, err = Load(dir)
	require.ErrorContains(t, err, "is a directory")
}

// TestBounds holds that files made to be slow or deep are refused, and quickly.
func TestBounds(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("x-0: &a0 {a: b, c: d, e: f, g: h}\n")
	for i := 1; i < 20; i++ {
		n, m := string(rune('a'+i)), string(rune('a'+i-1))
		laughs.WriteString("x-" + n + ": &a" + n + " {")
		if i == 1 {
			m = "0"
		}
		laughs.WriteString("a: *a" + m + ", b: *a" + m + "}\n")
	}
	merges := "x-0: &a {A: 1, B: 2, C: 3}\nx-1: &b {<<: [" + strings.Repeat("*a, ", 200) + "*a]}\n" +
		"x-2: &c {<<: [" + strings.Repeat("*b, ", 200) + "*b]}\nx-3: &d {<<: [" + strings.Repeat("*c, ", 200) + "*c]}\ndefaults: {env: {<<: [" + strings.Repeat("*d, ", 200) + "*d]}}\n"
	tests := map[string]struct{ text, want string }{
		"size":         {strings.Repeat("# x\n", 1<<19), "larger than 1024 KiB"},
		"keys":         {strings.Repeat("a: 1\n", 1<<17), "too many values"},
		"brackets":     {"a: " + strings.Repeat("[", 1<<13), "nested more than"},
		"braces":       {strings.Repeat("{a: ", 1<<13), "nested more than"},
		"dashes":       {strings.Repeat("- ", 1<<15), "nested more than"},
		"anchors":      {strings.Repeat("&a ", 1<<15), "more than 1000 anchors"},
		"questions":    {strings.Repeat("? ", 1<<15), "more than 1000 anchors"},
		"merges":       {merges, "aliases make the file too large"},
		"alias circle": {"services: &a {b: *a}\n", "stands inside of what it names"},
		"merge circle": {"services: &a {<<: *a}\n", "stands inside of what it names"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("layover.yaml", []byte(test.text))
			require.ErrorContains(t, err, test.want)
		})
	}
	_, err := Parse("layover.yaml", []byte(laughs.String()))
	require.NoError(t, err, "what nobody refers to is not expanded")
}

func TestProblemsAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range 500 {
		text.WriteString("k" + strings.Repeat("x", i) + ": 1\n")
	}
	_, err := Parse("layover.yaml", []byte(text.String()))
	problems, ok := errors.AsType[*Problems](err)
	require.True(t, ok)
	require.Len(t, problems.All, maxProblems+1)
	require.ErrorContains(t, err, "and 400 more problems")
	require.Less(t, len(err.Error()), 100_000)
}

func TestByteOrderMarkAndCarriageReturns(t *testing.T) {
	file, err := Parse("layover.yaml", []byte("\uFEFFenvironment: dev\r\nserver:\r\n  listen: 127.0.0.1:1\r\n"))
	require.NoError(t, err)
	require.Equal(t, "dev", file.Environment)
	require.Equal(t, "127.0.0.1:1", file.Server.Listen)
}

func TestSplitCommand(t *testing.T) {
	tests := map[string]struct {
		line string
		want []string
	}{
		"quotes":     {`./cart -n 'my cart' "a b"c ''`, []string{"./cart", "-n", "my cart", "a bc", ""}},
		"unicode":    {"./é ü", []string{"./é", "ü"}},
		"dollar":     {"echo $HOME", []string{"echo", "$HOME"}},
		"backticks":  {"echo `date`", []string{"echo", "`date`"}},
		"newline":    {"./cart \\\n  -x\n", []string{"./cart", "-x"}},
		"quoted bar": {"sh -c 'a | b; c'", []string{"sh", "-c", "a | b; c"}},
		"bar":        {"a | b", nil},
		"and":        {"a && b", nil},
		"redirect":   {"a > log", nil},
		"open quote": {"a 'b", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			words, err := SplitCommand(test.line)
			if test.want == nil {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, words)
		})
	}
}

func TestTemplate(t *testing.T) {
	file, err := Parse("layover.yaml", Template())
	require.NoError(t, err)
	require.Len(t, file.Services(), 1)

	// What the template shows in comments must be right too.
	var full strings.Builder
	for line := range strings.SplitSeq(string(Template()), "\n") {
		trimmed := strings.TrimLeft(line, " ")
		if rest, ok := strings.CutPrefix(trimmed, "# "); ok && isYAMLLine(rest) {
			line = line[:len(line)-len(trimmed)] + rest
		}
		full.WriteString(line + "\n")
	}
	file, err = Parse("layover.yaml", []byte(full.String()))
	require.NoError(t, err, full.String())
	require.Len(t, file.Services(), 3)
	require.Len(t, file.Routes(), 1)
}

// isYAMLLine tells a setting in a comment from a sentence.
func isYAMLLine(s string) bool {
	s = strings.TrimLeft(s, " ")
	word, _, found := strings.Cut(s, ":")
	return found && !strings.ContainsAny(word, "\" ") || strings.HasPrefix(s, "- ")
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		for _, file := range files {
			data, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("layover.yaml", data)
		if err != nil {
			problems, ok := errors.AsType[*Problems](err)
			require.True(t, ok)
			require.NotEmpty(t, problems.All)
			require.NotEmpty(t, err.Error())
			return
		}
		require.NoError(t, file.Validate(), "a file that loads is valid")
		file.Services()
		file.Versions()
		file.Routes()
	})
}

func TestTelemetryEnv(t *testing.T) {
	const services = "services: {a: {run: {external: {url: http://127.0.0.1:1}}}}\n"
	for text, want := range map[string][]string{
		"": vendors(), "telemetry: {env: []}\n": {}, "telemetry: {env: [sentry]}\n": {"sentry"},
	} {
		f, err := Parse("layover.yaml", []byte(text+services))
		require.NoError(t, err)
		require.Equal(t, want, f.Telemetry.Env)
	}
	_, err := Parse("layover.yaml", []byte("telemetry: {env: [sentry, dynatrace]}\n"+services))
	require.ErrorContains(t, err, `"dynatrace" is no tracer whose variables are known`)
}
