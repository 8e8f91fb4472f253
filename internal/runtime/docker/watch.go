package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/layover-dev/layover/internal/control"
)

// Watch follows the Engine's event stream; see [control.Runtime]. It first reports
// every instance that does not run, once the stream is open: an exit between a List of
// the caller and the start of the stream is not lost, whichever comes first. It returns
// nil when ctx ends.
func (r *Runtime) Watch(ctx context.Context, changed func(control.Status)) error {
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	opening := time.AfterFunc(r.queryTimeout, cancel) // the stream has no end, its beginning has
	// The Engine answers a moment before it subscribes; since fills that gap.
	stream := r.engine.Events(streaming, client.EventsListOptions{
		Since: unixTime(time.Now()),
		Filters: r.filter().
			Add("type", string(events.ContainerEventType)).
			Add("event", string(events.ActionStart), string(events.ActionDie), string(events.ActionOOM)),
	})
	if !opening.Stop() && ctx.Err() == nil {
		return r.fail(ctx, "watch the containers of environment "+r.environment, context.DeadlineExceeded)
	}
	listed, err := r.List(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	for _, status := range listed {
		if !status.Running && status.Reason != neverStarted { // that one may be starting just now: nothing of it has ended
			changed(status)
		}
	}
	outOfMemory := make(map[string]bool) // containers of which a process was killed, until they end
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-stream.Err:
			return r.lostTrack(ctx, err)
		case event := <-stream.Messages:
			status, err := r.statusAfter(ctx, event, outOfMemory)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			changed(status)
		}
	}
}

// statusAfter returns the status of the container of an event.
func (r *Runtime) statusAfter(ctx context.Context, event events.Message, oom map[string]bool) (control.Status, error) {
	id := event.Actor.ID
	if event.Action == events.ActionOOM {
		oom[id] = true
	}
	status, limit := labelled(event.Actor.Attributes), int64(0)
	found, err := r.inspect(ctx, id)
	switch {
	case err == nil:
		status, limit = r.statusOf(found), found.HostConfig.Memory
	case cerrdefs.IsNotFound(err): // removed since: the event is all there is
		status.ExitCode = unknownExitCode
		if code, err := strconv.Atoi(event.Actor.Attributes["exitCode"]); err == nil {
			status.ExitCode = code
		}
	default:
		return status, r.fail(ctx, "look at container "+r.name(status.ID), err)
	}
	// The Engine notes the end of a container and the kill that caused it in any order.
	if !status.Running {
		if oom[id] && status.Reason == "" {
			status.Reason = outOfMemory(limit)
		}
		if event.Action == events.ActionDie {
			delete(oom, id)
		}
	}
	return status, nil
}

// lostTrack is the error of a stream that ended while it was wanted.
func (r *Runtime) lostTrack(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if !client.IsErrConnectionFailed(err) {
		err = fmt.Errorf("%w: %w", errStreamEnded, err)
	}
	return r.fail(ctx, "watch the containers of environment "+r.environment, err)
}

// unixTime writes t as the Engine reads it: seconds and nanoseconds.
func unixTime(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }
