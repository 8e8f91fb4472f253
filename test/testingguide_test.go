//go:build unix

package test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shopServices are the services of the shop, and the version that the guides test.
const shopServices = `defaults: {health: /healthz, env: {HTTP_PROXY: "http://{proxy}", LAYOVER_PROXY: "{proxy}"}}
services:
  storefront: {run: {process: {command: [layover, shop, storefront]}}}
  cart: {run: {process: {command: [layover, shop, cart]}}}
  pricing:
    run: {process: {command: [layover, shop, pricing]}}
    versions: {feature-2981: {env: {PRICING_DISCOUNT: "20"}}}
  recommendations: {run: {process: {command: [layover, shop, recommendations]}}}
  inventory: {protocol: h2c, health: tcp, run: {process: {command: [layover, shop, inventory]}}}
`

// block is a code block of a guide whose first line is a comment that names its file.
var block = regexp.MustCompile("(?ms)^```[a-z]+\n(?:#|//) (\\S+)[^\n]*\n(.*?)^```$")

// files are the files of a section of a guide; of the whole guide, where it is "".
func files(t *testing.T, guide, section string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/howto/" + guide)
	require.NoError(t, err)
	part := string(text)
	if section != "" {
		_, rest, ok := strings.Cut(part, "\n## "+section+"\n")
		require.True(t, ok, "%s has no section %s", guide, section)
		part, _, _ = strings.Cut(rest, "\n## ")
	}
	found := map[string]string{}
	for _, b := range block.FindAllStringSubmatch(part, -1) {
		require.NotContains(t, found, b[1])
		found[b[1]] = b[2]
	}
	require.NotEmpty(t, found)
	return found
}

// place writes files into a folder.
func place(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		require.True(t, filepath.IsLocal(name), name)
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o700))
	}
}

// tool is one that a section of the guide needs: what it adds to the environment, and why it is not there.
type tool func(t *testing.T, dir string) (env map[string]string, missing string)

func program(names ...string) tool {
	return func(*testing.T, string) (map[string]string, string) {
		for _, name := range names {
			if _, err := exec.LookPath(name); err != nil {
				return nil, name + " is not installed"
			}
		}
		return nil, ""
	}
}

// python is Debian's, with modules: another one that comes first in PATH may lack them.
func python(modules ...string) tool {
	return func(t *testing.T, _ string) (map[string]string, string) {
		for _, candidate := range []string{"/usr/bin/python3", "python3"} {
			path, err := exec.LookPath(candidate)
			if err != nil || exec.Command(path, "-c", "import "+strings.Join(modules, ", ")).Run() != nil {
				continue
			}
			bin := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(bin, "python3"), []byte("#!/bin/sh\nexec "+path+" \"$@\"\n"), 0o700))
			return map[string]string{"PATH": bin + ":" + os.Getenv("PATH"), "PYTHONDONTWRITEBYTECODE": "1"}, ""
		}
		return nil, "no Python has the modules " + strings.Join(modules, ", ")
	}
}

func all(tools ...tool) tool {
	return func(t *testing.T, dir string) (map[string]string, string) {
		env := map[string]string{}
		for _, one := range tools {
			more, missing := one(t, dir)
			if missing != "" {
				return nil, missing
			}
			maps.Copy(env, more)
		}
		return env, ""
	}
}

// playwright is the one that scripts/test installs, with Debian's Chromium.
func playwright(t *testing.T, dir string) (map[string]string, string) {
	modules := os.Getenv("LAYOVER_TEST_NODE_MODULES")
	if modules == "" {
		return nil, "LAYOVER_TEST_NODE_MODULES names no folder with it"
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return nil, "chromium is not installed"
	}
	if _, err := os.Stat(filepath.Join(modules, "@playwright", "test")); err != nil {
		return nil, "@playwright/test is not installed"
	}
	require.NoError(t, os.Symlink(modules, filepath.Join(dir, "node_modules")))
	return map[string]string{"CHROMIUM": chromium, "NPM_CONFIG_UPDATE_NOTIFIER": "false"}, ""
}

// junit is Debian's.
func junit(t *testing.T, dir string) (map[string]string, string) {
	if env, missing := program("java", "javac")(t, dir); missing != "" {
		return env, missing
	}
	jars, err := filepath.Glob("/usr/share/java/junit-platform-console-standalone.jar")
	require.NoError(t, err)
	if len(jars) == 0 {
		return nil, "junit5 is not installed"
	}
	return map[string]string{"JUNIT_CONSOLE": jars[0]}, ""
}

// withGoCache is an environment in which Go finds what it has built before, and no settings of this machine.
func withGoCache(t *testing.T, env map[string]string) map[string]string {
	out := map[string]string{"GOFLAGS": "", "GOTOOLCHAIN": "local"}
	cache, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE").Output()
	require.NoError(t, err)
	out["GOCACHE"] = strings.TrimSpace(string(cache))
	maps.Copy(out, env)
	return out
}

