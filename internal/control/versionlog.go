package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/layover-dev/layover/api"
)

// lookInterval is how often one who follows looks for instances that are new.
const lookInterval = 200 * time.Millisecond

// versionLog is the log of one or more versions: first what there is, in order, and then, where
// it follows, what comes, whichever instance says it.
type versionLog struct {
	c      *Control
	q      LogQuery
	ctx    context.Context //nolint:containedctx // of the readers, which live as long
	cancel context.CancelFunc

	merge     *logMerge
	position  logPosition
	queue     []queuedLine // before what the merge has
	tailing   bool         // the queue is still filled with the last lines
	following bool
	looked    time.Time
	known     map[Key]bool   // versions that were there
	told      map[Key]string // what was last said about a log that cannot be read
}

type queuedLine struct {
	line api.LogLine
	run  *logRun // nil of what is not read from a log
}

// begin opens what is shown first.
func (l *versionLog) begin() error {
	keys := l.c.logKeys(l.q.Targets)
	if l.q.After != "" {
		var err error
		l.position, err = parseLogPosition(l.q.After)
		l.following = l.q.Follow
		l.q.Since = time.Time{}
		for _, t := range l.q.Targets {
			if t.Service != "" {
				l.known[Key(t)] = true // or it is told that it was removed
			}
		}
		return err
	}
	l.position = logPosition{}
	if err := l.checkThere(keys); err != nil {
		return err
	}
	l.tailing = l.q.Tail > 0
	var none error // why a version has no log
	opened := 0
	for _, key := range keys {
		l.known[key] = true
		n, err := l.beginVersion(key)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == api.CodeInvalid {
			none = err
			continue
		}
		if err != nil {
			return err
		}
		opened += n
	}
	if opened == 0 && none != nil {
		return none
	}
	return nil
}

// checkThere refuses targets of which there is nothing, and never was.
func (l *versionLog) checkThere(keys []Key) error {
	for _, t := range l.q.Targets {
		switch {
		case t.Service != "" && !slices.Contains(keys, Key(t)):
			return l.c.unknownVersion(Key(t))
		case t.Service == "" && !l.q.Follow && !slices.ContainsFunc(keys, func(k Key) bool { return k.Version == t.Version }):
			return &Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no service has a version %q", t.Version), Hint: "see: layover ls"}
		}
	}
	return nil
}

// beginVersion opens the runs of a version that are shown first, and marks the others as read.
func (l *versionLog) beginVersion(key Key) (opened int, err error) {
	runs, err := l.c.logRuns(key)
	if err != nil {
		return 0, err
	}
	shown := l.shown(runs)
	for _, run := range runs { // by their starts: the last one counts
		place := l.position.enter(&run)
		place.done = !run.running
		now := time.Now().UnixNano()
		place.out, place.err, place.note = now, now, now
	}
	for _, run := range shown {
		l.position.enter(&run)
	}
	for i := range shown {
		opts := LogOptions{Since: l.q.Since, Tail: l.q.Tail}
		if l.q.Trace != "" {
			opts.Tail = 0 // the last lines of all are not the last ones of the trace
		}
		err := l.open(&shown[i], opts)
		if errors.Is(err, ErrNoInstance) {
			continue // it has just ended
		}
		if err != nil {
			return opened, err
		}
		opened++
	}
	rec := l.c.record(key)
	if len(onlyInstances(runs)) == 0 && rec != nil && rec.newest().cameUpToStart() && len(rec.newest().LogTail) > 0 && !l.q.Previous {
		g := rec.newest()
		run := logRun{LogRun: LogRun{Instance: instanceID(key, g.Number, 1), Service: key.Service, Version: key.Version, Generation: g.Number, StartedAt: g.At}}
		l.position.enter(&run)
		l.merge.add(run, false, &keptTail{at: g.At, lines: g.LogTail}, func() {})
		opened++
	}
	return opened, nil
}

