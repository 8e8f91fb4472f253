package ecs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/control"
)

const (
	maxLine   = 64 << 10 // a longer line is cut into several
	eventPage = 10_000   // what CloudWatch Logs gives at once
)

// Logs reads what the awslogs driver sent to CloudWatch Logs of an instance; see [control.Runtime]. It does not
// say of a line which stream it is of: all are given as stdout.
func (r *Runtime) Logs(ctx context.Context, id string, opts control.LogOptions) (control.LogReader, error) {
	if !instanceName.MatchString(id) {
		return nil, control.ErrNoInstance
	}
	all, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.logged(id, opts.Run) == nil {
			if err := c.fresh(ctx, time.Now().Add(-r.poll)); err != nil {
				return nil, err
			}
		}
		if t := c.logged(id, opts.Run); t != nil {
			return c.openLog(ctx, t, opts)
		}
	}
	return nil, control.ErrNoInstance
}

// logged returns the task of which the log of an instance is, nil where there is none: of the run that
// began then, and else of the newest.
func (c *cluster) logged(id string, run time.Time) *task {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, adopted := c.adopted[id]
	s := c.services[id]
	var newest *task
	for _, t := range c.tasks {
		switch {
		case t.forgotten:
			continue
		case adopted && aws.ToString(t.Group) != "service:"+a.service:
			continue
		case !adopted && (t.ID != id || t.ofECSService() != (s != nil)):
			continue
		case s == nil && !adopted && !run.IsZero() && !run.Equal(aws.ToTime(t.CreatedAt)):
			continue
		}
		if newest == nil || newer(t, newest) {
			newest = t
		}
	}
	if newest == nil {
		return nil
	}
	out := *newest
	if adopted {
		out.labels = labels{ID: id, ofService: a.status.Service, ofVersion: a.status.Version, container: a.container, port: a.port}
	}
	return &out
}

// logStream is where the log of a container is.
type logStream struct{ group, name string }

// stream finds the log of the routed container of a task.
func (c *cluster) stream(ctx context.Context, t *task) (logStream, error) {
	d, err := c.definition(ctx, aws.ToString(t.TaskDefinitionArn))
	if err != nil {
		return logStream{}, err
	}
	for _, container := range d.ContainerDefinitions {
		if aws.ToString(container.Name) != t.container {
			continue
		}
		config := container.LogConfiguration
		if config == nil || config.LogDriver != types.LogDriverAwslogs {
			return logStream{}, invalid("have the template log with awslogs, or read the log where it goes",
				"the log of %s is not in CloudWatch Logs: container %s of %s does not log with awslogs", t.ID, t.container, d.label())
		}
		found := logStream{group: config.Options["awslogs-group"]}
		switch prefix := config.Options["awslogs-stream-prefix"]; {
		case prefix != "":
			found.name = prefix + "/" + t.container + "/" + shortARN(aws.ToString(t.TaskArn))
		default: // then it is the id of the container, which only tasks on EC2 have
			for _, running := range t.Containers {
				if aws.ToString(running.Name) == t.container {
					found.name = aws.ToString(running.RuntimeId)
				}
			}
		}
		return found, nil
	}
	return logStream{}, control.ErrNoInstance
}

