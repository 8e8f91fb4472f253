// Package docs checks that the documentation agrees with the program.
package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mattn/go-shellwords"
	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/internal/config"
)

const root = ".."

// pages returns every Markdown file of the repository, with its text.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := len(entry.Name()) > 2 && strings.HasPrefix(entry.Name(), ".")
		if entry.IsDir() && (hidden || entry.Name() == "testdata" || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		found[path] = string(text)
		return err
	}))
	require.Greater(t, len(found), 10)
	return found
}

func TestEveryProblemIsExplained(t *testing.T) {
	t.Parallel()
	headings := anchors(pages(t)[filepath.Join(root, "docs", "problems.md")])
	codes := append(constants(t, "../internal/proxy/problem.go"), constants(t, "../api/problem.go")...)
	require.Greater(t, len(codes), 20)
	for _, code := range codes {
		require.True(t, headings[code], "docs/problems.md has no heading for %s", code)
	}
}

// constants returns the values of the constants of type Code in a file.
func constants(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	require.NoError(t, err)
	var values []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Code" {
			return true
		}
		for _, value := range spec.Values {
			literal, ok := value.(*ast.BasicLit)
			require.True(t, ok, "%s: a code is not written as a text", path)
			text, err := strconv.Unquote(literal.Value)
			require.NoError(t, err)
			values = append(values, text)
		}
		return true
	})
	return values
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksLead(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for path, text := range all {
		for _, found := range link.FindAllStringSubmatch(inline.ReplaceAllString(fence.ReplaceAllString(text, ""), ""), -1) {
			target, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := path
			if target != "" {
				to = filepath.Join(filepath.Dir(path), target)
			}
			_, err := os.Stat(to)
			require.NoError(t, err, "%s links to %s", path, found[1])
			if anchor != "" {
				require.True(t, anchors(all[to])[anchor], "%s links to %s, which has no such heading", path, found[1])
			}
		}
	}
}

// anchors returns what the headings of a page can be linked by, as GitHub makes it.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	notInAnchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for line := range strings.Lines(fence.ReplaceAllString(text, "")) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			title = strings.ToLower(strings.TrimSpace(title))
			found[strings.ReplaceAll(notInAnchor.ReplaceAllString(title, ""), " ", "-")] = true
		}
	}
	return found
}

// fence is a code block: its language, and what is in it.
var fence = regexp.MustCompile("(?ms)^[ \t]*```([a-z]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$")

func TestConfigurationExamplesAreValid(t *testing.T) {
	t.Parallel()
	checked := 0
	for path, text := range pages(t) {
		for i, block := range fence.FindAllStringSubmatch(text, -1) {
			if block[1] != "yaml" || !strings.Contains("\n"+block[2], "\nservices:") {
				continue
			}
			checked++
			name := fmt.Sprintf("%s, block %d", path, i+1)
			file, err := config.Parse(name, []byte(block[2]))
			require.NoError(t, err, name)
			require.NoError(t, file.Validate(), name)
		}
	}
	require.Greater(t, checked, 5)
}

func TestSuitesAreValid(t *testing.T) {
	t.Parallel()
	checked := 0
	for path, text := range pages(t) {
		for i, block := range fence.FindAllStringSubmatch(text, -1) {
			if block[1] != "yaml" || !strings.Contains("\n"+block[2], "\nsuites:") {
				continue
			}
			checked++
			name := fmt.Sprintf("%s, block %d", path, i+1)
			_, err := config.ParseTests(name, []byte(block[2]))
			require.NoError(t, err, name)
		}
	}
	require.Greater(t, checked, 8)
}

func TestCommandsExist(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "layover")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, root+"/cmd/layover").CombinedOutput()
	require.NoError(t, err, "%s", out)
	book := helpBook{program: program, texts: map[string]string{}}
	checked := 0
	for path, text := range pages(t) {
		if filepath.Base(path) == "cli.md" {
			continue // made from the commands themselves
		}
		for _, line := range commandLines(text) {
			checked++
			book.check(t, path, line)
		}
	}
	require.Greater(t, checked, 50)
}

var inline = regexp.MustCompile("`([^`\n]+)`")

// commandLines returns what a page tells people to type at this program.
func commandLines(text string) []string {
	var lines []string
	add := func(line string) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
		line = strings.TrimPrefix(line, "go run ./cmd/")
		if rest, ok := strings.CutPrefix(line, "layover "); ok && rest[0] != '"' {
			lines = append(lines, rest)
		}
	}
	for _, block := range fence.FindAllStringSubmatch(text, -1) {
		if block[1] == "" || block[1] == "sh" {
			for line := range strings.Lines(block[2]) {
				add(line)
			}
		}
	}
	for _, code := range inline.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		add(code[1])
	}
	return lines
}

// helpBook knows the commands and flags of the program by what its help says.
type helpBook struct {
	program string
	texts   map[string]string
}

// check follows a command line through the commands, and looks up its flags.
func (b helpBook) check(t *testing.T, path, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " | ")
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " -- ") // what follows is another program's
	words, err := shellwords.Parse(strings.NewReplacer("(", "", ")", "").Replace(line))
	require.NoError(t, err, "%s: layover %s", path, line)
	at := 0
	for at < len(words) && b.has(t, words[:at], words[at]) {
		at++
	}
	if strings.HasPrefix(line, "-") {
		at = 0 // flags of the program itself
	} else {
		require.Positive(t, at, "%s: layover %s: there is no such command", path, line)
	}
	if at > 0 && words[0] == "curl" {
		return // the flags are curl's
	}
	help := b.help(t, words[:at])
	for _, word := range words[at:] {
		if word == "-" || !strings.HasPrefix(word, "-") {
			continue
		}
		name, _, _ := strings.Cut(word, "=")
		known := regexp.MustCompile(`(?m)^\s+(-\w, )?` + regexp.QuoteMeta(name) + `\b`)
		require.Regexp(t, known, help, "%s: layover %s: there is no flag %s", path, line, name)
	}
}

// has says whether a command has a command of that name below it.
func (b helpBook) has(t *testing.T, parent []string, name string) bool {
	t.Helper()
	if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(name) {
		return false
	}
	return regexp.MustCompile(`(?m)^  ` + name + ` {2,}\S`).MatchString(b.help(t, parent))
}

func (b helpBook) help(t *testing.T, command []string) string {
	t.Helper()
	key := strings.Join(command, " ")
	if text, ok := b.texts[key]; ok {
		return text
	}
	cmd := exec.CommandContext(t.Context(), b.program, append(slices.Clone(command), "--help")...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "layover %s --help: %s", key, out)
	b.texts[key] = string(out)
	return string(out)
}