// shown returns the runs that are shown first.
func (l *versionLog) shown(runs []logRun) []logRun {
	switch {
	case l.q.Previous:
		return previousRuns(onlyInstances(runs))
	case l.q.Since.IsZero() && l.q.Until.IsZero():
		return append(newestRuns(onlyInstances(runs)), lastHookRun(runs)...)
	}
	return slices.DeleteFunc(slices.Clone(runs), func(r logRun) bool {
		return !r.running && !r.EndedAt.IsZero() && r.EndedAt.Before(l.q.Since) || !l.q.Until.IsZero() && r.StartedAt.After(l.q.Until)
	})
}

// open has a run read.
func (l *versionLog) open(run *logRun, opts LogOptions) error {
	if len(l.merge.sources) >= maxLogSources {
		return invalidf("name fewer versions, or services", "more than %d instances are more than can be read at a time", maxLogSources)
	}
	ctx, cancel := context.WithCancel(l.ctx)
	reader, err := l.c.openRun(ctx, run, opts)
	if err != nil {
		cancel()
		return err
	}
	l.merge.add(*run, opts.Follow, reader, cancel)
	return nil
}

// Next is of [Log].
func (l *versionLog) Next(ctx context.Context) (api.LogLine, error) {
	for {
		if line, ok := l.fromQueue(); ok {
			return line, nil
		}
		if l.over() {
			return api.LogLine{}, io.EOF
		}
		line, ok, err := l.read(ctx)
		if err != nil || ok {
			return line, err
		}
	}
}

func (l *versionLog) fromQueue() (api.LogLine, bool) {
	if len(l.queue) == 0 || l.tailing {
		return api.LogLine{}, false
	}
	first := l.queue[0]
	l.queue = l.queue[1:]
	if first.run != nil {
		l.seen(first.run, &first.line)
	}
	return first.line, true
}

// read takes the next step: ok says that it gave a line.
func (l *versionLog) read(ctx context.Context) (line api.LogLine, ok bool, err error) {
	if l.following && time.Since(l.looked) >= lookInterval {
		l.looked = time.Now()
		if err := l.look(); err != nil || len(l.queue) > 0 {
			return line, false, err
		}
	}
	wait, cancel := ctx, context.CancelFunc(func() {})
	if l.following {
		wait, cancel = context.WithTimeout(ctx, lookInterval)
	}
	defer cancel()
	s, line, err := l.merge.next(wait)
	switch {
	case s == nil && ctx.Err() != nil:
		return line, false, ctx.Err()
	case s == nil && l.following: // nothing yet
		if len(l.merge.sources) == 0 {
			<-wait.Done()
		}
		return line, false, ctx.Err()
	case s == nil: // all that there was
		l.tailing, l.following = false, l.q.Follow
		return line, false, nil
	case err != nil:
		return line, false, l.ended(s, err)
	}
	if !line.Time.IsZero() && (line.Time.Before(l.q.Since) || !l.q.Until.IsZero() && !line.Time.Before(l.q.Until)) {
		return line, false, nil
	}
	line.Service, line.Version, line.Generation, line.Instance = s.run.Service, s.run.Version, s.run.Generation, s.run.Instance
	line = l.c.describe(line)
	if l.q.Trace != "" && line.Trace != l.q.Trace && !line.Time.IsZero() {
		l.seen(&s.run, &line)
		return line, false, nil
	}
	if l.tailing {
		l.push(queuedLine{line, &s.run})
		return line, false, nil
	}
	return line, l.seen(&s.run, &line), nil
}

// push adds one of the last lines, and lets go of what is more than that.
func (l *versionLog) push(q queuedLine) {
	l.queue = append(l.queue, q)
	if len(l.queue) > l.q.Tail {
		l.seen(l.queue[0].run, &l.queue[0].line)
		l.queue[0] = queuedLine{}
		l.queue = l.queue[1:]
	}
}

// seen moves the position behind a line, and says whether it is new. What says that lines are missing gets the
// time of the line before.
func (l *versionLog) seen(run *logRun, line *api.LogLine) bool {
	place := l.position.at(run)
	if place == nil || place.run != run.StartedAt.UnixNano() {
		place = &logPlace{run: run.StartedAt.UnixNano()} // an earlier run of its instance, which is in no position
	}
	if line.Time.IsZero() {
		line.Time = place.last()
		return true
	}
	return place.see(*line)
}