// openLog reads the log of one task.
func (c *cluster) openLog(ctx context.Context, t *task, opts control.LogOptions) (control.LogReader, error) {
	where, err := c.stream(ctx, t)
	if err != nil {
		return nil, err
	}
	l := &logReader{ctx: ctx, cluster: c, task: t, where: where, opts: opts, from: opts.Since, tailing: opts.Tail > 0}
	if l.tailing {
		if err := l.findTail(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// logReader reads a stream of CloudWatch Logs from its beginning, or a time, to its end. Times there have
// milliseconds; lines of the same get nanoseconds in their order, always the same, as a reading begins with all lines of
// a millisecond.
type logReader struct {
	ctx     context.Context //nolint:containedctx // a reader lives as long as the request that made it
	cluster *cluster
	task    *task
	where   logStream
	opts    control.LogOptions
	from    time.Time
	tailing bool // only the last lines so far are kept

	token   *string
	pending []api.LogLine
	last    time.Time
	ended   bool // the task had ended before the last reading
}

// Next returns the next line.
func (l *logReader) Next() (api.LogLine, error) {
	for len(l.pending) == 0 || l.tailing {
		more, err := l.read()
		switch {
		case err != nil:
			return api.LogLine{}, err
		case more:
			continue
		}
		l.tailing = false
		if len(l.pending) > 0 {
			break
		}
		if !l.opts.Follow || l.ended {
			return api.LogLine{}, io.EOF
		}
		if err := l.wait(); err != nil {
			return api.LogLine{}, err
		}
	}
	line := l.pending[0]
	l.pending = l.pending[1:]
	return line, nil
}

// Close ends the reading.
func (l *logReader) Close() error { return nil }

// lookedAtLately is how long ago the last look is, at most, where somebody watches the cluster.
const lookedAtLately = 2 * time.Minute

// wait waits a moment, and notes whether the task has ended: what it wrote is there soon after.
func (l *logReader) wait() error {
	l.cluster.mu.Lock()
	now := l.cluster.tasks[aws.ToString(l.task.TaskArn)]
	ended := now == nil || now.ended()
	if !ended && time.Since(l.cluster.looked) > lookedAtLately { // nobody watches
		l.cluster.once[aws.ToString(l.task.TaskArn)] = true
		l.cluster.askLocked()
	}
	l.cluster.mu.Unlock()
	select {
	case <-time.After(l.cluster.runtime.hurry):
		l.ended = ended
		return nil
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// read reads one page, and says whether there may be more at once.
func (l *logReader) read() (bool, error) {
	in := &cloudwatchlogs.GetLogEventsInput{
		LogGroupName: &l.where.group, LogStreamName: &l.where.name, StartFromHead: aws.Bool(true), NextToken: l.token,
	}
	if !l.from.IsZero() {
		in.StartTime = aws.Int64(l.from.UnixMilli())
	}
	out, err := l.cluster.getLogEvents(l.ctx, in)
	switch {
	case errors.As(err, new(*cwtypes.ResourceNotFoundException)):
		return false, nil // the task has written nothing yet
	case err != nil:
		return false, l.fail(err)
	}
	for _, e := range out.Events {
		l.take(e)
	}
	same := aws.ToString(l.token) == aws.ToString(out.NextForwardToken)
	l.token = out.NextForwardToken
	return !same, nil
}

// take makes lines of an event, and keeps them where they are wanted.
func (l *logReader) take(e cwtypes.OutputLogEvent) {
	at, text := time.UnixMilli(aws.ToInt64(e.Timestamp)).UTC(), strings.TrimSuffix(aws.ToString(e.Message), "\n")
	text = strings.ToValidUTF8(text, "\uFFFD")
	for more := true; more; {
		part := text
		if more = len(text) > maxLine; more {
			cut := maxLine
			for cut > maxLine-utf8.UTFMax && !utf8.RuneStart(text[cut]) {
				cut--
			}
			part, text = text[:cut], text[cut:]
		}
		if !at.After(l.last) {
			at = l.last.Add(time.Nanosecond)
		}
		l.last = at
		if at.Before(l.opts.Since) {
			continue
		}
		l.pending = append(l.pending, api.LogLine{Instance: l.task.ID, Stream: "stdout", Time: at, Text: part, Partial: more})
		if l.tailing && len(l.pending) > l.opts.Tail {
			l.pending = l.pending[1:]
		}
	}
}

// findTail finds the time at which to begin so as to read the last lines and little else.
func (l *logReader) findTail() error {
	var token *string
	for left := l.opts.Tail; left > 0; left -= eventPage {
		in := &cloudwatchlogs.GetLogEventsInput{
			LogGroupName: &l.where.group, LogStreamName: &l.where.name, Limit: aws.Int32(int32(min(left, eventPage))), NextToken: token,
		}
		if !l.opts.Since.IsZero() {
			in.StartTime = aws.Int64(l.opts.Since.UnixMilli())
		}
		out, err := l.cluster.getLogEvents(l.ctx, in)
		if errors.As(err, new(*cwtypes.ResourceNotFoundException)) {
			return nil
		}
		if err != nil {
			return l.fail(err)
		}
		if len(out.Events) == 0 {
			return nil
		}
		l.from = time.UnixMilli(aws.ToInt64(out.Events[0].Timestamp))
		token = out.NextBackwardToken
	}
	return nil
}

func (l *logReader) fail(err error) error {
	return l.cluster.fail(l.ctx, fmt.Sprintf("read the log stream %s of %s", l.where.name, l.where.group), err)
}

// What is kept of the log of a task that is let go of.
const (
	keptLines   = 20_000           // its last
	keepTimeout = 20 * time.Second // for which a task that ended is waited with
)

// keepLog keeps the log of a task that has ended. That it could not be kept stops nothing: CloudWatch Logs has it.
func (c *cluster) keepLog(ctx context.Context, t *task) {
	if c.runtime.archive == nil || t.ID == "" || control.IsHook(t.ID) || t.forgotten {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	run := control.LogRun{
		Instance: t.ID, Service: t.ofService, Version: t.ofVersion, Generation: t.Generation, StartedAt: aws.ToTime(t.CreatedAt).UTC(),
		EndedAt: cmp.Or(aws.ToTime(t.StoppedAt), time.Now()).UTC().Round(0),
	}
	lines, err := c.openLog(ctx, t, control.LogOptions{Tail: keptLines})
	if err == nil {
		err = c.runtime.archive.Write(run, lines)
	}
	if err != nil && !errors.Is(err, control.ErrNoInstance) {
		c.runtime.log.WarnContext(ctx, "log not kept", "service", t.ofService, "version", t.ofVersion, "instance", t.ID, "err", err)
	}
}
