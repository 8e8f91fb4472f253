package server

import (
	"context"
	"net/http"
	"reflect"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/route"
)

func (s *Server) registerTable() {
	register(s, operation{
		id: "get-table", tag: tagRouting, method: http.MethodGet, path: "/api/v1/table",
		summary: "Get the routing table",
		description: "Returns everything the data plane decides from. The ETag is the revision: with If-None-Match, a table that is still " +
			"in force is answered with 304 and no body.",
		response: &huma.Response{
			Description: "The table in force",
			Headers:     map[string]*huma.Param{"ETag": {Description: "The revision, in quotes", Schema: &huma.Schema{Type: huma.TypeString}, Example: `"17"`}},
			Content:     streamed[api.Table](s, "", "application/json").Content,
		},
	}, s.getTable)

	register(s, operation{
		id: "watch-table", tag: tagRouting, method: http.MethodGet, path: "/api/v1/table/watch",
		summary: "Watch the routing table",
		description: "Sends what leads from revision `after`, or from Last-Event-ID, to the table in force, and goes on with each later revision. " +
			"The server-sent event `change` is the difference from one revision to the next, and follows what was sent before without a gap. " +
			"The event `table` is the whole table: the first one where the server does not know the changes since `after`, as after its own start, " +
			"and where a client was too slow for them. The id of both is the revision. A table replaces whatever the client has, also a higher revision. " +
			"A server that was just started sends nothing before it has found again what runs.",
		response: streamedOneOf(s, "Tables and changes, as the data of server-sent events", typeSSE,
			reflect.TypeFor[api.Table](), reflect.TypeFor[api.TableChange]()),
	}, s.watchTable)
}

// tableCache keeps one table as JSON, for all that ask for it.
type tableCache struct {
	mu       sync.Mutex
	revision uint64
	data     []byte // nil where none was asked for yet
}

// encode returns t as JSON.
func (c *tableCache) encode(t *route.Table) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.encodeLocked(t)
}

func (c *tableCache) encodeLocked(t *route.Table) ([]byte, error) {
	if c.data != nil && c.revision == t.Revision() {
		return c.data, nil
	}
	data, err := encode(t.Spec())
	if err != nil {
		return nil, err
	}
	if c.data == nil || t.Revision() > c.revision {
		c.revision, c.data = t.Revision(), data
	}
	return data, nil
}

// snapshot returns a whole table that tables knows all changes since, with its revision.
// Where many ask at a time while the table changes, it is encoded once.
func (c *tableCache) snapshot(tables Tables) (uint64, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.data != nil {
		if _, ok := tables.TableChanges(c.revision); ok {
			return c.revision, c.data, nil
		}
	}
	t := tables.Table()
	data, err := c.encodeLocked(t)
	return t.Revision(), data, err
}

type getTableInput struct {
	IfNoneMatch []string `header:"If-None-Match" doc:"Revisions the client has, in quotes" example:"[\"\\\"17\\\"\"]"`
}

func (s *Server) getTable(_ context.Context, in *getTableInput) (*huma.StreamResponse, error) {
	table := s.control.Table()
	data, err := s.tables.encode(table)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		etag := `"` + formatID(table.Revision()) + `"`
		ctx.SetHeader("ETag", etag)
		ctx.SetHeader("Cache-Control", "no-cache") // keep it, but ask
		if matches(in.IfNoneMatch, etag) {
			ctx.SetStatus(http.StatusNotModified)
			return
		}
		ctx.SetHeader("Content-Type", "application/json")
		ctx.SetStatus(http.StatusOK)
		_, _ = ctx.BodyWriter().Write(data) // the client may be gone
	}}, nil
}

type watchTableInput struct {
	After       uint64 `query:"after" doc:"The revision the client has" example:"17"`
	LastEventID string `header:"Last-Event-ID" maxLength:"20" doc:"Stands for after when a stream is taken up again" example:"17"`
}

func (s *Server) watchTable(_ context.Context, in *watchTableInput) (*huma.StreamResponse, error) {
	after := in.After
	if err := lastEventID(in.LastEventID, &after); err != nil {
		return nil, err
	}
	if after > s.control.Table().Revision() {
		after = 0 // of a store that is gone: nothing leads on from there
	}
	return s.stream("watch-table", typeSSE, func(ctx context.Context, w *streamWriter) error {
		for {
			idle, err := s.waiting(ctx, func(ctx context.Context) error {
				_, err := s.control.WaitTable(ctx, after)
				return err
			})
			switch {
			case err != nil:
				return err
			case idle:
				w.position(formatID(after))
				err = w.flush()
			default:
				after, err = s.sendTable(w, after)
			}
			if err != nil {
				return err
			}
		}
	}), nil
}

// changesAtOnce is how many bytes of changes are sent before it is looked again whether
// they are still the way to the newest table: nothing is queued for a client that is slow.
const changesAtOnce = 256 << 10

// sendTable sends what leads from revision after to the table in force, or a part of it,
// and returns how far that goes.
func (s *Server) sendTable(w *streamWriter, after uint64) (uint64, error) {
	changes, ok := s.control.TableChanges(after)
	if !ok {
		revision, data, err := s.tables.snapshot(s.control)
		if err != nil {
			return after, err
		}
		return revision, w.long(formatID(revision), "table", data)
	}
	for _, c := range changes {
		after = c.Revision
		w.event(formatID(after), "change", c.JSON)
		if w.buf.Len() > changesAtOnce {
			break
		}
	}
	return after, w.flush()
}

// matches compares as RFC 9110, section 13.1.2 says: weakly, and "*" is any.
func matches(ifNoneMatch []string, etag string) bool {
	for _, list := range ifNoneMatch {
		for candidate := range splitList(list) {
			if candidate == "*" || candidate == etag || candidate == "W/"+etag {
				return true
			}
		}
	}
	return false
}