// k6 is not here: what the guide's script needs of it is made of curl.
func k6(t *testing.T, dir string) (map[string]string, string) {
	if env, missing := program("node", "curl")(t, dir); missing != "" {
		return env, missing
	}
	place(t, dir, map[string]string{
		"bin/k6":                       "#!/bin/sh\nexec node k6.mjs \"$3\"\n",
		"k6.mjs":                       "globalThis.__ENV = process.env;\nconst script = await import('./' + process.argv[2]);\nscript.default();\nprocess.exit(globalThis.failed ? 99 : 0);\n",
		"node_modules/k6/package.json": `{"type": "module", "exports": {".": "./k6.js", "./http": "./http.js"}}`,
		"node_modules/k6/k6.js":        "export function check(answer, checks) { for (const c of Object.values(checks)) if (!c(answer)) globalThis.failed = true; }\n",
		"node_modules/k6/http.js": `import { execFileSync } from 'node:child_process';
function get(url, params) {
  const headers = Object.entries((params && params.headers) || {}).flatMap(([name, value]) => ['-H', name + ': ' + value]);
  const text = execFileSync('curl', ['-sS', '-w', '\n%{http_code}', ...headers, url], { encoding: 'utf8' });
  const at = text.lastIndexOf('\n');
  return { status: Number(text.slice(at + 1)), json: (key) => JSON.parse(text.slice(0, at))[key] };
}
export default { get };
`,
	})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type": "module"}`), 0o600))
	return map[string]string{"PATH": filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")}, ""
}

// TestTestingGuide runs the suites of the guide, as they stand there, against a version that two services are in front of.
func TestTestingGuide(t *testing.T) {
	t.Parallel()
	e := newCIEnvironment(t, shopServices)
	for name, c := range map[string]struct {
		needs tool
		tests string
	}{
		"Playwright": {all(program("npx"), playwright), "2 passed, 0 failed"},
		"Selenium":   {all(program("chromium", "chromedriver"), python("pytest", "selenium")), "1 passed, 0 failed"},
		"pytest":     {python("pytest", "requests"), "2 passed, 0 failed"},
		"Go":         {program("go"), "2 passed, 0 failed"},
		"JUnit":      {junit, "2 passed, 0 failed"},
		"k6":         {k6, "1 passed, 0 failed"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "shop-tests")
			place(t, dir, files(t, "testing.md", name))
			env, missing := c.needs(t, dir)
			if missing != "" {
				t.Skip("left out: " + t.Name() + " of the guide; " + missing)
			}
			env = withGoCache(t, env)
			out, err := e.run(t.Context(), dir, env, "layover", "test", "--route", "feature-2981", "--no-verdict")
			require.NoError(t, err, out)
			require.Contains(t, out, c.tests)
			require.Regexp(t, `reached .*pricing@feature-2981 [1-9]`, out)
			require.NotContains(t, out, "pricing@main")
		})
	}
}

// TestTestingGuide_Emulator gives a stand-in for the emulator its proxy, as the guide's script does.
func TestTestingGuide_Emulator(t *testing.T) {
	t.Parallel()
	e := newCIEnvironment(t, shopServices)
	place(t, e.dir, files(t, "testing.md", "Mobile apps"))
	place(t, e.dir, map[string]string{
		"bin/emulator": "#!/bin/sh\nset -eu\nfor last; do :; done\nexec env -i PATH=/usr/bin:/bin curl -fsS -x \"$last\" -D - http://pricing.localhost/prices\n",
	})
	out, err := e.run(t.Context(), e.dir, map[string]string{"PATH": filepath.Join(e.dir, "bin") + ":" + os.Getenv("PATH")},
		"layover", "exec", "--route", "feature-2981!", "--run", "app-42", "--", "sh", "start-emulator.sh")
	require.NoError(t, err, out)
	require.Contains(t, out, "Layover-Served-By: pricing@feature-2981")
}

// TestTestingGuide_SaysWhatIsTried: every section has its suite, and stands in the table.
func TestTestingGuide_SaysWhatIsTried(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/howto/testing.md")
	require.NoError(t, err)
	head, _, _ := strings.Cut(string(text), "\n## ")
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(string(text), -1) {
		sections = append(sections, m[1])
		require.Contains(t, strings.ToLower(head), "["+strings.ToLower(m[1])+"](#", "the table has it")
		if m[1] != "Mobile apps" {
			require.Contains(t, files(t, "testing.md", m[1]), "layover.test.yaml")
		}
	}
	require.True(t, slices.Equal(sections, []string{"Playwright", "Cypress", "Selenium", "pytest", "Go", "JUnit", "k6", "Mobile apps"}), sections)
}

// TestTestingGuide_RunsFailedTestsAgain: what the guide gives as rerun finds the tests that failed, and them alone.
func TestTestingGuide_RunsFailedTestsAgain(t *testing.T) {
	t.Parallel()
	e := newCIEnvironment(t, shopServices)
	for name, c := range map[string]struct {
		needs  tool
		add    map[string]string
		failed string
	}{
		"Playwright": {all(program("npx"), playwright), map[string]string{"e2e/wrong.spec.js": `
const { test, expect } = require('@playwright/test');
test.describe('prices (all)', () => {
  test('are [as] ever?', async ({ request }) => {
    expect((await (await request.get('/api/products')).json()).total).toBe(9600);
  });
});
`}, "wrong.spec.js > prices (all) › are [as] ever?"},
		"Go": {program("go"), map[string]string{"wrong_test.go": `package shop

import "testing"

func TestPrices(t *testing.T) {
	t.Run("as ever", func(t *testing.T) {
		if total := products(t).Total; total != 9600 {
			t.Errorf("the total is %d", total)
		}
	})
}
`}, "example.com/shop-tests TestPrices/as_ever"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "shop-tests")
			place(t, dir, files(t, "testing.md", name))
			place(t, dir, c.add)
			env, missing := c.needs(t, dir)
			if missing != "" {
				t.Skip("left out: " + t.Name() + " of the guide; " + missing)
			}
			env = withGoCache(t, env)
			out, err := e.run(t.Context(), dir, env, "layover", "test", "--route", "feature-2981", "--run", "again-"+strings.ToLower(name))
			require.Error(t, err, out)
			require.Contains(t, out, "✗ "+c.failed+"  yours: pricing@feature-2981")
			require.Contains(t, out, "on the default versions: passed")
		})
	}
}
