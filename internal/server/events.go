package server

import (
	"context"
	"iter"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/layover-dev/layover/api"
)

// eventPage is how many events are read from the log at a time.
const eventPage = 500

func (s *Server) registerEvents() {
	register(s, operation{
		id: "list-events", tag: tagEvents, method: http.MethodGet, path: "/api/v1/events", standby: fromStore,
		summary: "Read the event log",
		description: "Returns events with an ID above `after`, oldest first. To go on, ask again with the ID of the last one. " +
			"`limit=0` asks only for `last`, the ID of the newest event.",
	}, s.listEvents)

	register(s, operation{
		id: "stream-events", tag: tagEvents, method: http.MethodGet, path: "/api/v1/events/stream", standby: fromStore,
		summary: "Follow the events",
		description: "Sends events with an ID above `after`, or above Last-Event-ID, from the log first and then as they happen, " +
			"as the server-sent event `event` with the ID as its id. `after=-1` begins with what happens from now on, " +
			"or with what happened `since`, where that is given.",
		response: streamed[api.Event](s, "Events, as the data of server-sent events", typeSSE),
	}, s.streamEvents)
}

// EventQuery selects events.
type EventQuery struct {
	VersionQuery
	OwnerQuery
	Since string `query:"since" maxLength:"64" doc:"Only events since then: an RFC 3339 time, or how long ago" example:"10m"`
}

// eventFilter is an EventQuery whose Since is understood.
type eventFilter struct {
	EventQuery
	since time.Time
}

func (f eventFilter) selects(e api.Event) bool {
	return f.VersionQuery.selects(e.Service, e.Version) && f.owns(e.Owner) && !e.Time.Before(f.since)
}

// filter understands q, and returns the ID behind which the first event may be that it selects.
func (s *Server) filter(ctx context.Context, q EventQuery) (eventFilter, int64, error) {
	since, err := parseSince(q.Since, time.Now())
	if err != nil || q.Since == "" {
		return eventFilter{EventQuery: q}, 0, err
	}
	after, err := s.lastBefore(ctx, since.Add(-maxDisorder))
	return eventFilter{q, since}, after, err
}

// maxDisorder is how much earlier an event may have happened than one with a lower ID: it
// is stored at most so much later than it happened.
const maxDisorder = 10 * time.Second

// lastBefore returns an ID up to which every event happened before t. It halves the log
// again and again, and reads few events of a long one.
func (s *Server) lastBefore(ctx context.Context, t time.Time) (int64, error) {
	low := int64(0)
	high, err := s.control.LastEvent(ctx)
	for err == nil && low < high {
		var page []api.Event
		middle := low + (high-low)/2
		page, err = s.control.Events(ctx, middle, 1)
		if len(page) > 0 && page[0].Time.Before(t) {
			low = page[0].ID
		} else {
			high = middle
		}
	}
	return low, err
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
	filter, first, err := s.filter(ctx, in.EventQuery)
	if err != nil {
		return nil, err
	}
	out := api.EventList{Items: []api.Event{}, Last: last}
	for after := max(in.After, first); len(out.Items) < in.Limit; {
		page, err := s.control.Events(ctx, after, eventPage)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			after = e.ID
			if filter.selects(e) && len(out.Items) < in.Limit {
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
	filter, first, err := s.filter(ctx, in.EventQuery)
	if err != nil {
		return nil, err
	}
	after := in.After
	if in.Since != "" {
		after = max(after, first)
	}
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
			if after, err = s.addEvents(ctx, w, after, filter); err != nil {
				return err
			}
		}
	}), nil
}

// addEvents adds a page of the log behind after, and returns how far it went.
func (s *Server) addEvents(ctx context.Context, w *streamWriter, after int64, filter eventFilter) (int64, error) {
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
func lastEventID(header string, after *int64) error {
	if header == "" {
		return nil
	}
	id, err := strconv.ParseUint(header, 10, 64)
	if err != nil || id > math.MaxInt64 {
		return invalidf("send back the last id of the stream, or leave the header out", "Last-Event-ID: %s is not an ID of this stream", quote(header))
	}
	*after = int64(id)
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
