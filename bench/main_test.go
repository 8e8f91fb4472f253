package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/bench/harness"
)

func TestWrongArguments(t *testing.T) {
	for flag, says := range map[string]string{
		"--peers=nginx,netscape": `no peer "netscape"`,
		"--routes=100,many":      `not "many"`,
		"--routes=9":             "from 10 to 1000000",
		"--rounds=0":             "at least 1",
		"--protocol=spdy":        `not "spdy"`,
		"--speed=1":              "not defined",
	} {
		var out, errs bytes.Buffer
		require.Equal(t, 2, run(t.Context(), []string{flag}, &out, &errs), flag)
		require.Contains(t, errs.String(), says)
		require.Empty(t, out.String())
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	added, routed := 0.25, 1.5
	require.NoError(t, table(&out, []int{100}, []harness.Row{
		{Peer: "layover", Routes: 100, CPUPerRequest: 30.25, PerSecond: 20000, AddedP50: &added, AddedP99: &added, RSS: 21, Routed: &routed, Rate: 500},
		{Peer: "nginx", Routes: 100, Failure: "it ended"},
	}))
	require.Regexp(t, `layover +30\.2 +20000 +0\.00 +0\.00 +0\.25 +0\.25 +- +21 +1\.50`, out.String())
	require.Regexp(t, `nginx +failed`, out.String())
	require.Contains(t, out.String(), "at 500 requests/s")
}
