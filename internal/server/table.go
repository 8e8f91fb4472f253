package server

import (
	"context"
	"net/http"
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
		description: "Sends the whole table as the server-sent event `table` (its id is the revision) each time its revision is above `after`, or " +
			"above Last-Event-ID, and above the one before. Revisions that were overtaken are left out.",
		response: streamed[api.Table](s, "Tables, as the data of server-sent events", typeSSE),
	}, s.watchTable)
}

// tableCache keeps the newest table as JSON, for all that ask for it.
type tableCache struct {
	mu    sync.Mutex
	table *route.Table
	data  []byte
}

func (c *tableCache) encode(t *route.Table) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table == t {
		return c.data, nil
	}
	data, err := encode(t.Spec())
	if err != nil {
		return nil, err
	}
	if c.table == nil || t.Revision() >= c.table.Revision() {
		c.table, c.data = t, data
	}
	return data, nil
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
	return s.stream("watch-table", typeSSE, func(ctx context.Context, w *streamWriter) error {
		for {
			var table *route.Table
			idle, err := s.waiting(ctx, func(ctx context.Context) error {
				var err error
				table, err = s.control.WaitTable(ctx, after)
				return err
			})
			switch {
			case err != nil:
				return err
			case idle:
				w.position(formatID(after))
			default:
				data, err := s.tables.encode(table)
				if err != nil {
					return err
				}
				after = table.Revision()
				w.event(formatID(after), "table", data)
			}
			if err := w.flush(); err != nil {
				return err
			}
		}
	}), nil
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
