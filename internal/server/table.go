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
		id: "get-table", tag: tagRouting, method: http.MethodGet, path: "/api/v1/table", standby: leaderless,
		summary: "Get the routing table",
		description: "Returns everything the data plane decides from. The ETag is the position, that is the epoch and the revision: with If-None-Match, a table that is still " +
			"in force is answered with 304 and no body.",
		response: &huma.Response{
			Description: "The table in force",
			Headers:     map[string]*huma.Param{"ETag": {Description: "The position, in quotes", Schema: &huma.Schema{Type: huma.TypeString}, Example: `"` + examplePosition + `"`}},
			Content:     streamed[api.Table](s, "", "application/json").Content,
		},
	}, s.getTable)

	register(s, operation{
		id: "watch-table", tag: tagRouting, method: http.MethodGet, path: "/api/v1/table/watch", standby: fromStore,
		summary: "Watch the routing table",
		description: "Sends what leads from the table at the position `after`, or at Last-Event-ID, to the table in force, and goes on with each later revision. " +
			"The server-sent event `change` is the difference from one revision to the next, and follows what was sent before without a gap. " +
			"The event `table` is the whole table: the first one where the server does not know the changes since `after`, " +
			"and where a client was too slow for them. The id of both is the position: the `epoch` and the `revision` of the data, with a dot between. " +
			"Each start of the server is an epoch of its own, and so is what follows where its store is put back to an older state: " +
			"the changes of one epoch do not apply to a table of another, whatever its revision. " +
			"A table replaces whatever the client has, also a higher revision. " +
			"A server that was just started sends nothing before it has found again what runs.",
		response: streamedOneOf(s, "Tables and changes, as the data of server-sent events", typeSSE,
			reflect.TypeFor[api.Table](), reflect.TypeFor[api.TableChange]()),
	}, s.watchTable)
}

// examplePosition is the position of a table in the API's documents.
const examplePosition = "KJ3MXNZ5RAHB7TQ2WYDCEVGF4P.17"

// tableCache keeps one table as JSON, for all that ask for it.
type tableCache struct {
	mu   sync.Mutex
	at   route.Position
	data []byte // nil where none was asked for yet
}

// encode returns t as JSON.
func (c *tableCache) encode(t *route.Table) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.encodeLocked(t)
}

func (c *tableCache) encodeLocked(t *route.Table) ([]byte, error) {
	if c.data != nil && c.at == t.Position() {
		return c.data, nil
	}
	data, err := encode(t.Spec())
	if err != nil {
		return nil, err
	}
	if c.data == nil || t.Position().Epoch != c.at.Epoch || t.Revision() > c.at.Revision {
		c.at, c.data = t.Position(), data
	}
	return data, nil
}

// snapshot returns a whole table that tables knows all changes since, with its position, and
// none of a revision below least where there is one: proxies take none. Where many ask at a
// time while the table changes, it is encoded once.
func (c *tableCache) snapshot(tables Tables, least uint64) (route.Position, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := tables.Table()
	if c.data != nil && (c.at.Revision >= least || t.Revision() < least) {
		if _, ok := tables.TableChanges(c.at); ok {
			return c.at, c.data, nil
		}
	}
	data, err := c.encodeLocked(t)
	return t.Position(), data, err
}

type getTableInput struct {
	IfNoneMatch []string `header:"If-None-Match" doc:"Positions of tables that the client has, in quotes" example:"[\"\\\"KJ3MXNZ5RAHB7TQ2WYDCEVGF4P.17\\\"\"]"`
}

func (s *Server) getTable(_ context.Context, in *getTableInput) (*huma.StreamResponse, error) {
	table := s.control.Table()
	data, err := s.tables.encode(table)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		etag := `"` + table.Position().String() + `"`
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
	After       string `query:"after" maxLength:"100" doc:"The position of the table that the client has. Without one, or with a revision alone, the stream begins with the whole table" example:"KJ3MXNZ5RAHB7TQ2WYDCEVGF4P.17"`
	LastEventID string `header:"Last-Event-ID" maxLength:"100" doc:"Stands for after when a stream is taken up again" example:"KJ3MXNZ5RAHB7TQ2WYDCEVGF4P.17"`
}

// position is where the stream begins.
func (in *watchTableInput) position() (route.Position, error) {
	name, text := "Last-Event-ID", in.LastEventID
	if text == "" {
		name, text = "query.after", in.After
	}
	if text == "" {
		return route.Position{}, nil
	}
	at, err := route.ParsePosition(text)
	if err != nil {
		return at, invalidf("send back an id of the stream, or leave it out", "%s: %s", name, err)
	}
	return at, nil
}

func (s *Server) watchTable(_ context.Context, in *watchTableInput) (*huma.StreamResponse, error) {
	after, err := in.position()
	if err != nil {
		return nil, err
	}
	if now := s.control.Table().Position(); after.Epoch == now.Epoch && after.Revision > now.Revision {
		after.Epoch = "" // it never was: nothing leads on from there
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
				w.position(after.String())
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

// sendTable sends what leads from the table at after to the one in force, or a part of it,
// and returns how far that goes.
func (s *Server) sendTable(w *streamWriter, after route.Position) (route.Position, error) {
	changes, ok := s.control.TableChanges(after)
	if !ok {
		at, data, err := s.tables.snapshot(s.control, after.Revision)
		if err != nil {
			return after, err
		}
		return at, w.long(at.String(), "table", data)
	}
	for _, c := range changes {
		after.Revision = c.Revision
		w.event(after.String(), "change", c.JSON)
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
