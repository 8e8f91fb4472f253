package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// Where a branch is named, only its versions are acted on, and those of other branches that come
// out as the same name are left alone, with a word for each.
func TestActingOnTheVersionsOfABranch(t *testing.T) {
	c := newTerminal(t)
	of := func(service, branch string) {
		key := control.Key{Service: service, Version: "feature-x"}
		v, err := c.Deploy(t.Context(), key, api.Deployment{Branch: branch})
		require.NoError(t, err)
		c.Settle(key, v.Generation, api.EventDeployDone, "up")
	}
	of("cart", "feature/x")
	of("pricing", "Feature/X")
	for _, args := range [][]string{
		{"start", "--no-wait", "cart@Feature/X"},
		{"restart", "--no-wait", "cart@Feature/X"},
		{"stop", "--no-wait", "cart@Feature/X"},
		{"rm", "--no-wait", "cart@Feature/X"},
	} {
		require.Equal(t, exitFailed, c.run(t.Context(), args...), "%s", args)
		require.Equal(t, "error: cart@feature-x is of branch \"feature/x\", not \"Feature/X\"\nhint:  write its name\n", c.err.String())
		require.Empty(t, c.out.String())
	}
	require.Equal(t, exitFailed, c.run(t.Context(), "stop", "@Feature/X"))
	require.Equal(t, "pricing@feature-x is stopped\n", c.out.String())
	require.Contains(t, c.err.String(), "error: cart@feature-x is of branch")
	require.Equal(t, exitOK, c.run(t.Context(), "stop", "@feature-x"), "the name is everybody's")
	require.Equal(t, "cart@feature-x is stopped\npricing@feature-x is stopped\n", c.out.String())
}

// One that is refused keeps none of the others from what was asked for.
func TestLifecycleOfSeveral(t *testing.T) {
	c := newTerminal(t)
	c.deployed(t, "cart", "a")
	c.deployed(t, "cart", "b")
	require.Equal(t, exitUsage, c.run(t.Context(), "stop", "cart@a", "cart@nope", "cart@b"))
	require.Equal(t, "cart@a is stopped\ncart@b is stopped\n", c.out.String())
	require.Contains(t, c.err.String(), "cart@nope")
	c.app.Server = "http://127.0.0.1:1"
	require.Equal(t, exitUnreachable, c.run(t.Context(), "stop", "cart@a", "cart@b"))
	require.Equal(t, 1, countLines(c.err.String(), "error: "), "%s", c.err.String())
}

func countLines(text, prefix string) int {
	n := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}
