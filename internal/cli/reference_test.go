package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

const referenceFile = "../../docs/cli.md"

// TestReference holds docs/cli.md, which is made from the commands themselves.
func TestReference(t *testing.T) {
	got := reference()
	if *update {
		require.NoError(t, os.WriteFile(referenceFile, []byte(got), 0o644))
	}
	want, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run: go generate ./internal/cli")
}

// TestHelpIsComplete holds that every command says what it does, and shows how.
func TestHelpIsComplete(t *testing.T) {
	for _, cmd := range commands(testRoot()) {
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			require.NotEmpty(t, cmd.Short)
			require.False(t, strings.HasSuffix(cmd.Short, "."), "a short help has no full stop")
			if cmd.Runnable() && !cmd.HasSubCommands() {
				require.NotEmpty(t, cmd.Example)
				require.NotNil(t, cmd.Args)
			}
			for line := range strings.SplitSeq(cmd.Long+"\n"+cmd.Example, "\n") {
				require.LessOrEqual(t, len([]rune(line)), 100, line)
			}
		})
	}
}

func testRoot() *cobra.Command {
	return newRootCmd(newApp(nil, &bytes.Buffer{}, &bytes.Buffer{}, nil))
}

// commands returns every command that is not hidden, in the order of the help.
func commands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		if !sub.Hidden {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

func reference() string {
	root := testRoot()
	intro, tour, _ := strings.Cut(root.Long, "\n\n")
	var out strings.Builder
	out.WriteString(`# Command line

` + intro + `

` + "```\n" + unindent(tour) + "\n```" + `

Every command talks to the server at ` + "`--server`, else `LAYOVER_SERVER`, else `" + defaultServer + "`" + `. Lists are tables on a
terminal, and lines with tabs and RFC 3339 times in a pipe; ` + "`--json`" + ` prints everything there is.
` + "`layover completion SHELL`" + ` prints a completion script for bash, zsh, fish or powershell. A flag that is given with
an empty text (` + "`--image \"$IMAGE\"`" + ` where that is not set) is bad input, never the same as no flag.

| Exit code | Meaning |
|---|---|
| 0 | it worked |
| 1 | it was understood, and did not work |
| 2 | bad input: a flag, a name that nothing has, the configuration |
| 3 | no server answers |
| 4 | ` + "`" + `layover test` + "`" + `: no test failed, and it is not proved what the run reached |
| 130 | it was ended before it was done, by Ctrl-C for example |

`)
	all := commands(root)[1:]
	out.WriteString("| Command | |\n|---|---|\n")
	for _, cmd := range all {
		fmt.Fprintf(&out, "| [`%s`](#%s) | %s |\n", cmd.CommandPath(), strings.ReplaceAll(cmd.CommandPath(), " ", "-"), cmd.Short)
	}
	for _, cmd := range all {
		fmt.Fprintf(&out, "\n## %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
		if cmd.Long != "" {
			fmt.Fprintf(&out, "\n%s\n", cmd.Long)
		}
		if cmd.Runnable() && !cmd.HasSubCommands() {
			fmt.Fprintf(&out, "\n```\n%s\n```\n", cmd.UseLine())
		}
		if flags := cmd.LocalNonPersistentFlags().FlagUsages(); flags != "" {
			fmt.Fprintf(&out, "\n```\n%s```\n", flags)
		}
		if cmd.Example != "" {
			fmt.Fprintf(&out, "\nExamples:\n\n```sh\n%s\n```\n", unindent(cmd.Example))
		}
	}
	return strings.ReplaceAll(out.String(), "\u00a0", " ")
}

// unindent removes the two spaces that examples have in the help.
func unindent(text string) string {
	return strings.ReplaceAll(strings.TrimPrefix(text, "  "), "\n  ", "\n")
}
