package runtimetest

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

// hookCases are about what hooks need: commands that do something, say it, and end.
func hookCases() map[string]testCase {
	return map[string]testCase{
		"hook is followed to its end":        {run: hookFollowed, owned: true},
		"hook that ended is read by another": {run: hookReadByAnother, owned: true},
		"hook that hangs is ended":           {run: hookHangs, owned: true},
	}
}

// setupID is the name of a hook, as the control plane gives them.
const setupID = "cart--pr-1--7.setup"

// said is the longest line that a hook has to get through in one piece.
func said() string { return "layover-output: KEY=" + strings.Repeat("x", 8<<10) }

func hookFollowed(t *testing.T, s *suite) {
	s.start(t, setupID, map[string]string{"APP_LOG_LINES": "500", "APP_SAY": said(), "APP_DONE": "7"})
	lines := s.all(t, s.runtime)
	require.Len(t, lines, 501)
	require.Equal(t, "line 1 of 500", lines[0].Text, "nothing before the follower came is lost")
	require.Equal(t, said(), lines[500].Text, "in one piece")
	require.Equal(t, "stdout", lines[500].Stream)
	status := s.exited(t, setupID)
	require.Equal(t, 7, status.ExitCode)
	require.Equal(t, "pr-1", status.Version)
	s.stop(t, setupID)
	s.nothingLeft(t)
}

func hookReadByAnother(t *testing.T, s *suite) {
	s.start(t, setupID, map[string]string{"APP_SAY": said(), "APP_DONE": "0"})
	s.exited(t, setupID)
	s.runtime = s.New(t, s.environment)
	require.Equal(t, 0, s.exited(t, setupID).ExitCode)
	lines := s.all(t, s.runtime)
	require.Equal(t, said(), lines[len(lines)-1].Text)
}

func hookHangs(t *testing.T, s *suite) {
	s.start(t, setupID, map[string]string{"APP_FORK": "session", "APP_IGNORE_TERM": "1", "APP_LISTEN": "no"})
	s.logged(t, setupID, "not listening")
	require.NoError(t, s.runtime.Stop(t.Context(), setupID, 50*time.Millisecond))
	s.nothingLeft(t)
}

// all follows the log of the hook until it ends.
func (s *suite) all(t *testing.T, runtime control.Runtime) []api.LogLine {
	t.Helper()
	logs, err := runtime.Logs(t.Context(), setupID, control.LogOptions{Follow: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, logs.Close()) }()
	var lines []api.LogLine
	for {
		line, err := logs.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		require.NoError(t, err)
		lines = append(lines, line)
	}
}
