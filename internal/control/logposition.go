package control

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// maxPosition bounds a position in bytes: it has to fit into a header.
const maxPosition = 48 << 10

// logPosition says how far a log was read, by instance. The runs of an instance are read one
// after the other.
type logPosition map[string]*logPlace

// logPlace is a place in the log of an instance.
type logPlace struct {
	run            int64 // which run, by its start
	out, err, note int64 // the times of the last lines that were read of its streams
	done           bool  // it was read to its end
	paused         bool  // to the end of what its runtime had; not part of the text
}

// at returns the place of an instance; nil where nothing of it was read.
func (p logPosition) at(run *logRun) *logPlace { return p[run.Instance] }

// enter sets the place to the begin of a run.
func (p logPosition) enter(run *logRun) *logPlace {
	p[run.Instance] = &logPlace{run: run.StartedAt.UnixNano()}
	return p[run.Instance]
}

// last returns the time of the last line that was read, else of the begin of the run.
func (l *logPlace) last() time.Time {
	return time.Unix(0, max(l.run, l.out, l.err, l.note)).UTC()
}

// see moves the place behind a line, and says whether it was before it.
func (l *logPlace) see(line api.LogLine) bool {
	at := line.Time.UnixNano()
	last := &l.out
	switch line.Stream {
	case api.StreamLayover:
		last = &l.note
	case api.StreamStderr:
		last = &l.err
	}
	if at <= *last {
		return false
	}
	*last = at
	return true
}

// resumeMargin is how much earlier than the last line reading begins anew: the streams of a container
// may overtake each other a little.
const resumeMargin = time.Second

// resume returns the time of the last line, and from when on to read to get all that follow it; zero
// where there was none.
func (l *logPlace) resume() (since, last time.Time) {
	at := max(l.out, l.err)
	if at == 0 {
		return time.Time{}, time.Time{}
	}
	last = time.Unix(0, at)
	return last.Add(-resumeMargin), last
}

// String writes the position as it goes into a header: "" where it would not fit.
//
//	cart--main--7=<run>.<out>.<err>.<note>,cart--main--8=<run>.<out>.<err>.<note>.d
func (p logPosition) String() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(p)) {
		l := p[id]
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(id + "=" + strconv.FormatInt(l.run, 36))
		for _, at := range []int64{l.out, l.err, l.note} {
			b.WriteString("." + strconv.FormatInt(at, 36))
		}
		if l.done {
			b.WriteString(".d")
		}
	}
	if b.Len() > maxPosition {
		return ""
	}
	return b.String()
}

// parseLogPosition reads what String wrote.
func parseLogPosition(text string) (logPosition, error) {
	bad := invalidf("leave it out, to begin anew", "the position is not one that a log gave")
	if len(text) > maxPosition {
		return nil, bad
	}
	p := logPosition{}
	for entry := range strings.SplitSeq(text, ",") {
		id, place, ok := strings.Cut(entry, "=")
		parts := strings.Split(place, ".")
		if !ok || id == "" || len(parts) < 4 || len(parts) > 5 || len(parts) == 5 && parts[4] != "d" {
			return nil, bad
		}
		l := &logPlace{done: len(parts) == 5}
		for i, to := range []*int64{&l.run, &l.out, &l.err, &l.note} {
			n, err := strconv.ParseInt(parts[i], 36, 64)
			if err != nil {
				return nil, bad
			}
			*to = n
		}
		p[id] = l
	}
	return p, nil
}
