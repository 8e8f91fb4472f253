package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

// parseDeploy returns what flags make of a deployment.
func parseDeploy(t *testing.T, args ...string) (target, api.Deployment, error) {
	t.Helper()
	app := newApp(nil, &bytes.Buffer{}, &bytes.Buffer{}, []string{"LAYOVER_OWNER=ana", "TOKEN=secret"})
	opts := &deployOptions{Target: args[0]}
	flags := newDeployCmd(app).Flags()
	require.NoError(t, flags.Parse(args[1:]))
	get := func(name string) string { return flags.Lookup(name).Value.String() }
	opts.Image, opts.Command, opts.Dir, opts.URL = get("image"), get("command"), get("dir"), get("url")
	opts.EnvFile, opts.Branch, opts.Who.Owner = get("env-file"), get("branch"), get("owner")
	opts.Port, _ = flags.GetInt("port")
	opts.Env, _ = flags.GetStringArray("env")
	opts.Timeout, _ = flags.GetDuration("timeout")
	return opts.deployment(app)
}

func TestDeployFlags(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	for name, test := range map[string]struct {
		args   []string
		target target
		want   api.Deployment
	}{
		"nothing but the service's own": {
			args: []string{"cart@x"}, target: target{Service: "cart", Version: "x"},
			want: api.Deployment{Owner: "ana", Source: "cli"},
		},
		"command": {
			args: []string{"cart@x", "--command", `./cart -name 'a b'`}, target: target{Service: "cart", Version: "x"},
			want: api.Deployment{Overrides: api.Overrides{Command: []string{"./cart", "-name", "a b"}, Dir: here}, Owner: "ana", Source: "cli"},
		},
		"folder": {
			args: []string{"cart@x", "--dir", "testdata"}, target: target{Service: "cart", Version: "x"},
			want: api.Deployment{Overrides: api.Overrides{Dir: filepath.Join(here, "testdata")}, Owner: "ana", Source: "cli"},
		},
		"image": {
			args:   []string{"cart@x", "--image", "cart:1", "--port", "3000", "--timeout", "1m30s", "--owner", "team"},
			target: target{Service: "cart", Version: "x"},
			want: api.Deployment{
				Overrides: api.Overrides{Image: "cart:1", Port: 3000}, Owner: "team", Source: "cli", Timeout: api.Duration(90 * time.Second),
			},
		},
		"branch": {
			args: []string{"cart@Feature/X", "--url", "http://x"}, target: target{Service: "cart", Version: "feature-x", Branch: "Feature/X"},
			want: api.Deployment{Overrides: api.Overrides{URL: "http://x"}, Branch: "Feature/X", Owner: "ana", Source: "cli"},
		},
		"branch by flag": {
			args: []string{"cart@x", "--branch", "Feature/X"}, target: target{Service: "cart", Version: "x"},
			want: api.Deployment{Branch: "Feature/X", Owner: "ana", Source: "cli"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			target, got, err := parseDeploy(t, test.args...)
			require.NoError(t, err)
			require.Equal(t, test.target, target)
			if len(got.Env) == 0 {
				got.Env = nil
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestDeployFlagsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"no version":          {[]string{"cart"}, "not SERVICE@VERSION"},
		"every service":       {[]string{"@x"}, "not SERVICE@VERSION"},
		"bad service":         {[]string{"Cart@x"}, "upper-case"},
		"two ways to run":     {[]string{"cart@x", "--image", "a", "--url", "http://b"}, "--image and --url exclude each other"},
		"folder of an image":  {[]string{"cart@x", "--image", "a", "--dir", "b"}, "--dir is for a command, not for --image"},
		"open quote":          {[]string{"cart@x", "--command", "a 'b"}, "not closed"},
		"needs a shell":       {[]string{"cart@x", "--command", "a | b"}, "without a shell"},
		"no words":            {[]string{"cart@x", "--command", " "}, "no words"},
		"negative time-out":   {[]string{"cart@x", "--timeout", "-1s"}, "negative"},
		"port out of range":   {[]string{"cart@x", "--port", "65536"}, "between 1 and 65535"},
		"name of a variable":  {[]string{"cart@x", "--env", "A B=x"}, `"A B" cannot be the name of an environment variable`},
		"variable of no name": {[]string{"cart@x", "--env", "=b"}, "not KEY=VALUE"},
		"no such file":        {[]string{"cart@x", "--env-file", "testdata/none"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parseDeploy(t, test.args...)
			require.ErrorContains(t, err, test.says)
			require.Equal(t, exitUsage, exitCode(err))
		})
	}
}

func TestReadEnv(t *testing.T) {
	app := &App{Environ: []string{"TOKEN=secret"}}
	file := filepath.Join(t.TempDir(), ".env")
	for name, test := range map[string]struct {
		file  string
		flags []string
		want  map[string]string
		says  string
	}{
		"nothing":             {want: map[string]string{}},
		"flags":               {flags: []string{"A=b=c", "B=", "TOKEN", "UNSET"}, want: map[string]string{"A": "b=c", "B": "", "TOKEN": "secret", "UNSET": ""}},
		"file":                {file: "\ufeffA=b\r\n\n# comment\nexport C = 'd e' \nF=\"#1\"\nG=", want: map[string]string{"A": "b", "C": "d e", "F": "#1", "G": ""}},
		"flags over the file": {file: "A=b\nC=d", flags: []string{"A=x"}, want: map[string]string{"A": "x", "C": "d"}},
		"no value":            {file: "A=b\nnonsense", says: `.env:2: "nonsense" is not KEY=VALUE`},
		"odd name":            {file: "A=b\n1A=c", says: `.env:2: "1A" cannot be the name of an environment variable`},
		"dots and dashes":     {file: "a.b-c=d", want: map[string]string{"a.b-c": "d"}},
		"no name":             {file: " = b", says: `.env:1: "= b" is not KEY=VALUE`},
	} {
		t.Run(name, func(t *testing.T) {
			path := ""
			if test.file != "" {
				path = file
				require.NoError(t, os.WriteFile(file, []byte(test.file), 0o600))
			}
			got, err := readEnv(app, path, test.flags)
			if test.says != "" {
				require.ErrorContains(t, err, test.says)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestTargets(t *testing.T) {
	for arg, want := range map[string]target{
		"cart@main":     {Service: "cart", Version: "main"},
		"@pr-88":        {Version: "pr-88"},
		"@Feature/X":    {Version: "feature-x", Branch: "Feature/X"},
		"cart@a@b":      {Service: "cart", Version: "a-b", Branch: "a@b"},
		"cart@v1.2.3":   {Service: "cart", Version: "v1.2.3"},
		"cart@feat/a_b": {Service: "cart", Version: "feat-a_b", Branch: "feat/a_b"},
	} {
		got, err := parseTarget(arg, true)
		require.NoError(t, err, arg)
		require.Equal(t, want, got, arg)
	}
	for _, arg := range []string{"", "@", "cart", "cart@", "Cart@main", "a/b@main", "ca--rt@main"} {
		_, err := parseTargets([]string{arg})
		require.Equal(t, exitUsage, exitCode(err), "%q", arg)
	}
}
