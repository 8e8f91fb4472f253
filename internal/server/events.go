package server

import (
	"context"
	"iter"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/layover-dev/layover/api"
)

// eventPage is how many events are read from the log at a time.
const eventPage = 500

func (s *Server) registerEvents() {
	register(s, operation{
		id: "list-events", tag: tagEvents, method: http.MethodGet, path: "/api/v1/events",
		summary: "Read the event log",
		description: "Returns events with an ID above `after`, oldest first. To go on, ask again with the ID of the last one. " +
			"`limit=0` asks only for `last`, the ID of the newest event.",
	}, s.listEvents)

	register(s, operation{
		id: "stream-events", tag: tagEvents, method: http.MethodGet, path: "/api/v1/events/stream",
		summary: "Follow the events",
		description: "Sends events with an ID above `after`, or above Last-Event-ID, from the log first and then as they happen, " +
			"as the server-sent event `event` with the ID as its id. `after=-1` begins with what happens from now on.",
		response: streamed[api.Event](s, "Events, as the data of server-sent events", typeSSE),
	}, s.streamEvents)
}

// EventQuery selects events.
type EventQuery struct {
	VersionQuery
	OwnerQuery
}

func (q EventQuery) selects(e api.Event) bool {
	return q.VersionQuery.selects(e.Service, e.Version) && q.owns(e.Owner)
}

type listEventsInput struct {
	EventQuery
	After int64 `query:"after" minimum:"0" doc:"Only events with an ID above it" example:"4700"`
	Limit int   `query:"limit" minimum:"0" maximum:"1000" default:"100" doc:"At most so many"`
}

func (s *Server) listEvents(ctx context.Context, in *listEventsInput) (*answer[api.EventList], error) {
	last, err := s.control.LastEvent(ctx)
	if err != nil {
		return nil, err
	}
	out := api.EventList{Items: []api.Event{}, Last: last}
	for after := in.After; len(out.Items) < in.Limit; {
		page, err := s.control.Events(ctx, after, eventPage)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			after = e.ID
			if in.selects(e) && len(out.Items) < in.Limit {
				out.Items = append(out.Items, e)
			}
		}
		if len(page) < eventPage {
			break
		}
	}
	return reply(out), nil
}

type streamEventsInput struct {
	EventQuery
	After       int64  `query:"after" minimum:"-1" doc:"Only events with an ID above it; -1 means from now on" example:"4700"`
	LastEventID string `header:"Last-Event-ID" maxLength:"20" doc:"Stands for after when a stream is taken up again" example:"4711"`
}

func (s *Server) streamEvents(ctx context.Context, in *streamEventsInput) (*huma.StreamResponse, error) {
	after := in.After
	if err := lastEventID(in.LastEventID, &after); err != nil {
		return nil, err
	}
	if after < 0 {
		last, err := s.control.LastEvent(ctx)
		if err != nil {
			return nil, err
		}
		after = last
	}
	return s.stream("stream-events", typeSSE, func(ctx context.Context, w *streamWriter) error {
		w.position(formatID(after)) // where a client that is cut off at once goes on
		for {
			if err := w.flush(); err != nil {
				return err
			}
			idle, err := s.waiting(ctx, func(ctx context.Context) error { return s.control.WaitEvents(ctx, after) })
			if err != nil {
				return err
			}
			if idle {
				w.position(formatID(after))
				continue
			}
			if after, err = s.addEvents(ctx, w, after, in.EventQuery); err != nil {
				return err
			}
		}
	}), nil
}

// addEvents adds a page of the log behind after, and returns how far it went.
func (s *Server) addEvents(ctx context.Context, w *streamWriter, after int64, filter EventQuery) (int64, error) {
	page, err := s.control.Events(ctx, after, eventPage)
	if err != nil {
		return after, err
	}
	skipped := false
	for _, e := range page {
		after, skipped = e.ID, true
		if !filter.selects(e) {
			continue
		}
		data, err := encode(e)
		if err != nil {
			return after, err
		}
		w.event(formatID(e.ID), "event", data)
		skipped = false
	}
	if skipped {
		w.position(formatID(after))
	}
	return after, nil
}

// lastEventID reads the header of a stream that is taken up again over after.
func lastEventID[T int64 | uint64](header string, after *T) error {
	if header == "" {
		return nil
	}
	id, err := strconv.ParseUint(header, 10, 64)
	if err != nil || id > math.MaxInt64 {
		return invalidf("send back the last id of the stream, or leave the header out", "Last-Event-ID: %s is not an ID of this stream", quote(header))
	}
	*after = T(id)
	return nil
}

// splitList gives the members of a comma-separated header.
func splitList(list string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for member := range strings.SplitSeq(list, ",") {
			if !yield(strings.TrimSpace(member)) {
				return
			}
		}
	}
}
