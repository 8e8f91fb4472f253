package control

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

// TestLogPosition reads on from a position that was written: nothing that was before it is new, whichever stream has it.
func TestLogPosition(t *testing.T) {
	began := time.Unix(1000, 1)
	run := &logRun{LogRun: LogRun{Instance: "cart--x--1", StartedAt: began}}
	p := logPosition{}
	place := p.enter(run)
	require.Equal(t, began.UTC(), place.last())
	line := func(second int64, stream string) api.LogLine {
		return api.LogLine{Time: time.Unix(second, 0), Stream: stream}
	}
	for _, l := range []api.LogLine{line(1001, api.StreamStdout), line(1003, api.StreamStderr), line(1004, api.StreamLayover)} {
		require.True(t, place.see(l))
	}
	require.Equal(t, time.Unix(1004, 0).UTC(), place.last())

	p, err := parseLogPosition(p.String())
	require.NoError(t, err)
	place = p.at(run)
	for stream, seen := range map[string]int64{api.StreamStdout: 1001, api.StreamStderr: 1003, api.StreamLayover: 1004} {
		require.False(t, place.see(line(seen, stream)), stream)
		require.True(t, place.see(line(seen+1, stream)), stream)
	}
	place.done = true
	again, err := parseLogPosition(p.String())
	require.NoError(t, err)
	require.Equal(t, p, again)
	for _, bad := range []string{"x", "x=1.2.3", "x=1.2.3.4.e", "x=1.2.3.4.d.d", "=1.2.3.4"} {
		_, err := parseLogPosition(bad)
		require.Error(t, err, bad)
	}
}