// ended notes that a log gives no more lines.
func (l *versionLog) ended(s *logSource, err error) error {
	place := l.position.at(&s.run)
	current := place != nil && place.run == s.run.StartedAt.UnixNano()
	switch {
	case !errors.Is(err, io.EOF) && !l.following:
		return err
	case !errors.Is(err, io.EOF):
		l.cannotRead(s.run.key(), err)
	case !current:
	case s.run.runtime == "":
		place.done = true // an archived run gets no more
	case s.follow:
		place.paused = true // what its runtime had; the rest, if any, is in the archive
	}
	return nil
}

// look opens what is new since the last time, and says what else is new.
func (l *versionLog) look() error {
	keys := l.c.logKeys(l.q.Targets)
	for _, key := range keys {
		if err := l.lookAt(key); err != nil {
			return err
		}
		l.known[key] = true
	}
	for key := range l.known {
		if !slices.Contains(keys, key) && !l.merge.readsOf(key) {
			delete(l.known, key)
			l.say(key, 0, fmt.Sprintf("%s is removed", key))
		}
	}
	return nil
}

func (l *versionLog) lookAt(key Key) error {
	runs, err := l.c.logRuns(key)
	if err != nil {
		l.cannotRead(key, err)
		return nil
	}
	for i := range runs {
		run := &runs[i]
		if l.merge.reads(run.Instance) || !l.wants(run) {
			continue
		}
		place := l.position.at(run)
		opts := LogOptions{Follow: run.runtime != ""}
		isNew := place == nil || place.run != run.StartedAt.UnixNano()
		if !isNew {
			opts.Since, opts.Resume = place.resume()
		}
		err := l.open(run, opts)
		switch e, ok := errors.AsType[*Error](err); {
		case err == nil:
			if isNew {
				l.position.enter(run)
				l.say(key, run.Generation, fmt.Sprintf("%s: %s of generation %d begins", key, run.Instance, run.Generation))
			}
			delete(l.told, key)
		case errors.Is(err, ErrNoInstance): // it comes to be, or has just ended
		case ok && e.Code == api.CodeInvalid: // it never has a log
			l.position.enter(run).done = true
			l.say(key, run.Generation, e.Message)
		default:
			l.cannotRead(key, err)
		}
	}
	return nil
}

// wants says whether there is something to read of a run.
func (l *versionLog) wants(run *logRun) bool {
	place, began := l.position.at(run), run.StartedAt.UnixNano()
	switch {
	case place == nil || place.run < began:
		return true
	case place.run > began || place.done:
		return false
	}
	return !place.paused || run.runtime == ""
}

// cannotRead says once that a log cannot be read just now. It is tried again.
func (l *versionLog) cannotRead(key Key, err error) {
	if text := err.Error(); l.told[key] != text {
		l.told[key] = text
		l.c.log.Warn("log not read", "service", key.Service, "version", key.Version, "err", err)
		l.say(key, 0, fmt.Sprintf("%s: its log cannot be read just now, and is tried again", key))
	}
}

func (l *versionLog) say(key Key, generation int64, text string) {
	l.queue = append(l.queue, queuedLine{line: api.LogLine{
		Time: time.Now().UTC(), Service: key.Service, Version: key.Version, Generation: generation,
		Stream: api.StreamLayover, Text: text,
	}})
}

// over says whether nothing can come any more.
func (l *versionLog) over() bool {
	if len(l.merge.sources) > 0 || len(l.queue) > 0 {
		return false
	}
	if !l.q.Follow {
		return l.q.After != "" || !l.tailing
	}
	if !l.following || l.looked.IsZero() {
		return false
	}
	return len(l.known) == 0 && !slices.ContainsFunc(l.q.Targets, func(t LogTarget) bool { return t.Service == "" })
}

// Ready is of [Log].
func (l *versionLog) Ready() bool { return len(l.queue) > 0 && !l.tailing || l.merge.ready() }

// Position is of [Log]. There is none while it gives what was there before.
func (l *versionLog) Position() string {
	if !l.following {
		return ""
	}
	return l.position.String()
}

// Close is of [Log].
func (l *versionLog) Close() error {
	l.cancel()
	l.merge.close()
	return nil
}
